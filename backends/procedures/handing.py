"""What a runner is handed on its standard input: the plan, and all of our environment but what a program must be born
with, since everybody who may look at a process sees what that is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from backends.cluster.inventory import Inventory
from backends.errors import ProcedureError
from backends.procedures.plan import Plan, from_json, to_json
from backends.secrets import named_variables

_BORN_WITH: Final = re.compile(r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON[A-Z]*")
"""What the interpreter needs before it can read anything."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a runner was handed; the plan is None where it stands in a journal already."""

    plan: Plan | None
    environment: Mapping[str, SecretStr]

    def settle(self, inventory: Inventory) -> Mapping[str, SecretStr]:
        """Make it the environment of this process, without what `env:` references name: that is given to their reader.

        It is then in our memory, and not where /proc shows the environment that a process was started with.
        """
        named = named_variables(inventory)
        os.environ.update({k: v.get_secret_value() for k, v in self.environment.items() if k not in named})
        return {name: value for name, value in self.environment.items() if name in named}


def born_with(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a runner is started with."""
    return {name: value for name, value in environment.items() if _BORN_WITH.fullmatch(name)}


def hand(plan: Plan | None, environment: Mapping[str, str]) -> bytes:
    """What is written to a runner's standard input."""
    rest = {name: value for name, value in environment.items() if not _BORN_WITH.fullmatch(name)}
    return json.dumps({"plan": to_json(plan) if plan else None, "environment": rest}).encode()


def taken(raw: bytes) -> Handed:
    """What a runner reads there; ProcedureError where that is nothing of ours."""
    try:
        told = json.loads(raw)
        environment = {str(name): SecretStr(value) for name, value in told["environment"].items()}
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ProcedureError("The runner was handed no plan.") from None
    return Handed(from_json(told["plan"]) if told["plan"] else None, environment)
