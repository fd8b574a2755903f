"""Who may import whom: the table of the design, held against the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BEFORE = {"order_processor"}
PLUMBING = {f"plumbing.{path.stem}" for path in (ROOT / "plumbing").glob("*.py")}
PROGRAMS = {"order_processor", "workflows", "activities", "run_server", "run_worker", "run_workflow"}
AFTER = (PROGRAMS | PLUMBING) - BEFORE
SHOP = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "shop").rglob("*.py")}
OURS = PROGRAMS | PLUMBING | SHOP
# What the shop has for those that know no service: orders and outcomes, how they are read and printed, and errors.
DATA_TYPES = {"shop.orders", "shop.parsing", "shop.terminal.streams"}
ERRORS = {"shop.errors"}

# Beside the standard library. A package stands for everything in it.
ALLOWED = {
    **dict.fromkeys(SHOP, {"shop"}),
    "shop.stores.postgres": {"shop", "psycopg"},
    "shop.stores.pool": {"shop", "psycopg", "psycopg_pool"},
    "order_processor": {"shop"},
    "activities": {"temporalio", "shop"},
    "workflows": {"temporalio", "activities", "shop.orders", *ERRORS},
    **dict.fromkeys(PLUMBING, {"temporalio", "rich", "plumbing"}),
    "plumbing.tracing": {"temporalio", "opentelemetry", "plumbing"},
    "plumbing.encryption": {"temporalio", "cryptography", "plumbing"},
    "run_server": set[str](),
    "run_worker": {"temporalio", "plumbing", "activities", "workflows", "shop"},
    "run_workflow": {"temporalio", "plumbing", "workflows", *DATA_TYPES},
}


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_in(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported anywhere below `tree`, in functions, too; relative ones keep their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from shop import keys` imports a module, `from shop.keys import key` a name out of one.
            is_package = (ROOT / module.replace(".", "/")).is_dir()
            yield from (f"{module}.{alias.name}" if is_package else module for alias in node.names)


@cache
def imports_of(module: str) -> set[str]:
    return set(imports_in(tree_of(path_of(module))))


def is_within(module: str, packages: set[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:length]) in packages for length in range(1, len(parts) + 1))


def reached_from(module: str) -> set[str]:
    """Return the modules of this repository that importing `module` imports, directly or not."""
    reached, waiting = set[str](), [module]
    while waiting:
        new = imports_of(waiting.pop()) & OURS - reached
        reached |= new
        waiting += new
    return reached


def test_the_top_level_holds_the_programs_and_no_other_python_file() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == PROGRAMS


def test_python_files_are_in_known_folders_and_none_among_the_docs() -> None:
    folders = {path.parent.name for path in ROOT.glob("[!.]*/*.py")}

    assert folders - {"findings"} == {"comparison", "examples", "plumbing", "shop", "tests"}
    assert (ROOT / "examples" / "northwind").is_dir()
    assert [*(ROOT / "docs").rglob("*.py")] == []


def test_examples_know_neither_the_comparison_nor_the_tests() -> None:
    imported = {name for path in (ROOT / "examples").rglob("*.py") for name in imports_in(tree_of(path))}

    assert imported
    assert not {name for name in imported if is_within(name, {"comparison", "tests", "conftest"})}


def test_findings_know_nothing_of_the_product_but_the_peers_the_shop() -> None:
    paths = [*(ROOT / "findings").rglob("*.py")]
    product = {path.name for path in ROOT.iterdir() if path.is_dir()} | PROGRAMS
    imported = {name for path in paths for name in imports_in(tree_of(path)) if is_within(name, product)}

    assert {path.parent.name for path in paths} == {"peers"}
    assert imported
    assert not {name for name in imported if not is_within(name, {"shop"})}


def test_no_module_is_named_after_nothing() -> None:
    modules = [path for folder in ("", "shop", "plumbing", "comparison", "tests") for path in (ROOT / folder).glob("*")]

    assert len(modules) > len(OURS)
    assert not {path.stem for path in modules} & {"utils", "util", "shared", "helpers", "common"}


def test_each_module_imports_only_what_the_design_lets_it() -> None:
    refused = [
        f"{module} imports {name}"
        for module, allowed in ALLOWED.items()
        for name in imports_of(module)
        if not is_within(name, {*sys.stdlib_module_names, *allowed})
    ]

    assert refused == []


def test_no_module_imports_by_a_way_that_these_tests_do_not_see() -> None:
    for module in ALLOWED:
        tree = tree_of(path_of(module))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

        assert not names & {"__import__", "exec", "eval"}, module
        # `find_spec` looks for a module and does not import it.
        used = {name for name in {*attributes, *imports_of(module)} if is_within(name, {"importlib"})}
        assert used <= {"importlib.util", "importlib.util.find_spec"}, module


def test_the_workflow_imports_this_repository_only_through_the_sandbox() -> None:
    tree = tree_of(path_of("workflows"))
    passed_through = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and [ast.unparse(item.context_expr) for item in node.items] == ["workflow.unsafe.imports_passed_through()"]
        for name in imports_in(node)
    }

    assert passed_through == imports_of("workflows") & OURS
    assert passed_through


def test_no_module_imports_itself_by_a_detour() -> None:
    assert [module for module in OURS if module in reached_from(module)] == []


@pytest.mark.parametrize(("modules", "others"), [(BEFORE, AFTER), (AFTER, BEFORE), (SHOP, PROGRAMS | PLUMBING)])
def test_the_versions_do_not_know_each_other_and_the_shop_knows_neither(modules: set[str], others: set[str]) -> None:
    reached = {name for module in modules for name in reached_from(module)}

    assert reached & others == set()
    assert reached & SHOP


def test_a_starter_imports_nothing_that_only_workers_bars_keys_and_traces_need() -> None:
    program = "import run_workflow, sys; print(*sys.modules)"

    imported = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not {"temporalio.worker", "rich", "cryptography", "opentelemetry"} & set(imported.stdout.split())
