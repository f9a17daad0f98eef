"""Chromium without a screen, spoken to over its debugging port."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

from tests.helpers.servers import Unavailable, free_port

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-allow-origins=*",
    "--window-size=1900,1300",
)
MESSAGE = 2**27


class Page:
    """One tab."""

    def __init__(self, port: int) -> None:
        self.port = port
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            self.address = json.load(answer)["webSocketDebuggerUrl"]
        self.requests: list[str] = []
        """Addresses that the page asked for."""
        self.errors: list[str] = []
        """Exceptions that its scripts did not catch."""

    def visit(self, url: str, *, until: str, seconds: float = 120) -> None:
        """Open an address and wait until an expression holds."""
        asyncio.run(self._visit(url, until, seconds))

    async def _visit(self, url: str, until: str, seconds: float) -> None:
        async with self._connected() as socket:
            await self._load(socket, url, until, seconds)

    async def _load(self, socket: Any, url: str, until: str, seconds: float) -> None:
        for method in ("Page.enable", "Network.enable", "Runtime.enable"):
            await self._call(socket, method)
        await self._call(socket, "Page.navigate", url=url)
        end = time.monotonic() + seconds
        while not await self._value(socket, f"Boolean({until})"):
            if time.monotonic() > end:
                text = await self._value(socket, "document.body.innerText")
                raise AssertionError(f"never came true: {until}; the page says: {text[:2000]}")
            await asyncio.sleep(0.3)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        socket = await websocket_connect(self.address, max_message_size=MESSAGE)
        try:
            yield socket
        finally:
            socket.close()
            while await socket.read_message() is not None:
                pass  # until the browser has hung up too, else the socket is left open
            await asyncio.sleep(0)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of JavaScript gives."""
        return asyncio.run(
            self._once("Runtime.evaluate", expression=expression, returnByValue=True)
        )["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        self._write(path, asyncio.run(self._once("Page.captureScreenshot")))

    def whole_picture(self, path: Path) -> None:
        """Write the page from top to bottom as a PNG."""
        self._write(
            path, asyncio.run(self._once("Page.captureScreenshot", captureBeyondViewport=True))
        )

    def evaluate_on_paper(self, expression: str, *, width: int) -> Any:
        """Return what an expression gives when the page is laid out on paper of that width."""
        return asyncio.run(self._evaluate_on_paper(expression, width))

    async def _evaluate_on_paper(self, expression: str, width: int) -> Any:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        async with self._connected() as socket:  # the browser forgets the layout with it
            await self._call(socket, "Emulation.setEmulatedMedia", media="print")
            await self._call(socket, "Emulation.setDeviceMetricsOverride", **size)
            return await self._value(socket, expression)

    def paper(self, path: Path) -> None:
        """Write the page as it prints, as a PDF."""
        options = {"printBackground": True, "preferCSSPageSize": True}
        self._write(path, asyncio.run(self._once("Page.printToPDF", **options)))

    @staticmethod
    def _write(path: Path, answer: dict[str, Any]) -> None:
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _once(self, method: str, **parameters: Any) -> dict[str, Any]:
        async with self._connected() as socket:
            return await self._call(socket, method, **parameters)

    async def _value(self, socket: Any, expression: str) -> Any:
        answer = await self._call(
            socket, "Runtime.evaluate", expression=expression, returnByValue=True
        )
        return answer["result"].get("value")

    async def _call(self, socket: Any, method: str, **parameters: Any) -> dict[str, Any]:
        await socket.write_message(json.dumps({"id": 1, "method": method, "params": parameters}))
        while True:
            text = await socket.read_message()
            assert text is not None, "the browser is gone"
            message = json.loads(text)
            if message.get("id") == 1:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"])[:500])


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Run a browser with a profile of its own and yield a tab.

    Raises:
        Unavailable: It is not installed, or does not start here.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise Unavailable("Chromium is not installed")
    port = free_port()
    command = [found, *FLAGS, f"--remote-debugging-port={port}", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield _first_page(process, port)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _first_page(process: subprocess.Popen[bytes], port: int) -> Page:
    for _ in range(300):
        if process.poll() is not None:
            raise Unavailable(f"Chromium ended with status {process.returncode}")
        try:
            return Page(port)
        except OSError:
            time.sleep(0.2)
    raise Unavailable("Chromium does not answer")
