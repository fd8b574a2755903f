"""What each setting of the server and each habit of the workflow brings: one is changed at a time.

The changed one and the one as it is take turns, on orders alone and on orders in flight, as in `bench`. A ratio of 1.20
orders/s says that the change makes it faster by a fifth; on a busy machine the second digit is noise.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from comparison.cost.bench import NotCompleted, measure_round
from comparison.cost.figures import Round, Values, spread
from comparison.cost.subjects import Subject, start_workflow, stock_server
from comparison.stage.folders import in_own_folder, make_progress
from comparison.stage.processes import ROOT, Server, kill_all
from plumbing.process import run_and_exit
from run_server import SETTINGS
from shop.terminal.streams import run_program

ORDERS, ALONE = 64, 12
WORKER_FILES = ("activities.py", "workflows.py", "run_worker.py", "plumbing", "shop")
MEASURES = {"orders/s": "orders_per_second", "one alone, p50": "p50_ms", "CPU": "cpu_ms"}


@dataclass(frozen=True)
class Change:
    """Server settings that are replaced (by nothing: left out), or lines of the worker's code."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()
    lines: tuple[tuple[str, str, str], ...] = ()

    def server(self, directory: Path) -> Server:
        """Return a server of its own, with other settings."""
        options = list(SETTINGS)
        for setting, other in self.settings:
            options[options.index(setting)] = other
        return stock_server(directory, [option for option in options if option])

    def tree(self, directory: Path) -> Path:
        """Return a copy of the worker with other lines."""
        directory.mkdir()
        for name in WORKER_FILES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, directory / name)
        for file, line, other in self.lines:
            text = (directory / file).read_text()
            assert line in text, f"{file} has no line {line}"
            (directory / file).write_text(text.replace(line, other))
        return directory


WAL, NORMAL = "--sqlite-pragma=journal_mode=WAL", "--sqlite-pragma=synchronous=NORMAL"
(POLLS,) = (setting for setting in SETTINGS if "MaxPollRPS" in setting)
TRANSFER_ACKS, VISIBILITY_ACKS = (setting for setting in SETTINGS if "UpdateAckInterval" in setting)
SEARCHABLE, POLICY = "        if is_searchable:\n", "retry_policy=retries\n"
ADMISSION = "        interceptors=[Admission()],\n"
CHANGES = (
    Change("nothing (the noise)"),
    Change("server: without WAL", ((WAL, ""),)),
    Change("server: synchronous=FULL", ((NORMAL, "--sqlite-pragma=synchronous=FULL"),)),
    Change("server: synchronous=OFF", ((NORMAL, "--sqlite-pragma=synchronous=OFF"),)),
    Change("server: default poll limit", ((POLLS, ""),)),
    Change("server: default checkpoints", ((TRANSFER_ACKS, ""), (VISIBILITY_ACKS, ""))),
    Change("server: none of these", tuple((one, "") for one in (WAL, NORMAL, POLLS, TRANSFER_ACKS, VISIBILITY_ACKS))),
    Change("workflow: nothing searchable", lines=(("workflows.py", SEARCHABLE, "        if False:\n"),)),
    Change("workflow: every step searchable", lines=(("workflows.py", SEARCHABLE, "        if True:\n"),)),
    Change("workflow: steps with a summary", lines=(("workflows.py", POLICY, f"{POLICY[:-1]}, summary='a step'\n"),)),
    Change(
        "worker: no eager activities",
        lines=(("run_worker.py", ADMISSION, f"{ADMISSION}        disable_eager_activity_execution=True,\n"),),
    ),
    Change(
        "worker: without the sandbox",
        lines=(
            ("run_worker.py", "import Worker, ", "import UnsandboxedWorkflowRunner, Worker, "),
            ("run_worker.py", ADMISSION, f"{ADMISSION}        workflow_runner=UnsandboxedWorkflowRunner(),\n"),
        ),
    ),
)


async def _ablate(directory: Path, rounds: int) -> bool:
    print(f"{'changed':<34}" + "".join(f"{heading:>20}" for heading in MEASURES), flush=True)
    try:
        with make_progress() as progress:
            await measure_changes(directory, rounds, progress)
    except NotCompleted as error:
        print(f"ablation: not completed: {error}", file=sys.stderr)
        return False
    return True


async def measure_changes(directory: Path, rounds: int, progress: Progress) -> None:
    """Measure each change beside what is, and print its ratios.

    Raises:
        NotCompleted: if an order was not.
    """
    bar = progress.add_task("the server starts", total=len(CHANGES))
    server = Server(directory / "server")
    await server.start()
    as_is = await start_workflow(directory, server, "as it is")
    for number, change in enumerate(CHANGES):
        progress.update(bar, description=change.name)
        other = await _start(change, directory / f"{number}", server)
        for subject in (as_is, other):
            await measure_round(subject, 2, 4)  # warms up
        pairs = [
            (await measure_round(as_is, ALONE, ORDERS), await measure_round(other, ALONE, ORDERS))
            for _ in range(rounds)
        ]
        await kill_all(directory / f"{number}")
        ratios = (spread(_ratios(pairs, measure)) for measure in MEASURES.values())
        print(f"{change.name:<34}" + "".join(f"{ratio:>20}" for ratio in ratios), flush=True)
        progress.advance(bar)


async def _start(change: Change, directory: Path, server: Server) -> Subject:
    """Start a changed worker on the server as it is, or a worker as it is on a server of its own."""
    directory.mkdir()
    if change.settings:
        server = change.server(directory / "server")
        await server.start()
    tree = change.tree(directory / "tree")
    return await start_workflow(directory, server, f"changed {directory.name}", tree=tree)


def _ratios(pairs: list[tuple[Round, Round]], measure: str) -> Values:
    return tuple(float(getattr(other, measure)) / float(getattr(as_is, measure)) for as_is, other in pairs)


def main() -> int:
    """Measure; return 0 if all orders were completed, 1 if not, 2 for bad usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="a change (default: 3)")
    rounds = parser.parse_args().rounds
    if not 1 <= rounds <= 100:
        parser.error("--rounds must be from 1 to 100")
    return in_own_folder(lambda directory: _ablate(directory, rounds))


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "ablation", main))
