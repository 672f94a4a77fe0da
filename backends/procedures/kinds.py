"""The registry of step kinds: what a plan's steps are done by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from backends.procedures.aftermath import AFTER_KINDS
from backends.procedures.away import LEAVE_KINDS
from backends.procedures.boot import BOOT_KINDS
from backends.procedures.container import LeaveAlone, StartContainer
from backends.procedures.context import Context
from backends.procedures.declared import DECLARED_KINDS
from backends.procedures.demand import DEMAND_KINDS
from backends.procedures.deployed import DEPLOY_KINDS
from backends.procedures.draining import DRAIN_KINDS
from backends.procedures.gateway import GATEWAY_KINDS
from backends.procedures.plan import Step
from backends.procedures.reboot import REBOOT_KINDS
from backends.procedures.recreate import RECREATE_KINDS
from backends.procedures.rungs import RUNG_KINDS
from backends.procedures.runner import StepKind
from backends.procedures.standdown import STAND_DOWN_KINDS
from backends.procedures.updating import UPDATE_KINDS

KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "start_container": StartContainer,
    "leave_alone": LeaveAlone,
    **BOOT_KINDS,
    **RUNG_KINDS,
    **AFTER_KINDS,
    **DRAIN_KINDS,
    **STAND_DOWN_KINDS,
    **UPDATE_KINDS,
    **DEPLOY_KINDS,
    **DECLARED_KINDS,
    **DEMAND_KINDS,
    **REBOOT_KINDS,
    **GATEWAY_KINDS,
    **LEAVE_KINDS,
    **RECREATE_KINDS,
}
