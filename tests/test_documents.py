"""Keeps README and docs true: pastes their commands, compares what they print, follows their links.

`python -m tests.test_documents` writes what the commands print now into the pages, and draws the picture again.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from comparison.stage.processes import ROOT, Server, clean_environment, free_port, wait_until

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = Path(sys.executable).parent
PICTURE = ROOT / "docs" / "killed-after-charge.svg"
# They stay in the background. Each is up when its log says so, and they are stopped in this order.
SERVICES = {
    "python -m examples.codec_endpoint": "decrypting at",
    "python -m examples.http_orders": "running on",
    "python -m examples.large_order": "serving",
    "python v1/run_worker.py": "watch it at",  # another build of the code
    "python run_worker.py": "watch it at",
    "python run_server.py": "Temporal UI:",
}
HTTP_ADDRESS, CODEC_ADDRESS = "localhost:8080", "127.0.0.1:8081"
NEEDS_SERVER = re.compile(r"python run_wor|temporal |examples\.(http|large)_order")
SETTINGS = re.compile(r"(\w+=\S+ )*")
TIMEOUT_SECONDS, SLOW_TIMEOUT_SECONDS = 110, 900
# Take minutes: run to renew a page, not to test it. test_bench holds the shape of what the page shows of them.
SLOW = ("$ python -m comparison bench", "$ python -m tests.proofs.ablation", "$ python -m tests.proofs.in_flight")
SIDE_BY_SIDE = 4
COSTS = "docs/cost.svg"
MAX_README_LINES, MAX_README_WORDS = 150, 1_300

# Commands and what they print: after a prompt, or, to be pasted as they stand, in two blocks.
CONSOLE = re.compile(
    r"^```console\n(?P<session>.*?)^```$|^```sh\n(?P<commands>python .*?)^```$(?:\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
# What is carried out on the copy, in order: commands are pasted, a change to the code is applied.
CARRIED_OUT = re.compile(rf"{CONSOLE.pattern}|^```diff\n(?P<diff>.*?)^```$", re.MULTILINE | re.DOTALL)
# What a command prints as Markdown, between two comments.
INCLUDED = re.compile(r"<!-- (python [^>]+) -->\n(.*?)<!-- end -->", re.DOTALL)
SYMBOL_LINK = re.compile(r"\[`(\w+)`\]\(([\w./-]+\.py)\)")
FILE_LINK = re.compile(r"\]\((?!https?:|#)([\w./-]+)(#[\w-]+)?\)")

# What differs from run to run, and from machine to machine.
VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[,.]?\d*Z?"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d\.\d{3}\b"), "TIME"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "RUN"),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), "HOST"),
    (re.compile(r"under key [0-9a-f]{8}"), "under key KEY"),
    (re.compile(r"process \[\d+\]"), "process PID"),
    (re.compile(r"for the shop in [^;]+"), "for the shop in DATA"),
    (re.compile(r"\b\d+ (second|minute)s? ago"), "AGO"),
    (re.compile(r" +\d+(\.\d+)?( ms|/s| s)?(?=$| |\.)", re.MULTILINE), " N"),
)


def normalized(output: str) -> str:
    """Return output without what may differ."""
    for pattern, name in VARIABLE:
        output = pattern.sub(name, output)
    return output.strip()


class Terminals:
    """A copy of the repository in which commands are pasted: services in the background, on ports of their own."""

    def __init__(self, directory: Path, python: Path) -> None:
        """Copy the repository to a folder; take `python` from another, if it is there, and else our own."""
        copy_tree(directory)
        self.directory = directory
        self.port, self.http_port, self.codec_port = free_port(), free_port(), free_port()
        self.environment = clean_environment(
            TEMPORAL_ADDRESS=f"127.0.0.1:{self.port}", PATH=f"{python}:{PROGRAMS}:{os.environ['PATH']}"
        )
        self.services: dict[str, subprocess.Popen[bytes]] = {}

    async def paste(self, command: str) -> str:
        """Run one command and return what it prints; of a service, what it prints until it is up."""
        command = command.replace(HTTP_ADDRESS, f"localhost:{self.http_port}")
        command = command.replace(CODEC_ADDRESS, f"127.0.0.1:{self.codec_port}")
        for service in SERVICES:
            if SETTINGS.sub("", command, count=1).startswith(service):
                return await self._start(service, command)
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            shell=True,
            executable="/bin/bash",  # says `Killed`
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SLOW_TIMEOUT_SECONDS if f"$ {command}".startswith(SLOW) else TIMEOUT_SECONDS,
        )
        killed = "Killed\n" if done.returncode == -9 else ""
        shown = re.sub(r"^/bin/bash: line 1: +\d+ Killed.*$", "Killed", done.stdout, flags=re.MULTILINE)
        return shown.replace(f"{self.directory}/", "") + killed

    async def _start(self, service: str, command: str) -> str:
        await self._stop(service)
        if "run_server" in service:
            command += f" --port {self.port}"
        if "http_orders" in service:
            command += f" --port {self.http_port}"
        if "codec_endpoint" in service:
            command += f" --port {self.codec_port}"
        log = self.directory / f"{service.split()[-1]}.log"
        with log.open("wb") as output:
            # exec: a signal has to reach the program, not a shell before it.
            self.services[service] = subprocess.Popen(
                ["sh", "-c", command.replace("python", "exec python", 1)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        ready = SERVICES[service]
        redirected = re.search(r" 2> (\S+)", command)
        watched = self.directory / redirected[1] if redirected else log
        await wait_until(lambda: watched.exists() and ready in watched.read_text(), f"{command} is up")
        # What comes after it, an attempt perhaps, is not part of a page.
        before, marker, after = log.read_text().partition(ready)
        lines = [f"{before}{marker}{after.partition(chr(10))[0]}\n"] if "INFO" in before else []
        return "".join(lines).replace(f"{self.directory}/", "")

    async def _stop(self, service: str) -> None:
        process = self.services.pop(service, None)
        if process:
            if "crash" not in str(process.args):
                process.terminate()
            await asyncio.to_thread(process.wait, 30)

    async def close(self) -> None:
        """Stop what runs in the background."""
        for service in SERVICES:
            await self._stop(service)


def copy_tree(directory: Path) -> None:
    """Copy what belongs to the repository."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)


def apply_diff(directory: Path, diff: str) -> None:
    """Change a copy as a page says."""
    subprocess.run(["patch", "-p1", "--no-backup-if-mismatch"], cwd=directory, input=diff, text=True, check=True)


async def pasted(text: str, directory: Path, *, leave_slow: bool, python: Path = PROGRAMS) -> str:
    """Return `text` with every console block as it is when its commands are pasted in order."""
    terminals = Terminals(directory, python)
    try:
        if NEEDS_SERVER.search("".join(block[0] for block in CONSOLE.finditer(text))):
            await terminals.paste("python run_server.py")
        blocks = []
        for block in CARRIED_OUT.finditer(text):
            if block["diff"]:
                apply_diff(directory, block["diff"])
            elif leave_slow and (block["session"] or "").startswith(SLOW):
                blocks.append(block[0])
            else:
                blocks.append(await _pasted_block(block, terminals))
    finally:
        await terminals.close()
    remaining = iter(blocks)
    return CONSOLE.sub(lambda match: next(remaining), text)


async def _pasted_block(block: re.Match[str], terminals: Terminals) -> str:
    """Return a block as it is when its commands are pasted."""
    if block["session"]:
        commands = [line[2:] for line in block["session"].splitlines() if line.startswith("$ ")]
        now = "".join([f"$ {command}\n{await terminals.paste(command)}" for command in commands])
        now = f"```console\n{now}```"
    else:
        printed = "".join([await terminals.paste(command) for command in block["commands"].splitlines()])
        now = f"```sh\n{block['commands']}```" + (f"\n\n```text\n{printed}```" if block["printed"] else "")
    now = now.replace(f"127.0.0.1:{terminals.codec_port}", CODEC_ADDRESS)
    now = now.replace(f"127.0.0.1:{terminals.http_port}", HTTP_ADDRESS)
    return now.replace(f"127.0.0.1:{terminals.port + 1000}", "localhost:8233")


def printed_by(command: str) -> str:
    """Return what a command prints on standard output; it has to end well."""
    return subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    ).stdout


WITH_COMMANDS = [page for page in PAGES if CONSOLE.search(page.read_text())]


@pytest.fixture(scope="module")
async def pages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quick_python: Path
) -> AsyncIterator[dict[Path, Awaitable[str]]]:
    """Begin to carry out the pages that are asked for, those with most commands first; they wait most of the time."""
    slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def carry_out(page: Path) -> str:
        # README.md's programs start from nothing.
        python = PROGRAMS if page == PAGES[0] else quick_python
        async with slots:
            return await pasted(page.read_text(), tmp_path_factory.mktemp(page.stem), leave_slow=True, python=python)

    names = " ".join(item.name for item in request.session.items if "commands_of_a_page" in item.name)
    asked_for = [page for page in WITH_COMMANDS if page.name in names]
    asked_for.sort(key=lambda page: page.read_text().count("\n$ "), reverse=True)
    tasks = {page: asyncio.ensure_future(carry_out(page)) for page in asked_for}
    yield dict(tasks)
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.timeout(290)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
async def test_the_commands_of_a_page_print_what_it_shows(page: Path, pages: dict[Path, Awaitable[str]]) -> None:
    text, now = page.read_text(), await pages[page]

    assert [normalized(block[0]) for block in CONSOLE.finditer(now)] == [
        normalized(block[0]) for block in CONSOLE.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_symbol_names_one_that_the_file_defines(page: Path) -> None:
    for symbol, path in SYMBOL_LINK.findall(page.read_text()):
        source = (page.parent / path).read_text()

        assert re.search(rf"^\s*(async )?(def|class) {symbol}\b|^{symbol}\b.* = ", source, re.MULTILINE), symbol


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_heading_that_is_linked_is_there(page: Path) -> None:
    for path, anchor in FILE_LINK.findall(page.read_text()):
        assert (page.parent / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (page.parent / path).read_text(), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_table_of_the_alternatives_counts_the_lines_of_their_programs() -> None:
    rows = re.findall(r"^\|.*\[(\w+)\.sh\].* (\d+) \|$", (ROOT / "docs" / "alternatives.md").read_text(), re.MULTILINE)

    assert len(rows) >= 8
    for name, lines in rows:
        (program,) = re.findall(r"peers/(\w+_order\.py)", (ROOT / "findings" / f"{name}.sh").read_text())[:1]
        assert len((ROOT / "findings" / "peers" / program).read_text().splitlines()) == int(lines), name


def test_every_script_of_the_findings_is_linked_from_a_page() -> None:
    linked = {
        Path(path).name for page in PAGES for path, _ in FILE_LINK.findall(page.read_text()) if "findings/" in path
    }

    assert {path.name for path in (ROOT / "findings").glob("*.sh")} <= linked


def test_the_readme_is_read_in_one_sitting() -> None:
    text = (ROOT / "README.md").read_text()

    assert len(text.splitlines()) <= MAX_README_LINES
    assert len(text.split()) <= MAX_README_WORDS


def test_the_milliseconds_of_the_readme_stand_in_its_picture() -> None:
    (sentence,) = re.findall(r"one order takes .+?instead of \d+\.", (ROOT / "README.md").read_text())
    figures = [figure for figure in re.findall(r"[\d.]+\d", sentence) if figure != "32"]

    assert len(figures) == 4
    for figure in figures:
        assert re.search(rf">{figure}[ <]", (ROOT / COSTS).read_text()), figure


async def test_the_standalone_activity_of_the_readme_is_carried_out(server: Server) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    mailed = []

    @activity.defn
    async def send_mail(customer: str) -> None:
        mailed.append(customer)

    names = {"Client": Client, "timedelta": timedelta, "send_mail": send_mail}
    lines = code.replace("localhost:7233", server.address).splitlines()
    exec("async def run():\n" + "".join(f"    {line}\n" for line in lines), names)
    async with Worker(await Client.connect(server.address), task_queue="mail", activities=[send_mail]):
        await names["run"]()  # type: ignore[operator]  # made by exec

    assert mailed == ["ada"]


def test_every_block_is_pasted_or_of_a_known_kind() -> None:
    kinds = {kind for page in PAGES for kind in re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)}

    # Of `sh`, the commands that install are CI's. `diff` is applied by test_contributing.
    assert kinds <= {"console", "sh", "mermaid", "python", "diff", "text"}


async def _update(directory: Path) -> None:
    pages = [ROOT / name for name in sys.argv[1:]] or PAGES
    for page in pages:
        text = page.read_text()
        if CONSOLE.search(text):
            (directory / page.name).mkdir()
            text = await pasted(text, directory / page.name, leave_slow=False)
            if COSTS in text and "bench" in text:
                shutil.copy(directory / page.name / COSTS, ROOT / COSTS)
        text = INCLUDED.sub(lambda match: f"<!-- {match[1]} -->\n{printed_by(match[1])}<!-- end -->", text)
        page.write_text(text)
    if not sys.argv[1:]:
        printed_by(f"python -m comparison killed-after-charge --svg {PICTURE}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(_update(Path(temporary)))
