"""`tierdeck deploy` to a Kubernetes node: planned by the API's dry run, declared, filled, started, taken back."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ProcedureError, TierdeckError
from backends.procedures.commands import Procedures
from backends.procedures.kinds import KINDS
from backends.procedures.opening import open_context
from backends.procedures.plan import Plan, describe, from_json, to_json
from backends.reach.kubernetes.changes import marked
from backends.reach.runtime import Declares
from backends.world import survey
from tests.cli.driving import tierdeck
from tests.deploy.carrying import carry_out, failing, take_back, words
from tests.kubernetes.deploying import Site, deployable
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS as RESOURCES
from tests.procedures.test_process import ROOT, until

STEPS = [
    "declare", "fill", "declare", "declare", "write_fragment", "start_container", "ask_once", "write_fragment",
]  # fmt: skip


@pytest.fixture
async def site(double: Double, tmp_path: Path) -> AsyncIterator[Site]:
    async with deployable(double, tmp_path) as made:
        yield made


async def done(site: Site, plan: Plan, **options: Any) -> list[Any]:
    return await carry_out(site.cluster, plan, site.folder / "state", **({"kinds": KINDS} | options))


async def test_from_a_file_to_an_answer_and_back(site: Site) -> None:
    before = site.state()
    plan = await site.plan()
    assert site.state() == before, "a plan changes nothing"
    assert [step.kind for step in plan.steps] == STEPS
    assert from_json(to_json(plan)) == plan
    shown = "\n".join(describe(plan))
    for part in (
        "namespace llm: there", "rights in llm: all", "storage class local-path: the default",
        "nvidia.com/gpu on gpu-1: 1 asked, 8 of 8 free",
        "kubectl apply --server-side --field-manager=tierdeck -n llm -f - <<< '{",
        '"resources":{"requests":{"storage":"2Gi"}}', '"containers":[{"name":"engine","image":"llama:b1"',
        "kubectl scale --replicas=1 -n llm deployment/coder", 'url = "http://coder.llm:3011"; container = "llm/coder"',
    ):  # fmt: skip
        assert part in shown, part
    assert "revisionHistoryLimit" not in shown, "the API's defaults are not ours to show"
    site.double.controllers.times.work = 1.2
    events = await done(site, plan)
    assert events[-1].outcome == "done", words(events)
    assert "2.0 kB of 4.1 kB" in words(events)
    assert site.double.controllers.jobs == ["coder-fetch"]
    assert site.double.deployment("coder")["spec"]["replicas"] == 1
    assert "gpu-1/coder answers: Yes." in [e.text for e in events]
    inventory = site.loaded.inventory
    assert inventory.node_named["gpu-1"].queue.order == ("llm/coder",)
    assert (await survey(site.loaded, None, site.folder / "state")).endpoints["gpu-1/coder"].serving
    again = await done(site, plan)
    assert again[-1].outcome == "done", words(again)
    assert site.double.controllers.jobs == ["coder-fetch"], "what is filled is not filled again"
    assert [what for what, _ in site.double.controllers.started] == ["running", "ready"]
    events = await done(site, plan, back=True)
    assert (events[-1].outcome, events[-1].text) == ("cancelled", "taken back: all is as it was before"), words(events)
    assert site.state() == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(len(STEPS)))
async def test_a_failure_at_each_step_is_taken_back(site: Site, at: int, late: bool) -> None:
    before = site.state()
    plan = await site.plan()
    events = await done(site, plan, kinds=failing(at, plan, late=late), ask=take_back)
    assert [e.step for e in events if e.event == "step_failed"] == [at], words(events)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert site.state() == before


@pytest.mark.parametrize("theirs", [True, False], ids=["kubectl's", "ours"])
async def test_what_was_there_gets_its_former_spec_back(site: Site, theirs: bool) -> None:
    first = await site.plan(image="llama:b0")
    await done(site, first)
    for path in (site.folder / "cluster.d").iterdir():
        path.unlink()
    (site.folder / "cluster.d").rmdir()
    if theirs:
        site.hand_over("coder")
    before = site.state()
    with pytest.raises(TierdeckError, match=r"llm has a Deployment coder already \(llama:b0, replicas: 1\)"):
        await site.plan()
    if theirs:
        with pytest.raises(TierdeckError, match=r"conflict: \.spec\.template.*image.* managed by kubectl-create"):
            await site.plan(force=True)
        assert site.state() == before
        return
    plan = await site.plan(force=True)
    shown = "\n".join(describe(plan))
    assert "spec.template.spec.containers[engine].image: llama:b0 -> llama:b1" in shown
    assert "INTERRUPTS" in shown
    assert "The claim coder-models is there already" in shown
    assert "coder.gguf is in the claim coder-models already" in shown
    assert "fill" not in [step.kind for step in plan.steps]
    events = await done(site, plan, kinds=failing(len(plan.steps) - 1, plan, late=True), ask=take_back)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert site.state() == before


@pytest.mark.parametrize(
    ("turned", "fields", "said"),
    [
        ({"forbidden": {("create", "jobs"), ("update", "deployments/scale")}}, {},
         r"home: may not: update deployments/scale\.apps, create jobs\.batch in llm\. Give that in a Role"),
        ({}, {"namespace": "nope"}, "The namespace nope is none of those that home is looked into (llm). Name one"),
        ({}, {"storage_class": "fast"}, "home has no storage class fast. It has: local-path"),
        ({}, {"gpus": list(range(9))}, "Its pod would wait: gpu-1 hands out 8 nvidia.com/gpu, and 9 are asked for"),
        ({}, {"preset": "vllm", "model": "hf:a/b@c", "sha256": None, "storage": "5Gi", "offload": "80GiB"},
         "gpu-1 has 64.0 GiB of memory for pods, and 88.0 GiB are asked for"),
        ({"invalid": "spec.replicas: Invalid value: -1: must be greater than or equal to 0"}, {},
         "home: Job \"coder-fetch\" is invalid: spec.replicas: Invalid value: -1"),
        ({}, {"model": "ssh:nas:/srv/coder.gguf", "storage": "5Gi"},
         "ssh:nas:/srv/coder.gguf is not where the cluster could fetch it"),
        ({}, {"preset": "vllm", "model": "hf:a/b@c", "api_key": "env:KEY", "storage": "5Gi", "sha256": None},
         "proxy carries no key to vllm"),
        ({}, {"model": "http://127.0.0.1:1/coder.gguf"}, 'not known. Say storage = "100Gi"'),
        ({}, {"storage": "many"}, '"many" is no size of a volume'),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_before_anything_is_done(
    site: Site, turned: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    before = site.state()
    for name, value in turned.items():
        setattr(site.double, name, value)
    with pytest.raises(TierdeckError) as caught:
        await site.plan(**fields)
    assert said.replace("\\", "") in str(caught.value)
    assert site.state() == before


async def test_a_quota_and_an_admission_rule_are_told_by_the_plan(site: Site) -> None:
    site.double.controllers.quota = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 2, limited: 2"
    with pytest.raises(TierdeckError, match=r"exceeded quota gpus, requested: requests\.nvidia\.com/gpu=1"):
        await site.plan()


async def test_a_node_without_room_is_named_with_who_holds_it(site: Site) -> None:
    site.double.add_deployment("hog", 1, 8)
    with pytest.raises(TierdeckError, match=r"gpu-1 has 0 of 8 nvidia\.com/gpu free, held by hog 8"):
        await site.plan()
    plan = await site.plan(force=True)
    assert any("its pod stays pending until there is room" in warning for warning in plan.warnings)


async def test_a_wrong_checksum_is_told_and_taken_back(site: Site) -> None:
    before = site.state()
    site.double.controllers.broken["coder-fetch"] = "wrong checksum: coder.gguf"
    events = await done(site, await site.plan(), ask=take_back)
    assert "Job coder-fetch did not fill PersistentVolumeClaim coder-models: wrong checksum" in words(events)
    assert site.state() == before


async def begun(starting: Awaitable[object]) -> None:
    """A runner that dies at once may be dead before it has said that it began."""
    try:
        await starting
    except ProcedureError as error:
        if "ended before it began" not in str(error):
            raise


async def test_killed_at_every_edge_of_its_journal_it_is_resumed_to_the_end(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, plan = site.state(), await site.plan()
    died_at = folder / "died-at"
    died_at.touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    runner = (sys.executable, "-m", "tests.kubernetes.dying_runner")
    procedures = Procedures(site.folder / "state", site.cluster, runner=runner)
    await begun(procedures.start(plan))
    procedure = procedures.list()[0].id
    for _ in range(2 * len(STEPS)):
        await until(lambda: not procedures.state(procedure).open or procedures.state(procedure).state == "lost")
        if procedures.state(procedure).state != "lost":
            break
        await begun(procedures.resume(procedure))
    await until(lambda: procedures.state(procedure).state == "done", "the end")
    assert len(died_at.read_text().splitlines()) == 2 * len(STEPS)
    assert site.double.controllers.jobs == ["coder-fetch"]
    assert [what for what, _ in site.double.controllers.started] == ["running", "ready"]
    events = await done(site, plan, back=True)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert site.state() == before


async def test_a_key_is_declared_as_a_secret_and_stands_nowhere_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODER_KEY", "sk-secret")
    plan = await site.plan(api_key="env:CODER_KEY")
    events = await done(site, plan)
    assert events[-1].outcome == "done", words(events)
    (found,) = site.double.store.all("secrets")
    assert (found["metadata"]["name"], found["data"]) == ("coder-key", {"api_key": "c2stc2VjcmV0"})
    told = str(to_json(plan)) + words(events)
    assert "sk-secret" not in told
    assert "c2stc2VjcmV0" not in told


async def test_a_namespace_that_is_not_there_is_named(site: Site) -> None:
    site.double.store.delete(RESOURCES["namespaces"], "", "llm")
    with pytest.raises(TierdeckError, match=r"home has no namespace llm\. Make it: kubectl create namespace llm"):
        await site.plan()


async def test_what_was_only_stopped_runs_again(site: Site) -> None:
    site.double.add_deployment("coder", 2)
    site.hand_over("coder")
    former = copy.deepcopy(site.double.deployment("coder"))
    async with open_context(site.loaded.inventory) as context:
        runtime = await context.runtime("gpu-1", "kubernetes")
        assert isinstance(runtime, Declares)
        thing = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "coder", "namespace": "llm"}}
        await runtime.stop("llm/coder")
        assert await runtime.objects.withdraw(marked(thing, "token"), former) == "the Deployment coder is as it was"
        assert await runtime.objects.withdraw(marked(thing, "token"), former) == ""
    assert site.double.deployment("coder")["spec"] == former["spec"]
    assert site.double.deployment("coder")["metadata"].get("annotations", {}) == {}


async def test_the_verb_says_what_it_does_and_what_it_cannot(site: Site, folder: Path) -> None:
    path = site.folder / "coder.toml"
    told = site.spec().model_dump(mode="json", exclude_unset=True)
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items()))
    env = {"TIERDECK_CLUSTER": str(site.cluster), "XDG_RUNTIME_DIR": str(folder)}
    shown = await tierdeck("deploy", str(path), "--dry-run", env=env)
    assert (shown.code, "declare the Deployment coder (new)" in shown.out) == (0, True), shown.err
    done = await tierdeck("deploy", str(path), "--yes", "--json", env=env)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, events[-1]["outcome"]) == (0, "done"), done.err
    back = await tierdeck("procedures", "rollback", events[0]["procedure"], "--yes", env=env)
    assert (back.code, site.double.store.all("deployments")) == (0, []), back.err
    site.double.forbidden.add(("patch", "services"))
    refused = await tierdeck("deploy", str(path), "--yes", env=env)
    assert refused.err == ("tierdeck: home: may not: patch services in llm. Give that in a Role of that namespace.\n")
