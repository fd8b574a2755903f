"""What the benchmark measures: the script, the workflow on two servers, and the floor, up and ready."""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from comparison.cost.floor import run_floor
from comparison.judge.accounts import Ending, accounts_of
from comparison.stage.processes import ROOT, NotInTime, Program, Server, Worker
from order_processor import process_order
from run_server import SETTINGS
from run_workflow import run_order
from shop.catalogue import Product
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome
from shop.shop import Shop

IN_FLIGHT = 32
# As services of real life: 20 ms for the stock, each time, 200 ms for the payment, 50 ms for the mail.
SLOW_FAULTS = (
    "validate_inventory:slow(0.02)*inf,process_payment:slow(0.2)*inf,"
    "update_inventory:slow(0.02)*inf,send_confirmation:slow(0.05)*inf"
)
# None of them makes the server faster.
QUIET = tuple(setting for setting in SETTINGS if not setting.startswith(("--sqlite", "--dynamic")))
SCRIPT, WORKFLOW, AGAIN, FLOOR, STOCK = "script", "workflow", "workflow again", "empty steps", "default server"
SLOW_SCRIPT, SLOW_WORKFLOW = "script, slow shop", "workflow, slow shop"


@dataclass(frozen=True)
class Subject:
    """One way to process orders: `process` takes one to its outcome, in this process or by the programs named."""

    name: str
    process: Callable[[Order], Awaitable[Outcome]]
    server: Program | None = None
    worker: Program | None = None
    data: Path | None = None
    placed: list[Order] = field(default_factory=list)

    def place(self, number: int) -> list[Order]:
        """Return new orders of one mug each, and keep them to be judged."""
        first, mug = len(self.placed), (Item("mug", 1, 1250),)
        orders = [replace(SAMPLE_ORDER, order_id=f"{first + index}", items=mug) for index in range(number)]
        self.placed.extend(orders)
        return orders

    def incomplete(self) -> list[str]:
        """Return the orders that are not complete by the ledgers. The floor has none."""
        accounts = accounts_of(self.placed, read_ledger(self.data)) if self.data else {}
        return [order_id for order_id, account in accounts.items() if account.ending is not Ending.COMPLETE]


async def start_subjects(directory: Path) -> list[Subject]:
    """Start all: those that take turns, then one whose orders become more and more, and one whose worker is killed.

    Those on one server have a namespace and a worker each. Whoever gave the folder kills what was started there.
    """
    server, stock, fresh = Server(directory / "server"), stock_server(directory / "stock"), Server(directory / "fresh")
    for each in (server, stock, fresh):
        await each.start()
    start_on = functools.partial(start_workflow, directory)
    workflow = await start_on(server, WORKFLOW)
    return [
        make_script(directory, SCRIPT),
        workflow,
        replace(workflow, name=AGAIN),
        replace(await start_on(server, FLOOR, run=run_floor, command=("-m", "comparison.cost.floor")), data=None),
        await start_on(stock, STOCK),
        make_script(directory, SLOW_SCRIPT, SLOW_FAULTS),
        await start_on(server, SLOW_WORKFLOW, SLOW_FAULTS),
        await start_on(fresh, "growing"),
        await start_on(server, "killed", "process_payment:slow(2)"),
    ]


def stock_server(directory: Path, options: Sequence[str] = QUIET) -> Server:
    """Return the development server as it comes: with a file for its state, and nothing set to make it faster."""
    server = Server(directory)
    server.executable = shutil.which("temporal", path=str(Path(sys.executable).parent)) or "temporal"
    ports = (f"--port={server.port}", f"--ui-port={server.port + 1000}")
    server.arguments = ("server", "start-dev", f"--db-filename={server.database}", *ports, *options)
    return server


def make_script(directory: Path, name: str, faults: str = "") -> Subject:
    """Return the script, in threads of this process."""
    data = make_shop(directory / name)
    shop, threads = Shop(data, parse_faults(faults)), ThreadPoolExecutor(IN_FLIGHT)

    async def process(order: Order) -> Outcome:
        return await asyncio.get_running_loop().run_in_executor(threads, process_order, shop, order)

    return Subject(name, process, data=data)


async def start_workflow(
    directory: Path,
    server: Server,
    name: str,
    faults: str = "",
    *,
    tree: Path = ROOT,
    command: tuple[str, ...] = (),
    run: Callable[..., Awaitable[Outcome]] = run_order,
) -> Subject:
    """Return the workflow on a server; `run`, the starter's own function, starts it and waits, in this process.

    Raises:
        NotInTime: if its worker ends instead of serving.
    """
    data, namespace = make_shop(directory / name), re.sub(r"\W+", "-", name)
    await server.add_namespace(namespace)
    worker = Worker(directory / name / "worker", server.settings(namespace), data, faults)
    worker.tree, worker.arguments = tree, command or worker.arguments
    await worker.start()
    if not worker.is_running:
        raise NotInTime(f"the worker of {name!r} ended; it says: {worker.errors.read_text().strip()[-200:]}")
    return Subject(name, functools.partial(run, await server.client(namespace), wait=True), server, worker, data)


def make_shop(directory: Path) -> Path:
    """Stock a shop with mugs for all orders, and return its data directory."""
    shop = Shop(directory / "shop")
    shop.inventory.replace_products([Product("mug", "Mug", 10**6)])
    shop.close()
    return directory / "shop"
