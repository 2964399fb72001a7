"""NVML, asked by the real pynvml, on made-up machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pynvml
import pytest
from nvml_stub import StubGpu, fake_machine

from dlenv.machine import GpuProcess, Machine, Nvml, inspect, nvml

RTX_4060 = ("NVIDIA GeForce RTX 4060", "8.9", 8188)
H100 = ("NVIDIA H100 80GB HBM3", "9.0", 81559)
ERRORS = {value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
NAMED = {
    4: "no-permission",
    9: "driver-not-loaded",
    12: "library-missing",
    15: "gpu-lost",
    17: "blocked",
    18: "mismatch",
    28: "no-gpu",
}
CALLS = [
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
]

Make = Callable[..., dict[str, str]]


def ask(timeout: float = 10) -> nvml.Answer:
    return nvml.ask(os.environ, timeout)


def asking() -> list[psutil.Process]:
    """The processes of ours that still ask NVML."""
    return [it for it in psutil.Process().children(recursive=True) if "nvml_child.py" in " ".join(it.cmdline())]


def test_a_gpu_as_nvml_describes_it(with_gpus: Make) -> None:
    gpu = StubGpu(
        *RTX_4060,
        used_mib=1188,
        uuid="GPU-6c5a3d1e-0000-4444-8888-0123456789ab",
        compute_mode="exclusive-process",
        processes=[(4711, "/usr/bin/python3", 900), (4712, None, None)],
        drawing=[(900, "/usr/lib/xorg/Xorg", 288), (4711, "/usr/bin/python3", 900)],
    )
    with_gpus(driver="550.54.14", cuda="12.4", gpus=[gpu])
    machine = inspect()
    assert (machine.nvml, machine.driver, machine.cuda_driver) == (Nvml(status="ok"), "550.54.14", "12.4")
    (found,) = machine.gpus
    assert (found.index, found.name, found.compute_capability) == (0, "NVIDIA GeForce RTX 4060", "8.9")
    assert (found.memory_mib, found.memory_free_mib) == (8188, 7000)
    assert found.uuid == "GPU-6c5a3d1e-0000-4444-8888-0123456789ab"
    assert (found.compute_mode, found.mig, found.problem) == ("exclusive-process", False, None)
    assert found.processes == (
        GpuProcess(pid=900, name="/usr/lib/xorg/Xorg", memory_mib=288, computes=False),
        GpuProcess(pid=4711, name="/usr/bin/python3", memory_mib=900),
        GpuProcess(pid=4712),
    )
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


@pytest.mark.parametrize("mode", ["default", "exclusive-thread", "exclusive-process", "prohibited"])
def test_compute_modes(with_gpus: Make, mode: str) -> None:
    with_gpus(gpus=[StubGpu(compute_mode=mode)])
    assert ask().gpus[0].compute_mode == mode


@pytest.mark.parametrize(("version", "said"), [("12.4", "12.4"), ("13.0", "13.0"), ("10.2", "10.2"), ("9.1", "9.1")])
def test_the_cuda_version_of_the_driver(with_gpus: Make, version: str, said: str) -> None:
    with_gpus(cuda=version, gpus=[RTX_4060])
    assert ask().cuda_driver == said


def test_the_cuda_version_where_libcuda_can_not_be_asked(with_gpus: Make) -> None:
    with_gpus(cuda="12.4", gpus=[RTX_4060], outcomes={"nvmlSystemGetCudaDriverVersion_v2": 13})
    assert ask().cuda_driver == "12.4"


def test_a_gpu_that_supports_nothing_is_no_broken_gpu(with_gpus: Make) -> None:
    with_gpus(driver=None, cuda=None, gpus=[StubGpu(None, None, None, compute_mode=None)])
    answer = ask()
    assert (answer.nvml.status, answer.driver, answer.cuda_driver) == ("ok", None, None)
    (gpu,) = answer.gpus
    assert (gpu.name, gpu.compute_capability, gpu.memory_mib, gpu.memory_free_mib) == ("NVIDIA GPU", None, None, None)
    assert (gpu.compute_mode, gpu.processes, gpu.problem) == (None, (), None)


def test_mig(with_gpus: Make) -> None:
    with_gpus(gpus=[StubGpu(*H100, mig=3), StubGpu(*H100, mig=0), StubGpu(*H100, mig=-1), H100])
    assert [(gpu.mig, gpu.mig_instances) for gpu in ask().gpus] == [(True, 3), (True, 0), (False, 0), (False, 0)]


def test_a_driver_without_gpus(with_gpus: Make) -> None:
    with_gpus(driver="580.65.06", cuda="13.0", gpus=[])
    answer = ask()
    assert (answer.nvml, answer.gpus) == (Nvml(status="no-gpu"), ())
    assert (answer.driver, answer.cuda_driver) == ("580.65.06", "13.0")


def test_no_library(without_driver: None) -> None:
    answer = ask()
    assert answer == nvml.Answer(nvml=Nvml(status="library-missing", detail="NVML Shared Library Not Found"))


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_at_the_start_has_a_status(with_gpus: Make, code: int) -> None:
    with_gpus(gpus=[RTX_4060], outcomes={"nvmlInitWithFlags": code})
    answer = ask()
    assert answer.nvml.status == NAMED.get(code, "failed")
    assert answer.nvml.detail
    assert (answer.driver, answer.gpus) == (None, ())


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_of_one_gpu_leaves_the_others(with_gpus: Make, code: int) -> None:
    outcomes = {"nvmlDeviceGetHandleByIndex_v2:1": code, "nvmlDeviceGetMemoryInfo:2": code}
    with_gpus(gpus=[RTX_4060, H100, H100, RTX_4060], outcomes=outcomes)
    answer = ask()
    assert answer.nvml.status == "ok"
    first, unopened, half, last = answer.gpus
    assert (first.memory_mib, first.problem) == (last.memory_mib, last.problem) == (8188, None)
    assert (unopened.index, unopened.name, unopened.compute_capability) == (1, "NVIDIA GPU", None)
    assert unopened.problem
    assert (half.index, half.name, half.compute_capability, half.memory_mib) == (2, H100[0], "9.0", None)
    assert bool(half.problem) == (code not in {3, 4, 13})  # not supported, not allowed, not there: no problem of its


def test_the_words_for_a_lost_gpu(with_gpus: Make) -> None:
    with_gpus(gpus=[RTX_4060, H100], outcomes={"nvmlDeviceGetName:1": 15, "nvmlDeviceGetMemoryInfo:1": 16})
    assert [gpu.problem for gpu in ask().gpus] == [None, "GPU is lost"]


@pytest.mark.parametrize("code", [4, 15, 17])
def test_no_gpu_can_be_used(with_gpus: Make, code: int) -> None:
    with_gpus(gpus=[RTX_4060, H100], outcomes={"nvmlDeviceGetHandleByIndex_v2": code})
    answer = ask()
    assert answer.nvml.status == NAMED[code]
    assert answer.nvml.detail == answer.gpus[0].problem
    assert (len(answer.gpus), answer.driver) == (2, "550.54.14")


def test_the_gpus_can_not_be_counted(with_gpus: Make) -> None:
    with_gpus(gpus=[RTX_4060], outcomes={"nvmlDeviceGetCount_v2": 999})
    answer = ask()
    assert (answer.nvml, answer.driver) == (Nvml(status="failed", detail="Unknown Error"), "550.54.14")


@pytest.mark.parametrize("call", CALLS)
def test_whatever_call_is_refused_the_gpu_is_told(with_gpus: Make, call: str) -> None:
    with_gpus(gpus=[RTX_4060], outcomes={call: 999})
    answer = ask()
    assert (answer.nvml.status, len(answer.gpus)) == ("ok", 1)
    assert answer.gpus[0].problem == (None if call.startswith("nvmlSystem") else "Unknown Error")


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo:1"])
def test_a_library_that_hangs_is_ended(with_gpus: Make, call: str) -> None:
    with_gpus(gpus=[RTX_4060, H100], outcomes={call: "hang"})
    begin = time.monotonic()
    answer = ask(timeout=1)
    assert time.monotonic() - begin < 5
    assert answer.nvml == Nvml(status="timeout", detail="no answer within 1 s")
    assert [gpu.name for gpu in answer.gpus] == ([RTX_4060[0]] if ":" in call else [])
    assert not asking()


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo:1"])
def test_a_library_that_crashes_is_survived(with_gpus: Make, call: str) -> None:
    with_gpus(gpus=[RTX_4060, H100], outcomes={call: "crash"})
    answer = ask()
    assert answer.nvml == Nvml(status="crashed", detail="the process that asked NVML died (SIGSEGV)")
    assert [gpu.name for gpu in answer.gpus] == ([RTX_4060[0]] if ":" in call else [])


def test_what_the_library_prints_is_no_answer(with_gpus: Make) -> None:
    with_gpus(gpus=[RTX_4060], outcomes={"nvmlInitWithFlags": "chatter", "nvmlDeviceGetName": "chatter"})
    answer = ask()
    assert (answer.nvml.status, [gpu.name for gpu in answer.gpus]) == ("ok", [RTX_4060[0]])


def test_names_that_are_no_text(stub_nvml: Path) -> None:
    machine = fake_machine(stub_nvml, gpus=[RTX_4060])
    environ = {**os.environ, **machine, "STUB_NVML_0_NAME": "GPU \udcff\udcfe", "STUB_NVML_DRIVER": "\udcff"}
    answer = nvml.ask(environ)
    assert (answer.nvml.status, answer.driver) == ("ok", None)
    assert (answer.gpus[0].name, answer.gpus[0].compute_capability) == ("NVIDIA GPU", "8.9")


@pytest.mark.parametrize(
    ("script", "status", "detail"),
    [
        ("raise RuntimeError('no ctypes here')", "failed", "RuntimeError: no ctypes here"),
        ("pass", "failed", "NVML was asked and nothing came back"),
        ("print('rubbish'); print('{\"gpu\": 7}'); print('[1')", "failed", "NVML was asked and nothing came back"),
        ("import os; os.write(1, b'\\xff{\\n')", "failed", "NVML was asked and nothing came back"),
    ],
)
def test_a_child_that_answers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str, detail: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(script)
    monkeypatch.setattr(nvml, "_CHILD", child)
    assert ask().nvml == Nvml(status=status, detail=detail)  # type: ignore[arg-type]


def test_a_python_that_can_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml.sys, "executable", str(tmp_path / "python"))
    answer = ask()
    assert answer.nvml.status == "failed"
    assert str(tmp_path / "python") in answer.nvml.detail


def test_pynvml_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "find_spec", lambda name: None)
    assert ask().nvml == Nvml(status="failed", detail="the package nvidia-ml-py is not installed")


def test_what_the_library_started_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # NVML may start nvidia-modprobe, which inherits the pipe to us and may hang as well.
    child = tmp_path / "child.py"
    child.write_text(
        "import pathlib, subprocess, sys, time\n"
        "helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(helper.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(nvml, "_CHILD", child)
    assert ask(timeout=1).nvml.status == "timeout"
    helper = int((tmp_path / "pid").read_text())
    limit = time.monotonic() + 5
    while psutil.pid_exists(helper) and psutil.Process(helper).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_pipes_that_stay_open_do_not_keep_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(4)'], start_new_session=True)\n"
        'print(\'{"driver": "550.54.14"}\', flush=True)\n'
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(nvml, "_CHILD", child)
    begin = time.monotonic()
    answer = ask(timeout=0.5)
    assert time.monotonic() - begin < 3.5
    assert (answer.nvml.status, answer.driver) == ("timeout", "550.54.14")


def test_an_interrupt_leaves_no_process(with_gpus: Make) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with_gpus(outcomes={"nvmlInitWithFlags": "hang"})
    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            ask()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert not asking()


def test_the_child_imports_only_pynvml_and_the_standard_library(without_driver: None) -> None:
    folder = str(Path(pynvml.__file__).parent)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['nvml_child.py', {folder!r}]\n"
        f"runpy.run_path({str(nvml._CHILD)!r}, run_name='__main__')\n"
        "files = {name: str(getattr(module, '__file__', '')) for name, module in sys.modules.items()}\n"
        f"print(*(name for name, file in files.items() if file.startswith({folder!r})), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["code"] == 12
    assert done.stderr.split() == ["pynvml"]
