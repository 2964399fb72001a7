"""Inspection as a whole: it never raises, it is quick, and its result is JSON."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlenv.machine import Machine, disks, hardware, inspect, inspection, nvml, surroundings, system

# Everything that is read, and some folders where files belong and the other way round.
FILES = (
    "etc/os-release",
    "usr/lib/os-release",
    "etc/nv_tegra_release",
    "proc/device-tree/model",
    "proc/driver/nvidia/version",
    "proc/sys/kernel/osrelease",
    "proc/version",
    "proc/1/cgroup",
    "run/systemd/container",
    "run/.containerenv",
    "sys/module/nvidia/version",
    "sys/module/nouveau",
    "sys/fs/cgroup/memory.max",
    "sys/bus/pci/devices/0000:01:00.0/class",
    "sys/bus/pci/devices/0000:01:00.0/vendor",
    "sys/bus/pci/devices/0000:01:00.0/device",
    "sys/bus/pci/devices/0000:02:00.0",
    "sys/class/kfd/kfd/topology/nodes/1/properties",
    "sys/class/kfd/kfd/topology/nodes/x",
    "dev/nvidia0",
    "dev/shm",
    "lib/ld-musl-x86_64.so.1",
)
CONTENTS = (
    b"",
    b"\0" * 10,
    b"\xff\xfe\xfd",
    b"NAME='\nPRETTY_NAME=\"",
    b"=\n==\n",
    b"NVRM version: Kernel Module \n",
    b"0x03",
    b"0x030000",
    b"gfx_target_version 99999999999999999999999",
    b"9" * 5000,
    b"-1",
    b"x" * 100_000,
)
Make = Callable[..., dict[str, str]]


def random_tree(root: Path, seed: int) -> None:
    chance = random.Random(seed)
    for name in FILES:
        path = root / name
        match chance.randrange(6):
            case 0:
                continue
            case 1:
                path.mkdir(parents=True)
            case 2:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(path)
            case _:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(chance.choice(CONTENTS))
                path.chmod(chance.choice((0o000, 0o644, 0o755)))


@pytest.mark.skipif(os.name != "posix", reason="links and permissions")
@pytest.mark.parametrize("seed", range(40))
def test_no_file_system_makes_inspection_raise(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random_tree(tmp_path, seed)
    # Each fact must stand this by itself, without the net below them all.
    monkeypatch.setattr(inspection, "attempt", lambda look, otherwise: look())
    # NVML does not look at these files: nothing is learnt from asking it forty times.
    monkeypatch.setattr(nvml, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "confstr", lambda name: None)
    machine = inspect(tmp_path / "env", root=tmp_path, environ={})
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_tree_that_may_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o000)
    machine = inspect(root=root, environ={})
    assert (machine.container, machine.wsl, machine.nvidia_pci, machine.kernel_module) == (None, 0, (), None)


@pytest.mark.parametrize("env", ["", "a\0b", "x" * 5000, "\udcff"])
def test_no_environment_makes_inspection_raise(tmp_path: Path, env: str, without_driver: None) -> None:
    machine = inspect(Path(env))
    assert json.loads(json.dumps(machine.to_json()))["os"] == machine.os


def test_no_variable_makes_inspection_raise() -> None:
    names = ("HTTP_PROXY", "TMPDIR", "UV_CACHE_DIR", "container", "CUDA_VISIBLE_DEVICES", "COLAB_GPU", "HOME")
    machine = inspect(environ=dict.fromkeys(names, "\udcff:\0@"))
    assert machine.cuda_visible_devices == "?:\0@"
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


def test_what_breaks_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("broken")

    whole = inspect(environ={"KAGGLE_KERNEL_RUN_TYPE": "Batch"})
    for module, name in [
        (system, "version"),
        (system, "architecture"),
        (system, "libc"),
        (system, "cpus"),
        (system, "memory_mib"),
        (hardware, "look"),
        (disks, "look"),
        (nvml, "ask"),
        (surroundings, "wsl"),
        (surroundings, "container"),
        (surroundings, "colab"),
        (surroundings, "proxies"),
    ]:
        monkeypatch.setattr(module, name, broken)
    machine = inspect()
    assert (machine.os, machine.kernel, machine.python) == (whole.os, whole.kernel, whole.python)
    assert (machine.os_version, machine.arch, machine.libc, machine.cpus, machine.memory_mib) == ("", "", None, 1, 0)
    assert (machine.nvml.status, machine.disks, machine.proxies) == ("failed", (), {})
    assert (machine.wsl, machine.container, machine.colab) == (0, None, False)


def test_this_machine(tmp_path: Path) -> None:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "https_proxy": "http://me:secret@proxy.example:3128"}
    machine = inspect(tmp_path / "env", environ=environ)
    assert machine.python == ".".join(map(str, sys.version_info[:3]))
    assert machine.os_version
    assert machine.kernel
    assert machine.arch
    assert machine.cpus >= 1
    assert machine.memory_mib > 100
    assert {"environment", "temporary", "cache"} <= {disk.purpose for disk in machine.disks}
    assert machine.cuda_visible_devices == ""
    assert machine.proxies["https_proxy"] == "http://proxy.example:3128"
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


def test_made_up_gpus_on_a_made_up_wsl(tmp_path: Path, with_gpus: Make) -> None:
    with_gpus(driver="555.85", cuda="12.5", gpus=[("NVIDIA GeForce RTX 3060", "8.6", 12288)])
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
    machine = inspect(root=tmp_path)
    assert (machine.wsl, machine.driver, machine.cuda_driver, machine.nvidia_pci) == (2, "555.85", "12.5", ())
    assert [(gpu.name, gpu.compute_capability) for gpu in machine.gpus] == [("NVIDIA GeForce RTX 3060", "8.6")]


def test_the_time_limit_reaches_nvml(with_gpus: Make) -> None:
    with_gpus(outcomes={"nvmlInitWithFlags": "hang"})
    assert inspect(nvml_timeout=0.5).nvml.status == "timeout"


def test_without_a_gpu_it_is_quick(without_driver: None) -> None:
    begin = time.perf_counter()
    machine = inspection.inspect()
    # About 0.1 s; the limit is loose because other work may have the processor meanwhile.
    assert time.perf_counter() - begin < 3
    assert machine.nvml.status == "library-missing"
