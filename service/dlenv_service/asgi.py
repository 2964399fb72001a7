"""The service as one ASGI application: its life from start to drain, and the way from a request to its handler.

A plain ASGI callable without a framework: between the server and the model stand a look-up in the table of routes,
the codec and the batcher. It runs under any ASGI server, and inside a Ray Serve replica.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dlenv.errors import ModelInvalid, Unavailable
from dlenv_service import audit, request_id, routes
from dlenv_service.admission import Admission, Headers
from dlenv_service.config import Settings
from dlenv_service.host import Document, Host
from dlenv_service.http import Receive, Response, Scope
from dlenv_service.metrics import Metrics

if TYPE_CHECKING:
    from dlenv_service.fronts.keeper import Fronts

__all__ = ["Service"]

log = logging.getLogger("dlenv.service")

# Decoding an image takes the event loop's time away from everybody, so threads do it; two keep up with one device.
DECODERS = 2


class Service(Admission[Host]):
    """An ASGI application that serves the models of a repository."""

    def __init__(self, settings: Settings, replica: str = "") -> None:
        super().__init__(settings, Host(settings))
        self.host.tracing = self.tracing
        self.replica = replica  # label of the metrics where there are several replicas; empty where there is one
        self.on_change: Callable[[Document], Awaitable[None]] | None = None
        self.changing = asyncio.Lock()
        self.fronts: Fronts | None = None  # processes that read HTTP for this one
        self._changes: set[asyncio.Task[None]] = set()  # those under way; the loop itself keeps no reference
        self.decoders = ThreadPoolExecutor(DECODERS, "dlenv-decode")
        self.decoding = 0  # images that wait for a decoder or are in one
        self.metrics = Metrics(self)

    async def startup(self, document: Document | None = None) -> None:
        """Load and warm up the models; the service is ready after it.

        Args:
            document: what to load; by default what the settings ask for.

        Raises:
            DlenvError: it can't serve, with the reason.
        """
        await self.host.start(document)
        # PyTorch leaves some hundred thousand objects that live as long as the process. To look at them again in each
        # full collection would stop every request for 100 ms.
        gc.collect()
        gc.freeze()
        self.started = True

    async def drain(self) -> None:
        """Turn unready, and wait until every request that has arrived is answered.

        Requests that still come in are answered too, with ``Connection: close``, so that a client with a
        kept-alive connection loses nothing. Returns after ``drain_timeout_ms`` at the latest.
        """
        self.draining = True
        until = time.monotonic() + self.settings.drain_timeout_ms / 1000
        while self.all_in_flight and time.monotonic() < until:
            await asyncio.sleep(0.005)
        if self.all_in_flight:
            log.warning("%d requests were not answered within the drain timeout", self.all_in_flight)

    async def close(self) -> None:
        """Stop the device and the threads; what still waits is answered with 503."""
        self.started = False
        await self.host.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    @property
    def ready(self) -> bool:
        """Whether inference requests are answered, by a device that works, and the service is not about to stop."""
        try:
            self.check_health()
        except Unavailable:
            return False
        return self.started and not self.draining

    @property
    def all_in_flight(self) -> int:
        """Requests that have arrived and are not answered completely, in fronts too."""
        return self.in_flight + (self.fronts.in_flight if self.fronts is not None else 0)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the device, over all models."""
        here = sum(served.queued_rows for served in self.host.loaded())
        return here + (self.fronts.all_queued_rows if self.fronts is not None else 0)

    @property
    def document(self) -> Document:
        """Which models should be loaded."""
        return self.host.document

    async def apply(self, document: Document) -> None:
        """Load and unload until the document is true on this replica."""
        await self.host.apply(document)

    async def to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Await a change of the models that goes on when the client that asked for it goes away."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def follow(self, document: Document) -> str | None:
        """Apply a document here; the reason where a model that it changes can't be loaded."""
        before = self.document["models"]
        await self.host.apply(document)
        for name, reason in self.host.problems.items():
            if document["models"].get(name) != before.get(name):
                return f"model {name!r} can't be loaded: {reason}"
        return None

    async def change(self, document: Document) -> None:
        """Make a document true on every replica, or leave all as it was.

        Raises:
            ModelInvalid: a model can't be loaded; what was loaded before still is.
            Unavailable: the models are being changed elsewhere.
        """
        if self.on_change is not None:
            await self.on_change(document)
            return
        before = self.document["models"]
        reason = await self.follow(document)
        if reason is not None:
            await self.host.apply({"generation": document["generation"] + 1, "models": before})
            raise ModelInvalid(reason)

    def check_health(self) -> None:
        """Raise when the device makes no progress or a model fails again and again.

        Raises:
            Unavailable: with what is wrong.
        """
        self.host.check_health()
        if self.fronts is not None:
            self.fronts.check_health()

    def answers_here(self, scope: Scope) -> bool:
        """Whether this is an inference request, which need not go through Serve's own machinery."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        path: str = scope["path"]
        return path.endswith("/infer") or path.startswith("/predict/")

    async def answer(self, scope: Scope, receive: Receive) -> tuple[Response, Headers]:
        """The answer to a request, and the headers that it gets beside its own."""
        with request_id.identified(request_id.of(scope)):
            return await self._answer(scope, receive), self.extra_headers(scope)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if (preflight := self.gate.preflight(scope)) is not None:
            return preflight
        try:
            handler, arguments = routes.resolve(scope["method"], scope["path"])
            entry = routes.ENTRIES[handler]
            caller = self.gate.enter(scope, entry)
        except Exception as error:  # noqa: BLE001 - every request is answered
            return self.failed(error, scope["method"], scope["path"])
        try:
            response = await handler(self, scope, receive, **arguments)
        except Exception as error:  # noqa: BLE001 - every request is answered
            response = self.failed(error, scope["method"], scope["path"])
        if entry.access == "admin":
            audit.record(caller, scope, response.status)
        return response
