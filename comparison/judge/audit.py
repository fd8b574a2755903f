"""Judges orders by the ledgers, never by what a program says of itself.

Each check has the number of the rule that it holds:

    I1  nothing lost     every order came to an end, and somebody was told
    I2  completed        one charge of the right amount, the right stock taken once, one confirmation or a note that
                         there is none, and no tombstone
    I3  not completed    no charge kept, no stock kept, no confirmation, and none of them possible any more
    I4  stock            initial = now + sold, and never below 0
    I5  money            charges kept = the totals of the completed orders
    I6  no orphans       nothing happened to an order that nobody placed, or with other content; no effect without its
                         attempt, no attempt that was ok without its effect
    I7  agreement        what was printed, by each run, is what the ledgers say, and how the workflow closed
    I8  not vacuous      the audit finds the violations that are planted into its ledgers (by `make soak` and the tests)
    I9  bounded          no more attempts than the policies allow; the databases are intact
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus

from comparison.judge.accounts import WHOLE, Account, Ending, accounts_of, names_of, units_of
from shop.errors import PermanentError, ReplyLost, TransientError
from shop.ledger import Attempt, Charge, Confirmation, Ledger, Sale, Void
from shop.orders import Order, Outcome, Status, format_money
from shop.stores.location import Location
from shop.stores.storage import read_only
from workflows import CONFIRMATION_RETRIES, FEW_ATTEMPTS

# Attempts that one run of an order may make, by the more patient policy of the two versions. The steps that are not
# named here have no limit in the workflow.
ATTEMPT_LIMITS = {
    "validate_inventory": FEW_ATTEMPTS.maximum_attempts,
    "process_payment": FEW_ATTEMPTS.maximum_attempts,
    "send_confirmation": CONFIRMATION_RETRIES.maximum_attempts,
}
# The steps that an order can fail in.
DECISIVE_STEPS = ("validate_inventory", "process_payment", "update_inventory")
# Which step makes which effect. To settle an order, the last two leave tombstones where there is nothing to undo.
MADE_BY = {
    "process_payment": ("charge",),
    "update_inventory": ("sale",),
    "send_confirmation": ("mail",),
    "note_unsent": ("note",),
    "void_charge": ("void_charge",),
    "void_sale": ("void_sale",),
    "void_confirmation": ("void_confirmation",),
    "refund_payment": ("refund", "void_charge"),
    "restore_inventory": ("restored sale", "void_sale"),
}
# An attempt that comes too late for its effect is ok, too.
TOO_LATE_FOR = {"void_charge": "charge", "void_sale": "sale", "note_unsent": "mail"}
# An attempt with any other outcome had no effect.
EFFECTIVE = ("ok", "started", ReplyLost.__name__)

CLOSINGS = {
    Status.COMPLETED: WorkflowExecutionStatus.COMPLETED,
    Status.REJECTED: WorkflowExecutionStatus.COMPLETED,
    Status.FAILED: WorkflowExecutionStatus.FAILED,
    Status.CANCELLED: WorkflowExecutionStatus.CANCELED,
}


@dataclass(frozen=True)
class Violation:
    """One broken rule: which, of which order if of one, and what is wrong."""

    rule: str
    order_id: str
    sentence: str


def audit(
    orders: Iterable[Order],
    ledger: Ledger,
    outcomes: Iterable[Outcome] | None = None,
    *,
    runs: int | Mapping[str, int] | None = None,
    closings: Mapping[str, WorkflowExecutionStatus] | None = None,
) -> list[Violation]:
    """Return every broken rule. What is None is not judged.

    Args:
        orders: all orders that were placed in this shop.
        ledger: what happened.
        outcomes: all lines that were printed; those of one order in the order in which they were.
        runs: how often each order was run at most, or all of them.
        closings: how the workflow of each order closed, where workflows alone did the printing.
    """
    printed = None if outcomes is None else tuple(outcomes)
    accounts = accounts_of(orders, ledger, printed or (), closings)
    rules = list(ORDER_RULES)
    if printed is not None:
        rules.append(("I1", _told))
    if closings is not None:
        rules.append(("I7", _closed))
    violations = [
        Violation(rule, order_id, sentence)
        for order_id, account in accounts.items()
        for rule, judge in rules
        for sentence in judge(account)
    ]
    violations += [*_stock(ledger), *_money(accounts.values()), *_orphans(accounts, ledger, printed or ())]
    if runs is not None:
        violations += _bounds(ledger, runs)
    return violations


def judge_files(location: Location) -> list[Violation]:
    """Return a violation for each database that SQLite finds damaged. PostgreSQL cannot be asked. Changes nothing.

    Raises:
        ServiceUnavailable: if one is missing, locked, or too damaged to be asked.
    """
    violations: list[Violation] = []
    for name in ("inventory", "payments", "notifications") if isinstance(location, Path) else ():
        with read_only(location, name) as connection:
            answer = " ".join(str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0]).split())
        if answer != "ok":
            violations.append(Violation("I9", "-", f"{name}.sqlite3 is damaged: {answer}"))
    return violations


def _nothing_lost(account: Account) -> Iterator[str]:
    if account.ending is Ending.ABANDONED:
        tried = account.attempts[-1].step if account.attempts else "nothing"
        yield f"{account.ending.value}; last tried: {tried}"


def _completed(account: Account) -> Iterator[str]:
    order = account.order
    if account.ending in (Ending.UNCONFIRMED, Ending.OVERCHARGED, Ending.UNCHARGED, Ending.WRONG):
        yield account.ending.value + _owed(account)
    # Refunded or restored or not: a charge or a sale that was undone is not followed by another.
    sales = {sale.key for sale in account.sales}
    numbers = {"charge": len(account.charges), "sale": len(sales), "confirmation": len(account.confirmations)}
    yield from (f"{number} {what}s" for what, number in numbers.items() if number > 1)
    for charge in account.charges:
        if (charge.amount_cents, charge.currency) != (order.total_cents, order.currency):
            yield f"charged {charge.amount_cents} {charge.currency}, ordered for {order.total_cents} {order.currency}"
    for key in sales:
        if units_of(sale for sale in account.sales if sale.key == key) != units_of(order.items):
            yield "other goods were taken than were ordered"
    for confirmation in account.confirmations:
        if confirmation.customer_id != order.customer_id:
            yield f"confirmed to customer {confirmation.customer_id}, ordered by {order.customer_id}"


def _not_voided(account: Account) -> Iterator[str]:
    """A tombstone is left where nothing has happened, and then keeps it from happening."""
    happened = {"void_charge": account.charges, "void_sale": account.sales, "void_confirmation": account.confirmations}
    for step, rows in happened.items():
        if rows and step in account.effects:
            yield f"{account.ending.value}, and yet there is a tombstone of {step}"


def _not_completed(account: Account) -> Iterator[str]:
    if account.ending is Ending.STOCK_NOT_TAKEN:
        yield account.ending.value + _owed(account)
    if account.confirmations and not (account.kept_charges and account.kept_units):
        yield f"{account.ending.value}, and yet a confirmation was {'sent' if 'mail' in account.effects else 'noted'}"
    if account.charges and not account.kept_charges and not account.sales and "void_sale" not in account.effects:
        yield "refunded, but its stock may still be taken: there is no tombstone of void_sale"


def _no_other_content(account: Account) -> Iterator[str]:
    """Only a tombstone may be without a digest: `settle` knows no more than the id."""
    rows: list[Charge | Sale | Confirmation | Void] = [*account.charges, *account.sales, *account.confirmations]
    rows += account.voids
    others = [type(row).__name__.lower() for row in rows if row.digest not in (account.order.digest, None)]
    yield from (f"the {kind} is of other content" for kind in dict.fromkeys(others))


def _effects_and_attempts(account: Account) -> Iterator[str]:
    tried = {attempt.step for attempt in account.attempts if attempt.outcome in EFFECTIVE}
    explained = {effect for step in tried for effect in MADE_BY.get(step, ())}
    yield from (f"{effect} without an attempt" for effect in sorted(account.effects - explained))
    for step in dict.fromkeys(attempt.step for attempt in account.attempts if attempt.outcome == "ok"):
        wanted = {*MADE_BY.get(step, ()), TOO_LATE_FOR.get(step)}
        if step in MADE_BY and not wanted & account.effects:
            yield f"{step} was ok, and yet there is no {' or '.join(MADE_BY[step])}"


def _agreement(account: Account) -> Iterator[str]:
    for status in dict.fromkeys(account.ended_as):
        if (status is Status.COMPLETED) != (account.ending in WHOLE):
            yield f"printed {status.value}, but {account.ending.value}"
        elif objection := _objection(account, status):
            yield f"printed {status.value}, but {objection}"
    charged = [charge.transaction_id for charge in account.charges]
    for outcome in account.outcomes:
        printed = outcome.detail.partition(";")[0]
        if outcome.status is Status.COMPLETED and printed not in charged:
            yield f"printed transaction {printed or '(none)'}, but its charge is {', '.join(charged) or '(none)'}"


def _objection(account: Account, status: Status) -> str:
    """Return what in the attempts contradicts `rejected` or `failed`, if they tell.

    They never contradict `cancelled`: a cancellation may come while any refusal or failure is on its way, and the call
    that was under way logs its answer afterwards. How the workflow closed decides. Nor does a refusal contradict
    `failed` if no answer is what was printed as the reason: the refusal may have come too late, and further attempts
    may never have reached the log. A step that has used up its attempts has failed, whatever they were logged as.
    """
    if status is Status.REJECTED and not account.refusals:
        # In an outage of the log, the attempt that was refused may have stayed open.
        is_open = any(attempt.outcome == "started" for attempt in account.attempts)
        return "" if is_open else "nothing was refused"
    tried = [attempt for attempt in account.attempts if attempt.step in DECISIVE_STEPS]
    is_used_up = max(Counter(attempt.step for attempt in tried).values(), default=0) >= FEW_ATTEMPTS.maximum_attempts
    if status is not Status.FAILED or not tried or is_used_up or _had_no_answer(account):
        return ""
    if account.was_refused and _is_one_run(account):
        return "it was refused"
    is_cut_short = any(attempt.outcome == "started" or _has_failed(attempt) for attempt in tried)
    return "" if is_cut_short else "no step failed"


def _later_runs(account: Account) -> Iterator[str]:
    """An order that has ended is voided: a run that begins then says `rejected`; a starter that attaches repeats.

    Where several processes had begun before the end, each may have had a reason of its own; and so has a later run
    that found the stock service down to its end, and was never told that the order is voided.
    """
    last = ("refund_payment" if account.charges else "void_charge", "ok")
    end = next((attempt.at for attempt in account.attempts if (attempt.step, attempt.outcome) == last), "")
    if len({attempt.pid for attempt in account.attempts if attempt.at <= end}) != 1:
        return
    later = [attempt for attempt in account.attempts if attempt.step == "validate_inventory" and attempt.at > end]
    has_begun = bool(later)
    if has_begun and all(_has_failed(attempt) for attempt in later):
        return
    for status in account.ended_as[1:]:
        is_repeated = status is account.ended_as[0] and not has_begun
        if status in (Status.FAILED, Status.CANCELLED) and not is_repeated:
            yield f"printed {status.value} by a run that began when it had ended as {account.ended_as[0].value}"


def _told(account: Account) -> Iterator[str]:
    """An order that an operator settled has ended without a program that could tell."""
    if not account.ended_as and "void_confirmation" not in account.effects:
        told = ", ".join(outcome.status.value for outcome in account.outcomes) or "nothing"
        yield f"how it ended was never printed, but {told}"


def _closed(account: Account) -> Iterator[str]:
    """Without a workflow nothing can be cancelled."""
    closed = account.closing.name if account.closing else "not at all"
    for status in dict.fromkeys(account.ended_as):
        if account.closing is not CLOSINGS[status] and (account.closing or status is Status.CANCELLED):
            yield f"printed {status.value}, but closed as {closed}"


ORDER_RULES = (
    ("I1", _nothing_lost),
    ("I2", _completed),
    ("I2", _not_voided),
    ("I3", _not_completed),
    ("I6", _no_other_content),
    ("I6", _effects_and_attempts),
    ("I7", _agreement),
    ("I7", _later_runs),
)


def _stock(ledger: Ledger) -> Iterator[Violation]:
    sold = units_of(sale for sale in ledger.sales if not sale.restored)
    for sku, stock in ledger.stock.items():
        if stock.now < 0 or stock.initial != stock.now + sold[sku]:
            yield Violation("I4", "-", f"{sku}: {stock.initial} at first, {stock.now} left, {sold[sku]} sold")
    for sku in sold.keys() - ledger.stock.keys():
        yield Violation("I4", "-", f"{sku}: sold, but not in stock")


def _money(accounts: Collection[Account]) -> Iterator[Violation]:
    kept = sum(account.kept_cents for account in accounts)
    earned = sum(account.order.total_cents for account in accounts if account.ending in WHOLE)
    if kept != earned:
        yield Violation("I5", "-", f"{kept} cents were kept, {earned} earned")


def _orphans(accounts: Mapping[str, Account], ledger: Ledger, outcomes: Iterable[Outcome]) -> Iterator[Violation]:
    tables = (ledger.charges, ledger.sales, ledger.confirmations, ledger.voids, ledger.attempts, outcomes)
    orphans = Counter(
        (row.order_id, type(row).__name__.lower()) for rows in tables for row in rows if row.order_id not in accounts
    )
    for (order_id, kind), number in orphans.items():
        yield Violation("I6", order_id, f"{number} {kind}(s), and nobody placed it")


def _bounds(ledger: Ledger, runs: int | Mapping[str, int]) -> Iterator[Violation]:
    for (step, order_id), number in Counter((row.step, row.order_id) for row in ledger.attempts).items():
        allowed = ATTEMPT_LIMITS.get(step, number) * (runs if isinstance(runs, int) else runs.get(order_id, 1))
        if number > allowed:
            yield Violation("I9", order_id, f"{step}: {number} attempts, {allowed} allowed")


def _owed(account: Account) -> str:
    return f"; owed {format_money(account.owed_cents, account.order.currency)}" if account.owed_cents > 0 else ""


def _has_failed(attempt: Attempt) -> bool:
    return attempt.outcome not in {"ok", "started"} | names_of(PermanentError)


def _had_no_answer(account: Account) -> bool:
    """Tell whether a line says that the order failed because a call brought no answer."""
    failures = [outcome for outcome in account.outcomes if outcome.status is Status.FAILED]
    return any(outcome.detail.partition(":")[0] in {"TimeoutError"} | names_of(TransientError) for outcome in failures)


def _is_one_run(account: Account) -> bool:
    """Tell whether the attempts look like one run: none goes back to the first step."""
    return not any(later.step == "validate_inventory" != earlier.step for earlier, later in pairwise(account.attempts))
