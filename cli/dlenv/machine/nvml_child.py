"""Asks NVML about driver and GPUs, as a program of its own: NVML can hang, and crash.

Run as ``python -I -S nvml_child.py FOLDER``, where FOLDER holds pynvml; imports only that and the standard library.
Prints lines of JSON, each as soon as it is known, so that what was learnt before a hang is not lost::

    {"driver": "550.54.14", "cuda_driver": "12.4"}
    {"gpu": {"index": 0, "name": ..., ...}, "code": 0}      code: NVML's, of why the GPU can't be used
    {"code": 9, "detail": "Driver Not Loaded"}              instead of what can't be told
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

# nvmlComputeMode_t, NVML API reference.
_COMPUTE_MODES = {0: "default", 1: "exclusive-thread", 2: "prohibited", 3: "exclusive-process"}
_MIB = 2**20


def main(folder: str) -> None:
    """Print what NVML says."""
    # Standard output is for the answer alone: what the library prints goes to standard error.
    answer = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    # At the end of the path, where nothing that lies beside pynvml can stand before the standard library.
    sys.path.append(folder)
    import pynvml

    def tell(**facts: Any) -> None:
        answer.write(json.dumps(facts) + "\n")
        answer.flush()

    try:
        pynvml.nvmlInit()
        tell(driver=_ask(pynvml.nvmlSystemGetDriverVersion), cuda_driver=_cuda_driver(pynvml))
        for index in range(pynvml.nvmlDeviceGetCount()):
            tell(**_gpu(pynvml, index))
    except pynvml.NVMLError as error:
        tell(code=error.value, detail=_words(error))


def _words(error: Exception) -> str:
    """NVML's words for an error; pynvml asks the library for those that it does not know itself."""
    try:
        return str(error)
    except ValueError:
        return "Unknown Error"


def _ask(function: Callable[..., Any], *arguments: Any, failed: Callable[[Exception], None] = lambda _: None) -> Any:
    """What an NVML function returns, or None; ``failed`` is told why."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - NVMLError, its relative for old drivers, text that is no UTF-8
        failed(error)
        return None


def _cuda_driver(pynvml: Any) -> str | None:
    # _v2 asks the libcuda that programs will load, which may be newer than the driver (package cuda-compat).
    asked = (pynvml.nvmlSystemGetCudaDriverVersion_v2, pynvml.nvmlSystemGetCudaDriverVersion)
    version = next(filter(None, map(_ask, asked)), None)
    # 1000 * major + 10 * minor: cuda.h, CUDA_VERSION.
    return version and f"{version // 1000}.{version % 1000 // 10}"


def _gpu(pynvml: Any, index: int) -> dict[str, Any]:
    gpu: dict[str, Any] = {"index": index, "name": "NVIDIA GPU"}
    # What a GPU, an old driver or an ordinary user does not have is no problem of the GPU.
    quiet = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION}
    problems: list[Exception] = []

    def note(error: Exception) -> None:
        if isinstance(error, pynvml.NVMLError) and error.value not in quiet:
            problems.append(error)

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        return _ask(function, *arguments, failed=note)

    try:
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return {"gpu": {**gpu, "problem": _words(error)}, "code": error.value}
    gpu["name"] = ask(pynvml.nvmlDeviceGetName, device) or gpu["name"]
    gpu["uuid"] = ask(pynvml.nvmlDeviceGetUUID, device)
    if capability := ask(pynvml.nvmlDeviceGetCudaComputeCapability, device):
        gpu["compute_capability"] = "{}.{}".format(*capability)
    if memory := ask(pynvml.nvmlDeviceGetMemoryInfo, device):
        gpu["memory_mib"], gpu["memory_free_mib"] = memory.total // _MIB, memory.free // _MIB
    gpu["compute_mode"] = _COMPUTE_MODES.get(ask(pynvml.nvmlDeviceGetComputeMode, device))
    current, _pending = ask(pynvml.nvmlDeviceGetMigMode, device) or (0, 0)
    if current:
        gpu["mig"], gpu["mig_instances"] = True, _mig_instances(pynvml, device)
    gpu["processes"] = _processes(pynvml, ask, device)
    if problems:
        gpu["problem"] = _words(problems[0])
    lost = any(error.value == pynvml.NVML_ERROR_GPU_IS_LOST for error in problems)  # type: ignore[attr-defined]
    return {"gpu": gpu, "code": pynvml.NVML_ERROR_GPU_IS_LOST if lost else 0}


def _mig_instances(pynvml: Any, device: Any) -> int:
    # Places for instances may be empty: NVML_ERROR_NOT_FOUND.
    places = range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, device) or 0)
    return sum(_ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device, place) is not None for place in places)


def _processes(pynvml: Any, ask: Callable[..., Any], device: Any) -> list[dict[str, Any]]:
    """Who computes or draws on the GPU; one that does both is listed once."""
    found = {}
    for function in (pynvml.nvmlDeviceGetGraphicsRunningProcesses, pynvml.nvmlDeviceGetComputeRunningProcesses):
        for process in ask(function, device) or ():
            memory = process.usedGpuMemory
            found[process.pid] = {
                "pid": process.pid,
                "name": _ask(pynvml.nvmlSystemGetProcessName, process.pid) or None,
                "memory_mib": None if memory is None else memory // _MIB,
                "computes": function is pynvml.nvmlDeviceGetComputeRunningProcesses,
            }
    return [found[pid] for pid in sorted(found)]


if __name__ == "__main__":
    main(sys.argv[1])
