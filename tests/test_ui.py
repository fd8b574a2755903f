"""What the UI shows, in a real browser: it answers 200 to any path, so that only a browser can tell a good link."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Stage, make_order

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
LOAD_MILLISECONDS = 15_000


def page_at(address: str, profile: Path) -> str:
    """Return the page's content when its scripts have run."""
    done = subprocess.run(
        [
            BROWSER or "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,1250"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={LOAD_MILLISECONDS}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
async def test_the_link_that_the_starter_prints_shows_the_order_and_its_steps(stage: Stage, tmp_path: Path) -> None:
    await stage.start_worker("process_payment:unavailable")
    starter = stage.starter(make_order("1"))
    await starter.run()
    (link,) = re.findall(r"started (http://\S+)", starter.errors.read_text())

    page = await asyncio.to_thread(page_at, link, tmp_path / "browser")
    unknown = await asyncio.to_thread(page_at, f"{link}-never-placed", tmp_path / "browser")

    for text in ("Completed", "process_payment", "charge 43.90 USD", "mail customer ada"):
        assert text in page
    assert "charge 43.90 USD" not in unknown
