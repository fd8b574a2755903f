"""The comparison: all its cells, played once, in every form in which they are shown; and the command around it."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from postgres_server import FOLDERS
from proofs import soak
from rich.console import Console
from test_documents import INCLUDED, PAGES, PICTURE, normalized

from comparison import compare
from comparison.__main__ import main
from comparison.scenarios import GROUPS, LEFT_ALONE, SCENARIOS, Disturbance, Scenario
from comparison.stage.processes import ROOT, Program, Server, clean_environment, kill_all
from comparison.stage.runner import Row, run_scenarios
from comparison.table import make_table
from comparison.timeline import PLOT_WIDTH
from plumbing.connection import NoConnection
from shop.faults import parse_faults


@dataclass(frozen=True)
class Played:
    """All scenarios, played for a caller who has settings of his own; and the shop that these name."""

    rows: dict[str, Row]
    callers_shop: Path

    def reported(self, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        """Return what the command prints of the rows."""
        parser = argparse.ArgumentParser()
        compare.add_arguments(parser)
        compare.report([*self.rows.values()], parser.parse_args(options))
        output, errors = capsys.readouterr()
        assert errors == ""
        return output


@pytest.fixture(scope="module")
async def played(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Played:
    shop = tmp_path_factory.mktemp("callers") / "shop"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("TEMPORAL_ADDRESS", "127.0.0.1:1"),
            ("SHOP_DATA", str(shop)),
            ("SHOP_FAULTS", "process_payment:none"),
        ):
            patch.setenv(name, value)
        rows = await run_scenarios([*SCENARIOS.values()], tmp_path_factory.mktemp("played"), server)
    return Played({row.scenario.name: row for row in rows}, shop)


@pytest.mark.timeout(290)
def test_every_cell_is_as_expected(played: Played) -> None:
    assert [row for row in played.rows.values() if not row.is_as_expected] == []


def test_settings_of_the_caller_are_ignored(played: Played) -> None:
    assert not played.callers_shop.exists()


def test_the_page_shows_the_table(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    ((command, shown),) = [pair for page in PAGES for pair in INCLUDED.findall(page.read_text())]

    printed = played.reported(capsys, *command.removeprefix("python -m comparison ").split())

    assert normalized(printed) == normalized(shown)


def test_a_small_screen_shows_what_differs_and_the_result_once(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = played.reported(capsys)
    table, _, result = printed.partition("\n\n")

    assert max(map(len, table.splitlines())) <= 80
    assert any(line.split()[-4:] == ["LOST", "ok", "ok", "ok"] for line in table.splitlines())
    assert "All well" not in table
    assert result.count("Orders lost: 7 by the script, 2 by the script run again once, 0 by the durable loop") == 1
    assert re.findall(r" +$", printed, re.MULTILINE) == []


def test_all_rows_are_shown_in_full_words_if_that_is_asked_for(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = played.reported(capsys, "--all")

    words = " ".join(printed.split())  # a cell may take two lines
    assert [group for group in GROUPS if group not in words] == []
    assert re.findall(r" +$", printed, re.MULTILINE) == []


def test_eighty_columns_are_enough_for_all_rows(played: Played) -> None:
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(make_table([*played.rows.values()], console.width))

    titles = " ".join(line[:20].strip() for line in console.export_text().splitlines() if line.startswith("  "))
    assert [each.title for each in SCENARIOS.values() if each.title not in titles] == []


def test_the_picture_shows_what_happens_now(played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = played.rows[PICTURE.stem]

    replace(played, rows={PICTURE.stem: row}).reported(capsys, PICTURE.stem, f"--svg={tmp_path / 'now.svg'}")

    assert texts_of(tmp_path / "now.svg") == texts_of(PICTURE)
    # To scale: each process has its mark where it was killed; 6 s of wait are long, also where all else is slow.
    shapes = [element.attrib for element in ElementTree.parse(tmp_path / "now.svg").iter()]
    wait = max(float(shape["x2"]) - float(shape["x1"]) for shape in shapes if shape.get("class") == "wait")
    assert [shape["class"] for shape in shapes if shape.get("height") == "22"] == ["bad", "bad"]
    assert 0.2 * PLOT_WIDTH < wait < PLOT_WIDTH


def texts_of(picture: Path) -> list[str]:
    """Return the texts of an SVG file, without their figures and in no order: moments may change places."""
    texts = set(re.findall(r"<text[^>]*>([^<]*)<", picture.read_text()))
    return sorted({re.sub(r"[\d.]+( s)?$", "N", text) for text in texts})


def test_processes_may_keep_bytecode_whatever_the_caller_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in clean_environment()


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-row",),
        ("bench", "no-such-argument"),
        ("--all", "--markdown"),
        ("--svg", "x.svg"),
        ("declined", "--svg", "no folder/x.svg"),
        ("declined", "--svg", "docs"),
        ("bench", "--svg", "no folder/x.svg"),
    ],
)
def test_bad_usage_exits_2_with_a_sentence(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["comparison", *arguments])

    try:
        status: object = main()
    except SystemExit as stop:
        status = stop.code

    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors


def test_a_cell_that_differs_from_what_is_expected_is_noticed(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = played.rows["declined"]
    wrong = replace(row, scenario=replace(row.scenario, temporal=SCENARIOS["all-well"].temporal))

    compare.report([wrong], argparse.Namespace(svg=None, markdown=False, all=False))

    printed, errors = capsys.readouterr()
    assert errors.startswith("not as expected: ")
    # One scenario is printed with both versions on one time axis.
    for text in ("order_processor.py starts", "run_workflow.py starts", "process_payment: PaymentDeclined"):
        assert text in printed
    # And drawn: a lane a program and a step, to scale, the ends where the words are.
    compare.report([wrong], argparse.Namespace(svg=tmp_path / "drawn.svg"))
    drawn = [element.text for element in ElementTree.parse(tmp_path / "drawn.svg").iter() if element.text]
    for text in ("script", "Temporal", "run_worker.py", "process_payment", "PaymentDeclined"):
        assert text in drawn


async def test_a_planned_fault_that_never_strikes_is_noticed(server: Server, tmp_path: Path) -> None:
    idle = replace(SCENARIOS["declined"], name="declined-idle", faults="send_confirmation:unavailable")

    (row,) = await run_scenarios([idle], tmp_path, server)

    assert (row.script.endings, row.temporal.endings) == (idle.script, idle.temporal)
    assert not row.is_as_expected


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_a_scenario_is_well_formed(scenario: Scenario) -> None:
    planned = parse_faults(scenario.faults).planned

    assert {len(each) for each in scenario.endings} == {len(scenario.orders)}
    assert (scenario.disturbance is Disturbance.NONE) or planned
    # The script is left alone exactly where it is killed, by a fault or by the supervisor.
    is_killed = any(part.fault.kind.startswith("crash") for part in planned)
    is_killed |= scenario.disturbance is Disturbance.KILL_ALL
    assert LEFT_ALONE.issuperset(scenario.script) == is_killed


async def test_a_program_whose_start_is_cancelled_is_known_and_can_be_killed(tmp_path: Path) -> None:
    for turns in range(1, 6):  # of the loop, before it is cancelled
        program = Program(tmp_path / f"program-{turns}", clean_environment(), "-c", "import time; time.sleep(60)")
        starting = asyncio.create_task(program.start())
        for _ in range(turns):
            await asyncio.sleep(0)

        starting.cancel()
        await asyncio.wait([starting], timeout=10)

        assert starting.done()
        assert program.is_running
        await kill_all(tmp_path)
        assert not program.is_running


async def test_a_kill_is_done_when_its_process_is_gone_though_somebody_has_started_another(tmp_path: Path) -> None:
    program = Program(tmp_path / "program", clean_environment(), "-c", "import time; time.sleep(60)")
    await program.start()
    killed = program.pid

    async def restart() -> None:
        await program.wait()
        await program.start()

    restarting = asyncio.create_task(restart())
    await asyncio.sleep(0)  # It waits: so it sees the end first.
    await asyncio.wait_for(program.kill(), 10)
    await restarting
    is_running, restarted = program.is_running, program.pid
    await program.kill()

    assert (is_running, restarted != killed) == (True, True)
    assert [entry.status for entry in program.log] == [None, -signal.SIGKILL, None, -signal.SIGKILL]


async def test_a_server_hands_out_one_client_which_outlives_a_restart(own_server: Server) -> None:
    client = await own_server.client()
    files = len(os.listdir("/dev/fd"))

    clients = {await own_server.client() for _ in range(50)}
    await own_server.kill()
    await own_server.start()

    assert clients == {client} == {await own_server.client()}
    assert len(os.listdir("/dev/fd")) <= files + 5


async def test_a_server_that_is_killed_again_before_it_serves_is_away(own_server: Server) -> None:
    await own_server.client()
    await own_server.kill()

    with pytest.raises(NoConnection, match="is away"):
        await own_server.client()


@pytest.mark.timeout(290)
@pytest.mark.parametrize(
    ("version", "store"), [("script", "sqlite"), ("durable", "sqlite"), ("durable", "postgres"), ("temporal", "sqlite")]
)
def test_a_small_soak_has_no_violation(
    version: str, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if store == "postgres" and not FOLDERS:
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
    numbers = ("--orders", "4", "--kills", "2", "--seed", "3")
    monkeypatch.setattr(sys, "argv", ["soak", f"--version={version}", f"--store={store}", *numbers])

    status = soak.main()

    output, errors = capsys.readouterr()
    assert status == 0, output + errors
    assert re.search(r"^processes killed: [1-9] at a drawn moment, [2-9] from outside \(", output, re.MULTILINE)
    assert "violations: 0 in " in output
    assert "planted violations that the audit missed: none" in output


@pytest.mark.parametrize("arguments", [("--orders", "0"), ("--kills", "-1"), ("--seed", "-1")])
def test_a_soak_refuses_numbers_that_make_no_sense(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["soak", *arguments])

    with pytest.raises(SystemExit, match="2"):
        soak.main()


# A terminal interrupts the whole group; one that is closed hangs up. And somebody may be in a hurry.
@pytest.mark.parametrize(("send", "signal_number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGHUP)])
def test_an_interrupt_ends_it_in_a_line_and_leaves_no_process_and_no_folder(
    send: Callable[[int, int], None], signal_number: int, tmp_path: Path
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "comparison", "payment-down", "late-charge"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("comparison-*/*/temporal/worker.err")):
        assert running.poll() is None
        time.sleep(0.05)

    while running.poll() is None:
        with suppress(ProcessLookupError):
            send(running.pid, signal_number)
        time.sleep(0.02)
    output, errors = running.communicate(timeout=60)

    assert (running.returncode, output, len(errors.splitlines())) == (130, "", 1), errors
    assert list(tmp_path.iterdir()) == []
    # What was killed may take a moment to go.
    deadline = time.monotonic() + 10
    while is_alive(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(running.pid)


def is_alive(group: int) -> bool:
    """Tell whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
