"""`tierdeck deploy` and `tierdeck up` as scripts use them, on a simulated node."""

from __future__ import annotations

import json
from pathlib import Path

from backends.simulator.cluster import SimulatedCluster
from tests.cli.driving import Ran, Terminal, tierdeck
from tests.cli.test_queue import cluster
from tests.deploy.conftest import free_port

SPEC = """\
version = 1
name = "coder"
node = "mark"
preset = "llama.cpp"
image = "{image}"
model = "{model}"
port = {port}
gpus = "all"
"""


def written(tmp_path: Path, image: str = "llama:b1", extra: str = "") -> Path:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" * 1000)
    path = tmp_path / "coder.toml"
    path.write_text(SPEC.format(image=image, model=model, port=free_port()) + extra)
    return path


async def test_one_command_deploys_and_one_takes_it_back(mark: SimulatedCluster, state: Path, tmp_path: Path) -> None:
    mark.runs_engines("mark")
    docker = mark.nodes["mark"].docker
    assert docker is not None
    docker.images.add("llama:b1")
    env, path = cluster(mark) | {"TIERDECK_STATE": str(state)}, written(tmp_path)
    shown = await tierdeck("deploy", str(path), "--dry-run", "--json", env=env)
    assert (shown.code, json.loads(shown.out)["reversible"]) == (0, True), shown.err
    assert "coder" not in docker.containers
    done = await tierdeck("deploy", str(path), "--yes", "--json", env=env)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, events[-1]["outcome"]) == (0, "done"), done.out[-2000:] + done.err
    assert docker.containers["coder"].running
    up = await tierdeck("up", "coder", "--yes", env=env)
    assert (up.code, up.err) == (1, "tierdeck: mark/coder is not on demand. Start it: tierdeck queue run mark\n")
    again = await tierdeck("deploy", str(path), "--yes", env=env)
    assert again.code == 1
    assert "The inventory has an endpoint mark/coder already." in again.err
    back = await tierdeck("procedures", "rollback", events[0]["procedure"], "--yes", env=env)
    assert (back.code, "coder" in docker.containers, "coder-models" in docker.disk.volumes) == (0, False, False), back
    assert not (mark.inventory_path.parent / "cluster.d").exists()


async def test_what_fails_is_taken_back_where_that_was_said(
    mark: SimulatedCluster, state: Path, tmp_path: Path
) -> None:
    env, path = cluster(mark) | {"TIERDECK_STATE": str(state)}, written(tmp_path, "nobody/has:this")
    ran = await tierdeck("deploy", str(path), "--yes", "--rollback", env=env)
    assert ran.code == 1
    assert "pull access denied for nobody/has" in ran.out
    assert "taken back: all is as it was before" in ran.out


def one_line(ran: Ran) -> bool:
    return ran.err.count("\n") == 1 and "Traceback" not in ran.err


async def test_what_is_asked_wrongly(mark: SimulatedCluster, state: Path, tmp_path: Path) -> None:
    env, path = cluster(mark) | {"TIERDECK_STATE": str(state)}, written(tmp_path, extra="contxt = 512\n")
    wrong = await tierdeck("deploy", str(path), env=env)
    assert (wrong.code, one_line(wrong)) == (2, True), wrong
    assert f'{path}, line 9: unknown key "contxt" at the top level. Did you mean "context"?' in wrong.err
    asks = await tierdeck("deploy", str(path), "--json", env=env)
    assert (asks.code, asks.err) == (2, "tierdeck: deploy --json needs --yes or --dry-run: it never asks.\n")
    missing = await tierdeck("deploy", str(tmp_path / "none.toml"), "--yes", env=env)
    assert missing.code == 2
    assert "none.toml: no such file. Name a file, or write one by answering: tierdeck deploy FILE --new" in missing.err
    nobody = await tierdeck("deploy", str(tmp_path / "none.toml"), "--new", env=env)
    assert (nobody.code, one_line(nobody)) == (2, True)
    unknown = await tierdeck("up", "nothing", "--yes", env=env)
    assert unknown.code == 1
    assert unknown.err == 'tierdeck: There is no endpoint, container or model "nothing". On demand: none.\n'


async def test_a_few_questions_write_the_file(mark: SimulatedCluster, state: Path, tmp_path: Path) -> None:
    docker = mark.nodes["mark"].docker
    assert docker is not None
    docker.images.add("llama:b1")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" * 1000)
    port = str(free_port())
    said = ["coder", "marc", "mark", "llama.cpp", "llama:b1", str(model), "0", port, "", "", "code, chat"]
    async with Terminal("deploy", env=cluster(mark) | {"TIERDECK_STATE": str(state)}) as terminal:
        await terminal.sees("name of the container")
        terminal.type("\n".join(said) + "\n")
        await terminal.sees('did you mean "mark"?', "expected greater than or equal to 1", "Run it? [y/N]")
        terminal.type("n\n")
        assert await terminal.ended() == 1
    text = (mark.inventory_path.parent / "deployments" / "coder.toml").read_text()
    assert f"port = {port}\n" in text
    assert 'tasks = ["code", "chat"]\n' in text
    nobody = await tierdeck("deploy", env=cluster(mark))
    assert (nobody.code, one_line(nobody)) == (2, True)
