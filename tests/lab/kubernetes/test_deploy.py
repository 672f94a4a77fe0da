"""`tierdeck deploy` before a real API: dry run, server-side apply, claim, job, queue, answer; and all taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.errors import TierdeckError
from backends.exports import manifests
from backends.procedures.plan import describe
from tests.deploy.carrying import carry_out, failing, take_back, words
from tests.kubernetes.deploying import KINDS_OF_OURS, Place, engine, model, serving
from tests.kubernetes.inventories import cluster_toml
from tests.kubernetes.store import KINDS as RESOURCES
from tests.kubernetes.test_deploy import STEPS
from tests.lab.kubernetes.control import ADDRESS
from tests.lab.kubernetes.kubelets import Nodes

INSIDE = 8080
"""Where the engine listens in its pod."""

CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


class Site(Place):
    """One whose API is real."""

    nodes: Nodes

    async def state(self) -> dict[str, Any]:
        """What a rollback restores."""
        objects = {}
        for plural in KINDS_OF_OURS:
            kind = RESOURCES[plural]
            root = f"/apis/{kind.api_version}" if kind.group else "/api/v1"
            for item in await self.nodes.all(f"{root}/namespaces/llm/{plural}"):
                meta = item["metadata"]
                ours = {k: v for k, v in meta.get("annotations", {}).items() if "tierdeck" in k}
                if "token" not in meta["name"]:
                    objects[plural, meta["name"]] = (item.get("spec"), meta.get("labels"), ours)
        return {"objects": objects, "files": self.files()}


@pytest.fixture(autouse=True)
def as_of_1_20(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what 1.20 does not know yet: podFailurePolicy came with 1.25."""
    job = manifests._job

    def older(*told: Any) -> dict[str, Any]:
        made = job(*told)
        del made["spec"]["podFailurePolicy"]
        return made

    monkeypatch.setattr(manifests, "_job", older)


@pytest.fixture
async def site(nodes: Nodes, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Site]:
    for name in [each["metadata"]["name"] for each in await nodes.all(CLASSES)]:
        await nodes.ask("DELETE", f"{CLASSES}/{name}")
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    meta = {"name": "local-path", "annotations": default}
    await nodes.ask("POST", CLASSES, {"metadata": meta, "provisioner": "rancher.io/local-path"})
    await nodes.add_node("gpu-1", 8)
    (tmp_path / "cluster.toml").write_text(cluster_toml(kubeconfig, '{ gap = "50ms", ready_timeout = "20s" }'))
    nodes.logs["coder-fetch"] = ["progress 2 KiB", "progress 4 KiB"]
    async with serving(model, "127.0.0.1") as files, serving(engine, ADDRESS, INSIDE):
        made = Site(tmp_path, f"http://127.0.0.1:{files}/coder.gguf")
        made.nodes = nodes
        yield made


async def test_from_a_file_to_an_answer_and_back(site: Site) -> None:
    before = await site.state()
    plan = await site.plan()
    assert await site.state() == before, "a plan changes nothing"
    assert [step.kind for step in plan.steps] == STEPS
    shown = "\n".join(describe(plan))
    assert "storage class local-path: the default" in shown
    assert "nvidia.com/gpu on gpu-1: 1 asked, 8 of 8 free" in shown
    events = await carry_out(site.cluster, plan, site.folder / "state")
    assert events[-1].outcome == "done", words(events)
    assert "gpu-1/coder answers: Yes." in [e.text for e in events]
    assert (await site.nodes.deployment("coder"))["spec"]["replicas"] == 1
    again = await carry_out(site.cluster, plan, site.folder / "state")
    assert again[-1].outcome == "done", words(again)
    events = await carry_out(site.cluster, plan, site.folder / "state", back=True)
    assert (events[-1].outcome, events[-1].text) == ("cancelled", "taken back: all is as it was before"), words(events)
    assert await site.state() == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(len(STEPS)))
async def test_a_failure_at_each_step_is_taken_back(site: Site, at: int, late: bool) -> None:
    before = await site.state()
    plan = await site.plan()
    kinds = failing(at, plan, late=late)
    events = await carry_out(site.cluster, plan, site.folder / "state", kinds=kinds, ask=take_back)
    assert [e.step for e in events if e.event == "step_failed"] == [at], words(events)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert await site.state() == before


async def test_what_was_there_gets_its_former_spec_back(site: Site) -> None:
    await carry_out(site.cluster, await site.plan(image="llama:b0"), site.folder / "state")
    for path in (site.folder / "cluster.d").iterdir():
        path.unlink()
    (site.folder / "cluster.d").rmdir()
    before = await site.state()
    with pytest.raises(TierdeckError, match=r"llm has a Deployment coder already \(llama:b0, replicas: 1\)"):
        await site.plan()
    plan = await site.plan(force=True)
    assert "spec.template.spec.containers[engine].image: llama:b0 -> llama:b1" in "\n".join(describe(plan))
    kinds = failing(len(plan.steps) - 1, plan, late=True)
    events = await carry_out(site.cluster, plan, site.folder / "state", kinds=kinds, ask=take_back)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert await site.state() == before
