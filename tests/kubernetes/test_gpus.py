"""GPUs that only the API leads to: measured by a DCGM exporter, in the shape that nvidia-smi gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from backends.cluster.reading import Gpu, GpuProcess
from backends.gpus.dcgm import parse
from backends.memory.ledger import ledger
from backends.world import World, survey
from tests.kubernetes.double import Double
from tests.kubernetes.inventories import CODER
from tests.kubernetes.test_seen import drawn, inventory
from tests.reach.conftest import until

UUIDS = ("GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52", "GPU-5c2a2f3b-0000-1111-2222-d92044ab6e52")


def exported(*gpus: dict[str, Any]) -> str:
    """What an exporter says; each GPU is its figures, and `pod` whose it is."""
    lines = ["# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).", "# TYPE DCGM_FI_DEV_FB_USED gauge"]
    for index, gpu in enumerate(gpus):
        told = {"gpu": str(index), "UUID": UUIDS[index], "pci_bus_id": "00000000:1B:00.0", "device": f"nvidia{index}",
                "modelName": "NVIDIA H200", "Hostname": "gpu-1", "DCGM_FI_DRIVER_VERSION": "570.1"}  # fmt: skip
        for pod in gpu.get("pods", [""]):
            space, _, name = pod.partition("/")
            own = told | ({"container": "vllm", "namespace": space, "pod": name} if pod else {})
            own |= gpu.get("labels", {})
            words = ",".join(f'{key}="{value}"' for key, value in own.items())
            lines += [f"DCGM_FI_DEV_{key}{{{words}}} {value}" for key, value in gpu.items() if key.isupper()]
    return "\n".join(lines) + "\n"


WHOLE = {"FB_USED": 40000, "FB_FREE": 103000, "GPU_UTIL": 71, "GPU_TEMP": 63, "POWER_USAGE": 412.5}


def test_two_gpus_one_with_a_pod() -> None:
    text = exported({**WHOLE, "FB_RESERVED": 771, "pods": ["llm/coder-x"]}, {**WHOLE, "FB_USED": 0})
    busy, idle = parse(text, {"llm/coder-x": "abc123"})
    assert busy == Gpu(
        0, "NVIDIA H200", UUIDS[0], 143771.0, 40000.0, 71.0, 63.0, 412.5, (GpuProcess(0, 40000.0, "abc123"),)
    )
    assert (idle.memory_used_mib, idle.memory_total_mib, idle.processes) == (0.0, 103000.0, None)


def test_a_gpu_that_several_share_tells_no_shares() -> None:
    (gpu,) = parse(exported({**WHOLE, "pods": ["llm/a", "llm/b"]}), {"llm/a": "1", "llm/b": "2"})
    assert (gpu.memory_used_mib, gpu.processes) == (40000.0, (GpuProcess(0, None, "1"), GpuProcess(0, None, "2")))
    (gpu,) = parse(exported({**WHOLE, "pods": ["llm/a", "llm/gone"]}), {"llm/a": "1"})
    assert gpu.processes is None


def test_mig_instances_are_summed() -> None:
    text = exported({"FB_USED": 1000, "FB_FREE": 9000, "GPU_TEMP": 50, "labels": {"GPU_I_ID": "1"}})
    text += exported({"FB_USED": 2000, "FB_FREE": 8000, "GPU_TEMP": 50, "labels": {"GPU_I_ID": "2"}})
    (gpu,) = parse(text, {})
    assert (gpu.memory_used_mib, gpu.memory_total_mib, gpu.temperature_c) == (3000.0, 20000.0, 50.0)
    (gpu,) = parse(text + exported({"FB_USED": 3100, "FB_FREE": 17000}), {})
    assert (gpu.memory_used_mib, gpu.memory_total_mib) == (3100.0, 20100.0)


@pytest.mark.parametrize(
    "text",
    ["", "404 page not found", "DCGM_FI_DEV_FB_USED 3", 'DCGM_FI_DEV_FB_USED{gpu="x"} 3',
     'DCGM_FI_DEV_FB_USED{gpu="99999"} 3', 'DCGM_FI_DEV_FB_USED{gpu="0"} NaN'],
)  # fmt: skip
def test_what_is_no_export_is_no_gpu(text: str) -> None:
    assert parse(text, {}) == ()


def test_what_the_exporter_does_not_know_is_not_known() -> None:
    (gpu,) = parse(exported({**WHOLE, "GPU_TEMP": 9223372036854775794}), {})
    assert (gpu.temperature_c, gpu.utilization_pct) == (None, 71.0)


def add_exporter(double: Double, labels: dict[str, str], **gpu: Any) -> None:
    async def metrics(request: web.Request) -> web.StreamResponse:
        assert request.path.endswith("/pods/dcgm-x:9400/proxy/metrics")
        owner = double.pod_of("coder")["metadata"]
        return web.Response(text=exported({**WHOLE, "pods": [f"llm/{owner['name']}"], **gpu}))

    async def engine(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/v1/models"):
            return web.Response(text="")
        return web.json_response({"object": "list", "data": [{"id": "q", "object": "model"}]})

    double.add_pod("dcgm-x", "gpu-1", labels)
    double.services |= {"dcgm-x:9400": metrics, "coder:8000": engine}


@pytest.mark.parametrize("labels", [{"app.kubernetes.io/name": "dcgm-exporter"}, {"app": "nvidia-dcgm-exporter"}])
async def test_bars_and_ledger_show_what_is_exported(labels: dict[str, str], double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 1)
    double.add_node("gpu-2", 1)
    double.add_pod("dcgm-y", "gpu-2", labels)
    double.add_deployment("coder", 1)
    add_exporter(double, labels)
    await until(lambda: ("ready", "coder") in double.controllers.started)
    loaded = inventory(tmp_path, double, CODER)
    snapshot = await survey(loaded, None, tmp_path / "state")
    node = snapshot.nodes["gpu-1"]
    assert node.gpus_trouble is None
    assert node.gpus[0].memory_used_mib == 40000.0
    lines = drawn(loaded, snapshot)
    assert any("H200" in line and "39.1/139.6" in line and "71%" in line for line in lines), lines
    books = ledger(loaded.inventory, snapshot, loaded.inventory.node_named["gpu-1"], node.gpus[0])
    assert books is not None
    assert [(e.endpoint, e.measured) for e in books.entries] == [("t/coder", 40000.0)]
    async with World(loaded, None, tmp_path / "state") as world:
        (stream,) = world.streams()
        readings = stream.readings()
        reading = await anext(readings)
        assert reading.gpus == node.gpus  # type: ignore[union-attr]
        await readings.aclose()


async def test_without_an_exporter_the_schedulers_numbers_do(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 1)
    snapshot = await survey(inventory(tmp_path, double), None, tmp_path / "state")
    node = snapshot.nodes["gpu-1"]
    assert (node.gpus, node.gpus_trouble) == ((), None)
    assert node.devices[0].capacity == 1


async def test_an_exporter_that_may_not_be_asked_is_told(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 1)
    double.add_deployment("coder", 1)
    add_exporter(double, {"app": "nvidia-dcgm-exporter"})
    double.forbidden.add(("get", "pods/proxy"))
    loaded = inventory(tmp_path, double)
    snapshot = await survey(loaded, None, tmp_path / "state")
    trouble = snapshot.nodes["gpu-1"].gpus_trouble
    assert trouble is not None
    assert "may not: get pods/proxy in monitoring" in trouble.message
    loaded.path.write_text(loaded.path.read_text().replace('gpus = "nvidia"\n', ""))
    from backends.cluster.files import load

    snapshot = await survey(load(loaded.path), None, tmp_path / "state")
    assert snapshot.nodes["gpu-1"].gpus_trouble is None
