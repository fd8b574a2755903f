"""What the UI shows, in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from conftest import make_order, make_stage
from proofs.browser import Browser, browser, is_installed
from test_cancellation import PlanOfEachOrder, serve

from comparison.stage.processes import Server
from plumbing.connection import add_search_attribute
from shop.faults import parse_faults
from shop.shop import Shop
from workflows import ORDER_STATUS

pytestmark = pytest.mark.skipif(not is_installed(), reason="no chromium and chromedriver")

FAULTS = {
    "retried": parse_faults("process_payment:unavailable"),
    "failed": parse_faults("process_payment:unavailable*inf"),
}


@dataclass(frozen=True)
class Window:
    """A browser, and what the starter logged of an order that was retried and of one that failed."""

    browser: Browser
    log: str

    def link_to(self, order_id: str) -> str:
        """Return the link that the starter printed for an order."""
        (link,) = re.findall(rf"order {order_id}: started (http://\S+)", self.log)
        return str(link)


@pytest.fixture(scope="module")
async def window(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Window]:
    stage = await make_stage(server, tmp_path_factory.mktemp("ui"))
    await add_search_attribute(stage.client, ORDER_STATUS)
    starter = stage.starter(*map(make_order, FAULTS))
    with closing(Shop(stage.data, PlanOfEachOrder(plans=FAULTS))) as shop:
        async with serve(stage.client, shop):
            await starter.run()
            with browser(stage.directory, 1400, 1250) as opened:
                yield Window(opened, starter.errors.read_text())


async def test_the_link_that_the_starter_prints_shows_the_order_and_its_steps(window: Window) -> None:
    link = window.link_to("retried")
    texts = ("COMPLETED", "process_payment", "charge 43.90 USD", "mail customer ada")

    known = await asyncio.to_thread(window.browser.open, link, *texts)
    unknown = await asyncio.to_thread(window.browser.open, f"{link}-never-placed", "Error: 404")

    assert "charge 43.90 USD" in known
    assert "charge 43.90 USD" not in unknown


async def test_a_failed_order_shows_why_in_a_sentence_and_no_stack_trace(window: Window) -> None:
    (list_of_failed,) = re.findall(r"failed: (http://\S+)", window.log)

    await asyncio.to_thread(window.browser.open, list_of_failed, "order-failed")
    shown = await asyncio.to_thread(
        window.browser.open, window.link_to("failed"), "Failed", "the service is unavailable"
    )

    assert "stackTrace" not in shown
