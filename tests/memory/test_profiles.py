"""What a container's engine does where its arguments say nothing, by its build."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Launch
from backends.memory.profiles import Profile, build_of, profile
from backends.memory.settings import Settings
from backends.memory.spoken import Spoken
from backends.planned import settings_of

INVENTORY = Inventory.model_validate(
    {
        "version": 1,
        "name": "c",
        "nodes": [{"name": "mark", "address": "192.0.2.1"}],
        "tiers": [],
        "endpoints": [],
        "models": [{"name": "m", "file": "volume:v/m.gguf", "context": 8192, "gpu_layers": 12}],
    }
)
NEWEST = Settings(parallel=4, unified=True)
KNOWN = Settings(context=8192, gpu_layers=12, parallel=4, unified=True)


@pytest.mark.parametrize(
    ("texts", "build"),
    [
        (("b9284-afcda09d1", ""), 9284),
        ((None, "images.example/ggml-org/llama.cpp:server-cuda-b6401"), 6401),
        (("b0-unknown", "llama:server"), None),
        (("0.12.3", "sub1234"), None),
        ((None, None), None),
    ],
)
def test_which_build_it_is(texts: tuple[str | None, ...], build: int | None) -> None:
    assert build_of(*texts) == build


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (5000, Profile(flash=False, gpu_layers=0, parallel=1, unified=False, every_output=True)),
        (6325, Profile(flash=True, gpu_layers=None, parallel=1, unified=False, every_output=True)),
        (7079, Profile(flash=True, gpu_layers=None, parallel=4, unified=True, every_output=True)),
        (11549, Profile(flash=True, gpu_layers=None, parallel=4, unified=True, every_output=False)),
    ],
)
def test_what_it_does_by_itself(build: int, found: Profile) -> None:
    assert profile(build) == found
    assert profile(None) == profile(99_999)


@pytest.mark.parametrize(
    ("launch", "build", "said", "found"),
    [
        (Launch(), None, None, NEWEST),
        (Launch(), 5000, None, Settings(flash=False, gpu_layers=0, every_output=True)),
        (Launch(gpu_layers=-1), 11549, None, NEWEST),
        (Launch(parallel=2), 11549, None, Settings(parallel=2)),
        (Launch(parallel=-1), 11549, None, NEWEST),
        (Launch(parallel=2, unified=True), 11549, None, Settings(parallel=2, unified=True)),
        (Launch(unified=False), 11549, None, Settings(parallel=4)),
        (Launch(flash=False, cache_k="f32", cache_v="odd"), 11549, None, replace(NEWEST, flash=False, cache_k="f32")),
        (Launch("volume:v/m.gguf"), None, None, KNOWN),
        (Launch("volume:v/m.gguf", 20, 4096), None, None, replace(KNOWN, gpu_layers=20, context=4096)),
        (
            Launch(parallel=2),
            None,
            Spoken(context=512, slots=3, unified=True),
            replace(NEWEST, context=512, parallel=3),
        ),
    ],
)
def test_what_a_container_runs_with(launch: Launch, build: int | None, said: Spoken | None, found: Settings) -> None:
    assert settings_of(INVENTORY, launch, build, said) == found
