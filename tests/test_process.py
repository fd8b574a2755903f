"""A process around the SDK: its end, its threads, and many at a time."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import wait
from threading import Thread

import pytest

from comparison.stage.processes import ROOT
from plumbing.batch import run_batch
from plumbing.process import PatientThreads


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose standard output is a pipe, and so buffered."""
    return subprocess.run(
        [sys.executable, "-c", f"from plumbing.process import run_and_exit\n{program}"],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(("main", "status"), [("print('done') or 3", 3), ("print('done') or exit(2)", 2)])
def test_a_process_ends_with_its_status_and_all_that_it_has_written(main: str, status: int) -> None:
    ended = run(f"run_and_exit(lambda: {main})")

    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "done\n", "")


def test_an_error_that_nobody_foresaw_is_shown_and_ends_with_1() -> None:
    ended = run("run_and_exit(lambda: 1 / 0)")

    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_an_interrupted_process_says_so_and_shows_no_traceback() -> None:
    ended = run("import os, signal\nrun_and_exit(lambda: os.kill(os.getpid(), signal.SIGINT))")

    assert (ended.returncode, ended.stderr) == (1, "interrupted\n")


@pytest.mark.parametrize(("workflow_id", "whose"), [("order-1", "order-1"), (None, "on its own")])
def test_an_expected_failure_of_a_step_is_one_line_that_says_whose_it_is(workflow_id: str | None, whose: str) -> None:
    attempt = {"workflow_id": workflow_id, "activity_type": "process_payment", "attempt": 2}
    ended = run(
        "import logging\n"
        "from temporalio.exceptions import ApplicationError\n"
        "from plumbing.process import log_to_stderr\n"
        "log_to_stderr()\n"
        "try:\n"
        "    raise ApplicationError('the bank is away')\n"
        "except ApplicationError:\n"
        f"    about = {{'temporal_activity': {attempt}}}\n"
        "    logging.getLogger('temporalio.activity').warning('', exc_info=True, extra=about)"
    )

    assert ended.stderr.partition("WARNING ")[2] == f"{whose}: process_payment: attempt 2 failed: the bank is away\n"


def test_work_waits_for_a_thread_where_there_is_no_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = PatientThreads(8)

    def start(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", start)

    done, _ = wait([threads.submit(int, number) for number in range(100)], timeout=10)

    assert sorted(future.result() for future in done) == list(range(100))


async def test_an_error_in_a_report_is_not_swallowed() -> None:
    async def run_one(item: int) -> int:
        return item

    def report(item: int, result: object) -> None:
        raise ValueError("no line")

    with pytest.raises(ValueError, match="no line"):
        await run_batch([1, 2], 2, run_one, report)
