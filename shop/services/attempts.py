"""The attempts log, the time-out of a call, and the one seam at which faults enter.

Attempts are recorded apart from effects: what was *tried* stays visible where an idempotency key made it harmless.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, TypeVar

from shop.errors import ConstraintViolated, ReplyLost, ServiceUnavailable, ShopError, TransientError
from shop.faults import FaultPlan, Step
from shop.stores import storage
from shop.stores.storage import Connection, Database

T = TypeVar("T")
# What `python -m shop settle` does; no fault strikes it.
SettleStep = Literal["void_confirmation", "restore_inventory"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    step     TEXT NOT NULL,
    order_id TEXT NOT NULL,
    attempt  INTEGER NOT NULL,
    outcome  TEXT NOT NULL,  -- 'started', then 'ok' or the name of the error; a killed attempt stays 'started'
    pid      INTEGER NOT NULL,
    at       TEXT NOT NULL,  -- UTC, ISO 8601, with microseconds
    PRIMARY KEY (step, order_id, attempt)
);
"""


@dataclass(frozen=True)
class Attempts:
    """Counts and records the attempts at one service, and lets the planned faults strike.

    Stands for the client of a real service: it gives up a call after `storage.CALL_TIMEOUT_SECONDS`.
    """

    service: str
    database: Database
    faults: FaultPlan

    def attempt(self, step: Step | SettleStep, order_id: str, effect: Callable[[Connection], T]) -> T:
        """Record one attempt, and let it have its effect in one transaction; raises what `call` raises."""

        def transact(deadline: float) -> T:
            with self.database.transaction(order_id, deadline) as connection:
                return effect(connection)

        return self.call(step, order_id, transact)

    def call(self, step: Step | SettleStep, order_id: str, send: Callable[[float], T]) -> T:
        """Record one attempt, struck by the planned fault. It holds no transaction: a call over a network may hang.

        `send` takes its deadline, on the clock of `time.monotonic`.

        Raises:
            ShopError: what the effect or the fault raises, recorded first; its message names the service.
            ServiceUnavailable: if the call was never sent.
            ReplyLost: if the answer comes too late, or if the effect is there, but that it is cannot be recorded.
        """
        try:
            return self._call(step, order_id, send)
        except (TransientError, ConstraintViolated) as error:
            raise type(error)(f"{error} ({self.service})") from error

    def _call(self, step: Step | SettleStep, order_id: str, send: Callable[[float], T]) -> T:
        deadline = time.monotonic() + storage.CALL_TIMEOUT_SECONDS
        number = self._start(step, order_id, deadline)
        fault = self.faults.fault_for(step, order_id, number)

        def carry_out(deadline: float) -> T:
            with self._recorded(step, order_id, number, deadline):
                fault.before_effect()
                answer = send(deadline)
                fault.after_effect()
            return answer

        def arrive_late() -> None:
            with suppress(ShopError):  # Nobody waits for the answer; the attempt's row has it.
                carry_out(deadline + fault.seconds)

        if time.monotonic() + fault.seconds < deadline:
            return carry_out(deadline)
        try:
            threading.Thread(target=arrive_late, daemon=True).start()
        except RuntimeError as error:  # The machine has no further thread.
            with self._recorded(step, order_id, number, deadline):
                raise ServiceUnavailable(f"the call was not sent: {error}") from error
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise ReplyLost(f"no reply within {storage.CALL_TIMEOUT_SECONDS:g} s; whether it took effect is not known")

    @contextmanager
    def _recorded(self, step: str, order_id: str, number: int, deadline: float) -> Iterator[None]:
        """Close the row of an attempt with what comes of it."""
        try:
            yield
        except Exception as error:
            with suppress(TransientError):  # It stays 'started': the caller gets the error itself.
                self._close(step, order_id, number, type(error).__name__, deadline)
            raise
        try:
            self._close(step, order_id, number, "ok", deadline)
        except TransientError as error:
            raise ReplyLost(f"the call took effect, but its attempt could not be closed: {error}") from error

    def _start(self, step: str, order_id: str, deadline: float) -> int:
        at = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        with self.database.transaction(order_id, deadline) as connection:
            attempts = connection.execute(
                "SELECT max(attempt) AS last FROM attempts WHERE step = ? AND order_id = ?", (step, order_id)
            )
            number = 1 + int(attempts.fetchone()["last"] or 0)
            connection.execute(
                "INSERT INTO attempts (step, order_id, attempt, outcome, pid, at) VALUES (?, ?, ?, 'started', ?, ?)",
                (step, order_id, number, os.getpid(), at),
            )
        return number

    def _close(self, step: str, order_id: str, number: int, outcome: str, deadline: float) -> None:
        with self.database.transaction(order_id, deadline) as connection:
            connection.execute(
                "UPDATE attempts SET outcome = ? WHERE step = ? AND order_id = ? AND attempt = ?",
                (outcome, step, order_id, number),
            )
