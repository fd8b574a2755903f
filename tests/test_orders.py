"""Which orders are accepted, what is said of those that are not, and what makes two orders the same."""

from __future__ import annotations

import io
import json
import math
import re
import tracemalloc
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from conftest import make_order
from hypothesis import given
from hypothesis import strategies as st

from shop.orders import SAMPLE_ORDER, InvalidOrder, Item, Order, format_money
from shop.parsing import MAX_LINE_BYTES, load_orders, read_orders

IDENTIFIER_CHARACTERS = "ABCXYZabcxyz0189._-"
NOT_A_STRING: list[object] = [None, True, 1, ["1"], {"1": "1"}]
NOT_A_LIST: list[object] = [None, "mug", 1, {}]
NOT_AN_INTEGER: list[object] = [None, True, 1.0, "1", [1], {}]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
identifiers = st.text(IDENTIFIER_CHARACTERS, min_size=1, max_size=64)
orders = st.builds(
    Order,
    order_id=identifiers,
    customer_id=identifiers,
    currency=st.text("AMZ", min_size=3, max_size=3),
    payment_token=st.text("azAZ09_", min_size=1, max_size=60).map("tok_".__add__),
    items=st.lists(
        st.builds(Item, identifiers, st.integers(1, 1_000), st.integers(0, 10**8)),
        min_size=1,
        max_size=5,
        unique_by=lambda item: item.sku,
    ).map(tuple),
)


def read(document: object) -> Order:
    """Read a document as where an order comes in."""
    order = Order.from_json(json.dumps(document))
    order.check()
    return order


def line_of(sku: object = "mug", **changes: object) -> dict[str, object]:
    return {"sku": sku, "quantity": 1, "unit_price_cents": 1250, **changes}


def document_of(**changes: object) -> dict[str, object]:
    return {**as_json(SAMPLE_ORDER), **changes}


def as_json(order: Order) -> dict[str, object]:
    return dict(json.loads(json.dumps(asdict(order))))


def as_bytes(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "changes",
    [
        *({field: value} for field in ("order_id", "customer_id") for value in ("a", "Az09._-", "x" * 64, "..", "-")),
        {"currency": "ZZZ"},
        {"payment_token": "tok_a"},
        {"payment_token": "tok_" + "_" * 60},
        {"items": [line_of("s" * 64)]},
        {"items": [line_of(f"sku-{number}") for number in range(1_000)]},
        {"items": [line_of(quantity=1), line_of("b", quantity=1_000_000)]},
        {"items": [line_of(unit_price_cents=0), line_of("b", unit_price_cents=10**9)]},
        {"items": [line_of(quantity=1_000, unit_price_cents=10**9)]},
    ],
)
def test_a_value_at_the_edge_of_its_rule_is_taken_as_it_is(changes: dict[str, object]) -> None:
    document = document_of(**changes)

    order = read(document)

    assert as_json(order) == document


NO_IDENTIFIER: list[object] = ["", "x" * 65, "1\n", "a b", "a/b", "é", "\ud800", *NOT_A_STRING]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("order_id", "customer_id", "sku") for value in NO_IDENTIFIER),
        *(("currency", value) for value in ("", "US", "USDD", "usd", "US1", "USD\n", "ÄÖÜ", *NOT_A_STRING)),
        *(
            ("payment_token", value)
            for value in ("", "tok_", "visa", "TOK_visa", "tok_a-b", "tok_" + "a" * 61, "tok_visa\n", *NOT_A_STRING)
        ),
        *(("quantity", value) for value in (0, -1, 1_000_001, 10**4_000, *NOT_AN_INTEGER)),
        *(("unit_price_cents", value) for value in (-1, 10**9 + 1, 10**4_000, 0.0, *NOT_AN_INTEGER)),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_with_field_and_rule(field: str, value: object) -> None:
    is_of_order = field in document_of()
    document = document_of(**{field: value}) if is_of_order else document_of(items=[line_of(**{field: value})])
    where = field if is_of_order else f"items[0].{field}"

    with pytest.raises(
        InvalidOrder, match=rf"^{re.escape(where)}: must (match .+|be a whole number from \d+ to \d+), not ."
    ):
        read(document)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "items: must be a list of 1 to 1000 lines"),
        ([line_of(f"sku-{number}") for number in range(1_001)], "items: must be a list of 1 to 1000 lines"),
        *((value, "items: must be a list of 1 to 1000 lines") for value in NOT_A_LIST),
        *(([line_of(), value], r"items\[1\]: must be a JSON object") for value in (None, "mug", 1, ["sku"])),
        ([line_of("a"), line_of("b"), line_of("a")], "items: the same sku stands in two lines"),
        (
            [line_of("a", quantity=1_000, unit_price_cents=10**9), line_of("b", unit_price_cents=1)],
            "items: the total is over 1000000000000 cents",
        ),
    ],
)
def test_items_that_break_a_rule_together_are_refused(items: object, reason: str) -> None:
    with pytest.raises(InvalidOrder, match=f"^{reason}"):
        read(document_of(items=items))


@pytest.mark.parametrize("field", [*asdict(SAMPLE_ORDER), *(f"items[0].{name}" for name in line_of())])
def test_no_field_may_be_missing(field: str) -> None:
    document, line = document_of(), line_of()
    (line if "." in field else document).pop(field.rpartition(".")[2])

    with pytest.raises(InvalidOrder, match=f"^{re.escape(field)}: is missing$"):
        read(document if "." not in field else document_of(items=[line]))


def test_fields_of_a_newer_version_are_ignored() -> None:
    document = document_of(items=[line_of(gift_wrap=True)], coupon={"deep": [[[]]]}, total_cents="many")

    order = read(document)

    assert order == make_order("1001", items=(Item("mug", 1, 1250),))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "order: is not JSON that can be read"),
        (b"order", "order: is not JSON that can be read"),
        (b"[" * 200_000, "order: is not JSON that can be read"),
        (b'{"quantity": ' + b"9" * 5_000 + b"}", "order: is not JSON that can be read"),
        (as_bytes(document_of()) + as_bytes(document_of()), "order: is not JSON that can be read"),
        (b'{"order_id": "\xff"}', "order: is not UTF-8"),
        (json.dumps(document_of()).encode("utf-16"), "order: is not UTF-8"),
        *(
            (line, "order: must be a JSON object, not .")
            for line in (b"null", b"true", b"1", b'"order"', b"[]", b"[{}]")
        ),
        (as_bytes(document_of(items=[line_of(quantity=True)])), r"items\[0\]\.quantity: must be .+, not true$"),
        (as_bytes(document_of(items=[line_of(quantity=math.nan)])), r"order: is not JSON .+ \(NaN is no JSON value\)$"),
        (b'{"order_id": "3", "order_id": "4"}', "order_id: stands twice in the same object$"),
        (b'{"items": [{"quantity": 1, "sku": "a", "quantity": 2}]}', "quantity: stands twice in the same object$"),
        (as_bytes(document_of(order_id="1")), "order_id: 1 stands in line 1, too$"),
    ],
)
def test_a_bad_line_refuses_the_whole_file_with_its_number_field_and_reason(line: bytes, reason: str) -> None:
    lines = [as_bytes(document_of(order_id="1")), b"\n", line, as_bytes(document_of(order_id="3"))]

    with pytest.raises(InvalidOrder, match=f"^line 3: {reason}"):
        read_orders(lines)


def test_a_reason_stays_short_however_long_the_value_is() -> None:
    with pytest.raises(InvalidOrder) as refusal:
        read(document_of(order_id="x" * 1_000_000))

    assert len(str(refusal.value)) < 200


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_the_order_of_the_file_is_kept() -> None:
    first, second = as_bytes(document_of(order_id="2")), as_bytes(document_of(order_id="1"))

    read = read_orders([b"\xef\xbb\xbf" + first + b"\r\n", b" \t\r\n", b"\n", second])

    assert [order.order_id for order in read] == ["2", "1"]


def test_a_line_of_the_greatest_length_is_read_and_a_huge_one_refused_without_filling_the_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "orders.jsonl"
    line = as_bytes(document_of()).ljust(MAX_LINE_BYTES - 1) + b"\n"
    path.write_bytes(line)

    assert load_orders(str(path)) == [SAMPLE_ORDER]

    with path.open("wb") as file:
        file.truncate(10**9)  # a hole: it takes no room on the disk
    tracemalloc.start()
    with pytest.raises(InvalidOrder, match=f"^{re.escape(str(path))}: line 1: order: is longer than 5000000 bytes$"):
        load_orders(str(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5 * MAX_LINE_BYTES


def test_orders_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(as_bytes(document_of()))))

    assert load_orders("-") == [SAMPLE_ORDER]


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO(b"\n  \n"))])
def test_an_input_without_any_order_is_refused(stdin: io.TextIOWrapper | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", stdin)

    with pytest.raises(InvalidOrder, match="^-: there is no order in it$"):
        load_orders("-")


def test_the_digest_depends_on_the_content_alone() -> None:
    document = document_of()
    other_spelling = dict(reversed([*document.items(), ("coupon", "SPRING")]))

    digest = read(other_spelling).digest

    # Spelled out, because digests are kept: a release that changes them would refuse every order that it finds.
    assert digest == SAMPLE_ORDER.digest == "3b046c5fd72453236d7bfa52d7403e4fa1867812a0a0c63568713978b39e95f7"


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": "1002"},
        {"customer_id": "grace"},
        {"currency": "EUR"},
        {"payment_token": "tok_mastercard"},
        {"items": SAMPLE_ORDER.items[:1]},
        {"items": SAMPLE_ORDER.items[::-1]},
        {"items": (Item("mug", 3, 1250), SAMPLE_ORDER.items[1])},
        {"items": (Item("mug", 2, 1251), SAMPLE_ORDER.items[1])},
        {"items": (Item("grinder", 2, 1250), SAMPLE_ORDER.items[1])},
    ],
)
def test_any_other_content_has_another_digest(changes: dict[str, object]) -> None:
    assert replace(SAMPLE_ORDER, **changes).digest != SAMPLE_ORDER.digest  # type: ignore[arg-type]  # fields by name


def test_a_field_that_a_later_release_adds_leaves_the_digest_as_it_is() -> None:
    @dataclass(frozen=True)
    class LaterItem(Item):
        colour: str = "white"

    @dataclass(frozen=True)
    class LaterOrder(Order):
        gift_note: str = ""

    fields = {**vars(SAMPLE_ORDER), "items": tuple(LaterItem(**vars(item)) for item in SAMPLE_ORDER.items)}
    fields.pop("digest", None)

    assert LaterOrder(**fields, gift_note="Get well soon").digest == SAMPLE_ORDER.digest


@given(
    st.binary()
    | json_values.map(as_bytes)
    | st.builds(
        lambda field, value: as_bytes(document_of(**{field: value})),
        st.sampled_from(sorted(asdict(SAMPLE_ORDER))),
        json_values,
    )
    | st.builds(
        lambda field, value: as_bytes(document_of(items=[line_of(**{field: value})])),
        st.sampled_from(sorted(line_of())),
        json_values,
    )
)
def test_any_bytes_are_a_valid_order_or_refused_with_a_reason(line: bytes) -> None:
    try:
        order = Order.from_json(line)
        order.check()
    except InvalidOrder as refusal:
        assert re.match(r"(?s)[^:]+: .", str(refusal))
        return

    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) for text in (order.order_id, order.customer_id))
    assert re.fullmatch(r"[A-Z]{3}", order.currency)
    assert re.fullmatch(r"tok_[A-Za-z0-9_]{1,60}", order.payment_token)
    assert 1 <= len({item.sku for item in order.items}) == len(order.items) <= 1_000
    for item in order.items:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", item.sku)
        assert type(item.quantity) is type(item.unit_price_cents) is int
        assert 1 <= item.quantity <= 1_000_000
        assert 0 <= item.unit_price_cents <= 10**9
    assert sum(item.quantity * item.unit_price_cents for item in order.items) <= 10**12


@given(orders)
def test_an_order_survives_the_way_through_json(order: Order) -> None:
    line = as_bytes(asdict(order))

    assert read_orders([line]) == [Order.from_json(line)] == [Order.from_json(line.decode())] == [order]
    assert Order.from_json(line).digest == order.digest


@pytest.mark.parametrize(
    ("cents", "currency", "shown"),
    [
        (4390, "USD", "43.90 USD"),
        (5, "EUR", "0.05 EUR"),
        (10**12, "USD", "10000000000.00 USD"),
        (4390, "JPY", "4390 JPY"),
        (10**12, "XAF", "1000000000000 XAF"),
        (4390, "KWD", "4.390 KWD"),
        (43905, "CLF", "4.3905 CLF"),
    ],
)
def test_money_is_shown_with_the_decimals_of_its_currency(cents: int, currency: str, shown: str) -> None:
    assert format_money(cents, currency) == shown
    assert make_order(currency=currency, items=(Item("mug", 1, cents),)).total == shown
