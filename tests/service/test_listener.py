"""The address that the service listens on, and what is said when it can't."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from dlenv.errors import StartError
from dlenv_service.listener import bind, check, refuse_new


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StartError, match=f"can't listen on 127.0.0.1:{port}: the port is in use; stop what listens"
        ):
            bind("127.0.0.1", port)
    check("127.0.0.1", port)


def test_a_port_is_free_again_at_once() -> None:
    first = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = first.accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        first.close()
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("203.0.113.1", "this machine has no such address; give another --host"),  # RFC 5737: nobody's
        ("no-such-host.invalid", "give another --host"),
        ("a..b", "that is no host name"),
        ("x" * 70 + ".y", "give another --host"),
    ],
)
def test_a_host_that_is_not_here_is_named(host: str, words: str) -> None:
    with pytest.raises(StartError, match="can't listen on") as refused:
        bind(host, 0)
    assert words in str(refused.value)
    assert host in str(refused.value)


def test_ipv6_and_names_are_addresses_too() -> None:
    for host in ("localhost", "::1") if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else ("localhost",):
        listener = bind(host, 0)
        assert listener.getsockname()[1] > 0
        listener.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_that_only_the_kernel_has_accepted_are_answered(loop: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        with bind("127.0.0.1", 0) as listening:
            address = listening.getsockname()
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.001)
            # All of this happens before the loop runs again, so it has accepted none of them.
            clients = [socket.create_connection(address, timeout=10) for _ in range(20)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert await refuse_new(server) == 20
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=10)
            answers = [await asyncio.to_thread(client.makefile("rb").read) for client in clients]
            assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
            server.should_exit = True
            await serving
            for client in clients:
                client.close()

    running = asyncio.new_event_loop() if loop == "asyncio" else uvloop.new_event_loop()
    running.run_until_complete(main())
    running.run_until_complete(running.shutdown_default_executor())
    running.close()


def test_answers_are_sent_at_once() -> None:
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
