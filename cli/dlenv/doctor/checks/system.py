"""The machine around the environment: system library, processor, disks, memory, Colab."""

from __future__ import annotations

from pathlib import Path

from packaging.version import InvalidVersion, Version

from dlenv.doctor import shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.machine.model import Disk, Machine

# torch's wheels since 2.7 are manylinux_2_28, older ones manylinux1 or manylinux2014, that is glibc 2.17 (PyPI).
_GLIBC_NOW, _GLIBC_EVER = "2.28", "2.17"
# A CUDA build takes 5.2 GB and its downloads 2.5 to 3 GB (torch 2.15.0+cu132, measured).
_ROOM_MIB = 8 * 1024
_LITTLE_MIB = 1024
# Workers pass batches through shared memory: 64 images of 3 x 224 x 224 in float32 take 37 MiB, each worker prepares
# two batches ahead, d2l has four workers. Docker gives 64 MiB.
_SHARED_MIB = 1024


def platform(facts: Facts) -> Verdict:
    """Whether PyTorch has wheels for this kind of machine at all."""
    machine = _machine(facts)
    where = f"{machine.os_version or machine.os}, {machine.arch}"
    if machine.python_bits != 64:
        return fail(f"{where}: the Python is a 32-bit one, and PyTorch has no wheels for it", "install a 64-bit Python")
    if machine.python_emulated:
        return warn(f"{where}: the Python is made for x86_64 and emulated, which is slow", "install a Python for arm64")
    if machine.os == "macos" and machine.arch == "x86_64":
        last = shell.uv("pip", "install", "--python", facts.target.python, "torch==2.2.2", "numpy<2")
        return warn(f"{where}: PyTorch's last wheel for Intel Macs is 2.2.2", last)
    if machine.arch not in ("x86_64", "aarch64", "arm64") or machine.os == "other":
        return fail(f"{where}: PyTorch has no wheels for this", "build PyTorch from source, or use another machine")
    return ok(where)


def libc(facts: Facts) -> Verdict:
    """Whether the C library is new enough for PyTorch's wheels."""
    machine = _machine(facts)
    if machine.os != "linux" or machine.libc is None:
        return skip("wheels ask for a version of the C library on Linux only")
    name, version = machine.libc
    if name != "glibc":
        return fail(
            f"{name} {version}: PyTorch's wheels need glibc",
            "use a container of Debian or Ubuntu: docker run -it python:3.12",
        )
    try:
        found = Version(version)
    except InvalidVersion:
        return skip(f"glibc calls itself {version!r}")
    if found < Version(_GLIBC_EVER):
        return fail(f"glibc {version}: no wheel of PyTorch's runs here", "upgrade the system, or use a container")
    if found < Version(_GLIBC_NOW):
        return warn(f"glibc {version}: torch 2.6 is the newest that runs here, newer ones need {_GLIBC_NOW}",
                    "upgrade the system, use a container, or stay with torch<2.7")  # fmt: skip
    return ok(f"glibc {version}")


def disk(facts: Facts) -> Verdict:
    """Whether there is room for PyTorch where it is downloaded, unpacked and installed."""
    machine = _machine(facts)
    disks = [disk for disk in machine.disks if disk.purpose != "shared-memory"]
    if not disks:
        return skip("no disk could be measured")
    said = [f"{disk.purpose} {disk.free_mib / 1024:.1f} GiB free ({disk.path})" for disk in disks]
    smallest = min(disks, key=lambda disk: disk.free_mib)
    if smallest.free_mib >= _ROOM_MIB:
        return ok("; ".join(said))
    text = f"{'; '.join(said)}: a CUDA build and its downloads take {_ROOM_MIB // 1024} GiB"
    # uv unpacks beside its cache, and only pip in the temporary folder.
    full = next((disk for disk in disks if disk.free_mib < _LITTLE_MIB and disk.purpose != "temporary"), None)
    if full is not None:
        return fail(text, _room(full, disks))
    return warn(text, _room(smallest, disks))


def _room(full: Disk, disks: list[Disk]) -> str:
    """Use the roomiest disk for temporary files and downloads; else take away what was downloaded."""
    best = max(disks, key=lambda disk: disk.free_mib)
    beside = Path(best.path).parent
    if best.free_mib < _ROOM_MIB or full.purpose not in ("temporary", "cache"):
        return shell.uv("cache", "prune")
    return (
        shell.export(TMPDIR=beside) if full.purpose == "temporary" else shell.export(UV_CACHE_DIR=beside / "uv-cache")
    )


def shared_memory(facts: Facts) -> Verdict:
    """Whether the workers that load data have room to pass it on."""
    machine = _machine(facts)
    found = next((disk for disk in machine.disks if disk.purpose == "shared-memory"), None)
    if found is None:
        return skip("this system has no /dev/shm")
    text = f"{found.path} has {found.total_mib} MiB, {found.free_mib} of them free"
    if min(found.total_mib, found.free_mib) >= _SHARED_MIB:
        return ok(text)
    fix = "sudo mount -o remount,size=8G /dev/shm"
    if machine.container:
        fix = "docker run --shm-size=8g ... (or --ipc=host); until then DataLoader(..., num_workers=0)"
    return warn(f"{text}: workers of a DataLoader end with 'Bus error'", fix)


def colab(facts: Facts) -> Verdict:
    """Whether a notebook of Colab's or Kaggle's has a GPU."""
    machine = _machine(facts)
    if not machine.colab and not machine.kaggle:
        return skip("this is neither Colab nor Kaggle")
    name = "Colab" if machine.colab else "Kaggle"
    if machine.gpus:
        return ok(f"{name} with {machine.gpus[0].name}")
    menu = "Runtime > Change runtime type > T4 GPU" if machine.colab else "Settings > Accelerator > GPU T4 x2"
    return warn(f"this {name} notebook has no GPU", menu)


def _machine(facts: Facts) -> Machine:
    assert facts.machine is not None
    return facts.machine
