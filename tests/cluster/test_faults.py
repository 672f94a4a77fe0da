"""The one fault that what was seen of a node adds up to."""

from __future__ import annotations

from typing import Any

import pytest

from backends.cluster.faults import HOLDS, WORDS, Check, CheckState, Fault, Part, Seen, diagnose

SERVES = Part("a", native=False, running=True)
DOWN = Part("b", native=False, running=False, trouble="exited", kind="down")
STUCK = Part("c", native=False, running=True, trouble="no answer", kind="down")
SERVICE = Part("systemd:ollama", native=True, running=False, trouble="dead", kind="down")
LOST = Part("d", native=False, running=True, trouble="GPU_LOST", kind="lost_gpu")
SLOW = Part("e", native=False, running=True, trouble="ON_CPU", kind="on_cpu")
SHUT = Part("f", native=False, running=True, trouble="answers on mark, but", kind="closed")
ODD = Part("g", native=False, running=True, trouble="401", kind="config")


def seen(*parts: Part, windows: bool = False, known: bool = True, **checks: str) -> Seen:
    """Checks as name="state" or name="bad kind", underscores for blanks."""
    made = {}
    for name, words in checks.items():
        state, _, kind = words.partition(" ")
        states: dict[str, CheckState] = {"ok": "ok", "bad": "bad", "unknown": "unknown"}
        made[name.replace("_", " ")] = Check(name.replace("_", " "), states[state], words, kind)
    return Seen(made, parts if known else None, windows=windows)


UP: dict[str, Any] = {"ssh": "ok", "docker": "ok", "driver": "ok", "engines": "ok"}
GONE: dict[str, Any] = {"ssh": "bad", "docker": "unknown", "driver": "unknown", "engines": "bad"}


@pytest.mark.parametrize(
    ("found", "fault", "parts"),
    [
        (seen(SERVES, **UP), Fault.NONE, ()),
        (seen(known=False, **GONE), Fault.ASLEEP, ()),
        (seen(known=False, **GONE, desktop_port="bad"), Fault.ASLEEP, ()),
        (seen(known=False, **GONE, desktop_port="ok"), Fault.DESKTOP_ONLY, ()),
        (seen(known=False, **GONE, desktop_port="ok", from_elsewhere="ok"), Fault.SPLIT, ()),
        (seen(known=False, **GONE, from_elsewhere="bad"), Fault.ASLEEP, ()),
        (seen(known=False, **GONE | {"engines": "ok"}), Fault.SSH_DOWN, ()),
        (seen(known=False, **GONE | {"ssh": "bad host_key"}), Fault.HOST_KEY, ()),
        (seen(known=False, **GONE | {"ssh": "bad denied"}), Fault.LOGIN, ()),
        (seen(known=False, **GONE, way_out="bad"), Fault.NO_WAY_OUT, ()),
        (seen(known=False, **GONE, name="bad"), Fault.NAME, ()),
        (seen(known=False, **UP | {"docker": "bad", "engines": "bad"}), Fault.DOCKER_DOWN, ()),
        (
            seen(known=False, windows=True, desktop_session="bad nobody", **UP | {"docker": "bad"}),
            Fault.NOBODY_LOGGED_IN,
            (),
        ),
        (seen(known=False, windows=True, desktop_session="ok", **UP | {"docker": "bad"}), Fault.DOCKER_DOWN, ()),
        (seen(known=False, desktop_session="bad nobody", **UP | {"docker": "bad"}), Fault.DOCKER_DOWN, ()),
        (seen(DOWN, **UP | {"driver": "bad hung"}), Fault.DRIVER_HUNG, ()),
        (seen(DOWN, **UP | {"driver": "bad off_bus"}), Fault.GPU_OFF_BUS, ()),
        (seen(SERVES, **UP | {"driver": "bad"}), Fault.NONE, ()),
        (seen(SERVES, DOWN, STUCK, **UP), Fault.CONTAINERS_DOWN, ("b",)),
        (seen(SERVICE, DOWN, **UP), Fault.SERVICE_DOWN, ("systemd:ollama",)),
        (seen(STUCK, LOST, **UP), Fault.ENGINE_STUCK, ("c",)),
        (seen(LOST, SLOW, **UP), Fault.GPU_LOST, ("d",)),
        (seen(SLOW, SHUT, **UP), Fault.ON_CPU, ("e",)),
        (seen(SHUT, ODD, **UP), Fault.CLOSED, ("f",)),
        (seen(ODD, **UP), Fault.MISCONFIGURED, ("g",)),
        (seen(known=False, engines="bad"), Fault.UNTOUCHABLE, ()),
        (seen(known=False, engines="ok"), Fault.NONE, ()),
        (seen(known=False), Fault.NONE, ()),
    ],
)
def test_the_fault_that_explains_the_others(found: Seen, fault: Fault, parts: tuple[str, ...]) -> None:
    diagnosis = diagnose("mark", found)
    assert (diagnosis.fault, diagnosis.parts) == (fault, parts)
    assert diagnosis.checks == tuple(found.checks.values())


def test_every_fault_has_words_and_what_no_rung_cures_an_advice() -> None:
    assert set(WORDS) == set(Fault)
    assert all(WORDS[fault][1] for fault in HOLDS)
    assert diagnose("mark", seen(DOWN, **UP)).sentence == "containers are down: b"
