"""The attempts log, and the one seam at which faults enter.

Attempts are recorded apart from effects: what was *tried* stays visible where an idempotency key made it harmless.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from shop.errors import ReplyLost, TransientError
from shop.faults import FaultPlan, Step
from shop.stores.storage import Connection, Database

# What `python -m shop settle` does; no fault strikes it.
SettleStep = Literal["void_confirmation", "restore_inventory"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    step     TEXT NOT NULL,
    order_id TEXT NOT NULL,
    attempt  INTEGER NOT NULL,
    outcome  TEXT NOT NULL,  -- 'started', then 'ok' or the name of the error; a killed attempt stays 'started'
    pid      INTEGER NOT NULL,
    at       TEXT NOT NULL,  -- UTC, ISO 8601
    PRIMARY KEY (step, order_id, attempt)
);
"""


@dataclass(frozen=True)
class Attempts:
    """Counts and records the attempts at one service, and lets the planned faults strike."""

    database: Database
    faults: FaultPlan

    @contextmanager
    def attempt(self, step: Step | SettleStep, order_id: str) -> Iterator[Connection]:
        """Record one attempt, and give the transaction for its effect; raises what `call` raises."""
        with self.call(step, order_id), self.database.transaction(order_id) as connection:
            yield connection

    @contextmanager
    def call(self, step: Step | SettleStep, order_id: str) -> Iterator[None]:
        """Record one attempt, struck by the planned fault. It holds no transaction: a call over a network may hang.

        Raises:
            ShopError: what the effect or the fault raises, recorded first.
            ReplyLost: if the effect is there, but that it is cannot be recorded.
        """
        number = self._start(step, order_id)
        fault = self.faults.fault_for(step, order_id, number)
        try:
            fault.before_effect()
            yield
            fault.after_effect()
        except Exception as error:
            with suppress(TransientError):  # It stays 'started': the caller gets the error itself.
                self._close(step, order_id, number, type(error).__name__)
            raise
        try:
            self._close(step, order_id, number, "ok")
        except TransientError as error:
            raise ReplyLost(f"the call took effect, but its attempt could not be closed: {error}") from error

    def _start(self, step: str, order_id: str) -> int:
        with self.database.transaction(order_id) as connection:
            attempts = connection.execute(
                "SELECT max(attempt) AS last FROM attempts WHERE step = ? AND order_id = ?", (step, order_id)
            )
            number = 1 + (attempts.fetchone()["last"] or 0)
            connection.execute(
                "INSERT INTO attempts (step, order_id, attempt, outcome, pid, at) VALUES (?, ?, ?, 'started', ?, ?)",
                (step, order_id, number, os.getpid(), datetime.now(timezone.utc).isoformat()),
            )
        return int(number)

    def _close(self, step: str, order_id: str, number: int, outcome: str) -> None:
        with self.database.transaction(order_id) as connection:
            connection.execute(
                "UPDATE attempts SET outcome = ? WHERE step = ? AND order_id = ? AND attempt = ?",
                (outcome, step, order_id, number),
            )
