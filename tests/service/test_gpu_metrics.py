"""GPU metrics through the real pynvml, over a stub of NVIDIA's library that is compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).parents[1] / "fakes" / "nvml.c"
COMPILER = shutil.which("cc")
SCRIPT = """
from dlenv_service.metrics import _gpus
for family in _gpus([], []):
    for sample in family.samples:
        print(sample.name, sorted(sample.labels.items()), sample.value)
"""


@pytest.mark.skipif(
    not (COMPILER and sys.platform == "linux"), reason="needs Linux and a C compiler (Debian: apt-get install gcc)"
)
def test_a_gpu_is_told_and_one_that_is_lost_leaves_the_others(tmp_path: Path) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", library, STUB], check=True)
    machine = {
        "STUB_NVML_GPUS": "2",
        "STUB_NVML_0_NAME": "Stub GPU 0",
        "STUB_NVML_0_MEMORY_MIB": "8192",
        "STUB_NVML_0_USED_MIB": "3072",
        "STUB_NVML_0_UTILIZATION": "25",
        "STUB_NVML_1_NAME": "Stub GPU 1",
        "STUB_NVML_1_nvmlDeviceGetMemoryInfo": "15",  # GPU is lost; utilization it does not support
    }
    environ = {**os.environ, **machine, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
    label = "[('gpu', '0'), ('name', 'Stub GPU 0')]"
    assert done.stdout.splitlines() == [
        f"dlenv_gpu_memory_used_bytes {label} {3 * 2**30}",
        f"dlenv_gpu_memory_total_bytes {label} {8 * 2**30}",
        f"dlenv_gpu_utilization_ratio {label} 0.25",
    ]


def test_without_a_driver_there_are_no_gpu_metrics(tmp_path: Path) -> None:
    # An empty file in the library's place: what the loader makes of it is NVML's "not found".
    (tmp_path / "libnvidia-ml.so.1").touch()
    environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == ""
