"""Environments that are really broken: each is diagnosed, and what the doctor says, carried out, mends it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from nvml_stub import StubGpu

from dlenv.environment.layout import executable
from dlenv.environment.record import Package, Record
from dlenv.machine import Machine, Nvml
from dlenv.managers import uv
from dlenv.plan import Candidate, Plan, Request

Run = Callable[..., Any]
Build = Callable[..., Path]

pytestmark = pytest.mark.slow

# Found before the fixture that hides the user's home: packages that were downloaded once are not downloaded again.
CACHE = uv.run(["cache", "dir"]).strip()
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
COURSE = ("numpy==1.26.4", "pandas==1.5.3", "matplotlib==3.7.5", "matplotlib-inline==0.2.2", "ipykernel>=7", "pillow")
TORCH = ("torch==2.15.0", "torchvision==0.29.2")

needs_311 = pytest.mark.skipif(sys.version_info[:2] > (3, 11), reason="pandas 1.5 has no wheel for this Python")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Make an environment with these packages; one that can't be had skips the test."""
    monkeypatch.setenv("UV_CACHE_DIR", CACHE)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "JUPYTER_PATH"):
        monkeypatch.delenv(name, raising=False)

    def make(*packages: str, name: str = "env", words: tuple[str, ...] = ()) -> Path:
        env = tmp_path / name
        uv.run(["venv", "--quiet", "--python", sys.executable, env])
        if packages:
            add(env, *packages, *words)
        return env

    return make


def add(env: Path, *words: str) -> None:
    try:
        uv.run(["pip", "install", "--quiet", "--python", executable(env), *words])
    except uv.Failed as error:
        pytest.skip(f"{' '.join(words)} can't be had here: {error}")


def take(env: Path, *names: str) -> None:
    uv.run(["pip", "uninstall", "--quiet", "--python", executable(env), *names])


def packages_of(env: Path) -> Path:
    return env / "lib" / f"python{PYTHON}" / "site-packages"


def diagnosed(run: Run, env: Path, check: str, status: str = "fail", *words: str) -> dict[str, Any]:
    result = run("doctor", "--env", env, "--only", check, "--json", *(words or ("--offline",)))
    (finding,) = json.loads(result.stdout)["checks"]
    assert finding["status"] == status, finding
    assert result.code == (1 if status == "fail" else 0)
    assert status in ("ok", "skip") or finding["fix"], finding
    found: dict[str, Any] = finding
    return found


def mended(run: Run, env: Path, check: str, *words: str) -> None:
    """``--fix --yes`` carries the fix out; then the check passes."""
    words = words or ("--offline",)
    result = run("doctor", "--env", env, "--only", check, "--fix", "--yes", "--json", *words)
    (finding,) = json.loads(result.stdout)["checks"]
    assert finding["status"] == "ok", (finding, result.stderr)
    assert result.code == 0


def obeyed(fix: str, env: Path, check: str, *words: str) -> None:
    """A shell runs the command that the finding names; in that shell the check passes."""
    doctor = [sys.executable, "-m", "dlenv", "doctor", "--env", str(env), "--only", check, "--json", *words]
    script = f"{fix}\nexec {subprocess.list2cmdline(doctor)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    (finding,) = json.loads(done.stdout)["checks"]
    assert finding["status"] == "ok", finding


def examined(env: Path, *checks: str, fix: str = "true", words: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """What these checks find in a process of their own, after a shell has carried out ``fix``."""
    only = [word for check in checks for word in ("--only", check)]
    doctor = [sys.executable, "-m", "dlenv", "doctor", "--env", str(env), *only, "--json", *words]
    script = f"{fix} && {subprocess.list2cmdline(doctor)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {finding["id"]: finding for finding in json.loads(done.stdout)["checks"]}


@needs_311
def test_numpy_2_beside_pandas_1(run: Run, build: Build) -> None:
    env = build("pandas==1.5.3", "numpy==1.26.4")
    add(env, "--no-deps", "numpy==2.2.6")
    found = diagnosed(run, env, "numpy.abi")
    assert "pandas 1.5.3 was compiled for another NumPy than 2.2.6" in found["detail"]
    assert found["fix"].endswith("'numpy<2'")
    mended(run, env, "numpy.abi")


@pytest.mark.skipif(sys.version_info[:2] > (3, 11), reason="matplotlib 3.6 has no wheel for this Python")
def test_matplotlib_inline_too_new_for_matplotlib(run: Run, build: Build) -> None:
    env = build("matplotlib==3.6.0", "matplotlib-inline==0.2.2", "numpy<2", "ipython")
    found = diagnosed(run, env, "matplotlib.inline")
    assert "'RcParams' object has no attribute '_get'" in found["detail"]
    assert "matplotlib 3.6.0, matplotlib-inline 0.2.2" in found["detail"]
    mended(run, env, "matplotlib.inline")


@needs_311
def test_ipykernel_is_missing(run: Run, build: Build) -> None:
    env = build("d2l==0.17.6", words=("--no-deps",))
    assert "ipykernel is not installed" in diagnosed(run, env, "jupyter.kernel")["detail"]
    mended(run, env, "jupyter.kernel")


def test_the_kernel_runs_another_python(run: Run, build: Build) -> None:
    env = build("ipykernel")
    kernel(env, sys.executable)
    found = diagnosed(run, env, "jupyter.kernel")
    assert f"runs {sys.executable}, not {executable(env)}" in found["detail"]
    mended(run, env, "jupyter.kernel")


def test_the_kernel_runs_a_python_that_is_gone(run: Run, build: Build) -> None:
    env = build("ipykernel")
    kernel(env, "/opt/old/bin/python")
    assert "/opt/old/bin/python, which is gone" in diagnosed(run, env, "jupyter.dangling")["detail"]
    mended(run, env, "jupyter.dangling")
    mended(run, env, "jupyter.kernel")


def kernel(env: Path, python: str) -> None:
    file = env / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    file.unlink()  # it is a link to the installer's cache
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    file.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))


def test_two_versions_are_noted_in_one_folder(run: Run, build: Build) -> None:
    env = build("requests==2.32.3")
    note = packages_of(env) / "requests-2.25.1.dist-info"
    note.mkdir()
    (note / "METADATA").write_text("Name: requests\nVersion: 2.25.1\n")
    found = diagnosed(run, env, "packages.duplicates", "warn")
    assert "requests is there 2 times: 2.25.1 in" in found["detail"]
    mended(run, env, "packages.duplicates")
    assert subprocess.run([executable(env), "-c", "import requests"], check=False).returncode == 0


def test_files_of_a_package_are_gone(run: Run, build: Build) -> None:
    env = build("numpy==2.2.6")
    shutil.rmtree(packages_of(env) / "numpy" / "linalg")
    found = diagnosed(run, env, "packages.files")
    assert "numpy 2.2.6 lacks" in found["detail"]
    mended(run, env, "packages.files")
    assert subprocess.run([executable(env), "-c", "import numpy.linalg"], check=False).returncode == 0


def test_a_note_without_its_package(run: Run, build: Build) -> None:
    env = build()
    (packages_of(env) / "requests-2.32.3.dist-info").mkdir()
    assert "requests-2.32.3.dist-info has no metadata" in diagnosed(run, env, "packages.files")["detail"]
    mended(run, env, "packages.files")
    assert subprocess.run([executable(env), "-c", "import requests"], check=False).returncode == 0


def test_an_interrupted_installation(run: Run, build: Build) -> None:
    env = build("requests")
    (packages_of(env) / "~equests").mkdir()
    assert "~equests is left" in diagnosed(run, env, "packages.files", "warn")["detail"]
    mended(run, env, "packages.files")


def test_a_requirement_is_missing(run: Run, build: Build) -> None:
    env = build("requests==2.32.3")
    take(env, "urllib3")
    add(env, "--no-deps", "idna==2.4")
    found = diagnosed(run, env, "packages.requirements", "warn")
    assert "requests 2.32.3 needs urllib3<3,>=1.21.1, and the environment lacks it" in found["detail"]
    assert "and the environment has 2.4" in found["detail"]
    mended(run, env, "packages.requirements")


def test_a_package_was_changed_after_dlenv_proved_it(run: Run, build: Build) -> None:
    env = build("requests==2.32.3", "urllib3", "idna", "certifi", "charset-normalizer")
    candidate = Candidate(torch="2.15.0", torchvision="0.29.2", build="cpu", index=None)
    machine = Machine(os="linux", os_version="", kernel="", arch="x86_64", python=PYTHON, nvml=Nvml(status="no-gpu"))
    record = Record(
        dlenv="0.1.0",
        created="2026-11-21T12:00:00+00:00",
        request=Request(course=None),
        machine=machine,
        plan=Plan(manager="uv", python=PYTHON, torch=candidate),
        torch=candidate,
        packages=(Package(name="requests", version="2.32.3"),),
    )
    record.write(env)
    found = diagnosed(run, env, "packages.record", "ok")
    add(env, "requests==2.31.0")
    found = diagnosed(run, env, "packages.record")
    assert "requests 2.31.0, not 2.32.3" in found["detail"]
    assert f"setup --repair --env {env}" in found["fix"]
    planned(found["fix"])
    add(env, "requests==2.32.3")
    diagnosed(run, env, "packages.record", "ok")


def test_a_file_shadows_the_course(run: Run, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "d2l.py").write_text("import torch\n")
    monkeypatch.chdir(tmp_path / "work")
    found = diagnosed(run, env, "python.shadowing")
    assert "d2l.py" in found["detail"]
    obeyed(found["fix"], env, "python.shadowing")
    assert (tmp_path / "work" / "my_d2l.py").is_file()


def test_pythonpath_leads_to_another_numpy(
    run: Run, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build("numpy==2.2.6")
    other = build("numpy==1.26.4" if sys.version_info < (3, 13) else "numpy==2.1.3", name="other")
    monkeypatch.setenv("PYTHONPATH", str(packages_of(other)))
    found = diagnosed(run, env, "python.path")
    assert f"numpy come from {packages_of(other)}" in found["detail"]
    obeyed(found["fix"], env, "python.path")
    twice = diagnosed(run, env, "packages.duplicates")
    assert "numpy is there 2 times" in twice["detail"]
    obeyed(twice["fix"], env, "packages.duplicates")


def test_the_systems_packages_beside_the_environments(run: Run, build: Build, tmp_path: Path) -> None:
    """Two copies of numpy, the environment's first: that is what --system-site-packages is for."""
    env = build("numpy")
    system = tmp_path / "system"
    uv.run(["pip", "install", "--quiet", "--python", executable(env), "--target", system, "numpy"])
    (packages_of(env) / "system.pth").write_text(f"{system}\n")  # as site.py adds the system's folder: at the end
    found = diagnosed(run, env, "packages.duplicates", "ok")
    assert f"in {system}" in found["detail"]


def test_the_python_of_the_environment_is_gone(run: Run, build: Build) -> None:
    env = build()
    executable(env).unlink()
    executable_of = env / "bin" / "python"
    executable_of.symlink_to("/opt/removed/bin/python3")
    found = diagnosed(run, env, "python.start")
    assert "can't be run" in found["detail"]
    assert found["fix"] == f"dlenv setup --env {env}"
    planned(found["fix"])


def planned(fix: str) -> None:
    """``dlenv setup`` accepts the command; carried out, it would load gigabytes."""
    words = shlex.split(fix)
    command = [sys.executable, "-m", "dlenv", *words[words.index("setup") :], "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gpus_are_hidden(
    run: Run, build: Build, monkeypatch: pytest.MonkeyPatch, with_gpus: Callable[..., dict[str, str]]
) -> None:
    env = build()
    with_gpus(driver="580.65.06", cuda="13.0", gpus=[("NVIDIA GeForce RTX 4060", "8.9", 8188)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = diagnosed(run, env, "gpu.visible")
    assert "hides every GPU" in found["detail"]
    obeyed(found["fix"], env, "gpu.visible")


def test_gpu_memory_is_held(
    run: Run, build: Build, monkeypatch: pytest.MonkeyPatch, with_gpus: Callable[..., dict[str, str]]
) -> None:
    env = build()
    with subprocess.Popen(["sleep", "600"]) as holder:
        try:
            display = (1, "/usr/lib/xorg/Xorg", 90)
            with_gpus(
                gpus=[StubGpu(used_mib=8000, processes=[(holder.pid, "python", 7900), display], drawing=[display])]
            )
            found = diagnosed(run, env, "gpu.memory", "warn")
            assert f"python (pid {holder.pid}, 7900 MiB), /usr/lib/xorg/Xorg (pid 1, 90 MiB)" in found["detail"]
            subprocess.run(["bash", "-c", found["fix"]], check=True)
            assert holder.wait(10) == -signal.SIGTERM
        finally:
            holder.kill()
    with_gpus(gpus=[StubGpu()])
    diagnosed(run, env, "gpu.memory", "ok")


def test_the_driver_was_updated_while_it_runs(
    run: Run, build: Build, with_gpus: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build()
    with_gpus(outcomes={"nvmlInitWithFlags": 18}, gpus=[StubGpu()])
    found = diagnosed(run, env, "driver.nvml")
    assert "its old kernel module" in found["detail"]
    assert found["fix"] == "sudo reboot"
    with_gpus(gpus=[StubGpu()])
    diagnosed(run, env, "driver.nvml", "ok")


def test_a_dead_proxy(run: Run, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:hunter22@127.0.0.1:{port}")
    found = diagnosed(run, env, "network.proxy", "fail", "--verbose")
    assert f"names the proxy http://***@127.0.0.1:{port}: Connection refused" in found["detail"]
    obeyed(found["fix"], env, "network.proxy")


def test_certificates_are_gone(run: Run, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build()
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/old-company.pem")
    found = diagnosed(run, env, "network.certificates", "fail", "--verbose")
    assert "SSL_CERT_FILE is /etc/ssl/old-company.pem, which is no file" in found["detail"]
    assert found["fix"] == "unset SSL_CERT_FILE"


def test_too_many_threads(run: Run, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build()
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = diagnosed(run, env, "libraries.threads", "warn")
    assert found["fix"].startswith("export OMP_NUM_THREADS=")
    monkeypatch.setenv("OMP_NUM_THREADS", found["fix"].partition("=")[2])
    diagnosed_as = json.loads(run("doctor", "--env", env, "--only", "libraries.threads", "--json").stdout)["checks"][0]
    assert diagnosed_as["status"] == "skip"  # without PyTorch its threads are not known


class Server(NamedTuple):
    port: int
    pid: int


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is not ours, on the service's port; a program of its own: no child of ours inherits its socket."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        monkeypatch.setenv("DLENV_PORT", port[1])
        yield Server(int(port[1]), server.pid)
        server.kill()


def test_another_program_holds_the_port(
    run: Run, build: Build, stranger: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build()
    found = diagnosed(run, env, "serving.ports", "warn")
    assert f"{stranger.port} (the service) is taken by" in found["detail"]
    assert f"(pid {stranger.pid})" in found["detail"]
    assert found["fix"] == f"dlenv serve --port {stranger.port + 1}"
    monkeypatch.setenv("DLENV_PORT", found["fix"].rpartition(" ")[2])
    diagnosed(run, env, "serving.ports", "ok")


def test_a_service_that_does_not_speak_http(run: Run, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever listens there is not dlenv's to restart."""
    if any({"dlenv", "serve"} <= set(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])):
        pytest.skip("another test serves at the moment, and the doctor sees that; run this file alone")
    env = build()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DLENV_PORT", str(server.getsockname()[1]))
        assert "no dlenv serve" in diagnosed(run, env, "serving.health", "skip")["detail"]


def test_libraries_of_somebody_elses(run: Run, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build()
    folder = tmp_path / "cuda" / "lib64"
    folder.mkdir(parents=True)
    (folder / "libcudnn.so.9").write_bytes(b"cut off while downloading")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{folder}")
    found = diagnosed(run, env, "libraries.path", "warn")
    assert f"libcudnn.so.9 in {folder}" in found["detail"]
    assert found["fix"] == f"export LD_LIBRARY_PATH={tmp_path}"
    obeyed(found["fix"], env, "libraries.path")


@needs_311
def test_d2l_lacks_what_it_imports(build: Build) -> None:
    """Beside a real PyTorch, of hard links to what was downloaded once."""
    env = build(*TORCH, *COURSE, "requests", "scipy")
    add(env, "--no-deps", "d2l==0.17.6")
    take(env, "requests", "matplotlib-inline")
    found = examined(env, "course.d2l", "torch.import", "torchvision.operators")
    assert {name: item["status"] for name, item in found.items()} == {
        "course.d2l": "fail",
        "torch.import": "ok",
        "torchvision.operators": "ok",
    }
    assert "matplotlib-inline, requests is missing" in found["course.d2l"]["detail"]
    assert "matplotlib-inline==0.2.2" in found["course.d2l"]["fix"]
    assert examined(env, "course.d2l", fix=found["course.d2l"]["fix"])["course.d2l"]["status"] == "ok"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the CPU wheel that may be here is for Python 3.11")
def test_torch_for_the_cpu_beside_another_torchvision(build: Build, with_gpus: Callable[..., dict[str, str]]) -> None:
    """torchvision of the package index is made for CUDA; and on a machine with a GPU that torch is wrong, too."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not list(Path(folder).glob("torch-2.13.0+cpu-cp311-*.whl")):
        pytest.skip("PIP_FIND_LINKS names no folder with torch 2.13.0+cpu")
    env = build("torch==2.13.0+cpu", "numpy", "pillow", words=("--find-links", folder))
    add(env, "--no-deps", "torchvision==0.28.0")
    with_gpus(driver="595.71.05", cuda="13.2", gpus=[("NVIDIA GeForce RTX 4060", "8.9", 8188)])
    found = examined(env, "torchvision.operators", "torch.build")
    assert "torch is 2.13.0+cpu, torchvision 0.28.0" in found["torchvision.operators"]["detail"]
    text = "torch 2.13.0+cpu is built for the CPU only, and this machine has NVIDIA GeForce RTX 4060"
    assert found["torch.build"]["detail"] == text
    fix = found["torch.build"]["fix"]
    assert fix == found["torchvision.operators"]["fix"]
    # The same environment, mended, on an older machine: the build needs a newer driver, and has no code for the GPU.
    with_gpus(driver="570.26", cuda="12.8", gpus=[("NVIDIA GeForce GTX 1080", "6.1", 8192)])
    checks = ("torch.build", "torch.architectures", "torch.driver", "torchvision.operators")
    found = examined(env, *checks, fix=fix, words=("--offline",))
    assert [found[name]["status"] for name in found] == ["ok", "fail", "fail", "ok"]
    assert (
        "none of which runs on NVIDIA GeForce GTX 1080 (compute capability 6.1)"
        in found["torch.architectures"]["detail"]
    )
    assert "torch==2.14.1+cu126 torchvision==0.29.1+cu126" in found["torch.architectures"]["fix"]
    assert "needs driver 580 or newer, and this is 570.26" in found["torch.driver"]["detail"]
