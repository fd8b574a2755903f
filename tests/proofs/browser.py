"""A real browser, driven by the WebDriver protocol (https://www.w3.org/TR/webdriver/): some things only it can tell.

The UI answers 200 to any path, and keeps requests open while a workflow runs: a page is there when it shows a text.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comparison.stage.processes import free_port

PROGRAMS = ("chromium", "chromedriver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync")
QUIET = ("--disable-background-networking", "--disable-component-update")  # It asks nobody but our server.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.2


def is_installed() -> bool:
    """Tell whether there is a browser and its driver (Debian: `apt-get install chromium chromium-driver`)."""
    return all(shutil.which(program) for program in PROGRAMS)


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        """Use a session of a driver."""
        self._address = address

    def open(self, url: str, *texts: str) -> str:
        """Open a page and wait until it shows all texts; return what it shows.

        Raises:
            TimeoutError: if it does not.
        """
        _send(f"{self._address}/url", {"url": url})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            shown = str(self.run("return document.body.innerText"))
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} does not show {missing}, but: {shown}")
            time.sleep(POLL_SECONDS)

    def run(self, script: str) -> Any:  # Any: JSON
        """Run a function body in the page that is open; return what it returns."""
        return _send(f"{self._address}/execute/sync", {"script": script, "args": []})

    def save_picture(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(_send(f"{self._address}/screenshot")))


@contextmanager
def browser(directory: Path, width: int, height: int) -> Iterator[Browser]:
    """Run a browser with a profile of its own in `directory`."""
    port = free_port()
    with (directory / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        arguments = [*OPTIONS, *QUIET, f"--user-data-dir={directory / 'profile'}", f"--window-size={width},{height}"]
        capabilities = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        session = _send(f"{address}/session", {"capabilities": capabilities})["sessionId"]
        try:
            yield Browser(f"{address}/session/{session}")
        finally:  # else the browser would outlive its driver
            _send(f"{address}/session/{session}", method="DELETE")
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _send(f"{address}/status")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _send(url: str, body: Mapping[str, object] | None = None, method: str | None = None) -> Any:  # Any: JSON
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)["value"]
