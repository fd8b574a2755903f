"""What ten times as many orders in flight bring: each load on a server, a worker and a shop of its own."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from comparison.cost.bench import NotCompleted, measure_flight
from comparison.cost.subjects import IN_FLIGHT, start_workflow
from comparison.stage.folders import in_own_folder
from comparison.stage.processes import Server, kill_all
from plumbing.process import run_and_exit
from shop.terminal.streams import run_program

ORDERS = 640
HEADINGS = ("orders/s", "CPU ms each", "server MB", "worker MB")


async def _measure(directory: Path) -> bool:
    print(f"{ORDERS} orders" + "".join(f"{heading:>14}" for heading in HEADINGS), flush=True)
    for in_flight in (IN_FLIGHT, 10 * IN_FLIGHT):
        own = directory / f"{in_flight}"
        server = Server(own / "server")
        await server.start()
        subject = await start_workflow(own, server, f"{in_flight} in flight")
        try:
            flight = await measure_flight(subject, ORDERS, in_flight)
        except NotCompleted as error:
            print(f"in_flight: not completed: {error}", file=sys.stderr)
            return False
        await kill_all(own)
        cells = (
            f"{flight.orders_per_second:.1f}",
            *map("{:.0f}".format, (flight.cpu_ms, flight.server_mb, flight.worker_mb)),
        )
        print(f"{in_flight:>3} at once" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    return True


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "in_flight", lambda: in_own_folder(_measure)))
