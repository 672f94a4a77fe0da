"""Every mistake in cluster.toml: one message with file, line, expectation and nearest valid word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cluster.files import cut_route, load, parse
from backends.cluster.manual import schema
from backends.cluster.written import LIMIT
from backends.errors import InventoryError

GOOD = """\
version = 1
name = "lumina"
lock_host = "nas"
[defaults]
interval = "5s"
[[nodes]]
name = "mark"
address = "10.0.10.20"
os = "windows"
ssh = { user = "ops", port = 22 }
gpus = "nvidia"
docker = { context = "desktop" }
wake = { mac = "AA:BB:CC:DD:EE:FF", via = "nas", rdp = { user = "ops", password = "vault:homelab/mark#rdp" } }
queue = { order = ["mark-v", "mark-iii"], gap = "5s", ready_timeout = "180s" }
recover = "manual"
[[nodes]]
name = "nas"
address = "10.0.10.30"
recover = { auto = "containers" }
[[tiers]]
name = "REMOTE"
[[endpoints]]
name = "remote/mark-i"
tier = "REMOTE"
node = "mark"
engine = "llama.cpp"
url = "http://10.0.10.20:3009"
container = "mark-i"
timeout = "8s"
api_key = "keyring:tierdeck/mark"
metrics_url = "http://10.0.10.20:8081/metrics"
tasks = ["chat", "reason"]
[[endpoints]]
name = "gateway/litellm"
tier = "REMOTE"
node = "nas"
engine = "litellm"
url = "http://10.0.10.30:4000/v1/"
[[checks]]
name = "nas/backup"
tier = "REMOTE"
kind = "age"
node = "nas"
path = "/volume1/backup"
limit = "26h"
[[checks]]
name = "nas/db"
tier = "REMOTE"
kind = "tcp"
address = "10.0.10.30:5432"
[[models]]
name = "qwen2.5-14b-instruct"
file = "volume:models-vol/qwen.gguf"
context = 8192
gpu_layers = 28
[router]
code = ["remote/mark-i"]
[gateway]
endpoint = "gateway/litellm"
config = "ssh:desk:/srv/litellm/config.yaml"
"""


def test_the_example_of_the_manual_is_read() -> None:
    loaded = parse(GOOD, Path("cluster.toml"))
    mark = loaded.inventory.node_named["mark"]
    assert (mark.queue.gap, mark.queue.ready_timeout, loaded.inventory.endpoints[0].timeout) == (5.0, 180.0, 8.0)
    assert loaded.inventory.endpoints[1].url == "http://10.0.10.30:4000"
    assert "http://10.0.10.30:4000" in loaded.remarks[0]
    assert loaded.inventory.endpoints[0].metrics_url == "http://10.0.10.20:8081/metrics"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('engine = "llama.cpp"', 'engine = "lama.cpp"', 'Did you mean "llama.cpp"?'),
        ('gpus = "nvidia"', 'gpuz = "nvidia"', 'unknown key "gpuz"'),
        ('gpus = "nvidia"', 'gpuz = "nvidia"', 'Did you mean "gpus"?'),
        ('tier = "REMOTE"', 'tier = "REMOTES"', 'Did you mean "REMOTE"?'),
        ('node = "mark"', 'node = "marc"', 'unknown node "marc". Did you mean "mark"?'),
        ('user = "ops", port', 'usr = "ops", port', 'Did you mean "user"?'),
        ("port = 22", 'port = "many"', "a whole number"),
        ("port = 22", "port = 99999", "less than or equal to 65535"),
        ('interval = "5s"', 'interval = "5 parsecs"', "a duration"),
        ('interval = "5s"', "interval = -1", "greater than 0"),
        ('interval = "5s"', "interval = nan", "greater than 0"),
        ('tasks = ["chat", "reason"]', 'tasks = ["chat", "reson"]', 'Did you mean "reason"?'),
        ('code = ["remote/mark-i"]', 'code = ["remote/mark-ii"]', 'unknown endpoint "remote/mark-ii"'),
        ('code = ["remote/mark-i"]', 'cod = ["remote/mark-i"]', 'Did you mean "code"?'),
        ('name = "nas"', 'name = "mark"', "taken already"),
        ('lock_host = "nas"', 'lock_host = "nass"', 'Did you mean "nas"?'),
        ('"vault:homelab/mark#rdp"', '"hunter2"', "a reference"),
        ('"keyring:tierdeck/mark"', '"sk-secret"', "a reference"),
        ("AA:BB:CC:DD:EE:FF", "AA:BB", "a hardware address"),
        ('auto = "containers"', 'auto = "container"', 'Did you mean "containers"?'),
        ('url = "http://10.0.10.20:3009"', 'url = "10.0.10.20:3009"', "an address such as"),
        ('url = "http://10.0.10.20:3009"', 'url = "http://a:99999"', "a port between"),
        ('url = "http://10.0.10.20:3009"', 'url = "http://me:pw@h"', "without a name or password"),
        ("version = 1", "version = 2", "expected 1"),
        ("[[nodes]]", "[[nodes", "not valid TOML"),
        ("context = 8192", "context = 0", "greater than 0"),
        ("[[tiers]]", "[tiers]", "double brackets"),
        ('kind = "age"', 'kind = "agee"', 'Did you mean "age"?'),
        ('kind = "tcp"', 'kind = "http"', "a check of this kind needs url ="),
        ('limit = "26h"', 'limit = "26 hours"', "a duration"),
        ('limit = "26h"', 'folder = "x"\nlimit = "26h"', "a check of kind age has no such key"),
        ('address = "10.0.10.30:5432"', 'address = "10.0.10.30"', "a host and a port"),
        ('name = "nas/db"', 'name = "gateway/litellm"', "taken already"),
        ('endpoint = "gateway/litellm"', 'endpoint = "gateway/litelm"', 'Did you mean "gateway/litellm"?'),
    ],
)
def test_mistakes(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(InventoryError) as caught:
        parse(GOOD.replace(old, new, 1), Path("cluster.toml"))
    message = str(caught.value)
    assert words in message
    line = GOOD[: GOOD.index(old)].count("\n") + 1
    assert message.startswith(f"cluster.toml, line {line}:"), message
    assert "hunter2" not in message
    assert "sk-secret" not in message


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    with pytest.raises(InventoryError, match="no such file"):
        load(path)
    with pytest.raises(InventoryError, match="cannot be read"):
        load(tmp_path)
    path.write_bytes(os.urandom(64) * (LIMIT // 32))
    with pytest.raises(InventoryError, match="larger than 1 MiB"):
        load(path)
    path.write_bytes(b'version = 1\nname = "\xff\xfe"\n')
    with pytest.raises(InventoryError, match="line 2: not UTF-8"):
        load(path)
    path.write_text("[" * 5000)
    with pytest.raises(InventoryError):
        load(path)


def test_what_the_program_wrote_adds_and_the_persons_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD)
    (tmp_path / "cluster.d").mkdir()
    fragment = tmp_path / "cluster.d" / "deployed.toml"
    added = '[[endpoints]]\nname = "{}"\ntier = "REMOTE"\nengine = "vllm"\nurl = "http://h:1"\n'
    fragment.write_text(added.format("new") + added.format("remote/mark-i") + '[router]\nchat = ["new"]\n')
    inventory = load(path).inventory
    assert [e.name for e in inventory.endpoints] == ["remote/mark-i", "gateway/litellm", "new"]
    assert inventory.endpoint_named["remote/mark-i"].engine == "llama.cpp"
    assert inventory.chain("chat") == ("new",)
    fragment.write_text(added.format("new").replace("vllm", "vlm"))
    with pytest.raises(InventoryError, match=r'deployed\.toml, line 4: .*Did you mean "vllm"'):
        load(path)


@pytest.mark.parametrize(
    ("url", "cut"),
    [
        ("http://h:1/v1/models", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("http://h:1/health/liveliness", "http://h:1"),
        ("http://h:1/proxy/api/tags?x=1", "http://h:1/proxy"),
        ("http://h:1/other", "http://h:1/other"),
        ("http://h:1", "http://h:1"),
    ],
)
def test_known_routes_are_cut(url: str, cut: str) -> None:
    assert cut_route(url) == cut


@given(st.text(max_size=400))
def test_any_text_gives_an_inventory_or_a_clear_error(text: str) -> None:
    path = Path("x.toml")
    try:
        assert parse(text, path).path == path
    except InventoryError as error:
        said = str(error)
    else:
        said = "x.toml"
    assert "x.toml" in said


def test_every_attribute_is_documented() -> None:
    def undocumented(schema: dict[str, object], where: str) -> list[str]:
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        return [f"{where}.{name}" for name, field in properties.items() if not field.get("description")]

    described = schema()
    missing = undocumented(described, "cluster.toml")
    for name, part in described["$defs"].items():
        missing += undocumented(part, name)
    assert missing == []


def test_a_misspelt_required_key_is_named_with_its_line() -> None:
    text = GOOD.replace('url = "http://10.0.10.20:3009"', 'ulr = "http://10.0.10.20:3009"')
    line = text.splitlines().index('ulr = "http://10.0.10.20:3009"') + 1
    with pytest.raises(InventoryError) as caught:
        parse(text, Path("c.toml"))
    assert (
        str(caught.value) == f'c.toml, line {line}: unknown key "ulr" in endpoints "remote/mark-i". Did you mean "url"?'
    )


JOINS = """\
[joins.queue]
mark = ["coder", "mark-iii"]
[joins.router]
chat = ["mark/coder", "remote/mark-i"]
code = ["mark/coder"]
[[endpoints]]
name = "mark/coder"
tier = "REMOTE"
node = "mark"
engine = "llama.cpp"
url = "http://localhost:3014"
container = "coder"
tasks = ["code", "chat"]
"""


def test_cluster_d_joins_lists_of_the_persons_file_at_their_end(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD)
    found = load(path, with_files={"deploy-coder.toml": JOINS}).inventory
    assert found.node_named["mark"].queue.order == ("mark-v", "mark-iii", "coder"), "a person's place stays"
    assert found.node_named["mark"].queue.gap == 5.0
    assert found.chain("code") == ("remote/mark-i", "mark/coder")
    assert "chat" not in found.router, "who lists nobody asks all that serve it"
    assert "mark/coder" in found.chain("chat")
    before = load(path).inventory
    assert before.node_named["mark"].queue.order == ("mark-v", "mark-iii"), "nothing was written"
    (tmp_path / "cluster.d").mkdir()
    (tmp_path / "cluster.d" / "deploy-coder.toml").write_text(JOINS)
    assert load(path).inventory == found
    assert load(path, with_files={"deploy-coder.toml": ""}).inventory == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[joins.queue]", "[joins.que]", 'line 1: unknown key "que" in joins. Did you mean "queue"?'),
        ('mark = ["coder", "mark-iii"]', 'mark = "coder"', "line 2: joins queue mark: expected a list in [ ]."),
    ],
)
def test_what_joins_wrongly_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD)
    with pytest.raises(InventoryError) as caught:
        load(path, with_files={"deploy-coder.toml": JOINS.replace(old, new)})
    assert str(caught.value) == f"{tmp_path / 'cluster.d' / 'deploy-coder.toml'}, {words}"
