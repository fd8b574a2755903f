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
# The settings that tell which database it is. One of the others is the password.
_PLACES = ("host", "port", "dbname")


@dataclass(frozen=True)
class PostgresUrl:
    """The URL of a PostgreSQL database. As text it has neither user nor password."""

    secret: str = field(repr=False)

    def __str__(self) -> str:
        """Return what may go to messages, logs and the UI."""
        parts = _URL.fullmatch(self.secret)
        assert parts, "read by `parse_location`"
        places = [setting for setting in (parts["settings"] or "").split("&") if setting.split("=")[0] in _PLACES]
        return f"postgresql://{parts['place']}{'?' if places else ''}{'&'.join(places)}"


Location = Path | PostgresUrl


def parse_location(text: str) -> Location:
    """Read the name of a folder, in which `~` is the home directory, or a URL.

    Raises:
        ValueError: if the URL is not PostgreSQL's, or could be misread; the message does not hold it.
    """
    if "://" not in text:
        return Path(os.path.expanduser(text))  # `--data=~/shop`: the shell does not
    if not _URL.fullmatch(text):
        form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise ValueError(f"the URL of a shop must read {form}, with %XX for special characters")
    return PostgresUrl(text)


def name_of(location: Location) -> str:
    """Return what to call a shop in logs and in the UI: the same wherever one stands."""
    return str(location.resolve() if isinstance(location, Path) else location)
