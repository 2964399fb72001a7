"""The address that the service listens on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from dlenv.errors import StartError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["BACKLOG", "bind", "check", "refuse_new", "send_at_once"]

# Connections that the kernel keeps until they are accepted; uvicorn's own default (uvicorn/config.py).
BACKLOG = 2048
# asyncio's own default for TLS handshakes, and how long they may take once the service stops.
HANDSHAKE_S = 60.0
LAST_HANDSHAKE_S = 1.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        StartError: the address is taken, not this machine's, or not permitted; names it.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        send_at_once(listener)
        return listener
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "the port is in use; stop what listens there or give another --port",
            errno.EACCES: "no permission for this port; give one above 1023",
            errno.EADDRNOTAVAIL: "this machine has no such address; give another --host",
        }.get(error.errno or 0, f"{error.strerror or error}; give another --host or --port")
        raise StartError(f"can't listen on {host}:{port}: {reason}") from None
    except UnicodeError:  # from the codec of international domain names
        raise StartError(f"can't listen on {host!a}: that is no host name; give another --host") from None


def send_at_once(listener: socket.socket) -> None:
    """Switch off Nagle's algorithm for the connections of a listening socket, which inherit it.

    uvicorn writes an answer's head and body one after the other, and the body would wait for the client to acknowledge
    the head, which it puts off for 40 ms. asyncio switches it off only where the socket names its protocol
    (asyncio/base_events.py, ``_set_nodelay``), which one of ``socket.create_server`` does not.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def check(host: str, port: int) -> None:
    """Make sure that the service can listen there, for those who can't be handed a socket.

    Raises:
        StartError: it can't.
    """
    bind(host, port).close()


async def connect(server: uvicorn.Server, connection: socket.socket, handshake_s: float = HANDSHAKE_S) -> None:
    """Serve a connection that was accepted elsewhere, as uvicorn does its own (uvicorn/server.py, ``startup``)."""
    config = server.config
    # Where TLS does not come about, it is closed by now, and that is all that there is to say.
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: config.http_protocol_class(
                config=config,  # type: ignore[call-arg]
                server_state=server.server_state,
                app_state=server.lifespan.state,
            ),
            connection,
            ssl=config.ssl,
            ssl_handshake_timeout=None if config.ssl is None else handshake_s,
        )


async def refuse_new(server: uvicorn.Server, *others: socket.socket) -> int:
    """Accept no more connections, but serve those that the kernel has accepted already.

    A listening socket that is closed resets them, and with them requests that are complete. So a duplicate keeps it
    open until they are taken.

    Args:
        server: a uvicorn server that runs in this loop.
        others: sockets that listen for it, beside its own.

    Returns:
        How many connections the kernel had in store.
    """
    sockets = [*others, *(each for one in server.servers for each in one.sockets)]
    listening = [socket.socket(fileno=os.dup(each.fileno())) for each in sockets]
    for one in server.servers:
        one.close()
    for each in others:
        each.close()
    taken = []
    for each in listening:
        each.setblocking(False)
        with each, contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = each.accept()
                taken.append(asyncio.create_task(connect(server, connection, LAST_HANDSHAKE_S)))
    if taken:
        await asyncio.wait(taken)
    return len(taken)
