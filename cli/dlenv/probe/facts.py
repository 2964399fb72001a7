"""Stages that find out what an environment holds and whether it can be imported. Each returns facts.

A stage returns None where its package is not installed, ``{"skipped": reason}`` where it can't be asked, and raises
whatever the package raises. It runs inside the examined environment: standard library only, Python 3.8 and newer.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import struct
import sys
from typing import Any

# Libraries of which one process should hold one copy: CUDA's by file name (compat: LD_LIBRARY_PATH shadows torch's
# own), and the three OpenMP run-times.
_LIBRARIES = re.compile(
    r"(libcudnn|libcublas|libcudart|libcuda|libnvJitLink|libnvrtc|libcusparse|libcufft|libgomp|libiomp5|libomp|libtorch_cpu)"
    r"[^/]*\.so"
)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _describe(module: Any) -> dict[str, Any]:
    return {"version": getattr(module, "__version__", None), "file": getattr(module, "__file__", None)}


def python(_: dict[str, Any]) -> dict[str, Any]:
    """The interpreter, and where it looks for packages."""
    import site

    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "bits": struct.calcsize("P") * 8,
        "platform": sys.platform,
        "machine": platform.machine(),
        "path": list(sys.path),
        "user_site": site.getusersitepackages() if site.ENABLE_USER_SITE else None,
        "isolated": bool(sys.flags.isolated),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def numpy(_: dict[str, Any]) -> dict[str, Any] | None:
    """NumPy."""
    if not _installed("numpy"):
        return None
    module = importlib.import_module("numpy")
    if module.arange(4).sum() != 6:
        raise ArithmeticError("numpy.arange(4).sum() is not 6")
    return _describe(module)


def torch(request: dict[str, Any]) -> dict[str, Any] | None:
    """PyTorch, how it was built, and its threads; fails where another was planned."""
    if not _installed("torch"):
        return None
    module = importlib.import_module("torch")
    if request["expect"]:
        _compare(module, request["expect"])
    if module.ones(8).sum().item() != 8:
        raise ArithmeticError("torch.ones(8).sum() is not 8")
    # get_arch_list() is empty without a GPU; the flags that it reads are not.
    flags = module._C._cuda_getArchFlags() if hasattr(module._C, "_cuda_getArchFlags") else None
    return dict(
        _describe(module),
        cuda=module.version.cuda,
        hip=getattr(module.version, "hip", None),
        debug=module.version.debug,
        architectures=flags.split() if flags else [],
        mkl=module.backends.mkl.is_available(),
        openmp=module.backends.openmp.is_available(),
        threads=module.get_num_threads(),
        mps=bool(getattr(module.backends, "mps", None) and module.backends.mps.is_available()),
    )


def _compare(module: Any, expect: dict[str, Any]) -> None:
    """Raises where version, CUDA or ROCm are not those of the plan; ROCm's third number is not in a build's name."""
    hip = getattr(module.version, "hip", None)
    found = {
        "torch": module.__version__.partition("+")[0],
        "cuda": module.version.cuda,
        "hip": ".".join(hip.split(".")[:2]) if hip else None,
    }
    if any(found[key] != expect[key] for key in expect):
        planned = _build(expect) if "cuda" in expect else "torch " + expect["torch"]
        raise RuntimeError(f"{_build(found)} is installed, and {planned} was planned")


def _build(of: dict[str, Any]) -> str:
    flavour = f"CUDA {of['cuda']}" if of["cuda"] else f"ROCm {of['hip']}" if of["hip"] else "neither CUDA nor ROCm"
    return f"torch {of['torch']} for {flavour}"


def cuda(request: dict[str, Any]) -> dict[str, Any]:
    """The GPUs that PyTorch sees, and whether a kernel runs on each; fails where it has to see some and sees none."""
    torch = importlib.import_module("torch")
    wanted = [device for device in request["devices"] if device.startswith("cuda")]
    if wanted and not torch.cuda.is_available():
        raise RuntimeError(f"torch.cuda.is_available() is False: nothing computes on {', '.join(wanted)}")
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return {"skipped": "this torch is built without CUDA"}
    available = torch.cuda.is_available()
    facts: dict[str, Any] = {"available": available, "devices": []}
    if not available:
        return facts
    facts["cudnn"] = torch.backends.cudnn.version()
    for index in range(torch.cuda.device_count()):
        device: dict[str, Any] = {"index": index, "name": torch.cuda.get_device_name(index)}
        facts["devices"].append(device)
        device["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(index))
        try:
            # is_available() only asks the driver: that the build has code for this GPU is proven by running some.
            device["launched"] = torch.ones(8, device=f"cuda:{index}").sum().item() == 8
            device["free_mib"], device["total_mib"] = (value >> 20 for value in torch.cuda.mem_get_info(index))
        except RuntimeError as error:
            device["launched"] = False
            device["error"] = str(error).strip().splitlines()[0][:300]
    return facts


def bridge(_: dict[str, Any]) -> dict[str, Any]:
    """PyTorch and NumPy share memory: fails where one was compiled for another major version of the other."""
    if not _installed("numpy"):
        return {"skipped": "numpy is not installed"}
    torch, numpy = importlib.import_module("torch"), importlib.import_module("numpy")
    total = torch.from_numpy(numpy.arange(4)).sum().item() + torch.ones(2).numpy().sum()
    if total != 8:
        raise ArithmeticError(f"tensors made from arrays hold other values: sum {total}, not 8")
    return {}


def torchvision(_: dict[str, Any]) -> dict[str, Any] | None:
    """torchvision, and that its compiled operators are there: import alone succeeds without them."""
    if not _installed("torchvision"):
        return None
    # torchvision hides why its extension did not load unless asked (torchvision/extension.py).
    os.environ["TORCHVISION_WARN_WHEN_EXTENSION_LOADING_FAILS"] = "1"
    torch, module = importlib.import_module("torch"), importlib.import_module("torchvision")
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = module.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    if kept != [1, 2]:
        raise ArithmeticError(f"torchvision.ops.nms kept the boxes {kept}, not [1, 2]")
    return dict(_describe(module), cuda=getattr(module.version, "cuda", None))


def pandas(_: dict[str, Any]) -> dict[str, Any] | None:
    """Pandas."""
    if not _installed("pandas"):
        return None
    module = importlib.import_module("pandas")
    module.DataFrame({"a": [1.0, 2.0]}).mean()
    return _describe(module)


def matplotlib(_: dict[str, Any]) -> dict[str, Any] | None:
    """Matplotlib with its drawing interface."""
    if not _installed("matplotlib"):
        return None
    module = importlib.import_module("matplotlib")
    importlib.import_module("matplotlib.pyplot")
    return dict(_describe(module), backend=module.rcParams["backend"])


def inline(_: dict[str, Any]) -> dict[str, Any] | None:
    """matplotlib-inline, which draws in notebooks and must fit Matplotlib."""
    if not _installed("matplotlib_inline"):
        return None
    if not _installed("matplotlib") or not _installed("IPython"):
        return {"skipped": "matplotlib or IPython is not installed"}
    importlib.import_module("matplotlib_inline.backend_inline")
    return _describe(importlib.import_module("matplotlib_inline"))


def d2l(_: dict[str, Any]) -> dict[str, Any] | None:
    """The course's package as the notebooks import it."""
    if not _installed("d2l"):
        return None
    importlib.import_module("d2l.torch")
    return _describe(importlib.import_module("d2l"))


def jupyter(_: dict[str, Any]) -> dict[str, Any] | None:
    """The kernel that notebooks run in, and the kernels that Jupyter offers."""
    if not _installed("ipykernel"):
        return None
    module = importlib.import_module("ipykernel")
    kernels = []
    for folder in importlib.import_module("jupyter_core.paths").jupyter_path("kernels"):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:  # noqa: PTH112, PTH208
            try:
                with open(os.path.join(folder, name, "kernel.json"), encoding="utf-8") as file:  # noqa: PTH118, PTH123
                    spec = json.load(file)
                kernels.append({"name": name, "folder": folder, "title": spec["display_name"], "argv": spec["argv"]})
            except (OSError, ValueError, KeyError, TypeError):  # not a kernel, or not one that Jupyter can read
                continue
    return dict(_describe(module), kernels=kernels)


def libraries(_: dict[str, Any]) -> dict[str, Any]:
    """The shared libraries that the imports before have loaded, of those that must not be there twice."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            paths = {fields[5].strip() for line in file if len(fields := line.split(None, 5)) == 6}
    except OSError:
        return {"skipped": "this system does not say which libraries a process has loaded"}
    return {"paths": sorted(path for path in paths if _LIBRARIES.match(os.path.basename(path)))}  # noqa: PTH119


STAGES = {
    "python": python,
    "numpy": numpy,
    "torch": torch,
    "cuda": cuda,
    "bridge": bridge,
    "torchvision": torchvision,
    "pandas": pandas,
    "matplotlib": matplotlib,
    "inline": inline,
    "d2l": d2l,
    "jupyter": jupyter,
    "libraries": libraries,
}
