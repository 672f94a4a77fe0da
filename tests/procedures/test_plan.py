from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from backends.errors import ProcedureError
from backends.procedures.plan import BlastRadius, Danger, Plan, Step, describe, from_json, to_json

PLAN = Plan(
    kind="queue",
    node="mark",
    title="Start queue of mark: start mark-v",
    steps=(
        Step("leave_alone", "mark-i: already ready, left alone"),
        Step(
            "start_container",
            "start mark-v",
            {"name": "mark-v", "gap": 5.0, "nested": {"a": [1, None, True]}, "password": "vault:homelab/mark#rdp"},
            3600.0,
            Danger.CHANGES,
            "docker start mark-v",
        ),
        Step("start_container", "restart b", danger=Danger.INTERRUPTS, command="docker stop b; docker start b"),
    ),
    blast=BlastRadius(("remote/b (chat)",), ("dns",), ("chat: nobody",)),
    warnings=("Docker starts these by itself",),
    targets=("mark-v", "b"),
)


def test_round_trip() -> None:
    assert from_json(json.loads(json.dumps(to_json(PLAN)))) == PLAN


def test_defaults_round_trip() -> None:
    plan = Plan("queue", "mark", "nothing")
    assert from_json(to_json(plan)) == plan
    assert plan.danger is Danger.NONE


def _without(key: str) -> dict[str, Any]:
    return {k: v for k, v in to_json(PLAN).items() if k != key}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "no plan"),
        ([], "no plan"),
        ({}, "no plan"),
        ({**to_json(PLAN), "schema": "tierdeck.plan/99"}, "no plan"),
        (_without("node"), "node"),
        ({**to_json(PLAN), "steps": [{"kind": "x"}]}, "steps.0"),
        ({**to_json(PLAN), "steps": [{"kind": "", "label": "y"}]}, "kind and a label"),
        ({**to_json(PLAN), "steps": [{"kind": "x", "label": "y", "danger": "fun"}]}, "danger"),
        ({**to_json(PLAN), "steps": [{"kind": "x", "label": "y", "time_limit": 0}]}, "time limit"),
        ({**to_json(PLAN), "steps": [{"kind": "x", "label": "y", "time_limit": 1e999}]}, "time limit"),
        ({**to_json(PLAN), "steps": [{"kind": "x", "label": "y", "arguments": {"token": "abc"}}]}, "secret"),
    ],
)
def test_refuses(data: object, words: str) -> None:
    with pytest.raises(ProcedureError, match=words):
        from_json(data)


def test_a_refused_secret_is_not_repeated() -> None:
    data = {**to_json(PLAN), "steps": [{"kind": "x", "label": "y", "arguments": {"password": "hunter2"}}]}
    with pytest.raises(ProcedureError) as caught:
        from_json(data)
    assert "hunter2" not in str(caught.value)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.title = "x"


def test_danger_is_the_worst() -> None:
    assert PLAN.danger is Danger.INTERRUPTS
    assert Plan("q", "n", "t", PLAN.steps[:2]).danger is Danger.CHANGES


def test_describe_names_every_call_and_the_blast_radius() -> None:
    text = "\n".join(describe(PLAN))
    for words in (
        "docker start mark-v",
        "docker stop b; docker start b",
        "INTERRUPTS",
        "interrupts: remote/b (chat)",
        "stops with it: dns",
        "serves meanwhile: chat: nobody",
        "warning: Docker starts these by itself",
        "1. mark-i: already ready",
    ):
        assert words in text
    assert "hunter" not in text
    assert "vault:" not in text
    assert "interrupts: nothing" in describe(Plan("q", "n", "t", PLAN.steps[:2]))[-1]
