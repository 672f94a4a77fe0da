"""What a start says of its progress, and what past starts teach."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from backends.cluster.words import Cause
from backends.procedures.learned import Expected, Learned
from backends.procedures.loading import Loading
from tests.procedures.host import Box, Host
from tests.procedures.test_queue import carried, plan_for
from tests.procedures.test_runner import story

LLAMA = (
    "0.00.040 I llama_model_loader: loaded meta data with 21 key-value pairs and 57 tensors",
    "load_tensors:   CPU_Mapped model buffer size =   292.36 MiB",
    "load_tensors:        CUDA0 model buffer size =  7605.33 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB",
    "sched_reserve:      CUDA0 compute buffer size =   304.00 MiB",
    "sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB",
)


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03,  1.03s/it]", 0.25),
        ('time=2026-11-21 level=DEBUG msg="model load progress 0.42"', 0.42),
        ("." * 64, 0.64),
        ("load_tensors: loading model tensors, this can take a while... (mmap = true)", None),
        ("GET /health 200 in 30% of the time", None),
        ("...", None),
        ("", None),
    ],
)
def test_the_engines_own_words(line: str, share: float | None) -> None:
    loading = Loading(Expected())
    loading.take(line)
    figures = loading.figures(10.0)
    assert figures["progress"] == share
    assert figures["estimate"] is (share is None)


def test_the_memory_it_says_it_will_take() -> None:
    loading = Loading(Expected())
    for line in LLAMA:
        loading.take(line)
    assert loading.mib == pytest.approx(7605.33 + 448 + 304)
    assert loading.words("loading", 22.4, 3174.0) == "loading 22 s, VRAM 3.1/~8.2 GiB"


def test_past_starts_give_an_estimate_that_says_it_is_one_and_never_ends_early() -> None:
    loading = Loading(Expected(31.0, 4505.6))
    assert loading.words("loading", 22.0, 3174.4) == "loading 22/~31 s, VRAM 3.1/~4.4 GiB"
    assert loading.figures(15.5) == {"progress": 0.5, "estimate": True, "expected_s": 31.0, "expected_mib": 4505.6}
    assert loading.figures(90.0)["progress"] == 0.99
    loading.take("Loading safetensors checkpoint shards:  75% Completed | 3/4")
    assert (loading.figures(1.0)["progress"], loading.figures(1.0)["estimate"]) == (0.75, False)
    assert loading.words("loading", 2.0, None) == "loading 2/~31 s, 75% of its weights"
    loading.take("Loading safetensors checkpoint shards: 100% Completed | 4/4")
    assert loading.figures(15.5)["estimate"] is True


def test_nothing_known() -> None:
    loading = Loading(Expected())
    assert loading.words("starting", 3.0, None) == "starting 3 s"
    assert loading.figures(3.0) == {"progress": None, "estimate": True, "expected_s": None, "expected_mib": None}


def test_the_median_of_the_last_five_is_kept(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    assert learned.expect("mark", "a") == Expected()
    for seconds, mib in ((900.0, 1.0), (30.0, 4400.0), (31.0, None), (29.0, 4300.0), (33.0, 4500.0), (200.0, 4450.0)):
        learned.learn("mark", "a", seconds, mib)
    learned.learn("mark", "b", 5.04, None)
    again = Learned(tmp_path)
    assert again.expect("mark", "a") == Expected(31.0, 4425.0)
    assert again.expect("mark", "b") == Expected(5.0, None)
    assert again.expect("desk", "a") == Expected()
    (file,) = (tmp_path / "starts").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["version"] == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"starts": []}', b'{"starts": {"a": [1]}}', b"\xff"])
def test_a_damaged_file_is_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts" / "mark.json").write_bytes(content)
    learned = Learned(tmp_path)
    assert learned.expect("mark", "a") == Expected()
    learned.learn("mark", "a", 3.0, None)
    assert Learned(tmp_path).expect("mark", "a") == Expected(3.0)


def outputs(host: Host, learned: Learned) -> list[dict[str, object]]:
    events = carried(host, plan_for(host, *host.boxes), learned=learned)
    assert story(events)[-1] == "finished done"
    return [dict(e.detail) for e in events if e.event == "output" and isinstance(e.detail, dict)]


def test_the_second_start_knows_what_the_first_took(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    outputs(Host(Box("a", load=20.0, mib=4000.0)), learned)
    expected = Learned(tmp_path).expect("mark", "a")
    assert expected.seconds == pytest.approx(21.5, abs=0.5)
    assert expected.mib == pytest.approx(4000, abs=20)
    loading = [o for o in outputs(Host(Box("a", load=20.0, mib=4000.0)), learned) if o.get("expected_s")]
    assert "/~22 s, VRAM " in str(loading[10]["text"])
    assert "/~3.9 GiB (503 Loading model)" in str(loading[10]["text"])
    shares = [float(str(o["progress"])) for o in loading]
    assert shares == sorted(shares)
    assert all(o["estimate"] is True for o in loading)
    assert shares[-1] > 0.9


def test_what_its_engine_tells_of_its_loading_goes_before_an_estimate(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    outputs(Host(Box("a", load=20.0)), learned)

    async def shares(endpoint: str) -> AsyncGenerator[float, None]:
        assert endpoint == "remote/a"
        yield 0.25

    events = carried(host := Host(Box("a", load=20.0)), plan_for(host, "a"), learned=learned, shares=shares)
    told = [dict(e.detail) for e in events if e.event == "output" and isinstance(e.detail, dict)]
    loading = [o for o in told if o.get("expected_s")]
    assert {o["progress"] for o in loading[2:]} == {0.25}
    assert "25% of its weights" in str(loading[2]["text"])


def test_what_a_start_that_failed_or_was_found_running_took_is_not_learned(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    host = Host(Box("a", exits_after=2.0))
    carried(host, plan_for(host, "a"), learned=learned)
    host = Host(Box("a", ready_cause=Cause.CONFIG))
    carried(host, plan_for(host, "a"), learned=learned)
    assert not (tmp_path / "starts").exists()


def test_a_figure_that_cannot_be_kept_is_said_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text("in the way")
    host = Host(Box("a"))
    events = carried(host, plan_for(host, "a"), learned=Learned(tmp_path))
    assert story(events)[-1] == "finished done"
    assert "what it took is not remembered" in next(e.text for e in events if e.event == "step_done")
