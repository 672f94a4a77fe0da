from __future__ import annotations

import asyncio
import sys
import types
from pathlib import Path

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import SecretError
from backends.secrets import Secrets, secret_variables

VALUE = "hunter2-the-value"


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment whose pass and op are ours; they write down how they were called."""
    for name in ("pass", "op"):
        script = (
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\nenv > {tmp_path}/environment\n. {tmp_path}/answer\n'
        )
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    answer(tmp_path, f"echo {VALUE}; echo second line")
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OTHER_KEY": "another-secret",
        "GPG_TTY": "/dev/x",
    }


def answer(folder: Path, script: str) -> None:
    (folder / "answer").write_text(script + "\n")


def called(folder: Path) -> list[str]:
    file = folder / "called"
    return file.read_text().splitlines() if file.exists() else []


async def ask(label: str) -> str:
    return f"{VALUE} for {label}"


@pytest.mark.parametrize(
    ("reference", "polling", "message"),
    [
        ("env:NOT_SET", False, "env:NOT_SET is empty or not set"),
        ("env:EMPTY", True, "env:EMPTY is empty or not set"),
        ("env:", False, "nothing is named"),
        ("keyring:only-a-service", False, "a service and a name are needed"),
        ("prompt:sudo on mark", False, "nobody can be asked here"),
        ("prompt:sudo on mark", True, "never by a poll"),
        ("op:homelab/mark/password", True, "never by a poll"),
        ("plain-text", False, "is no kind of reference|nothing is named"),
        ("file:/etc/shadow", False, "is no kind of reference"),
    ],
)
async def test_refusals(reference: str, polling: bool, message: str) -> None:
    with pytest.raises(SecretError, match=message):
        await Secrets(environment={"EMPTY": ""}).resolve(reference, polling=polling)


async def test_env() -> None:
    secrets = Secrets(environment={"KEY": VALUE})
    for polling in (True, False):
        secret = await secrets.resolve("env:KEY", polling=polling)
        assert secret.get_secret_value() == VALUE
        assert VALUE not in f"{secret} {secret!r} {secrets!r}"


async def test_prompt_asks_each_time_and_never_for_a_poll() -> None:
    secrets = Secrets(ask)
    secret = await secrets.resolve("prompt:mark", polling=False)
    assert secret.get_secret_value() == f"{VALUE} for mark"
    with pytest.raises(SecretError, match="never by a poll"):
        await secrets.resolve("prompt:mark", polling=True)


@pytest.mark.parametrize(
    ("reference", "command"),
    [
        ("pass:homelab/mark", "pass show -- homelab/mark"),
        ("pass:--version", "pass show -- --version"),
        ("pass:a; touch /tmp/x", "pass show -- a; touch /tmp/x"),
        ("op:homelab/mark/password", "op read --no-newline -- op://homelab/mark/password"),
        ("op:op://homelab/mark/password", "op read --no-newline -- op://homelab/mark/password"),
    ],
)
async def test_tools_give_their_first_line(tools: dict[str, str], tmp_path: Path, reference: str, command: str) -> None:
    secret = await Secrets(environment=tools).resolve(reference, polling=False)
    assert secret.get_secret_value() == VALUE
    assert called(tmp_path) == [command]


async def test_tools_get_only_what_they_need_of_the_environment(tools: dict[str, str], tmp_path: Path) -> None:
    secrets = Secrets(environment=tools)
    await secrets.resolve("pass:x", polling=False)
    environment = (tmp_path / "environment").read_text()
    assert "GPG_TTY=/dev/x" in environment
    assert "another-secret" not in environment
    await secrets.resolve("pass:x", polling=True)
    assert "GPG_TTY" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'Error: x is not in the password store.\x1b[31m' >&2; exit 1",
            "pass failed: Error: x is not in the pass",
        ),
        ("exit 7", "pass failed: status 7"),
        ("true", "pass:x is empty"),
        ("echo; echo second", "pass:x is empty"),
        ("sleep 30", "not answered within 0.3 s"),
    ],
)
async def test_tools_that_fail(tools: dict[str, str], tmp_path: Path, script: str, message: str) -> None:
    answer(tmp_path, script)
    with pytest.raises(SecretError, match=message) as caught:
        await Secrets(environment=tools, limit=0.3).resolve("pass:x", polling=False)
    assert "\x1b" not in str(caught.value)


async def test_tool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="pass cannot be run") as caught:
        await Secrets(environment={"PATH": str(tmp_path)}).resolve("pass:x", polling=False)
    assert "Install pass" in caught.value.advice


async def test_a_poll_resolves_once_whoever_asks(tools: dict[str, str], tmp_path: Path) -> None:
    secrets = Secrets(environment=tools)
    found = await asyncio.gather(*(secrets.resolve("pass:x", polling=True) for _ in range(10)))
    assert {secret.get_secret_value() for secret in found} == {VALUE}
    assert len(called(tmp_path)) == 1
    secrets.forget("pass:x")
    await secrets.resolve("pass:x", polling=True)
    assert len(called(tmp_path)) == 2


async def test_a_poll_does_not_pester_a_vault_that_failed(tools: dict[str, str], tmp_path: Path) -> None:
    now = 0.0
    secrets = Secrets(environment=tools, clock=lambda: now)
    answer(tmp_path, "exit 1")
    for _ in range(3):
        with pytest.raises(SecretError, match="status 1"):
            await secrets.resolve("pass:x", polling=True)
    assert len(called(tmp_path)) == 1
    answer(tmp_path, f"echo {VALUE}")
    assert (await secrets.resolve("pass:x", polling=False)).get_secret_value() == VALUE
    now = 61.0
    assert (await secrets.resolve("pass:x", polling=True)).get_secret_value() == VALUE


class _KeyringError(Exception):
    pass


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    errors.KeyringError = _KeyringError  # type: ignore[attr-defined]
    module.get_password = {("tierdeck", "remote/mark"): VALUE}.get  # type: ignore[attr-defined]
    module.get_password = lambda service, name: {("tierdeck", "remote/mark"): VALUE}.get((service, name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    return module


async def test_keyring(keyring: types.ModuleType) -> None:
    secret = await Secrets().resolve("keyring:tierdeck/remote/mark", polling=True)
    assert secret.get_secret_value() == VALUE
    with pytest.raises(SecretError, match="keyring:tierdeck/other is empty or not set"):
        await Secrets().resolve("keyring:tierdeck/other", polling=True)


async def test_keyring_that_fails_or_hangs(keyring: types.ModuleType) -> None:
    def locked(service: str, name: str) -> str:
        raise _KeyringError(VALUE)

    keyring.get_password = locked  # type: ignore[attr-defined]
    with pytest.raises(SecretError, match="the keyring cannot be used") as caught:
        await Secrets().resolve("keyring:a/b", polling=False)
    assert VALUE not in str(caught.value)

    import threading

    release = threading.Event()
    keyring.get_password = lambda service, name: release.wait(10) and None  # type: ignore[attr-defined]
    with pytest.raises(SecretError, match=r"not answered within 0\.2 s"):
        await Secrets(limit=0.2).resolve("keyring:a/b", polling=False)
    release.set()


async def test_keyring_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SecretError, match="the keyring library is not installed") as caught:
        await Secrets().resolve("keyring:a/b", polling=False)
    assert "tierdeck[keyring]" in caught.value.advice


def test_secret_variables() -> None:
    inventory = Inventory.model_validate(
        {
            "version": 1,
            "name": "t",
            "nodes": [{"name": "n", "address": "10.0.0.1", "ssh": {"password": "env:SSH_PASSWORD"}}],
            "tiers": [{"name": "T"}],
            "endpoints": [
                {"name": "e", "tier": "T", "engine": "openai", "url": "http://h", "api_key": "env:API_KEY"},
                {"name": "f", "tier": "T", "engine": "openai", "url": "http://h", "api_key": "pass:env:NOT"},
            ],
        }
    )
    assert secret_variables(inventory) == {"SSH_PASSWORD", "API_KEY"}
