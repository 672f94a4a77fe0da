"""The console's keys, dialogs and promises, driven as a person drives them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.fold import fold_all
from backends.cluster.reading import EndpointReading, ModelInfo, ProbeResult, Tick
from backends.cluster.words import Cause
from backends.errors import ProcedureError
from backends.procedures.away import Leaving
from backends.procedures.plan import Plan
from backends.procedures.reboot import plan_reboot
from tests.tui.driving import console, shown, until
from tests.tui.sample import NOW, StillFeed, loaded, readings, snapshot
from tui.actions import ACTIONS, allowed
from tui.actions import shown as shown_key
from tui.screens.arrange import ArrangeScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.text import TextScreen
from widgets.lines import LinePane


async def test_keys_move_between_panes_and_zoom(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        for key, pane in (("2", app.dashboard.gpus), ("3", app.dashboard.queue), ("1", app.dashboard.tiers)):
            await pilot.press(key)
            assert app.dashboard.focused_pane() is pane
        await pilot.press("z")
        assert app.dashboard.has_class("zoomed")
        assert "2 GPUs" not in shown(app)
        await pilot.press("z")
        assert "2 GPUs" in shown(app)


async def test_a_tick_while_it_is_closed_finds_no_screen(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, _):
        pass
    app._tick()
    app.publish(app.feed.snapshot, app.feed.snapshot)


async def test_typing_in_the_prompt_runs_no_action(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("t", *"quiz")
        assert app.dashboard.router.prompt.text == "quiz"
        assert app.is_running
        await pilot.press("ctrl+j", "x")
        assert app.dashboard.router.prompt.text == "quiz\nx"
        await pilot.press("escape")
        assert app.dashboard.focused_pane() is app.dashboard.tiers


async def test_ctrl_t_forces_a_task(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("t", "h", "i")
        await until(lambda: "chat" in shown(app), "a decision")
        for _ in range(4):
            await pilot.press("ctrl+t")
        await until(lambda: "nobody can serve vision" in shown(app), "an honest nobody")


async def test_details_help_and_events_open_and_close(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        for key in ("enter", "question_mark", "e"):
            await pilot.press(key)
            await until(lambda: isinstance(app.screen, TextScreen), f"a page for {key}")
            await pilot.press("escape")
            await until(lambda: app.screen is app.dashboard, "the dashboard")


async def test_the_filter_hides_what_does_not_match_and_esc_restores(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("slash", *"mark-iv", "enter")
        await until(lambda: "remote/mark-iv" in shown(app) and "local/ollama" not in shown(app), "one line")
        await pilot.press("slash", *"xyz", "escape")
        await until(lambda: app.dashboard.tiers.filter == "mark-iv", "the filter before")


async def test_the_command_line_runs_any_action_by_name(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("colon", *"zoom", "enter")
        await until(lambda: app.dashboard.has_class("zoomed"), "the zoom")
        await pilot.press("colon", *"nonsense", "enter")
        await until(lambda: any("no action" in each.text for each in app.dashboard.events.lines), "an explanation")


async def test_probe_asks_for_the_selected_endpoint(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        feed = app.feed
        assert isinstance(feed, StillFeed)
        await pilot.press("j", "u", "U")
        await until(lambda: feed.nudged == ["local/ollama", None], f"two nudges, not {feed.nudged}")


async def test_a_dangerous_dialog_has_cancel_focused(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("3", "s")
        await until(lambda: isinstance(app.screen, ArrangeScreen), "the arrangement")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, ConfirmScreen), "the dialog")
        await until(lambda: app.focused is not None, "a focus")
        assert app.focused is not None
        assert app.focused.id == "cancel"
        await pilot.press("enter")
        await until(lambda: app.screen is app.dashboard, "nothing happened")


async def test_typed_confirmation_needs_the_word(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        answers: list[bool | None] = []
        app.push_screen(ConfirmScreen("Restart", ["docker restart a"], "Restart", typed="mark"), answers.append)
        await until(lambda: app.focused is not None and app.focused.id == "cancel", "the dialog")
        yes = app.screen.query_one("#yes")
        assert yes.disabled
        field = app.screen.query_one("Input")
        field.focus()
        await until(lambda: field.has_focus, "the field")
        await pilot.press(*"mark")
        await until(lambda: not yes.disabled, "the button")
        await pilot.press("tab", "tab", "enter")
        await until(lambda: answers == [True], f"a yes, not {answers}")


async def test_read_only_changes_nothing(tmp_path: Path) -> None:
    async with console(tmp_path, read_only=True) as (app, pilot):
        assert "READ-ONLY" in shown(app)
        await pilot.press("3", "s")
        await until(lambda: any("read-only" in each.text for each in app.dashboard.events.lines), "the refusal")
        assert app.screen is app.dashboard
        await pilot.press("t", *"hello", "enter")
        await until(lambda: "decided, not sent" in shown(app), "a decision without sending")


async def test_text_from_outside_is_never_markup_nor_escape_sequences(tmp_path: Path) -> None:
    nasty = "[/x][bold]\x1b]0;owned\x07\x1b[2J\u202eevil[red]"
    async with console(tmp_path) as (app, pilot):
        result = ProbeResult(Cause.OK, nasty, 0.01, (ModelInfo(nasty, loaded=True),))
        reading = EndpointReading("local/ollama", NOW, result, 5.0)
        before = app.feed.snapshot
        app.feed.live.snapshot = fold_all(loaded().inventory, before, [reading, Tick(NOW)])
        app.publish(before, app.feed.live.snapshot)
        app.say(nasty, "bad")
        app.push_screen(ConfirmScreen(nasty, [nasty], nasty))
        await pilot.pause()
        await pilot.press("escape", "j", "enter")
        await until(lambda: "evidence" in shown(app), "the details")
        assert "\x1b" not in shown(app)
        assert "\u202e" not in shown(app)
        assert "[/x]" in shown(app)


async def test_an_equal_snapshot_repaints_nothing(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.pause()
        before = [pane.repainted for pane in app.dashboard.query(LinePane)]
        for _ in range(5):
            again = fold_all(loaded().inventory, app.feed.snapshot, [r for r in readings() if not isinstance(r, Tick)])
            app.dashboard.show(replace(again, procedures=()))
            app.dashboard.show(replace(again, procedures=()))
            await pilot.pause()
        first = [pane.repainted for pane in app.dashboard.query(LinePane)]
        app.dashboard.show(replace(again, procedures=()))
        await pilot.pause()
        assert [pane.repainted for pane in app.dashboard.query(LinePane)] == first
        assert sum(first) - sum(before) < 12


async def test_no_exception_ends_the_console(tmp_path: Path) -> None:
    class Broken(StillFeed):
        async def run(self) -> None:
            raise RuntimeError("a fault of ours")

    async with console(tmp_path, feed=Broken) as (app, pilot):
        await until(lambda: any("a fault of ours" in e.text for e in app.dashboard.events.lines), "the report")
        await pilot.press("2")
        assert app.is_running


async def test_resizing_to_almost_nothing_and_back(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        for size in ((20, 5), (1, 1), (46, 30), (300, 80), (160, 45)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert "LOCAL" in shown(app)


async def test_keys_can_be_remapped(tmp_path: Path) -> None:
    async with console(tmp_path, keys={"zoom": "x"}) as (app, pilot):
        await pilot.press("x")
        await until(lambda: app.dashboard.has_class("zoomed"), "the zoom by its new key")


async def test_the_banner_of_a_broken_inventory_stays_on_top(tmp_path: Path) -> None:
    async with console(tmp_path, banner="cluster.toml, line 3: not valid TOML.", read_only=True) as (app, _):
        assert "line 3: not valid TOML" in shown(app).splitlines()[1]


def test_every_action_has_a_method_and_no_key_is_taken_twice() -> None:
    from tui.commands import Commands

    for past in (False, True):
        taken = [key for action in allowed(False, past=past) for key in action.keys]
        assert len(taken) == len(set(taken))
    for action in ACTIONS:
        assert callable(getattr(Commands, action.id)), action.id
        assert shown_key(action.keys[0])


@pytest.mark.parametrize("size", [(160, 45), (80, 24), (46, 30)])
async def test_the_screen_names_every_tier_in_every_size(size: tuple[int, int], tmp_path: Path) -> None:
    async with console(tmp_path, size=size) as (app, _):
        for tier in ("LOCAL", "REMOTE", "NAS"):
            assert tier in shown(app)


async def test_a_queue_is_arranged_by_marks_and_order(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("3", "s")
        await until(lambda: isinstance(app.screen, ArrangeScreen), "the arrangement")
        await pilot.press("j", "j", "K", "j", "space", "enter")
        await until(lambda: "docker start mark-iv" in shown(app), "the plan")
        assert "docker start mark-iii" not in shown(app)


async def test_restarting_what_is_ready_asks_for_the_nodes_name(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("3", "s")
        await until(lambda: isinstance(app.screen, ArrangeScreen), "the arrangement")
        await pilot.press("r", "enter")
        await until(lambda: "type mark to go on" in shown(app), "the typed confirmation")


class Rebootable:
    """A world that plans reboots, or says why not, and starts none."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble

    async def plan_reboot(self, node: str) -> Plan:
        if self.trouble:
            raise ProcedureError(self.trouble)
        leaving = Leaving(remarks=("Through gateway/litellm nobody serves vision meanwhile.",))
        return plan_reboot(loaded().inventory, snapshot(), node, "boot-1", leaving)


async def test_a_reboot_shows_its_plan_and_asks_for_the_nodes_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with console(tmp_path) as (app, pilot):
        monkeypatch.setattr(app.feed, "_world", Rebootable())
        await pilot.press("3", "R")
        await until(lambda: isinstance(app.screen, ConfirmScreen), "the plan")
        for words in ("Reboot mark", "systemctl reboot", "nobody serves vision", "type mark to go on"):
            assert words in shown(app)


async def test_a_reboot_that_cannot_be_planned_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with console(tmp_path) as (app, pilot):
        monkeypatch.setattr(app.feed, "_world", Rebootable("mark did not say when it was booted."))
        await pilot.press("3", "R")
        await until(lambda: "mark did not say when it was booted." in shown(app), "the reason")
        assert not isinstance(app.screen, ConfirmScreen)


async def test_with_one_procedure_open_p_attaches_and_with_none_it_lists(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        over = tuple(replace(p, state="done") for p in app.feed.snapshot.procedures)
        app.feed.live.snapshot = replace(app.feed.snapshot, procedures=over)
        await pilot.press("p")
        await until(lambda: "Start queue of mark  by ops@desk" in shown(app), "the list")
