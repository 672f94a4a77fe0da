"""A cluster at a moment, for snapshots: one tier well, one ill, one asleep; a procedure under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from backends.clock import SystemClock
from backends.cluster.files import Loaded, parse
from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import (
    EndpointReading,
    Gpu,
    GpuReading,
    Instant,
    ModelInfo,
    ProbeResult,
    ProcedureReading,
    ProcedureState,
    Reading,
    StepState,
    Tick,
    Trouble,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.engines.chat import ChatEvent, Delta, Finished, Started
from tui.feed import Feed

TOML = """
version = 1
name = "lumina"

[[nodes]]
name = "desk"
address = "10.0.10.5"
gpus = "nvidia"

[[nodes]]
name = "mark"
address = "10.0.10.20"
ssh = { user = "ops" }
gpus = "nvidia"
queue = { order = ["mark-v", "mark-iii", "mark-iv"] }

[[nodes]]
name = "nas"
address = "10.0.10.30"
ssh = { user = "ops" }

[[tiers]]
name = "LOCAL"
[[tiers]]
name = "REMOTE"
[[tiers]]
name = "NAS"
[[tiers]]
name = "GATEWAY"

[[endpoints]]
name = "local/ollama"
tier = "LOCAL"
node = "desk"
engine = "ollama"
url = "http://10.0.10.5:11434"
tasks = ["chat", "reason"]

[[endpoints]]
name = "remote/mark-v"
tier = "REMOTE"
node = "mark"
engine = "llama.cpp"
url = "http://10.0.10.20:3013"
container = "mark-v"
tasks = ["code"]

[[endpoints]]
name = "remote/mark-iii"
tier = "REMOTE"
node = "mark"
engine = "llama.cpp"
url = "http://10.0.10.20:3011"
container = "mark-iii"
tasks = ["vision"]

[[endpoints]]
name = "remote/mark-iv"
tier = "REMOTE"
node = "mark"
engine = "vllm"
url = "http://10.0.10.20:3012"
container = "mark-iv"
tasks = ["embed"]

[[endpoints]]
name = "nas/coder"
tier = "NAS"
node = "nas"
engine = "llama.cpp"
url = "http://10.0.10.30:8080"
container = "coder"
tasks = ["code", "fast"]

[[endpoints]]
name = "gateway/litellm"
tier = "GATEWAY"
node = "nas"
engine = "litellm"
url = "http://10.0.10.30:4000"
tasks = ["chat"]
"""

NOW = Instant(1_795_249_964.0, 1000.0)


def loaded() -> Loaded:
    return parse(TOML, Path("cluster.toml"))


def _probe(name: str, cause: Cause, evidence: str, *models: str, latency: float | None = 0.012) -> EndpointReading:
    found = tuple(ModelInfo(model, loaded=True, vram_mib=20275.0 if "32b" in model else None) for model in models)
    return EndpointReading(name, NOW, ProbeResult(cause, evidence, latency, found), 5.0)


def readings() -> list[Reading]:
    started = NOW.wall - 22
    return [
        WorkloadReading(
            "mark",
            NOW,
            (
                Workload("mark-v", "docker", "running", id="a" * 64, gpu=True, started_at=NOW.wall - 900),
                Workload("mark-iii", "docker", "running", id="b" * 64, gpu=True, started_at=started),
                Workload("mark-iv", "docker", "exited", id="c" * 64, gpu=True, exit_code=1, restart_policy="always"),
            ),
        ),
        WorkloadReading("nas", NOW, (Workload("coder", "docker", "running", id="d" * 64, started_at=NOW.wall - 9000),)),
        _probe("local/ollama", Cause.OK, "answered; 2 models", "qwen2.5:32b", "nomic-embed-text"),
        _probe("remote/mark-v", Cause.OK, "answered; 1 model", "mistral-nemo-12b"),
        _probe("remote/mark-iii", Cause.LOADING, "503 Loading model", latency=0.004),
        _probe("remote/mark-iv", Cause.REFUSED, "connect refused by 10.0.10.20:3012", latency=None),
        _probe("nas/coder", Cause.SLEEPING, "asleep; loads on demand", "qwen2.5-coder-7b", latency=0.08),
        _probe("gateway/litellm", Cause.CONFIG, "401 on /v1/models: API key missing or wrong", latency=0.02),
        GpuReading("desk", NOW, (Gpu(0, "NVIDIA GeForce RTX 5090", "GPU-1", 32607.0, 24678.0, 71.0, 63.0, 410.0),)),
        GpuReading(
            "mark",
            NOW,
            trouble=Trouble("mark refuses SSH (10.0.10.20:22).", "Is its SSH server running?"),
        ),
        ProcedureReading(
            NOW,
            (
                ProcedureState(
                    "20261121-031200-ab12",
                    "queue",
                    "mark",
                    "Start queue of mark",
                    "ops@desk",
                    "running",
                    NOW.wall - 36,
                    (
                        StepState("mark-v", "done", "ready", NOW.wall - 36, NOW.wall - 22),
                        StepState("mark-iii", "running", "VRAM 3.1 of ~4.4 GiB", NOW.wall - 22),
                        StepState("mark-iv", "waiting", "waits for mark-iii"),
                    ),
                    ("mark-v", "mark-iii", "mark-iv"),
                ),
            ),
        ),
        Tick(NOW),
    ]


def snapshot() -> ClusterSnapshot:
    inventory = loaded().inventory
    return fold_all(inventory, empty(inventory, "desk"), readings())


class CannedWorld:
    """Answers every prompt with the same words and figures, and counts nothing."""

    def __init__(self) -> None:
        self.inventory = loaded().inventory

    async def chat(self, endpoint: str, *_: Any, model: str | None = None) -> AsyncGenerator[ChatEvent, None]:
        yield Started(0.0, model)
        yield Delta("The person wants a mean over a window; running sums are simplest.", reasoning=True)
        yield Delta(ANSWER if endpoint != "gateway/litellm" else ANSWER.partition("```")[0])
        fast = endpoint == "remote/mark-v"
        yield Finished(3.1, 0.412, 21, 96, 38.0 if fast else 11.0, "stop")

    async def count_tokens(self, *_: Any) -> dict[str, int]:
        return {}


ANSWER = """## Moving average

Keep *running sums*, so that each window costs **one subtraction**:

```python
def moving_average(values, width):
    sums = [0.0, *itertools.accumulate(values)]
    return [(b - a) / width for a, b in zip(sums, sums[width:])]
```

- `width` must not be larger than the list
- an empty list gives an empty list
"""


class StillClock(SystemClock):
    """A clock that stands."""

    def now(self) -> Instant:
        return NOW


class StillFeed(Feed):
    """Publishes the sample once and opens no world."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.clock = StillClock()
        self.nudged: list[str | None] = []

    async def run(self) -> None:
        before = self.live.snapshot
        self.live.snapshot = snapshot()
        self.live._publish(before, self.live.snapshot)
        await asyncio.Event().wait()

    def nudge(self, topic: str | None) -> int:
        self.nudged.append(topic)
        return 1
