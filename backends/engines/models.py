"""The list of models that nearly every engine gives at /v1/models, read with patience for what is odd in it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from backends.cluster.reading import ModelInfo
from backends.cluster.words import Cause
from backends.engines.target import MIB, ProbeFailure
from backends.text import plain

MOST: Final = 500
"""Models taken from one list."""

LONGEST: Final = 200
"""Characters of a model's name."""

Item = TypeVar("Item")


def _or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Lenient = WrapValidator(_or_none)
Words = Annotated[str | None, Lenient]
Size = Annotated[float | None, Field(ge=0, allow_inf_nan=False), Lenient]
Count = Annotated[int | None, Field(ge=0, lt=2**53), Lenient]
Maybe = Annotated[Item | None, Lenient]
"""A value, or None where it is missing or odd."""


class Listed(BaseModel):
    """One model of a list."""

    id: str
    owned_by: Words = None
    max_model_len: Count = None
    max_input_tokens: Count = None

    @property
    def info(self) -> ModelInfo:
        """As the snapshot knows it."""
        return ModelInfo(named(self.id), context=self.max_model_len or self.max_input_tokens)


class ModelList(BaseModel):
    """The answer of /v1/models; `data` is null where Ollama has none."""

    data: list[Maybe[Listed]] | None

    @property
    def entries(self) -> list[Listed]:
        """The models that can be read, at most MOST."""
        return bounded(self.data)


def bounded(items: Iterable[Item | None] | None) -> list[Item]:
    """What could be read of a list, at most MOST."""
    return [item for item in items or () if item is not None][:MOST]


def named(name: str) -> str:
    """A model's name as it is shown."""
    return plain(name, LONGEST)


def mib(size: float | None) -> float | None:
    """Bytes as MiB."""
    return None if size is None else size / MIB


def require(model: str | None, names: Iterable[str]) -> None:
    """Raise CONFIG where the inventory's `model` is not among `names` (which may hold patterns such as "openai/*")."""
    if model is None:
        return
    known = list(names)
    if not any(name == model or ("*" in name and fnmatchcase(model, name)) for name in known):
        has = f"has {', '.join(known[:3])}" if known else "has none"
        raise ProbeFailure(Cause.CONFIG, f"model {model} is missing; {has}")


def counted(models: Iterable[object]) -> str:
    """How many there are, in words."""
    number = len(list(models))
    return "no models" if number == 0 else "1 model" if number == 1 else f"{number} models"
