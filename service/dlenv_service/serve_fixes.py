"""Three things in Ray Serve 2.60 that no setting reaches, put right in the replica's process.

They replace names that ray/serve/_private/replica.py looks up after the replica's constructor has run;
tests/service/test_ray_contract.py says at once when a new Ray does it differently.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import ray
import uvicorn
from ray.serve._private import http_util, replica

from dlenv.errors import StartError
from dlenv_service import short_way
from dlenv_service.listener import refuse_new, send_at_once

if TYPE_CHECKING:  # torch is imported in replicas only
    from dlenv_service.asgi import Service
    from dlenv_service.fronts.keeper import Fronts

__all__ = ["fix_replica", "stop_accepting", "stop_fronts"]

EVERYWHERE = "[::]:0"

_servers: list[uvicorn.Server] = []
_fronts: list[Fronts] = []


def fix_replica() -> None:
    """Apply all; called in the constructor of a replica."""
    _keep_internal_port_here()
    _replace_server()


def _keep_internal_port_here() -> None:
    """Bind the replica's internal gRPC server to loopback, where all of Ray is on loopback.

    It unpickles what it is sent, and Serve binds it to all interfaces whatever the node's address is
    (``_on_initialized``). It asks for the run's token first (``create_grpc_server_with_interceptors``), but nobody has
    to get so far.
    """
    address = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(address).is_loopback:
        return
    add_port = replica.add_port_to_grpc_server

    def add_port_here(server: object, where: str) -> int:
        return int(add_port(server, f"{address}:0" if where == EVERYWHERE else where))

    replica.add_port_to_grpc_server = add_port_here


def _replace_server() -> None:
    """Let a replica take over the port of the one that died before it, and give its server our protocol.

    ``start_asgi_http_server`` (ray/serve/_private/http_util.py) sets SO_REUSEADDR only together with SO_REUSEPORT,
    which Serve switches off for replicas. Connections of the dead one stay in TIME_WAIT for a minute; the bind fails,
    and Serve then strikes the port off its list for good, which with one port means that no replica ever starts again.
    SO_REUSEPORT stays off: with it two services could share a port without noticing.

    The protocol (:mod:`dlenv_service.protocol`) is uvicorn's own with a quick way for inference requests; the server
    reads its configuration when it first runs, which is after this.
    """
    from dlenv_service.protocol import InferenceProtocol

    start = replica.start_asgi_http_server
    service = cast("Callable[[], Service | None]", short_way.adopted)
    http_util.set_socket_reuse_port = _set_options

    @functools.wraps(start)
    async def start_ours(*args: object, **options: object) -> object:
        # Before the port is taken: where fronts can't be had, Serve has to see it.
        behind = await _start_fronts(answering) if (answering := service()) and answering.settings.fronts else None
        try:
            task, server = await start(*args, **{**options, "enable_so_reuseport": True})
        except BaseException:
            if behind:
                await behind[0].close()
                behind[1].close()
            raise
        server.config.http = functools.partial(InferenceProtocol, service=service)
        _servers.append(server)
        if behind:
            _put_fronts_before(server, *behind)
        return task, server

    replica.start_asgi_http_server = start_ours


async def _start_fronts(service: Service) -> tuple[Fronts, socket.socket]:
    from dlenv_service.fronts.keeper import Fronts

    fronts = Fronts(service)
    try:
        return fronts, await fronts.start()
    except StartError as error:
        await fronts.close()
        raise RuntimeError(str(error)) from None  # as when the port can't be had


def _put_fronts_before(server: uvicorn.Server, fronts: Fronts, relayed: socket.socket) -> None:
    """Let fronts have the server's port, and the server itself what they pass on."""
    listen, end = server.startup, server.shutdown
    server.config.forwarded_allow_ips = "*"  # only fronts reach it

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        await listen(sockets=[relayed])
        fronts.open(*sockets)

    async def shutdown(sockets: list[socket.socket] | None = None) -> None:
        await fronts.drain()  # as long as there is somebody behind them
        await end(sockets)

    server.startup, server.shutdown = startup, shutdown  # type: ignore[method-assign]
    _fronts.append(fronts)


async def stop_accepting() -> None:
    """Refuse new connections to this replica; those that there are go on, accepted by us or only by the kernel.

    Serve itself closes the port only when it stops the whole server, together with connections whose first request
    is still on its way.
    """
    for fronts in _fronts:
        await fronts.drain()
    for server in _servers:
        await refuse_new(server)


async def stop_fronts() -> None:
    """End the fronts of this replica, after they have answered what has arrived."""
    for fronts in _fronts:
        await fronts.drain()
        await fronts.close()


def _set_options(sock: socket.socket) -> bool:
    send_at_once(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True
