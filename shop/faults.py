"""Injected faults: the same for every version and process, because the shop's attempt numbers decide.

A plan is written as `process_payment:unavailable*2,send_confirmation:lost_reply` or `random(0.1,7)`.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from dataclasses import dataclass
from typing import Literal, get_args

from shop.errors import ReplyLost, ServiceUnavailable

# To add a step, add its name here; mypy refuses a step that is not in the list.
Step = Literal[
    "validate_inventory",
    "process_payment",
    "update_inventory",
    "send_confirmation",
    "void_charge",
    "void_sale",
    "refund_payment",
    "note_unsent",
]
STEPS: tuple[Step, ...] = get_args(Step)
RANDOM_KINDS = ("unavailable", "lost_reply", "crash_before", "crash_after")

_NUMBER = r"[0-9]{1,4}(?:\.[0-9]+)?"
_FAULT = re.compile(
    rf"(?P<step>[a-z_]+):(?P<kind>unavailable|lost_reply|crash_before|crash_after|slow\((?P<seconds>{_NUMBER})\))"
    r"(\*(?P<times>inf|[1-9][0-9]*))?"
)
_RANDOM = re.compile(rf"random\((?P<rate>{_NUMBER}),(?P<seed>[0-9]{{1,19}})\)")


class InvalidFaultSpec(ValueError):
    """A fault plan that cannot be read; the message says which part and what is allowed."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one attempt; by default nothing."""

    kind: str = "none"
    seconds: float = 0.0

    def before_effect(self) -> None:
        """Do what the fault does before the service acts.

        Raises:
            ServiceUnavailable: for `unavailable`.
        """
        if self.kind == "unavailable":
            raise ServiceUnavailable("the service is unavailable")
        if self.kind == "slow":
            time.sleep(self.seconds)
        if self.kind == "crash_before":
            os.kill(os.getpid(), signal.SIGKILL)

    def after_effect(self) -> None:
        """Do what the fault does when the effect is committed and the reply is on its way.

        Raises:
            ReplyLost: for `lost_reply`.
        """
        if self.kind == "lost_reply":
            raise ReplyLost("no reply in time; whether the call took effect is not known")
        if self.kind == "crash_after":
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class PlannedFault:
    """One part of a plan: `fault` strikes `times` attempts of `step` for each order."""

    step: str
    fault: Fault
    times: float


@dataclass(frozen=True)
class FaultPlan:
    """Which fault strikes which attempt. A plan holds no state: it may be asked in any process, at any time."""

    planned: tuple[PlannedFault, ...] = ()
    random_rate: float = 0.0
    random_seed: int = 0

    def fault_for(self, step: str, order_id: str, attempt: int) -> Fault:
        """Return what strikes this attempt, counted from 1."""
        earlier = 0.0
        for part in self.planned:
            if part.step == step:
                earlier += part.times
                if attempt <= earlier:
                    return part.fault
        digest = hashlib.sha256(f"{self.random_seed}/{order_id}/{step}/{attempt}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 < self.random_rate:
            return Fault(RANDOM_KINDS[digest[8] % len(RANDOM_KINDS)])
        return Fault()


def parse_faults(spec: str) -> FaultPlan:
    """Read a fault plan; an empty one means that nothing goes wrong.

    Raises:
        InvalidFaultSpec: if it cannot be read.
    """
    spec = spec.strip()
    if spec.startswith("random"):
        match = _RANDOM.fullmatch(spec.replace(" ", ""))
        if not match or float(match["rate"]) > 1:
            raise InvalidFaultSpec(f"{spec!r}: must read random(RATE,SEED), RATE from 0 to 1 and SEED a whole number")
        return FaultPlan(random_rate=float(match["rate"]), random_seed=int(match["seed"]))
    return FaultPlan(tuple(_parse_planned(part.strip()) for part in spec.split(",")) if spec else ())


def _parse_planned(part: str) -> PlannedFault:
    match = _FAULT.fullmatch(part)
    if not match:
        raise InvalidFaultSpec(
            f"{part!r}: must read STEP:FAULT or STEP:FAULT*N, N from 1 or inf, FAULT one of "
            "unavailable, lost_reply, slow(SECONDS), crash_before, crash_after"
        )
    if match["step"] not in STEPS:
        raise InvalidFaultSpec(f"{part!r}: the step must be one of {', '.join(STEPS)}")
    fault = Fault(match["kind"].partition("(")[0], float(match["seconds"] or 0))
    return PlannedFault(match["step"], fault, float(match["times"] or 1))
