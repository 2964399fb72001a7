"""The table of checks: their stable names, what they are called, what they go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from dlenv.doctor.checks import (
    course,
    driver,
    gpu,
    jupyter,
    libraries,
    network,
    packages,
    python,
    serving,
    system,
    torch,
)
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict
from dlenv.errors import UsageError

__all__ = ["CHECKS", "Check", "select"]

# "report" is the whole probe, "python" only its first stage, which takes no time.
Source = Literal["machine", "python", "report", "distributions", "endpoints", "processes", "ports", "service", "plan"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check: without what it ``needs`` it is skipped, and with what it ``uses`` it says more."""

    id: str
    title: str
    function: Callable[[Facts], Verdict]
    needs: tuple[Source, ...] = ()
    uses: tuple[Source, ...] = ()

    @property
    def group(self) -> str:
        """The part of the name before the dot."""
        return self.id.partition(".")[0]


def _rows() -> list[tuple[str, str, Callable[[Facts], Verdict], tuple[Source, ...], tuple[Source, ...]]]:
    machine: tuple[Source, ...] = ("machine",)
    probe: tuple[Source, ...] = ("report",)
    both: tuple[Source, ...] = ("machine", "report")
    fix: tuple[Source, ...] = ("machine", "distributions", "endpoints", "plan")  # what a fix is made of
    installed: tuple[Source, ...] = ("distributions",)
    return [
        ("driver.nvml", "NVIDIA's driver answers", driver.nvml, machine, ()),
        ("driver.nouveau", "nouveau does not hold the GPU", driver.nouveau, machine, ()),
        ("driver.devices", "the GPU's device files are there", driver.devices, machine, ()),
        ("driver.wsl", "WSL reaches Windows' driver", driver.wsl, machine, ()),
        ("driver.container", "the container has access to the GPU", driver.container, machine, ()),
        ("gpu.health", "every GPU answers", gpu.health, machine, ()),
        ("gpu.visible", "CUDA_VISIBLE_DEVICES leaves a GPU", gpu.visible, machine, ()),
        ("gpu.memory", "GPU memory is free", gpu.memory, machine, ()),
        ("gpu.compute-mode", "programs may use the GPU", gpu.compute_mode, machine, ()),
        ("gpu.mig", "GPUs in MIG mode have instances", gpu.mig, machine, ()),
        ("system.platform", "PyTorch has wheels for this machine", system.platform, machine, ()),
        ("system.libc", "the C library is new enough", system.libc, machine, ()),
        ("system.disk", "there is room on the disks", system.disk, machine, ()),
        ("system.shared-memory", "shared memory is large enough", system.shared_memory, machine, ()),
        ("system.colab", "the notebook service gives a GPU", system.colab, machine, ()),
        ("python.start", "the environment's Python starts", python.start, ("python",), ()),
        ("python.version", "this Python has packages", python.version, ("python",), installed),
        ("python.shadowing", "no local file has a package's name", python.shadowing, (), ()),
        ("python.path", "packages come from the environment", python.path, (), installed),
        ("packages.duplicates", "every package is there once", packages.duplicates, ("distributions",), fix),
        ("packages.conda", "conda and pip are not mixed", packages.conda_mix, ("distributions",), fix),
        ("packages.requirements", "packages have what they need", packages.requirements, installed, fix),
        ("packages.files", "packages are whole", packages.files, ("distributions",), fix),
        ("packages.record", "packages are as dlenv proved them", packages.record, (), ()),
        ("torch.import", "PyTorch can be imported", torch.imports, probe, fix),
        ("torch.build", "PyTorch is built for the GPU", torch.build, both, fix),
        ("torch.architectures", "PyTorch has code for the GPU", torch.architectures, both, fix),
        ("torch.driver", "the driver is new enough for PyTorch", torch.driver, both, fix),
        ("torch.cuda", "CUDA starts and computes", torch.cuda, both, ()),
        ("torch.numpy", "PyTorch and NumPy share data", torch.numpy, probe, fix),
        ("torchvision.operators", "torchvision fits PyTorch", torch.torchvision, probe, fix),
        ("numpy.abi", "packages are compiled for this NumPy", course.numpy_abi, probe, fix),
        ("course.d2l", "d2l can be imported", course.d2l, probe, fix),
        ("course.line", "d2l fits the notebooks", course.line, ("distributions",), ()),
        ("matplotlib.inline", "Matplotlib draws in notebooks", course.inline, probe, fix),
        ("jupyter.kernel", "notebooks run in this environment", jupyter.kernel, probe, fix),
        ("jupyter.dangling", "registered kernels can start", jupyter.dangling, probe, ()),
        ("libraries.path", "nothing shadows PyTorch's libraries", libraries.path, (), both),
        ("libraries.openmp", "one OpenMP run-time is loaded", libraries.openmp, (), probe),
        ("libraries.threads", "threads fit the processors", libraries.threads, (), both),
        ("network.proxy", "proxies answer", network.proxy, ("endpoints",), ()),
        ("network.certificates", "certificates are accepted", network.certificates, ("endpoints",), ()),
        ("network.packages", "the package index answers", network.packages, ("endpoints",), ()),
        ("network.pytorch", "PyTorch's index answers", network.pytorch, ("endpoints",), ()),
        ("network.course", "the course's data can be had", network.course, ("endpoints",), ()),
        ("serving.ports", "the service's ports are free", serving.ports, ("ports",), ("service", "processes")),
        ("serving.leftovers", "no earlier run left processes", serving.leftovers, ("processes",), ()),
        ("serving.health", "the running service is ready", serving.health, ("ports",), ("service", "processes")),
    ]  # fmt: skip


#: Every check, in the order in which findings are shown: what others build on comes first.
CHECKS = tuple(
    Check(id=name, title=title, function=function, needs=needs, uses=uses)
    for name, title, function, needs, uses in _rows()
)


def select(names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names, or of these groups; every one where there are no names. Raises ``UsageError``."""
    known = {check.id for check in CHECKS} | {check.group for check in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no check {unknown[0]!r}; there is {', '.join(check.id for check in CHECKS)}")
    return tuple(check for check in CHECKS if not names or check.id in names or check.group in names)
