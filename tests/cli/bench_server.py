"""A small HTTP server in threads of this process, which does what a test wants it to do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    number: int  # of all that came, from 0
    line: str
    headers: dict[str, str]  # names in small letters
    body: bytes


Answering = Callable[[Asked], bytes]
CLOSE = b""  # an answer: the connection is closed instead


@dataclass
class Server:
    """Where it listens, and what came."""

    port: int
    requests: int = 0
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ask"


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def serving(answering: Answering, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Answer each request by ``answering``; one that says ``Connection: close`` is the last on its connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = Server(listener.getsockname()[1])
    open_ones: set[socket.socket] = set()
    threads: list[threading.Thread] = []

    def talk(sock: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            sock if tls is None else tls.wrap_socket(sock, server_side=True) as connection,
        ):
            with server.lock:
                open_ones.add(connection)
                server.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.makefile("rb") as stream:
                while asked := read(stream):
                    reply = answering(asked)
                    connection.sendall(reply)
                    if reply == CLOSE or b"connection: close" in reply.lower():
                        break

    def read(stream: BinaryIO) -> Asked | None:
        """The next request; None where the connection ends."""
        line, headers = stream.readline().decode().strip(), {}
        while text := stream.readline().decode().strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        body = stream.read(length)
        if not line or len(body) < length:
            return None
        with server.lock:
            server.requests += 1
            return Asked(server.requests - 1, line, headers, body)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=talk, args=[listener.accept()[0]])
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for each in list(open_ones):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
