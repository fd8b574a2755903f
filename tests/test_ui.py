"""What the UI shows, in a real browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from conftest import Stage, make_order

from comparison.browser import browser, is_installed


@pytest.mark.skipif(not is_installed(), reason="no chromium and chromedriver")
async def test_the_link_that_the_starter_prints_shows_the_order_and_its_steps(stage: Stage, tmp_path: Path) -> None:
    await stage.start_worker("process_payment:unavailable")
    starter = stage.starter(make_order("1"))
    await starter.run()
    (link,) = re.findall(r"started (http://\S+)", starter.errors.read_text())

    def look() -> tuple[str, str]:
        with browser(tmp_path, 1400, 1250) as window:
            known = window.open(link, "COMPLETED", "process_payment", "charge 43.90 USD", "mail customer ada")
            return known, window.open(f"{link}-never-placed", "Error: 404")

    known, unknown = await asyncio.to_thread(look)

    assert "charge 43.90 USD" in known
    assert "charge 43.90 USD" not in unknown


@pytest.mark.skipif(not is_installed(), reason="no chromium and chromedriver")
async def test_a_failed_order_shows_why_in_a_sentence_and_no_stack_trace(stage: Stage, tmp_path: Path) -> None:
    await stage.start_worker("process_payment:unavailable*inf")
    starter = stage.starter(make_order("1"))
    await starter.run()
    log = starter.errors.read_text()
    (link,) = re.findall(r"started (http://\S+)", log)
    (list_of_failed,) = re.findall(r"failed: (http://\S+)", log)

    def look() -> str:
        with browser(tmp_path, 1400, 1250) as window:
            window.open(list_of_failed, "order-1")
            return window.open(link, "Failed", "the service is unavailable")

    shown = await asyncio.to_thread(look)

    assert "stackTrace" not in shown
