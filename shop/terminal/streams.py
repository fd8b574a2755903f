"""The standard streams of all programs: results on one, everything else on the other, and what to do without them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

from shop.orders import Outcome


class Results:
    """The lines on standard output, one an order. Threads may share it.

    An order has ended whether or not its line can be written; the exit status tells.
    """

    def __init__(self) -> None:
        """Start without any outcome."""
        self.outcomes: list[Outcome] = []
        self._problem: str | None = None
        self._one_line = threading.Lock()

    def print(self, outcome: Outcome) -> None:
        """Print the line of one order. A reader that has left (`| head`) is no problem."""
        with self._one_line:
            self.outcomes.append(outcome)
            if sys.stdout is None:  # by `>&-`
                self._problem = "it is closed"
            try:
                # In one piece: a process that is killed in between must not leave a line without its end.
                print(f"{outcome.as_line()}\n", end="", flush=True)
            except BrokenPipeError:
                _discard_output()
            except OSError as error:
                self._problem = error.strerror or str(error)
                _discard_output()

    def exit_status(self, program: str) -> int:
        """Return 0 if nobody has to look after any order and all lines were written, else 1."""
        if self._problem:
            print(f"{program}: standard output cannot be written: {self._problem}", file=sys.stderr)
        return 0 if all(outcome.is_settled for outcome in self.outcomes) and not self._problem else 1


def run_program(name: str, main: Callable[[], int]) -> int:
    """Run `main` and return the exit status; standard output is written to the end, or a sentence says why not.

    Interrupted before any order was begun, it says so and returns 2, as after any other start that came to nothing.
    """
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # closed by `2>&-`; as long as the process
    try:
        try:
            status = main()
        except SystemExit as request:  # from argparse
            status = request.code if isinstance(request.code, int) else 1
        except KeyboardInterrupt:
            print(f"{name}: interrupted; nothing was started", file=sys.stderr)
            status = 2
        print(end="", flush=True)
    except BrokenPipeError:
        _discard_output()
        status = 0
    except OSError as error:
        _discard_output()
        # Standard output has no name.
        problem = error if error.filename else f"standard output cannot be written: {error.strerror or error}"
        print(f"{name}: {problem}", file=sys.stderr)
        status = 1
    return status


def _discard_output() -> None:
    """Let what is still in the buffer, which would break again at exit, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
