"""Sends messages one after the other to one target; what cannot be sent waits, and goes with the next that can."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from backends.alerts.news import DOWN, UP, Message
from backends.clock import Clock
from backends.errors import AlertError, SecretError

FIRST_RETRY: Final = 30.0
"""Seconds until a message that could not be sent is tried again; doubled each time."""

LAST_RETRY: Final = 600.0
"""Seconds between two tries at the most."""

MOST_WAITING: Final = 20
"""Messages that wait for a target; the oldest give way."""

Send = Callable[[Message], Awaitable[None]]
"""Sends a message, or raises AlertError (SecretError where the address cannot be had)."""


class Outbox:
    """Owns what waits for one target; `say` hears of every failure once, and when it works again."""

    def __init__(self, name: str, send: Send, clock: Clock, say: Callable[[str], object]) -> None:
        self._name = name
        self._send = send
        self._clock = clock
        self._say = say
        self._waiting: deque[Message] = deque(maxlen=MOST_WAITING)
        self._news = asyncio.Event()
        self._gave_way = 0

    def post(self, message: Message) -> None:
        """Have it sent."""
        self._gave_way += len(self._waiting) == MOST_WAITING
        self._waiting.append(message)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        pause = FIRST_RETRY
        while True:
            await self._news.wait()
            told, gave_way = len(self._waiting), self._gave_way
            try:
                await self._send(joined(list(self._waiting), gave_way))
            except (AlertError, SecretError) as error:
                if pause == FIRST_RETRY:
                    self._say(f"{self._name}: {error} The message waits, and is tried again.")
                await self._clock.sleep(pause)
                pause = min(LAST_RETRY, 2 * pause)
                continue
            if pause != FIRST_RETRY:
                self._say(f"{self._name}: messages go through again.")
            pause = FIRST_RETRY
            sent = max(0, told - (self._gave_way - gave_way))
            for _ in range(sent):
                self._waiting.popleft()
            self._gave_way = 0
            if not self._waiting:
                self._news.clear()


def joined(messages: list[Message], gave_way: int) -> Message:
    """Several messages as one, the newest title, the oldest first."""
    if len(messages) == 1 and not gave_way:
        return messages[0]
    head = ["These could not be sent when they happened:"]
    head += [f"({gave_way} earlier ones were left out)"] if gave_way else []
    worst = next((m.worst for m in messages if m.worst == DOWN), messages[-1].worst or UP)
    return Message(messages[-1].title, "\n\n".join([*head, *(m.body for m in messages)]), worst)
