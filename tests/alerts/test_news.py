"""What is worth a message: every real change once, nothing else, and no growth."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest

from backends.alerts.news import News, is_quiet
from backends.cluster.reading import Instant, Workload, WorkloadReading
from backends.cluster.snapshot import Finding
from backends.cluster.words import Cause, Flaw
from tests.alerts.flapping import NOON, Clock, Play, inventory


def test_one_message_for_a_fall_and_one_for_the_way_back() -> None:
    play = Play(inventory())
    assert play.run(60) == []
    play.ill["e0"] = Cause.TIMEOUT
    (fall,) = play.run(120)
    assert fall.worst == "DOWN"
    assert "DOWN e0: TIMEOUT" in fall.body
    assert fall.title.startswith("home: DEGRADED")
    play.ill.clear()
    (back,) = play.run(120)
    assert back.worst == "UP"
    assert "UP e0: OK" in back.body


def test_a_dead_node_is_one_message_and_its_recovery_another() -> None:
    play = Play(inventory(endpoints=8))
    play.run(60)
    play.lost.add("a")
    play.ill |= {f"e{i}": Cause.TIMEOUT for i in range(0, 7, 2)}
    play.run(5)
    play.ill |= {f"e{i}": Cause.TIMEOUT for i in range(1, 7, 2)}
    (fall,) = play.run(180)
    assert fall.body.count("DOWN e") == 7
    assert "DOWN a: a does not answer." in fall.body
    assert "e7" not in fall.body
    play.lost.clear()
    play.ill.clear()
    (back,) = play.run(120)
    assert back.worst == "UP"
    assert back.body.count("UP e") == 7
    assert "UP a: reached again" in back.body


def test_a_node_that_comes_back_before_its_endpoints_is_no_message() -> None:
    play = Play(inventory())
    play.run(60)
    play.lost.add("a")
    play.ill |= {f"e{i}": Cause.REFUSED for i in range(3)}
    assert len(play.run(60)) == 1
    play.lost.clear()
    assert play.run(60) == []
    play.ill.clear()
    (back,) = play.run(60)
    assert back.worst == "UP"
    play.lost.add("b")
    (alone,) = play.run(60)
    assert "DOWN b: b does not answer." in alone.body
    play.lost.clear()
    (again,) = play.run(60)
    assert "UP b: reached again" in again.body


@pytest.mark.parametrize("cause", [Cause.BUSY, Cause.LOADING, Cause.SLEEPING])
def test_what_serves_or_loads_is_no_news(cause: Cause) -> None:
    play = Play(inventory())
    play.run(30)
    play.ill["e0"] = cause
    assert play.run(120) == []
    play.ill.clear()
    assert play.run(120) == []


def test_what_a_person_must_mend_is_news() -> None:
    play = Play(inventory())
    play.run(30)
    play.ill["e0"] = Cause.CONFIG
    (told,) = play.run(60)
    assert (told.worst, "DEGRADED e0: CONFIG" in told.body) == ("DEGRADED", True)


def test_what_is_ill_when_the_watch_begins_is_told_but_not_twice() -> None:
    play = Play(inventory())
    play.ill["e0"] = Cause.REFUSED
    assert len(play.run(60)) == 1
    again = Play(inventory(), sent=play.news.sent)
    again.ill["e0"] = Cause.REFUSED
    assert again.run(60) == []
    again.ill.clear()
    assert [m.worst for m in again.run(60)] == ["UP"]


def test_a_finding_is_told_and_so_is_its_end() -> None:
    play = Play(inventory())
    play.run(30)
    lost = Finding(Flaw.GPU_LOST, "e0", "its container sees no GPU", "docker restart it.")
    play.news.see(replace(play.live.snapshot, findings=(lost,)))
    (told,) = [m for m in (play.news.due(Instant(NOON + s, 30.0 + s)) for s in (1, 20, 40)) if m]
    assert "DEGRADED GPU_LOST of e0: its container sees no GPU. docker restart it." in told.body
    play.news.see(play.live.snapshot)
    (over,) = [m for m in (play.news.due(Instant(NOON + s, 30.0 + s)) for s in (60, 90)) if m]
    assert "UP GPU_LOST of e0: no longer so" in over.body


def test_maintenance_is_no_news() -> None:
    play = Play(inventory())
    play.run(30)
    play.ill["e0"] = Cause.REFUSED
    play.run(60)
    state = play.live.snapshot
    resting = replace(state.endpoints["e0"], cause=Cause.MAINTENANCE)
    news = News(play.inventory, play.news.sent)
    news.see(replace(state, endpoints={**state.endpoints, "e0": resting}))
    play.clock.seconds += 100
    assert news.due(play.clock.now()) is None


def test_quiet_hours_hold_back_all_but_what_is_down() -> None:
    local = time.localtime(NOON)
    hours = f"{local.tm_hour:02}:{local.tm_min:02}-{(local.tm_hour + 1) % 24:02}:{local.tm_min:02}"
    play = Play(inventory(f'quiet = "{hours}"'))
    play.run(60)
    play.ill["e0"] = Cause.REFUSED
    assert [m.worst for m in play.run(60)] == ["DOWN"]
    play.ill = {"e3": Cause.CONFIG}
    assert play.run(300) == []
    play.ill["e0"] = Cause.REFUSED
    (again,) = play.run(60)
    assert again.worst == "DOWN"
    assert "DEGRADED e3" in again.body, "what was held back goes with it"
    play.ill = {}
    assert play.run(600) == []
    morning = play.run(3600)
    assert [m.worst for m in morning] == ["UP"]
    assert "UP e0" in morning[0].body
    assert "UP e3" in morning[0].body


def test_a_night_that_ends_as_it_began_says_nothing() -> None:
    local = time.localtime(NOON)
    hours = f"{local.tm_hour:02}:{local.tm_min:02}-{(local.tm_hour + 1) % 24:02}:{local.tm_min:02}"
    play = Play(inventory(f'quiet = "{hours}"'))
    play.run(60)
    play.ill["e0"] = Cause.CONFIG
    play.run(300)
    play.ill = {}
    assert play.run(4000) == []


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [("23:00-07:00", 23, True), ("23:00-07:00", 3, True), ("23:00-07:00", 7, False), ("12:00-13:00", 12, True),
     ("12:00-13:00", 13, False)],
)  # fmt: skip
def test_hours(hours: str, at: int, quiet: bool) -> None:
    today = time.localtime(NOON)
    wall = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, at, 0, 0, 0, 0, -1))
    assert is_quiet(hours, wall) is quiet


def test_a_message_says_what_changed_since_it_last_worked() -> None:
    text = inventory().model_dump() | {"nodes": inventory().nodes}
    told = [e | {"container": "c"} if e["name"] == "e0" else e for e in text["endpoints"]]
    play = Play(type(inventory()).model_validate(text | {"endpoints": told}))

    def container(image: str) -> WorkloadReading:
        return WorkloadReading("a", play.clock.now(), (Workload("c", "docker", "running", image=image),))

    play.live.emit(container("vllm:1"))
    play.run(30)
    play.live.emit(container("vllm:2"))
    play.ill["e0"] = Cause.BAD_RESPONSE
    (fall,) = play.run(60)
    assert "    image: vllm:1 -> vllm:2" in fall.body


def test_an_hour_of_flapping_has_one_message_for_each_real_change_and_does_not_grow() -> None:
    play = Play(inventory(endpoints=10), Clock())
    real = 0
    sizes: list[int] = []
    play.run(60)
    for minute in range(60):
        for second in range(0, 60, 5):
            flaps = {f"e{i}": Cause.TIMEOUT for i in range(2, 10) if (second // 5 + i) % 3 == 0}
            lasting = {"e0": Cause.REFUSED} if (minute // 5) % 2 else {}
            play.ill = flaps | lasting
            play.run(5)
        real += minute % 5 == 0 and minute > 0
        if minute % 10 == 9:
            gc.collect()
            sizes.append(len(gc.get_objects()))
    assert len(play.messages) == real == 11
    assert [m.worst for _, m in play.messages] == ["DOWN", "UP"] * 5 + ["DOWN"]
    assert all("e0" in m.body and "e5" not in m.body for _, m in play.messages)
    assert max(sizes[1:]) - sizes[1] < 500, sizes
