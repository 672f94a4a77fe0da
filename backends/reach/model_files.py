"""A model's files, wherever they lie: here, on a node, at an address, in a Hugging Face repository; read from any byte.

What breaks off can be gone on with: every stream begins where it is told to.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from pydantic import SecretStr

from backends.errors import ReachError, SshError
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.text import plain

if TYPE_CHECKING:
    import httpx

PIECE: Final = 4 << 20
"""Bytes that are read at once."""

SILENCE: Final = 60.0
"""Seconds for which a source may send nothing."""

DIGEST_RATE: Final = 20e6
"""Bytes a second at which a slow machine computes a SHA-256."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file: its name below the model's, "" where it is the model; its bytes; its SHA-256 where that is known.

    `mark` changes when its content does, as far as the source tells.
    """

    name: str
    size: int
    sha256: str = ""
    mark: str = ""


class ModelFiles(Protocol):
    """The files of one model; each call raises a ReachError that names the file."""

    async def files(self) -> Sequence[ModelFile]:
        """All of them."""
        ...

    def stream(self, file: ModelFile, offset: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of one, from `offset` on."""
        ...

    async def digest(self, file: ModelFile) -> str:
        """The SHA-256 of one as its own machine computes it; "" where it cannot be asked."""
        ...


def model_files(source: str, reaches: Reaches, token: SecretStr | None, environment: Mapping[str, str]) -> ModelFiles:
    """The files that a deployment names: a path of this machine, ssh:NODE:PATH, an address, hf:REPOSITORY@REVISION."""
    kind, _, rest = source.partition(":")
    if kind == "hf":
        if not (hub := environment.get("HF_ENDPOINT")):
            raise ReachError(f"{source}: HF_ENDPOINT is not set.", "Set it to the address of the hub, https://...")
        return HubFiles(rest, token, hub)
    if kind in ("http", "https"):
        return WebFiles(source, token)
    if kind == "ssh":
        node, _, path = rest.partition(":")
        return NodeFiles(reaches.known(node), path)
    return LocalFiles(source)


class LocalFiles:
    """A file of this machine, or a folder with all that is in it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    async def files(self) -> Sequence[ModelFile]:
        """The file, or those of the folder in the order of their names."""
        try:
            return await asyncio.to_thread(self._listed)
        except OSError as error:
            raise self._unread(error) from None

    def _listed(self) -> list[ModelFile]:
        if not self._path.is_dir():
            return [_local(self._path, "")]
        inside = sorted(each for each in self._path.rglob("*") if each.is_file())
        if not inside:
            raise ReachError(f"{self._path} is an empty folder.")
        return [_local(each, each.relative_to(self._path).as_posix()) for each in inside]

    @asynccontextmanager
    async def stream(self, file: ModelFile, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Its bytes."""
        try:
            opened = await asyncio.to_thread(self._at(file).open, "rb")
        except OSError as error:
            raise self._unread(error) from None

        async def pieces() -> AsyncGenerator[bytes, None]:
            opened.seek(offset)
            while piece := await asyncio.to_thread(opened.read, PIECE):
                yield piece

        try:
            async with aclosing(pieces()) as found:
                yield found
        except OSError as error:
            raise self._unread(error) from None
        finally:
            opened.close()

    async def digest(self, file: ModelFile) -> str:
        """Computed in a thread."""

        def compute() -> str:
            with self._at(file).open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()

        try:
            return await asyncio.to_thread(compute)
        except OSError as error:
            raise self._unread(error) from None

    def _at(self, file: ModelFile) -> Path:
        return self._path / file.name if file.name else self._path

    def _unread(self, error: OSError) -> ReachError:
        return ReachError(f"{self._path} cannot be read: {error.strerror or error}.", "Correct model in the file.")


def _local(path: Path, name: str) -> ModelFile:
    status = path.stat()
    return ModelFile(name, status.st_size, mark=str(status.st_mtime_ns))


class NodeFiles:
    """A file of another node, over its SSH connection; a folder is not read."""

    def __init__(self, reach: NodeReach, path: str) -> None:
        self._reach, self._path = reach, path

    async def files(self) -> Sequence[ModelFile]:
        """The file."""
        return [ModelFile("", await self._reach.size(self._path))]

    @asynccontextmanager
    async def stream(self, file: ModelFile, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Its bytes, by SFTP."""
        async with self._reach.file(self._path) as read:

            async def pieces() -> AsyncGenerator[bytes, None]:
                at = offset
                while piece := await read(at, PIECE):
                    at += len(piece)
                    yield piece

            async with aclosing(pieces()) as found:
                yield found

    async def digest(self, file: ModelFile) -> str:
        """As the node's own tool computes it, where it has one."""
        try:
            done = await self._reach.shell.run(["sha256sum", self._path], timeout=SILENCE + file.size / DIGEST_RATE)
        except (SshError, TimeoutError):
            return ""
        return done.stdout.lstrip("\\").split(" ")[0] if done.status == 0 else ""


class WebFiles:
    """What lies at one address, asked for in ranges."""

    def __init__(self, url: str, token: SecretStr | None) -> None:
        self._url, self._token = url, token

    async def files(self) -> Sequence[ModelFile]:
        """The file, by the size and the mark that its server tells."""
        async with _client(self._token) as client, _asked(client, self._url, 0, last=0) as answer:
            ranges = answer.headers.get("content-range", "").rpartition("/")[2]
            size = ranges or answer.headers.get("content-length", "")
            if not size.isdecimal():
                raise ReachError(f"{self._url} does not say how large it is.")
            return [ModelFile("", int(size), mark=answer.headers.get("etag", ""))]

    @asynccontextmanager
    async def stream(self, file: ModelFile, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Its bytes; a server without ranges sends the whole of it anew."""
        async with _streamed(self._url, self._token, offset) as pieces:
            yield pieces

    async def digest(self, file: ModelFile) -> str:
        """A server does not tell."""
        return ""


class HubFiles:
    """All files of a Hugging Face repository at one revision."""

    def __init__(self, words: str, token: SecretStr | None, hub: str) -> None:
        self._repository, _, self._revision = words.partition("@")
        self._token, self._hub = token, hub.rstrip("/")

    async def files(self) -> Sequence[ModelFile]:
        """What its API lists; large files with their SHA-256."""
        url = f"{self._hub}/api/models/{self._repository}/revision/{quote(self._revision, safe='')}?blobs=true"
        async with _client(self._token) as client, _asked(client, url, 0, last=None) as answer:
            try:
                listed = (await _whole(answer)).get("siblings") or []
            except ValueError:
                raise ReachError(f"{url} gives no list of files.") from None
        found = [_sibling(each) for each in listed if isinstance(each, dict)]
        if not found:
            raise ReachError(f"{self._repository} has no files at {self._revision}.")
        return found

    @asynccontextmanager
    async def stream(self, file: ModelFile, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Its bytes."""
        revision = quote(self._revision, safe="")
        url = f"{self._hub}/{self._repository}/resolve/{revision}/{quote(file.name)}"
        async with _streamed(url, self._token, offset) as pieces:
            yield pieces

    async def digest(self, file: ModelFile) -> str:
        """The list of files has told it, if at all."""
        return ""


def _sibling(told: dict[str, Any]) -> ModelFile:
    large = told.get("lfs") if isinstance(told.get("lfs"), dict) else {}
    name, size = told.get("rfilename"), told.get("size")
    if not isinstance(name, str) or not isinstance(size, int) or name.startswith("/") or ".." in name.split("/"):
        raise ReachError("The repository lists a file without a sound name and size.")
    digest = large.get("sha256") if large else ""
    return ModelFile(name, size, digest if isinstance(digest, str) else "", str(told.get("blobId") or ""))


# -- HTTP --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _client(token: SecretStr | None) -> AsyncGenerator[httpx.AsyncClient, None]:
    import httpx

    headers = {"Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    limits = httpx.Timeout(SILENCE, connect=20.0)
    async with httpx.AsyncClient(timeout=limits, headers=headers, follow_redirects=True, max_redirects=5) as client:
        yield client


@asynccontextmanager
async def _asked(
    client: httpx.AsyncClient, url: str, offset: int, *, last: int | None
) -> AsyncGenerator[httpx.Response, None]:
    """The answer to a GET from `offset` on; ReachError where it is none."""
    import httpx

    wanted = {"Range": f"bytes={offset}-{'' if last is None else last}"} if offset or last is not None else {}
    try:
        async with client.stream("GET", url, headers=wanted) as answer:
            if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise ReachError(
                    f"{url} answers {answer.status_code} {answer.reason_phrase}.",
                    "Say token, a reference to one that may read it, and accept the model's terms on its page.",
                )
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise ReachError(f"{url} answers {answer.status_code} {answer.reason_phrase}.")
            yield answer
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ReachError(f"{url} cannot be read: {plain(str(error)) or type(error).__name__}.") from None


@asynccontextmanager
async def _streamed(url: str, token: SecretStr | None, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
    async with _client(token) as client, _asked(client, url, offset, last=None) as answer:
        skipped = offset if answer.status_code == 200 else 0

        async def pieces() -> AsyncGenerator[bytes, None]:
            left = skipped
            async for piece in answer.aiter_raw():
                if len(piece) > left:
                    yield piece[left:]
                left = max(0, left - len(piece))

        async with aclosing(pieces()) as found:
            yield found


async def _whole(answer: httpx.Response) -> dict[str, Any]:
    import json

    found = bytearray()
    async for piece in answer.aiter_raw():
        found += piece
        if len(found) > 16 << 20:
            raise ReachError(f"{answer.url} sends more than any list of files.")
    told = json.loads(bytes(found))
    return told if isinstance(told, dict) else {}
