"""What runs here of the serving half: its ports, its processes, its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import PurePath

import psutil

from dlenv.doctor.facts import Port, Process, Service

__all__ = ["ports", "processes", "service"]

# The service's own default, and Ray's for its dashboard and its control store (ray start --help).
_SERVICE = 8000
_RAY = {8265: "Ray's dashboard", 6379: "Ray's control store"}
# Compiled processes of Ray's, and the proxy that it starts.
_LEFT = ("raylet", "gcs_server", "haproxy")
_CONNECT_S, _ANSWER_S = 0.5, 2.0


def ports(environ: Mapping[str, str]) -> tuple[Port, ...]:
    """The ports of a service on this machine, and who holds them."""
    wanted = {_port(environ): "the service", **_RAY}
    taken = {number for number in wanted if _listens(number)}
    holders = _holders(taken)
    return tuple(
        Port(number=number, purpose=purpose, taken=number in taken, holder=holders.get(number))
        for number, purpose in wanted.items()
    )


def processes() -> tuple[Process, ...]:
    """This user's processes that serve, or were started to."""
    found = []
    user = os.getuid() if hasattr(os, "getuid") else None
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if user is not None and process.uids().real != user:
                continue
            name, words = process.name(), process.cmdline()
            if _serves(words):
                name = "dlenv serve"
            elif name not in _LEFT or (name == "haproxy" and "ray" not in " ".join(words)):
                continue
            found.append(Process(pid=process.pid, name=name, seconds=time.time() - process.create_time()))
    return tuple(found)


def service(environ: Mapping[str, str]) -> Service | None:
    """What answers where the service listens; None where nothing listens."""
    import httpx

    number = _port(environ)
    if not _listens(number):
        return None
    url = f"http://127.0.0.1:{number}/v2/health/ready"
    try:
        # No proxy stands before this machine's own service.
        with httpx.Client(timeout=_ANSWER_S, trust_env=False) as client:
            answer = client.get(url)
    except httpx.HTTPError as error:
        return Service(url=url, detail=str(error) or type(error).__name__)
    return Service(url=url, status=answer.status_code, detail=answer.text[:200])


def _port(environ: Mapping[str, str]) -> int:
    text = environ.get("DLENV_PORT", "")
    return int(text) if text.isdecimal() and 0 < int(text) < 65536 else _SERVICE


def _listens(number: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", number), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _holders(numbers: set[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    if not numbers:
        return found
    with contextlib.suppress(psutil.Error, OSError):  # macOS tells only root
        for connection in psutil.net_connections(kind="tcp"):
            number = connection.laddr.port if connection.laddr else None
            if connection.status == psutil.CONN_LISTEN and number in numbers and connection.pid:
                with contextlib.suppress(psutil.Error):
                    found[number] = f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return found


def _serves(words: list[str]) -> bool:
    """``dlenv serve``, as the script or as ``python -m dlenv``."""
    names = [PurePath(word).name for word in words[:4]]
    return "serve" in names and ("dlenv" in names or "dlenv.exe" in names)
