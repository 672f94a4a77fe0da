"""The installed program: the wheel holds our three packages and nothing else, and works from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.driving import PATIENCE, ROOT, Terminal

PACKAGES = ("tui", "widgets", "backends")
DATA = {"tui/app.tcss", "tui/web/app_index.html", "backends/routing/cues.txt", "backends/routing/table.bin"}
"""All in the packages that is not Python."""
SHARED = {
    "share/man/man1/tierdeck.1",
    "share/bash-completion/completions/tierdeck",
    "share/zsh/site-functions/_tierdeck",
    "share/fish/vendor_completions.d/tierdeck.fish",
}


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder that is not ours, where nothing tells it where our packages lie."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("tierdeck-*.whl")
    return path


@dataclass(frozen=True)
class Installed:
    """An environment of its own: the wheel's packages and the libraries of the one the tests run in, not ours there."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def tierdeck(self) -> Path:
        return self.folder / "bin" / "tierdeck"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel installed without a network; a .pth file lends the libraries (and is not followed into theirs)."""
    made = Installed(tmp_path_factory.mktemp("venv"))
    elsewhere = made.folder
    for words in (
        (sys.executable, "-m", "venv", "--without-pip", made.folder),
        (sys.executable, "-m", "pip", "--python", made.python, "install", "--no-deps", "--no-index", "--quiet", wheel),
    ):
        done = run(*words, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
    (site,) = made.folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return made


def test_it_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (points,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt"))
    shared = {name for name in names if ".data/data/" in name}
    inside = {name for name in names - shared if ".dist-info/" not in name}
    python = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert inside == python | DATA
    assert {name.partition("/data/")[2] for name in shared} == SHARED
    assert {name.split("/")[0] for name in names - inside - shared} == {wheel.name.partition("-py3")[0] + ".dist-info"}
    assert "tierdeck = tui.cli:main" in points
    assert "Requires-Dist: textual" in metadata
    assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "pytest" in line]


def test_it_runs_from_another_folder(installed: Installed, tmp_path: Path) -> None:
    """Even from one with packages of the same names."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "cluster.toml").write_text('version = 1\nname = "x"\n')
    where = run(
        installed.python, "-P", "-c", "import tui, backends; print(tui.__file__, backends.__file__)", cwd=tmp_path
    )
    assert where.stdout.count(str(installed.folder)) == 2, where
    version = run(installed.tierdeck, "--version", cwd=tmp_path)
    assert (version.returncode, version.stdout.split()[0], version.stderr) == (0, "tierdeck", "")
    schema = run(installed.tierdeck, "schema", cwd=tmp_path)
    assert json.loads(schema.stdout)["properties"]["endpoints"]
    status = run(installed.tierdeck, "status", "--json", "--cluster", "cluster.toml", cwd=tmp_path)
    assert (status.returncode, status.stderr, json.loads(status.stdout)["cluster"]) == (3, "", "x")


async def test_its_console_opens(installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its style sheet, on the embedded cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    async with Terminal("demo", command=(str(installed.tierdeck),), env={"PYTHONPATH": ""}) as terminal:
        await terminal.sees("lumina", "DEMO", "LOCAL", "REMOTE", "NAS", "GATEWAY")
        terminal.type("q")
        assert await terminal.ended() == 0, terminal.text[-3000:]
