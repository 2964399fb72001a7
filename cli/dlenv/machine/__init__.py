"""What this machine is: operating system, NVIDIA driver and GPUs, disks, proxies."""

from dlenv.machine.inspection import inspect
from dlenv.machine.model import Disk, Gpu, GpuProcess, Machine, Nvml

__all__ = ["Disk", "Gpu", "GpuProcess", "Machine", "Nvml", "inspect"]
