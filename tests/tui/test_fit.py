"""The fit screen: models, context, layers and cache by keys, and the bar that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from backends.cluster.deploying import load_spec
from backends.cluster.files import parse
from backends.cluster.reading import Launch, ModelInfo, Workload
from backends.errors import ReachError
from backends.figures import Figures, Overhead
from backends.library import Found
from backends.memory.headers import Header, Tensor
from backends.memory.quants import KINDS
from tests.memory.gguf_files import TYPES
from tests.memory.models import Size, metadata, tensors
from tests.memory.test_observed import Scene, cluster
from tests.tui.driving import console, picture, shown, until
from tests.tui.sample import TOML, StillFeed
from tests.tui.test_deploy import write
from tests.tui.test_snapshots import SIZES
from tui.fitting import candidates
from widgets.fit import Candidate, changed

LARGE = Size(layers=64, embd=5120, heads=40, kv_heads=8, head=128, ff=27648, vocab=152064, context=32768, kind="Q4_K")


def header() -> Header:
    rows = tuple(Tensor(name, dims, KINDS[TYPES[kind][0]]) for name, dims, kind in tensors("qwen2", LARGE))
    return Header(metadata("qwen2", LARGE), rows)  # type: ignore[arg-type]


class FittingFeed(StillFeed):
    """Knows one large model, and none of any other name."""

    figures = Figures()

    @property
    def world(self) -> Any:
        return self

    async def find_model(self, name: str) -> Found:
        if "32b" not in name:
            raise ReachError(f"{name} is nowhere.")
        return Found(header(), 4096)


async def opened(app: Any, pilot: Any) -> None:
    await pilot.press("f")
    await until(lambda: " fits" in shown(app), "the first estimate")


@pytest.mark.parametrize("size", ["160x45", "80x24", "46x30"])
async def test_what_it_looks_like(size: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES[size], feed=FittingFeed) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await opened(app, pilot)
        assert await picture(app) == svg(name=f"fit-{size}")


async def test_the_bar_follows_the_arrow_keys(tmp_path: Path) -> None:
    async with console(tmp_path, size=(120, 40), feed=FittingFeed) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await opened(app, pilot)
        await pilot.press("j", "right", "right", "right", "right", "right")
        await until(lambda: "131072 tokens" in shown(app) and "does not fit" in shown(app), "too long a context")
        await until(lambda: "--n-gpu-layers" in shown(app), "the advice")
        await pilot.press("j", "j", "right", "right")
        await until(lambda: "< q4_0 >" in shown(app) and "% fits" in shown(app), "a smaller cache")
        await pilot.press("w")
        await until(lambda: "LLAMA_ARG_CTX_SIZE=131072" in shown(app), "the arguments")
        await pilot.press("escape")
        await until(lambda: "< q4_0 >" in shown(app), "back again")
        await pilot.press("g", "space")
        await until(lambda: "0.0 of" in shown(app), "nothing marked")
        await pilot.press("escape")
        await until(lambda: "Tiers" in shown(app), "the dashboard")


async def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    known = parse(TOML + '[[models]]\nname = "ghost"\nfile = "/nowhere"\n', Path("cluster.toml"))
    async with console(tmp_path, size=(120, 40), feed=FittingFeed, loaded=known) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await opened(app, pilot)
        await pilot.press("g", "space")
        await until(lambda: "is nowhere" in shown(app), "why")


@pytest.mark.parametrize(
    ("what", "step", "found"),
    [
        ("context", 1, 8192),
        ("context", -1, 2048),
        ("layers", 1, None),
        ("layers", -1, 64),
        ("cache", 1, "q8_0"),
        ("cache", -1, "f16"),
    ],
)
def test_a_step(what: str, step: int, found: object) -> None:
    each = Candidate("m", header=header())
    settings = changed(each, "context", -100)
    assert settings.context == 16384
    now = changed(Candidate("m", header=header(), settings=settings.__class__(context=4096)), what, step)
    assert {"context": now.context, "layers": now.gpu_layers, "cache": now.cache_k}[what] == found


async def test_what_was_learned_of_drivers_counts(tmp_path: Path) -> None:
    class Learned(FittingFeed):
        figures = Figures()

    async with console(tmp_path, size=(120, 40), feed=Learned) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        node = next(name for name, state in app.feed.snapshot.nodes.items() if state.gpus)
        Learned.figures.learn(Overhead(node, app.feed.snapshot.nodes[node].gpus[0].name, "CUDA", "b1"), "a@1", 312.0)
        await opened(app, pilot)
        assert "drivers keep 312 MiB" in shown(app)


def test_what_could_go_there() -> None:
    scene = Scene(
        box=Workload("a", "docker", "running", "a" * 64, launch=Launch("volume:v/m.gguf", 20, 4096, parallel=2))
    )
    (only,) = candidates(scene.inventory, scene.seen(), "mark")
    assert (only.name, only.marked, only.settings.gpu_layers) == ("volume:v/m.gguf", False, 20)
    assert (only.settings.context, only.settings.parallel, only.settings.unified) == (4096, 2, False)
    ollama = Scene(inventory=cluster("ollama"), models=(ModelInfo("q", True, context=8192), ModelInfo("later", False)))
    held, later = candidates(ollama.inventory, ollama.seen(), "mark")
    assert (held.marked, held.settings.context, later.marked, later.settings.context) == (True, 8192, False, 0)
    assert not any(each.marked for each in candidates(ollama.inventory, ollama.seen(), "desk"))


async def test_what_fits_is_handed_to_deployment(tmp_path: Path) -> None:
    loaded = parse(TOML, tmp_path / "cluster.toml")
    async with console(tmp_path, size=(120, 40), feed=FittingFeed, loaded=loaded) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await opened(app, pilot)
        await pilot.press("j", "right", "j", "j", "right", "right")
        await until(lambda: "< q4_0 >" in shown(app), "a smaller cache")
        await pilot.press("d")
        await until(lambda: "name of the container" in shown(app), "the first question")
        known = {"name of": "", "node (": "", "served by": ""}
        asked = {"image,": "llama:b1", "model:": "/srv/a.gguf", "port of": "3014"}
        left = {"context": "", "reference": "", "tasks (": ""}
        for words, answer in {**known, **asked, **left}.items():
            await until(lambda words=words: words in shown(app), words)
            await write(pilot, answer)
        path = tmp_path / "deployments" / "qwen2.5-32b.toml"
        await until(path.exists, "the file")
        spec = load_spec(path)
        assert (spec.node, spec.preset, spec.port, spec.context) == ("desk", "llama.cpp", 3014, 8192)
        assert list(spec.arguments[-6:]) == ["--cache-type-k", "q4_0", "--cache-type-v", "q4_0", "--flash-attn", "on"]


async def test_read_only_hands_nothing_on(tmp_path: Path) -> None:
    async with console(tmp_path, size=(120, 40), feed=FittingFeed, read_only=True) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await opened(app, pilot)
        assert "deploy" not in shown(app).splitlines()[-1]
        await pilot.press("d")
        await until(lambda: "< f16 >" in shown(app) or " fits" in shown(app), "the same screen")
