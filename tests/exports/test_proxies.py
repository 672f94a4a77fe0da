"""The doors before engines: whom they let in, tried with Caddy itself where it is installed; Compose and Open WebUI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from backends.cluster.fold import empty, fold
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant, Workload, WorkloadReading
from backends.errors import ProcedureError
from backends.exports.compose import compose
from backends.exports.proxies import KEY, caddy, traefik
from backends.exports.webui import open_webui
from tests.cli.driving import tierdeck
from tests.gateway.test_render import engine, inventory

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
has_caddy = pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is not installed here")


class Echo(BaseHTTPRequestHandler):
    """Answers with the path and the key it got."""

    def do_GET(self) -> None:
        said = f"{self.path} {self.headers.get('Authorization')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def behind() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def cluster(url: str = "http://10.0.10.20:8000") -> Inventory:
    return inventory(
        engine("a/open", "llama.cpp", url=url), engine("a/keyed", "vllm", url=f"{url}/sub", api_key="env:K"),
        engine("a/hidden", "vllm", via="ssh"),
    )  # fmt: skip


@contextmanager
def running(text: str, tmp_path: Path, key: str) -> Iterator[str]:
    """Caddy with this file, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "Caddyfile"
    file.write_text("{\n\tadmin off\n}\n" + text.replace(":8090 {", f"http://127.0.0.1:{port} {{"))
    env = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    env |= {KEY: key} if key else {}
    argv = ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(argv, env=env, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 30
            while _listens(port) is False:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


def ask(url: str, key: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with OPENER.open(request, timeout=10) as answer:
            return 200, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@has_caddy
def test_caddy_takes_it_as_it_is_and_as_it_would_format_it(tmp_path: Path) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(caddy(cluster(), ":8090"))
    for argv in (["caddy", "validate", "--adapter", "caddyfile", "--config", str(file)], ["caddy", "fmt", str(file)]):
        env = {**os.environ, "HOME": str(tmp_path)}
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=env)
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout == file.read_text()


@has_caddy
def test_caddy_lets_in_who_has_the_key(behind: str, tmp_path: Path) -> None:
    with running(caddy(cluster(behind), ":8090"), tmp_path, "right") as url:
        assert ask(f"{url}/a/open/v1/models") == (401, "")
        assert ask(f"{url}/a/open/v1/models", "wrong") == (401, "")
        assert ask(f"{url}/a/open/v1/models", "right") == (200, "/v1/models None"), "and keeps its key to itself"
        assert ask(f"{url}/a/keyed/v1/models", "own") == (200, "/sub/v1/models Bearer own"), "the engine asks for it"
        assert ask(f"{url}/a/hidden/v1/models", "right") == (404, "")


@has_caddy
@pytest.mark.parametrize("key", ["", "right"])
def test_caddy_lets_in_nobody_without_a_key_set_or_from_elsewhere(behind: str, tmp_path: Path, key: str) -> None:
    with running(caddy(cluster(behind), ":8090"), tmp_path, "") as url:
        assert ask(f"{url}/a/open/v1/models", key) == (503, f"{KEY} is not set")
    with running(caddy(cluster(behind), ":8090", ["10.9.9.9/32"]), tmp_path, "right") as url:
        assert ask(f"{url}/a/open/v1/models", key) == (403, "")
        assert ask(f"{url}/a/keyed/v1/models", key) == (403, "")


def test_traefik_asks_for_address_and_key() -> None:
    told = yaml.safe_load(traefik(cluster()))["http"]
    assert set(told["routers"]) == {"a-open", "a-keyed"}
    assert (
        "Header(`Authorization`, `Bearer {{ env `TIERDECK_KEY` | default (uuidv4) }}`)"
        in told["routers"]["a-open"]["rule"]
    )
    assert told["routers"]["a-keyed"]["rule"] == "PathPrefix(`/a/keyed/`)"
    for router in told["routers"].values():
        assert router["middlewares"][0] == "tierdeck-known"
        assert set(router["middlewares"]) <= set(told["middlewares"])
        assert router["service"] in told["services"]
    assert told["services"]["a-open"]["loadBalancer"]["servers"] == [{"url": "http://10.0.10.20:8000"}]
    with pytest.raises(ProcedureError, match="no engine"):
        traefik(inventory())


def test_compose_repeats_what_runs_but_starts_nothing_by_itself() -> None:
    told = inventory(engine("a", "llama.cpp", container="box"), engine("b", "vllm", container="gone"))
    box = Workload(
        "box", "docker", "running", image="llama:b1", gpu=True, restart_policy="always", ports=(3009,),
        arguments=("-m", "/models/x.gguf", "--api-key", "***"), mounts=("models-vol:/models", "/srv:/srv"),
    )  # fmt: skip
    seen = fold(told, empty(told), WorkloadReading("mark", Instant(0.0, 0.0), (box,)))
    text, advice = compose(told, seen, "mark")
    document = yaml.safe_load(text)
    service = document["services"]["box"]
    assert list(document["services"]) == ["box"]
    assert service["restart"] == "no"
    assert service["volumes"] == ["models-vol:/models", "/srv:/srv"]
    assert document["volumes"] == {"models-vol": {"external": True}}
    assert service["ports"] == ["3009:8080"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert service["healthcheck"]["test"][-1] == "http://127.0.0.1:8080/health"
    assert any("arguments of box" in line for line in advice)
    with pytest.raises(ProcedureError, match="No container"):
        compose(told, seen, "gate")


def test_open_webui_goes_through_the_gateway_and_holds_no_key() -> None:
    told = inventory(engine("a", "ollama", tasks=["chat", "embed"]))
    through = yaml.safe_load(open_webui(told))["services"]["open-webui"]["environment"]
    assert through["OPENAI_API_BASE_URLS"] == "http://10.0.10.5:4000/v1"
    assert (through["DEFAULT_MODELS"], through["RAG_EMBEDDING_MODEL"]) == ("chat", "embed")
    direct = yaml.safe_load(open_webui(without_gateway(told)))["services"]["open-webui"]["environment"]
    assert direct["OLLAMA_BASE_URLS"] == "http://10.0.10.20:8000"
    keyed = inventory(engine("v", "vllm", api_key="pass:x"))
    assert "${V_KEY:?the key of v}" in open_webui(without_gateway(keyed))


def without_gateway(told: Inventory) -> Inventory:
    engines = [e.model_dump() for e in told.endpoints if e.engine != "litellm"]
    return Inventory.model_validate({**told.model_dump(), "gateway": None, "endpoints": engines})


async def test_the_verbs_print_them(tmp_path: Path) -> None:
    toml = tmp_path / "cluster.toml"
    toml.write_text(
        'version = 1\nname = "h"\n[[tiers]]\nname = "A"\n[[endpoints]]\nname = "a"\ntier = "A"\n'
        'engine = "ollama"\nurl = "http://10.0.0.9:11434"\n'
    )
    for what, words in (("caddy", "@strangers"), ("traefik", "ipAllowList"), ("open-webui", "OLLAMA_BASE_URLS")):
        ran = await tierdeck("export", what, "--cluster", str(toml))
        assert (ran.code, words in ran.out) == (0, True), ran.err
    ran = await tierdeck("export", "caddy", "--cluster", str(toml), "--allow", "10.0.0.300")
    assert (ran.code, "--allow: '10.0.0.300' does not appear" in ran.err) == (1, True)
    ran = await tierdeck("export", "compose", "nowhere", "--cluster", str(toml))
    assert (ran.code, 'There is no node "nowhere"' in ran.err) == (1, True)
