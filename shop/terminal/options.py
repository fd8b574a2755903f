"""Which shop a program opens, and what goes wrong in it: the options that all programs share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shop.faults import FaultPlan, InvalidFaultSpec, parse_faults
from shop.shop import Shop
from shop.stores.location import CONNECTIONS, Location, parse_location

# Beside the programs, wherever they are started from: two workers must not find two shops.
DEFAULT_DIRECTORY = Path(__file__).resolve().parent.parent.parent / "data"


@dataclass(frozen=True)
class ShopOptions:
    """Where the shop is, and what goes wrong in it."""

    location: Location
    faults: FaultPlan
    keys_enabled: bool

    def log_file(self, name: str) -> str:
        """Return where a log goes by default: beside the SQLite files; if there are none, where they would be.

        Raises:
            ValueError: if it cannot be written there.
        """
        folder = self.location if isinstance(self.location, Path) else DEFAULT_DIRECTORY
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).open("a").close()
        except OSError as error:
            raise ValueError(f"the log cannot be written: {error}; say with --log FILE where it goes") from error
        return str(folder / name)

    def open(self) -> Shop:
        """Open the shop.

        Raises:
            StoreUnusable, ServiceUnavailable: as `Shop` does.
        """
        return Shop(self.location, self.faults, keys_enabled=self.keys_enabled)


def add_shop_arguments(parser: argparse.ArgumentParser, *, with_faults: bool = True) -> None:
    """Add `--data` and, unless told otherwise, `--faults`."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="data directory, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE, to which this program opens at most"
        f" $SHOP_CONNECTIONS connections, {CONNECTIONS} by default"
        f" (default: $SHOP_DATA, else {DEFAULT_DIRECTORY.name}/ beside this program)",
    )
    if with_faults:
        parser.add_argument(
            "--faults", metavar="SPEC", help="faults to inject, see docs/faults.md (default: $SHOP_FAULTS, else none)"
        )


def read_shop_options(arguments: argparse.Namespace, environment: Mapping[str, str]) -> ShopOptions:
    """Combine the command line with the environment. A program without `--faults` is struck by none.

    Raises:
        ValueError: if the fault plan or a setting cannot be read; the message says which.
    """
    idempotency = environment.get("SHOP_IDEMPOTENCY", "on")
    if idempotency not in ("on", "off"):
        raise ValueError(f"SHOP_IDEMPOTENCY: must be on or off, not {idempotency!r}")
    return ShopOptions(shop_location(arguments, environment), _faults(arguments, environment), idempotency == "on")


def shop_location(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Location:
    """Return where the shop is: `--data`, else `$SHOP_DATA`, else `data` beside the programs.

    Raises:
        ValueError: if it is a URL that cannot be read, or the number of connections is none.
    """
    if arguments.data == "":  # `--data "$UNSET"` must not open another shop
        raise ValueError("--data: is empty; name a folder or a database, or leave it out")
    connections = environment.get("SHOP_CONNECTIONS", str(CONNECTIONS))
    if not re.fullmatch("[1-9][0-9]{0,3}", connections):
        raise ValueError(f"SHOP_CONNECTIONS: must be a whole number from 1 to 9999, not {connections!r}")
    return parse_location(arguments.data or environment.get("SHOP_DATA") or str(DEFAULT_DIRECTORY), int(connections))


def _faults(arguments: argparse.Namespace, environment: Mapping[str, str]) -> FaultPlan:
    if not hasattr(arguments, "faults"):
        return FaultPlan()
    source, spec = "--faults", arguments.faults
    if spec is None:
        source, spec = "SHOP_FAULTS", environment.get("SHOP_FAULTS", "")
    try:
        return parse_faults(spec)
    except InvalidFaultSpec as error:
        raise ValueError(f"{source}: {error}") from error
