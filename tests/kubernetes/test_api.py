"""An API server asked over real sockets: what it says, what it refuses, and what is wrong with the way to it."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.tables import Cluster
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.access import Login, find
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.refusals import refusal
from tests.kubernetes.conftest import api_of
from tests.kubernetes.double import VIEWER, Double, serving
from tests.kubernetes.pki import Authority


async def asked(path: Path, what: str = "/apis/apps/v1/namespaces/llm/deployments", **options: Any) -> dict[str, Any]:
    api = api_of(path, **options)
    try:
        return await api.get(what)
    finally:
        await api.close()


async def test_it_answers_and_tells_its_time(double: Double, api: KubernetesApi) -> None:
    with pytest.raises(RuntimeFailure, match="does not tell the time"):
        _ = api.now
    assert (await api.get("/version"))["gitVersion"] == "v1.35.6"
    assert api.now > 1.7e9


async def test_a_missing_right_is_told_as_verb_and_resource(double: Double, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        await asked(double.kubeconfig(tmp_path, VIEWER))
    assert caught.value.message == "home: may not: list deployments.apps in llm."
    assert caught.value.advice == "Give viewer that right in a Role."
    assert caught.value.status == 403
    assert len(double.requests) == 1


async def test_a_refused_login_is_renewed_once(double: Double, tmp_path: Path) -> None:
    path = double.kubeconfig(tmp_path, "old")
    api = api_of(path)
    with pytest.raises(RuntimeFailure, match="the API does not accept the login"):
        await api.get("/version")
    assert len(double.requests) == 2
    double.tokens["new"] = "admin"
    double.kubeconfig(tmp_path, "new")
    assert await api.get("/version")
    await api.close()


async def test_a_web_page_is_no_api(double: Double, api: KubernetesApi) -> None:
    double.html = True
    with pytest.raises(RuntimeFailure, match=r"a web page answers \(status 200\), not a Kubernetes API"):
        await api.get("/version")


async def test_a_slow_answer_has_an_end(double: Double, tmp_path: Path) -> None:
    double.slow = 5.0
    with pytest.raises(RuntimeFailure, match=r"did not answer within 0.2 s"):
        await asked(double.kubeconfig(tmp_path), limit=0.2)


async def test_a_closed_port_and_an_unknown_name(double: Double, tmp_path: Path) -> None:
    path = double.kubeconfig(tmp_path, server="https://127.0.0.1:9")
    with pytest.raises(RuntimeFailure, match="refuses connections"):
        await asked(path)
    path = double.kubeconfig(tmp_path, server="https://nowhere.invalid:6443")
    with pytest.raises(RuntimeFailure, match="does not resolve"):
        await asked(path)


async def test_its_certificate_is_always_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(Double(), authority.server()) as double:
        good = double.kubeconfig(tmp_path, **{"certificate-authority": str(authority.path)})
        assert (await asked(good, "/version"))["major"] == "1"
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other")
        bad = double.kubeconfig(tmp_path / "other", **{"certificate-authority": str(other.path)})
        with pytest.raises(RuntimeFailure, match="a certificate that the kubeconfig's CA did not sign"):
            await asked(bad, "/version")
        assert len(double.requests) == 1
    async with serving(Double(), authority.server("10.1.2.3")) as double:
        with pytest.raises(RuntimeFailure, match="a certificate for another name"):
            await asked(double.kubeconfig(tmp_path, **{"certificate-authority": str(authority.path)}), "/version")
    async with serving(Double(), authority.server(days=-1)) as double:
        with pytest.raises(RuntimeFailure, match="a certificate that has expired"):
            await asked(double.kubeconfig(tmp_path, **{"certificate-authority": str(authority.path)}), "/version")


async def test_through_a_tunnel_the_certificate_is_of_the_name_behind_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    led: list[tuple[str, int]] = []
    async with serving(Double(), authority.server("api.home.arpa")) as double:

        async def tunnel(host: str, port: int) -> int:
            led.append((host, port))
            return double.port

        inside = {"server": "https://api.home.arpa:6443", "certificate-authority": str(authority.path)}
        path = double.kubeconfig(tmp_path, **inside)
        assert (await asked(path, "/version", tunnel=tunnel))["major"] == "1"
        assert led == [("api.home.arpa", 6443)]
        inside["server"] = "https://other.home.arpa:6443"
        with pytest.raises(RuntimeFailure, match="a certificate for another name"):
            await asked(double.kubeconfig(tmp_path, **inside), "/version", tunnel=tunnel)


async def test_keys_in_a_kubeconfig_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    authority = Authority(tmp_path)
    certificate, key = authority.pair("me")
    async with serving(Double(), authority.server()) as double:
        data = {"certificate-authority-data": base64.b64encode(authority.path.read_bytes()).decode()}
        path = double.kubeconfig(tmp_path, **data)
        text = path.read_text().replace("token: admin-token", "token: admin-token\n    client-certificate-data: "
            + base64.b64encode(certificate.read_bytes()).decode() + "\n    client-key-data: "
            + base64.b64encode(key.read_bytes()).decode())  # fmt: skip
        path.write_text(text)
        assert (await asked(path, "/version"))["major"] == "1"
    assert list(folder.iterdir()) == []


REFUSALS = [
    (403, 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 2, limited: 2',
     "home: exceeded quota gpus, requested: requests.nvidia.com/gpu=1, used: 2, limited: 2"),
    (400, 'admission webhook "policy.example.com" denied the request: no latest tags',
     "home: refused by policy.example.com: no latest tags"),
    (422, "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'limits' with binding 'all' denied request: no limits",
     "home: refused by limits: no limits"),
    (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
     'home: refused by PodSecurity: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'),
    (403, 'nodes is forbidden: User "a" cannot list resource "nodes" in API group "" at the cluster scope',
     "home: may not: list nodes."),
    (404, 'deployments.apps "nope" not found', 'home: deployments.apps "nope" not found'),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "words"), REFUSALS)
def test_refusals_in_words(status: int, message: str, words: str) -> None:
    assert refusal("home", status, {"message": message}).message == words


async def test_pages_of_five_thousand(double: Double, api: KubernetesApi) -> None:
    for number in range(5000):
        double.store.objects["pods"][f"llm/p{number:04}"] = {"metadata": {"name": f"p{number:04}", "namespace": "llm"}}
    pages = [page async for page in api.pages("/api/v1/pods")]
    assert sum(len(page["items"]) for page in pages) == 5000
    assert len(pages) == 50


def test_nothing_of_kubernetes_is_loaded_where_no_cluster_is_named() -> None:
    code = (
        "import sys, backends.world, backends.procedures.opening\n"
        "print([m for m in sys.modules if m.startswith(('kr8s', 'backends.reach.kubernetes', 'ruamel'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kr8s_says_nothing_on_the_screen() -> None:
    code = "from backends.reach.kubernetes.api import _kr8s; _kr8s()"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


async def test_the_time_limit_of_opening_holds(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = Double().kubeconfig(tmp_path, server=f"https://127.0.0.1:{port}")
    table = Cluster(name="home", kubeconfig=str(path))
    api = KubernetesApi("home", lambda: find(table, Login()), limit=0.3)
    with pytest.raises(RuntimeFailure, match=r"did not answer within 0.3 s"):
        await api.get("/version")
    held.set()
    await api.close()
    server.close()
