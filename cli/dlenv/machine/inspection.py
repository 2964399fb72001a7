"""Everything about this machine, in one look."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from dlenv.machine import disks, hardware, nvml, surroundings, system
from dlenv.machine.model import Machine, Nvml
from dlenv.machine.reading import attempt, clean


def inspect(
    env: Path | None = None,
    *,
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    nvml_timeout: float = 10,
) -> Machine:
    """What this machine is; never raises: what can't be found out is left at its default.

    ``env``: the folder of an environment, there or not, whose disk is to be looked at. ``root`` and ``environ`` stand
    for the machine's file system and this process's variables. NVML has ``nvml_timeout`` seconds to answer.
    """
    variables = os.environ if environ is None else environ
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    name = system.name()
    architecture, emulated = attempt(lambda: system.architecture(name, root), ("", False))
    look = attempt(lambda: hardware.look(root), hardware.Hardware())
    failed = nvml.Answer(nvml=Nvml(status="failed"))
    asked = attempt(lambda: nvml.ask(variables, nvml_timeout), failed)
    return Machine(
        os=name,
        os_version=attempt(lambda: system.version(name, root), ""),
        kernel=attempt(platform.release, ""),
        arch=architecture,
        libc=attempt(lambda: system.libc(name, root), None),
        python=platform.python_version(),
        python_bits=64 if sys.maxsize > 2**32 else 32,
        python_emulated=emulated,
        cpus=attempt(lambda: system.cpus(root), 1),
        memory_mib=attempt(lambda: system.memory_mib(root), 0),
        driver=asked.driver,
        cuda_driver=asked.cuda_driver,
        kernel_module=look.kernel_module,
        nvml=asked.nvml,
        gpus=asked.gpus,
        nvidia_pci=look.nvidia_pci,
        amd_gpus=look.amd_gpus,
        rocm_driver=look.rocm_driver,
        intel_gpu=look.intel_gpu,
        nouveau=look.nouveau,
        nvidia_devices=look.nvidia_devices,
        wsl=attempt(lambda: surroundings.wsl(root), 0),
        container=attempt(lambda: surroundings.container(root, variables), None),
        colab=attempt(lambda: surroundings.colab(variables), False),
        kaggle=attempt(lambda: surroundings.kaggle(variables), False),
        jetson=look.jetson,
        disks=attempt(lambda: disks.look(env, root, variables), ()),
        proxies=attempt(lambda: surroundings.proxies(variables), {}),
        cuda_visible_devices=None if visible is None else clean(visible),
    )
