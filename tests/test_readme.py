"""Keeps the README true: pastes its commands, compares what they print, follows its links.

`python tests/test_readme.py` writes what the commands print now, the table and the line numbers into the README.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comparison.processes import ROOT, clean_environment, free_port, wait_until

README = ROOT / "README.md"
SERVICES = ("python run_server.py", "python run_worker.py")
TIMEOUT_SECONDS = 110

CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"<!-- python -m comparison --markdown -->\n(.*?)<!-- end -->", re.DOTALL)
LINE_LINK = re.compile(r"\[`([^`]+)`\]\(([\w./]+)#L(\d+)\)")
FILE_LINK = re.compile(r"\]\((?!https?:|#)([\w./-]+)")

# What differs from run to run, and from machine to machine.
VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d\.\d{3}\b"), "TIME"),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), "HOST"),
    (re.compile(r" +\d+(\.\d)?( ms|/s)?(?=$| )", re.MULTILINE), " N"),
)


def normalized(output: str) -> str:
    """Return output without what may differ."""
    for pattern, name in VARIABLE:
        output = pattern.sub(name, output)
    return output.strip()


class Terminals:
    """A copy of the repository in which commands are pasted: services in the background, on ports of their own."""

    def __init__(self, directory: Path) -> None:
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for name in files:
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, directory / name)
        self.directory = directory
        self.port = free_port()
        programs = directory / ".programs"
        programs.mkdir()
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / "python").chmod(0o755)
        self.environment = clean_environment(
            TEMPORAL_ADDRESS=f"127.0.0.1:{self.port}", PATH=f"{programs}:{os.environ['PATH']}"
        )
        self.services: dict[str, subprocess.Popen[bytes]] = {}

    async def paste(self, command: str) -> str:
        """Run one command and return what it prints; of a service, what it prints until it is up."""
        if command.startswith(SERVICES):
            return await self._start(command)
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            shell=True,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        return done.stdout

    async def _start(self, command: str) -> str:
        program = command.split()[1]
        await self._stop(program)
        if program == "run_server.py":
            command += f" --port {self.port}"
        log = self.directory / f"{program}.log"
        with log.open("wb") as output:
            # exec: a signal has to reach the program, not a shell before it.
            self.services[program] = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        ready = {"run_server.py": "Temporal UI:", "run_worker.py": "serving"}[program]
        await wait_until(lambda: ready in log.read_text(), f"{command} is up")
        return "".join(line for line in log.read_text().splitlines(keepends=True) if "serving" in line)

    async def _stop(self, program: str) -> None:
        service = self.services.pop(program, None)
        if service:
            if "crash" not in str(service.args):
                service.terminate()
            await asyncio.to_thread(service.wait, 30)

    async def close(self) -> None:
        """Stop what runs in the background."""
        for program in ("run_worker.py", "run_server.py"):
            await self._stop(program)


async def pasted(text: str, directory: Path) -> str:
    """Return `text` with every console block as it is when its commands are pasted in order."""
    terminals = Terminals(directory)
    try:
        await terminals.paste("python run_server.py")
        blocks = []
        for block in CONSOLE.findall(text):
            commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
            blocks.append("".join([f"$ {command}\n{await terminals.paste(command)}" for command in commands]))
            blocks[-1] = blocks[-1].replace(f"127.0.0.1:{terminals.port + 1000}", "localhost:8233")
    finally:
        await terminals.close()
    remaining = iter(blocks)
    return CONSOLE.sub(lambda match: f"```console\n{next(remaining)}```", text)


@pytest.mark.timeout(290)
async def test_the_commands_print_what_the_readme_shows(tmp_path: Path) -> None:
    text = README.read_text()

    now = await pasted(text, tmp_path)

    assert [normalized(block) for block in CONSOLE.findall(now)] == [
        normalized(block) for block in CONSOLE.findall(text)
    ]


def test_the_table_is_what_the_comparison_prints_and_every_cell_is_as_expected() -> None:
    (shown,) = TABLE.findall(README.read_text())

    done = subprocess.run(
        [sys.executable, "-m", "comparison", "--markdown"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )

    assert (done.returncode, done.stdout) == (0, shown)


@pytest.mark.parametrize(("code", "path", "line"), LINE_LINK.findall(README.read_text()))
def test_a_link_to_a_line_shows_what_it_names(code: str, path: str, line: str) -> None:
    assert code in (ROOT / path).read_text().splitlines()[int(line) - 1]


def test_every_file_that_is_linked_is_there() -> None:
    links = FILE_LINK.findall(README.read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_block_is_left_to_be_pasted_by_nobody() -> None:
    assert {line.removeprefix("```") for line in re.findall(r"^```\w+", README.read_text(), re.MULTILINE)} == {
        "sh",  # make demo, which CI runs
        "console",
        "mermaid",
        "text",  # the long soak
    }


def _write_line_numbers(text: str) -> str:
    def numbered(match: re.Match[str]) -> str:
        code, path, _ = match.groups()
        lines = (ROOT / path).read_text().splitlines()
        defined = [number for number, line in enumerate(lines, 1) if f"def {code}(" in line or f"{code} =" in line]
        found = defined or [number for number, line in enumerate(lines, 1) if code in line]
        return f"[`{code}`]({path}#L{found[0]})"

    return LINE_LINK.sub(numbered, text)


async def _update(directory: Path) -> None:
    text = await pasted(_write_line_numbers(README.read_text()), directory)
    table = subprocess.run(
        [sys.executable, "-m", "comparison", "--markdown"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    README.write_text(TABLE.sub(f"<!-- python -m comparison --markdown -->\n{table}<!-- end -->", text))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(_update(Path(temporary)))
