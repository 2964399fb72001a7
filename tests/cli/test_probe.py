from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dlenv import probe
from dlenv.plan import Candidate

Environment = Callable[..., Path]

# What the stage asks of PyTorch, without PyTorch: this file is about the probe.
TORCH = """
__version__ = "9.9"
class version: cuda = hip = None; debug = False
class _C: _cuda_getArchFlags = staticmethod(lambda: "sm_75 sm_90")
class backends:
    class mkl: is_available = staticmethod(lambda: True)
    openmp = mps = mkl
get_num_threads = lambda: 3
class ones:
    def __init__(self, size): self.size = size
    def sum(self): return self
    def item(self): return self.size
"""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Make an environment that holds these modules, and nothing else."""

    def make(**modules: str) -> Path:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
        python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        script = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(subprocess.check_output([python, "-c", script], text=True).strip())
        for name, text in modules.items():
            (packages / f"{name}.py").write_text(text)
        return python

    return make


# The same with two GPUs of AMD's, as PyTorch built for ROCm 7.2 shows them; what it computes is only where.
ROCM = (
    TORCH.replace("cuda = hip = None", "cuda = None; hip = '7.2.26015-fc0010cf6a'")
    + """
from types import SimpleNamespace
backends.cudnn = backends.cuda = SimpleNamespace(version=lambda: 0, matmul=SimpleNamespace())
GPUS = ["gfx1036", "gfx1100:sramecc-"]
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: len(GPUS))
    get_arch_list = staticmethod(lambda: ["gfx90a", "gfx1100"])
    get_device_name = staticmethod(lambda index: "AMD Radeon Graphics")
    get_device_capability = staticmethod(lambda index: (11, 0))
    get_device_properties = staticmethod(lambda index: SimpleNamespace(gcnArchName=GPUS[index]))
    mem_get_info = staticmethod(lambda index: (0, 0))
class ones(ones):
    def __init__(self, size, device="cpu"):
        self.size = size
        if device == "cuda:0": raise RuntimeError("HIP error: invalid device function")
class randn:
    def __init__(self, *size): pass
    def to(self, device): raise ArithmeticError("on " + device)
manual_seed = lambda seed: None
"""
)


def statuses(report: probe.Report) -> dict[str, str]:
    return {stage.name: stage.status for stage in report.stages}


def test_facts(environment: Environment) -> None:
    report = probe.run(environment(torch=TORCH))
    assert report.problem is None
    assert statuses(report) == {
        "python": "ok",
        "numpy": "absent",
        "torch": "ok",
        "cuda": "skipped",
        "bridge": "skipped",
        "torchvision": "absent",
        "pandas": "absent",
        "matplotlib": "absent",
        "inline": "absent",
        "d2l": "skipped",
        "jupyter": "absent",
        "libraries": "ok" if sys.platform == "linux" else "skipped",
    }
    assert report.facts("torch")["architectures"] == ["sm_75", "sm_90"]
    assert report.facts("python")["prefix"] == str(Path(report.python).parents[1])
    # torchvision is needed: that it is absent is a failure, that pandas is absent without a course is none.
    assert not report.ok
    assert [stage.name for stage in report.failures] == ["torchvision"]


def test_a_course_needs_more(environment: Environment) -> None:
    failed = {stage.name for stage in probe.run(environment(torch=TORCH), course="zh").failures}
    assert {"numpy", "torchvision", "pandas", "matplotlib", "jupyter"} <= failed


def test_json_round_trip(environment: Environment) -> None:
    report = probe.run(environment(torch="raise ValueError('first line\\nsecond line')"))
    data = report.to_json()
    assert data["ok"] is False
    assert probe.Report.from_json(data) == report


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise ImportError('libcudnn.so.9: cannot open')", "failed", "ImportError: libcudnn.so.9: cannot open"),
        ("import nothing_like_it", "failed", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("raise SystemExit(0)", "failed", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt: "),
        ("import os; os._exit(3)", "crashed", "Python ended with exit code 3"),
        ("import os; os._exit(0)", "crashed", "Python ended with exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "crashed", "Python was killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "Python was killed by SIGKILL (the system does that where"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_breaks_one_stage_leaves_the_others(environment: Environment, code: str, status: str, error: str) -> None:
    report = probe.run(environment(torch=f"print('about to break', flush=True)\n{code}", numpy="broken("))
    stage = report.stage("torch")
    assert stage is not None
    assert (stage.status, stage.error and stage.error[: len(error)]) == (status, error)
    assert "about to break" in stage.output
    found = statuses(report)
    assert (found["numpy"], found["torchvision"], found["jupyter"]) == ("failed", "skipped", "absent")
    assert len(report.stages) == 12
    if code.endswith("11)"):
        assert "Fatal Python error: Segmentation fault" in stage.output


def test_a_stage_that_hangs_is_ended_with_its_children(environment: Environment) -> None:
    hang = "import subprocess, sys, time\n"
    hang += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    hang += "print('child', child.pid, flush=True)\ntime.sleep(600)"
    began = time.monotonic()
    report = probe.run(environment(torch=hang), stage_limit=2)
    assert time.monotonic() - began < 20
    stage = report.stage("torch")
    assert stage is not None
    assert (stage.status, stage.error) == ("timeout", "it did not end within 2 s")
    assert statuses(report)["jupyter"] == "absent"
    pid = int(stage.output.split()[1])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_time_limit_is_for_all_stages(environment: Environment) -> None:
    began = time.monotonic()
    report = probe.run(environment(torch="import time; time.sleep(600)"), time_limit=1)
    assert time.monotonic() - began < 20
    assert statuses(report)["torch"] == "timeout"
    assert {stage.error for stage in report.stages[3:]} == {"no time was left"}


def test_warnings_belong_to_their_stage(environment: Environment) -> None:
    report = probe.run(environment(torch=TORCH + "import warnings; warnings.warn('compute capability 6.1')"))
    assert [stage.name for stage in report.stages if "compute capability 6.1" in stage.output] == ["torch"]


def test_the_current_folder_does_not_shadow(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ValueError('mine')")
    monkeypatch.chdir(tmp_path)
    assert statuses(probe.run(environment(torch=TORCH)))["torch"] == "ok"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (None, "No such file"),
        ("not a program", "Exec format error"),
        ("#!/bin/sh\nexit 0\n", "Python ended with exit code 0 before anything was tried"),
        ("#!/bin/sh\necho no library >&2\nexit 127\n", "exit code 127 before anything was tried: no library"),
        ("#!/bin/sh\nsleep 600\n", "Python did not start within 1 s"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="scripts of the shell")
def test_a_python_that_does_not_run_is_a_report(tmp_path: Path, program: str | None, problem: str) -> None:
    python = tmp_path / "python"
    if program is not None:
        python.write_text(program)
        python.chmod(0o755)
    report = probe.run(python, stage_limit=1)
    assert not report.ok
    assert report.stages == ()
    assert report.problem is not None
    assert problem in report.problem


def test_of_much_output_the_end_is_kept(environment: Environment) -> None:
    python = environment(numpy="print('begun')\nfor number in range(5000): print(number)\nraise ValueError('no')")
    (stage,) = probe.run(python, stages=["numpy"]).stages
    first, *rest = stage.output.splitlines()
    numbers = "".join(f"{number}\n" for number in range(5000)).encode()
    assert first == f"[{len(numbers) + len('begun') + 1 - 8000} bytes before this were left out]"
    assert rest[-1] == "4999"
    assert sum(len(line) + 1 for line in rest) == 8000


def test_other_output_is_not_taken_for_the_probe(environment: Environment) -> None:
    report = probe.run(environment(sitecustomize="print('hello')", torch=TORCH))
    assert statuses(report)["torch"] == "ok"


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.14"])
def test_the_script_runs_on_other_pythons(version: str) -> None:
    python = _python(version)
    report = probe.run(python)
    assert report.problem is None
    assert report.facts("python")["version"].startswith(version)
    assert statuses(report)["torch"] in ("absent", "ok")


def _python(version: str) -> Path:
    # pyenv and uv keep their Pythons beside each other, in folders that name the version.
    for path in sorted(Path(sys.base_prefix).parent.glob(f"*{version}.*/bin/python")):
        if os.access(path, os.X_OK):
            return path
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no Python {version} here")
    return Path(found)


PLANNED = Candidate(torch="2.14.1", torchvision="0.29.1", build="cu126", index=None)


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "build", "error"),
    [
        ("2.14.1+cu126", "12.6", None, "cu126", None),
        ("2.14.1", "12.6", None, "cu126", None),  # the package index's own wheel
        ("2.14.1+cu132", "13.2", None, "cu126", "for CUDA 13.2 is installed, and torch 2.14.1 for CUDA 12.6 was"),
        ("2.14.0+cu126", "12.6", None, "cu126", "torch 2.14.0 for CUDA 12.6 is installed"),
        ("2.14.1+cpu", None, None, "cu126", "torch 2.14.1 for neither CUDA nor ROCm is installed"),
        ("2.14.1+cpu", None, None, "cpu", None),
        ("2.14.1+cu126", "12.6", None, "cpu", "and torch 2.14.1 for neither CUDA nor ROCm was planned"),
        ("2.14.1", None, None, "mps", None),
        ("2.14.1", "12.6", None, "mps", "torch 2.14.1 for CUDA 12.6 is installed"),
        ("2.14.1+rocm7.2", None, "7.2.26015-fc0010cf6a", "rocm7.2", None),
        ("2.14.1+rocm6.2.4", None, "6.2.41134-65d174c3e", "rocm6.2.4", None),
        ("2.14.1+rocm7.1", None, "7.1.25424", "rocm7.2", "for ROCm 7.1 is installed, and torch 2.14.1 for ROCm 7.2"),
        ("2.14.1+rocm7.2", None, "7.2.26015", "cpu", "for ROCm 7.2 is installed"),
        ("2.14.1+of.the.site", "12.9", None, "of.the.site", None),  # whatever that is
        ("2.14.0+of.the.site", "12.9", None, "of.the.site", "is installed, and torch 2.14.1 was planned"),
    ],
)  # fmt: skip
def test_another_torch_than_planned_is_no_proof(
    environment: Environment, version: str, cuda: str | None, hip: str | None, build: str, error: str | None
) -> None:
    expect = Candidate(torch="2.14.1", torchvision="0.29.1", build=build, index=None)
    text = TORCH.replace('"9.9"', repr(version)).replace("cuda = hip = None", f"cuda = {cuda!r}; hip = {hip!r}")
    python = environment(torch=text)
    stage = probe.run(python, level="proof", expect=expect, stages=["torch"]).stage("torch")
    assert stage is not None
    assert stage.status == ("failed" if error else "ok")
    assert (error or "") in (stage.error or "")


def test_facts_are_compared_with_nothing(environment: Environment) -> None:
    report = probe.run(environment(torch=TORCH), expect=PLANNED, devices=["cuda:0"])
    assert (statuses(report)["torch"], statuses(report)["cuda"]) == ("ok", "skipped")


def test_what_is_proven_is_what_was_planned(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")  # where there may be no MPS
    report = probe.run(environment(), level="proof", stages=["torch"])
    assert [stage.name for stage in report.stages] == ["torch", "matmul:cpu", "convolution:cpu"]


def test_a_gpu_that_pytorch_does_not_see_is_no_proof(environment: Environment) -> None:
    text = TORCH + "class cuda: is_available = staticmethod(lambda: False)"
    report = probe.run(environment(torch=text), level="proof", devices=["cuda:0", "cuda:1"])
    stage = report.stage("cuda")
    assert stage is not None
    assert stage.status == "failed"
    assert stage.error == "RuntimeError: torch.cuda.is_available() is False: nothing computes on cuda:0, cuda:1"
    assert not report.ok
    skipped = report.stage("matmul:cuda:1")
    assert skipped is not None
    assert (skipped.status, skipped.error) == ("skipped", "it needs cuda")


def test_where_apples_gpu_is_missing_the_remedy_is_named(environment: Environment) -> None:
    text = ROCM.replace('device == "cuda:0"', 'device == "mps"').replace("HIP error", "MPS backend")
    report = probe.run(environment(torch=text), level="proof", devices=["mps"], stages=["torch"])
    stage = report.stage("matmul:mps")
    assert stage is not None
    assert stage.status == "failed"
    assert stage.error is not None
    assert "--gpu none plans for the CPU" in stage.error
    assert "MPS backend" in stage.error


def test_every_gpu_of_amds_with_code_is_proven(environment: Environment) -> None:
    report = probe.run(environment(torch=ROCM), level="proof", devices=["cuda:0", "cuda:1"], stages=["torch", "cuda"])
    assert [gpu["launched"] for gpu in report.facts("cuda")["devices"]] == [False, True]
    first, second = report.stage("matmul:cuda:0"), report.stage("matmul:cuda:1")
    assert first is not None
    assert second is not None
    # The GPU in the processor, which PyTorch has no code for, is the first that it names.
    assert (first.status, first.error) == ("failed", "ArithmeticError: on cuda:1")
    # Others may be hidden, by HIP_VISIBLE_DEVICES or a container.
    assert (second.status, second.error) == ("skipped", "PyTorch sees 1 of AMD's GPUs that it has code for")


def test_of_amds_gpus_one_has_to_compute(environment: Environment) -> None:
    text = ROCM.replace("gfx1100:sramecc-", "gfx1037")
    report = probe.run(environment(torch=text), level="proof", devices=["cuda:0"], stages=["torch", "cuda"])
    stage = report.stage("matmul:cuda:0")
    assert stage is not None
    assert (stage.status, stage.error) == (
        "failed",
        "RuntimeError: PyTorch sees none of AMD's GPUs that it has code for",
    )


@pytest.mark.slow
def test_proof_of_a_real_environment() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    cuda = torch.version.cuda
    expect = Candidate(
        torch=torch.__version__.partition("+")[0],
        torchvision="",
        build=f"cu{cuda.replace('.', '')}" if cuda else "cpu",
        index=None,
    )
    told: list[str] = []
    report = probe.run(Path(sys.executable), level="proof", expect=expect, told=lambda stage: told.append(stage.name))
    assert report.ok, report.failures
    assert told == [stage.name for stage in report.stages]
    assert report.facts("matmul:cpu")["error_over_bound"] < 1
    assert max(report.facts("convolution:cpu")["relative_errors"].values()) < 1e-4
