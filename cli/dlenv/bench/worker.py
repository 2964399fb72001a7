"""A process of the load generator, with its job on stdin and its outcome on stdout.

A process of its own even where one is enough: the caller's threads would take the interpreter from it.
"""

from __future__ import annotations

import gc
import math
import struct
import sys

import msgspec

from dlenv.bench.job import Job
from dlenv.bench.load import Load

LENGTH = struct.Struct("!Q")  # before the job, in bytes
START = struct.Struct("!d")  # when to begin, by ``time.monotonic``
READY = b"R"
OTHER_FILES = 32  # that a process has open beside its connections


def main() -> None:
    """Read a job, say that it can begin, begin at the time that comes, write the outcome."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    (length,) = LENGTH.unpack(source.read(LENGTH.size))
    job = msgspec.msgpack.decode(source.read(length), type=Job)
    _allow(job.connections + OTHER_FILES)
    load = Load(job)
    gc.disable()  # nothing that is made for a request refers to itself
    sink.write(READY)
    sink.flush()
    (start,) = START.unpack(source.read(START.size))
    sink.write(msgspec.msgpack.encode(load.run(start)))


def file_limit() -> float:
    """How many files a process may open, where it raises its own limit as far as it can."""
    return _limits()[1]


def _allow(files: int) -> None:
    now, most = _limits()
    if now < files <= most:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _limits() -> tuple[float, float]:
    """The limit on open files as it is, and the one up to which it can be raised."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf, math.inf
    now, most = (
        math.inf if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return now, most
