"""Takes the picture of the Temporal UI in the README: an order that waits for the stock, after it was charged."""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from dataclasses import replace
from pathlib import Path

from comparison.stage.folders import in_own_folder, new_file
from comparison.stage.processes import Program, Server, Worker, wait_until
from comparison.stage.runner import write_orders
from plumbing.process import run_and_exit
from shop.ledger import read_ledger
from shop.orders import SAMPLE_ORDER
from shop.terminal.streams import run_program

from .browser import browser, is_installed

WINDOW = (1400, 760)
# Enough for the next one to be some time away: the picture says when.
ATTEMPTS, PATIENCE_SECONDS = 7, 120.0


async def take_picture(directory: Path, target: Path) -> bool:
    """Let an order wait, open what it waits for in a browser, and write a PNG file.

    Returns:
        Whether there is a browser to take it with.
    """
    if not is_installed():
        print("install chromium and chromedriver (Debian: chromium, chromium-driver)", file=sys.stderr)
        return False
    data = directory / "shop"
    server = Server(directory / "server")
    await server.start()
    worker = Worker(directory / "worker", server.settings(), data, "update_inventory:unavailable*inf")
    await worker.start()
    order = write_orders(directory / "order.jsonl", [replace(SAMPLE_ORDER, order_id="1003")])
    await Program(directory / "starter", server.settings(), "run_workflow.py", "--no-wait", str(order)).run()
    await wait_until(lambda: _times_tried(data) >= ATTEMPTS, "the order waits", PATIENCE_SECONDS)
    run = (await (await server.client()).get_workflow_handle("order-1003").describe()).run_id
    page = f"{server.ui}/namespaces/default/workflows/order-1003/{run}/pending-activities"
    await asyncio.to_thread(_photograph, directory, page, target)
    await worker.stop()
    return True


def _photograph(directory: Path, page: str, target: Path) -> None:
    with browser(directory, *WINDOW) as window:
        window.open(page, "update_inventory", "unavailable")
        window.save_picture(target)


def _times_tried(data: Path) -> int:
    return sum(attempt.step == "update_inventory" for attempt in read_ledger(data).attempts)


def main() -> int:
    """Take the picture; return 0 if it could be taken, 1 if not, 2 for bad usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=new_file, metavar="FILE", help="PNG file to write")
    file = parser.parse_args().file
    return in_own_folder(lambda directory: take_picture(directory, file))


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "picture", main))
