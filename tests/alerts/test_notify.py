"""Messages reach people: a real Discord payload, a target that is away, and an address that stays secret."""

from __future__ import annotations

import asyncio
import logging

import pytest

from backends.alerts.news import Message
from backends.alerts.notify import Target
from backends.alerts.outbox import MOST_WAITING, Outbox
from backends.cluster.reading import Instant
from backends.errors import AlertError
from backends.secrets import Secrets
from tests.alerts.receiver import receiving
from tests.world.watching import until

TOKEN = "tok" + "abcdefghijklmnopqrstuvwxyz" * 2
WEBHOOK = f"https://discord.com/api/webhooks/{'1' * 18}/{TOKEN}"
FALL = Message("home: DEGRADED", "chat: nobody\n\nDOWN e0: REFUSED connect refused by 10.0.0.1:80", "DOWN")


def target(address: str) -> Target:
    return Target("env:HOOK", Secrets(environment={"HOOK": address}))


@pytest.fixture
def discord(monkeypatch: pytest.MonkeyPatch) -> type:
    from apprise.plugins.discord import NotifyDiscord

    monkeypatch.setattr(NotifyDiscord, "request_rate_per_sec", 0)
    return NotifyDiscord


async def test_a_discord_webhook_gets_a_payload_that_discord_takes(
    discord: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as receiver:
        monkeypatch.setattr(discord, "notify_url", f"{receiver.url}/api/webhooks")
        await target(WEBHOOK)(FALL)
        ((path, payload),) = receiver.posts
    assert path == f"/api/webhooks/{'1' * 18}/{TOKEN}"
    said = str(payload)
    assert len(said) < 2500
    assert "home: DEGRADED" in said
    assert "DOWN e0: REFUSED connect refused by 10.0.0.1:80" in said
    assert set(payload) & {"content", "embeds"}


async def test_a_target_that_refuses_is_named_without_its_address(
    discord: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiving() as receiver:
        receiver.status = 401
        monkeypatch.setattr(discord, "notify_url", f"{receiver.url}/api/webhooks")
        with pytest.raises(AlertError, match="Discord did not take a message") as error:
            await target(WEBHOOK)(FALL)
    assert "env:HOOK" in str(error.value)
    assert TOKEN not in str(error.value) + caplog.text


async def test_what_is_no_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AlertError, match="env:HOOK holds no address") as error:
        await target("nonsense://secret-token")(FALL)
    assert "secret-token" not in str(error.value) + caplog.text


async def test_without_apprise_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("backends.alerts.notify.importlib.import_module", absent)
    with pytest.raises(AlertError, match="pipx inject tierdeck apprise"):
        await target(WEBHOOK)(FALL)


class Pauses:
    """A clock whose sleeps are counted, and end at once."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> Instant:
        return Instant(0.0, 0.0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_what_cannot_be_sent_waits_and_goes_together() -> None:
    sent: list[Message] = []
    said: list[str] = []
    clock = Pauses()

    async def send(message: Message) -> None:
        if len(clock.slept) < 6:
            raise AlertError("Discord did not take a message.")
        sent.append(message)

    outbox = Outbox("env:HOOK", send, clock, said.append)
    for i in range(MOST_WAITING + 5):
        outbox.post(Message(f"title {i}", f"body {i}", "DOWN" if i == 10 else "UP"))
    task = asyncio.ensure_future(outbox.run())
    await until(lambda: sent, "the message")
    outbox.post(FALL)
    await until(lambda: len(sent) == 2, "the next one")
    task.cancel()
    assert clock.slept == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0]
    assert (sent[0].title, sent[0].worst) == (f"title {MOST_WAITING + 4}", "DOWN")
    assert "(5 earlier ones were left out)" in sent[0].body
    assert "body 4\n" not in sent[0].body
    assert "body 5" in sent[0].body
    assert sent[1] == FALL
    assert len(said) == 2
    assert "is tried again" in said[0]
    assert "go through again" in said[1]
