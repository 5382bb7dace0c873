"""A headless Chromium that tests drive over its debugging protocol."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tasks.embedded import processes
from tests.conftest import QUIET_CHROMIUM, chromium, wait_until

FLAGS = [
    "--headless=new",
    *QUIET_CHROMIUM,
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
]
KEYS = {"Enter": 13, "Tab": 9}


class Page:
    """One page of a browser: what it shows, and what its console says."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self.errors: list[str] = []
        self._last = 0
        log = (folder / "chromium.log").open("ab")
        with log:
            self._process = processes.start([chromium(), *FLAGS, f"--user-data-dir={folder}"], log=log)
        ports = folder / "DevToolsActivePort"
        wait_until(lambda: ports.exists() and len(ports.read_text().split()) == 2, what="Chromium")
        listed = f"http://127.0.0.1:{ports.read_text().split()[0]}/json"

        def addresses() -> list[str]:
            pages = httpx2.get(listed, timeout=60).json()
            return [page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"]

        address = wait_until(addresses, what="its first page")[0]
        self._socket = self._loop.run_until_complete(self._connected(address))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @staticmethod
    async def _connected(address: str) -> WebSocketClientConnection:
        return await websocket_connect(address, max_message_size=64 * 1024 * 1024)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        return self._loop.run_until_complete(self._call(method, params))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        number = self._last
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser has ended"
            message = json.loads(text)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") == "Fetch.requestPaused":
                await self._refuse(message["params"]["requestId"])
            self._note(message)

    async def _refuse(self, request: str) -> None:
        self._last += 1
        answer = {"requestId": request, "responseCode": 503}
        message = {"id": self._last, "method": "Fetch.fulfillRequest", "params": answer}
        await self._socket.write_message(json.dumps(message))

    @contextmanager
    def refusing(self, pattern: str) -> Iterator[None]:
        """Answer requests for URLs of this pattern with 503, for as long."""
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])
        try:
            yield
        finally:
            self.call("Fetch.disable")

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(str(params["args"]))

    def value(self, script: str) -> Any:
        """The value of an expression on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Open a page, and wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState == 'complete' && location.href.startsWith({json.dumps(url)})")

    def press(self, key: str) -> None:
        """Press a key where the focus is: `Enter` or `Tab`."""
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else "", **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def tab_to(self, script: str) -> None:
        """Press `Tab` until this element has the focus, as somebody without a mouse does."""
        for _ in range(200):
            if self.value(f"document.activeElement === {script}"):
                return
            self.press("Tab")
        raise AssertionError(f"{script} cannot be reached with the keyboard")

    def type(self, text: str) -> None:
        """Type where the focus is."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """Show pages as a device with a screen of this size does, in CSS pixels."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=2, mobile=True, **size)

    def until(self, script: str, timeout_s: float = 60) -> Any:
        """Wait until an expression on the page is true; returns it. While a page is replaced it is not."""
        return wait_until(lambda: self._value_or_none(script), timeout_s=timeout_s, what=script)

    def _value_or_none(self, script: str) -> Any:
        try:
            return self.value(script)
        except AssertionError:
            return None

    async def _disconnect(self) -> None:
        self._socket.close()  # in the loop: other tests leave this thread without one

    def close(self) -> None:
        """End the browser."""
        self._loop.run_until_complete(self._disconnect())
        processes.stop(self._process, signal.SIGTERM)
        self._loop.close()
