"""Models that are served by PyTorch go over to ONNX Runtime while they are served.

PyTorch is ready at once and always right, so it comes first. The ONNX file of a model, where it isn't there from an
earlier start, is made beside it (:mod:`dlenv_service.onnx_export`); its answers are compared with PyTorch's; and where
it is the faster one on this machine, it takes the next batch.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import NamedTuple

import filelock

from dlenv.errors import ModelInvalid
from dlenv_models.manifest import Manifest
from dlenv_service.config import Settings
from dlenv_service.device import Device, Lane
from dlenv_service.engine import HostEngine
from dlenv_service.onnx_engine import OnnxEngine, difference, sample
from dlenv_service.onnx_export import Exporter, ExportFailed, cached
from dlenv_service.tensors import Signature

__all__ = ["Improver"]

log = logging.getLogger("dlenv.service")


# Models that are loaded within so many seconds of each other are exported together.
GATHER_S = 0.5
# Where ONNX Runtime gives less than this part of PyTorch's rows a second, it is not used. Below 1: its batches leave
# the interpreter to the event loop, and its single rows take a fraction of the time, which this does not measure.
SLOWER = 0.8
# That ONNX Runtime is slower has to be measured so often: whatever else the machine does in these moments says so, too,
# and a model that stays on PyTorch stays there.
MEASURED = 3


class Work(NamedTuple):
    """A model that PyTorch runs, and what it takes to run it otherwise."""

    lane: Lane
    manifest: Manifest
    signature: Signature


class Improver:
    """Puts ONNX Runtime in PyTorch's place, for the models of one process that runs them on a CPU."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._exporter = Exporter()
        self._waiting: list[Work] = []
        self._task: asyncio.Task[None] | None = None

    async def prepare(self, lane: Lane, manifest: Manifest, signature: Signature, device: Device) -> None:
        """See to it that a model which isn't served yet is run by what was asked for: now, or soon.

        Raises:
            ModelInvalid: that is ``onnx``, and it can't run the model.
        """
        work = Work(lane, manifest, signature)
        if self._settings.engine == "onnx":
            reason = await self._export([work]) or await self._replace(work, device)
            if reason is not None:
                raise ModelInvalid(f"ONNX Runtime can't run it ({reason}); give --engine auto")
        elif self._settings.engine == "auto":
            if _is_there(manifest):
                await self._replace(work, device)
                return
            self._waiting.append(work)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._improve(device))

    async def close(self) -> None:
        """Stop what is under way."""
        self._exporter.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _improve(self, device: Device) -> None:
        """Export what waits and replace what runs it, until nothing waits any more."""
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            works, self._waiting = self._waiting, []
            failure = await self._export(works)
            for work in works:
                reason = await self._replace(work, device) if _is_there(work.manifest) else failure
                if reason is not None:
                    log.info("%s version %d stays on PyTorch: %s", work.manifest.name, work.manifest.version, reason)

    async def _export(self, works: list[Work]) -> str | None:
        """Make the files; the reason where not all are there."""
        manifests = [work.manifest for work in works]
        try:
            await asyncio.to_thread(self._exporter.make, self._settings.repository, manifests)
        except (ExportFailed, ModuleNotFoundError, OSError, filelock.Timeout) as error:
            return str(error)
        return None

    async def _replace(self, work: Work, device: Device) -> str | None:
        """Put ONNX Runtime in PyTorch's place; the reason where it doesn't come to that."""
        lane, manifest, signature = work
        present = lane.runner
        assert isinstance(present, HostEngine)
        rows = sample(signature.shape, signature.dtype, self._settings.max_batch)
        file = cached(manifest)
        try:
            engine = await asyncio.to_thread(self._warm, file, signature)
            # Both in the device's thread: what else the machine does, and the load if there is any, meets both.
            both = (present, engine)
            compared = device.call(lambda: [each.run([rows], len(rows))[0] for each in both])
            wanted, answer = await asyncio.wrap_future(compared)
            before = after = 0.0
            for _ in range(MEASURED):
                before, after = await asyncio.wrap_future(device.call(lambda: [each.speed() for each in both]))
                if after >= SLOWER * before:
                    break
        except Exception as error:  # noqa: BLE001 - ONNX Runtime has many kinds; PyTorch goes on
            file.unlink(missing_ok=True)  # the next start makes it again
            return str(error).partition("\n")[0]
        if reason := difference(answer, wanted):
            return reason
        if self._settings.engine == "auto" and after < SLOWER * before:
            return f"it gives {before:,.0f} rows/s and ONNX Runtime {after:,.0f}"
        await asyncio.wrap_future(device.call(lambda: lane.replace(engine, engine.best_batch)))
        log.info(
            "%s version %d runs on ONNX Runtime: %s rows/s in batches of up to %d, instead of PyTorch's %s",
            *(manifest.name, manifest.version, f"{after:,.0f}", engine.best_batch, f"{before:,.0f}"),
        )
        return None

    def _warm(self, file: Path, signature: Signature) -> OnnxEngine:
        settings = self._settings
        engine = OnnxEngine(file, signature.shape, signature.dtype, settings.max_batch, settings.threads)
        engine.warm_up()
        return engine


def _is_there(manifest: Manifest) -> bool:
    try:
        return cached(manifest).is_file()
    except ModuleNotFoundError:
        return False
