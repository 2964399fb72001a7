"""The GPUs themselves: visible, healthy, free, open to programs."""

from __future__ import annotations

from pathlib import PureWindowsPath

from dlenv.doctor import shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.machine.model import Gpu, GpuProcess, Machine

# A judgement, not a measurement: what the smaller chapters need beside CUDA's own few hundred MiB.
_ENOUGH_MIB = 2048
# Display servers and desktops compute on some drivers, too; whoever ends one loses all open windows.
_DISPLAYS = ("Xorg", "X", "Xwayland", "gnome-shell", "kwin_x11", "kwin_wayland", "plasmashell", "weston", "sway",
             "mutter", "cinnamon", "gdm-x-session", "sddm", "dwm.exe", "explorer.exe")  # fmt: skip


def visible(facts: Facts) -> Verdict:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU; to hide some is a choice."""
    machine = _machine(facts)
    if not machine.gpus:
        return skip("there is no GPU to hide")
    value = machine.cuda_visible_devices
    if value is None:
        return ok(f"programs see all GPUs ({len(machine.gpus)})")
    seen = _seen(facts, value)
    text = f"CUDA_VISIBLE_DEVICES is {value!r}"
    if not seen:
        return fail(f"{text}, which hides every GPU", shell.unset("CUDA_VISIBLE_DEVICES"))
    if len(seen) < len(machine.gpus):
        hidden = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in machine.gpus if gpu not in seen)
        return ok(f"{text}, which hides {len(machine.gpus) - len(seen)} of {len(machine.gpus)} GPUs: {hidden}")
    return ok(f"{text}: programs see all GPUs")


def health(facts: Facts) -> Verdict:
    """Whether every GPU answers."""
    machine = _machine(facts)
    if not machine.gpus:
        return skip("there is no NVIDIA GPU that answers")
    if bad := [gpu for gpu in machine.gpus if gpu.problem]:
        said = "; ".join(f"GPU {gpu.index} ({gpu.name}): {gpu.problem}" for gpu in bad)
        return fail(f"{said}; 'sudo dmesg | grep -i xid' says more if it happens again", shell.restart())
    return ok("; ".join(_describe(gpu) for gpu in machine.gpus))


def memory(facts: Facts) -> Verdict:
    """Whether other processes hold the memory of a GPU."""
    machine = _machine(facts)
    known = [gpu for gpu in machine.gpus if gpu.memory_mib and gpu.memory_free_mib is not None]
    if not known:
        return skip("there is no GPU whose memory is known")
    full = [gpu for gpu in known if (gpu.memory_free_mib or 0) < min(_ENOUGH_MIB, (gpu.memory_mib or 0) // 2)]
    if not full:
        return ok("; ".join(f"GPU {gpu.index}: {gpu.memory_free_mib} of {gpu.memory_mib} MiB free" for gpu in known))
    pids = dict.fromkeys(process.pid for gpu in full for process in _largest(gpu) if _computes(process))
    said = "; ".join(
        f"GPU {gpu.index} has {gpu.memory_free_mib} of {gpu.memory_mib} MiB free; held by {_holders(gpu)}"
        for gpu in full
    )
    if not pids:
        return warn(said, "nvidia-smi")
    return warn(f"{said}; end what you no longer need", shell.end(*pids))


def compute_mode(facts: Facts) -> Verdict:
    """Whether programs may use the GPUs."""
    machine = _machine(facts)
    if not machine.gpus:
        return skip("there is no NVIDIA GPU that answers")
    for gpu in machine.gpus:
        if gpu.compute_mode == "prohibited":
            text = f"GPU {gpu.index} ({gpu.name}) is in compute mode 'prohibited': no program may use it"
            return fail(text, shell.admin("nvidia-smi", "-i", gpu.index, "-c", "DEFAULT"))
    for gpu in machine.gpus:
        if gpu.compute_mode in ("exclusive-process", "exclusive-thread"):
            text = f"GPU {gpu.index} ({gpu.name}) is in compute mode {gpu.compute_mode!r}: one program at a time"
            return warn(text, shell.admin("nvidia-smi", "-i", gpu.index, "-c", "DEFAULT"))
    return ok("any number of programs may use the GPUs")


def mig(facts: Facts) -> Verdict:
    """Whether a GPU in MIG mode has instances; without them no program can use it."""
    machine = _machine(facts)
    divided = [gpu for gpu in machine.gpus if gpu.mig]
    if not divided:
        return skip("no GPU is in MIG mode")
    for gpu in divided:
        if not gpu.mig_instances:
            text = f"GPU {gpu.index} ({gpu.name}) is in MIG mode and has no instance, so that no program can use it"
            leave = shell.admin("nvidia-smi", "-i", gpu.index, "-mig", "0")
            divide = shell.admin("nvidia-smi", "mig", "-i", gpu.index, "-cgi", "0", "-C")
            return fail(f"{text}; to leave MIG: {leave}", divide)
    return ok("; ".join(f"GPU {gpu.index} has {gpu.mig_instances} MIG instances" for gpu in divided))


def _machine(facts: Facts) -> Machine:
    assert facts.machine is not None
    return facts.machine


def computed(facts: Facts) -> bool:
    """Whether CUDA was seen to compute on every GPU that PyTorch sees."""
    devices = facts.found("cuda").get("devices")
    if not isinstance(devices, list) or not devices:
        return False
    return all(isinstance(device, dict) and device.get("launched") is True for device in devices)


def used(facts: Facts) -> list[Gpu]:
    """The GPUs that the environment is for: those that programs see, and of them those that dlenv built it for."""
    machine = _machine(facts)
    value = machine.cuda_visible_devices
    seen = list(machine.gpus) if value is None else _seen(facts, value)
    built_for = facts.record.plan.gpus if facts.record is not None else ()
    return [gpu for gpu in seen if gpu.index in built_for] or seen


def _seen(facts: Facts, value: str) -> list[Gpu]:
    """The GPUs that programs see.

    CUDA takes indices and UUIDs up to the first that is none (CUDA C++ Programming Guide, "CUDA environment
    variables"). Unless CUDA_DEVICE_ORDER is PCI_BUS_ID, its indices are not NVML's: then PyTorch's names tell, where
    they are known.
    """
    machine = _machine(facts)
    seen: list[Gpu] = []
    for part in value.split(","):
        word = part.strip()
        if word.isdecimal() and int(word) < len(machine.gpus):
            gpu = machine.gpus[int(word)]
        else:
            matching = [gpu for gpu in machine.gpus if word.startswith("GPU-") and (gpu.uuid or "").startswith(word)]
            divided = [gpu for gpu in machine.gpus if word.startswith("MIG-") and gpu.mig]
            if not matching and not divided:
                break
            gpu = (matching or divided)[0]
        if gpu not in seen:
            seen.append(gpu)
    devices = facts.found("cuda").get("devices")
    names = [device.get("name") for device in devices if isinstance(device, dict)] if isinstance(devices, list) else []
    named = [gpu for gpu in machine.gpus if gpu.name in names]
    ordered = facts.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return seen if ordered or len(named) != len(seen) else named


def _describe(gpu: Gpu) -> str:
    memory = f", {gpu.memory_mib} MiB" if gpu.memory_mib else ""
    return f"GPU {gpu.index} {gpu.name}, compute capability {gpu.compute_capability or 'unknown'}{memory}"


def _largest(gpu: Gpu) -> list[GpuProcess]:
    return sorted(gpu.processes, key=lambda process: -(process.memory_mib or 0))


def _computes(process: GpuProcess) -> bool:
    """Whether it computes, and is no part of the desktop; NVML gives the program with its folder."""
    return process.computes and PureWindowsPath(process.name or "").name not in _DISPLAYS


def _holders(gpu: Gpu) -> str:
    named = [
        f"{process.name or 'a process'} (pid {process.pid}, {process.memory_mib or '?'} MiB)"
        for process in _largest(gpu)
    ]
    return ", ".join(named[:5]) or "processes that the driver does not name, of other users or containers"
