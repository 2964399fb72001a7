"""GPUs and their drivers as the Linux kernel shows them, without any library."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from dlenv.machine.reading import exists, names, text

# Vendors in the PCI ID repository, https://pci-ids.ucw.cz
_NVIDIA, _AMD, _INTEL = "0x10de", "0x1002", "0x8086"
_DISPLAY_CONTROLLER = "0x03"  # PCI base class; 0x0300xx: VGA compatible, 0x0302xx: 3D controller


class Controller(msgspec.Struct, frozen=True):
    """A display controller on the PCI bus."""

    address: str  # "0000:01:00.0"
    vendor: str  # "0x10de"
    device: str  # "0x2882"


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs that are there, whether they can be used or not; the fields are those of ``Machine``."""

    kernel_module: str | None = None
    nvidia_pci: tuple[str, ...] = ()
    amd_gpus: tuple[str, ...] = ()
    rocm_driver: bool = False
    intel_gpu: bool = False
    nouveau: bool = False
    nvidia_devices: tuple[str, ...] = ()
    jetson: bool = False


def look(root: Path) -> Hardware:
    """The hardware that the kernel shows under ``root``."""
    controllers = _controllers(root / "sys/bus/pci/devices")
    amd = [f"PCI {it.vendor[2:]}:{it.device[2:]}" for it in controllers if it.vendor == _AMD]
    return Hardware(
        kernel_module=_kernel_module(root),
        nvidia_pci=tuple(it.address for it in controllers if it.vendor == _NVIDIA),
        amd_gpus=tuple(_gfx_targets(root / "sys/class/kfd/kfd/topology/nodes") or amd),
        rocm_driver=exists(root / "dev/kfd"),
        intel_gpu=any(it.vendor == _INTEL for it in controllers),
        nouveau=exists(root / "sys/module/nouveau"),
        nvidia_devices=tuple(_nvidia_devices(root / "dev")),
        jetson=_jetson(root),
    )


def _controllers(folder: Path) -> list[Controller]:
    return [
        Controller(address, text(folder / address / "vendor").lower(), text(folder / address / "device").lower())
        for address in names(folder)
        if text(folder / address / "class").startswith(_DISPLAY_CONTROLLER)
    ]


def _gfx_targets(nodes: Path) -> list[str]:
    """LLVM's names for the AMD GPUs that the driver amdkfd runs, such as ``gfx1100`` and ``gfx90a``."""
    targets = []
    for node in sorted(names(nodes), key=lambda name: (len(name), name)):
        found = re.search(r"^gfx_target_version (\d{1,9})$", text(nodes / node / "properties"), re.MULTILINE)
        # 10000 * major + 100 * minor + stepping; 0 is a processor (Linux, drivers/gpu/drm/amd/amdkfd/kfd_device.c).
        if found and (version := int(found[1])):
            targets.append(f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}")
    return targets


def _kernel_module(root: Path) -> str | None:
    if version := re.fullmatch(r"\d+(\.\d+)+", text(root / "sys/module/nvidia/version")):
        return version[0]
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 ...", and since the open modules also
    # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build ..."
    line = text(root / "proc/driver/nvidia/version").partition("\n")[0]
    version = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)(?:\s|$)", line)
    return version[1] if version else None


def _nvidia_devices(folder: Path) -> list[str]:
    # /dev/nvidia-caps and /dev/nvidia-caps-imex-channels are folders.
    found = (name for name in names(folder) if name.startswith("nvidia") and not name.startswith("nvidia-caps"))
    return [f"/dev/{name}" for name in found]


def _jetson(root: Path) -> bool:
    # L4T, NVIDIA's Linux for Jetson, leaves its release there; the device tree names the board.
    return exists(root / "etc/nv_tegra_release") or "jetson" in text(root / "proc/device-tree/model").lower()
