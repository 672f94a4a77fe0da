"""Files into a Docker volume, a part at a time, so that a line that breaks costs one part and not the model.

Docker's archive API writes whole files only, and knows no "go on from here". So a helper container, made of an image
that is there already, has the volume and sleeps; each part comes as an archive of bounded size and is appended to the
rest inside the volume, where its length tells how far a copy has come. The helper has no network and no GPU.
"""

from __future__ import annotations

import posixpath
from typing import Any, Final

from backends.cluster.presets import MADE_BY, MODELS, labels
from backends.errors import ProcedureError, RuntimeFailure
from backends.reach import docker_words
from backends.reach.docker_store import DockerStore

PREFIX: Final = "tierdeck-copy-"
"""How the names of helpers begin."""

_PART, _WHOLE = "part", "whole"
_HASH_LIMIT, _HASH_RATE = 120.0, 20e6
_SLEEP = "exec sleep 604800"
_APPEND = 'cat "$1" >> "$2" && rm "$1"'
_FINISH = 'echo "$3" >> "$4" && mkdir -p "$(dirname "$2")" && mv "$1/whole" "$2" && rmdir "$1"'
_TAKE_BACK = (
    'cd "$1" && if [ -f "$2" ]; then while read -r f; do rm -f "$f"; d=$(dirname "$f"); '
    'while [ "$d" != . ]; do rmdir "$d" 2>/dev/null || break; d=$(dirname "$d"); done; done < "$2"; rm "$2"; fi; '
    'shift 2; rm -rf "$@"'
)


class VolumeHelper:
    """A container that has one volume; `deployment` is the token by which its maker knows it, and what it moved in."""

    def __init__(self, store: DockerStore, node: str, name: str, image: str, volume: str, deployment: str) -> None:
        self._store, self._node, self._image, self._volume = store, node, image, volume
        self.name, self._deployment = f"{PREFIX}{name}", deployment
        self._id = ""

    async def open(self) -> None:
        """Make it, or take it over; whatever ran in it before has ended."""
        there = await self._store.container(self.name)
        if there is not None:
            if there["Config"]["Labels"].get(MADE_BY) != self._deployment:
                raise ProcedureError(
                    f"{self._node} has a container {self.name} of another deployment.",
                    f"If that one is over: docker rm -f {self.name}",
                )
            self._id = str(there["Id"])
            await self._store.restart(self._id)
            return
        self._id = await self._store.create(self.name, self._body())
        try:
            await self._store.start(self._id)
        except RuntimeFailure as failure:
            await self.close()
            raise ProcedureError(
                f"{self._image} has no shell, which copying into a volume needs: {failure.message}",
                'Name an image of the node that has one: helper = "busybox:1.36".',
            ) from failure

    def _body(self) -> dict[str, Any]:
        return {
            "Image": self._image,
            "Entrypoint": ["/bin/sh", "-c", _SLEEP],
            "Cmd": [],
            "User": "0",
            "Labels": labels(self.name, self._deployment),
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "NetworkMode": "none",
                "RestartPolicy": {"Name": "no"},
                "Mounts": [{"Type": "volume", "Source": self._volume, "Target": MODELS}],
            },
        }

    async def close(self) -> None:
        """Remove it; what it copied so far stays in the volume."""
        there = await self._store.container(self.name)
        if there is not None and there["Config"]["Labels"].get(MADE_BY) == self._deployment:
            await self._store.remove(str(there["Id"]))

    async def size(self, path: str) -> int | None:
        """Bytes of a file in the volume; None where there is none."""
        return await self._store.size(self._id, posixpath.join(MODELS, path))

    async def copied(self, work: str) -> int:
        """How many bytes of a copy are there by now."""
        return await self.size(f"{work}/{_WHOLE}") or 0

    async def put(self, work: str, data: bytes) -> None:
        """Put the whole of a small file."""
        await self._store.put(self._id, MODELS, f"{work}/{_WHOLE}", data)

    async def append(self, work: str, data: bytes) -> None:
        """Append a part to what is there."""
        await self._store.put(self._id, MODELS, f"{work}/{_PART}", data)
        await self._run(_APPEND, f"{MODELS}/{work}/{_PART}", f"{MODELS}/{work}/{_WHOLE}")

    async def digest(self, path: str, size: int) -> str:
        """The SHA-256 of a file, as it stands in the volume."""
        limit = _HASH_LIMIT + size / _HASH_RATE
        words = await self._run('sha256sum "$1"', f"{MODELS}/{path}", limit=limit)
        return words.lstrip("\\").split(" ")[0]

    async def digest_of_copy(self, work: str, size: int) -> str:
        """The SHA-256 of a copy that is not in its place yet."""
        return await self.digest(f"{work}/{_WHOLE}", size)

    async def finish(self, work: str, target: str) -> None:
        """Move a whole copy to its place, and note that it is ours."""
        await self._run(_FINISH, f"{MODELS}/{work}", f"{MODELS}/{target}", target, f"{MODELS}/{self._mine}")

    async def free(self) -> int:
        """Free bytes of the disk on which the volume lies."""
        words = await self._run('df -Pk "$1" | tail -n 1', MODELS)
        fields = words.split()
        if len(fields) < 4 or not fields[3].isdecimal():
            raise ProcedureError(f"{self._node} does not tell how much disk is free: {words[:80] or 'no answer'}.")
        return int(fields[3]) * 1024

    async def discard(self, work: str) -> None:
        """Remove what is there of a copy."""
        await self._run('rm -rf "$1"', f"{MODELS}/{work}")

    async def take_back(self, works: list[str]) -> None:
        """Remove what this deployment moved in, and its unfinished copies."""
        await self._run(_TAKE_BACK, MODELS, self._mine, *works)

    @property
    def _mine(self) -> str:
        return f".tierdeck-{self._deployment}"

    async def _run(self, script: str, *words: str, limit: float = 120.0) -> str:
        done = await self._store.run(self._id, ["/bin/sh", "-c", script, "sh", *words], limit=limit)
        if done.status:
            raise docker_words.refusal(self._node, 500, done.words.strip() or f"exit code {done.status}")
        return done.words.strip()
