"""What lies on a simulated engine's disk: volumes and the containers' own files, as real folders, and commands in them.

Commands are really run, by this machine's shell, with the paths among their words led into those folders: so what is
tried on the simulator means what it means elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import posixpath
import shutil
import tarfile
from pathlib import Path
from typing import Any

from backends.simulator.containers import SimContainer
from backends.simulator.docker_wire import DockerFault
from backends.simulator.world import rfc3339

_FOLDERS = ("", "tmp", "etc", "var", "app", "models")
"""The folders that every container has."""


class SimDisk:
    """The folders of one engine below `folder`, which appears with the first file; `full` refuses every further one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.volumes: dict[str, dict[str, str]] = {}
        """The volumes and their labels."""
        self.full = False
        self._commands: dict[str, tuple[SimContainer, list[str]]] = {}
        self._codes: dict[str, int] = {}

    def volume(self, name: str) -> Path:
        """Where a volume's files lie."""
        return self._folder / "volumes" / name

    def remove_volume(self, name: str) -> None:
        """It is gone with all that is in it."""
        del self.volumes[name]
        shutil.rmtree(self.volume(name), ignore_errors=True)

    def forget(self, container: SimContainer) -> None:
        """A removed container's own files are gone."""
        shutil.rmtree(self._folder / "containers" / container.id, ignore_errors=True)

    def real(self, container: SimContainer, path: str) -> Path:
        """Where a path of a container really is."""
        path = posixpath.normpath(posixpath.join("/", path))
        for source, target in container.spec.volumes.items():
            if path == target or path.startswith(f"{target}/"):
                root = Path(source) if source.startswith("/") else self.volume(source)
                return root / path[len(target) :].lstrip("/")
        return self._folder / "containers" / container.id / path.lstrip("/")

    def put(self, container: SimContainer, folder: str, packed: bytes, *, asked: str) -> None:
        """Unpack an archive into a folder of a container, `asked` for by that name or id."""
        where = self.real(container, folder)
        if folder.strip("/") not in _FOLDERS and not where.is_dir():
            raise DockerFault(404, f"Could not find the file {folder} in container {asked}")
        if self.full:
            raise DockerFault(500, f"Error processing tar file(exit status 1): write {folder}: no space left on device")
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                for member in tar.getmembers():
                    target, file = where / member.name, tar.extractfile(member) if member.isfile() else None
                    (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
                    if file is not None:
                        target.write_bytes(file.read())
                        target.chmod(member.mode)
        except tarfile.TarError as error:
            raise DockerFault(500, f"Error processing tar file: {error}") from None

    def get(self, container: SimContainer, path: str, *, asked: str) -> tuple[bytes, str]:
        """A file as an archive, and what Docker's header says of it; `asked` is the container's name or id."""
        file = self.real(container, path)
        if not file.is_file():
            raise DockerFault(404, f"Could not find the file {path} in container {asked}")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(file, posixpath.basename(path))
        status = file.stat()
        told = {"name": file.name, "size": status.st_size, "mode": status.st_mode & 0o777, "linkTarget": ""}
        told["mtime"] = rfc3339(status.st_mtime)
        return packed.getvalue(), base64.b64encode(json.dumps(told).encode()).decode()

    def read(self, container: SimContainer, path: str) -> str:
        """The text of a file; "" where there is none."""
        file = self.real(container, path)
        return file.read_text() if file.is_file() else ""

    def prepare(self, ident: str, container: SimContainer, body: dict[str, Any]) -> None:
        """A command to be run."""
        self._commands[ident] = container, [str(word) for word in body.get("Cmd") or []]

    async def run(self, ident: str) -> bytes:
        """Run it to its end; what it wrote."""
        if ident not in self._commands:
            raise DockerFault(404, f"No such exec instance: {ident}")
        container, words = self._commands[ident]
        for source in container.spec.volumes:
            self.volume(source).mkdir(parents=True, exist_ok=True)
        roots = tuple(container.spec.volumes.values())
        argv = [str(self.real(container, word)) if word.startswith(roots) else word for word in words]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            written, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._codes[ident] = process.returncode or 0
        return written

    def ended(self, ident: str) -> dict[str, Any]:
        """How it ended."""
        if ident not in self._commands:
            raise DockerFault(404, f"No such exec instance: {ident}")
        code = self._codes.get(ident)
        return {"ID": ident, "Running": code is None, "ExitCode": code, "ContainerID": self._commands[ident][0].id}
