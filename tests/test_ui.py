"""What the UI shows, in a real browser."""

from __future__ import annotations

import asyncio
import re

import pytest
from conftest import Stage, make_order
from counter import serving
from proofs.browser import browser, is_installed


@pytest.mark.skipif(not is_installed(), reason="no chromium and chromedriver")
async def test_the_links_that_the_starter_prints_show_the_order_its_steps_and_why_it_failed(stage: Stage) -> None:
    order = make_order("failed")
    starter = stage.starter(order)
    async with serving(stage, "process_payment:unavailable*inf"):
        await starter.run()
        log = starter.errors.read_text()
        (link_to_order,) = re.findall(r"order failed: started (http://\S+)", log)
        (link_to_list,) = re.findall(r"failed: (http://\S+)", log)

        with browser(stage.directory, 1400, 1250) as opened:
            await asyncio.to_thread(opened.open, link_to_list, "order-failed")
            shown = await asyncio.to_thread(opened.open, link_to_order, "Failed", "process_payment")

    assert "ServiceUnavailable: the service is unavailable" in shown
