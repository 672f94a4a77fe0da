"""Chooses who answers a prompt, and says of every other endpoint why it was passed over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from backends.cluster.reading import ModelInfo
from backends.cluster.snapshot import ClusterSnapshot, EndpointState
from backends.cluster.words import Cause
from backends.routing.fitting import context_of, fits
from backends.routing.models import is_cold, model_for

if TYPE_CHECKING:
    from backends.cluster.inventory import Inventory
    from backends.cluster.tables import Endpoint

LONG: Final = 4096
"""Tokens from which on it is worth a word that a context is not known."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be answered: its task, what it carries, and what a person or the conversation says about it.

    `tokens` is an estimate; `counted` has, by endpoint, what its own tokenizer counted. A `target` is asked whatever
    its health. `last` is the endpoint that answered this conversation before, `tried` just failed with it.
    `paces` are tokens per second known from before; what the snapshot measured counts more.
    """

    task: str
    tokens: int = 0
    counted: Mapping[str, int] = field(default_factory=dict)
    image: bool = False
    target: str | None = None
    model: str | None = None
    last: str | None = None
    paces: Mapping[str, float] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint: `outcome` is chosen, next or passed over, with the reason, whose first words stand before a colon.

    `model` would be asked there; `cold` says that it has to start, wake or load first, `starts` that it is on demand
    and has to be started, which only a person's word does; `assigned` that the task is its own.
    """

    endpoint: str
    outcome: str
    reason: str
    model: str | None = None
    cold: bool = False
    assigned: bool = True
    starts: bool = False

    @property
    def brief(self) -> str:
        """The reason's first words."""
        return self.reason.partition(": ")[0]


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers a prompt of this task (None: nobody can), and every candidate with its reason, best first."""

    task: str
    chosen: str | None
    candidates: tuple[Candidate, ...]
    advice: str = ""

    @property
    def choice(self) -> Candidate | None:
        """The candidate that was chosen."""
        return next((c for c in self.candidates if c.outcome == "chosen"), None)

    @property
    def model(self) -> str | None:
        """The model to be asked for; None leaves it to the engine."""
        return self.choice.model if self.choice else None

    @property
    def wakes(self) -> str:
        """What has to happen before the chosen one can answer, in words; "" where it is warm."""
        return self.choice.reason if self.choice and self.choice.cold else ""

    @property
    def next(self) -> str | None:
        """Who would be asked if the chosen one fails."""
        return next((c.endpoint for c in self.candidates if c.outcome == "next"), None)

    @property
    def sentence(self) -> str:
        """The decision in a line."""
        passed = "; ".join(
            f"{c.endpoint} {c.brief}" for c in self.candidates if c.outcome == "passed over" and c.assigned
        )
        if self.chosen is None:
            return f"nobody can serve {self.task}: {passed or 'no endpoint is assigned to it'}"
        return f"{self.chosen}" + (f" ({passed})" if passed else "")


@dataclass(frozen=True, slots=True)
class _Case:
    """An endpoint as this prompt would find it."""

    endpoint: Endpoint
    state: EndpointState
    model: ModelInfo | None

    @property
    def cold(self) -> bool:
        return is_cold(self.state, self.model)

    @property
    def starts(self) -> bool:
        """On demand, and stopped on purpose."""
        return self.state.cause is Cause.OFF

    def candidate(self, outcome: str, reason: str) -> Candidate:
        name, cold = self.model.name if self.model else None, self.starts or (self.cold and self.state.serving)
        return Candidate(self.endpoint.name, outcome, reason, name, cold, starts=self.starts)


def choose(inventory: Inventory, snapshot: ClusterSnapshot, wish: Wish) -> Decision:
    """Choose who answers `wish`: the target a person named, else the best of those that can.

    Able is who is assigned to the task (images: to vision), has the model that is wanted, is healthy and not cooling
    down, and whose context holds the prompt. Of those come first: who is warm before who has to load, who answered this
    conversation before, who is idle, and then the person's order in [router], without one the fastest so far. Where
    nobody is able, it is the first that runs on demand and would be, once started.
    """
    task = "vision" if wish.image else wish.task
    if wish.target is not None:
        return _told(inventory, snapshot, wish, task, wish.target)
    chain = _chain(inventory, snapshot, task, wish.paces)
    able: list[tuple[tuple[bool, bool, bool, int, int], Candidate]] = []
    passed: list[Candidate] = []
    for place, name in enumerate(chain):
        case = _case(inventory, snapshot, wish, task, name)
        if why := _unable(inventory, wish, case):
            passed.append(case.candidate("passed over", why))
            continue
        rank = (case.starts, case.cold, name != wish.last, _load(case.state), place)
        able.append((rank, case.candidate("next", _able(inventory, case, wish))))
    ranked = [candidate for _, candidate in sorted(able, key=lambda each: each[0])]
    if ranked:
        ranked[0] = replace(ranked[0], outcome="chosen")
    others = [
        Candidate(e.name, "passed over", f"does not serve {task}", assigned=False)
        for e in inventory.endpoints
        if e.name not in chain and e.engine != "http"
    ]
    advice = "" if ranked else _advice(inventory, snapshot, task)
    return Decision(task, ranked[0].endpoint if ranked else None, (*ranked, *passed, *others), advice)


def _told(inventory: Inventory, snapshot: ClusterSnapshot, wish: Wish, task: str, name: str) -> Decision:
    """The decision where a person named the endpoint; the others follow as they would without that."""
    case = _case(inventory, snapshot, wish, task, name)
    ill = not case.state.serving and not case.starts
    words = _ill(case.state) if ill else _cold(case) if case.cold or case.starts else ""
    first = case.candidate("chosen", f"you chose it; {words}" if words else "you chose it")
    others = choose(inventory, snapshot, replace(wish, target=None, model=None)).candidates
    rest = (replace(c, outcome="next") if c.outcome == "chosen" else c for c in others if c.endpoint != name)
    return Decision(task, name, (replace(first, model=first.model or wish.model), *rest))


def _case(inventory: Inventory, snapshot: ClusterSnapshot, wish: Wish, task: str, name: str) -> _Case:
    endpoint, state = inventory.endpoint_named[name], snapshot.endpoints[name]
    return _Case(endpoint, state, model_for(endpoint, state, task, wish.model))


def _chain(inventory: Inventory, snapshot: ClusterSnapshot, task: str, paces: Mapping[str, float]) -> tuple[str, ...]:
    """Who serves a task, the preferred first: the person's order, else the fastest so far, the unmeasured last."""
    chain = inventory.chain(task)
    if task in inventory.router:
        return chain
    return tuple(sorted(chain, key=lambda name: -(snapshot.endpoints[name].pace or paces.get(name, 0.0))))


def _unable(inventory: Inventory, wish: Wish, case: _Case) -> str:
    """Why an endpoint of the chain cannot answer; "" where it can."""
    name, state = case.endpoint.name, case.state
    if name in wish.tried:
        return "tried: it just failed with this prompt"
    if wish.model is not None and case.model is None:
        return f"has no {wish.model}"
    tokens, context = wish.counted.get(name, wish.tokens), context_of(inventory, case.model)
    if context is not None and not fits(tokens, context):
        about = "" if name in wish.counted else "about "
        return f"too long: {about}{tokens:,} tokens, and its context has {context:,}"
    if not state.serving and not case.starts:
        return _ill(state)
    if state.cooling is not None:
        until = time.strftime("%H:%M:%S", time.localtime(state.cooling.until.wall))
        return f"cools down until {until}: {state.cooling.evidence}"
    return ""


def _ill(state: EndpointState) -> str:
    if state.cause is None:
        return "not read yet"
    return f"{state.cause.value.lower().replace('_', ' ')}: {state.evidence}"


def _load(state: EndpointState) -> int:
    """How busy it is: 0 idle, 1 at work, 2 over its limits."""
    if state.cause is Cause.BUSY:
        return 2
    return int(state.work is not None and bool(state.work.running or state.work.waiting))


def _able(inventory: Inventory, case: _Case, wish: Wish) -> str:
    """What speaks for an endpoint that can answer, and what is not known of it."""
    words = _cold(case) if case.cold or case.starts else _at_work(case.state)
    if case.endpoint.name == wish.last:
        words += ", answered this conversation before"
    unknown = wish.tokens > LONG and context_of(inventory, case.model) is None
    return f"{words}, how much it can read is not known" if unknown else words


def _at_work(state: EndpointState) -> str:
    if state.cause is Cause.BUSY:
        return f"busy: {state.evidence}"
    if state.work is None or not (state.work.running or state.work.waiting):
        return "warm, idle"
    return f"warm, {state.work.running or 0} running, {state.work.waiting or 0} waiting"


def _cold(case: _Case) -> str:
    """What would have to be started, woken or loaded first."""
    if case.starts:
        return "off: on demand, has to be started first"
    asleep = "asleep" if case.state.cause is Cause.SLEEPING else "not loaded"
    model = case.model
    size = f" ({model.size_mib / 1024:.1f} GiB)" if model and model.size_mib else ""
    return f"{asleep}: a prompt loads {model.name if model else 'its model'}{size} first"


def _advice(inventory: Inventory, snapshot: ClusterSnapshot, task: str) -> str:
    """Who could answer at all where nobody serves the task itself: general chat, and only by a person's word."""
    if task not in ("code", "reason", "fast"):
        return ""
    chat = next((n for n in inventory.chain("chat") if snapshot.endpoints[n].serving), None)
    return f"As general chat {chat} could answer it." if chat else ""
