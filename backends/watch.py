"""`tierdeck watch`: the console's engine without a screen. Records, logs what changed, tells people, gives metrics."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from backends.alerts.news import Message, News, condition
from backends.alerts.notify import Target
from backends.alerts.outbox import Outbox
from backends.clock import Clock, SystemClock
from backends.cluster.changes import changes
from backends.cluster.files import Loaded
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import State
from backends.demand import Stopping
from backends.engines.http import Http
from backends.engines.target import ProbeFailure
from backends.errors import ReachError, SecretError
from backends.exports.metrics import CONTENT_TYPE, prometheus_text
from backends.history.recorder import Recorder
from backends.history.store import history_path
from backends.live import LiveCluster
from backends.paths import private_copy
from backends.poller import Poller
from backends.procedures.used import Used
from backends.recovering import Recovering
from backends.secrets import Secrets
from backends.world import World

LOOKS: Final = 1.0
"""Seconds between two looks at what is to be told, and between two snapshots."""

HEARTBEAT_LIMIT: Final = 10.0
"""Seconds the heartbeat's address may take to answer."""

Say = Callable[[float, str, str, str], object]
"""Takes a line of the log: when (Unix seconds), about what ("" for the watch itself), the word it came to, the text."""


class Watch:
    """Owns what a watch knows; `run` owns its tasks and all they open."""

    def __init__(
        self, loaded: Loaded, here: str | None, state_dir: Path, say: Say, *, clock: Clock | None = None
    ) -> None:
        self._loaded = loaded
        self._here = here
        self._state_dir = state_dir
        self._say = say
        self._clock = clock or SystemClock()
        self._secrets = Secrets()
        inventory = loaded.inventory
        self._sent_at = state_dir / f"told-{hashlib.sha256(str(loaded.path).encode()).hexdigest()[:16]}.json"
        self.news = News(inventory, read_sent(self._sent_at))
        self.live = LiveCluster(inventory, here, self._clock, self._publish, nudge=self._nudge, pace=LOOKS)
        self._poller: Poller | None = None
        self.outboxes = [
            Outbox(reference, Target(reference, self._secrets), self._clock, self._remark)
            for reference in inventory.alerts.to
        ]

    @property
    def inventory(self) -> Inventory:
        """The cluster that is watched."""
        return self._loaded.inventory

    async def run(self, metrics: tuple[str, int] | None = None, *, recover: bool = False) -> None:
        """Watch until cancelled; with `recover`, climb the ladder for the nodes that allow it."""
        async with World(self._loaded, self._here, self._state_dir) as world, Http() as http:
            recorder = self._recorder(asyncio.get_running_loop())
            self.live.record_with(recorder.take)
            sources = [*world.sources(self.live.is_down), world.learning(lambda: self.live.snapshot)]
            self._poller = Poller(sources, world.streams(), self.live.emit, crashed=self._crash)
            try:
                async with self._served(metrics), asyncio.TaskGroup() as group:
                    group.create_task(self.live.run(), name="live")
                    group.create_task(self._poller.run(), name="poller")
                    group.create_task(self._tell(), name="alerts")
                    if self.inventory.alerts.heartbeat is not None:
                        group.create_task(self._beat(http, self.inventory.alerts.heartbeat), name="heartbeat")
                    for outbox in self.outboxes:
                        group.create_task(outbox.run(), name="outbox")
                    if any(e.on_demand and e.idle for e in self.inventory.endpoints):
                        group.create_task(self._stopping(world).run(), name="stopping")
                    if recover:
                        group.create_task(self._recovering(world).run(), name="recovering")
            finally:
                await asyncio.to_thread(recorder.close)

    def _publish(self, before: ClusterSnapshot, after: ClusterSnapshot) -> None:
        for change in changes(before, after):
            self._say(change.at.wall, change.subject, change.word, change.text)
        self.news.see(after)

    def look(self) -> Message | None:
        """Post what is due now; the message, if there was one."""
        message = self.news.due(self._clock.now())
        if message is not None:
            self._post(message)
        return message

    def _post(self, message: Message) -> None:
        for outbox in self.outboxes:
            outbox.post(message)

    def _recovering(self, world: World) -> Recovering:
        return Recovering(self.inventory, world, self._clock, lambda: self.live.snapshot, self._post, self._remark)

    def _stopping(self, world: World) -> Stopping:
        used = Used(self._state_dir)
        return Stopping(self.inventory, world, self._clock, lambda: self.live.snapshot, self._remark, used)

    async def _tell(self) -> None:
        kept = dict(self.news.sent)
        while True:
            await self._clock.sleep(LOOKS)
            self.look()
            if self.news.sent != kept:
                kept = dict(self.news.sent)
                await asyncio.to_thread(self._keep, json.dumps(kept))

    def _keep(self, text: str) -> None:
        try:
            private_copy(self._sent_at, text)
        except OSError as error:
            self._remark(f"What was told cannot be kept ({error.strerror}); a new watch would tell it again.")

    @property
    def well(self) -> bool:
        """Whether all is well: every tier healthy, nothing ill, nothing unread."""
        snapshot = self.live.snapshot
        if snapshot.prognosis.state is not State.HEALTHY:
            return False
        return not {condition(state) for state in snapshot.endpoints.values()} & {"DEGRADED", "DOWN", "UNKNOWN"}

    async def _beat(self, http: Http, heartbeat: str) -> None:
        failed = ""
        while True:
            if self.well:
                trouble = await self._ping(http, heartbeat)
                if trouble != failed and trouble:
                    self._remark(f"heartbeat: {trouble}")
                failed = trouble
                await self._clock.sleep(self.inventory.alerts.heartbeat_every)
            else:
                await self._clock.sleep(LOOKS)

    async def _ping(self, http: Http, heartbeat: str) -> str:
        """Ask the address once; what went wrong, without the address, which may be a secret."""
        try:
            secret = not heartbeat.startswith(("http://", "https://"))
            url = (await self._secrets.resolve(heartbeat, polling=True)).get_secret_value() if secret else heartbeat
            answer = await http.get(url, timeout=HEARTBEAT_LIMIT)
        except SecretError as error:
            return str(error)
        except (ProbeFailure, ReachError) as error:
            return f"{error.cause.value}" if isinstance(error, ProbeFailure) else str(error)
        return "" if answer.status < 400 else f"answered with status {answer.status}"

    @asynccontextmanager
    async def _served(self, metrics: tuple[str, int] | None) -> AsyncIterator[None]:
        """Give Prometheus its text for as long as the context is open."""
        if metrics is None:
            yield
            return
        from aiohttp import web

        async def text(request: web.Request) -> web.Response:
            found = prometheus_text(self.inventory, self.live.snapshot)
            return web.Response(body=found.encode(), headers={"Content-Type": CONTENT_TYPE})

        app = web.Application()
        app.router.add_get("/metrics", text)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, *metrics).start()
        except OSError as error:
            await runner.cleanup()
            where = "{}:{}".format(*metrics)
            words = f"Metrics cannot be served at {where}: {error.strerror or error}."
            raise ReachError(words, "Name another port with --metrics.") from None
        try:
            yield
        finally:
            await runner.cleanup()

    def _recorder(self, loop: asyncio.AbstractEventLoop) -> Recorder:
        def say(text: str) -> None:
            if text:
                with suppress(RuntimeError):  # the loop may have ended meanwhile
                    loop.call_soon_threadsafe(self._remark, text)

        return Recorder(history_path(self._state_dir, self.inventory.name, self._loaded.path), self.inventory, say)

    def _remark(self, text: str) -> None:
        self._say(self._clock.now().wall, "", "", text)

    def _crash(self, source: str, error: Exception) -> None:
        self._remark(f"{source}: internal error: {type(error).__name__}: {error}. Please report this.")

    def _nudge(self, topic: str | None) -> object:
        return self._poller.nudge(topic) if self._poller else 0


def read_sent(path: Path) -> dict[str, str]:
    """What an earlier watch told; nothing where that cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
