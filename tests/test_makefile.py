"""The Makefile: whatever became of an installation, the next `make` puts it right. Without the network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from comparison.stage.processes import ROOT, clean_environment

TARGETS = (
    ".venv",
    "demo",
    "test",
    "quick",
    "soak",
    "ablation",
    "findings",
    "picture",
    "check",
    "server",
    "worker",
    "order",
    "lock",
)
INSTALLING = "pip install"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the Makefile and a lock that names nothing to install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make to its end, as by hand, also inside of the `make test` that runs this."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "VIRTUAL_ENV")
    inherited = clean_environment(PIP_NO_INDEX="1")
    environment = {name: value for name, value in inherited.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=clone, env=environment, capture_output=True, text=True, timeout=100)


def python_whose_pip(clone: Path, does: str) -> str:
    """Write a Python that makes environments in which pip does as told; return the setting that makes use of it."""
    python = clone / "python"
    python.write_text(
        "#!/bin/sh\n"
        'test "$2" = venv || exit 0\n'
        "mkdir -p .venv/bin\n"
        f"printf '#!/bin/sh\\n{does}\\n' > .venv/bin/python\n"
        "chmod +x .venv/bin/python\n"
    )
    python.chmod(0o755)
    return f"PYTHON={python}"


def test_a_failed_installation_is_repeated_until_it_succeeds(clone: Path) -> None:
    runs = [make(clone, python_whose_pip(clone, does), ".venv") for does in ("exit 1", "exit 1", "exit 0", "exit 0")]

    assert [run.returncode for run in runs] == [2, 2, 0, 0]
    assert [INSTALLING in run.stdout for run in runs] == [True, True, True, False]


def test_a_changed_lock_is_installed(clone: Path) -> None:
    python = python_whose_pip(clone, "exit 0")
    make(clone, python, ".venv")
    os.utime(clone / ".venv" / "installed", (0, 0))  # older than the lock

    changed = make(clone, python, ".venv")

    assert changed.returncode == 0
    assert INSTALLING in changed.stdout


def test_every_target_installs_before_it_runs_anything(clone: Path) -> None:
    for target in TARGETS:
        lines = make(clone, "--dry-run", target).stdout.splitlines()

        (installing,) = [number for number, line in enumerate(lines) if INSTALLING in line]
        assert not any(line.startswith(".venv/bin/") for line in lines[:installing]), target


def test_help_lists_every_target(clone: Path) -> None:
    listed = [line.split()[0] for line in make(clone).stdout.splitlines()]

    assert listed == ["help", *TARGETS]


def test_an_environment_that_a_link_leads_to_is_not_emptied(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (clone / ".venv").symlink_to(elsewhere)

    made = make(clone, ".venv")

    assert made.returncode != 0
    assert "remove the link" in made.stdout
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
