"""Machines with made-up NVIDIA GPUs: a stub of NVIDIA's library, compiled here and met by the real pynvml.

In a test take the fixture ``with_gpus`` (Linux with a C compiler; elsewhere the test is skipped)::

    def test_a_laptop(with_gpus):
        with_gpus(driver="550.54.14", cuda="12.4", gpus=[("NVIDIA GeForce RTX 4060", "8.9", 8188)])
        machine = dlenv.machine.inspect()

It sets this process's environment variables until the test ends, and returns them for processes that get others.
This process could load NVML from there no more (the loader read ``LD_LIBRARY_PATH`` when it started); every process
started from now on does, and ``inspect`` asks in one.

``gpus`` takes ``(name, compute capability, MiB)`` or ``StubGpu``. ``outcomes`` says what NVML functions do instead of
answering: the number of an error, ``"hang"``, ``"crash"`` or ``"chatter"`` (print rubbish, then answer); a name may
be that of one GPU's call::

    with_gpus(outcomes={"nvmlInitWithFlags": 18})                               library and kernel module don't match
    with_gpus(gpus=[...], outcomes={"nvmlDeviceGetHandleByIndex_v2:1": 15})     the second GPU is lost

The fixture ``without_driver`` makes a machine where NVML's library can't be loaded, whatever the real one has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "fakes" / "nvml.c"
LIBRARY = "libnvidia-ml.so.1"

_COMPUTE_MODES = {"default": 0, "exclusive-thread": 1, "prohibited": 2, "exclusive-process": 3}


@dataclass(frozen=True)
class StubGpu:
    """A made-up GPU; None: it does not support being asked that."""

    name: str | None = "NVIDIA GeForce RTX 4060"
    capability: str | None = "8.9"
    memory_mib: int | None = 8188
    used_mib: int = 0
    uuid: str | None = None
    mig: int | None = None  # instances where MIG mode is on; -1: it is off
    compute_mode: str | None = "default"
    processes: Sequence[tuple[int, str | None, int | None]] = ()  # id, name, MiB
    drawing: Sequence[tuple[int, str | None, int | None]] = ()


def compile_stub(folder: Path) -> Path:
    """The folder, with the stub in it; skips the test that asks where it can't be compiled."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (Debian: apt-get install gcc)")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / LIBRARY, SOURCE], check=True)
    return folder


def fake_machine(
    folder: Path,
    *,
    driver: str | None = "550.54.14",
    cuda: str | None = "12.4",
    gpus: Sequence[tuple[str, str, int] | StubGpu] = (),
    outcomes: Mapping[str, int | str] | None = None,
) -> dict[str, str]:
    """The variables that make processes find this machine through the stub in ``folder``."""
    values: dict[str, object] = {"DRIVER": driver, "GPUS": len(gpus)}
    if cuda is not None:
        major, _, minor = cuda.partition(".")
        values["CUDA"] = int(major) * 1000 + int(minor) * 10
    for index, given in enumerate(gpus):
        gpu = given if isinstance(given, StubGpu) else StubGpu(*given)
        facts = {
            "NAME": gpu.name,
            "UUID": gpu.uuid or f"GPU-00000000-0000-0000-0000-{index:012}",
            "CAPABILITY": gpu.capability,
            "MEMORY_MIB": gpu.memory_mib,
            "USED_MIB": gpu.used_mib,
            "MIG": "off" if gpu.mig == -1 else gpu.mig,
            "COMPUTE_MODE": _COMPUTE_MODES[gpu.compute_mode] if gpu.compute_mode else None,
            "COMPUTE": _processes(gpu.processes),
            "GRAPHICS": _processes(gpu.drawing),
        }
        values |= {f"{index}_{name}": value for name, value in facts.items()}
        for pid, name, _ in (*gpu.processes, *gpu.drawing):
            values[f"PROCESS_{pid}"] = name
    for call, outcome in (outcomes or {}).items():
        function, _, index = call.partition(":")
        values[f"{index}_{function}" if index else function] = outcome
    set_ = {f"STUB_NVML_{name}": str(value) for name, value in values.items() if value is not None}
    return {**set_, "LD_LIBRARY_PATH": _first(folder)}


def no_library(folder: Path) -> dict[str, str]:
    """The variables that make NVML's library unloadable: an empty file stands in its place in ``folder``."""
    (folder / LIBRARY).touch()
    return {"LD_LIBRARY_PATH": _first(folder)}


def _first(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))


def _processes(processes: Sequence[tuple[int, str | None, int | None]]) -> str:
    return ",".join(f"{pid}:{'-' if memory is None else memory}" for pid, _, memory in processes)
