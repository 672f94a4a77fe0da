"""`tierdeck init`: what it finds, what it writes, and that it changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import stat
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cluster.files import Loaded, parse
from backends.cluster.reading import Gpu, Workload
from backends.discovery.draft import draft
from backends.discovery.engines import Identity, by_image, identify, likeliest
from backends.discovery.hosts import SshHost, read_hosts
from backends.discovery.look import Found, FoundEngine, Listener, Machine, listeners, look, this_machine
from backends.engines.http import Http
from backends.errors import CommandError, RuntimeFailure, TierdeckError
from backends.reach.docker import DockerRuntime
from backends.reach.local import which_node
from backends.reach.runtime import Completed
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.lmstudio import LmStudio
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.openai import OpenAi, PlainHttp
from backends.simulator.engines.sglang import SgLang
from backends.simulator.engines.vllm import Vllm
from backends.simulator.httpfaults import HttpFault
from tests.engines.servers import Canned, Reply, black_hole, close_at_once, json_reply, listening, recorded
from tui.arguments import parser
from tui.verbs.init import first

SMI = "0, GPU-1, NVIDIA GeForce RTX 3090, 24576, 1024, 3, 41, 20.5\n"


@dataclass
class FakeShell:
    """Knows the programs it is given; every other is not installed."""

    programs: dict[str, Completed] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.ran.append(" ".join(argv))
        if argv[0] not in self.programs:
            raise CommandError(f"{argv[0]} is not installed here, or not on the PATH.", status=127)
        return Completed(0, "", "") if "--query-compute-apps" in self.ran[-1] else self.programs[argv[0]]

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        raise AssertionError("init streams nothing")
        yield


class FakeDocker(DockerRuntime):
    """Docker that lists what it is given, and can do nothing else."""

    def __init__(self, *workloads: Workload, failure: RuntimeFailure | None = None) -> None:
        super().__init__("desk", ["/nowhere"])
        self._workloads, self._trouble = workloads, failure

    async def workloads(self) -> tuple[Workload, ...]:
        if self._trouble:
            raise self._trouble
        return self._workloads

    async def start(self, name: str) -> None:
        raise AssertionError("init starts nothing")

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        raise AssertionError("init stops nothing")


def a_machine(
    docker: DockerRuntime | None = None,
    ports: Sequence[int] = (),
    *,
    public: bool = True,
    shell: FakeShell | None = None,
) -> Machine:
    return Machine(
        name="desk",
        address="10.0.10.5",
        os="linux",
        shell=shell or FakeShell(),
        docker=docker or FakeDocker(),
        listeners=lambda: [Listener(port, public) for port in ports],
    )


def box(name: str, image: str, *ports: int, state: str = "running", gpu: bool = False, started: float = 0) -> Workload:
    return Workload(name, "docker", state, id=name, image=image, ports=ports, gpu=gpu, started_at=started or None)


def checked(text: str) -> Loaded:
    return parse(text, Path("cluster.toml"))


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with Http() as client:
        yield client


# Which engine answers.


@pytest.mark.parametrize(
    ("name", "skip", "expected"),
    [
        ("ollama", 0, Identity("ollama")),
        ("llamacpp", 0, Identity("llama.cpp")),
        ("llamacpp-api-key", 0, Identity("llama.cpp", locked=True)),
        ("llamacpp-loading", 0, Identity("llama.cpp")),
        ("vllm", 0, Identity("vllm")),
        ("litellm", 0, Identity("litellm", locked=True)),
        ("litellm", 1, Identity("litellm")),
    ],
)
async def test_real_engines_are_recognised(http: Http, name: str, skip: int, expected: Identity) -> None:
    server = Canned(recorded(name, skip=skip))
    async with listening(server) as port:
        assert await identify(http, f"http://localhost:{port}") == expected
    assert all(seen.method == "GET" and not seen.body for seen in server.seen)
    assert len(server.seen) <= 3


LIST = json_reply({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "me"}]})
EMPTY = json_reply({"object": "list", "data": None})


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"/v1/models": LIST}, Identity("openai")),
        ({"/v1/models": EMPTY, "/": Reply(200, "Ollama is running")}, Identity("ollama")),
        ({"/v1/models": Reply(404, "404 page not found"), "/": Reply(200, "Ollama is running")}, Identity("ollama")),
        (
            {
                "/v1/models": json_reply({"error": "Unauthorized"}, 401),
                "/metrics": Reply(200, "# HELP x\npython_gc 1\nvllm:num_requests_running 0\n"),
            },
            Identity("vllm", locked=True),
        ),
        ({"/v1/models": json_reply({"error": {"message": "no key"}}, 401)}, Identity("openai", locked=True)),
        ({"/v1/models": json_reply({"message": "Unauthorized"}, 401)}, Identity(None, locked=True)),
        ({"/v1/models": Reply(200, "<html>all routes</html>", {"Content-Type": "text/html"})}, Identity(None)),
        ({"/v1/models": json_reply({"data": []})}, Identity(None)),
        ({"/v1/models": Reply(302, "", {"Location": "/login"})}, Identity(None)),
        ({}, Identity(None)),
    ],
)
async def test_signs(http: Http, replies: dict[str, Reply | list[Reply]], expected: Identity) -> None:
    async with listening(Canned(replies)) as port:
        assert await identify(http, f"http://localhost:{port}") == expected


async def test_what_speaks_no_http_is_left_alone(http: Http) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()

    for handler in (banner, close_at_once):
        async with listening(handler) as port:
            assert await identify(http, f"http://localhost:{port}") is None


async def test_a_silent_port_costs_its_limit_and_no_more(http: Http) -> None:
    async with listening(black_hole) as port:
        began = asyncio.get_running_loop().time()
        assert await identify(http, f"http://localhost:{port}", limit=0.2) is None
        assert asyncio.get_running_loop().time() - began < 2.0


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("ollama/ollama:latest", "ollama"),
        ("vllm/vllm-openai@sha256:00", "vllm"),
        ("registry.example/ggml-org/llama.cpp:server-cuda", "llama.cpp"),
        ("registry:5000/my-llama-server", "llama.cpp"),
        ("registry.example/berriai/litellm-database:main", "litellm"),
        ("lmsysorg/sglang", "sglang"),
        ("registry.example/open-webui/open-webui:ollama", None),
        ("ntkme/ollama-webui", None),
        ("postgres:16", None),
    ],
)
def test_images_tell(image: str, engine: str | None) -> None:
    assert by_image(image) == engine


def test_the_likeliest_port() -> None:
    assert likeliest("vllm", (22, 8000)) == 8000
    assert likeliest("vllm", (3009, 3010)) == 3009
    assert likeliest("vllm", ()) is None


# What a machine tells.


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    """A desk with engines of every kind, in containers and not."""
    sim = SimulatedCluster(tmp_path / "sim", speed=500.0)
    sim.add_node("desk", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], ssh=False)
    library = [OllamaModel("qwen2.5:7b"), OllamaModel("llama3.1:8b")]
    sim.add_endpoint("ollama", Ollama(sim.world, library=library), node="desk", gpu=0)
    sim.add_endpoint("lmstudio", LmStudio(sim.world, models=["a"]), node="desk")
    sim.add_endpoint("sglang", SgLang(sim.world, models=["b"]), node="desk")
    sim.add_endpoint("other", OpenAi(sim.world, models=["c"]), node="desk")
    sim.add_endpoint("web", PlainHttp(sim.world), node="desk")
    cuda = "registry.example/ggml-org/llama.cpp:server-cuda"
    secret = Vllm(sim.world, models=["e"], api_key="sk-secret")
    sim.add_endpoint("mark-i", LlamaCpp(sim.world, models=["d"]), node="desk", container=Spec("mark-i", cuda, gpu=True))
    sim.add_endpoint("mark-ii", secret, node="desk", container=Spec("mark-ii", "vllm/vllm-openai", gpu=True))
    third = LlamaCpp(sim.world, models=["f"])
    sim.add_endpoint("mark-iii", third, node="desk", container=Spec("mark-iii", cuda, gpu=True), state="stopped")
    async with sim:
        yield sim


def desk(sim: SimulatedCluster, **options: bool) -> Machine:
    ports = [e.server.port for e in sim.endpoints.values() if e.container is None]
    docker = DockerRuntime("desk", [str(sim.nodes["desk"].docker_socket)])
    shell = FakeShell({"nvidia-smi": Completed(0, SMI, "")})
    return a_machine(docker, ports, shell=shell, **options)


async def test_a_desk_is_found_whole(sim: SimulatedCluster, http: Http) -> None:
    machine = desk(sim)
    found = await look(machine, http)
    await machine.docker.close()  # type: ignore[attr-defined]
    ports = {name: endpoint.server.port for name, endpoint in sim.endpoints.items()}
    assert {(e.name, e.engine, e.port, e.container, e.running, e.locked) for e in found.engines} == {
        ("local/ollama", "ollama", ports["ollama"], "", True, False),
        ("local/lmstudio", "lmstudio", ports["lmstudio"], "", True, False),
        ("local/sglang", "sglang", ports["sglang"], "", True, False),
        ("local/openai", "openai", ports["other"], "", True, False),
        ("local/mark-i", "llama.cpp", ports["mark-i"], "mark-i", True, False),
        ("local/mark-ii", "vllm", ports["mark-ii"], "mark-ii", True, True),
        ("local/mark-iii", "llama.cpp", ports["mark-iii"], "mark-iii", False, False),
    }
    assert (found.gpu_kind, [gpu.name for gpu in found.gpus]) == ("nvidia", ["NVIDIA GeForce RTX 3090"])
    assert sorted(found.queue[:2]) == ["mark-i", "mark-ii"]
    assert found.queue[2] == "mark-iii"
    inventory = checked(draft(found)).inventory
    assert inventory.node_named["desk"].queue.order == found.queue
    assert {e.name: e.container for e in inventory.endpoints if e.container} == {
        "local/mark-i": "mark-i", "local/mark-ii": "mark-ii", "local/mark-iii": "mark-iii",
    }  # fmt: skip


async def test_looking_loads_and_changes_nothing(sim: SimulatedCluster, http: Http) -> None:
    before = {name: container.state for name, container in sim.nodes["desk"].docker.containers.items()}  # type: ignore[union-attr]
    used = sim.nodes["desk"].host.gpus[0].used_mib
    machine = desk(sim)
    await look(machine, http)
    await machine.docker.close()  # type: ignore[attr-defined]
    asked = {route for e in sim.endpoints.values() for route in e.engine.requests}
    assert asked <= {"GET /v1/models", "GET /", "GET /health/liveliness", "GET /metrics"}
    assert not sim.endpoints["mark-i"].engine.requests["GET /metrics"]  # it would keep a sleeper awake
    docker = sim.nodes["desk"].docker
    assert docker is not None
    assert all(route.startswith("GET ") for route in docker.requests)
    assert {name: container.state for name, container in docker.containers.items()} == before
    assert sim.nodes["desk"].host.gpus[0].used_mib == used


async def test_a_container_that_is_not_ready_is_known_by_its_image(sim: SimulatedCluster, http: Http) -> None:
    await sim.endpoints["mark-i"].server.inflict(HttpFault("reset"))
    machine = desk(sim)
    found = await look(machine, http)
    await machine.docker.close()  # type: ignore[attr-defined]
    engine = next(e for e in found.engines if e.container == "mark-i")
    assert (engine.engine, engine.port, engine.running) == ("llama.cpp", sim.endpoints["mark-i"].server.port, True)


async def test_many_ports_are_bounded(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def note(http: Http, url: str) -> None:
        asked.append(url)

    monkeypatch.setattr("backends.discovery.look.identify", note)
    await look(a_machine(ports=[*range(40000, 40200), 22, 443, 5432, 80, 11434]), http)
    assert len(asked) == 64
    assert asked[0] == "http://localhost:11434"
    assert asked[1] == "http://localhost:80"
    assert not {"http://localhost:22", "http://localhost:443", "http://localhost:5432"} & set(asked)


async def test_names_are_unique_and_the_gateway_has_its_tier(http: Http) -> None:
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(listening(Canned(recorded("llamacpp")))) for _ in range(2)]
        gate = await stack.enter_async_context(listening(Canned(recorded("litellm"))))
        found = await look(a_machine(FakeDocker(box("litellm", "x", gate)), ports), http)
    low, high = sorted(ports)
    assert [e.name for e in found.engines] == ["gateway/litellm", "local/llama.cpp", f"local/llama.cpp-{high}"]
    text = draft(found)
    inventory = checked(text).inventory
    assert inventory.endpoint_named["gateway/litellm"].tier == "GATEWAY"
    assert inventory.endpoint_named["gateway/litellm"].container == "litellm"
    assert inventory.endpoint_named["local/llama.cpp"].url == f"http://localhost:{low}"
    assert inventory.gateway is not None
    assert inventory.gateway.endpoint == "gateway/litellm"
    assert '# api_key = "env:LITELLM_MASTER_KEY"' in text


async def test_trouble_is_said_and_ends_nothing(http: Http) -> None:
    docker = FakeDocker(failure=RuntimeFailure("Docker on desk: permission denied", "Join the group."))
    shell = FakeShell({"nvidia-smi": Completed(18, "Failed to initialize NVML: Driver/library version mismatch", "")})
    async with listening(Canned(recorded("ollama"))) as port:
        found = await look(a_machine(docker, [port], shell=shell), http)
    assert [e.name for e in found.engines] == ["local/ollama"]
    assert found.gpu_kind == "none"
    assert "Docker on desk: permission denied Join the group." in found.remarks
    assert any("updated under the running one" in r and 'gpus = "nvidia"' in r for r in found.remarks)


async def test_on_the_hosts_own_network_a_container_is_only_guessed(http: Http) -> None:
    async with listening(Canned(recorded("vllm"))) as port:
        docker = FakeDocker(box("big", "vllm/vllm-openai", gpu=True), box("old", "some/cuda", state="exited", gpu=True))
        found = await look(a_machine(docker, [port], public=False), http)
    text = draft(found)
    engine = checked(text).inventory.endpoint_named["local/vllm"]
    assert engine.container is None
    assert '# container = "big"' in text
    assert '# via = "ssh"' in text
    assert found.queue == ("big",)
    assert any("not queued: old" in remark for remark in found.remarks)


def test_own_listeners_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as local, socket.create_server(("0.0.0.0", 0)) as public:
        found = listeners()
        assert Listener(local.getsockname()[1], False) in found
        assert Listener(public.getsockname()[1], True) in found


async def test_this_machine_recognises_itself() -> None:
    async with this_machine() as machine:
        text = draft(Found(machine.name, machine.address, machine.os))
        assert machine.name == machine.name.lower()
        assert "." not in machine.name
        host = socket.gethostname()
        assert which_node(checked(text).inventory, host, {machine.address}) == machine.name


# What is written.

NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(NASTY, NASTY, NASTY)
def test_whatever_is_found_the_file_is_good(gpu: str, image: str, container: str) -> None:
    engine = FoundEngine("local/x", "ollama", 11434, container=container or "c", image=image, maybe=container)
    found = Found("desk", "10.0.0.5", "linux", "nvidia", (Gpu(0, gpu),), (engine,), (container,))
    text = draft(found, [SshHost("mark", "10.0.0.6", user="o\"p's", port=2222, key="~/.ssh/a b", jump="gate")])
    inventory = checked(text).inventory
    assert inventory.endpoints[0].container == (container or "c")
    assert inventory.nodes[1].ssh is not None
    assert (inventory.nodes[1].ssh.user, inventory.nodes[1].ssh.key) == ("o\"p's", "~/.ssh/a b")


def test_every_section_is_explained_in_a_line() -> None:
    gateway = FoundEngine("gateway/litellm", "litellm", 4000)
    text = draft(Found("desk", "10.0.0.5", "linux", engines=(gateway,)), [SshHost("mark", "10.0.0.6")])
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("[") and line != "[[tiers]]":
            assert lines[number - 1].startswith("# "), line
    assert [tier["name"] for tier in tomllib.loads(text)["tiers"]] == ["LOCAL", "MARK", "GATEWAY"]
    assert max(map(len, lines)) <= 120


def test_tiers_of_hosts_are_unique_and_this_machine_is_no_host() -> None:
    hosts = [SshHost("local", "1.2.3.4"), SshHost("LOCAL", "1.2.3.5"), SshHost("Desk", "10.0.0.5")]
    inventory = checked(draft(Found("desk", "10.0.0.5", "linux"), hosts)).inventory
    assert [tier.name for tier in inventory.tiers] == ["LOCAL", "LOCAL-2", "LOCAL-3"]
    assert [node.name for node in inventory.nodes] == ["desk", "local", "LOCAL"]


def test_with_nothing_found_there_is_something_to_fill_in() -> None:
    text = draft(Found("desk", "10.0.0.5", "linux"))
    inventory = checked(text).inventory
    assert [node.name for node in inventory.nodes] == ["desk"]
    assert inventory.endpoints == ()
    start = text.index("# [[endpoints]]")
    filled = [line.removeprefix("# ") for line in text[start:].splitlines()]
    assert checked(text[:start] + "\n".join(filled)).inventory.endpoints[0].name == "local/ollama"


# ~/.ssh/config.


@pytest.fixture
def ssh_config(tmp_path: Path) -> Path:
    folder = tmp_path / ".ssh"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "conf.d" / "more").write_text("Host nas\n  HostName=10.0.10.30\nInclude ../config\n")
    (folder / "config").write_text(
        "# Host ghost\nInclude conf.d/*\n"
        'Host mark box-*\n  HostName %h.lan\n  Port 2222\n\tUser = ops\n  IdentityFile "~/.ssh/my key"\n'
        'Match exec "touch /tmp/never"\n  User evil\n'
        "Host far\n  ProxyJump gate\n  User last\n  User ignored\n"
        "Host * !nas\n  User everybody\n  Port 99999\n"
    )
    return folder / "config"


def test_hosts_of_ssh_config(ssh_config: Path) -> None:
    assert read_hosts(ssh_config) == (
        SshHost("nas", "10.0.10.30"),
        SshHost("mark", "mark.lan", "ops", 2222, "~/.ssh/my key"),
        SshHost("far", "far", "last", jump="gate"),
    )


def test_odd_ssh_configs_are_borne(tmp_path: Path) -> None:
    path = tmp_path / "config"
    assert read_hosts(path) == ()
    path.write_bytes(b'Host "unclosed a\nHost \xff\xfe b\x1b[31m ok\nPort\nnonsense\nPort 12345678901\n')
    assert [host.name for host in read_hosts(path)] == ["a", "ok"] or [h.name for h in read_hosts(path)] == ["ok"]


# The verb.


def given_words(*words: str) -> argparse.Namespace:
    return parser().parse_args(["init", *words])


@asynccontextmanager
async def held(machine: Machine) -> AsyncGenerator[Machine, None]:
    yield machine


def no_question(text: str) -> str:
    raise AssertionError("nobody may be asked")


async def verb(machine: Machine, config: Path, *words: str, ask: Callable[[str], str] | None = None) -> int:
    return await asyncio.to_thread(first, given_words(*words), held(machine), config, ask)


async def test_it_writes_and_never_over_a_file(
    ssh_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "cluster.toml"
    monkeypatch.setenv("TIERDECK_CLUSTER", str(target))
    async with listening(Canned(recorded("ollama"))) as port:
        words = ("--yes", "--host", "mark", "--host", "mark")
        assert await verb(a_machine(ports=[port]), ssh_config, *words, ask=no_question) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert f"Wrote {target}" in err
        assert "local/ollama" in err
        inventory = checked(target.read_text()).inventory
        assert [node.name for node in inventory.nodes] == ["desk", "mark"]
        assert inventory.endpoints[0].url == f"http://localhost:{port}"
        assert not stat.S_IMODE(target.stat().st_mode) & 0o022
        before = target.read_bytes()
        with pytest.raises(TierdeckError, match=r"exists already.*--output"):
            await verb(a_machine(ports=[port]), ssh_config, "--yes")
        with pytest.raises(TierdeckError, match="exists already"):
            await verb(a_machine(), ssh_config, "--yes", "--output", str(target))
        assert target.read_bytes() == before


async def test_standard_output_and_json_write_no_file(
    ssh_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config" / "tierdeck" / "cluster.toml"
    assert await verb(a_machine(), ssh_config, "--yes", "--output", "-") == 0
    assert checked(capsys.readouterr().out).inventory.nodes[0].name == "desk"
    async with listening(Canned(recorded("llamacpp-api-key"))) as port:
        assert await verb(a_machine(ports=[port]), ssh_config, "--json", "--host", "nas", ask=no_question) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert err == ""
    assert said["schema"] == "tierdeck.init/1"
    assert said["endpoints"] == [
        {"name": "local/llama.cpp", "engine": "llama.cpp", "url": f"http://localhost:{port}", "container": None,
         "running": True, "needs_key": True, "public": True}
    ]  # fmt: skip
    assert {host["name"]: host["picked"] for host in said["hosts"]} == {"nas": True, "mark": False, "far": False}
    assert not target.exists()


@pytest.mark.parametrize(
    ("answers", "nodes"),
    [
        (["2 1\n"], ["desk", "mark", "nas"]),
        (["far,mark\n"], ["desk", "far", "mark"]),
        (["all\n"], ["desk", "nas", "mark", "far"]),
        (["\n"], ["desk"]),
        ([""], ["desk"]),
        (["7\n", "1\n"], ["desk", "nas"]),
        (["x\n", "y\n", "z\n"], ["desk"]),
    ],
)
async def test_a_person_picks_hosts(
    ssh_config: Path, capsys: pytest.CaptureFixture[str], answers: list[str], nodes: list[str]
) -> None:
    left = list(answers)
    assert await verb(a_machine(), ssh_config, "--output", "-", ask=lambda question: left.pop(0)) == 0
    out, err = capsys.readouterr()
    assert [node.name for node in checked(out).inventory.nodes] == nodes
    assert "2  mark  (ops@mark.lan)" in err
    assert left == []


async def test_nobody_is_asked_without_a_terminal(ssh_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await verb(a_machine(), ssh_config, "--output", "-") == 0
    assert [node.name for node in checked(capsys.readouterr().out).inventory.nodes] == ["desk"]


async def test_an_unknown_host_is_a_usage_error(ssh_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await verb(a_machine(), ssh_config, "--host", "marc") == 2
    assert "Did you mean mark?" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_a_place_that_cannot_be_written_is_said(ssh_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(TierdeckError, match="cannot be written"):
        await verb(a_machine(), ssh_config, "--yes", "--output", str(folder / "cluster.toml"))


async def test_a_folder_that_is_a_file_is_said(ssh_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TierdeckError, match="cannot be written"):
        await verb(a_machine(), ssh_config, "--yes", "--output", str(tmp_path / "file" / "cluster.toml"))


def test_a_key_never_stands_in_the_file() -> None:
    engine = FoundEngine("local/x", "openai", 5000, locked=True)
    found = Found("desk", "10.0.0.5", "linux", engines=(engine, replace(engine, name="local/y")))
    text = draft(found)
    assert all(e.api_key is None for e in checked(text).inventory.endpoints)
    assert text.count('# api_key = "env:NAME_OF_A_VARIABLE"') == 2
