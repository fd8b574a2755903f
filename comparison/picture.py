"""Takes the README's picture of the Temporal UI: an order in the hands of a payment service that was down twice."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path

from comparison.folders import in_own_folder
from comparison.processes import Program, Worker
from comparison.runner import running_server

WINDOW = "1400,1250"
LOAD_MILLISECONDS = 15_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file."""
    parser.add_argument("file", metavar="FILE", help="PNG file to write")


def run(arguments: argparse.Namespace) -> int:
    """Take the picture; return 0 if it could be taken."""
    return in_own_folder(lambda directory: take_picture(directory, Path(arguments.file)))


async def take_picture(directory: Path, target: Path) -> bool:
    """Run one order, open its page in headless Chromium, and write a PNG file.

    Returns:
        Whether the picture was taken; if not, the browser's message is printed.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium or google-chrome on PATH")
        return False
    async with running_server(directory / "server") as server:
        worker = Worker(directory / "worker", server.settings(), directory / "shop", "process_payment:unavailable*2")
        await worker.start()
        await Program(directory / "starter", server.settings(), "run_workflow.py").run()
        process = await asyncio.create_subprocess_exec(
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={directory / 'browser'}",
            f"--window-size={WINDOW}",
            f"--virtual-time-budget={LOAD_MILLISECONDS}",
            f"--screenshot={target.resolve()}",
            f"{server.ui}/namespaces/default/workflows/order-1001",
            stderr=asyncio.subprocess.PIPE,
        )
        _, message = await process.communicate()
        await worker.stop()
    if process.returncode != 0 or not target.is_file():
        print(message.decode(errors="replace"))
        return False
    return True
