"""Show a page: open it in a browser, in a notebook, or give it an address on this machine."""

from __future__ import annotations

import html
import threading
import webbrowser
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

_HEIGHT = 760  # of a frame in a notebook, in pixels


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a notebook would print every request."""


class LocalServer:
    """Serves a folder to this machine alone, in a thread, until it is closed or the program ends."""

    def __init__(self, folder: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def wait(self) -> None:
        """Serve until an interrupt."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Page:
    """A page that was written. In a notebook it shows itself where the browser can reach it, or else its place."""

    folder: Path
    server: LocalServer | None = field(default=None, repr=False)

    @property
    def index(self) -> Path:
        """The file to open."""
        return self.folder / "index.html"

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return self.server.address if self.server else self.index.as_uri()

    def open(self) -> bool:
        """Open the page in the browser of this machine; whether there is one."""
        return webbrowser.open(self.address)

    def close(self) -> None:
        """Stop serving the page, if it is served. The folder stays."""
        if self.server:
            self.server.close()

    def _repr_html_(self) -> str:
        link = f'<a href="{html.escape(self.address)}" target="_blank">{html.escape(str(self.index))}</a>'
        frame = self.address if self.server else self._from_notebook()
        if frame is None:
            return f"<p>The page is {link}.</p>"
        return f'<iframe src="{html.escape(frame)}" title="explorer" width="100%" height="{_HEIGHT}"></iframe><p>{link}</p>'

    def _from_notebook(self) -> str | None:
        """The page's place below the notebook's folder, from where Jupyter serves files; `None` where it lies elsewhere."""
        try:
            return quote(self.index.relative_to(Path.cwd()).as_posix())
        except ValueError:
            return None
