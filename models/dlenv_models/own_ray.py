"""A Ray for one command: on this machine, for nobody else, and gone afterwards; or an existing cluster."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dlenv.errors import DlenvError, UsageError
from dlenv.machine import system

__all__ = ["fitting", "ray_for", "reach", "room"]

REACH_TIMEOUT_S = 5.0  # for a cluster's head to take a connection
# Of a process of Ray that trains LeNet on 5,000 images: 520 MiB of its own (PyTorch 2.15, Ray 2.60, Linux).
PROCESS_MIB = 600
PER_CORE = 4  # more of them than cores win nothing; that many do no harm


@contextmanager
def ray_for(what: str, *, cpus: int, address: str | None = None, processes: int = 1) -> Iterator[None]:
    """Be connected to a Ray with ``cpus`` of its own for so many ``processes``, or to the cluster at ``address``.

    Ray's agents take jobs from whoever reaches them, so its own processes listen on loopback and want a token of this
    run; what each variable does stands in ``dlenv_service/arrangement.py``.

    Raises ``DlenvError`` where there is no Ray to be had (``what`` it is for), ``UsageError`` for what is no address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        if processes > (most := fitting()):
            raise DlenvError(
                f"{processes} processes at once are too many for this machine, "
                f"whose cores and free memory bear {most}; take fewer"
            )
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    else:
        reach(address)
    import ray  # reads them

    try:
        if address is None:
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if address is None else "; RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster"
        raise DlenvError(f"no Ray to {what} with: {str(error).strip()}{hint}") from None
    try:
        yield
    finally:
        ray.shutdown()


def fitting() -> int:
    """How many processes that train this machine bears, by its cores and the memory that is free now; at least 2."""
    free = min(psutil.virtual_memory().available // 2**20, system.memory_mib(Path("/")))
    return max(2, min(PER_CORE * system.cpus(Path("/")), free // PROCESS_MIB))


def room(*, cpus: int, gpus: int) -> None:
    """Raise ``DlenvError`` where the Ray that is connected has fewer; it would wait for them without an end."""
    import ray

    has = ray.cluster_resources()
    for name, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > has.get(name, 0):
            raise DlenvError(f"this takes {wanted} {name}s, and Ray has {has.get(name, 0):g}; take fewer workers")


def reach(address: str) -> None:
    """Try the address of a Ray cluster's head before Ray does, which would try for many minutes.

    Raises ``UsageError`` for what is no address, ``DlenvError`` where nothing answers.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
    except ValueError:
        raise UsageError(f"address: {address!r} is not HOST:PORT of a Ray cluster's head, nor auto") from None
    except OSError as error:
        reason = error.strerror or error
        raise DlenvError(
            f"address: nothing answers at {address} ({reason}); start Ray there, or give another"
        ) from None
