"""A server on this machine that fails on demand."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).bytes(1_000_003)


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves bytes from memory, as badly as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files = {"/a.bin": CONTENT}
        self.answers: dict[str, Callable[[Handler], None]] = {}  # in place of files
        self.asked: list[tuple[str, str | None]] = []  # path and Range of every request
        self.ranges = True
        self.statuses: list[int] = []  # answers to the next requests
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.pause = 0.0  # seconds after every 64 kB
        self.hold = len(CONTENT)  # nothing is sent from here on, until it is moved

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if self.path in server.answers:
            server.answers[self.path](self)
            self.close_connection = True
            return
        content = server.files.get(self.path.partition("?")[0])
        status = server.statuses.pop(0) if server.statuses else 200 if content is not None else 404
        if status != 200:
            self.send_error(status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(content)
        patience = time.monotonic() + 60
        for at in range(start, min(end, len(content)), 2**16):
            while at + 2**16 > server.hold < len(CONTENT) and time.monotonic() < patience:
                time.sleep(0.005)
            self.wfile.write(content[at : min(at + 2**16, end)])
            time.sleep(server.pause)
        self.close_connection = True

    def head(self, status: int = 200, **headers: str) -> None:
        """Start an answer with nothing but these headers, written with underscores."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass
