"""Made-up machines, and the plans that they get."""

from __future__ import annotations

from typing import Any

from dlenv import catalog, plan
from dlenv.machine.model import Gpu, Machine, Nvml

PYTORCH = "https://download.pytorch.org/whl/"
NAMES = {
    "3.5": "Tesla K40c",
    "3.7": "Tesla K80",
    "5.2": "NVIDIA GeForce GTX 980",
    "6.0": "Tesla P100-PCIE-16GB",
    "6.1": "NVIDIA GeForce GTX 1080 Ti",
    "7.0": "Tesla V100-SXM2-16GB",
    "7.5": "Tesla T4",
    "8.0": "NVIDIA A100-SXM4-40GB",
    "8.6": "NVIDIA GeForce RTX 3090",
    "8.7": "Orin",
    "8.9": "NVIDIA GeForce RTX 4060",
    "9.0": "NVIDIA H100 80GB HBM3",
    "10.0": "NVIDIA B200",
    "10.3": "NVIDIA B300",
    "11.0": "NVIDIA Thor",
    "12.0": "NVIDIA GeForce RTX 5090",
    "12.1": "NVIDIA GB10",
    "13.0": "NVIDIA of the future",
}


def machine(system: str, driver: str | None = None, capabilities: str = "", **facts: Any) -> Machine:
    """``system`` is an operating system and, where it matters, its version or architecture: "macos 14.5 x86_64"."""
    os, *words = system.split()
    arm = "arm64" if os in ("macos", "windows") else "aarch64"
    arch = arm if "arm" in words or (os == "macos" and "intel" not in words) else "x86_64"
    version = next((word for word in words if word[0].isdigit()), "")
    wsl = 2 if os == "wsl" else 0
    gpus = tuple(
        Gpu(index=index, name=NAMES.get(cc, "NVIDIA GPU"), compute_capability=cc if cc != "?" else None)
        for index, cc in enumerate(capabilities.split())
    )
    usual: dict[str, Any] = {
        "os": "linux" if wsl else os,
        "os_version": version,
        "kernel": "6.8.0",
        "arch": arch,
        "libc": ("glibc", version or "2.36") if os in ("linux", "wsl") else None,
        "python": "3.11.7",
        "driver": driver,
        "nvml": Nvml(status="ok" if gpus else "library-missing"),
        "gpus": gpus,
        "wsl": wsl,
    }
    return Machine(**{**usual, **facts})


def make(where: Machine, **wishes: Any) -> plan.Plan:
    return plan.make(where, plan.Request(**{"course": None, **wishes}), catalog.load())


def summary(planned: plan.Plan) -> str:
    """ "2.14.1+cu126": from PyTorch's index; "2.15.0+cu132 pypi": from the package index."""
    torch = planned.torch
    assert torch.index in (None, PYTORCH + torch.build)
    own = " pypi" if torch.index is None else ""
    return f"{torch.torch}+{torch.build}{own}"
