"""llama.cpp's own dry run: what is asked, what is answered, and when it is not asked at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import EndpointReading, Instant, ProbeResult, ProcedureReading, ProcedureState
from backends.cluster.words import Cause
from backends.dryrun import dry_run, starting
from backends.errors import CommandError, ReachError
from backends.memory.dryrun import answer, command
from backends.memory.settings import Settings
from backends.memory.spoken import Buffers
from backends.reach.runtime import Completed
from tests.memory.test_observed import cluster

ROWS = "MTL0 7401 814 517 \nHost 1280 0 154 \n"
"""As llama.cpp#22171 shows it; the words before them go to standard error."""
SAID = "0.00.196.882 I main: printing estimated memory in MiB to stdout (device, model, context, compute) ...\n"
NOW = Instant(1e9, 1e3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ROWS, (Buffers("MTL0", 7401, 814, 517), Buffers("Host", 1280, 0, 154))),
        (SAID + ROWS, (Buffers("MTL0", 7401, 814, 517), Buffers("Host", 1280, 0, 154))),
        ("CUDA0 1 2 3 \r\nhost 7 0 8\r\n", (Buffers("CUDA0", 1, 2, 3), Buffers("host", 7, 0, 8))),
        ("Host 680 38 514 \n", (Buffers("Host", 680, 38, 514),)),
        ("-c 4096 -ngl 99\n", ()),
        ("CUDA0 7401 814 517 \n", ()),
        ("CUDA0 7401 814\nHost 1 2 3 4\n", ()),
        ("", ()),
    ],
)  # fmt: skip
def test_what_it_answers(text: str, found: tuple[Buffers, ...]) -> None:
    assert answer(text) == found


def test_what_it_is_asked() -> None:
    asked = command("/models/a.gguf", Settings(context=4096, cache_k="q8_0"))
    flags = "--n-gpu-layers 99 --ctx-size 4096 --cache-type-k q8_0 --flash-attn on --fit-print on"
    assert " ".join(asked) == f"llama-fit-params --model /models/a.gguf {flags}"


class Answers:
    """A shell with one answer."""

    def __init__(self, found: Completed | Exception) -> None:
        self._found = found

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[object]:
        raise AssertionError("nothing is followed")


@pytest.mark.parametrize(
    ("found", "file", "said"),
    [
        (Completed(127, "", "sh: 1: llama-fit-params: not found"), "/a.gguf", "not on the PATH of mark"),
        (CommandError("no such program", status=127), "ssh:mark:/a.gguf", "not on the PATH of mark"),
        (TimeoutError(), "/a.gguf", "did not end within 60 s"),
        (Completed(1, "", "I ok\nerror: invalid argument: --fit-print\n"), "/a.gguf", "invalid argument: --fit-print"),
        (Completed(1, "", ""), "/a.gguf", "status 1"),
        (Completed(0, ROWS, ""), "volume:v/a.gguf", "needs a model's file there"),
        (Completed(0, ROWS, ""), "ssh:desk:/a.gguf", "needs a model's file there"),
    ],
)
async def test_what_goes_wrong_is_told(found: Completed | Exception, file: str, said: str) -> None:
    with pytest.raises(ReachError, match=said):
        await dry_run("mark", Answers(found), file, Settings())  # type: ignore[arg-type]


async def test_it_tells_nothing_of_what_it_does_not_know() -> None:
    with pytest.raises(ReachError, match="no unified cache"):
        await dry_run("mark", Answers(Completed(0, ROWS, "")), "/a.gguf", Settings(unified=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "state", "busy"),
    [(Cause.OK, "done", ""), (Cause.LOADING, "done", "a"), (Cause.OK, "running", "queue")],
)
def test_nothing_is_asked_beside_a_start(cause: Cause, state: str, busy: str) -> None:
    procedure = ProcedureState("1", "queue", "mark", "queue", "me", state, 1e9)
    readings = (EndpointReading("a", NOW, ProbeResult(cause, "", 0.1), 5.0), ProcedureReading(NOW, (procedure,)))
    snapshot = fold_all(cluster(), empty(cluster()), readings)
    assert starting(cluster(), snapshot, "mark") == busy
