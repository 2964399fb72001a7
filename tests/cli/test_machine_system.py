"""Operating system, hardware and surroundings, on made-up file systems."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dlenv.machine import disks, hardware, surroundings, system

Tree = Callable[[dict[str, str]], Path]

OS_RELEASE = 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A file system with these files; a name that ends in ``/`` is a folder."""

    def make(files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_text(content)
        return tmp_path

    return make


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def pci(address: str, kind: str, vendor: str, device: str = "0x0000") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{address}"
    return {f"{folder}/class": f"{kind}\n", f"{folder}/vendor": f"{vendor}\n", f"{folder}/device": f"{device}\n"}


def kfd(node: int, target: int) -> dict[str, str]:
    properties = f"cpu_cores_count 0\nsimd_count 80\ngfx_target_version {target}\nvendor_id 4098\n"
    return {f"sys/class/kfd/kfd/topology/nodes/{node}/properties": properties}


# The operating system ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"etc/os-release": OS_RELEASE}, "Debian GNU/Linux 12 (bookworm)"),
        ({"usr/lib/os-release": "NAME=Alpine\n# PRETTY_NAME=no\nVERSION_ID=3.20\n"}, "Alpine"),
        ({"etc/os-release": "PRETTY_NAME='CentOS Linux 7 (Core)'\n"}, "CentOS Linux 7 (Core)"),
        ({"etc/os-release": 'PRETTY_NAME="no end\nrubbish\n'}, "no end"),
        ({"etc/os-release": ""}, "Linux"),
        ({}, "Linux"),
    ],
)
def test_version_of_a_linux(tree: Tree, files: dict[str, str], said: str) -> None:
    assert system.version("linux", tree(files)) == said


def test_version_of_macos_and_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "version", lambda: "10.0.22631")
    assert system.version("macos", tmp_path) == "14.5"
    assert system.version("windows", tmp_path) == "10.0.22631"


@pytest.mark.parametrize(
    ("name", "machine", "said"),
    [
        ("linux", "x86_64", "x86_64"),
        ("linux", "aarch64", "aarch64"),
        ("linux", "arm64", "aarch64"),
        ("linux", "ppc64le", "ppc64le"),
        ("linux", "i686", "i686"),
        ("windows", "AMD64", "x86_64"),
        ("windows", "ARM64", "arm64"),
        ("macos", "arm64", "arm64"),
        ("macos", "x86_64", "x86_64"),
    ],
)
def test_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: system.System, machine: str, said: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert system.architecture(name, tmp_path) == (said, False)


@pytest.mark.skipif(os.name != "posix", reason="needs /bin/sh")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('[ "$*" = "-n hw.optional.arm64" ] && echo 1', ("arm64", True)),
        ("echo 0", ("x86_64", False)),
        ("echo 'unknown oid' >&2; exit 1", ("x86_64", False)),
    ],
)
def test_rosetta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: tuple[str, bool]) -> None:
    program(tmp_path / "usr/sbin/sysctl", script)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert system.architecture("macos", tmp_path) == said


def test_an_x64_python_on_windows_for_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "ARM64")
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "win-amd64")
    assert system.architecture("windows", tmp_path) == ("arm64", True)


def test_glibc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.17", raising=False)
    assert system.libc("linux", tmp_path) == ("glibc", "2.17")
    assert system.libc("macos", tmp_path) is None


@pytest.mark.skipif(os.name != "posix", reason="needs /bin/sh")
def test_musl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    assert system.libc("linux", tmp_path) is None
    loader = tmp_path / "lib/ld-musl-x86_64.so.1"
    program(loader, "printf 'musl libc (x86_64)\\nVersion 1.2.5\\nDynamic Program Loader\\n' >&2; exit 1")
    assert system.libc("linux", tmp_path) == ("musl", "1.2.5")
    loader.chmod(0o644)
    loader.write_text("not a program")
    assert system.libc("linux", tmp_path) == ("musl", "")


@pytest.mark.parametrize("name", ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_memory_of_a_container(tree: Tree, tmp_path: Path, name: str) -> None:
    whole = psutil.virtual_memory().total // 2**20
    assert system.memory_mib(tmp_path) == whole
    assert system.memory_mib(tree({name: "max\n"})) == whole
    assert system.memory_mib(tree({name: "9223372036854771712\n"})) == whole
    assert system.memory_mib(tree({name: "67108864\n"})) == 64


@pytest.mark.skipif(sys.platform != "linux", reason="sets this process's affinity")
def test_cpus_are_those_that_this_process_may_use(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert system.cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "6500000 100000\n"}, 64),  # more than there are
        ({"cpu.max": "100000 0\n"}, 64),
        ({"cpu.max": "rubbish"}, 64),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_a_container_has_time_on_processors(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, limit: dict[str, str], count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert system.cpus(tree({f"sys/fs/cgroup/{name}": text for name, text in limit.items()})) == count


# GPUs without their libraries ----------------------------------------------------------------------------------------


def test_a_machine_without_gpus(tmp_path: Path) -> None:
    assert hardware.look(tmp_path) == hardware.Hardware()


def test_nvidia_gpus_with_their_driver(tree: Tree) -> None:
    devices = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
    root = tree(
        {
            **pci("0000:01:00.0", "0x030000", "0x10de", "0x2882"),
            **pci("0000:01:00.1", "0x040300", "0x10de", "0x22be"),  # its sound
            **pci("0000:81:00.0", "0x030200", "0x10de", "0x2330"),
            "sys/module/nvidia/version": "550.54.14\n",
            **{f"dev/{name}": "" for name in devices},
            "dev/nvidia-caps/nvidia-cap1": "",
        }
    )
    found = hardware.look(root)
    assert found.nvidia_pci == ("0000:01:00.0", "0000:81:00.0")
    assert found.kernel_module == "550.54.14"
    assert set(found.nvidia_devices) == {f"/dev/{name}" for name in devices}
    assert not any([found.nouveau, found.intel_gpu, found.amd_gpus, found.rocm_driver, found.jetson])


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024", "470.256.02"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  390.157", "390.157"),
        ("NVRM version: rubbish", None),
        ("", None),
    ],
)
def test_version_of_the_kernel_module(tree: Tree, line: str, version: str | None) -> None:
    root = tree({"proc/driver/nvidia/version": f"{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"})
    assert hardware.look(root).kernel_module == version


def test_nouveau_drives_an_nvidia_gpu(tree: Tree) -> None:
    found = hardware.look(tree({**pci("0000:01:00.0", "0x030000", "0x10de"), "sys/module/nouveau/": ""}))
    assert (found.nouveau, found.nvidia_pci, found.kernel_module) == (True, ("0000:01:00.0",), None)


def test_amd_gpus_with_their_driver(tree: Tree) -> None:
    nodes = {**kfd(0, 0), **kfd(1, 110000), **kfd(2, 90010), **kfd(10, 100306)}
    found = hardware.look(tree({**nodes, **pci("0000:03:00.0", "0x030000", "0x1002", "0x744c"), "dev/kfd": ""}))
    assert (found.amd_gpus, found.rocm_driver) == (("gfx1100", "gfx90a", "gfx1036"), True)


def test_an_amd_gpu_without_its_driver(tree: Tree) -> None:
    found = hardware.look(tree({**kfd(0, 0), **pci("0000:03:00.0", "0x030000", "0x1002", "0x744c")}))
    assert (found.amd_gpus, found.rocm_driver) == (("PCI 1002:744c",), False)


def test_an_intel_gpu(tree: Tree) -> None:
    assert not hardware.look(tree(pci("0000:00:1f.3", "0x040300", "0x8086"))).intel_gpu
    assert hardware.look(tree(pci("0000:00:02.0", "0x030000", "0x8086"))).intel_gpu


def test_what_can_not_be_read_hides_nothing_else(tree: Tree) -> None:
    devices, nodes = "sys/bus/pci/devices", "sys/class/kfd/kfd/topology/nodes"
    root = tree(
        {
            f"{devices}/0000:00:00.0": "no folder",
            f"{devices}/0000:00:01.0/class/": "",
            **pci("0000:00:02.0", "0x03", "rubbish"),
            **pci("0000:01:00.0", "0x030000", "0x10de"),
            f"{nodes}/0/properties/": "",
            f"{nodes}/1/properties": f"gfx_target_version {'9' * 5000}\n",
            **kfd(2, 110000),
        }
    )
    found = hardware.look(root)
    assert (found.nvidia_pci, found.amd_gpus) == (("0000:01:00.0",), ("gfx1100",))


@pytest.mark.parametrize(
    "files",
    [
        {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n"},
        {"proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0"},
    ],
)
def test_jetson(tree: Tree, files: dict[str, str]) -> None:
    assert hardware.look(tree(files)).jetson


def test_another_board_with_a_device_tree(tree: Tree) -> None:
    assert not hardware.look(tree({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})).jetson


# Surroundings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"proc/sys/kernel/osrelease": "6.1.0-18-amd64\n"}, 0),
        ({"proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft\n"}, 1),
        ({"proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2\n", "dev/dxg": ""}, 2),
        ({"proc/version": "Linux version 4.4.0-22621-Microsoft (Microsoft@Microsoft.com) #1237-Microsoft"}, 1),
        ({"proc/version": "Linux version 6.6.36.3-microsoft-standard-WSL2 (root@x) (gcc 11.2.0)"}, 2),
        ({"proc/version": "Linux version 6.1.0 (someone@microsoft.com)"}, 0),
        ({"proc/sys/kernel/osrelease": "6.9.0-mine\n", "dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""}, 2),
        ({"proc/sys/kernel/osrelease": "6.9.0\n", "dev/dxg": ""}, 0),  # a virtual machine of Hyper-V with a GPU
        ({}, 0),
    ],
)
def test_wsl(tree: Tree, files: dict[str, str], version: int) -> None:
    assert surroundings.wsl(tree(files)) == version


@pytest.mark.parametrize(
    ("files", "environ", "kind"),
    [
        ({}, {}, None),
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {"container": "podman"}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "kubernetes"),
        ({"run/secrets/kubernetes.io/serviceaccount/token": ""}, {}, "kubernetes"),
        ({}, {"container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"run/systemd/container": "lxc\n"}, {}, "lxc"),
        ({}, {"APPTAINER_CONTAINER": "/images/torch.sif"}, "apptainer"),
        ({}, {"SINGULARITY_CONTAINER": "/images/torch.sif"}, "apptainer"),
        ({"proc/1/cgroup": "5:cpu:/kubepods/besteffort/pod1/abc\n"}, {}, "kubernetes"),
        ({"proc/1/cgroup": "5:cpu:/docker/0123abcd\n"}, {}, "docker"),
        ({"proc/1/cgroup": "5:cpu:/machine.slice/libpod-0123.scope\n"}, {}, "podman"),
        ({"proc/1/cgroup": "5:cpu:/lxc/web\n"}, {}, "lxc"),
        ({"proc/1/cgroup": "0::/init.scope\n"}, {}, None),
    ],
)
def test_container(tree: Tree, files: dict[str, str], environ: dict[str, str], kind: str | None) -> None:
    assert surroundings.container(tree(files), environ) == kind


@pytest.mark.parametrize(
    ("environ", "package", "colab"),
    [
        ({"COLAB_RELEASE_TAG": "release-colab_20260819"}, False, True),
        ({"COLAB_RELEASE_TAG": ""}, True, False),
        ({"COLAB_GPU": "1"}, False, False),
        ({"COLAB_GPU": ""}, True, True),
        ({"COLAB_BACKEND_VERSION": "next"}, True, True),
        ({"COLAB_RELEASE_TAG": "x", "COLAB_GPU": "1", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True, False),
        ({}, True, False),
        ({}, False, False),
    ],
)
def test_colab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], package: bool, colab: bool
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").touch()
    if package:
        (tmp_path / "google" / "colab").mkdir()
        (tmp_path / "google" / "colab" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert surroundings.colab(environ) is colab
    sys.modules.pop("google", None)


def test_kaggle() -> None:
    assert surroundings.kaggle({"KAGGLE_KERNEL_RUN_TYPE": "Batch"})
    assert not surroundings.kaggle({})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://me:secret@proxy.example:3128/", "http://proxy.example:3128/"),
        ("socks5h://me:se/c@r:et@proxy.example:1080", "socks5h://proxy.example:1080"),
        ("me:secret@proxy.example:3128", "proxy.example:3128"),
        ("localhost,127.0.0.1,.example", "localhost,127.0.0.1,.example"),
        ("http://me:\udcff@proxy.example", "http://proxy.example"),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "no_proxy"])
def test_proxies_tell_no_secrets(name: str, value: str, shown: str) -> None:
    assert surroundings.proxies({name: value, "FTP_PROXY": "http://ftp.example", "all_proxy": " "}) == {name: shown}


# Disks ---------------------------------------------------------------------------------------------------------------


def test_disks(tree: Tree, tmp_path: Path) -> None:
    root = tree({"dev/shm/": "", "temporary/": ""})
    environ = {"TMPDIR": str(root / "temporary"), "UV_CACHE_DIR": str(root / "not/there/yet")}
    found = {disk.purpose: disk for disk in disks.look(root / "course", root, environ)}
    assert {purpose: disk.path for purpose, disk in found.items()} == {
        "environment": str(root / "course"),
        "temporary": str(root / "temporary"),
        "cache": str(root / "not/there/yet"),
        "shared-memory": str(root / "dev/shm"),
    }
    usage = shutil.disk_usage(tmp_path)
    for disk in found.values():
        assert disk.device == tmp_path.stat().st_dev
        assert disk.total_mib == usage.total // 2**20
        assert 0 < disk.free_mib <= disk.total_mib


def test_disks_without_environment_or_shared_memory(tmp_path: Path) -> None:
    found = disks.look(None, tmp_path, {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert [disk.purpose for disk in found] == ["temporary", "cache"]
    assert found[1].path == str(tmp_path / "uv")


def test_a_relative_environment_and_a_link_to_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for env in (Path("course"), Path("link"), Path("link/bin")):
        disk = next(disk for disk in disks.look(env, tmp_path, {}) if disk.purpose == "environment")
        assert (disk.path, disk.device) == (str(tmp_path / env), tmp_path.stat().st_dev)
