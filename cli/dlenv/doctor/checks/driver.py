"""NVIDIA's driver: there, loaded, of one version, reachable from here."""

from __future__ import annotations

from pathlib import Path

from dlenv.console import command_line
from dlenv.doctor import shell
from dlenv.doctor.checks import gpu
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.machine.model import Machine

_DOWNLOAD = "install NVIDIA's driver from https://www.nvidia.com/drivers, then restart"
# apt's drivers are for PCI cards; over JetPack's they break the board.
_JETPACK = "a Jetson's driver comes with JetPack: sudo apt-get install --reinstall nvidia-jetpack"
# Where WSL puts the libraries of Windows' driver (NVIDIA, "CUDA on WSL User Guide").
_WSL = Path("/usr/lib/wsl/lib")


def nvml(facts: Facts) -> Verdict:
    """Whether the driver answers, by its management library."""
    machine = _machine(facts)
    status, said = machine.nvml.status, f" ({machine.nvml.detail})" if machine.nvml.detail else ""
    if status == "ok":
        names = ", ".join(item.name for item in machine.gpus) or "no GPU"
        return ok(f"driver {machine.driver or 'unknown'}, CUDA up to {machine.cuda_driver or 'unknown'}: {names}")
    if status == "no-gpu":
        return skip("the NVIDIA driver works, and there is no GPU")
    if machine.jetson:
        return skip(_JETPACK)
    if machine.wsl:
        return skip("Windows' own driver serves WSL: see driver.wsl")
    if _shut_out(machine):
        return skip("the container has no access to the GPU: see driver.container")
    if not _has_gpu(machine) and status in ("library-missing", "driver-not-loaded"):
        return skip("there is no NVIDIA GPU here" if machine.os == "linux" else "there is no NVIDIA driver here")
    if status == "driver-not-loaded" and machine.nouveau:
        return fail(f"NVIDIA's kernel module is not loaded{said}, since nouveau holds the GPU", "see driver.nouveau")
    detail, fix = {
        "library-missing": ("an NVIDIA GPU is there, and no NVIDIA driver is installed", _installation(machine)),
        "driver-not-loaded": (
            f"the driver is installed, and its kernel module is not loaded{_hints(machine)}",
            _loading(machine),
        ),
        "mismatch": (
            f"the driver was updated, and its old kernel module{_version(machine)} is still loaded",
            shell.restart(),
        ),
        "no-permission": (
            "this user may not ask the driver; what helps holds from the next login on",
            "sudo usermod -aG video,render $USER",
        ),
        "gpu-lost": (
            "a GPU has fallen off the bus; 'sudo dmesg | grep -i xid' says more if it happens again",
            shell.restart(),
        ),
        "blocked": ("the operating system or its container keeps the driver from answering", shell.restart()),
        "timeout": ("the driver does not answer", shell.restart()),
        "crashed": (
            "NVIDIA's library crashes when it is asked, as where it was installed in part",
            _installation(machine),
        ),
    }.get(status, ("the driver can't be asked", "nvidia-smi"))
    return fail(f"{detail}{said}", fix)


def nouveau(facts: Facts) -> Verdict:
    """Whether the open driver nouveau, which has no CUDA, holds the GPU."""
    machine = _machine(facts)
    if not machine.nvidia_pci and not machine.nouveau:
        return skip("there is no NVIDIA GPU here")
    if not machine.nouveau:
        return ok("nouveau is not loaded")
    fedora = machine.os_version.startswith(("Fedora", "Red Hat", "Rocky", "AlmaLinux", "CentOS"))
    image = "sudo dracut --force" if fedora else "sudo update-initramfs -u"
    fix = f"echo 'blacklist nouveau' | sudo tee /etc/modprobe.d/blacklist-nouveau.conf && {image} && sudo reboot"
    text = "the kernel module nouveau is loaded, which has no CUDA"
    return warn(f"{text}, beside NVIDIA's", fix) if machine.kernel_module else fail(text, fix)


def wsl(facts: Facts) -> Verdict:
    """Whether WSL reaches Windows' driver."""
    machine = _machine(facts)
    if not machine.wsl:
        return skip("this is not WSL")
    if machine.wsl == 1:
        return warn(
            "WSL 1 has no access to GPUs", "in Windows: wsl --set-default-version 2, then wsl --set-version NAME 2"
        )
    if machine.nvml.status == "ok":
        return ok(f"WSL 2 with Windows' driver {machine.driver or 'unknown'}")
    if machine.nvml.status in ("mismatch", "driver-not-loaded"):
        return fail(
            "a Linux driver is installed in WSL, and hides the one of Windows",
            "sudo apt-get purge 'nvidia-*' 'libnvidia-*', then in Windows: wsl --shutdown",
        )
    said = machine.nvml.detail or machine.nvml.status
    if machine.nvml.status not in ("library-missing", "no-gpu"):
        text = f"Windows' driver is there and does not answer ({said})"
        return fail(text, "update NVIDIA's driver in Windows (not in WSL), then in Windows: wsl --shutdown")
    if (_WSL / "libnvidia-ml.so.1").exists() or (_WSL / "libcuda.so.1").exists():
        text = f"the libraries of Windows' driver are in {_WSL}, and the loader does not look there"
        return fail(text, f"echo {_WSL} | sudo tee /etc/ld.so.conf.d/ld.wsl.conf && sudo ldconfig")
    return skip(
        "Windows has no NVIDIA driver; where it has an NVIDIA GPU, install one there (not in WSL), then: wsl --shutdown"
    )


def container(facts: Facts) -> Verdict:
    """Whether a container was given the GPUs of its machine."""
    machine = _machine(facts)
    if machine.container is None:
        return skip("this is no container")
    if machine.gpus:
        return ok(f"{machine.container} container with {len(machine.gpus)} GPUs")
    if not _shut_out(machine):
        return skip(f"{machine.container} container, and no NVIDIA GPU on the machine")
    fix = {
        "kubernetes": "ask for the GPU in the pod: resources: {limits: {nvidia.com/gpu: 1}}",
        "podman": "podman run --device nvidia.com/gpu=all ...",
        "apptainer": "apptainer exec --nv ...",
    }.get(machine.container, "docker run --gpus all ... (the machine needs the package nvidia-container-toolkit)")
    return fail(f"the machine has an NVIDIA GPU ({machine.nvidia_pci[0]}) that this container was not given", fix)


def devices(facts: Facts) -> Verdict:
    """Whether the device files are there that CUDA opens; NVML needs only some of them."""
    machine = _machine(facts)
    if machine.jetson:
        return skip(_JETPACK)
    if machine.os != "linux" or machine.wsl:
        return skip("only Linux has device files for GPUs")
    if not machine.gpus:
        return skip("there is no NVIDIA GPU here")
    if "/dev/nvidia-uvm" in machine.nvidia_devices:
        return ok(f"{len(machine.nvidia_devices)} device files")
    if gpu.computed(facts):
        return ok("the first CUDA program made /dev/nvidia-uvm")
    if machine.container:
        return fail("the container lacks /dev/nvidia-uvm", "docker run --gpus all ... (not --device alone)")
    return warn(
        "/dev/nvidia-uvm is missing: nvidia-modprobe makes it for the first CUDA program, or that says 'unknown error'",
        "sudo modprobe nvidia_uvm && sudo nvidia-modprobe -u -c=0",
    )


def _machine(facts: Facts) -> Machine:
    assert facts.machine is not None
    return facts.machine


def _has_gpu(machine: Machine) -> bool:
    return bool(machine.nvidia_pci or machine.gpus or machine.kernel_module or machine.nvidia_devices)


def _shut_out(machine: Machine) -> bool:
    return bool(machine.container and machine.nvidia_pci and not machine.nvidia_devices and not machine.gpus)


def _version(machine: Machine) -> str:
    return f" {machine.kernel_module}" if machine.kernel_module else ""


def _installation(machine: Machine) -> str:
    if machine.os == "linux" and machine.os_version.startswith(("Ubuntu", "Linux Mint", "Pop!_OS")):
        return "sudo ubuntu-drivers install && sudo reboot"
    return _DOWNLOAD


def _loading(machine: Machine) -> str:
    return "sudo modprobe nvidia" if machine.os == "linux" else _DOWNLOAD


def _hints(machine: Machine) -> str:
    """What else may be needed before the module can be loaded."""
    if machine.os != "linux":
        return ""
    return (
        f"; where modprobe says 'not found', first: {command_line('sudo', 'dkms', 'autoinstall', '-k', machine.kernel)}"
        "; where 'Key was rejected', first: sudo mokutil --import /var/lib/shim-signed/mok/MOK.der && sudo reboot"
    )
