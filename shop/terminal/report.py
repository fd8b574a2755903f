"""The ledger in words, for people."""

from __future__ import annotations

from datetime import datetime

from shop.ledger import Ledger
from shop.orders import format_money


def held_by(order_id: str, ledger: Ledger) -> list[str]:
    """Return what an order still holds, in words."""
    charges = [row for row in ledger.charges if row.order_id == order_id and not row.refunded]
    sales = [row for row in ledger.sales if row.order_id == order_id and not row.restored]
    return [f"refund {format_money(row.amount_cents, row.currency)}" for row in charges] + [
        f"put back {row.quantity} x {row.sku}" for row in sales
    ]


def describe(ledger: Ledger) -> list[str]:
    """Return the ledger for people: a block an order, then the stock that moved."""
    blocks: dict[str, list[str]] = {}

    def add(order_id: str, line: str) -> None:
        blocks.setdefault(order_id, [f"order {order_id}"]).append(f"  {line}")

    for attempt in ledger.attempts:
        at = datetime.fromisoformat(attempt.at).time().isoformat("milliseconds")
        add(attempt.order_id, f"{at}  {attempt.step:<18}  attempt {attempt.attempt}  {attempt.outcome}")
    for charge in ledger.charges:
        refunded = ", refunded" if charge.refunded else ""
        add(charge.order_id, f"charge   {format_money(charge.amount_cents, charge.currency)}{refunded}")
    for sale in ledger.sales:
        add(sale.order_id, f"stock    {sale.quantity} x {sale.sku}{', restored' if sale.restored else ''}")
    for mail in ledger.confirmations:
        add(mail.order_id, f"mail     to {mail.customer_id}: {'sent' if mail.sent else 'noted as not sent'}")
    for void in ledger.voids:
        add(void.order_id, f"void     {void.step}")
    moved = [
        f"  {sku}: {stock.initial} -> {stock.now}" for sku, stock in ledger.stock.items() if stock.now != stock.initial
    ]
    lines = [line for block in blocks.values() for line in block]
    return [*lines, "stock that moved", *(moved or ["  none"]), "(times are UTC)"]
