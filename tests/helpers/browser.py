"""A real browser without a screen or a network, which notes what it is asked for and what goes wrong."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_WAIT = 20_000  # milliseconds


def chromium() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium: install it with `apt-get install chromium`")
    return found


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A context of a new Chromium with an empty profile in a folder."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = chromium()
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder),
            executable_path=program,
            args=list(_OPTIONS),
            viewport={"width": 1200, "height": 900},
            accept_downloads=True,
        )
        context.set_default_timeout(_WAIT)
        yield context
        context.close()


@dataclass
class Visit:
    """One page in the browser."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def wait(self, text: str) -> None:
        """Wait until an expression of the page holds, and the figures are drawn."""
        until = time.monotonic() + _WAIT / 1000
        while not self.page.evaluate(text):  # the page's policy forbids to watch it from within
            assert time.monotonic() < until, text
            self.page.wait_for_timeout(20)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def choose_gene(self, number: int) -> None:
        """Click on a gene of the list."""
        self.page.click(f"#gene-{number}")
        self.wait(f"document.body.dataset.gene === '{number}'")

    def picture(self, which: int = 0) -> np.ndarray:
        """The pixels of a map, (height, width, 3)."""
        import io

        from PIL import Image

        content = self.page.locator(".map .plot").nth(which).screenshot()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)

    def outside(self) -> list[str]:
        """Requests for anything else than files of the page."""
        return [address for address in self.requests if not address.startswith(("file:", "data:", "blob:"))]


@contextmanager
def visit(context: Any, address: str, first: str = "") -> Iterator[Visit]:
    """A page, opened and drawn, after a script that runs `first`."""
    page = context.new_page()
    page.add_init_script(first)
    seen = Visit(page)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(message.text) if message.type in _BAD else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(address)
    seen.wait("document.body.dataset.state === 'ready'")
    yield seen
    page.close()


_BAD = ("error", "warning")
