"""Configurations for other monitors: their shapes, their addresses, and that no secret is in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml

from backends.cluster.engines import ENGINES as FACTS
from backends.cluster.files import parse
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import Work
from backends.engines.registry import ENGINES
from backends.errors import ProcedureError
from backends.exports.grafana import grafana
from backends.exports.metrics import prometheus_text
from backends.exports.monitors import gatus, homepage, prometheus
from backends.exports.watching import watch_unit
from backends.yaml import yaml
from tests.cli.driving import tierdeck
from tests.tui.sample import snapshot

TOML = """
version = 1
name = "home: #1"
[[nodes]]
name = "nas"
address = "10.0.10.30"
ssh = { user = "ops" }
[[tiers]]
name = "A"
[[endpoints]]
name = "a/ollama"
tier = "A"
node = "nas"
engine = "ollama"
url = "http://localhost:11434"
[[endpoints]]
name = "a/vllm"
tier = "A"
node = "nas"
engine = "vllm"
url = "https://10.0.10.30:8000/proxy"
api_key = "env:VLLM_KEY"
slow = "500ms"
[[endpoints]]
name = "a/router"
tier = "A"
engine = "litellm"
url = "http://10.0.10.30:4000"
api_key = "keyring:tierdeck/router"
metrics_url = "http://10.0.10.30:9000/own"
[[endpoints]]
name = "hidden"
tier = "A"
node = "nas"
engine = "llama.cpp"
url = "http://127.0.0.1:1"
via = "ssh"
"""


@pytest.fixture
def inventory() -> Inventory:
    return parse(TOML, Path("cluster.toml")).inventory


@pytest.mark.parametrize(
    "data",
    [
        {"a": {"b": [1, 2.5, True, None, "x"]}, "c": []},
        [{"n: o": "yes", "1": "012"}, {"deep": [{"x": [{"y": "z"}], "w": {}}]}],
        {"text": 'a "b" \n# c: d \\ é\u2028 \U0001f600'},
    ],
)
def test_yaml_reads_back(data: Any) -> None:
    assert pyyaml.safe_load(yaml(data)) == data


def test_prometheus_scrapes_the_watch_and_every_engine_that_can_be(inventory: Inventory) -> None:
    jobs = {job["job_name"]: job for job in pyyaml.safe_load(prometheus(inventory, "10.0.10.5:9108"))["scrape_configs"]}
    assert set(jobs) == {"tierdeck", "tierdeck a/vllm", "tierdeck a/router"}
    assert jobs["tierdeck"]["static_configs"][0]["targets"] == ["10.0.10.5:9108"]
    vllm, router = jobs["tierdeck a/vllm"], jobs["tierdeck a/router"]
    assert (vllm["scheme"], vllm["metrics_path"]) == ("https", "/proxy/metrics")
    assert vllm["authorization"] == {"credentials_file": "/etc/prometheus/keys/a-vllm"}
    assert router["metrics_path"] == "/own"
    assert "authorization" not in router, "the key is the gateway's, not that of its metrics"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed here")
def test_prometheus_itself_takes_it(inventory: Inventory, tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(prometheus(inventory, "127.0.0.1:9108"))
    argv = ["promtool", "check", "config", "--syntax-only", str(file)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    from tests.tui.sample import loaded

    text = prometheus_text(loaded().inventory, snapshot())
    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout


def test_gatus_asks_what_wakes_nobody(inventory: Inventory) -> None:
    rows = {row["name"]: row for row in pyyaml.safe_load(gatus(inventory))["endpoints"]}
    assert list(rows) == ["a/ollama", "a/vllm", "a/router"]
    assert rows["a/ollama"]["url"] == "http://10.0.10.30:11434/api/version"
    assert rows["a/router"]["url"] == "http://10.0.10.30:4000/health/liveliness"
    assert rows["a/vllm"]["conditions"] == ["[STATUS] == 200", "[RESPONSE_TIME] < 500"]
    assert rows["a/vllm"]["headers"] == {"Authorization": "Bearer ${VLLM_KEY}"}
    assert rows["a/router"]["headers"] == {"Authorization": "Bearer ${A_ROUTER_KEY}"}
    for row in rows.values():
        assert row["group"] == "A"
        assert re.fullmatch(r"\d+s", row["interval"])


def test_the_health_calls_are_our_own() -> None:
    asked = {name: getattr(engine, "route", "") for name, engine in ENGINES.items()}
    assert asked == {name: facts.health for name, facts in FACTS.items()}


def test_homepage_has_a_widget_over_prometheus_and_each_endpoint(inventory: Inventory) -> None:
    ((group, rows),) = (
        (k, v) for each in pyyaml.safe_load(homepage(inventory, "http://p:9090")) for k, v in each.items()
    )
    assert group == "Language models"
    assert [name for row in rows for name in row] == ["home: #1", "a/ollama", "a/vllm", "a/router"]
    widget = rows[0]["home: #1"]["widget"]
    assert (widget["type"], widget["url"]) == ("prometheusmetric", "http://p:9090")
    assert all(set(metric) == {"label", "query", "format"} for metric in widget["metrics"])
    assert rows[1]["a/ollama"]["siteMonitor"] == "http://10.0.10.30:11434/api/version"


def test_grafana_asks_only_for_what_the_watch_tells() -> None:
    dashboard = json.loads(grafana("home"))
    assert {"title", "uid", "panels", "schemaVersion", "__inputs", "time"} <= set(dashboard)
    assert len(dashboard["uid"]) <= 40
    found = snapshot()
    state = found.endpoints["remote/mark-v"]
    busy = type(state)(**{f: getattr(state, f) for f in state.__dataclass_fields__} | {"work": Work(1.0, 1, 1, 1)})
    from dataclasses import replace

    from tests.tui.sample import loaded

    text = prometheus_text(loaded().inventory, replace(found, endpoints={**found.endpoints, "remote/mark-v": busy}))
    told = {row.split()[2] for row in text.splitlines() if row.startswith("# TYPE")}
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"tierdeck_\w+", target["expr"])) <= told
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_no_secret_and_no_reference_is_written(inventory: Inventory) -> None:
    for text in (prometheus(inventory, "x:1"), gatus(inventory), homepage(inventory, "http://x"), grafana("home")):
        assert "keyring:" not in text
        assert "env:" not in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_systemd_itself_takes_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "my tools 100%h $x" / "tierdeck"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    unit = tmp_path / "tierdeck-watch.service"
    unit.write_text(watch_unit(str(program), "/home/a b/cluster.toml", "root", state="/s%1", metrics="127.0.0.1:9108"))

    def verify() -> subprocess.CompletedProcess[str]:
        argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    assert "not executable" in verify().stderr
    program.chmod(0o755)
    taken = verify()
    assert (taken.returncode, [row for row in taken.stderr.splitlines() if "tierdeck-watch" in row]) == (0, [])


def test_what_no_unit_can_hold_is_refused() -> None:
    for words in (("/a\nb", "/c", "u"), ('/a"b', "/c", "u")):
        with pytest.raises(ProcedureError):
            watch_unit(*words)


async def test_the_command_line_prints_them(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(TOML + '[alerts]\nto = ["env:HOOK"]\n')
    env = {"TIERDECK_STATE": str(tmp_path / "state")}
    for what, words, advice in (
        ("prometheus", "scrape_configs", "Left out, since only SSH leads there: hidden."),
        ("gatus", "conditions", "VLLM_KEY"),
        ("homepage", "prometheusmetric", "services.yaml"),
        ("grafana", "schemaVersion", "Import"),
        ("watch-unit", f"watch --cluster {file}", "Write HOOK=... into /etc/tierdeck/watch.env"),
    ):
        ran = await tierdeck("export", what, "--cluster", str(file), env=env)
        assert (ran.code, words in ran.out, advice in ran.err) == (0, True, True), (what, ran)
    ran = await tierdeck("export", "gatus", "--json", "--cluster", str(file), env=env)
    assert json.loads(ran.out)["what"] == "gatus"


CHECKS = """
[[checks]]
name = "web"
tier = "A"
kind = "http"
node = "nas"
url = "http://localhost:8080/login"
[[checks]]
name = "db"
tier = "A"
kind = "tcp"
address = "10.0.10.30:5432"
[[checks]]
name = "sync"
tier = "A"
kind = "syncthing"
url = "http://10.0.10.30:8384"
folder = "x"
api_key = "env:K"
[[checks]]
name = "the backup"
tier = "A"
kind = "age"
path = "/b"
limit = "26h"
[[checks]]
name = "closed"
tier = "A"
kind = "http"
node = "nas"
url = "http://127.0.0.1:1"
via = "ssh"
"""


async def test_checks_are_exported_as_far_as_others_can_look(tmp_path: Path) -> None:
    told = parse(TOML + CHECKS, Path("cluster.toml")).inventory
    found = {each["name"]: each for each in pyyaml.safe_load(gatus(told))["endpoints"]}
    assert {"web", "db", "sync"} <= set(found)
    assert not {"the backup", "closed"} & set(found)
    assert [found[name]["url"] for name in ("web", "db", "sync")] == [
        "http://10.0.10.30:8080/login", "tcp://10.0.10.30:5432", "http://10.0.10.30:8384/rest/noauth/health"
    ]  # fmt: skip
    assert found["db"]["conditions"] == ["[CONNECTED] == true"]
    rows = pyyaml.safe_load(homepage(told, "http://prom:9090"))[0]["Language models"]
    shown = {name: each for row in rows for name, each in row.items()}
    assert shown["web"]["siteMonitor"] == "http://10.0.10.30:8080/login"
    query = shown["the backup"]["widget"]["metrics"][0]["query"]
    assert query == 'tierdeck_endpoint_up{endpoint="the backup"}'
    (tmp_path / "cluster.toml").write_text(TOML + CHECKS)
    ran = await tierdeck("export", "gatus", "--cluster", str(tmp_path / "cluster.toml"))
    assert "only tierdeck can look at them: the backup, closed" in ran.err
