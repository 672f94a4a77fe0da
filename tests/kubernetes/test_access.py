"""What a person may get wrong about a kubeconfig, each named before anything is asked."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from backends.cluster.tables import Cluster
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.access import Login, find, through
from tests.kubernetes.pki import Authority

EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "plugin"}


def config(**user: Any) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
        "contexts": [{"name": "home", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "home",
    }


def changed(**tables: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(tables)


def cluster_says(**entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["clusters"][0]["cluster"].update(entry)


def user_is(**user: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["users"][0].update(user=user)


WRONG: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("no current context", changed(**{"current-context": ""}), "has no current context. Say context = ..., of: home"),
    ("context gone", changed(**{"current-context": "hom"}), 'has no context "hom". Did you mean "home"?'),
    ("user gone", changed(users=[]), 'names the user "u", which is not there'),
    ("cluster gone", changed(clusters=[]), 'names the cluster "c", which is not there'),
    ("no clusters", lambda data: data.pop("clusters"), "is no kubeconfig: it lists no clusters"),
    ("no server", cluster_says(server=""), "names no address of an API server"),
    ("no TLS", cluster_says(server="http://10.0.0.1:6443"), "without TLS"),
    ("insecure", cluster_says(**{"insecure-skip-tls-verify": True}), "the API's certificate is always verified here"),
    ("CA gone", cluster_says(**{"certificate-authority": "ca.crt"}), "which is not there"),
    ("basic", user_is(username="a", password="b"), "a way that Kubernetes no longer has"),
    ("key gone", user_is(**{"client-certificate": "a.crt", "client-key": "a.key"}), "a.crt, which is not there"),
    ("token file gone", user_is(tokenFile="/nowhere/token"), "cannot be read: No such file"),
    ("damaged", user_is(**{"client-certificate-data": "!!", "client-key-data": "!!"}), "cannot be read"),
    ("plugin gone", user_is(exec={**EXEC, "installHint": "apt install it"}), "plugin, which is not there. apt install"),
    ("old plugin", user_is(exec={**EXEC, "apiVersion": "client.authentication.k8s.io/v1alpha1"}), "which is gone"),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
async def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    data = config()
    change(data)
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(RuntimeFailure) as caught:
        await find(Cluster(name="home", kubeconfig=str(path)), Login())
    assert words in str(caught.value)
    assert str(caught.value).startswith("home: ")
    assert "password" not in str(caught.value) or "user name and password" in str(caught.value)


async def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="there is no kubeconfig"):
        await find(Cluster(name="home", kubeconfig=str(tmp_path / "none")), Login())
    path = tmp_path / "config"
    path.write_text("a: b\n  c: [")
    with pytest.raises(RuntimeFailure, match=r"line 2 is no valid kubeconfig: it is not YAML"):
        await find(Cluster(name="home", kubeconfig=str(path)), Login())


async def test_an_expired_client_certificate_is_told_with_its_date(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).pair("me", days=-3)
    data = base64.b64encode(certificate.read_bytes()).decode()
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config(**{"client-certificate-data": data, "client-key": str(key)})))
    with pytest.raises(RuntimeFailure, match=r"expired on \d{4}-\d\d-\d\d"):
        await find(Cluster(name="home", kubeconfig=str(path)), Login())


async def test_several_files_are_one_and_the_first_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text(yaml.safe_dump({**config(), "current-context": "other"}))
    data = config(token="theirs")
    data["contexts"].append({"name": "other", "context": {"cluster": "c", "user": "u"}})
    second.write_text(yaml.safe_dump(data))
    environment = {"KUBECONFIG": f"{first}:{tmp_path / 'none'}:{second}", "PATH": ""}
    found = await find(Cluster(name="home"), Login(), environment)
    assert found.config["users"][0]["user"] == {"token": "t"}
    assert found.source.endswith("context other")
    assert "token" not in repr(found)


async def test_a_reference_stands_instead_of_the_files_login(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config(exec=EXEC)))
    found = await find(Cluster(name="home", kubeconfig=str(path)), Login(token=SecretStr("mine")))
    assert found.config["users"][0]["user"] == {"token": "mine"}


async def test_an_exec_plugin_gets_no_terminal_and_its_token_is_taken(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        '#!/bin/sh\n[ -t 0 ] && exit 9\nread line && exit 8\n[ -n "$KUBERNETES_EXEC_INFO" ] || exit 7\n'
        'echo "{\\"status\\": {\\"token\\": \\"$GIVEN\\"}}"\n'
    )
    plugin.chmod(stat.S_IRWXU)
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config(exec={**EXEC, "env": [{"name": "GIVEN", "value": "fresh"}]})))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    found = await find(Cluster(name="home", kubeconfig=str(path)), Login(), environment)
    assert found.config["users"][0]["user"] == {"token": "fresh"}
    plugin.write_text("#!/bin/sh\necho expired, log in again >&2\nexit 1\n")
    with pytest.raises(RuntimeFailure, match="plugin failed: expired, log in again"):
        await find(Cluster(name="home", kubeconfig=str(path)), Login(), environment)
    plugin.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(RuntimeFailure, match="printed no login"):
        await find(Cluster(name="home", kubeconfig=str(path)), Login(), environment)


async def test_behind_a_tunnel_the_certificate_is_still_of_the_name_it_goes_by(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config()))
    found = through(await find(Cluster(name="home", kubeconfig=str(path)), Login()), 4711)
    assert found.config["clusters"][0]["cluster"] == {
        "server": "https://127.0.0.1:4711",
        "tls-server-name": "10.0.0.1",
    }
