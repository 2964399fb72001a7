"""What is known about a machine: plain facts, no judgement. ``None`` means: could not be found out."""

from __future__ import annotations

from typing import Literal

import msgspec

# What came of asking NVML; all but the first two are failures. The names stand for NVML's return codes
# (NVML API reference, nvmlReturn_t), for what NVML can't say itself (timeout, crashed), and for the rest (failed).
NvmlStatus = Literal[
    "ok",
    "no-gpu",  # the driver works, and has no GPU
    "library-missing",  # 12 NVML_ERROR_LIBRARY_NOT_FOUND: no libnvidia-ml
    "driver-not-loaded",  # 9 NVML_ERROR_DRIVER_NOT_LOADED: the library is there, the kernel module is not
    "mismatch",  # 18 NVML_ERROR_LIB_RM_VERSION_MISMATCH: library and kernel module are of different versions
    "no-permission",  # 4 NVML_ERROR_NO_PERMISSION
    "gpu-lost",  # 15 NVML_ERROR_GPU_IS_LOST
    "blocked",  # 17 NVML_ERROR_OPERATING_SYSTEM: the operating system or a container blocks it
    "timeout",  # no answer within the time limit
    "crashed",  # the process that asked died
    "failed",  # any other code
]


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds memory on a GPU."""

    pid: int
    name: str | None = None
    memory_mib: int | None = None
    computes: bool = True  # False: it only draws


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """An NVIDIA GPU as NVML describes it; ``index`` is NVML's, in PCI bus order."""

    index: int
    name: str
    compute_capability: str | None = None  # "8.9"
    memory_mib: int | None = None
    memory_free_mib: int | None = None
    uuid: str | None = None
    mig: bool = False  # MIG mode is on: the GPU can be used through its instances only
    mig_instances: int = 0
    compute_mode: Literal["default", "exclusive-thread", "exclusive-process", "prohibited"] | None = None
    processes: tuple[GpuProcess, ...] = ()
    problem: str | None = None  # NVML's word for what could not be read of this GPU, for example "GPU is lost"


class Nvml(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking NVML."""

    status: NvmlStatus
    detail: str = ""  # NVML's own words


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Room where something of ours will be written."""

    purpose: Literal["environment", "temporary", "cache", "shared-memory"]
    path: str
    free_mib: int
    total_mib: int
    device: int  # st_dev: two purposes on one file system share its room


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, as far as it matters to deep learning."""

    os: Literal["linux", "windows", "macos", "other"]
    os_version: str  # "Debian GNU/Linux 12 (bookworm)", "14.5" (macOS), "10.0.22631" (Windows)
    kernel: str  # platform.release()
    arch: str  # "x86_64"; "aarch64" on Linux, "arm64" on macOS and Windows; others as the system names them
    libc: tuple[str, str] | None = None  # ("glibc", "2.36"), ("musl", "1.2.5")
    python: str  # of the process that looked: "3.11.7"
    python_bits: int = 64
    python_emulated: bool = False  # it was built for x86_64 and runs on an Arm machine: Rosetta 2, Windows for Arm
    cpus: int = 1  # that this process may use
    memory_mib: int = 0  # that this process may use: a container may have less than the machine
    driver: str | None = None  # NVIDIA's: "550.54.14"
    cuda_driver: str | None = None  # the highest CUDA that the driver supports: "12.4"
    kernel_module: str | None = None  # version of the NVIDIA kernel module that is loaded
    nvml: Nvml
    gpus: tuple[Gpu, ...] = ()
    nvidia_pci: tuple[str, ...] = ()  # PCI addresses of NVIDIA display controllers, seen without any driver
    amd_gpus: tuple[str, ...] = ()  # gfx targets ("gfx1100"), or without AMD's driver "PCI 1002:744c"
    rocm_driver: bool = False  # /dev/kfd is there
    intel_gpu: bool = False
    nouveau: bool = False  # the kernel module nouveau is loaded
    nvidia_devices: tuple[str, ...] = ()  # the device files /dev/nvidia* that exist
    wsl: int = 0  # 0: not WSL; else 1 or 2
    container: str | None = None  # "docker", "podman", "kubernetes", "lxc", ...
    colab: bool = False
    kaggle: bool = False
    jetson: bool = False
    disks: tuple[Disk, ...] = ()
    proxies: dict[str, str] = {}  # variable -> address, without user name and password
    cuda_visible_devices: str | None = None  # the variable as it is set; "" hides every GPU

    def impersonal(self) -> Machine:
        """This machine without what is nobody else's business: other people's processes, serial numbers, folders."""
        gpus = tuple(msgspec.structs.replace(gpu, uuid=None, processes=()) for gpu in self.gpus)
        return msgspec.structs.replace(self, gpus=gpus, disks=(), proxies={})

    def to_json(self) -> dict[str, object]:
        """This machine as JSON data; ``from_json`` reads it back."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data

    @staticmethod
    def from_json(data: object) -> Machine:
        """The machine that ``to_json`` described; raises ``msgspec.ValidationError`` naming the field that is wrong."""
        return msgspec.convert(data, Machine)
