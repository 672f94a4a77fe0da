"""Prometheus text: every figure that is known, none that is not, and labels that cannot break out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from backends.cluster.files import parse
from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import EndpointReading, ProbeResult
from backends.cluster.snapshot import Work
from backends.cluster.words import Cause
from backends.exports.metrics import prometheus_text
from tests.tui.sample import NOW, TOML, loaded, snapshot

LINE = re.compile(r'[a-z_]+(\{([a-z]+="(\\.|[^"\\\n])*",?)*\})? -?[0-9.e+-]+')


def values(text: str) -> dict[str, float]:
    rows = [row for row in text.splitlines() if not row.startswith("#")]
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in rows}


def test_every_line_is_well_formed_and_no_series_comes_twice() -> None:
    text = prometheus_text(loaded().inventory, snapshot())
    rows = text.splitlines()
    for row in rows:
        assert row.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(row), row
    assert len(rows) == len(set(rows))
    families = [row.split()[2] for row in rows if row.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_what_is_known_is_told() -> None:
    found = snapshot()
    busy = replace(found.endpoints["remote/mark-v"], work=Work(38.5, 2, 7, 40))
    text = prometheus_text(loaded().inventory, replace(found, endpoints={**found.endpoints, "remote/mark-v": busy}))
    told = values(text)
    mark = 'endpoint="remote/mark-v",tier="REMOTE",node="mark",engine="llama.cpp"'
    assert told[f"tierdeck_endpoint_up{{{mark}}}"] == 1
    assert told[f'tierdeck_endpoint_verdict{{{mark},verdict="UP"}}'] == 1
    assert told[f'tierdeck_endpoint_verdict{{{mark},verdict="DOWN"}}'] == 0
    assert told[f"tierdeck_endpoint_latency_seconds{{{mark}}}"] == 0.012
    assert told[f"tierdeck_endpoint_tokens_per_second{{{mark}}}"] == 38.5
    assert told[f"tierdeck_endpoint_requests_waiting{{{mark}}}"] == 7
    assert told[f"tierdeck_endpoint_kv_cache_ratio{{{mark}}}"] == 0.4
    gpu = 'node="desk",gpu="0",name="NVIDIA GeForce RTX 5090"'
    assert told[f"tierdeck_gpu_memory_used_bytes{{{gpu}}}"] == 24678 * 2**20
    assert told['tierdeck_task_served{task="vision"}'] == 0
    assert told['tierdeck_tier_state{tier="NAS",state="HEALTHY"}'] == 1


def test_what_is_not_known_is_left_out() -> None:
    text = prometheus_text(loaded().inventory, snapshot())
    assert 'latency_seconds{endpoint="remote/mark-iv"' not in text
    assert "tokens_per_second" not in text
    assert 'gpu_memory_used_bytes{node="mark"' not in text


def test_a_name_from_outside_breaks_nothing() -> None:
    found = snapshot()
    (gpu,) = found.nodes["desk"].gpus
    nasty = replace(found.nodes["desk"], gpus=(replace(gpu, name='a"} 1\nevil 1 \\'),))
    text = prometheus_text(loaded().inventory, replace(found, nodes={**found.nodes, "desk": nasty}))
    for row in text.splitlines():
        assert row.startswith("# ") or LINE.fullmatch(row), row


def test_checks_are_told_by_their_kind() -> None:
    check = '[[checks]]\nname = "nas/backup"\ntier = "NAS"\nkind = "age"\npath = "/b"\nlimit = "1d"\n'
    inventory = parse(f"{TOML}\n{check}", Path("cluster.toml")).inventory
    read = EndpointReading("nas/backup", NOW, ProbeResult(Cause.OK, "newest: b, 3 h old (limit 24 h)"), 60.0)
    told = values(prometheus_text(inventory, fold_all(inventory, empty(inventory), [read])))
    assert told['tierdeck_endpoint_up{endpoint="nas/backup",tier="NAS",node="",engine="age"}'] == 1
