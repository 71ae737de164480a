"""Chromium through chromedriver's own HTTP interface (W3C WebDriver): `run_chromium`, and the fixture `browser`.

Tests whose browser is missing are skipped.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.programs import require_program
from tests.support.waiting import eventually

CHROMIUM_FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--no-proxy-server",
        "--mute-audio",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    # No test uses extensions, the spare renderer process, or the page that draws the suggestions of the address bar.
    *(
        "--disable-extensions",
        "--disable-features=SpareRendererForSitePerProcess,WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    ),
]


class ChromiumBrowser:
    """A browser with one window."""

    def __init__(self, driver: str, chromium: str, profile: Path, *flags: str) -> None:
        arguments = [*CHROMIUM_FLAGS, *flags, f"--user-data-dir={profile}"]
        options = {"binary": chromium, "args": arguments}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._client = httpx.Client(base_url=driver, timeout=60)
        self._session = f"/session/{self._call('POST', '/session', wanted)['sessionId']}"
        self._call("POST", f"{self._session}/timeouts", {"script": 50_000, "pageLoad": 20_000})

    def open_url(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run_script(self, script: str, *arguments: object) -> Any:
        """Run a script and return what it passes to its last argument, a callback."""
        return self._call("POST", f"{self._session}/execute/async", {"script": script, "args": arguments})

    def evaluate(self, script: str, *arguments: object) -> Any:
        """Run the body of a function and return its result; works in pages whose policy forbids scripts too."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def close(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            self._call("DELETE", self._session)
        self._client.close()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        answer = self._client.request(method, path, json=body)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value


@contextlib.contextmanager
def run_chromium(folder: Path, *flags: str) -> Iterator[ChromiumBrowser]:
    """Run a browser with further command-line flags; its profile is in `folder`."""
    driver, chromium = require_program("chromedriver", "chromium-driver"), require_program("chromium", "chromium")
    (port,) = free_ports(1)
    with (folder / "chromedriver.log").open("wb") as log:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
        url = f"http://{HOST}:{port}"
        try:
            eventually(lambda: httpx.get(f"{url}/status").json()["value"]["ready"], 20)
            with contextlib.closing(ChromiumBrowser(url, chromium, folder / "profile", *flags)) as browser:
                yield browser
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromiumBrowser]:
    """A browser that the tests of a module share."""
    with run_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
