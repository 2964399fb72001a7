"""Shared libraries that come from the wrong place or twice, and threads."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from dlenv.doctor import shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, skip, warn

# PyTorch brings these itself. LD_LIBRARY_PATH is searched before a RUNPATH and after an RPATH (ld.so(8)): new wheels
# have an RPATH, and conda's and older ones do not; what was loaded tells.
_SHADOWED = re.compile(
    r"lib(cudnn|cublas|cudart|nvJitLink|nvrtc|cusparse|cufft|nccl|torch|c10)\w*[.-](.*\.)?(so|dylib)\b"
)
_OPENMP = re.compile(r"(libgomp|libiomp5|libomp)[-.]")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def path(facts: Facts) -> Verdict:
    """Whether LD_LIBRARY_PATH or the system's loader path puts other libraries before those that PyTorch brings."""
    if facts.machine is not None and facts.machine.os == "windows":
        return skip("Windows has no LD_LIBRARY_PATH")
    variable = "DYLD_LIBRARY_PATH" if facts.machine is not None and facts.machine.os == "macos" else "LD_LIBRARY_PATH"
    value = facts.environ.get(variable, "")
    prefix = facts.found("python").get("prefix")
    torch = facts.stage("torch")
    broken = torch is not None and torch.status not in ("ok", "absent")
    shadows = {}
    for folder in filter(None, value.split(":")):
        if prefix and folder.startswith(f"{prefix}/"):
            continue  # the environment's own
        names = [name for name in _names(Path(folder)) if _SHADOWED.match(name)]
        if names:
            shadows[folder] = names
    if not shadows and isinstance(prefix, str) and (foreign := _foreign(facts, Path(prefix))):
        said = ", ".join(foreign)
        text = f"the system's loader path (/etc/ld.so.conf.d) leads to libraries that PyTorch brings itself: {said}"
        own = dict.fromkeys([*map(str, foreign.values()), *filter(None, value.split(":"))])
        return (fail if broken else warn)(text, shell.export(**{variable: ":".join(own)}))
    if not value:
        return ok(f"{variable} is not set")
    if not shadows:
        return ok(f"{variable} leads to none of PyTorch's libraries")
    said = "; ".join(
        f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''} in {folder}" for folder, names in shadows.items()
    )
    loaded = [lib for lib in _loaded(facts) if any(lib.startswith(f"{folder.rstrip('/')}/") for folder in shadows)]
    rest = [folder for folder in value.split(":") if folder and folder not in shadows]
    fix = shell.export(**{variable: ":".join(rest)}) if rest else shell.unset(variable)
    text = f"{variable} leads to libraries that PyTorch brings itself: {said}"
    if loaded:
        return fail(f"{text}; loaded were {', '.join(Path(lib).name for lib in loaded[:4])}", fix)
    return (fail if broken else warn)(text, fix)


def openmp(facts: Facts) -> Verdict:
    """Whether two OpenMP run-times are loaded into one process, which makes it slow, wrong, or end."""
    stage = facts.stage("libraries")
    if facts.environ.get("KMP_DUPLICATE_LIB_OK", "").upper() in ("TRUE", "1"):
        text = "KMP_DUPLICATE_LIB_OK hides that two OpenMP run-times are loaded; Intel warns of wrong results"
        return warn(text, shell.unset("KMP_DUPLICATE_LIB_OK"))
    if facts.report is not None:
        clash = next((stage for stage in facts.report.stages if "OMP: Error #15" in stage.output), None)
        if clash is not None:
            text = f"two OpenMP run-times clash in {clash.name} (OMP: Error #15): packages of conda and pip are mixed"
            return fail(text, shell.setup(facts))
    if stage is None or stage.status != "ok":
        return skip("which libraries are loaded is not known here")
    copies: dict[str, list[str]] = {}
    for lib in _loaded(facts):
        if match := _OPENMP.match(Path(lib).name):
            copies.setdefault(match[1], []).append(lib)
    if len(copies) > 1:
        said = ", ".join(path for paths in copies.values() for path in paths)
        return warn(f"{len(copies)} OpenMP run-times are loaded: {said}", "install NumPy and PyTorch from one source")
    if len(copies.get("libiomp5", [])) > 1:
        return fail(
            f"libiomp5 is loaded twice: {', '.join(copies['libiomp5'])}", "install NumPy and PyTorch from one source"
        )
    return ok(f"one OpenMP run-time: {', '.join(copies) or 'none was loaded'}")


def threads(facts: Facts) -> Verdict:
    """Whether PyTorch starts more threads than there are processors for it, which wait for each other."""
    cpus = facts.machine.cpus if facts.machine is not None else None
    given = {name: facts.environ[name] for name in _THREADS if facts.environ.get(name)}
    for name, value in given.items():
        number = value.partition(",")[0].strip()  # OMP_NUM_THREADS is a list, one number for each level of nesting
        if not number.isdecimal() or int(number) < 1:
            return warn(f"{name} is {value!r}, which is no number of threads", shell.unset(name))
        if cpus and int(number) > cpus:
            return warn(f"{name} is {value}, and this process has {cpus} CPUs", shell.export(**{name: cpus}))
    found = facts.found("torch").get("threads")
    if not isinstance(found, int) or not cpus:
        return skip("how many threads PyTorch starts is not known")
    if found > cpus:
        text = f"PyTorch starts {found} threads, and this process may use {cpus} CPUs (a container's limit)"
        return warn(text, shell.export(OMP_NUM_THREADS=cpus))
    return ok(f"{found} threads on {cpus} CPUs")


def _foreign(facts: Facts, prefix: Path) -> dict[str, Path]:
    """What was loaded from outside the environment though it has its own -> the folder of its own.

    Environments may be links, and their files links to the installer's cache: what they lead to is compared.
    """
    found = {}
    for lib in _loaded(facts):
        path = Path(lib)
        if not _SHADOWED.match(path.name) or path.is_relative_to(prefix.resolve()):
            continue
        stem = glob.escape(path.name.partition(".so")[0])
        own = [
            file
            for folder in ("nvidia/*/lib", "torch/lib")
            for file in prefix.glob(f"lib/python3.*/site-packages/{folder}/{stem}.so*")
        ]
        if own and path.resolve() not in [file.resolve() for file in own]:
            found[lib] = own[0].parent
    return found


def _loaded(facts: Facts) -> list[str]:
    paths = facts.found("libraries").get("paths")
    return [str(path) for path in paths] if isinstance(paths, list) else []


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
