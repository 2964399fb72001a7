"""A table of machines and what each of them gets."""

# ruff: noqa: E501 (one line a machine)

from __future__ import annotations

from typing import Any

import pytest
from machines import machine, make, summary

from dlenv.errors import DlenvError, SetupError, UsageError
from dlenv.machine.model import Machine, Nvml

GPU_MACHINES: list[tuple[str, str, str | None, str, dict[str, Any], str]] = [
    # name, system, driver, compute capabilities, request, expected
    ("T4, new driver", "linux", "580.95.05", "7.5", {}, "2.15.0+cu132 pypi"),
    ("T4, the first driver for CUDA 13", "linux", "580.65.06", "7.5", {}, "2.15.0+cu132 pypi"),
    ("T4, the last driver before it", "linux", "575.64.03", "7.5", {}, "2.14.1+cu126"),
    ("T4, 550", "linux", "550.54.14", "7.5", {}, "2.14.1+cu126"),
    ("T4, the first driver for CUDA 12", "linux", "525.60.13", "7.5", {}, "2.14.1+cu126"),
    ("T4, just below it", "linux", "525.60.11", "7.5", {}, "2.7.1+cu118"),
    ("T4, 470", "linux", "470.256.02", "7.5", {}, "2.7.1+cu118"),
    ("T4, the first driver for CUDA 11", "linux", "450.80.02", "7.5", {}, "2.7.1+cu118"),
    ("T4, driver 440", "linux", "440.33.01", "7.5", {}, "2.15.0+cpu"),
    ("T4, no driver number, CUDA 12.4", "linux", None, "7.5", {"cuda_driver": "12.4"}, "2.14.1+cu126"),
    ("T4, nothing known of the driver", "linux", None, "7.5", {}, "2.15.0+cpu"),
    ("GTX 1080 Ti, driver 580", "linux", "580.95.05", "6.1", {}, "2.14.1+cu126"),
    ("GTX 1080 Ti, driver 535", "linux", "535.183.01", "6.1", {}, "2.14.1+cu126"),
    ("GTX 1080 Ti on Windows", "windows", "580.88", "6.1", {}, "2.14.1+cu126"),
    ("GTX 980", "linux", "580.95.05", "5.2", {}, "2.14.1+cu126"),
    ("P100", "linux", "535.183.01", "6.0", {}, "2.14.1+cu126"),
    ("V100", "linux", "580.95.05", "7.0", {}, "2.14.1+cu126"),
    ("V100, 535", "linux", "535.183.01", "7.0", {}, "2.14.1+cu126"),
    ("V100 on Windows", "windows", "580.88", "7.0", {}, "2.14.1+cu126"),
    ("K80, driver 470", "linux", "470.256.02", "3.7", {}, "2.7.1+cu118"),
    ("K80 on Windows", "windows", "474.14", "3.7", {}, "2.7.1+cu118"),
    ("K40", "linux", "470.256.02", "3.5", {}, "2.15.0+cpu"),
    ("A100", "linux", "580.95.05", "8.0", {}, "2.15.0+cu132 pypi"),
    ("RTX 3090, 560", "linux", "560.35.05", "8.6", {}, "2.14.1+cu126"),
    ("RTX 4060 on Windows, CUDA 12.4", "windows", "551.61", "8.9", {}, "2.14.1+cu126"),
    ("the same, strictly", "windows", "551.61", "8.9", {"strict_cuda": True}, "2.6.0+cu124"),
    ("RTX 4060 on Windows, new driver", "windows", "591.44", "8.9", {}, "2.15.0+cu132"),
    ("RTX 4060 on Windows, the first for 12", "windows", "527.41", "8.9", {}, "2.14.1+cu126"),
    ("RTX 4060 on Windows, just below", "windows", "527.37", "8.9", {}, "2.7.1+cu118"),
    ("H100, driver 580", "linux", "580.95.05", "9.0", {}, "2.15.0+cu132 pypi"),
    ("H100, strictly with 13.0", "linux", "580.95.05", "9.0", {"strict_cuda": True}, "2.15.0+cu130"),
    ("H100, strictly with 12.8", "linux", "570.124.06", "9.0", {"strict_cuda": True}, "2.11.0+cu128"),
    ("H100, strictly with 12.2", "linux", "535.183.01", "9.0", {"strict_cuda": True}, "2.5.1+cu121"),
    ("B200", "linux", "580.95.05", "10.0", {}, "2.15.0+cu132 pypi"),
    ("B300 runs code for B200", "linux", "580.95.05", "10.3", {}, "2.15.0+cu132 pypi"),
    ("RTX 5090, driver 570", "linux", "570.86.10", "12.0", {}, "2.13.0+cu129"),
    ("RTX 5090 on Windows, driver 570", "windows", "572.16", "12.0", {}, "2.11.0+cu128"),
    ("RTX 5090, driver 580", "linux", "580.95.05", "12.0", {}, "2.15.0+cu132 pypi"),
    ("a GPU of the future", "linux", "600.10", "13.0", {"cuda_driver": "14.0"}, "2.11.0+cu129"),
    ("its PTX needs a driver that knows 12.9", "linux", "570.86.10", "13.0", {"cuda_driver": "12.8"}, "2.7.1+cu128"),
    ("T4 beside a GTX 1080", "linux", "580.95.05", "7.5 6.1", {}, "2.14.1+cu126"),
    ("only its T4", "linux", "580.95.05", "7.5 6.1", {"gpus": (0,)}, "2.15.0+cu132 pypi"),
    ("only its GTX 1080", "linux", "580.95.05", "7.5 6.1", {"gpus": (1,)}, "2.14.1+cu126"),
    ("neither", "linux", "580.95.05", "7.5 6.1", {"gpus": ()}, "2.15.0+cpu"),
    ("K80 beside an H100", "linux", "580.95.05", "3.7 9.0", {}, "2.7.1+cu118"),
    ("K80 beside an RTX 5090", "linux", "580.95.05", "3.7 12.0", {}, "2.15.0+cpu"),
    ("GTX 1080 beside an RTX 5090", "linux", "580.95.05", "6.1 12.0", {}, "2.15.0+cpu"),
    ("WSL", "wsl", "591.44", "8.9", {}, "2.15.0+cu132 pypi"),
    ("WSL has Windows' driver numbers", "wsl", "527.41", "8.9", {}, "2.14.1+cu126"),
    ("WSL, just below", "wsl", "527.37", "8.9", {}, "2.7.1+cu118"),
    ("GH200 on Arm", "linux arm", "580.95.05", "9.0", {}, "2.15.0+cu132 pypi"),
    ("GH200 on Arm, 550", "linux arm", "550.54.14", "9.0", {}, "2.14.1+cu126"),
    ("GB10 on Arm", "linux arm", "580.95.05", "12.1", {}, "2.15.0+cu132 pypi"),
    ("T4G on Arm", "linux arm", "580.95.05", "7.5", {}, "2.15.0+cpu"),
    ("CentOS 7, T4", "linux 2.17", "550.54.14", "7.5", {}, "2.6.0+cu124 pypi"),
    ("CentOS 7, driver 470", "linux 2.17", "470.256.02", "7.5", {}, "2.6.0+cu118"),
    ("Python 3.10", "linux", "580.95.05", "7.5", {"python": "3.10"}, "2.14.1+cu130 pypi"),
    ("Python 3.9", "linux", "580.95.05", "7.5", {"python": "3.9"}, "2.8.0+cu128 pypi"),
    ("Python 3.8", "linux", "580.95.05", "7.5", {"python": "3.8"}, "2.4.1+cu121 pypi"),
    ("torch 2.9.1", "linux", "580.95.05", "7.5", {"torch": "2.9.1"}, "2.9.1+cu128 pypi"),
    ("torch 2.9.1 on a GTX 1080", "linux", "580.95.05", "6.1", {"torch": "2.9.1"}, "2.9.1+cu126"),
    ("torch 2.15.0 on a GTX 1080", "linux", "580.95.05", "6.1", {"torch": "2.15.0"}, "2.15.0+cpu"),
    ("build cu126", "linux", "580.95.05", "7.5", {"build": "cu126"}, "2.14.1+cu126"),
    ("build cu128", "linux", "580.95.05", "7.5", {"build": "cu128"}, "2.11.0+cu128"),
    ("build cpu", "linux", "580.95.05", "7.5", {"build": "cpu"}, "2.15.0+cpu"),
    ("torch and build", "linux", "550.54.14", "7.5", {"build": "cu124", "torch": "2.5.1"}, "2.5.1+cu124 pypi"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("system", "driver", "capabilities", "wishes", "expected"), [row[1:] for row in GPU_MACHINES],
    ids=[row[0] for row in GPU_MACHINES],
)  # fmt: skip
def test_a_machine_with_nvidia_gpus(
    system: str, driver: str | None, capabilities: str, wishes: dict[str, Any], expected: str
) -> None:
    facts = {key: value for key, value in wishes.items() if key == "cuda_driver"}
    request = {key: value for key, value in wishes.items() if key not in facts}
    planned = make(machine(system, driver, capabilities, **facts), **request)
    assert summary(planned) == expected
    assert bool(planned.gpus) == ("+cu" in expected)
    assert planned.reasons


OTHER_MACHINES: list[tuple[str, Machine, dict[str, Any], str]] = [
    ("no GPU", machine("linux"), {}, "2.15.0+cpu"),
    ("no GPU on Arm", machine("linux arm"), {}, "2.15.0+cpu"),
    ("no GPU on Windows", machine("windows 10.0.22631"), {}, "2.15.0+cpu pypi"),
    ("no GPU, CentOS 7", machine("linux 2.17"), {}, "2.6.0+cpu"),
    ("no GPU, Arm of that time", machine("linux 2.17 arm"), {}, "2.5.1+cpu pypi"),
    ("no GPU, Python 3.9", machine("linux"), {"python": "3.9"}, "2.8.0+cpu"),
    ("no GPU, CUDA asked for", machine("linux"), {"build": "cu126"}, "2.14.1+cu126"),
    ("Jetson", machine("linux arm", None, "8.7", jetson=True), {}, "2.15.0+cpu"),
    ("Apple silicon, macOS 15", machine("macos 15.1"), {}, "2.15.0+mps pypi"),
    ("Apple silicon, macOS 14", machine("macos 14.5"), {}, "2.15.0+mps pypi"),
    ("Apple silicon, macOS 13", machine("macos 13.6"), {}, "2.8.0+mps pypi"),  # the last with MPS there
    ("Apple silicon, macOS 13, no GPU", machine("macos 13.6"), {"gpus": ()}, "2.11.0+mps pypi"),
    ("Apple silicon, macOS 12", machine("macos 12.6"), {}, "2.4.1+mps pypi"),
    ("Apple silicon, macOS 11", machine("macos 11.7"), {}, "2.11.0+mps pypi"),
    ("Apple silicon, macOS not known", machine("macos"), {}, "2.15.0+mps pypi"),
    ("macOS 11 and Python 3.13", machine("macos 11.7"), {"python": "3.13"}, "2.8.0+mps pypi"),
    ("Intel Mac", machine("macos 14.5 intel"), {}, "2.2.2+cpu pypi"),
    ("AMD", machine("linux", amd_gpus=("gfx1100",), rocm_driver=True), {}, "2.13.0+rocm7.2"),
    ("AMD with a processor's GPU", machine("linux", amd_gpus=("gfx1036", "gfx1100"), rocm_driver=True), {}, "2.13.0+rocm7.2"),
    ("AMD, none wanted", machine("linux", amd_gpus=("gfx1100",), rocm_driver=True), {"gpus": ()}, "2.15.0+cpu"),
    ("AMD beside a K40", machine("linux", "470.256.02", "3.5", amd_gpus=("gfx1100",), rocm_driver=True), {}, "2.13.0+rocm7.2"),
    ("AMD beside a T4", machine("linux", "580.95.05", "7.5", amd_gpus=("gfx1100",), rocm_driver=True), {}, "2.15.0+cu132 pypi"),
    ("AMD without ROCm's driver", machine("linux", amd_gpus=("gfx1100",)), {}, "2.15.0+cpu"),
    ("AMD that ROCm builds lack", machine("linux", amd_gpus=("gfx803",), rocm_driver=True), {}, "2.15.0+cpu"),
    ("AMD by name only", machine("linux", amd_gpus=("Radeon RX 7900 XTX",), rocm_driver=True), {}, "2.15.0+cpu"),
    ("AMD on Windows", machine("windows", amd_gpus=("gfx1100",)), {}, "2.15.0+cpu pypi"),
    ("Intel GPU", machine("linux", intel_gpu=True), {}, "2.15.0+cpu"),
    ("Intel GPU, XPU asked for", machine("linux", intel_gpu=True), {"build": "xpu"}, "2.13.0+xpu"),
    ("driver not loaded", machine("linux", nvidia_pci=("0000:01:00.0",), nvml=Nvml(status="driver-not-loaded")), {}, "2.15.0+cpu"),
    ("lost GPU", machine("linux", "580.95.05", "?"), {}, "2.15.0+cpu"),
    ("lost GPU beside a T4", machine("linux", "580.95.05", "? 7.5"), {}, "2.15.0+cu132 pypi"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "wishes", "expected"), [row[1:] for row in OTHER_MACHINES], ids=[row[0] for row in OTHER_MACHINES]
)
def test_another_machine(where: Machine, wishes: dict[str, Any], expected: str) -> None:
    assert summary(make(where, **wishes)) == expected


AMD = {"amd_gpus": ("gfx1100", "gfx1036", "gfx1100"), "rocm_driver": True}
PROVEN: list[tuple[str, Machine, dict[str, Any], tuple[str, ...]]] = [
    ("no GPU", machine("linux"), {}, ()),
    ("a CUDA build for later", machine("linux"), {"build": "cu126"}, ()),
    ("two GPUs", machine("linux", "580.95.05", "7.5 9.0"), {}, ("cuda:0", "cuda:1")),
    ("the second one is PyTorch's first", machine("linux", "580.95.05", "7.5 9.0"), {"gpus": (1,)}, ("cuda:0",)),
    ("GPUs that are not wanted", machine("linux", "580.95.05", "7.5 9.0"), {"gpus": ()}, ()),
    ("GPUs that no build suits", machine("linux", "440.33.01", "7.5"), {}, ()),
    ("Apple silicon", machine("macos 15.1"), {}, ("mps",)),
    ("Apple silicon, asked for", machine("macos 15.1"), {"build": "mps"}, ("mps",)),
    ("Apple silicon, not wanted", machine("macos 15.1"), {"gpus": ()}, ()),
    ("Apple silicon, asked for and not wanted", machine("macos 15.1"), {"gpus": (), "build": "mps"}, ()),
    ("Apple silicon before MPS", machine("macos 11.7"), {}, ()),
    ("Apple silicon, this torch before MPS", machine("macos 13.6"), {"torch": "2.11.0"}, ()),
    ("Intel Mac", machine("macos 14.5 intel"), {}, ()),
    ("AMD, the one in the processor has no code", machine("linux", **AMD), {}, ("cuda:0", "cuda:1")),
    ("AMD, not wanted", machine("linux", **AMD), {"gpus": (), "build": "rocm7.2"}, ()),
    ("AMD by name", machine("linux", amd_gpus=("Radeon",), rocm_driver=True), {"build": "rocm7.2"}, ("cuda:0",)),
    ("AMD without ROCm's driver", machine("linux", amd_gpus=("gfx1100",)), {"build": "rocm7.2"}, ()),
    ("Intel GPU", machine("linux", intel_gpu=True), {"build": "xpu"}, ()),
    ("Colab", machine("linux", "580.95.05", "7.5", colab=True), {"installed_torch": "2.11.0+cu128"}, ("cuda:0",)),
    ("Colab, not wanted", machine("linux", "580.95.05", "7.5", colab=True), {"installed_torch": "2.11.0+cu128", "gpus": ()}, ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "wishes", "devices"), [row[1:] for row in PROVEN], ids=[row[0] for row in PROVEN]
)  # fmt: skip
def test_what_is_proven(where: Machine, wishes: dict[str, Any], devices: tuple[str, ...]) -> None:
    assert make(where, **wishes).devices == devices


REFUSED: list[tuple[str, Machine, dict[str, Any], type[DlenvError], str]] = [
    ("Alpine", machine("linux", libc=("musl", "1.2.5")), {}, SetupError, "musl 1.2.5 .* glibc"),
    ("32-bit Python", machine("windows", python_bits=32), {}, SetupError, "64-bit Python"),
    ("RISC-V", machine("linux", arch="riscv64"), {}, SetupError, "no wheels for linux on riscv64"),
    ("Windows on Arm", machine("windows arm"), {}, SetupError, "no wheels for windows on arm64"),
    ("FreeBSD", machine("other"), {}, SetupError, "no wheels for other"),
    ("glibc of 2011", machine("linux 2.12"), {}, SetupError, "needs glibc 2.17 or newer, and this is 2.12"),
    ("macOS 10", machine("macos 10.15"), {}, SetupError, "needs macOS 11.0 or newer, and this is 10.15"),
    ("unknown torch", machine("linux"), {"torch": "9.9"}, UsageError, "torch '9.9' is not known"),
    ("unknown build", machine("linux"), {"build": "cu999"}, UsageError, "builds are cpu, cu116"),
    ("mps on Linux", machine("linux"), {"build": "mps"}, UsageError, "'mps' does not exist for linux-x86_64"),
    ("torch without that build", machine("linux"), {"torch": "2.15.0", "build": "cu126"}, UsageError, "newest torch with cu126 is 2.14.1"),
    ("unknown Python", machine("linux"), {"python": "3.99"}, UsageError, "no torch has wheels for Python 3.99 here; there are some for 3.8 to 3.15"),
    ("Python with three numbers", machine("linux"), {"python": "3.11.7"}, UsageError, "'3.11.7' is no version such as 3.11"),
    ("Python too old for torch", machine("linux"), {"python": "3.10", "torch": "2.15.0"}, UsageError, "Python 3.11 to 3.15, not for 3.10"),
    ("Python too old for serve", machine("linux"), {"python": "3.9", "extras": ("serve",)}, UsageError, "need Python >=3.10,<3.14, not 3.9"),
    ("Intel Mac and serve", machine("macos 14.5 intel"), {"extras": ("serve",)}, SetupError, "need torch >=2.6"),
    ("no such GPU", machine("linux", "580.95.05", "7.5"), {"gpus": (3,)}, UsageError, r"no GPU 3 here; the GPUs are: 0 \(Tesla T4\)"),
    ("a GPU where there is none", machine("linux"), {"gpus": (0,)}, UsageError, "no GPU 0 here; the GPUs are: none"),
    ("a driver that does not answer", machine("linux", nvml=Nvml(status="mismatch", detail="Driver/library version mismatch")), {"gpus": (0,)}, SetupError, r"GPU 0 can't be used: NVIDIA's driver can't be asked: mismatch \(Driver/library version mismatch\); dlenv doctor"),
    ("a driver that is not loaded", machine("linux", nvidia_pci=("0000:01:00.0",), nvml=Nvml(status="driver-not-loaded")), {"gpus": (0,)}, SetupError, "driver-not-loaded"),
    ("a driver without its library", machine("linux", nvidia_pci=("0000:01:00.0",), nouveau=True), {"gpus": (0,)}, SetupError, "library-missing; the kernel module nouveau"),
    ("the lost GPU", machine("linux", "580.95.05", "?"), {"gpus": (0,)}, SetupError, "can't be used"),
    ("a Jetson's GPU", machine("linux arm", None, "8.7", jetson=True), {"gpus": (0,)}, SetupError, "Jetson"),
    ("build too new for the GPU", machine("linux", "580.95.05", "6.1"), {"build": "cu132"}, SetupError, r"no code for .* 6\.1.* it would be 2.14.1\+cu126"),
    ("build too new for the driver", machine("linux", "550.54.14", "7.5"), {"build": "cu130"}, SetupError, "needs driver 580 or newer, and this is 550.54.14"),
    ("ROCm build without this GPU", machine("linux", amd_gpus=("gfx803",), rocm_driver=True), {"build": "rocm7.2"}, SetupError, "no code for gfx803"),
    ("in place elsewhere", machine("linux"), {"manager": "colab"}, UsageError, "on Colab and Kaggle only"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "wishes", "error", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_can_not_be_planned_is_explained(
    where: Machine, wishes: dict[str, Any], error: type[DlenvError], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        make(where, **wishes)
    assert type(caught.value) is error
