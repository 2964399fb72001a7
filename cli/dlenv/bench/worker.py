"""A process of the load generator, with its job on stdin and its outcome on stdout.

A process of its own even where one is enough: the caller's threads would take the interpreter from it.
"""

from __future__ import annotations

import gc
import struct
import sys

import msgspec

from dlenv.bench.job import Job
from dlenv.bench.load import Load

LENGTH = struct.Struct("!Q")  # before the job, in bytes
START = struct.Struct("!d")  # when to begin, by ``time.monotonic``
READY = b"R"


def main() -> None:
    """Read a job, say that it can begin, begin at the time that comes, write the outcome."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    (length,) = LENGTH.unpack(source.read(LENGTH.size))
    load = Load(msgspec.msgpack.decode(source.read(length), type=Job))
    gc.disable()  # nothing that is made for a request refers to itself
    sink.write(READY)
    sink.flush()
    (start,) = START.unpack(source.read(START.size))
    sink.write(msgspec.msgpack.encode(load.run(start)))
