"""Each check on made-up facts: what is right, what is wrong, what does not apply."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlenv import catalog
from dlenv.doctor import services, shell
from dlenv.doctor.checks import driver, network
from dlenv.doctor.examine import examine
from dlenv.doctor.facts import Endpoint, Facts, Port, Process, Service, Target
from dlenv.doctor.model import Finding
from dlenv.doctor.registry import CHECKS, select
from dlenv.environment.distributions import CondaPackage, Distribution
from dlenv.environment.record import Record
from dlenv.machine import Disk, Gpu, GpuProcess, Machine, Nvml
from dlenv.plan import Request, make
from dlenv.probe import Report, Stage

NO_GPU = Machine(
    os="linux",
    os_version="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0",
    arch="x86_64",
    libc=("glibc", "2.36"),
    python="3.11.7",
    cpus=8,
    nvml=Nvml(status="library-missing"),
)
RTX_4060 = Gpu(index=0, name="NVIDIA GeForce RTX 4060", compute_capability="8.9", memory_mib=8188, memory_free_mib=8000)
GTX_1080 = Gpu(index=0, name="NVIDIA GeForce GTX 1080", compute_capability="6.1", memory_mib=8192, memory_free_mib=8000)
PCI = ("0000:01:00.0",)
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def change(value: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(value, **fields)


ONE_GPU = change(
    NO_GPU,
    nvml=Nvml(status="ok"),
    driver="595.71.05",
    cuda_driver="13.2",
    kernel_module="595.71.05",
    gpus=(RTX_4060,),
    nvidia_pci=PCI,
    nvidia_devices=("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
)


def package(name: str, version: str | None = "1.0", location: str = "/env/lib", **fields: Any) -> Distribution:
    return Distribution(
        name=name, version=version, location=location, metadata=f"{location}/{name}-{version}.dist-info", **fields
    )


def probed(**stages: Any) -> Report:
    """A report with these stages: facts, an error text, or a whole stage."""
    facts: dict[str, Any] = {
        "python": {"version": "3.11.7", "implementation": "CPython", "bits": 64, "prefix": "/env"},
        "numpy": {"version": "1.26.4"},
        "torch": {"version": "2.15.0+cu132", "cuda": "13.2", "architectures": ARCHITECTURES, "threads": 8},
        "cuda": {"available": True, "devices": [{"name": "NVIDIA GeForce RTX 4060", "launched": True}]},
        "bridge": {},
        "torchvision": {"version": "0.29.2+cu132"},
        "pandas": {"version": "1.5.3"},
        "matplotlib": {"version": "3.7.5"},
        "inline": {"version": "0.2.2"},
        "d2l": {"version": "0.17.6", "file": "/env/d2l/__init__.py"},
        "jupyter": {"version": "7.4.0", "kernels": [spec("python")]},
        "libraries": {"paths": ["/env/torch/lib/libgomp.so.1"]},
    }
    found = []
    for name, value in (facts | stages).items():
        if isinstance(value, Stage):
            found.append(change(value, name=name))
        elif isinstance(value, str):
            found.append(Stage(name=name, status="failed", error=value))
        else:
            found.append(Stage(name=name, status="ok", facts=value))
    return Report(python="/env/bin/python", level="facts", stages=tuple(found))


def spec(program: str, name: str = "python3", folder: str = "/env/share/jupyter/kernels") -> dict[str, Any]:
    return {"name": name, "folder": folder, "title": "Python 3", "argv": [program, "-m", "ipykernel_launcher"]}


INSTALLED = (
    package("torch", "2.15.0", installer="uv"),
    package("torchvision", "0.29.2", requires=("torch>=2.14.0",)),
    package("numpy", "1.26.4", installer="uv"),
    package("pandas", "1.5.3", requires=("numpy>=1.21",)),
    package("matplotlib", "3.7.5"),
    package("matplotlib-inline", "0.2.2"),
    package("requests", "2.34.2"),
    package("ipython", "9.18.1"),
    package("pillow", "13.0.0"),
    package("d2l", "0.17.6", requires=("numpy (==1.21.5)", "pandas (==1.2.4)", "requests (==2.25.1)")),
)
GOOD = Facts(
    target=Target(python=Path("/env/bin/python"), env=Path("/env"), kind="venv", why="VIRTUAL_ENV"),
    folder=Path("/nowhere"),
    machine=ONE_GPU,
    report=probed(),
    distributions=INSTALLED,
    endpoints=(
        Endpoint(purpose="packages", url="https://index.example/simple/", source="the catalog", ok=True, seconds=0.2),
        Endpoint(purpose="pytorch", url="https://download.pytorch.org/whl/cpu/torch/", source="the catalog", ok=True),
        Endpoint(purpose="course", url="http://d2l-data.s3-accelerate.amazonaws.com/", source="d2l", ok=True),
    ),
    processes=(),
    ports=(Port(number=8000, purpose="the service", taken=False),),
)


def judged(check: str, facts: Facts) -> Finding:
    (finding,) = examine(facts, select([check]))
    return finding


def planned(machine: Machine, python: str = "3.11") -> Any:
    return make(machine, Request(manager="uv", python=python, course=None), catalog.load())


def machine(**fields: Any) -> Facts:
    return change(GOOD, machine=change(ONE_GPU, **fields))


def without_gpu(**fields: Any) -> Facts:
    return change(GOOD, machine=change(NO_GPU, **fields))


def stages(**fields: Any) -> Facts:
    return change(GOOD, report=probed(**fields))


def environ(**variables: str) -> Facts:
    return change(GOOD, environ=variables)


def installed(*packages: Distribution) -> Facts:
    return change(GOOD, distributions=packages)


def nvml(status: str, **fields: Any) -> Facts:
    return machine(nvml=Nvml(status=status, detail=status), gpus=(), **fields)  # type: ignore[arg-type]


def gpu(**fields: Any) -> Facts:
    return machine(gpus=(change(RTX_4060, **fields),))


def unproven(**fields: Any) -> Facts:
    """Nothing computed on the GPU: the probe did not come so far."""
    return change(machine(**fields), report=None)


def disk(purpose: Any, free: int, total: int = 500_000, **fields: Any) -> Facts:
    return machine(disks=(Disk(purpose=purpose, path="/x", free_mib=free, total_mib=total, device=1),), **fields)


def endpoint(purpose: Any, problem: Any, detail: str = "no answer within 2 s") -> Facts:
    bad = Endpoint(purpose=purpose, url="https://x", source="HTTPS_PROXY", ok=False, problem=problem, detail=detail)
    return change(GOOD, endpoints=(*GOOD.endpoints, bad))  # type: ignore[misc]


def old_cuda(output: str, available: bool = False) -> Facts:
    return stages(cuda=Stage(name="", status="ok", facts={"available": available, "devices": []}, output=output))


SERVING = change(GOOD, processes=(Process(pid=8, name="dlenv serve"),))
NMS = "RuntimeError: operator torchvision::nms does not exist"
SIZE = "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96, got 88"
ONE_X = Stage(
    name="", status="failed", error="ImportError: x", output="A module that was compiled using NumPy 1.x cannot"
)


def amd(torch: dict[str, Any], rocm_driver: bool = True) -> Facts:
    machine = change(NO_GPU, amd_gpus=("gfx1100",), rocm_driver=rocm_driver)
    return change(GOOD, machine=machine, plan=planned(machine), report=probed(torch=torch))


DESKTOP = (
    GpuProcess(pid=7, name="/usr/lib/xorg/Xorg", memory_mib=5000),
    GpuProcess(pid=8, name="/usr/lib/firefox/firefox", memory_mib=300, computes=False),
    GpuProcess(pid=9, name="python", memory_mib=10),
    GpuProcess(pid=10, name="/opt/x/bin/python3", memory_mib=2500),
)

# check, facts, status, what the detail or the fix says
CASES: list[tuple[str, Facts, str, str]] = [
    ("driver.nvml", GOOD, "ok", "driver 595.71.05, CUDA up to 13.2"),
    ("driver.nvml", without_gpu(), "skip", "no NVIDIA GPU"),
    ("driver.nvml", without_gpu(nvml=Nvml(status="no-gpu")), "skip", "there is no GPU"),
    ("driver.nvml", nvml("library-missing", kernel_module=None), "fail", "nvidia.com/drivers"),
    ("driver.nvml", nvml("library-missing", os_version="Ubuntu 24.04"), "fail", "sudo ubuntu-drivers install"),
    ("driver.nvml", nvml("driver-not-loaded", kernel_module=None), "fail", "sudo modprobe nvidia"),
    ("driver.nvml", nvml("driver-not-loaded", nouveau=True), "fail", "see driver.nouveau"),
    ("driver.nvml", nvml("mismatch"), "fail", "sudo reboot"),
    ("driver.nvml", nvml("no-permission"), "fail", "usermod"),
    ("driver.nvml", nvml("gpu-lost"), "fail", "fallen off the bus"),
    ("driver.nvml", nvml("blocked"), "fail", "keeps the driver from answering"),
    ("driver.nvml", nvml("timeout"), "fail", "does not answer"),
    ("driver.nvml", nvml("crashed"), "fail", "crashes"),
    ("driver.nvml", nvml("failed"), "fail", "nvidia-smi"),
    ("driver.nvml", nvml("library-missing", jetson=True, os_version="Ubuntu 22.04"), "skip", "JetPack"),
    ("driver.nvml", nvml("failed", jetson=True), "skip", "JetPack"),
    ("driver.nvml", machine(jetson=True), "ok", "driver 595"),
    ("driver.nvml", without_gpu(wsl=2), "skip", "driver.wsl"),
    ("driver.nvml", without_gpu(container="docker", nvidia_pci=PCI), "skip", "driver.container"),
    ("driver.nouveau", GOOD, "ok", "not loaded"),
    ("driver.nouveau", without_gpu(), "skip", "no NVIDIA GPU"),
    ("driver.nouveau", without_gpu(nouveau=True, nvidia_pci=PCI), "fail", "blacklist nouveau"),
    ("driver.nouveau", machine(nouveau=True), "warn", "beside NVIDIA's"),
    ("driver.nouveau", without_gpu(nouveau=True, nvidia_pci=PCI, os_version="Fedora Linux 42"), "fail", "dracut"),
    ("driver.devices", GOOD, "ok", "3 device files"),
    ("driver.devices", machine(nvidia_devices=("/dev/nvidia0",)), "ok", "the first CUDA program"),
    ("driver.devices", unproven(nvidia_devices=("/dev/nvidia0",)), "warn", "sudo modprobe nvidia_uvm"),
    ("driver.devices", unproven(nvidia_devices=(), container="docker"), "fail", "--gpus all"),
    ("driver.devices", unproven(nvidia_devices=("/dev/nvhost-gpu",), jetson=True), "skip", "JetPack"),
    ("driver.devices", without_gpu(), "skip", ""),
    ("driver.wsl", GOOD, "skip", "not WSL"),
    ("driver.wsl", machine(wsl=2), "ok", "WSL 2"),
    ("driver.wsl", without_gpu(wsl=1), "warn", "wsl --set-version"),
    ("driver.wsl", without_gpu(wsl=2), "skip", "not in WSL"),
    ("driver.wsl", nvml("timeout", wsl=2), "fail", "wsl --shutdown"),
    ("driver.wsl", nvml("gpu-lost", wsl=2), "fail", "does not answer"),
    ("driver.wsl", nvml("mismatch", wsl=2), "fail", "apt-get purge"),
    ("driver.container", GOOD, "skip", "no container"),
    ("driver.container", machine(container="docker"), "ok", "docker container with 1 GPUs"),
    ("driver.container", without_gpu(container="docker"), "skip", "no NVIDIA GPU"),
    ("driver.container", without_gpu(container="docker", nvidia_pci=PCI), "fail", "docker run --gpus all"),
    ("driver.container", without_gpu(container="kubernetes", nvidia_pci=PCI), "fail", "nvidia.com/gpu: 1"),
    ("driver.container", without_gpu(container="podman", nvidia_pci=PCI), "fail", "podman run --device"),
    ("gpu.health", GOOD, "ok", "RTX 4060"),
    ("gpu.health", gpu(problem="GPU is lost"), "fail", "GPU is lost"),
    ("gpu.health", without_gpu(), "skip", ""),
    ("gpu.visible", GOOD, "ok", "all GPUs"),
    ("gpu.visible", machine(cuda_visible_devices=""), "fail", "unset CUDA_VISIBLE_DEVICES"),
    ("gpu.visible", machine(cuda_visible_devices="-1"), "fail", "hides every GPU"),
    ("gpu.visible", machine(cuda_visible_devices="7"), "fail", "hides every GPU"),
    ("gpu.visible", machine(cuda_visible_devices="0"), "ok", "all GPUs"),
    ("gpu.visible", machine(gpus=(RTX_4060, change(RTX_4060, index=1)), cuda_visible_devices="1"), "ok", "1 of 2"),
    ("gpu.visible", machine(cuda_visible_devices="\u00b2"), "fail", "hides every GPU"),
    (
        "gpu.visible",
        machine(gpus=(RTX_4060, change(RTX_4060, index=1)), cuda_visible_devices="0,x,1"),
        "ok",
        "1 of 2",
    ),
    ("gpu.visible", machine(gpus=(change(RTX_4060, uuid="GPU-ab"),), cuda_visible_devices="GPU-a"), "ok", ""),
    ("gpu.visible", without_gpu(), "skip", ""),
    ("gpu.memory", GOOD, "ok", "8000 of 8188 MiB free"),
    (
        "gpu.memory",
        gpu(memory_free_mib=100, processes=(GpuProcess(pid=42, name="python", memory_mib=8000),)),
        "warn",
        "kill 42",
    ),
    ("gpu.memory", gpu(memory_free_mib=100), "warn", "does not name"),
    ("gpu.memory", gpu(memory_free_mib=100, processes=DESKTOP[:2]), "warn", "nvidia-smi"),
    ("gpu.memory", without_gpu(), "skip", ""),
    ("gpu.compute-mode", GOOD, "ok", ""),
    ("gpu.compute-mode", gpu(compute_mode="prohibited"), "fail", "sudo nvidia-smi -i 0 -c DEFAULT"),
    ("gpu.compute-mode", gpu(compute_mode="exclusive-process"), "warn", "one program at a time"),
    ("gpu.compute-mode", without_gpu(), "skip", ""),
    ("gpu.mig", GOOD, "skip", ""),
    ("gpu.mig", gpu(mig=True), "fail", "nvidia-smi mig -i 0 -cgi"),
    ("gpu.mig", gpu(mig=True, mig_instances=2), "ok", "2 MIG instances"),
    ("system.platform", GOOD, "ok", "Debian"),
    ("system.platform", machine(python_bits=32), "fail", "32-bit"),
    ("system.platform", machine(python_emulated=True), "warn", "emulated"),
    ("system.platform", machine(os="macos", arch="x86_64"), "warn", "2.2.2"),
    ("system.platform", machine(arch="riscv64"), "fail", "no wheels"),
    ("system.libc", GOOD, "ok", "glibc 2.36"),
    ("system.libc", machine(libc=("glibc", "2.17")), "warn", "torch<2.7"),
    ("system.libc", machine(libc=("glibc", "2.12")), "fail", "no wheel"),
    ("system.libc", machine(libc=("musl", "1.2.5")), "fail", "musl 1.2.5"),
    ("system.libc", machine(os="windows", libc=None), "skip", ""),
    ("system.disk", disk("environment", 100_000), "ok", "97.7 GiB"),
    ("system.disk", disk("environment", 5000), "warn", "uv cache prune"),
    ("system.disk", disk("temporary", 500), "warn", "0.5 GiB"),
    ("system.disk", disk("cache", 500), "fail", "uv cache prune"),
    ("system.disk", disk("environment", 500), "fail", "uv cache prune"),
    ("system.disk", GOOD, "skip", ""),
    ("system.shared-memory", disk("shared-memory", 16000, 16000), "ok", "16000 MiB"),
    ("system.shared-memory", disk("shared-memory", 64, 64, container="docker"), "warn", "--shm-size=8g"),
    ("system.shared-memory", disk("shared-memory", 64, 64), "warn", "remount"),
    ("system.shared-memory", GOOD, "skip", ""),
    ("system.colab", GOOD, "skip", ""),
    ("system.colab", machine(colab=True), "ok", "Colab with"),
    ("system.colab", without_gpu(colab=True), "warn", "Change runtime type"),
    ("system.colab", without_gpu(kaggle=True), "warn", "Accelerator"),
    ("python.start", GOOD, "ok", "Python 3.11.7"),
    (
        "python.start",
        change(GOOD, report=Report(python="x", level="facts", problem="it is gone")),
        "fail",
        "dlenv setup --env",
    ),
    ("python.version", GOOD, "ok", "torch 2.15.0 has wheels"),
    ("python.version", stages(python={"version": "3.7.9", "implementation": "CPython", "bits": 64}), "fail", "3.7"),
    ("python.version", stages(python={"version": "3.12.1", "implementation": "CPython", "bits": 64}), "warn", "3.11"),
    (
        "python.version",
        change(stages(python={"version": "3.10.1", "implementation": "CPython", "bits": 64}), distributions=()),
        "warn",
        "2.14.1",
    ),
    ("python.version", stages(python={"version": "3.11.1", "implementation": "CPython", "bits": 32}), "fail", "64-bit"),
    (
        "python.version",
        stages(python={"version": "3.11.1", "implementation": "PyPy", "bits": 64}),
        "fail",
        "CPython only",
    ),
    ("python.path", GOOD, "ok", ""),
    ("python.path", environ(PYTHONHOME="/usr"), "fail", "unset PYTHONHOME"),
    ("python.path", stages(python={"user_site": "/env/lib", "version": "3.11.7"}), "warn", "PYTHONNOUSERSITE=1"),
    ("packages.duplicates", GOOD, "ok", "10 packages"),
    (
        "packages.duplicates",
        installed(package("torch", "2.6.0", "/home"), package("torch", "2.8.0")),
        "fail",
        "2.6.0 in /home",
    ),
    ("packages.duplicates", installed(package("six", "1", "/a"), package("six", "2")), "warn", "six is there 2 times"),
    (
        "packages.duplicates",
        change(installed(package("torch", "1", "/a"), package("torch", "2")), environ={"PYTHONPATH": "/a"}),
        "fail",
        "unset PYTHONPATH",
    ),
    ("packages.conda", GOOD, "skip", "no conda"),
    ("packages.conda", change(GOOD, conda=(CondaPackage(name="pytorch", version="2.5.1"),)), "fail", "conda remove"),
    ("packages.conda", change(GOOD, conda=(CondaPackage(name="python", version="3.11"),)), "ok", "one installer"),
    ("packages.requirements", GOOD, "ok", "3 of d2l's pins from 2021 are excused"),
    ("packages.requirements", installed(package("requests", requires=("idna<4",))), "warn", "lacks it"),
    (
        "packages.requirements",
        installed(package("a", requires=("idna<4 ; extra == 'x'", "w ; sys_platform == 'nosuch'"))),
        "ok",
        "",
    ),
    ("packages.requirements", installed(package("d2l", "0.17.6", requires=("numpy (==1.21.5)",))), "warn", "lacks it"),
    (
        "packages.requirements",
        installed(package("torch", "2.15.0"), package("torchvision", "0.28.0", requires=("torch==2.13.0",))),
        "fail",
        "has 2.15.0",
    ),
    (
        "packages.requirements",
        installed(package("a", requires=("not a requirement!", "b>=1")), package("b", "strange")),
        "ok",
        "",
    ),
    ("packages.files", GOOD, "ok", ""),
    ("packages.files", installed(package("torch", None)), "fail", "has no metadata"),
    ("packages.record", GOOD, "skip", "did not build"),
    ("torch.import", GOOD, "ok", "torch 2.15.0+cu132"),
    ("torch.import", stages(torch=Stage(name="", status="absent")), "fail", "not installed"),
    (
        "torch.import",
        stages(torch="ImportError: libcudnn.so.9: cannot open shared object file"),
        "fail",
        "NVIDIA's libraries is missing",
    ),
    (
        "torch.import",
        stages(torch="ImportError: undefined symbol: __nvJitLinkCreate_12_8"),
        "fail",
        "see libraries.path",
    ),
    ("torch.import", stages(torch='OSError: [WinError 126] Error loading "c10.dll"'), "fail", "vc_redist"),
    (
        "torch.import",
        stages(torch=Stage(name="", status="crashed", error="Python was killed by SIGSEGV")),
        "fail",
        "SIGSEGV",
    ),
    (
        "torch.import",
        stages(torch=Stage(name="", status="failed", error="x", facts={"missing": "sympy"})),
        "fail",
        "sympy",
    ),
    ("torch.build", GOOD, "ok", "CUDA 13.2"),
    ("torch.build", change(without_gpu(), report=probed(torch={"version": "2.13.0+cpu", "cuda": None})), "ok", "CPU"),
    (
        "torch.build",
        change(stages(torch={"version": "2.13.0+cpu", "cuda": None}), plan=planned(ONE_GPU)),
        "fail",
        "torch==2.15.0",
    ),
    (
        "torch.build",
        change(stages(torch={"version": "2.13.0+cpu", "cuda": None}), plan=planned(NO_GPU)),
        "warn",
        "no build runs",
    ),
    ("torch.build", stages(torch="ImportError: x"), "skip", "torch.import"),
    ("torch.build", amd({"version": "2.13.0+cpu"}), "fail", "AMD's gfx1100"),
    ("torch.build", amd({"version": "2.15.0", "cuda": "13.2"}), "fail", "is built for CUDA 13.2, and"),
    ("torch.build", amd({"version": "2.15.0+rocm7.2", "hip": "7.2"}), "ok", "ROCm"),
    ("torch.build", amd({"version": "2.13.0+cpu"}, rocm_driver=False), "ok", "CPU"),
    ("torch.architectures", GOOD, "ok", "sm_75"),
    ("torch.architectures", without_gpu(), "skip", ""),
    (
        "torch.architectures",
        change(machine(gpus=(GTX_1080,)), plan=planned(change(ONE_GPU, gpus=(GTX_1080,)))),
        "fail",
        "torch==2.14.1+cu126",
    ),
    ("torch.architectures", machine(gpus=(GTX_1080,)), "fail", "though torch.cuda.is_available() says True"),
    ("torch.architectures", machine(gpus=(GTX_1080, change(RTX_4060, index=1))), "warn", "CUDA_VISIBLE_DEVICES=1"),
    ("torch.driver", GOOD, "ok", "runs CUDA 13.2 (needs 580)"),
    (
        "torch.driver",
        change(
            stages(cuda={"available": False, "devices": []}),
            machine=change(ONE_GPU, driver="550.54.14"),
            plan=planned(change(ONE_GPU, driver="550.54.14", cuda_driver="12.4")),
        ),
        "fail",
        "torch==2.14.1+cu126",
    ),
    ("torch.driver", machine(driver="550.54.14"), "ok", "cuda-compat"),
    ("torch.driver", machine(driver="strange"), "skip", "not known"),
    ("torch.driver", without_gpu(), "skip", ""),
    ("torch.cuda", GOOD, "ok", "computes"),
    (
        "torch.cuda",
        change(old_cuda(""), machine=change(ONE_GPU, cuda_visible_devices="")),
        "skip",
        "see gpu.visible",
    ),
    (
        "torch.cuda",
        old_cuda("UserWarning: CUDA initialization: CUDA unknown error - this may be due to"),
        "fail",
        "modprobe -r nvidia_uvm",
    ),
    (
        "torch.cuda",
        old_cuda("CUDA initialization: The NVIDIA driver on your system is too old (found version 12040)"),
        "fail",
        "see torch.driver",
    ),
    ("torch.cuda", old_cuda("CUDA: Error 803: system has unsupported display driver"), "fail", "sudo reboot"),
    ("torch.cuda", old_cuda("CUDA: Error 804: forward compatibility was attempted"), "fail", "cuda-compat"),
    ("torch.cuda", old_cuda("CUDA: Error 802: system not yet initialized"), "fail", "nvidia-fabricmanager"),
    (
        "torch.cuda",
        stages(
            cuda={
                "available": True,
                "devices": [{"name": "X", "launched": False, "error": "no kernel image is available"}],
            }
        ),
        "fail",
        "see torch.architectures",
    ),
    (
        "torch.cuda",
        stages(cuda=Stage(name="", status="timeout", error="it did not end within 60 s")),
        "fail",
        "did not end",
    ),
    ("torch.numpy", GOOD, "ok", "numpy 1.26.4"),
    ("torch.numpy", stages(bridge="RuntimeError: Numpy is not available"), "fail", "numpy<2"),
    ("torch.numpy", stages(bridge=Stage(name="", status="skipped")), "skip", ""),
    ("torchvision.operators", GOOD, "ok", "0.29.2+cu132"),
    ("torchvision.operators", change(stages(torchvision=NMS), plan=planned(ONE_GPU)), "fail", "torchvision==0.29.2"),
    ("torchvision.operators", stages(torchvision=Stage(name="", status="absent")), "fail", "not installed"),
    ("torchvision.operators", stages(torchvision=Stage(name="", status="skipped")), "skip", ""),
    (
        "torchvision.operators",
        change(stages(torchvision=Stage(name="", status="absent")), distributions=INSTALLED[:1]),
        "skip",
        "not installed",
    ),
    ("numpy.abi", GOOD, "ok", "numpy 1.26.4"),
    ("numpy.abi", change(stages(pandas=ONE_X, numpy={"version": "2.2.6"})), "fail", "'numpy<2'"),
    (
        "numpy.abi",
        stages(pandas=ONE_X, numpy={"version": "2.2.6"}, python={"version": "3.13.0"}),
        "fail",
        "--upgrade-package pandas",
    ),
    ("numpy.abi", stages(pandas=SIZE), "fail", "--reinstall-package=pandas"),
    ("course.d2l", GOOD, "ok", "d2l 0.17.6"),
    ("course.d2l", change(stages(d2l=Stage(name="", status="absent")), distributions=()), "skip", ""),
    ("course.d2l", stages(d2l=SIZE), "fail", "see numpy.abi"),
    (
        "course.d2l",
        change(
            stages(d2l="ModuleNotFoundError: No module named 'requests'"),
            distributions=tuple(p for p in INSTALLED if p.name != "requests"),
        ),
        "fail",
        "requests is missing",
    ),
    ("course.d2l", stages(d2l="AttributeError: x"), "fail", "numpy==1.26.4"),
    ("course.line", GOOD, "ok", "zh notebooks"),
    ("course.line", installed(package("d2l", "1.0.3")), "ok", "en notebooks"),
    ("course.line", installed(package("d2l", "2.0.0")), "warn", "neither"),
    ("course.line", installed(), "skip", ""),
    ("matplotlib.inline", GOOD, "ok", "matplotlib 3.7.5"),
    (
        "matplotlib.inline",
        stages(inline="AttributeError: 'RcParams' object has no attribute '_get'"),
        "fail",
        "matplotlib==3.7.5",
    ),
    ("matplotlib.inline", stages(inline=Stage(name="", status="absent")), "skip", ""),
    ("jupyter.kernel", GOOD, "ok", "python3"),
    ("jupyter.kernel", stages(jupyter=Stage(name="", status="absent")), "fail", "ipykernel"),
    (
        "jupyter.kernel",
        stages(jupyter={"kernels": [spec("/other/bin/python")]}),
        "fail",
        "ipykernel install --sys-prefix",
    ),
    (
        "jupyter.kernel",
        stages(jupyter={"kernels": [spec("/other/bin/python", folder="/home/x")]}),
        "fail",
        "jupyter kernelspec remove",
    ),
    ("jupyter.kernel", stages(jupyter={"kernels": []}), "fail", "no kernel"),
    ("jupyter.dangling", GOOD, "ok", "1 kernels"),
    (
        "jupyter.dangling",
        stages(jupyter={"kernels": [spec("/no/such/python", "old")]}),
        "fail",
        "rm -r /env/share/jupyter/kernels/old",
    ),
    (
        "jupyter.dangling",
        stages(jupyter={"kernels": [spec("/no/such/python", "old", "/home/x")]}),
        "warn",
        "jupyter kernelspec remove old",
    ),
    ("libraries.path", GOOD, "ok", "not set"),
    ("libraries.openmp", GOOD, "ok", "libgomp"),
    ("libraries.openmp", environ(KMP_DUPLICATE_LIB_OK="TRUE"), "warn", "unset KMP_DUPLICATE_LIB_OK"),
    (
        "libraries.openmp",
        stages(torch=Stage(name="", status="crashed", output="OMP: Error #15: Initializing libiomp5md.dll")),
        "fail",
        "OMP: Error #15",
    ),
    ("libraries.openmp", stages(libraries={"paths": ["/a/libgomp.so.1", "/b/libiomp5.so"]}), "warn", "2 OpenMP"),
    ("libraries.openmp", stages(libraries={"paths": ["/a/libiomp5.so", "/b/libiomp5.so"]}), "fail", "twice"),
    ("libraries.threads", GOOD, "ok", "8 threads on 8 CPUs"),
    ("libraries.threads", machine(cpus=2), "warn", "export OMP_NUM_THREADS=2"),
    ("libraries.threads", environ(OMP_NUM_THREADS="64"), "warn", "export OMP_NUM_THREADS=8"),
    ("libraries.threads", environ(MKL_NUM_THREADS="many"), "warn", "unset MKL_NUM_THREADS"),
    ("network.proxy", GOOD, "ok", "no proxy"),
    ("network.proxy", endpoint("proxy", "unreachable"), "fail", "unset HTTPS_PROXY"),
    ("network.certificates", GOOD, "ok", "accepted by 2"),
    ("network.certificates", endpoint("packages", "certificate", "CERTIFICATE_VERIFY_FAILED"), "fail", "SSL_CERT_FILE"),
    ("network.certificates", endpoint("packages", "certificate", "certificate has expired"), "fail", "set-ntp"),
    ("network.packages", GOOD, "ok", "https://index.example/simple/"),
    ("network.packages", endpoint("packages", "unreachable"), "warn", "--mirror auto"),
    ("network.pytorch", GOOD, "ok", "whl/cpu/torch/"),
    ("network.pytorch", endpoint("pytorch", "unreachable"), "warn", "dlenv setup --env /env --mirror auto"),
    ("network.course", GOOD, "ok", "d2l-data"),
    ("network.course", endpoint("course", "unreachable"), "warn", "notebooks"),
    ("serving.ports", GOOD, "ok", "free: 8000"),
    (
        "serving.ports",
        change(GOOD, ports=(Port(number=8000, purpose="the service", taken=True, holder="nginx (pid 7)"),)),
        "warn",
        "--port 8001",
    ),
    (
        "serving.ports",
        change(
            SERVING, ports=(Port(number=8000, purpose="the service", taken=True),), service=Service(url="x", status=200)
        ),
        "ok",
        "running dlenv serve",
    ),
    (
        "serving.ports",
        change(
            GOOD, ports=(Port(number=65535, purpose="the service", taken=True),), service=Service(url="x", status=200)
        ),
        "warn",
        "dlenv serve --port 8000",
    ),
    (
        "serving.ports",
        change(GOOD, ports=(Port(number=8265, purpose="Ray's dashboard", taken=True),)),
        "ok",
        "takes others",
    ),
    ("serving.leftovers", GOOD, "ok", "nothing is left"),
    (
        "serving.leftovers",
        change(GOOD, processes=(Process(pid=7, name="raylet"), Process(pid=8, name="gcs_server"))),
        "warn",
        "kill 7 8",
    ),
    (
        "serving.leftovers",
        change(GOOD, processes=(Process(pid=7, name="raylet"), Process(pid=8, name="dlenv serve"))),
        "ok",
        "runs",
    ),
    ("serving.health", GOOD, "skip", "nothing listens"),
    ("serving.health", change(SERVING, service=Service(url="x", status=200)), "ok", "ready"),
    ("serving.health", change(SERVING, service=Service(url="x", status=503, detail="loading")), "warn", "loading"),
    ("serving.health", change(SERVING, service=Service(url="x", detail="timed out")), "fail", "timed out"),
    ("serving.health", change(SERVING, service=Service(url="x", status=404)), "skip", "HTTP 404"),
    ("serving.health", change(GOOD, service=Service(url="x", status=200)), "skip", "HTTP 200"),
    ("serving.health", change(GOOD, service=Service(url="x", detail="illegal status line")), "skip", "illegal status"),
]


@pytest.fixture(autouse=True)
def _no_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under WSL, too, the machines are made up."""
    monkeypatch.setattr(driver, "_WSL", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("check", "facts", "status", "text"),
    CASES,
    ids=[f"{case[0]}-{case[2]}-{index}" for index, case in enumerate(CASES)],
)
def test_verdict(check: str, facts: Facts, status: str, text: str) -> None:
    finding = judged(check, facts)
    assert (finding.status, finding.id) == (status, check), finding
    assert text in f"{finding.detail}\n{finding.fix}", finding
    # What is wrong comes with what to do about it, and what is right does not.
    assert (finding.fix is not None) == (status in ("warn", "fail")), finding


def test_every_check_is_tried_right_and_wrong() -> None:
    # Those look at folders: below, and in test_doctor_broken.py.
    elsewhere = {"python.shadowing", "packages.record", "libraries.path"}
    for check in CHECKS:
        statuses = {status for name, _, status, _ in CASES if name == check.id}
        if check.id not in elsewhere:
            assert statuses & {"ok", "skip"}, check.id
            assert statuses & {"warn", "fail"}, check.id


def test_a_good_machine_with_a_good_environment_is_good() -> None:
    bad = [finding for finding in examine(GOOD, CHECKS) if finding.status not in ("ok", "skip")]
    assert bad == []


def test_there_are_enough_checks_with_stable_names() -> None:
    names = [check.id for check in CHECKS]
    assert len(names) == len(set(names)) == 48


def test_advice_is_what_runs_and_not_what_torch_says() -> None:
    """torch 2.15 tells the owner of a GTX 1080 to take 2.15 of the index cu126, which has none."""
    facts = change(machine(gpus=(GTX_1080,)), plan=planned(change(ONE_GPU, gpus=(GTX_1080,))))
    fix = judged("torch.architectures", facts).fix
    assert fix is not None
    assert "torch==2.15" not in fix
    assert "--index https://download.pytorch.org/whl/cu126" in fix


def test_an_index_that_does_not_answer_is_not_advised() -> None:
    machine = change(ONE_GPU, driver="580.65.06", os="linux")
    plan = planned(NO_GPU)
    assert plan.torch.index is not None
    broken = change(stages(torchvision=NMS), plan=plan, machine=machine)
    fix = judged("torchvision.operators", broken).fix
    assert fix is not None
    assert "--index" in fix
    dead = Endpoint(purpose="pytorch", url="https://x", source="the catalog", ok=False, problem="unreachable")
    fix = judged("torchvision.operators", change(broken, endpoints=(dead,))).fix
    assert fix is not None
    assert "--index" not in fix


def test_local_files_shadow_packages(tmp_path: Path) -> None:
    facts = change(GOOD, folder=tmp_path)
    assert judged("python.shadowing", facts).status == "ok"
    (tmp_path / "data").mkdir()
    (tmp_path / "torch").mkdir()  # no package: Python takes the installed one
    assert judged("python.shadowing", facts).status == "ok"
    (tmp_path / "torch.py").touch()
    finding = judged("python.shadowing", facts)
    assert (finding.status, finding.fix) == ("fail", f"mv {tmp_path / 'torch.py'} {tmp_path / 'my_torch.py'}")


def test_library_path(tmp_path: Path) -> None:
    (tmp_path / "libcudnn.so.9").touch()
    facts = environ(LD_LIBRARY_PATH=f"{tmp_path}:/env/lib")
    finding = judged("libraries.path", facts)
    assert (finding.status, finding.fix) == ("warn", "export LD_LIBRARY_PATH=/env/lib")
    loaded = change(facts, report=probed(libraries={"paths": [f"{tmp_path}/libcudnn.so.9"]}))
    assert judged("libraries.path", loaded).status == "fail"
    assert judged("libraries.path", change(facts, report=probed(torch="ImportError: x"))).status == "fail"


@pytest.mark.parametrize(
    ("codes", "capability", "runs"),
    [
        (["sm_86"], "8.9", True),  # a newer one of the same major version
        (["sm_86"], "8.0", False),  # an older one
        (["sm_90"], "10.0", False),
        (["sm_90", "compute_90"], "10.0", True),  # PTX is compiled for whatever is newer
        (["sm_120"], "12.1", True),
        (["sm_90a"], "9.0", True),
        (["sm_100a"], "10.3", False),
        (["sm_100f"], "10.3", True),
        (["sm_50", "sm_60"], "6.1", True),
        (["gfx90a"], "9.0", False),
        (["sm_75"], "unknown", True),
    ],
)
def test_machine_code(codes: list[str], capability: str, runs: bool) -> None:
    from dlenv.doctor.checks.torch import runs_on

    assert runs_on(codes, capability) is runs


def test_only_what_computes_is_to_be_ended_and_the_largest_first() -> None:
    finding = judged("gpu.memory", gpu(memory_free_mib=100, processes=DESKTOP))
    assert finding.fix == "kill 10 9"
    assert "/usr/lib/xorg/Xorg (pid 7, 5000 MiB)" in finding.detail


def test_the_systems_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").touch()
    monkeypatch.setattr(network, "_BUNDLES", ("/no/such/file", str(tmp_path / "bundle")))
    finding = judged("network.certificates", endpoint("packages", "certificate", "CERTIFICATE_VERIFY_FAILED"))
    assert finding.fix == f"export SSL_CERT_FILE={tmp_path / 'bundle'}"


def test_uv_is_there_whatever_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    command = Path(shlex.split(shell.uv("cache", "prune"))[0])
    assert command.is_absolute()
    assert command.exists()


def test_wsl_has_the_driver_where_the_loader_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_WSL", tmp_path)
    assert judged("driver.wsl", without_gpu(wsl=2)).status == "skip"
    (tmp_path / "libnvidia-ml.so.1").touch()
    finding = judged("driver.wsl", without_gpu(wsl=2))
    assert finding.status == "fail"
    assert finding.fix == f"echo {tmp_path} | sudo tee /etc/ld.so.conf.d/ld.wsl.conf && sudo ldconfig"


def test_temporary_files_go_where_there_is_room() -> None:
    here = Disk(purpose="environment", path="/data/home/env", free_mib=100_000, total_mib=500_000, device=2)
    for purpose, fix in (
        ("temporary", "export TMPDIR=/data/home"),
        ("cache", "export UV_CACHE_DIR=/data/home/uv-cache"),
    ):
        small = Disk(purpose=purpose, path="/tmp", free_mib=500, total_mib=1000, device=1)  # type: ignore[arg-type]
        assert judged("system.disk", machine(disks=(here, small))).fix == fix


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name a shell takes apart where it isn't quoted."""
    folder = tmp_path / "a b; $(false)"
    folder.mkdir()
    return folder


def test_words_of_commands_are_quoted(odd: Path) -> None:
    (odd / "torch.py").touch()
    target = Target(python=odd / "bin/python", env=odd, kind="conda")
    facts = change(GOOD, folder=odd, target=target)
    broken = Report(python="x", level="facts", problem="it is gone")
    pip = package("torch", "2.6.0", installer="pip")
    kernel = [spec("/no/such/python", "x; reboot", "/home/x")]
    elsewhere = (package("six", "1", str(odd)), package("six", "2", str(odd / "other")))
    old = probed(python={"version": "3.7.9", "implementation": "CPython", "bits": 64})
    cases = {
        "python.shadowing": (facts, ["mv", str(odd / "torch.py"), str(odd / "my_torch.py")]),
        "python.start": (change(facts, report=broken), ["dlenv", "setup", "--env", str(odd)]),
        "python.version": (change(facts, report=old), ["dlenv", "setup", "--env", str(odd), "--python", "3.11"]),
        "course.d2l": (
            change(facts, report=probed(d2l="AttributeError: x", python={"version": "3.14.0"})),
            ["dlenv", "setup", "--env", str(odd), "--course", "zh"],
        ),
        "packages.conda": (
            change(facts, conda=(CondaPackage(name="pytorch", version="2.5.1"),), distributions=(pip,)),
            ["conda", "remove", "--prefix", str(odd), "--force", "pytorch", "&&"],
        ),
        "packages.duplicates": (
            change(facts, distributions=elsewhere),
            ["pip", "uninstall", "--python", str(odd / "bin/python"), "--target", str(odd / "other"), "six"],
        ),
        "jupyter.dangling": (
            change(facts, report=probed(jupyter={"kernels": kernel})),
            ["jupyter", "kernelspec", "remove", "x; reboot"],
        ),
        "libraries.threads": (change(facts, machine=change(ONE_GPU, cpus=2)), ["export", "OMP_NUM_THREADS=2"]),
    }
    for check, (wrong, words) in cases.items():
        fix = judged(check, wrong).fix
        assert fix is not None
        found = shlex.split(fix)
        start = found.index(words[0])  # before "pip" comes uv, wherever that is
        assert found[start : start + len(words)] == words, check


@pytest.mark.parametrize(("check", "facts", "status", "text"), CASES)
def test_windows_is_told_its_own_commands(
    monkeypatch: pytest.MonkeyPatch, check: str, facts: Facts, status: str, text: str
) -> None:
    monkeypatch.setattr(shell, "_WINDOWS", True)
    assert facts.machine is not None
    windows = change(facts.machine, os="windows", container=None, wsl=0, nouveau=False, libc=None)
    fix = judged(check, change(facts, machine=windows)).fix or ""
    if not re.search("fabricmanager|usermod|/dev/shm|cuda-compat", fix):  # those are Linux's own faults
        assert not re.search(r"\b(unset|export|mv|kill|sudo)\b", fix), (status, text)


def test_windows_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_WINDOWS", True)
    assert shell.unset("A", "B") == "Remove-Item Env:A; Remove-Item Env:B"
    assert shell.export(A="it's") == "$env:A = 'it''s'"


def test_requirements_that_contradict_are_not_asked_for_at_once() -> None:
    def fix(*requirements: str, have: str | None) -> str:
        asking = [package(name, requires=(text,)) for name, text in zip("ab", requirements, strict=False)]
        there = [package("colorama", have)] if have else []
        return judged("packages.requirements", installed(*asking, *there)).fix or ""

    # No version pleases both, also where one is pleased now.
    newer = "--upgrade-package a --upgrade-package b a b"
    assert fix("colorama<0.1", "colorama>9", have="1").endswith(newer)
    assert fix("colorama<0.1", "colorama>9", have="10").endswith(newer)
    assert fix("colorama>=1.2,<3", "colorama==2.*,!=2.0", have=None).endswith("'colorama!=2.0,<3,==2.*,>=1.2'")
    assert fix("colorama>=1.2,<3", "colorama>=2", have="1.5").endswith("'colorama<3,>=1.2,>=2'")


def test_what_d2l_lacks_comes_as_the_course_has_it() -> None:
    """And not as d2l asks for it: numpy 1.21.5 has no wheel for this Python."""
    lacking = installed(package("d2l", "0.17.6", requires=("numpy (==1.21.5)",)))
    assert (judged("packages.requirements", lacking).fix or "").endswith("numpy==1.26.4")


def test_the_systems_copies_stand_behind_the_environments() -> None:
    system = "/usr/lib/python3/dist-packages"
    own = judged("packages.duplicates", installed(package("torch", "2.15.0"), package("torch", "2.6.0", system)))
    assert own.status == "ok"
    assert f"2.6.0 in {system}" in own.detail
    both = judged("packages.duplicates", installed(package("torch", "2", "/home/me"), package("torch", "1", system)))
    assert both.status == "ok"
    # Never is the copy to be removed that Python takes, nor one of the system's.
    three = (package("torch", "3", "/opt"), package("torch", "2"), package("torch", "1", system))
    finding = judged("packages.duplicates", installed(*three))
    assert finding.status == "fail"
    assert (finding.fix or "").endswith("uv pip uninstall --python /env/bin/python --target /env/lib torch")


def test_the_systems_packages_are_not_the_environments_to_mend() -> None:
    broken = package("torch", None, "/usr/lib/python3/dist-packages")
    assert judged("packages.files", installed(broken)).status == "ok"


def test_debians_copies_stand_behind_those_of_pip() -> None:
    """Colab and Kaggle: pip's and the distribution's."""
    system = Target(python=Path("/usr/bin/python3"))
    places = ("/usr/local/lib/python3.12/dist-packages", "/usr/lib/python3/dist-packages")
    copies = tuple(package("numpy", "1", place) for place in places)
    assert judged("packages.duplicates", change(GOOD, target=system, distributions=copies)).status == "ok"
    mixed = (package("numpy", "1", "/opt/a"), package("numpy", "2", "/opt/b"))
    finding = judged("packages.duplicates", change(GOOD, target=system, distributions=mixed))
    assert (finding.status, finding.fix) == ("fail", "dlenv setup")


def test_one_old_gpu_of_two() -> None:
    """What one check advises, the others accept."""
    both = change(ONE_GPU, gpus=(RTX_4060, change(GTX_1080, index=1)))
    unproved = change(stages(cuda=Stage(name="", status="skipped")), machine=both)
    finding = judged("torch.architectures", unproved)
    assert finding.fix == "export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0"
    obeyed = change(unproved, machine=change(both, cuda_visible_devices="0"))
    for check in ("torch.architectures", "torch.driver", "torch.build", "gpu.visible"):
        assert judged(check, obeyed).status == "ok", check
    assert (
        judged("torch.architectures", change(obeyed, machine=change(both, cuda_visible_devices="1"))).status == "fail"
    )
    # CUDA counts from the fastest GPU on, NVML along the bus.
    proved = change(stages(), machine=change(both, cuda_visible_devices="1"))
    assert judged("torch.architectures", proved).status == "ok"
    assert judged("torch.architectures", change(proved, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})).status == "fail"
    plan = change(planned(both), gpus=(0,))
    record = Record(
        dlenv="0.1.0", created="", request=Request(), machine=both, plan=plan, torch=plan.torch, packages=()
    )
    assert judged("torch.architectures", change(unproved, record=record)).status == "ok"


def test_the_documentation_says_what_the_checks_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `([a-z0-9.-]+)` \| (.+) \|$", text, re.MULTILINE))
    for check in CHECKS:
        documented = " ".join((check.function.__doc__ or "").partition("\n\n")[0].split())
        assert documented == f"W{said[check.id][1:]}.", check.id


def test_the_systems_loader_path(tmp_path: Path) -> None:
    """/etc/ld.so.conf.d leads to another cuDNN, and LD_LIBRARY_PATH is not set."""
    own = tmp_path / "env.d/1/lib/python3.11/site-packages/nvidia/cudnn/lib"
    cache = tmp_path / "cache/libcudnn.so.9"
    own.mkdir(parents=True)
    cache.parent.mkdir()
    cache.touch()
    (own / "libcudnn.so.9").symlink_to(cache)
    (own / "libcublas.so.12").touch()
    (tmp_path / "env").symlink_to(tmp_path / "env.d/1")
    python = {"version": "3.11.7", "prefix": str(tmp_path / "env")}

    def loaded(*paths: object, **stages: Any) -> Finding:
        report = probed(python=python, libraries={"paths": list(map(str, paths))}, **stages)
        return judged("libraries.path", change(GOOD, report=report))

    assert loaded(own / "libcublas.so.12", cache, "/usr/lib/libnccl.so.2").status == "ok"
    finding = loaded("/usr/local/cuda/lib64/libcudnn.so.9.1.0")
    folder = tmp_path / "env/lib/python3.11/site-packages/nvidia/cudnn/lib"
    assert (finding.status, finding.fix) == ("warn", f"export LD_LIBRARY_PATH={folder}")
    assert "/usr/local/cuda/lib64/libcudnn.so.9.1.0" in finding.detail
    assert loaded("/usr/local/cuda/lib64/libcudnn.so.9.1.0", torch="ImportError: x").status == "fail"


def test_a_port_that_is_no_number() -> None:
    """str.isdigit() takes it for one, and int() does not."""
    assert 8000 in {port.number for port in services.ports({"DLENV_PORT": "\u00b2"})}
