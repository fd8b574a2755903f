"""Where a shop is kept: in a folder of SQLite files, or in a PostgreSQL database."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

# Strict: of a password with an @ or a / in it, a part would be taken for the host, and a host is named in messages.
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^][:@/?#,]*)(?::[0-9]*)?"
_URL = re.compile(
    rf"postgres(?:ql)?://(?:[^:@/?#]*(?::[^@/?#]*)?@)?(?P<place>{_HOST}(?:,{_HOST})*(?:/[^@/?#]*)?)"
    r"(?:\?(?P<settings>[^@#]*))?"
)
# As libpq reads them: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE
_VALUE = r"'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|"
_SETTING = re.compile(rf"\s*(\w+)\s*=\s*({_VALUE})(?:\s+|\Z)", re.DOTALL)
# What is meant to be settings or a URL, whether or not it can be read: a folder of that name would tell the password.
# What begins with a dot, a slash or ~ is a folder, unless it is the rest of a URL.
_NO_FOLDER = re.compile(
    r"\s*\w[\w ]*=|(?![./~]).*\b(?:pass\w*|pwd)\s*[=:]|.*://|(?://)?[^/]*:.*@|\s*(?:jdbc:)?postgres(?:ql)?:"
    r"|(?://)?[^./~][^/]*:[0-9]+(?:[/?]|\Z)",  # a host with a port
    re.DOTALL | re.IGNORECASE,
)
# The settings that tell which database it is. One of the others is the password.
_PLACES = ("service", "host", "hostaddr", "port", "dbname")

# How many connections a process opens at most. Eight workers take 96 of the 97 that a server has by default for users.
CONNECTIONS = 12


@dataclass(frozen=True)
class PostgresUrl:
    """A PostgreSQL database, named by a URL or by `key=value` settings. As text it has neither user nor password."""

    secret: str = field(repr=False)
    connections: int = CONNECTIONS

    def __str__(self) -> str:
        """Return what may go to messages, logs and the UI."""
        parts = _URL.fullmatch(self.secret)
        if not parts:
            return " ".join(f"{name}={value}" for name, value in _SETTING.findall(self.secret) if name in _PLACES)
        places = [setting for setting in (parts["settings"] or "").split("&") if setting.split("=")[0] in _PLACES]
        return f"postgresql://{parts['place']}{'?' if places else ''}{'&'.join(places)}"


Location = Path | PostgresUrl


def parse_location(text: str, connections: int = CONNECTIONS) -> Location:
    """Read the name of a folder, in which `~` is the home directory, or of a database: a URL or `key=value` settings.

    Raises:
        ValueError: if it is no folder, and not PostgreSQL's, or could be misread; the message does not hold it.
    """
    if not _NO_FOLDER.match(text):
        folder = os.path.expanduser(text)  # `--data=~/shop`: the shell does not
        if folder.startswith("~"):
            raise ValueError(f"{text}: no such home directory is known (a folder with ~ before its name: ./NAME)")
        return Path(folder)
    if not (_URL.fullmatch(text) or _are_settings(text)):
        raise ValueError(
            "the URL of a shop must read postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for special characters"
            " (or: host=HOST dbname=DATABASE user=USER password='PASSWORD'; a folder with = or : in its name: ./NAME)"
        )
    return PostgresUrl(text, connections)


def _are_settings(text: str) -> bool:
    """Tell whether all of it is settings that name a database, and none that is shown may hold a part of a password."""
    places = [value for name, value in _SETTING.findall(text) if name in _PLACES]
    return bool(places) and not _SETTING.sub("", text) and not any(re.search("[@=]|://", value) for value in places)
