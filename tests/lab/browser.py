"""A headless Chromium, driven over its own DevTools protocol: what a visitor of `tierdeck serve` sees and types."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

LIMIT = 60.0


class Page:
    """One page; `seen` is every byte that its WebSocket brought so far."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._more = asyncio.Event()
        self.seen = ""
        self.asked_for: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser tells, until it ends."""
        async for message in self._socket:
            told = json.loads(message.data)
            match told:
                case {"id": int(number)}:
                    self._asked.pop(number).set_result(told)
                case {"method": "Network.webSocketFrameReceived", "params": {"response": {"payloadData": data}}}:
                    with suppress(ValueError):
                        self.seen += base64.b64decode(data).decode(errors="replace")
                    self._more.set()
                case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                    self.asked_for.append(url)

    async def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser for something."""
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(LIMIT):
            answer = await self._asked[number]
        assert "error" not in answer, answer
        return answer["result"]

    async def until(self, words: str) -> None:
        """Wait for these words on the console's line."""
        async with asyncio.timeout(LIMIT):
            while words not in self.seen:
                self._more.clear()
                await self._more.wait()

    async def tap(self, label: str) -> None:
        """Tap the key of that name below the terminal."""
        script = f"""[...document.querySelectorAll('#keys button')].find(b => b.textContent === {label!r})
                     .dispatchEvent(new PointerEvent('pointerdown', {{bubbles: true, cancelable: true}}))"""
        await self.call("Runtime.evaluate", expression=script)

    async def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def browse(address: str, folder: Path, *, width: int, height: int, phone: bool) -> AsyncIterator[Page]:
    """The page at `address` in a window of this size; a phone touches and has no keyboard."""
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT):
            while not (opened := folder / "DevToolsActivePort").exists() or not opened.read_text().strip():
                await asyncio.sleep(0.1)
        port = int(opened.read_text().splitlines()[0])
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = await answer.json()
            where = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            async with session.ws_connect(where, max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                try:
                    await page.call("Network.enable")
                    await page.call(
                        "Emulation.setDeviceMetricsOverride",
                        width=width, height=height, deviceScaleFactor=1, mobile=phone,
                    )  # fmt: skip
                    await page.call("Emulation.setTouchEmulationEnabled", enabled=phone)
                    await page.call("Page.navigate", url=address)
                    yield page
                finally:
                    listening.cancel()
    finally:
        process.kill()
        await process.wait()
