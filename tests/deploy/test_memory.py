"""What does not fit into a node's GPUs: refused with the figures, and forced only by whoever has read what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import Inadvisable
from tests.cli.driving import tierdeck
from tests.cli.test_queue import cluster
from tests.deploy.carrying import take_back, words
from tests.deploy.conftest import IMAGE, Site, free_port
from tests.memory.gguf_files import write
from tests.memory.models import Size, metadata, tensors

SMALL = 2048.0
"""MiB of the node's GPU here; less than the simulated engine takes."""

FIGURES = r"It does not fit: GPU0 needs \d+\.\d of [12]\.\d GiB free\."
OUT_OF_MEMORY = "it will run out of memory as it starts, or push others out; then the plan offers to take all back."


@pytest.fixture
def tight(site: Site) -> Site:
    """The node's one GPU is read, and small; the model is small, too, but not what it keeps of its context."""
    site.sim.nodes["mark"].host.gpus[0].memory_total_mib = SMALL
    site.cluster.write_text(site.cluster.read_text().replace('gpus = "none"', 'gpus = "nvidia"'))
    size = Size(layers=2, embd=256, ff=512, vocab=512)
    site.model = write(site.folder / "small.gguf", metadata("llama", size), tensors("llama", size))
    return site


async def test_it_is_refused_with_the_figures_and_what_would_happen(tight: Site) -> None:
    before = tight.state()
    with pytest.raises(Inadvisable, match=FIGURES) as refused:
        await tight.plan(tight.spec(context=4_000_000))
    assert refused.value.consequence == OUT_OF_MEMORY
    assert f"--force goes on all the same: {OUT_OF_MEMORY}" in str(refused.value)
    plan = await tight.plan(tight.spec(context=512))
    assert any(line.startswith("GPU memory: GPU0 needs 0.") for line in plan.why), plan.why
    assert tight.state() == before


async def test_forced_it_warns_goes_on_runs_out_of_memory_and_is_taken_back(tight: Site) -> None:
    before = tight.state()
    plan = await tight.plan(tight.spec(context=4_000_000), force=True)
    assert any(w.startswith("It does not fit: GPU0") and w.endswith(f"Forced: {OUT_OF_MEMORY}") for w in plan.warnings)
    events = await tight.carry_out(plan, ask=take_back)
    failed = next(e for e in events if e.event == "step_failed")
    assert plan.steps[failed.step or 0].kind == "start_container", words(events)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert tight.state() == before


async def test_by_command(tight: Site, tmp_path: Path) -> None:
    env = cluster(tight.sim) | {"TIERDECK_STATE": str(tmp_path / "own")}
    path = tmp_path / "coder.toml"
    lines = ['name = "coder"', 'node = "mark"', 'preset = "llama.cpp"', f'image = "{IMAGE}"', f"port = {free_port()}"]
    path.write_text("\n".join(["version = 1", *lines, f'model = "{tight.model}"', "context = 4000000", ""]))
    refused = await tierdeck("deploy", str(path), "--dry-run", env=env)
    assert (refused.code, refused.out) == (1, "")
    assert "It does not fit: GPU0 needs " in refused.err
    assert f"--force goes on all the same: {OUT_OF_MEMORY}" in refused.err
    forced = await tierdeck("deploy", str(path), "--dry-run", "--force", env=env)
    assert forced.code == 0, forced.err
    assert f"Forced: {OUT_OF_MEMORY}" in forced.out
