"""Run the comparison: `python -m comparison [NAME ...]`, or `keys`, `audit`, `bench`."""

from __future__ import annotations

import plumbing  # noqa: F401  # first: says so if a package is missing

# isort: split

import argparse
import functools
import sys

from comparison import compare, keys
from comparison.cost import bench
from comparison.judge import command as audit_command
from plumbing.process import run_and_exit
from shop.terminal.streams import run_program

# Each has `add_arguments(parser)` and `run(arguments)`, which returns the exit status. The first goes without saying.
COMMANDS = {"compare": compare, "keys": keys, "audit": audit_command, "bench": bench}


def main() -> int:
    """Return the exit status: 0 as expected, 1 not, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(prog="python -m comparison")
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = str(command.__doc__)
        command_parser = parsers.add_parser(
            name, help=text.partition("\n")[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    argv = sys.argv[1:]
    if not argv or argv[0] not in (*COMMANDS, "-h", "--help"):
        argv = ["compare", *argv]
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "comparison", main))
