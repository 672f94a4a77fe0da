"""Plans: what would be done to a node, as data that can be read first, sent, stored and resumed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.errors import ProcedureError

SCHEMA: Final = "tierdeck.plan/1"

_SECRET_WORDS: Final = ("password", "passphrase", "secret", "token", "api_key")
_REFERENCE: Final = re.compile(r"(vault|azure-kv|keyring|pass|op|env|prompt):.+", re.DOTALL)


class Danger(StrEnum):
    """What a step does to the world: nothing, a change, or a change that interrupts running work."""

    NONE = "none"
    CHANGES = "changes"
    INTERRUPTS = "interrupts"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `kind` names the class that does it, `command` is the exact call shown to people.

    `arguments` hold JSON, and references to secrets, never secrets. `time_limit` is in seconds, for the whole step.
    A step that `may_fail` is no end of its plan: a later one may still help. One that is done `always` gives back what
    its plan borrowed: it is done, too, where the plan ends before it.
    """

    kind: str
    label: str
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    time_limit: float = 60.0
    danger: Danger = Danger.NONE
    command: str = ""
    may_fail: bool = False
    always: bool = False

    def __post_init__(self) -> None:
        if not (self.kind and self.label):
            raise ValueError("a step needs a kind and a label")
        if not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise ValueError("a step's time limit is a positive number of seconds")
        for key, value in self.arguments.items():
            if key in _SECRET_WORDS and not (isinstance(value, str) and _REFERENCE.fullmatch(value)):
                raise ValueError(f'"{key}" of a step is a reference to a secret, never the secret itself')


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What else a plan touches: work it interrupts, bystanders that stop with it, who would serve meanwhile."""

    interrupts: tuple[str, ...] = ()
    bystanders: tuple[str, ...] = ()
    serves_meanwhile: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done to `node`, in order, and `why`; `targets` names the containers and services it touches.

    `beside` are further nodes that it changes; nobody else may be at work there meanwhile, either.
    One that is `reversible` can be taken back as a whole; `on_failure` is what becomes of it where nobody is asked.
    """

    kind: str
    node: str
    title: str
    steps: tuple[Step, ...] = ()
    blast: BlastRadius = BlastRadius()
    warnings: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    reversible: bool = False
    on_failure: Literal["hold", "rollback"] = "hold"

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes that it changes, in the order in which they are taken."""
        return tuple(sorted({self.node, *self.beside}))

    @property
    def danger(self) -> Danger:
        """The worst that any of its steps does."""
        order = list(Danger)
        return max((step.danger for step in self.steps), key=order.index, default=Danger.NONE)


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    return {"schema": SCHEMA, **_adapter().dump_python(plan, mode="json")}


def from_json(data: object) -> Plan:
    """The plan that `to_json` wrote; ProcedureError where it is none, or of another version."""
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ProcedureError("This is no plan that this version of tierdeck can read.", "Plan it anew.")
    try:
        return _adapter().validate_python(dict(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProcedureError(f"This plan cannot be used: {place}: {first['msg']}.", "Plan it anew.") from None


def describe(plan: Plan) -> list[str]:
    """The plan in lines for people, as a dry run prints it."""
    lines = [plan.title, *(f"  seen: {line}" for line in plan.why)]
    for number, step in enumerate(plan.steps, 1):
        danger = {Danger.NONE: "", Danger.CHANGES: "", Danger.INTERRUPTS: "  INTERRUPTS"}[step.danger]
        lines.append(f"  {number}. {step.label}{danger}")
        if step.command:
            lines.append(f"       {step.command}")
    blast = plan.blast
    for heading, items in (
        ("interrupts", blast.interrupts),
        ("stops with it", blast.bystanders),
        ("serves meanwhile", blast.serves_meanwhile),
    ):
        lines.extend(f"  {heading}: {item}" for item in items)
    if plan.danger is not Danger.INTERRUPTS and not blast.interrupts:
        lines.append("  interrupts: nothing")
    lines.extend(f"  warning: {warning}" for warning in plan.warnings)
    return lines
