"""A file replaced as a whole, on a machine and in a volume: its bytes, its rights, what is kept, and why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ReachError
from backends.reach.docker import DockerRuntime
from backends.reach.local import LocalShell
from backends.reach.whole_file import KEPT, ShellFile, VolumeFile, whole_file
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec

ODD = b"a: \xff\x00 b\r\n" * 1000


@pytest.fixture
def file(tmp_path: Path) -> ShellFile:
    return ShellFile(LocalShell({"PATH": os.defpath}), str(tmp_path / "it's a $file.yaml"), "the file")


def rights(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}


async def test_a_file_is_kept_written_and_read_byte_for_byte(file: ShellFile, tmp_path: Path) -> None:
    path = tmp_path / "it's a $file.yaml"
    assert await file.read() is None
    assert await file.kept() is None
    await file.write(ODD)
    path.chmod(0o640)
    await file.keep()
    await file.write(b"")
    assert (await file.read(), await file.kept()) == (b"", ODD)
    assert rights(tmp_path) == {path.name: 0o640, path.name + KEPT: 0o640}
    await file.remove()
    assert await file.read() is None
    assert rights(tmp_path) == {path.name + KEPT: 0o640}


async def test_a_link_stays_one(file: ShellFile, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "it's a $file.yaml").symlink_to("real")
    await file.write(b"new")
    assert (tmp_path / "it's a $file.yaml").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


async def test_where_it_cannot_be_written_it_says_so(tmp_path: Path) -> None:
    file = ShellFile(LocalShell({"PATH": os.defpath}), str(tmp_path / "no/such/file"), "no/such/file on mark")
    with pytest.raises(ReachError, match="no/such/file on mark cannot be written: "):
        await file.write(b"x")
    with pytest.raises(ReachError, match="cannot be written"):
        await file.keep()


async def test_a_file_of_a_volume_through_whoever_has_it(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim")
    node = sim.add_node("gate")
    container = sim.add_container("gate", Spec("litellm", "litellm:1", volumes={"conf": "/app"}))
    async with sim:
        assert node.docker is not None
        config = node.docker.disk.real(container, "/app/c.yaml")
        config.parent.mkdir(parents=True)
        config.write_bytes(ODD)
        docker = DockerRuntime("gate", [str(node.docker_socket)])
        try:
            file, none = VolumeFile(docker, "conf", "c.yaml"), VolumeFile(docker, "other", "c.yaml")
            await file.keep()
            await file.write(b"new")
            assert (await file.read(), await file.kept()) == (b"new", ODD)
            assert await VolumeFile(docker, "conf", "more.yaml").read() is None
            with pytest.raises(ReachError, match=r"There is no more\.yaml in the volume conf yet"):
                await VolumeFile(docker, "conf", "more.yaml").write(b"x")
            with pytest.raises(ReachError, match="No container has the volume other"):
                await none.read()
            await file.remove()
            assert (await file.read(), await file.kept()) == (None, ODD)
            await container.stop()
            with pytest.raises(ReachError, match=r"c\.yaml in the volume conf cannot be removed: .*is not running"):
                await file.remove()
        finally:
            await docker.close()


async def test_who_names_what(tmp_path: Path) -> None:
    def shell(node: str) -> LocalShell:
        raise ReachError(f"asked {node}")

    with pytest.raises(ReachError, match="asked desk"):
        await whole_file("ssh:desk:/srv/c.yaml", "gate", None, shell, _nobody)
    with pytest.raises(ReachError, match="gate has no Docker"):
        await whole_file("volume:conf/c.yaml", "gate", None, shell, _nobody)
    here = await whole_file(str(tmp_path / "c.yaml"), "gate", None, shell, _nobody)
    await here.write(b"x")
    assert (tmp_path / "c.yaml").read_bytes() == b"x"


async def _nobody(node: str, kind: str) -> Any:
    return None
