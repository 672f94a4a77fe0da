"""HashiCorp Vault by its library against a server that speaks its documented API, Azure Key Vault against its names."""

from __future__ import annotations

import json
import socket
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import SecretError
from backends.secrets import Secrets, secret_variables

VALUE, TOKEN = "hunter2-the-value", "hvs.the-token"


@dataclass
class Vault:
    """A Vault with one KV engine of each version; what is `said` instead stands for what can be wrong with it."""

    address: str = ""
    said: tuple[int, list[str]] | None = None
    good: set[str] = field(default_factory=lambda: {TOKEN})
    may_read: bool = True
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, token: str) -> tuple[int, Any]:
        if self.said:
            status, errors = self.said
            return status, {"errors": errors}
        if token not in self.good:
            return 403, {"errors": ["permission denied", "invalid token"]}
        if path == "/v1/auth/token/lookup-self":
            return 200, {"data": {"ttl": 3600}}
        if path.startswith("/v1/sys/internal/ui/mounts/"):
            named = path.removeprefix("/v1/sys/internal/ui/mounts/").split("/")[0]
            if named not in ("homelab", "old"):
                return 403, {"errors": ["preflight capability check returned 403"]}
            options = {"version": "2"} if named == "homelab" else None
            return 200, {"data": {"path": f"{named}/", "type": "kv", "options": options}}
        if not self.may_read:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if path == "/v1/homelab/data/rack/mark":
            return 200, {"data": {"data": {"rdp": VALUE, "port": 3389, "none": None}, "metadata": {"version": 3}}}
        if path == "/v1/homelab/data/deleted":
            return 404, {"data": {"data": None, "metadata": {"deletion_time": "2026-11-01T00:00:00Z"}}}
        if path == "/v1/old/mark":
            return 200, {"data": {"rdp": VALUE}}
        return 404, {"errors": []}


@pytest.fixture
def vault() -> Iterator[Vault]:
    double = Vault()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            double.asked.append(self.path)
            double.headers.append(dict(self.headers))
            if self.path.endswith("/hang"):
                double.hold.wait(20)
            status, body = double.answer(self.path, self.headers.get("X-Vault-Token", ""))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        double.address = f"http://127.0.0.1:{server.server_port}"
        yield double
        double.hold.set()
        server.shutdown()
        thread.join()


def secrets(vault: Vault, limit: float = 10.0, **more: str) -> Secrets:
    return Secrets(environment={"VAULT_ADDR": vault.address, "VAULT_TOKEN": TOKEN, **more}, limit=limit)


async def refused(secrets: Secrets, reference: str) -> SecretError:
    with pytest.raises(SecretError) as caught:
        await secrets.resolve(reference, polling=False)
    assert str(caught.value).startswith(reference)
    assert VALUE not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("vault:homelab/rack/mark#rdp", VALUE),
        ("vault:/homelab/rack/mark#rdp", VALUE),
        ("vault:homelab/rack/mark#port", "3389"),
        ("vault:old/mark#rdp", VALUE),
    ],
)
@pytest.mark.parametrize("polling", [True, False])
async def test_a_field_of_either_version(reference: str, value: str, polling: bool, vault: Vault) -> None:
    secret = await secrets(vault).resolve(reference, polling=polling)
    assert secret.get_secret_value() == value


async def test_namespace_and_token_file(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text(f"{TOKEN}\n")
    found = secrets(vault, VAULT_TOKEN="", HOME=str(tmp_path), VAULT_NAMESPACE="home")
    secret = await found.resolve("vault:old/mark#rdp", polling=False)
    assert secret.get_secret_value() == VALUE
    assert {headers.get("X-Vault-Namespace") for headers in vault.headers} == {"home"}


@pytest.mark.parametrize(
    ("reference", "message", "advice"),
    [
        ("vault:homelab/rack/mark", "a path and a field are needed", "vault:PATH#FIELD"),
        ("vault:#rdp", "a path and a field are needed", "vault:PATH#FIELD"),
        ("vault:homelab/../sys/x#rdp", "a path and a field are needed", "vault:PATH#FIELD"),
        ("vault:homelab/rack/mark#ssh", "the secret has no field ssh", "vault kv get homelab/rack/mark"),
        ("vault:homelab/rack/mark#none", "the secret has no field none", "vault kv get"),
        ("vault:homelab/nothing#rdp", "Vault has no such secret", "without data/"),
        ("vault:homelab/deleted#rdp", "Vault has no such secret, or it was deleted", ""),
        ("vault:old/nothing#rdp", "Vault has no such secret", ""),
        ("vault:elsewhere/mark#rdp", "the token may not read it", "policy"),
    ],
)
async def test_what_is_not_there(reference: str, message: str, advice: str, vault: Vault) -> None:
    error = await refused(secrets(vault), reference)
    assert message in error.message
    assert advice in error.advice


@pytest.mark.parametrize(
    ("status", "errors", "message", "advice"),
    [
        (503, ["Vault is sealed"], "Vault is sealed", "vault operator unseal"),
        (503, ["node not active but active cluster node not found"], "not in service: node not active", "status"),
        (501, [], "not in service", "status"),
        (500, ["internal \x1b[31merror"], "Vault refused: internal", ""),
        (429, ["request path is rate limited"], "Vault refused: request path is rate limited", ""),
    ],
)
async def test_a_vault_that_cannot(status: int, errors: list[str], message: str, advice: str, vault: Vault) -> None:
    vault.said = status, errors
    error = await refused(secrets(vault), "vault:homelab/rack/mark#rdp")
    assert message in error.message
    assert advice in error.advice
    assert "\x1b" not in error.message


async def test_an_expired_token_is_told_from_one_that_may_not(vault: Vault) -> None:
    vault.may_read = False
    assert "the token may not read it" in (await refused(secrets(vault), "vault:old/mark#rdp")).message
    vault.good.clear()
    error = await refused(secrets(vault), "vault:old/mark#rdp")
    assert "may have expired" in error.message
    assert error.advice == "vault login"


async def test_a_vault_out_of_reach(vault: Vault, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        error = await refused(secrets(vault, VAULT_ADDR=address), "vault:old/mark#rdp")
    assert f"Vault at {address} is not reached" in error.message
    error = await refused(secrets(vault, 0.3), "vault:homelab/hang#rdp")
    assert "not answered within 0.3 s" in error.message
    assert "where Vault is" in (await refused(secrets(vault, VAULT_ADDR=""), "vault:old/mark#rdp")).message
    error = await refused(secrets(vault, VAULT_TOKEN="", HOME=str(tmp_path)), "vault:old/mark#rdp")
    assert "no token" in error.message
    tls = vault.address.replace("http:", "https:")
    error = await refused(secrets(vault, VAULT_ADDR=tls), "vault:old/mark#rdp")
    assert "is not trusted" in error.message


async def test_without_the_libraries(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    assert "tierdeck[vault]" in (await refused(secrets(vault), "vault:old/mark#rdp")).advice
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    assert "tierdeck[azure]" in (await refused(secrets(vault), "azure-kv:homelab/mark")).advice


class AzureError(Exception):
    """The errors of azure.core, with the ancestry of the real ones."""


class HttpResponseError(AzureError):
    status_code = 409


class ClientAuthenticationError(HttpResponseError):
    pass


class ResourceNotFoundError(HttpResponseError):
    pass


class ForbiddenError(HttpResponseError):
    status_code = 403


class SecretClient:
    """A client as azure-keyvault-secrets has it; the name of the secret says how it fails."""

    made: ClassVar[list[dict[str, object]]] = []

    def __init__(self, **options: object) -> None:
        self.made.append(options)

    def __enter__(self) -> SecretClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_secret(self, name: str) -> types.SimpleNamespace:
        errors = {
            "expired": ClientAuthenticationError,
            "missing": ResourceNotFoundError,
            "forbidden": ForbiddenError,
            "conflict": HttpResponseError,
            "away": AzureError,
        }
        if name in errors:
            raise errors[name](VALUE)
        return types.SimpleNamespace(value=VALUE)


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The libraries' modules, with as much in them as we use."""
    parts: dict[str, dict[str, Any]] = {
        "azure.identity": {"DefaultAzureCredential": SecretClient},
        "azure.keyvault.secrets": {"SecretClient": SecretClient},
        "azure.core.exceptions": {
            "AzureError": AzureError,
            "HttpResponseError": HttpResponseError,
            "ClientAuthenticationError": ClientAuthenticationError,
            "ResourceNotFoundError": ResourceNotFoundError,
        },
    }
    for name in ("azure", "azure.keyvault", "azure.core", *parts):
        module = types.ModuleType(name)
        vars(module).update(parts.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(SecretClient, "made", [])
    return SecretClient.made


async def test_azure(azure: list[dict[str, object]]) -> None:
    secret = await Secrets(environment={}).resolve("azure-kv:home-lab/mark-rdp", polling=True)
    assert secret.get_secret_value() == VALUE
    assert azure[-1]["vault_url"] == "https://home-lab.vault.azure.net"


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("homelab", "a vault and a secret are needed"),
        ("evil.example/x", "a vault and a secret are needed"),
        ("homelab/a/b", "a vault and a secret are needed"),
        ("homelab/expired", "Azure does not accept the login"),
        ("homelab/missing", "the vault has no such secret"),
        ("homelab/forbidden", "the login may not read it"),
        ("homelab/conflict", "Azure refused"),
        ("homelab/away", r"https://homelab\.vault\.azure\.net is not reached"),
    ],
)
async def test_azure_that_fails(rest: str, message: str, azure: list[dict[str, object]]) -> None:
    with pytest.raises(SecretError, match=message) as caught:
        await Secrets(environment={}).resolve(f"azure-kv:{rest}", polling=False)
    assert VALUE not in str(caught.value)


def test_what_opens_a_vault_is_kept_from_children() -> None:
    def hidden(password: str) -> frozenset[str]:
        node = {"name": "n", "address": "10.0.0.1", "ssh": {"password": password}}
        return secret_variables(Inventory.model_validate({"version": 1, "name": "t", "nodes": [node]}))

    assert hidden("vault:homelab/mark#rdp") == {"VAULT_TOKEN"}
    assert "AZURE_CLIENT_SECRET" in hidden("azure-kv:homelab/mark")
    assert hidden("env:SSH_PASSWORD") == {"SSH_PASSWORD"}
