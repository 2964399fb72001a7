"""What the main process and a front say to each other, and the memory that they share.

The messages go over a stream socket, each with its length before it. Rows and answers don't: they lie in slots of the
shared memory, and a message names the slot. A slot belongs to the front until it sends :class:`Rows`, then to the main
process until that answers with :class:`Done` or :class:`Failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from dlenv import errors
from dlenv_service.batcher import Answer, Array
from dlenv_service.statistics import Tally
from dlenv_service.tensors import Signature
from dlenv_service.tracing import Ran

__all__ = [
    "SLOTS",
    "Applied",
    "Channel",
    "Counts",
    "Done",
    "Drain",
    "Failed",
    "Memory",
    "Model",
    "Models",
    "Ready",
    "Rows",
    "Start",
    "error_of",
    "failed",
    "slot_bytes",
    "slot_rows",
    "write_answer",
]

# Slots of one front, so how many batches it may have under way. While all are, rows gather for the next.
SLOTS = 4
LENGTH = struct.Struct("<I")
ALIGNMENT = 64  # bytes; a cache line, so that rows and answers start on one


class Message(msgspec.Struct, array_like=True, tag=True):
    """Base of all messages."""


class Start(Message):
    """First to a front: the service's settings, and where the main process answers what a front does not."""

    settings: dict[str, Any]
    relay: str  # path of a Unix socket


class Model(msgspec.Struct, array_like=True, frozen=True):
    """A loaded model version, as a front needs to know it."""

    key: int  # no other version of any model ever has the same
    name: str
    version: int
    signature: Signature
    classes: int


class Models(Message):
    """To a front: these models are loaded, and no others."""

    generation: int
    models: tuple[Model, ...]


class Applied(Message):
    """To the main process: requests for models that are not in this generation have all been handed over."""

    generation: int


class Ready(Message):
    """To the main process: the front takes connections."""


class Rows(Message):
    """To the main process: rows in a slot, to be answered."""

    slot: int
    model: int
    rows: int
    requests: int  # whose rows these are
    queued: int  # when the oldest arrived, and when nobody waits any more: nanoseconds of time.perf_counter_ns
    deadline: int
    reconstruct: bool = False  # somebody wants reconstructions


class Done(Message):
    """To a front: the answers lie in the slot."""

    slot: int
    classes: int
    finite: bool
    started: int  # when the rows went to the device, nanoseconds of time.perf_counter_ns
    rows_per_second: float  # of the device, all fronts together
    reconstructed: bool = False  # reconstructions lie there, too
    ran: tuple[Ran, ...] = ()  # batches of the rows in the slot, where there are traces


class Failed(Message):
    """To a front: the rows in a slot are not answered, and why."""

    slot: int
    error: str  # name of the class in dlenv.errors
    text: str
    retry_after: int
    ran: tuple[Ran, ...] = ()


class Counts(Message):
    """To the main process: what a front counted since it last said so, and what it holds now."""

    models: dict[int, Tally]  # by key
    errors: dict[int, int]  # answers with an error, by status
    in_flight: int
    queued: dict[int, int]  # rows that wait, by key


class Drain(Message):
    """To a front: answer what has arrived, and end."""


AnyMessage = Start | Models | Applied | Ready | Rows | Done | Failed | Counts | Drain
_decode = msgspec.msgpack.Decoder(AnyMessage).decode
_encode = msgspec.msgpack.Encoder().encode


class Channel(asyncio.Protocol):
    """One end of the socket between the two; ``heard`` is called with each message, ``lost`` once at the end."""

    def __init__(self, heard: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio's
        for message in self._messages(data):
            self._heard(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102 - asyncio's
        self._transport = None
        self._lost()

    def say(self, message: Message) -> None:
        """Send a message; nothing where the other end has gone."""
        if self._transport is not None:
            body = _encode(message)
            self._transport.write(LENGTH.pack(len(body)) + body)

    def close(self) -> None:
        """Hang up after what was said is sent."""
        if self._transport is not None:
            self._transport.close()

    def _messages(self, data: bytes) -> Iterator[AnyMessage]:
        data = self._rest + data if self._rest else data
        start, view = 0, memoryview(data)
        while len(data) - start >= LENGTH.size:
            stop = start + LENGTH.size + LENGTH.unpack_from(data, start)[0]
            if stop > len(data):
                break
            yield _decode(view[start + LENGTH.size : stop])
            start = stop
        self._rest = data[start:]


def slot_bytes(max_body_bytes: int) -> int:
    """Size of a slot: whatever row a request can hold fits, and the answer to one of a quarter of a million classes.

    The most that a body grows by is a JSON ``0,`` that becomes an eight-byte number, or a pixel that becomes a
    reconstructed one of four bytes; beside that there is room for a row's probabilities. Only the pages that are
    written to take memory, so a slot may be large.
    """
    size = max(4 * max_body_bytes, 2**20) + 2**16
    return math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE


def slot_rows(model: Model, max_batch: int, size: int) -> int:
    """How many rows may go into a slot of so many bytes, so that their answer fits as well."""
    row = model.signature.row_size * model.signature.dtype.itemsize
    answer = model.classes * 4 + 8 + (model.signature.row_size * 4 if model.signature.reconstruction else 0)
    return max(1, min(max_batch, size // row, (size - 2 * ALIGNMENT) // answer))


class Memory:
    """The slots of one front, in memory that is shared with it by a file descriptor and has no name."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._map = mmap.mmap(descriptor, size * SLOTS)

    @classmethod
    def make(cls, size: int) -> Memory:
        """New memory with :data:`SLOTS` slots of ``size`` bytes each."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("dlenv-front")
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size * SLOTS)
        return cls(descriptor, size)

    def rows(self, slot: int, count: int, signature: Signature) -> Array:
        """The rows of a slot, ``(count, *shape)`` in the model's input type; a view."""
        elements = count * signature.row_size
        self._check(slot, elements * signature.dtype.itemsize)
        flat: Array = np.frombuffer(self._map, signature.dtype, elements, slot * self.size)
        return flat.reshape(count, *signature.shape)

    def answer(self, slot: int, rows: int, classes: int) -> tuple[Array, Array]:
        """Where the answer to a slot's rows lies: probabilities ``(rows, classes)`` and labels ``(rows,)``; views."""
        start = slot * self.size
        size = rows * classes
        after = _aligned(size * 4)
        self._check(slot, after + rows * 8)
        probabilities: Array = np.frombuffer(self._map, np.float32, size, start)
        labels: Array = np.frombuffer(self._map, np.int64, rows, start + after)
        return probabilities.reshape(rows, classes), labels

    def reconstructions(self, slot: int, rows: int, classes: int, signature: Signature) -> Array:
        """Where the reconstructions of a slot's rows lie, behind the rest of the answer: ``(rows, *shape)``; a view."""
        before = _aligned(_aligned(rows * classes * 4) + rows * 8)
        elements = rows * signature.row_size
        self._check(slot, before + elements * 4)
        flat: Array = np.frombuffer(self._map, np.float32, elements, slot * self.size + before)
        return flat.reshape(rows, *signature.shape)

    def _check(self, slot: int, size: int) -> None:
        if not (0 <= slot < SLOTS and size <= self.size):
            raise ValueError(f"slot {slot} of {SLOTS} with {self.size} bytes can't hold {size}")

    def forget_descriptor(self) -> None:
        """Close the descriptor, once another process has it; the mapping stays."""
        os.close(self.descriptor)

    def close(self) -> None:
        """Let go of the mapping; views that are still held keep it until they are gone."""
        with contextlib.suppress(BufferError):
            self._map.close()


def _aligned(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def failed(slot: int, error: BaseException, ran: tuple[Ran, ...] = ()) -> Failed:
    """An error as a message."""
    name = type(error).__name__ if isinstance(error, errors.DlenvError) else ""
    return Failed(slot, name, str(error), getattr(error, "retry_after", 0), ran)


def error_of(message: Failed) -> Exception:
    """The error that the main process meant; what is not for clients stays nameless."""
    kind = getattr(errors, message.error, None) if message.error in errors.__all__ else None
    if kind is None:
        return RuntimeError(message.text)
    return errors.Overloaded(message.text, message.retry_after) if kind is errors.Overloaded else kind(message.text)


def write_answer(memory: Memory, slot: int, answer: Answer, signature: Signature) -> int:
    """Put an answer into the slot that its rows came in; returns how many classes it has."""
    rows, classes = answer.probabilities.shape
    probabilities, labels = memory.answer(slot, rows, classes)
    probabilities[:] = answer.probabilities
    labels[:] = answer.labels
    if answer.reconstructions is not None:
        memory.reconstructions(slot, rows, classes, signature)[:] = answer.reconstructions
    return int(classes)
