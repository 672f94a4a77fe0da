"""The choice as a table: what each endpoint is like, who is chosen, and why each other was passed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    ChatReading,
    EndpointReading,
    Instant,
    ModelInfo,
    ProbeResult,
    Progress,
    Reading,
    Tick,
)
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.routing import Wish, choose
from backends.routing.fitting import estimate, fits, uncertain
from backends.routing.models import model_for

TOML = """
version = 1
name = "t"
[[tiers]]
name = "T"
"""

ENDPOINT = """
[[endpoints]]
name = "{name}"
tier = "T"
engine = "{engine}"
url = "http://10.0.0.1:{port}"
tasks = {tasks}
"""

NOW = Instant(1_800_000_000.0, 100.0)


def inventory(router: str = "", more: str = "", **tasks: list[str]) -> Inventory:
    """Endpoints a, b, c of llama.cpp with these tasks (chat and code if nothing is said)."""
    found = tasks or {name: ["chat", "code"] for name in "abc"}
    blocks = [
        ENDPOINT.format(name=name, engine="llama.cpp", port=port, tasks=list(each)).replace("'", '"')
        for port, (name, each) in enumerate(found.items(), 1)
    ]
    return parse(TOML + "".join(blocks) + more + (f"[router]\n{router}\n" if router else ""), Path("c.toml")).inventory


def probe(name: str, cause: Cause = Cause.OK, *models: ModelInfo, running: int | None = None) -> EndpointReading:
    progress = None if running is None else Progress(tokens=1.0, running=running, waiting=0)
    return EndpointReading(name, NOW, ProbeResult(cause, f"it is {cause}", 0.01, models, progress=progress), 5.0)


def seen(inv: Inventory, *readings: Reading) -> ClusterSnapshot:
    told = {r.endpoint for r in readings if isinstance(r, EndpointReading)}
    rest = [probe(e.name) for e in inv.endpoints if e.name not in told]
    return fold_all(inv, empty(inv), [*rest, *readings])


COLD = ModelInfo("big", loaded=False, size_mib=2048.0)


@pytest.mark.parametrize(
    ("readings", "wish", "order", "reasons"),
    [
        ([], Wish("chat"), "abc", {"a": "warm, idle"}),
        ([probe("a", Cause.REFUSED)], Wish("chat"), "bc", {"a": "refused: it is REFUSED"}),
        ([probe("a", running=1)], Wish("chat"), "bca", {"a": "warm, 1 running, 0 waiting"}),
        ([probe("a", Cause.BUSY), probe("b", running=2)], Wish("chat"), "cba", {"a": "busy: it is BUSY"}),
        ([probe("a", Cause.SLEEPING)], Wish("chat"), "bca", {"a": "asleep: a prompt loads its model first"}),
        ([probe("a", Cause.OK, COLD)], Wish("chat"), "bca", {"a": "not loaded: a prompt loads big (2.0 GiB) first"}),
        ([probe("b", running=1)], Wish("chat", last="b"), "bac", {"b": "answered this conversation before"}),
        ([probe("b", Cause.SLEEPING)], Wish("chat", last="b"), "acb", {}),
        ([], Wish("chat", tried=frozenset("a")), "bc", {"a": "tried: it just failed with this prompt"}),
        ([], Wish("chat", tokens=9000), "bc", {"a": "too long: about 9,000 tokens, and its context has 8,192"}),
        ([], Wish("chat", tokens=7936), "abc", {}),
        ([], Wish("chat", tokens=100, counted={"a": 9000}), "bc", {"a": "too long: 9,000 tokens, and its context"}),
        ([], Wish("chat", tokens=9000, counted={"a": 100}), "abc", {}),
        ([probe("a", Cause.OK, ModelInfo("x"))], Wish("chat", model="m"), "bc", {"a": "has no m"}),
        ([ChatReading("a", NOW, Cause.REFUSED, "gone")], Wish("chat"), "bc", {"a": ": refused: gone"}),
        ([ChatReading("a", NOW, Cause.BAD_RESPONSE, "500")], Wish("chat"), "abc", {}),
        ([ChatReading("a", NOW, Cause.CONFIG, "404")] * 5, Wish("chat"), "abc", {}),
        ([ChatReading("a", NOW, Cause.RESET, "cut")] * 4, Wish("chat"), "bc", {"a": "cools down until "}),
    ],
)
def test_who_is_chosen_and_why_the_others_are_not(
    readings: list[Reading], wish: Wish, order: str, reasons: dict[str, str]
) -> None:
    inv = inventory(more='[[models]]\nname = "small"\nfile = "/m/small.gguf"\ncontext = 8192\n')
    small = [ModelInfo("/m/small.gguf", loaded=True)]
    first = (
        []
        if any(isinstance(r, EndpointReading) and r.endpoint == "a" for r in readings)
        else [probe("a", Cause.OK, *small)]
    )
    decision = choose(inv, seen(inv, *first, *readings), wish)
    able = [c.endpoint for c in decision.candidates if c.outcome in ("chosen", "next")]
    assert able == list(order)
    assert decision.chosen == order[0]
    assert decision.next == order[1]
    said = {c.endpoint: c.reason for c in decision.candidates}
    assert set(said) == set("abc")
    for name, words in reasons.items():
        assert words in said[name]


def test_a_cold_one_is_chosen_last_and_said() -> None:
    inv = inventory(a=["chat"])
    decision = choose(inv, seen(inv, probe("a", Cause.SLEEPING, COLD)), Wish("chat"))
    assert decision.chosen == "a"
    assert decision.model == "big"
    assert decision.wakes == "asleep: a prompt loads big (2.0 GiB) first"


def test_what_has_to_be_started_is_chosen_where_nobody_else_can_answer() -> None:
    inv, off = inventory(), [probe("a", Cause.OFF), probe("b", Cause.OFF)]
    decision = choose(inv, seen(inv, *off), Wish("chat"))
    assert [(c.endpoint, c.outcome, c.starts) for c in decision.candidates] == [
        ("c", "chosen", False),
        ("a", "next", True),
        ("b", "next", True),
    ]
    decision = choose(inv, seen(inv, *off, probe("c", Cause.REFUSED)), Wish("chat"))
    assert (decision.chosen, decision.choice and decision.choice.starts) == ("a", True)
    assert decision.wakes == "off: on demand, has to be started first"
    assert choose(inv, seen(inv, *off), Wish("chat", target="b")).wakes == "you chose it; " + decision.wakes
    assert choose(inv, seen(inv, *off), Wish("chat", tried=frozenset("abc"))).chosen is None


def test_nobody_says_why_and_what_else() -> None:
    inv = inventory(a=["vision"], b=["vision"], c=["chat"])
    snapshot = seen(inv, probe("a", Cause.REFUSED), probe("b", Cause.LOADING))
    decision = choose(inv, snapshot, Wish("vision"))
    assert decision.chosen is None
    assert decision.sentence == "nobody can serve vision: a refused; b loading"
    assert [(c.endpoint, c.reason) for c in decision.candidates if not c.assigned] == [("c", "does not serve vision")]
    nobody = choose(inv, snapshot, Wish("code"))
    assert nobody.sentence == "nobody can serve code: no endpoint is assigned to it"
    assert nobody.advice == "As general chat c could answer it."
    assert choose(inv, snapshot, Wish("chat", image=True)).task == "vision", "an image decides"


def test_the_persons_order_then_the_fastest() -> None:
    paces = [ChatReading(name, NOW, tokens_per_s=rate) for name, rate in (("b", 10.0), ("c", 30.0))]
    inv = inventory()
    assert choose(inv, seen(inv, *paces), Wish("chat")).chosen == "c"
    assert choose(inv, seen(inv), Wish("chat", paces={"b": 5.0, "c": 2.0})).chosen == "b", "as known from before"
    inv = inventory(router='chat = ["b", "a"]')
    decision = choose(inv, seen(inv, *paces), Wish("chat"))
    assert [c.endpoint for c in decision.candidates if c.assigned] == ["b", "a"]


def test_a_target_is_asked_whatever_its_health() -> None:
    inv = inventory()
    decision = choose(inv, seen(inv, probe("b", Cause.REFUSED)), Wish("chat", target="b", model="m"))
    assert (decision.chosen, decision.model) == ("b", "m")
    assert decision.candidates[0].reason == "you chose it; refused: it is REFUSED"
    assert [(c.endpoint, c.outcome) for c in decision.candidates[1:]] == [("a", "next"), ("c", "next")]


def test_cool_downs_end_with_time_and_with_an_answer() -> None:
    inv = inventory()
    cooling = seen(inv, ChatReading("a", NOW, Cause.RATE_LIMITED, "429", retry_after=30.0))
    at = cooling.endpoints["a"].cooling
    assert at is not None
    assert at.until.mono == NOW.mono + 30
    for seconds, chosen in ((29.0, "b"), (30.0, "a")):
        later = fold_all(inv, cooling, [Tick(Instant(NOW.wall + seconds, NOW.mono + seconds))])
        fresh = replace(later, endpoints={n: replace(e, cause=Cause.OK) for n, e in later.endpoints.items()})
        assert choose(inv, fresh, Wish("chat")).chosen == chosen
    assert choose(inv, fold_all(inv, cooling, [ChatReading("a", NOW)]), Wish("chat")).chosen == "a"


def test_failures_are_counted_by_the_minute() -> None:
    inv = inventory()
    slow = [ChatReading("a", Instant(NOW.wall, NOW.mono + 25.0 * n), Cause.RESET, "cut") for n in range(8)]
    assert seen(inv, *slow).endpoints["a"].cooling is None
    assert seen(inv, *slow, slow[-1], slow[-1]).endpoints["a"].cooling is not None


@pytest.mark.parametrize(
    ("task", "wanted", "asked", "found"),
    [
        ("chat", None, None, "chatty"),
        ("embed", None, None, "nomic-embed-text:latest"),
        ("embed", None, "chatty", "nomic-embed-text:latest"),
        ("chat", None, "big", "big"),
        ("chat", "nomic-embed-text", "big", "nomic-embed-text:latest"),
        ("chat", "small", None, "/m/small.gguf"),
        ("chat", "other", None, None),
    ],
)
def test_which_model_a_prompt_goes_to(task: str, wanted: str | None, asked: str | None, found: str | None) -> None:
    inv = inventory(a=["chat", "embed"])
    models = [ModelInfo("big", loaded=False), ModelInfo("nomic-embed-text:latest"), ModelInfo("chatty", loaded=True)]
    state = seen(inv, probe("a", Cause.OK, *models, ModelInfo("/m/small.gguf", loaded=False))).endpoints["a"]
    model = model_for(inv.endpoints[0].model_copy(update={"model": asked}), state, task, wanted)
    assert (model.name if model else None) == found


def test_tokens_are_estimated_by_script() -> None:
    assert estimate("") == 0
    assert 20 <= estimate("The quick brown fox jumps over the lazy dog. " * 2) <= 30
    assert 8 <= estimate("日本語のテキスト") <= 12
    assert estimate("x" * 1_000_000) == pytest.approx(285_714, abs=2)
    assert estimate("what is this?", images=2) > 2000
    assert fits(10_000_000, None)
    assert not fits(400, 512)
    assert not uncertain("short", 512), "surely fits"
    assert not uncertain("x" * 100_000, 512), "surely does not"
    assert uncertain("x" * 1000, 512)
