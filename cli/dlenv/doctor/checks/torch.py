"""PyTorch: that it imports, fits the GPU, the driver, NumPy and torchvision."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from dlenv.doctor import remedy, shell
from dlenv.doctor.checks import gpu
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn
from dlenv.machine.model import Gpu
from dlenv.probe.report import Stage

# What an import that fails says -> what it means. compat section 8.2 has the reports that they are from.
_IMPORTS = (
    (r"undefined symbol: \S*nvJitLink", "another libnvJitLink is loaded before PyTorch's own: see libraries.path"),
    (r"undefined symbol: iJIT_NotifyEvent", "conda's torch does not go with mkl 2024.1 and newer"),
    (r"WinError (126|127|1114)", "install https://aka.ms/vs/17/release/vc_redist.x64.exe, which PyTorch needs"),
    (
        r"lib(cudnn|cublas|cusparse|cufft|nccl|nvrtc|cudart)\S*: cannot open",
        "a package of NVIDIA's libraries is missing",
    ),
    (r"(invalid ELF header|file too short)", "a library on the way is no library, or was cut off while downloading"),
    (r"GLIBC_[\d.]+. not found", "this build was made for a newer system: see system.libc"),
    (r"undefined symbol", "parts of two versions are mixed: see packages.duplicates and libraries.path"),
)
_RELOAD = "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm"
# What CUDA says where it does not start -> what to do; None: restart.
_CUDA = (
    (r"Error 803|unsupported display driver", "the driver was updated while its old kernel module runs", None),
    (r"Error 804|forward compatibility was attempted", "CUDA's compatibility package does not go with this GPU",
     "remove cuda-compat from the container, and /usr/local/cuda/compat from LD_LIBRARY_PATH"),
    (r"Error 802|system not yet initialized", "the fabric manager of this machine does not run",
     "sudo systemctl enable --now nvidia-fabricmanager"),
    (r"CUDA unknown error", "the module nvidia_uvm hangs, as after a suspend, or CUDA_VISIBLE_DEVICES names no GPU",
     _RELOAD),
    (r"busy or unavailable", "another program holds the GPU for itself", "see gpu.compute-mode"),
    (r"out of memory", "the GPU's memory is full", "see gpu.memory"),
    (r"no CUDA-capable device", "CUDA finds no GPU", "see gpu.visible and driver.devices"),
)  # fmt: skip
_OLD_NUMPY = re.compile(r"compiled using NumPy 1\.x|_ARRAY_API not found|Numpy is not available")


def imports(facts: Facts) -> Verdict:
    """Whether PyTorch can be imported."""
    stage = facts.stage("torch")
    if stage is None:
        return fail("the probe did not come to PyTorch", "see python.start")
    if stage.status == "ok":
        return ok(f"torch {stage.facts.get('version')} in {stage.facts.get('file')}")
    if stage.status == "absent":
        return fail("PyTorch is not installed in this environment", remedy.torch(facts))
    text = _said(stage)
    meaning = next((meaning for pattern, meaning in _IMPORTS if re.search(pattern, _all(stage))), None)
    missing = stage.facts.get("missing")
    if missing and str(missing).partition(".")[0] != "torch":
        return fail(text, remedy.install(facts, *remedy.pinned(facts, (str(missing).partition(".")[0],))))
    if meaning and "see " in meaning:
        return fail(f"{text}: {meaning}", meaning[meaning.index("see ") :])
    if meaning and meaning.startswith("install "):
        return fail(text, meaning)
    return fail(f"{text}: {meaning}" if meaning else text, remedy.torch(facts))


def build(facts: Facts) -> Verdict:
    """Whether a machine with a GPU has a PyTorch that can use it."""
    assert facts.machine is not None
    stage = facts.stage("torch")
    if stage is None or stage.status != "ok":
        return skip("PyTorch can't be imported: see torch.import")
    version, cuda = stage.facts.get("version"), stage.facts.get("cuda")
    amd = ", ".join(facts.machine.amd_gpus) if facts.machine.rocm_driver and not facts.machine.gpus else ""
    if amd and not stage.facts.get("hip") and facts.plan is not None and facts.plan.torch.build.startswith("rocm"):
        kind = f"CUDA {cuda}" if cuda else "the CPU only"
        text = f"torch {version} is built for {kind}, and this machine has AMD's {amd}"
        if asked := remedy.asked(facts):
            return ok(f"{text}; it was asked for by {asked}")
        return fail(text, remedy.torch(facts, replan=True))
    if cuda or stage.facts.get("hip"):
        return ok(f"torch {version} is built for {f'CUDA {cuda}' if cuda else 'ROCm'}")
    if not facts.machine.gpus:
        return ok(f"torch {version} is built for the CPU, and there is no NVIDIA GPU")
    names = ", ".join(item.name for item in gpu.used(facts) or facts.machine.gpus)
    text = f"torch {version} is built for the CPU only, and this machine has {names}"
    if asked := remedy.asked(facts):
        return ok(f"{text}; it was asked for by {asked}")
    if facts.plan is not None and not facts.plan.torch.build.startswith("cu"):
        return warn(f"{text}; but no build runs on it with this driver", "dlenv setup --dry-run")
    return fail(text, remedy.torch(facts, replan=True))


def architectures(facts: Facts) -> Verdict:
    """Whether PyTorch was built with machine code for the GPUs; `torch.cuda.is_available()` does not ask that."""
    assert facts.machine is not None
    stage = facts.stage("torch")
    codes = stage.facts.get("architectures") if stage else None
    if not codes or not isinstance(codes, list):
        return skip("this torch has no code for GPUs, or can't be imported")
    gpus = [item for item in gpu.used(facts) if item.compute_capability]
    if not gpus:
        return skip("there is no NVIDIA GPU, or none that programs see")
    have = f"torch {stage.facts.get('version') if stage else ''} has code for {', '.join(codes)}"
    bad = [item for item in gpus if not runs_on(codes, item.compute_capability or "")]
    if not bad:
        return ok(have)
    available = facts.found("cuda").get("available")
    beside = ", though torch.cuda.is_available() says True" if available else ""
    names = ", ".join(f"{item.name} (compute capability {item.compute_capability})" for item in bad)
    text = f"{have}, none of which runs on {names}{beside}: 'no kernel image is available'"
    if asked := remedy.asked(facts):
        return skip(f"{text}; but this build was asked for by {asked}")
    good = [item for item in gpus if item not in bad]
    if good:
        chosen = ",".join(str(item.index) for item in good)
        return warn(text, shell.export(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=chosen))
    return fail(text, remedy.torch(facts, replan=True))


def driver(facts: Facts) -> Verdict:
    """Whether the driver is new enough for the CUDA version that PyTorch was built for."""
    assert facts.machine is not None
    cuda = facts.found("torch").get("cuda")
    machine = facts.machine
    if not isinstance(cuda, str) or machine.driver is None:
        return skip("this needs a CUDA build of PyTorch and an NVIDIA driver")
    from dlenv import catalog

    windows = machine.os == "windows" or bool(machine.wsl)
    worst = max(gpu.used(facts), key=_major, default=None)
    try:
        floor = catalog.load().cuda.floor(
            cuda, "windows" if windows else "linux", worst.compute_capability if worst else None
        )
        enough = Version(machine.driver) >= Version(floor)
    except (InvalidVersion, StopIteration, ValueError):
        return skip(f"whether driver {machine.driver} goes with CUDA {cuda} is not known")
    if enough:
        return ok(f"driver {machine.driver} runs CUDA {cuda} (needs {floor})")
    if gpu.computed(facts):
        return ok(f"driver {machine.driver} runs CUDA {cuda} (needs {floor}; with NVIDIA's cuda-compat, less will do)")
    text = f"torch is built for CUDA {cuda}, which needs driver {floor} or newer, and this is {machine.driver}"
    if asked := remedy.asked(facts):
        return skip(f"{text}; but this build was asked for by {asked}")
    return fail(text, remedy.torch(facts, replan=True))


def cuda(facts: Facts) -> Verdict:
    """Whether CUDA starts and runs something on every GPU that PyTorch sees."""
    assert facts.machine is not None
    stage = facts.stage("cuda")
    if stage is None or stage.status in ("skipped", "absent"):
        return skip("this torch is built without CUDA, or can't be imported")
    if stage.status == "ok" and stage.facts.get("available"):
        found = stage.facts.get("devices")
        devices = [device for device in found if isinstance(device, dict)] if isinstance(found, list) else []
        bad = [device for device in devices if not device.get("launched")]
        if not bad:
            return ok("; ".join(f"{device.get('name')} computes" for device in devices))
        return _cuda_failure(facts, f"{bad[0].get('name')}: {bad[0].get('error', 'a sum is wrong')}", stage)
    if not facts.machine.gpus:
        return skip("there is no NVIDIA GPU that answers")
    if gpu.visible(facts).status == "fail":
        return skip("every GPU is hidden: see gpu.visible")
    if stage.status == "ok":
        if "driver on your system is too old" in stage.output:
            return fail("CUDA says that the driver is too old", "see torch.driver")
        lines = [line for line in stage.output.splitlines() if "CUDA" in line]
        return _cuda_failure(
            facts,
            f"torch.cuda.is_available() is False: {lines[0].strip() if lines else 'it does not say why'}",
            stage,
        )
    return _cuda_failure(facts, _said(stage), stage)


def numpy(facts: Facts) -> Verdict:
    """Whether PyTorch and NumPy share data: torch before 2.3 was compiled against NumPy 1."""
    stage = facts.stage("bridge")
    torch = facts.stage("torch")
    if stage is None or torch is None or stage.status == "skipped":
        return skip("torch or numpy is missing, or can't be imported")
    if stage.status == "ok" and not _OLD_NUMPY.search(torch.output):
        return ok(f"torch {torch.facts.get('version')} and numpy {facts.found('numpy').get('version')}")
    text = _said(stage) if stage.status != "ok" else "torch was compiled against NumPy 1"
    version = facts.found("numpy").get("version")
    return fail(f"{text}; numpy is {version}, torch {torch.facts.get('version')}", remedy.install(facts, "numpy<2"))


def torchvision(facts: Facts) -> Verdict:
    """Whether torchvision's operators load, which they do only beside the torch that they were made for."""
    stage, torch = facts.stage("torchvision"), facts.found("torch")
    if stage is None or stage.status == "skipped":
        return skip("PyTorch can't be imported: see torch.import")
    if stage.status == "absent":
        if facts.record is None and facts.version("d2l") is None:
            return skip("torchvision is not installed")
        return fail("torchvision is not installed, and d2l needs it", remedy.torchvision(facts))
    if stage.status == "ok":
        return ok(f"torchvision {stage.facts.get('version')} with torch {torch.get('version')}")
    text = f"{_said(stage)}; torch is {torch.get('version')}, torchvision {facts.version('torchvision')}"
    missing = str(stage.facts.get("missing") or "").partition(".")[0]
    if missing not in ("", "torch", "torchvision"):
        return fail(text, remedy.install(facts, *remedy.pinned(facts, (missing,))))
    return fail(text, remedy.torchvision(facts))


def runs_on(codes: list[str], capability: str) -> bool:
    """Whether one of these codes ("sm_86", "compute_90") runs on a GPU of this compute capability ("8.9").

    Machine code runs on later GPUs of its major version, PTX (compute) on every later one (CUDA C++ Programming Guide,
    "Binary compatibility" and "PTX compatibility").
    """
    major, _, minor = capability.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return True  # nothing is known against it
    have = (int(major), int(minor))
    for code in codes:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", code)
        if match is None:
            continue
        made = (int(match[2]), int(match[3]))
        if match[4]:  # for exactly this architecture (a), or its family (f)
            fits = have == made if match[4] == "a" else have[0] == made[0] and have >= made
        else:
            fits = have >= made and (match[1] == "compute" or have[0] == made[0])
        if fits:
            return True
    return False


def _cuda_failure(facts: Facts, text: str, stage: Stage) -> Verdict:
    everything = f"{text}\n{_all(stage)}"
    if "no kernel image" in everything:
        return fail(text, "see torch.architectures")
    for pattern, meaning, fix in _CUDA:
        if re.search(pattern, everything):
            return fail(f"{text}: {meaning}", _where(facts, fix))
    return fail(f"{text}; where the fix does not help, restart the machine", _where(facts, _RELOAD))


def _where(facts: Facts, fix: str | None) -> str:
    """``fix``; a restart where there is none, or no module of that name as on Windows and a Jetson."""
    assert facts.machine is not None
    fits = fix != _RELOAD or (facts.machine.os == "linux" and not facts.machine.jetson)
    return fix if fix is not None and fits else shell.restart()


def _said(stage: Stage) -> str:
    return stage.error or f"it {stage.status}"


def _all(stage: Stage) -> str:
    return f"{stage.error}\n{stage.traceback}\n{stage.output}"


def _major(item: Gpu) -> int:
    major = (item.compute_capability or "0").partition(".")[0]
    return int(major) if major.isdecimal() else 0
