"""Takes the picture of the Temporal UI in the README: an order that waits for the stock, after it was charged."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path

from comparison.folders import in_own_folder
from comparison.processes import Program, Worker, wait_until
from comparison.runner import running_server
from shop.ledger import read_ledger

WINDOW = "1400,900"
# Enough for the next one to be some time away: the picture says when.
ATTEMPTS, PATIENCE_SECONDS = 7, 120.0
LOAD_MILLISECONDS = 15_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file."""
    parser.add_argument("file", metavar="FILE", help="PNG file to write")


def run(arguments: argparse.Namespace) -> int:
    """Take the picture; return 0 if it could be taken."""
    return in_own_folder(lambda directory: take_picture(directory, Path(arguments.file)))


async def take_picture(directory: Path, target: Path) -> bool:
    """Let an order wait, open what it waits for in headless Chromium, and write a PNG file.

    Returns:
        Whether the picture was taken; if not, the browser's message is printed.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium or google-chrome on PATH")
        return False
    async with running_server(directory / "server") as server:
        data = directory / "shop"
        worker = Worker(directory / "worker", server.settings(), data, "update_inventory:unavailable*inf")
        await worker.start()
        await Program(directory / "starter", server.settings(), "run_workflow.py", "--no-wait").run()
        await wait_until(lambda: _times_tried(data) >= ATTEMPTS, "the order waits", PATIENCE_SECONDS)
        handle = (await server.client()).get_workflow_handle("order-1001")
        run_id = (await handle.describe()).run_id
        process = await asyncio.create_subprocess_exec(
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={directory / 'browser'}",
            f"--window-size={WINDOW}",
            f"--virtual-time-budget={LOAD_MILLISECONDS}",
            f"--screenshot={target.resolve()}",
            f"{server.ui}/namespaces/default/workflows/order-1001/{run_id}/pending-activities",
            stderr=asyncio.subprocess.PIPE,
        )
        _, message = await process.communicate()
        await worker.stop()
    if process.returncode != 0 or not target.is_file():
        print(message.decode(errors="replace"))
        return False
    return True


def _times_tried(data: Path) -> int:
    return sum(attempt.step == "update_inventory" for attempt in read_ledger(data).attempts)
