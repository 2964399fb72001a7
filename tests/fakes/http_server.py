"""A local HTTP server that misbehaves on request: slow, cut off, truncated, wrong, redirecting, endless, silent.

with Server() as server:
    server.pages["/file.zip"] = Page(content, cuts=[1000])  # the first answer ends after 1000 bytes
    ...
    assert server.requests[1].headers["Range"] == "bytes=1000-"
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Page:
    """What is answered at one path."""

    content: bytes = b""
    status: int = 200
    location: str | None = None  # redirect to there
    ranges: bool = True  # whether Range is obeyed
    etag: str | None = '"1"'
    ignores_if_range: bool = False
    claimed: int | None = None  # Content-Length, where it lies
    length: bool = True  # whether there is a Content-Length at all
    delay: float = 0.0  # seconds before anything is answered
    pause: float = 0.0  # seconds between pieces of a KiB
    cuts: list[int] = field(default_factory=list)  # bytes after which the connection ends, one an answer
    endless: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What was asked, and how many bytes of a body were answered."""

    path: str
    headers: dict[str, str]
    sent: int = 0


class _HTTPServer(ThreadingHTTPServer):
    # With the default of 5, uv's connections at once overflow the queue, and wait a second to try again.
    request_queue_size = 128


class Server:
    """Answers ``pages`` by path (without query), 404 for any other; a context that starts and stops it.

    ``certificate`` is a PEM file with certificate and key: https then.
    """

    def __init__(self, pages: dict[str, Page] | None = None, certificate: Path | None = None) -> None:
        self.pages: dict[str, Page] = dict(pages or {})
        self.requests: list[Request] = []
        self._stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(ConnectionError):
                    outer._answer(self)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = _HTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' * (certificate is not None)}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.path for request in self.requests]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        request = Request(path, dict(handler.headers))
        self.requests.append(request)
        page = self.pages.get(path, Page(status=404))
        if self._stopping.wait(page.delay):
            return
        start = self._start(page, request)
        if start is not None and start >= len(page.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(page.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = page.content[start or 0 :]
        handler.send_response(302 if page.location else 206 if start is not None else page.status)
        if page.location:
            handler.send_header("Location", page.location)
        if page.length and not page.endless:
            handler.send_header("Content-Length", str(len(body) if page.claimed is None else page.claimed))
        if page.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        if page.etag:
            handler.send_header("ETag", page.etag)
        if start is not None:
            last = len(page.content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(page.content)}")
        for name, value in page.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        cut = page.cuts.pop(0) if page.cuts else None
        for piece in self._pieces(page, body, cut):
            request.sent += len(piece)  # before: the client may look as soon as it has the bytes
            handler.wfile.write(piece)
            if page.pause and self._stopping.wait(page.pause):
                return

    def _pieces(self, page: Page, body: bytes, cut: int | None) -> Iterator[bytes]:
        while page.endless and not self._stopping.is_set():
            yield bytes(1 << 16)
        body = body[:cut]
        size = 1024 if page.pause else max(len(body), 1)
        for at in range(0, len(body), size):
            yield body[at : at + size]

    @staticmethod
    def _start(page: Page, request: Request) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if not match or not page.ranges or page.status != 200:
            return None
        condition = request.headers.get("If-Range")
        if condition is not None and condition != page.etag and not page.ignores_if_range:
            return None
        return int(match[1])


def dead_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent_address() -> Iterator[str]:
    """An address where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
