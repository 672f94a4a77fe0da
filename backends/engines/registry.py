"""The engines by name; each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from backends.cluster.engines import ENGINES as FACTS
from backends.cluster.engines import EngineName
from backends.engines.engine import Engine


class _Engines(Mapping[EngineName, Engine]):
    """Engines by the names of cluster.toml."""

    def __getitem__(self, name: EngineName) -> Engine:
        module, _, kind = FACTS[name].probe.partition(":")
        engine: Engine = getattr(import_module(f"backends.engines.{module}"), kind)()
        return engine

    def __iter__(self) -> Iterator[EngineName]:
        return iter(FACTS)

    def __len__(self) -> int:
        return len(FACTS)


ENGINES: Final[Mapping[EngineName, Engine]] = _Engines()
"""The engines by the names of cluster.toml."""
