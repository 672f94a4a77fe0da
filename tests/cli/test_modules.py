"""Which modules a fresh interpreter loads: the layers and the start-up time stand on it."""

from __future__ import annotations

import ast
import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.openai import OpenAi
from tests.cli.driving import PATIENCE, ROOT, environment

OURS = ("backends", "widgets", "tui")
RUN = """
from tui.cli import main
try:
    main({words!r})
except SystemExit as end:
    assert end.code == 0
"""


async def loaded_by(code: str) -> set[str]:
    """The modules that `code` makes a fresh interpreter load."""
    told = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before), file=sys.stderr)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", told, env=environment(), stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return set(err.decode().splitlines()[-1].split())


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in OURS}


async def test_backends_loads_nothing_beyond_itself() -> None:
    assert ours(await loaded_by("import backends")) == {"backends"}


async def test_the_version_costs_argparse_at_most() -> None:
    modules = await loaded_by(RUN.format(words=["--version"]))
    assert ours(modules) == {"tui", "tui.cli", "tui.version"}
    assert packages(modules) & {"textual", "rich", "pydantic", "asyncio", "httpx", "importlib", "tomllib"} == set()
    assert len(modules - await loaded_by("import argparse, contextlib")) < 10, sorted(modules)


async def test_status_loads_only_what_its_cluster_needs(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_endpoint("web", OpenAi(sim.world))
    async with sim:
        modules = await loaded_by(RUN.format(words=["status", "--cluster", str(sim.inventory_path)]))
    assert {"backends.world", "backends.engines.openai"} <= modules
    unneeded = {"textual", "asyncssh", "aiodocker", "httpx", "httpx_aiohttp", "cryptography", "widgets"}
    assert packages(modules) & unneeded == set()
    assert not [name for name in ours(modules) if name.startswith(("backends.simulator", "tui.screens", "tui.app"))]


async def test_the_first_frame_waits_for_no_library_that_it_does_not_draw_with() -> None:
    modules = await loaded_by("import tui.cli, tui.verbs.console, tui.app")
    later = {
        "aiohttp",
        "httpx",
        "asyncssh",
        "aiodocker",
        "cryptography",
        "multiprocessing",
        "psutil",
        "ruamel",
        "sqlite3",
    }
    assert packages(modules) & later == set()
    assert "backends.world" not in modules
    assert len(ours(modules)) <= 65, sorted(ours(modules))


async def test_no_plugin_of_another_package_is_looked_for(tmp_path: Path) -> None:
    """pydantic would read the entry points of every package that is installed, and run what it finds there."""
    told = RUN.format(words=["lint", "--cluster", str(tmp_path / "none.toml")]).replace("== 0", "== 2")
    looked = "from pydantic.plugin import _loader\nassert _loader._plugins is None"
    assert "pydantic" in packages(await loaded_by(f"{told}\n{looked}"))


@pytest.mark.parametrize("module", ["tui.actions", "tui.cli", "tui.verbs.status", "tui.verbs.queue", "backends.world"])
async def test_these_load_no_textual(module: str) -> None:
    assert packages(await loaded_by(f"import {module}")) & {"textual", "widgets"} == set()


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, at the top or inside, or as the text of one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("backends."):
            found.add(node.value)
    return found


def test_nobody_but_the_demo_knows_the_simulator() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        if any(name.startswith("backends.simulator") for name in imports(path))
    }
    assert {path for path in knowing if not path.startswith("backends/simulator/")} == {"tui/verbs/demo.py"}
