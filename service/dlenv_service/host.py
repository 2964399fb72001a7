"""The models that are loaded, and how they come and go without losing a request.

A model version is ready only after its engine is warm, and it takes its predecessor's place in one step; the
predecessor then finishes what it has accepted and goes. What should be loaded is one document,
``{"generation": 3, "models": {"mnist-mlp": [1]}}``: :meth:`Host.apply` makes it true, here and, under Ray, on every
other replica too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypedDict

import torch

from dlenv.errors import DlenvError, ModelInvalid, ModelNotFound, StartError, Unavailable
from dlenv_models.repository import Repository
from dlenv_service.allocator import keep_freed_memory
from dlenv_service.batcher import Batcher
from dlenv_service.config import Settings
from dlenv_service.device import Device, Lane
from dlenv_service.engine import pick_device
from dlenv_service.improvement import Improver
from dlenv_service.loading import signature_of, warm_engines
from dlenv_service.lookup import find
from dlenv_service.served import Served
from dlenv_service.statistics import Statistics
from dlenv_service.tracing import Tracing

__all__ = ["Document", "Host"]

log = logging.getLogger("dlenv.service")

# A batch that takes so many deadlines has nobody left to answer: the device is wedged, and the replica says that it is
# not healthy. Short deadlines say nothing about a device.
STALLED_DEADLINES = 1.5
STALLED_AFTER_S = 15.0
# Batches of one model that may fail in a row: an error of CUDA's stays until the process is replaced.
FAILURES = 3
# How often late requests are looked for, for a device that takes no batches.
SWEEP_EVERY_S = 0.05


class Document(TypedDict):
    """What should be loaded; a higher generation replaces a lower one."""

    generation: int
    models: dict[str, list[int]]


class Host:
    """The loaded models of one process, and the device that runs them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device: torch.device | None = None
        self.document: Document = {"generation": 0, "models": {}}
        self.problems: dict[str, str] = {}  # models that should be loaded and could not be, with the reason
        self._models: dict[str, dict[int, Served]] = {}
        self._repository: Repository | None = None
        self._worker: Device | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._improver = Improver(settings)
        self._changing = asyncio.Lock()
        self.on_models: Callable[[], Awaitable[None]] | None = None  # who else has to know, before old ones retire
        self.tracing: Tracing | None = None

    async def start(self, document: Document | None = None) -> None:
        """Load the models of the document, or those that the settings name, and start to serve them.

        Raises:
            StartError: no model could be loaded, or the device can't be used.
            DlenvError: the repository can't be read, or a model that was named can't be loaded.
        """
        torch.set_num_threads(self.settings.threads)
        self.device = pick_device(self.settings.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        loop = asyncio.get_running_loop()
        self._repository = await asyncio.to_thread(Repository, self.settings.repository)
        self._worker = Device(loop, self.device.type)
        self._sweeper = loop.create_task(self._sweep())
        if document is not None:
            # What a running service agreed on: it may be nothing, and a model that can't be loaded now keeps no replica
            # away from the others.
            await self.apply(document)
            return
        await self.apply({"generation": 1, "models": await asyncio.to_thread(self._wanted)})
        if not self._models:
            raise StartError(self._nothing_loaded())
        named = [name for name in (each.partition("/")[0] for each in self.settings.models) if name in self.problems]
        if named:
            raise ModelInvalid(f"model {named[0]!r} can't be loaded: {self.problems[named[0]]}")

    async def close(self) -> None:
        """Answer what waits with 503 and stop the device."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._improver.close()
        for served in self.loaded():
            served.lane.batcher.clear(Unavailable("the service is stopping; send the request again later"))
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
        self._models.clear()

    @property
    def repository(self) -> Repository:
        """The repository; there is one once the host has started."""
        if self._repository is None:
            raise Unavailable("the service is starting; try again in a moment")
        return self._repository

    def loaded(self) -> list[Served]:
        """Every model version that is loaded."""
        return [served for versions in self._models.values() for served in versions.values()]

    def find(self, name: str, version: str | None = None) -> Served:
        """A loaded model; the newest loaded version where none is given.

        Raises:
            ModelNotFound: it isn't loaded; names what is.
        """
        return find(self._models, name, version)

    def versions(self, name: str) -> list[int]:
        """The loaded versions of a model, oldest first."""
        return sorted(self._models.get(name, {}))

    def check_health(self) -> None:
        """Raise when a batch has been on the device for too long, or a model fails again and again.

        Raises:
            Unavailable: no progress.
        """
        limit_s = max(STALLED_AFTER_S, STALLED_DEADLINES * self.settings.deadline_ms / 1000)
        if self._worker is not None and (busy := self._worker.busy_for()) > limit_s:
            raise Unavailable(f"the device has made no progress for {busy:.0f} s")
        for served in self.loaded():
            if served.lane.failures >= FAILURES:
                raise Unavailable(f"the last {served.lane.failures} batches of model {served.name!r} failed")

    async def plan_load(self, name: str, versions: Iterable[int] | None = None) -> Document:
        """The document with these versions of a model (the newest where None) in place of the loaded ones.

        Raises:
            ModelNotFound: the repository doesn't have it.
            ModelInvalid: it has, but refuses it.
        """
        wanted = sorted(set(versions)) if versions is not None else [None]
        entries = [await asyncio.to_thread(self.repository.entry, name, version) for version in wanted]
        return self._changed({**self.document["models"], name: sorted(entry.version for entry in entries)})

    def plan_unload(self, name: str) -> Document:
        """The document without a model.

        Raises:
            ModelNotFound: it isn't loaded.
        """
        self.find(name)
        return self._changed({key: value for key, value in self.document["models"].items() if key != name})

    def _changed(self, models: dict[str, list[int]]) -> Document:
        return {"generation": self.document["generation"] + 1, "models": models}

    async def apply(self, document: Document) -> None:
        """Load and unload until the document is true; one of an older generation is ignored.

        A model that can't be loaded is noted in ``problems`` and leaves the others, and its own loaded versions,
        as they are.
        """
        async with self._changing:
            if document["generation"] <= self.document["generation"]:
                return
            self.document = document
            self.problems = {}
            for name, versions in document["models"].items():
                try:
                    await self._load(name, versions)
                except DlenvError as error:
                    self.problems[name] = str(error)
                    log.error("%s is not loaded: %s", name, error)
                except Exception:  # a package that is missing, no memory left on the GPU, ...
                    self.problems[name] = "it could not be prepared; the service's log says why"
                    log.exception("%s is not loaded", name)
            gone = [self._models.pop(name) for name in [*self._models] if name not in document["models"]]
            await self._tell()
            await self._retire(served for versions in gone for served in versions.values())

    async def _load(self, name: str, versions: list[int]) -> None:
        """Make exactly these versions of a model the loaded ones, or change nothing."""
        present = self._models.get(name, {})
        fresh = {version: await self._prepare(name, version) for version in versions if version not in present}
        for served in fresh.values():
            assert self._worker is not None
            self._worker.add(served.lane)
        kept = {version: served for version, served in present.items() if version in versions}
        self._models[name] = {**kept, **fresh}
        await self._tell()
        await self._retire(served for version, served in present.items() if version not in versions)

    async def _prepare(self, name: str, version: int) -> Served:
        """Read a model, build its engine and warm it up, while the others go on serving."""
        began = time.perf_counter()
        model = await asyncio.to_thread(self.repository.load, name, version)
        assert self._worker is not None
        assert self.device is not None
        signature = signature_of(model.manifest, self.settings.max_rows, self.settings.max_body_bytes)
        build = partial(warm_engines, model, signature, self.settings, self.device)
        if self.device.type == "cuda":
            # Capturing a CUDA graph must not run beside other work on the device, so its own thread does it.
            engine, reconstructor, memory_bytes = await asyncio.wrap_future(self._worker.call(build))
        else:
            engine, reconstructor, memory_bytes = await asyncio.to_thread(build)
        statistics = Statistics()
        batcher = Batcher(engine.best_batch, self.settings.max_queue_rows, self.settings.max_delay_us)
        lane = Lane(batcher, engine, statistics, reconstructor)
        if self.tracing is not None:
            lane.on_batch = partial(self.tracing.batch, name, version)
        if self.device.type == "cpu":
            await self._improver.prepare(lane, model.manifest, signature, self._worker)
        seconds = time.perf_counter() - began
        largest = batcher.max_batch
        log.info(
            "loaded %s version %d on %s in %.2f s; batches of up to %d", name, version, self.device, seconds, largest
        )
        return Served(
            name,
            version,
            model.manifest,
            signature,
            lane,
            memory_bytes,
            statistics,
            self._worker,
            self.settings,
        )

    async def _tell(self) -> None:
        if self.on_models is not None:
            await self.on_models()

    async def _retire(self, models: Iterable[Served]) -> None:
        """Let models that take no more requests finish what they have accepted, then take them off the device."""
        for served in models:
            # By then whatever it had accepted is answered, with 504 where the device is stuck.
            until = time.monotonic() + self.settings.deadline_ms / 1000 + 2 * SWEEP_EVERY_S
            while (served.queued_rows or served.lane.running) and time.monotonic() < until:
                await asyncio.sleep(0.001)
                served.lane.expire(time.perf_counter_ns())  # it is not among those that are swept any more
            served.lane.batcher.close(f"model {served.name!r} was just replaced; send the request again")
            assert self._worker is not None
            self._worker.remove(served.lane)
            log.info("unloaded %s version %d", served.name, served.version)

    def _wanted(self) -> dict[str, list[int]]:
        """What the settings ask for: the named models, or the newest good version of every model."""
        wanted: dict[str, list[int]] = {}
        for each in self.settings.models:
            name, slash, version = each.partition("/")
            if slash and not (version.isascii() and version.isdigit()):
                raise ModelNotFound(f"model {each!r}: the version after the / must be a number, such as {name}/1")
            entry = self.repository.entry(name, int(version) if slash else None)
            wanted.setdefault(name, []).append(entry.version)
        if not self.settings.models:
            for entry in self.repository.entries():  # in order of versions: the newest good one stays
                if entry.problem is None:
                    wanted[entry.name] = [entry.version]
                else:
                    log.warning("%s version %d is refused: %s", entry.name, entry.version, entry.problem)
        return {name: sorted(set(versions)) for name, versions in wanted.items()}

    def _nothing_loaded(self) -> str:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.problems.items())
        return f"no model could be loaded ({reasons or 'the repository is empty'}); train one with `dlenv train`"

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now = time.perf_counter_ns()
            for served in self.loaded():
                served.lane.expire(now)
