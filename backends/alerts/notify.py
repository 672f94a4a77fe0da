"""Through Apprise to Discord, ntfy and a hundred more; a target's address is a secret, so its errors are kept back."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any, Final

from backends.alerts.news import DOWN, UP, Message
from backends.errors import AlertError
from backends.secrets import Secrets

LIMIT: Final = 30.0
"""Seconds one message to one target may take."""

LONGEST: Final = 1800
"""Characters of a body; Discord takes 2,000."""


class Target:
    """One address, named by its reference; resolved when it is first needed."""

    def __init__(self, reference: str, secrets: Secrets) -> None:
        self._reference = reference
        self._secrets = secrets

    async def __call__(self, message: Message) -> None:
        """Send it; AlertError says why not, and names the reference, never the address."""
        address = await self._secrets.resolve(self._reference, polling=True)
        apprise = await asyncio.to_thread(_library)
        sender: Any = apprise.Apprise()
        if not sender.add(address.get_secret_value()):
            self._secrets.forget(self._reference)
            raise AlertError(f"{self._reference} holds no address that Apprise knows.", "See `apprise --details`.")
        kind = {DOWN: "failure", UP: "success"}.get(message.worst, "warning")
        body = message.body if len(message.body) <= LONGEST else message.body[: LONGEST - 3] + "..."
        try:
            async with asyncio.timeout(LIMIT):
                taken = await sender.async_notify(title=message.title, body=body, notify_type=kind, body_format="text")
        except TimeoutError:
            raise AlertError(f"{sender[0].service_name} did not take a message within {LIMIT:.0f} s.") from None
        if not taken:
            raise AlertError(f"{sender[0].service_name} did not take a message.", f"Is {self._reference} right?")


def _library() -> Any:
    """Apprise, silent: its own log, and that of what it sends with, would show addresses."""
    try:
        library = importlib.import_module("apprise")
    except ImportError:
        raise AlertError("Messages need Apprise, which is not installed.", "pipx inject tierdeck apprise") from None
    for name in ("apprise", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return library
