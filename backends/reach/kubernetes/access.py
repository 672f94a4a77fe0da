"""What leads to an API server: one context of a kubeconfig, or the service account of the pod we run in.

Everything a person may have got wrong is named here, before anything is asked; kr8s gets what is left, as a dict.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from backends.cluster.tables import Cluster
from backends.errors import RuntimeFailure
from backends.reach.streams import first_words

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account."""

PLUGIN_LIMIT: Final = 30.0
"""Seconds for an exec plugin; it may ask a cloud for a token."""

_EXEC_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Login:
    """What cluster.toml names by reference instead of the kubeconfig's login."""

    token: SecretStr | None = None
    certificate: SecretStr | None = None
    key: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """A kubeconfig of one context, as kr8s takes it; `server` is the API's address, `source` where that stands."""

    server: str
    source: str
    config: dict[str, Any] = field(repr=False)


async def find(cluster: Cluster, login: Login, environment: Mapping[str, str] | None = None) -> Access:
    """The way to the API of `cluster`; RuntimeFailure names what is wrong with it."""
    environment = os.environ if environment is None else environment
    access, plugin = await asyncio.to_thread(_read, cluster, login, environment)
    if plugin is not None:
        _user(access).update(await _plugin(cluster.name, plugin, environment))
        await asyncio.to_thread(_check_certificate, cluster.name, access)
    return access


def through(access: Access, port: int) -> Access:
    """The same API behind a port of ours; its certificate is still that of the name it goes by."""
    host = urlsplit(access.server).hostname or ""
    entry = dict(access.config["clusters"][0]["cluster"])
    entry |= {"server": f"{urlsplit(access.server).scheme}://127.0.0.1:{port}"}
    entry.setdefault("tls-server-name", host)
    named = [{"name": "cluster", "cluster": entry}]
    return Access(access.server, access.source, {**access.config, "clusters": named})


def _read(cluster: Cluster, login: Login, environment: Mapping[str, str]) -> tuple[Access, Mapping[str, Any] | None]:
    paths = _paths(cluster, environment)
    if paths is None:
        source, entry, user = _account(cluster.name, environment)
    else:
        source, entry, user = _context(cluster, paths)
    _check_server(cluster.name, source, entry)
    if login.token is not None:
        user = {"token": login.token.get_secret_value()}
    elif login.certificate is not None and login.key is not None:
        user = {
            "client-certificate-data": login.certificate.get_secret_value(),
            "client-key-data": login.key.get_secret_value(),
        }
    plugin = user.pop("exec", None)
    access = Access(str(entry["server"]), source, _config(entry, user))
    if plugin is None:
        _check_certificate(cluster.name, access)
    return access, plugin


def _config(entry: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": dict(entry)}],
        "users": [{"name": "user", "user": dict(user)}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "context",
    }


def _user(access: Access) -> dict[str, Any]:
    user: dict[str, Any] = access.config["users"][0]["user"]
    return user


def _paths(cluster: Cluster, environment: Mapping[str, str]) -> list[Path] | None:
    """The kubeconfig files; None where there are none and we run in a pod."""
    if cluster.kubeconfig is not None:
        return [Path(cluster.kubeconfig).expanduser()]
    listed = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    paths = listed or [Path("~/.kube/config").expanduser()]
    in_pod = "KUBERNETES_SERVICE_HOST" in environment and (ACCOUNT / "token").exists()
    return None if in_pod and not any(path.exists() for path in paths) else paths


def _account(name: str, environment: Mapping[str, str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    try:
        token = (ACCOUNT / "token").read_text().strip()
    except OSError as error:
        raise RuntimeFailure(f"{name}: the token of this pod cannot be read: {error.strerror}.") from None
    entry = {"server": f"https://{address}:{port}", "certificate-authority": str(ACCOUNT / "ca.crt")}
    return "the service account of this pod", entry, {"token": token}


def _context(cluster: Cluster, paths: Sequence[Path]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The cluster and the user of the context that is meant, file paths made absolute."""
    name, found = cluster.name, [path for path in paths if path.exists()]
    if not found:
        raise RuntimeFailure(
            f"{name}: there is no kubeconfig {paths[0]}.",
            f'Copy it from a control node, or name it: [[clusters]] name = "{name}", kubeconfig = "..."',
        )
    files = [(path, _yaml(name, path)) for path in found]
    contexts = _named(files, "contexts", "context")
    wanted = cluster.context or next((str(c) for _, data in files if (c := data.get("current-context"))), "")
    if not wanted:
        raise RuntimeFailure(f"{name}: {found[0]} has no current context.", f"Say context = ..., of: {_list(contexts)}")
    if wanted not in contexts:
        near = difflib.get_close_matches(wanted, list(contexts), n=1, cutoff=0.5)
        hint = f'Did you mean "{near[0]}"?' if near else f"It has: {_list(contexts)}."
        raise RuntimeFailure(f'{name}: {found[0]} has no context "{wanted}".', hint)
    path, context = contexts[wanted]
    chosen = []
    for kind in ("cluster", "user"):
        entries, word = _named(files, f"{kind}s", kind), str(context.get(kind) or "")
        if word not in entries:
            raise RuntimeFailure(f'{name}: context "{wanted}" of {path} names the {kind} "{word}", which is not there.')
        chosen.append(_absolute(*entries[word]))
    entry, user = chosen
    return f"{path}, context {wanted}", entry, _login(name, path, user)


def _yaml(name: str, path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuntimeFailure(f"{name}: {path} cannot be read: {error.strerror}.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise RuntimeFailure(f"{name}: {path}{where} is no valid kubeconfig: it is not YAML.") from None
    if not isinstance(data, dict) or not isinstance(data.get("clusters"), list):
        raise RuntimeFailure(f"{name}: {path} is no kubeconfig: it lists no clusters.")
    return data


def _named(
    files: Sequence[tuple[Path, Mapping[str, Any]]], table: str, key: str
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The entries of one table by name; what an earlier file says wins, as kubectl has it."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, data in files:
        for item in data.get(table) or ():
            if isinstance(item, dict) and isinstance(item.get(key), dict):
                found.setdefault(str(item.get("name")), (path, item[key]))
    return found


def _absolute(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Files beside the kubeconfig are meant, not beside us."""
    files = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
    return {k: str(path.parent / str(v)) if k in files and v else v for k, v in entry.items()}


def _login(name: str, path: Path, user: dict[str, Any]) -> dict[str, Any]:
    if "auth-provider" in user or "username" in user:
        raise RuntimeFailure(
            f"{name}: {path} logs in by a way that Kubernetes no longer has (auth-provider, user name and password).",
            "Use a token, a client certificate or an exec plugin.",
        )
    if user.get("tokenFile") and not user.get("token"):
        try:
            user["token"] = Path(user["tokenFile"]).read_text().strip()
        except OSError as error:
            raise RuntimeFailure(f"{name}: its token {user['tokenFile']} cannot be read: {error.strerror}.") from None
    for key in ("client-certificate", "client-key"):
        if user.get(key) and not Path(user[key]).is_file():
            raise RuntimeFailure(f"{name}: {path} names {key} {user[key]}, which is not there.")
    return user


def _check_server(name: str, source: str, entry: Mapping[str, Any]) -> None:
    server = str(entry.get("server") or "")
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RuntimeFailure(f'{name}: {source} names no address of an API server (server: "{server[:80]}").')
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise RuntimeFailure(
            f"{name}: {source} asks for {server} without TLS; the login would be readable on the way.",
            "Use its https address.",
        )
    if entry.get("insecure-skip-tls-verify"):
        raise RuntimeFailure(
            f"{name}: {source} says insecure-skip-tls-verify; the API's certificate is always verified here.",
            "Put the cluster's CA into certificate-authority-data instead.",
        )
    authority = entry.get("certificate-authority")
    if authority and not Path(str(authority)).is_file():
        raise RuntimeFailure(f"{name}: {source} names the CA {authority}, which is not there.")


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificate(name: str, access: Access) -> None:
    """A client certificate that has expired, told before the server refuses it without a word."""
    from cryptography import x509

    user = _user(access)
    data = user.get("client-certificate-data")
    try:
        if data:
            pem = str(data).encode() if "-----" in str(data) else base64.b64decode(str(data))
        elif user.get("client-certificate"):
            pem = Path(user["client-certificate"]).read_bytes()
        else:
            return
        until = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except (ValueError, OSError):
        raise RuntimeFailure(f"{name}: the client certificate of {access.source} cannot be read.") from None
    if until < datetime.now(UTC):
        raise RuntimeFailure(
            f"{name}: the client certificate of {access.source} expired on {until:%Y-%m-%d}.",
            "Fetch a new kubeconfig from a control node (k3s renews it when it restarts; kubeadm certs renew).",
        )


async def _plugin(name: str, plugin: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """The login that an exec plugin prints; it gets no terminal, so it cannot ask anybody anything."""
    command, version = str(plugin.get("command") or ""), str(plugin.get("apiVersion") or "")
    if version not in _EXEC_VERSIONS:
        raise RuntimeFailure(f"{name}: its exec plugin {command} speaks {version or 'no version'}, which is gone.")
    if shutil.which(command, path=environment.get("PATH")) is None:
        hint = first_words(str(plugin.get("installHint") or ""))
        raise RuntimeFailure(f"{name}: its login needs the exec plugin {command}, which is not there.", hint)
    spoken = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    told = {str(e.get("name")): str(e.get("value")) for e in plugin.get("env") or () if isinstance(e, dict)}
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *map(str, plugin.get("args") or ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, **told, "KUBERNETES_EXEC_INFO": json.dumps(spoken)},
        )
    except OSError as error:
        raise RuntimeFailure(f"{name}: its exec plugin {command} cannot be run: {error.strerror}.") from None
    try:
        async with asyncio.timeout(PLUGIN_LIMIT):
            said, complaint = await process.communicate()
    except TimeoutError:
        raise RuntimeFailure(f"{name}: its exec plugin {command} did not answer in {PLUGIN_LIMIT:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = first_words(complaint.decode(errors="replace")) or f"status {process.returncode}"
        raise RuntimeFailure(f"{name}: its exec plugin {command} failed: {words}", "Log in with it once yourself.")
    return _credential(name, command, said)


def _credential(name: str, command: str, said: bytes) -> dict[str, str]:
    try:
        status = json.loads(said)["status"]
        if status.get("token"):
            return {"token": str(status["token"])}
        certificate, key = status["clientCertificateData"], status["clientKeyData"]
        return {"client-certificate-data": str(certificate), "client-key-data": str(key)}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RuntimeFailure(f"{name}: its exec plugin {command} printed no login.") from None


def _list(contexts: Mapping[str, object]) -> str:
    return ", ".join(list(contexts)[:8]) or "none"
