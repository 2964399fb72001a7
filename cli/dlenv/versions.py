"""``dlenv --version --verbose``: what runs dlenv, for a bug report; read, not imported, so it takes no time."""

from __future__ import annotations

import os
import platform
from importlib import metadata

__all__ = ["versions"]

# What decides how dlenv and its service behave; the rest is in `uv pip list`.
_PACKAGES = ("torch", "torchvision", "numpy", "onnxruntime", "ray", "uvicorn", "uv", "d2l")


def versions() -> list[tuple[str, str]]:
    """Name and version of each part; what is missing says so."""
    from dlenv.machine import nvml

    parts = [
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
    ]
    parts += [(name, _version(name)) for name in _PACKAGES]
    answer = nvml.ask(os.environ)
    driver = answer.driver or "none"
    parts.append(("NVIDIA driver", f"{driver} (CUDA {answer.cuda_driver})" if answer.cuda_driver else driver))
    return parts


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
