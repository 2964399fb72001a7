"""Which GPUs the build has to run on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dlenv.errors import SetupError, UsageError

if TYPE_CHECKING:
    from dlenv.machine.model import Gpu, Machine
    from dlenv.plan.model import Request
    from dlenv.plan.notes import Notes
    from dlenv.plan.pick import Choice

# What NVML answers where there is simply no NVIDIA GPU or driver; every other failure is worth a word.
_ORDINARY = ("ok", "no-gpu", "library-missing")


def choose(machine: Machine, request: Request, notes: Notes) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the build has to run on: those asked for, or every one that programs can use.

    Raises ``UsageError`` where a GPU is asked for that is not there, ``SetupError`` where it can't be used.
    """
    if request.gpus is not None:
        return _asked(machine, request.gpus, notes)
    if machine.jetson:
        notes.warn(
            "PyTorch's own wheels have no code for the GPU of a Jetson; NVIDIA publishes wheels for JetPack, which "
            "dlenv does not install."
        )
        return ()
    _silent(machine, notes)
    usable = []
    for gpu in machine.gpus:
        if trouble := _trouble(gpu):
            notes.warn(f"GPU {gpu.index} ({gpu.name}) is left out: {trouble}.")
        else:
            usable.append(gpu)
    _risks(machine, usable, notes)
    return tuple(usable)


def capability(gpu: Gpu) -> tuple[int, int] | None:
    """The compute capability as numbers: "8.9" -> (8, 9)."""
    match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,2})", gpu.compute_capability or "")
    return (int(match[1]), int(match[2])) if match else None


def amd(machine: Machine, request: Request) -> tuple[str, ...]:
    """The LLVM targets of the AMD GPUs that may be used, where known; the request can name NVIDIA's GPUs only."""
    if request.gpus is not None:
        return ()
    return tuple(match[0] for name in machine.amd_gpus if (match := re.search(r"gfx[0-9a-f]{3,4}", name)))


def to_prove(choice: Choice, gpus: tuple[Gpu, ...], machine: Machine, gfx: tuple[str, ...]) -> tuple[str, ...]:
    """What the proof has to compute on beside the CPU, as PyTorch names it.

    ``gfx`` are AMD's GPUs; where they are not known, each one counts. Without AMD's driver, none does. Intel's GPUs are
    not proven.
    """
    if choice.device == "mps":
        return ("mps",)
    if choice.device == "cuda":
        count = len(gpus)
    elif choice.device == "rocm" and machine.rocm_driver:
        count = len([name for name in gfx if name in choice.build.gfx]) if gfx else len(machine.amd_gpus)
    else:
        count = 0
    return tuple(f"cuda:{position}" for position in range(count))


def describe(gpus: tuple[Gpu, ...]) -> str:
    """GPUs for people: "Tesla T4 (compute capability 7.5)", each kind once."""
    kinds = list(dict.fromkeys(f"{gpu.name} (compute capability {gpu.compute_capability})" for gpu in gpus))
    return " and ".join(kinds)


def _asked(machine: Machine, wanted: tuple[int, ...], notes: Notes) -> tuple[Gpu, ...]:
    if not wanted:
        notes.because("No GPU is to be used, as you asked.")
        return ()
    if machine.jetson:
        raise SetupError("PyTorch's own wheels have no code for the GPU of a Jetson; leave --gpu out to use the CPU")
    there = {gpu.index: gpu for gpu in machine.gpus}
    if missing := [index for index in wanted if index not in there]:
        if trouble := _unasked(machine):
            raise SetupError(f"GPU {missing[0]} can't be used: {trouble}; dlenv doctor says how to put that right")
        have = ", ".join(f"{index} ({gpu.name})" for index, gpu in sorted(there.items())) or "none"
        raise UsageError(f"there is no GPU {missing[0]} here; the GPUs are: {have}")
    gpus = tuple(there[index] for index in sorted(set(wanted)))
    for gpu in gpus:
        if trouble := _trouble(gpu):
            raise SetupError(f"GPU {gpu.index} ({gpu.name}) can't be used: {trouble}; choose another by --gpu")
    notes.because(f"The build has to run on {describe(gpus)}, as you asked.")
    _risks(machine, list(gpus), notes)
    return gpus


def _trouble(gpu: Gpu) -> str | None:
    """Why programs can't use this GPU as it is now, with what would change that."""
    if capability(gpu) is None:
        word = gpu.problem or "the driver does not say its compute capability"
        return f"{word} (restart the machine, then look with `dlenv doctor`)"
    if gpu.mig and not gpu.mig_instances:
        return "MIG mode is on and there is no instance (create one with `nvidia-smi mig -cgi`, or turn MIG off)"
    if gpu.compute_mode == "prohibited":
        return "its compute mode is prohibited (`nvidia-smi -c 0` allows programs again)"
    return None


def _risks(machine: Machine, gpus: list[Gpu], notes: Notes) -> None:
    for gpu in gpus:
        if gpu.mig:
            notes.warn(f"GPU {gpu.index} ({gpu.name}) is in MIG mode: a program sees one of its instances, not all.")
        if gpu.problem:
            notes.warn(f"GPU {gpu.index} ({gpu.name}) did not answer everything: {gpu.problem}.")
    if gpus and machine.cuda_visible_devices is not None:
        value = machine.cuda_visible_devices
        hidden = "every GPU" if value.strip() in ("", "-1", "NoDevFiles") else "the GPUs it does not name"
        notes.warn(f"CUDA_VISIBLE_DEVICES is set to {value!r}, which hides {hidden} from programs.")


def _silent(machine: Machine, notes: Notes) -> None:
    """NVIDIA GPUs that are there, or may be, and can't be asked."""
    trouble = _unasked(machine)
    if machine.gpus or trouble is None:
        return
    if machine.nvidia_pci:
        notes.warn(
            f"There is an NVIDIA GPU at {machine.nvidia_pci[0]}, but {trouble}. `dlenv doctor` says how to put that "
            f"right; then run `dlenv setup` again."
        )
    else:
        notes.warn(f"{trouble}. `dlenv doctor` says how to put that right.")


def _unasked(machine: Machine) -> str | None:
    """Why GPUs may be there that NVML does not name, in its words; None where it names all that there are."""
    hidden = machine.nvidia_pci and not machine.gpus
    if machine.nvml.status in _ORDINARY and not hidden:
        return None
    detail = f" ({machine.nvml.detail})" if machine.nvml.detail else ""
    nouveau = "; the kernel module nouveau holds the GPU" if hidden and machine.nouveau else ""
    return f"NVIDIA's driver can't be asked: {machine.nvml.status}{detail}{nouveau}"
