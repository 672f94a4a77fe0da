"""What is asked of engines besides their health: answers, embeddings, tokens counted."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Endpoint
from backends.cluster.words import Cause
from backends.engines.chat import ChatEvent, Message, Patience, chat
from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ChatError, ReachError, SecretError, TierdeckError

if TYPE_CHECKING:
    from backends.engines.embed import Embedded


class Prompting(ABC):
    """The part of the outside that answers prompts."""

    inventory: Inventory
    _http: Http

    @abstractmethod
    async def target(self, endpoint: Endpoint) -> Target:
        """An endpoint as it is asked from here; ReachError or SecretError where it cannot be."""

    async def chat(
        self,
        endpoint: str,
        said: str | Sequence[Message],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        patience: Patience | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """The streamed answer of an endpoint to a prompt or conversation; closing it closes the connection."""
        named = self.inventory.endpoint_named[endpoint]
        messages = [Message("user", said)] if isinstance(said, str) else said
        answer = chat(
            self._http,
            await self._asked(named),
            messages,
            model=model or named.model,
            max_tokens=max_tokens,
            patience=patience,
        )
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def embed(self, endpoint: str, text: str, *, model: str | None = None) -> Embedded:
        """A text as an endpoint embeds it."""
        from backends.engines.embed import embed

        return await embed(self._http, await self._asked(self.inventory.endpoint_named[endpoint]), text, model=model)

    async def count_tokens(self, text: str, asked: Sequence[tuple[str, str | None]]) -> dict[str, int]:
        """The tokens of `text` for each (endpoint, model) that can count them; ask only those that are awake."""
        from backends.engines.tokens import count_tokens

        async def count(name: str, model: str | None) -> int | None:
            try:
                target = await self._asked(self.inventory.endpoint_named[name])
            except TierdeckError:
                return None
            return await count_tokens(self._http, target, text, model)

        counts = await asyncio.gather(*(count(*each) for each in asked))
        return {name: n for (name, _), n in zip(asked, counts, strict=True) if n is not None}

    async def through_gateway(self, endpoint: str) -> tuple[str, str]:
        """The gateway's endpoint, and its name for the model that leads to `endpoint`; ChatError where none does."""
        from backends.engines.gateway import leading_to

        gateway = self.inventory.gateway_endpoint
        if gateway is None:
            raise ChatError("No gateway is known.", "Name it in cluster.toml: [gateway] endpoint.", sent=False)
        behind = self.inventory.endpoint_named[endpoint]
        if behind.name == gateway.name:
            raise ChatError(f"{endpoint} is the gateway itself.", "Choose what is behind it.", sent=False)
        return gateway.name, await leading_to(self._http, await self._asked(gateway), await self._asked(behind), behind)

    async def _asked(self, endpoint: Endpoint) -> Target:
        """An endpoint as it is asked; ChatError where its way or its key cannot be had, so nothing was sent."""
        try:
            return await self.target(endpoint)
        except (ReachError, SecretError) as error:
            raise ChatError(error.message, error.advice, cause=Cause.UNREACHABLE, sent=False) from error
