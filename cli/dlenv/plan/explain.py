"""Why this build and not a newer one, in sentences that students read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dlenv.catalog.cuda import number
from dlenv.plan.devices import describe
from dlenv.plan.fit import Target, gpu_problem, host_problem, mps_floor
from dlenv.plan.pick import Choice, allowed, choose, newest, rank

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.catalog.torch import Build
    from dlenv.machine.model import Gpu, Machine
    from dlenv.plan.model import Request
    from dlenv.plan.notes import Notes

# A driver newer than every other, to see what only the driver stands in the way of.
_ANY_DRIVER = "99999"


def explain(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog, notes: Notes) -> None:
    """Say what was chosen and why, and what another driver, GPU, Python or system would give."""
    build = choice.build
    if choice.device == "cuda":
        _cuda(choice, on, machine, request, catalog, notes)
    elif request.build is not None:
        notes.because(f"torch {build.torch} is the newest with the build {build.build} that you asked for.")
        if request.gpus == () and build.build != "mps":
            notes.because(f"{build.label} computes on the CPU.")
    elif choice.device == "rocm":
        notes.because(f"{build.label} is the newest build that has code for {_common(build, on)}.")
    elif build.build != "mps":
        _cpu(choice, on, machine, request, notes)
    if build.build == "mps":
        _apple(choice, on, request, catalog, notes)
    _newer(choice, on, request, catalog, notes)
    if len(on.gpus) > 1:
        _single(choice, on, machine, request, catalog, notes)
    _unused(choice, on, machine, request, notes)


def doubt(
    choice: Choice,
    spare: tuple[Build, ...],
    on: Target,
    machine: Machine,
    request: Request,
    catalog: Catalog,
    notes: Notes,
) -> None:
    """Warn that the chosen build may not exist, and name what is taken instead, or else the best one that does."""
    if spare:
        instead = f"; if it is missing, {spare[0].label} is taken"
    else:
        seen = msgspec.structs.replace(catalog, builds=tuple(build for build in catalog.builds if build.confirmed))
        sure = choose(choice.python, on, machine, msgspec.structs.replace(request, torch=None), seen)
        instead = f"; if it is missing, --torch {sure.build.torch} gives {sure.build.label}" if sure else ""
    notes.warn(f"{choice.build.label} for {on.system} was announced, and not seen when the catalog was made{instead}.")


def only(gpus: tuple[Gpu, ...]) -> str:
    """The options that choose these GPUs: ``--gpu 0 --gpu 2``."""
    return " ".join(f"--gpu {gpu.index}" for gpu in gpus)


def without_driver(on: Target) -> Target:
    """The same machine with a driver for everything."""
    return msgspec.structs.replace(on, driver=_ANY_DRIVER, cuda_driver=_ANY_DRIVER)


def floor(build: Build, on: Target, catalog: Catalog) -> str:
    """The oldest driver with which ``build`` runs on every chosen GPU."""
    assert build.cuda is not None
    floors = [catalog.cuda.floor(build.cuda, on.driver_system, gpu.compute_capability) for gpu in on.gpus]
    return max(floors, key=number)


def _common(build: Build, on: Target) -> str:
    return ", ".join(gfx for gfx in on.gfx if gfx in build.gfx)


def _driver(on: Target) -> str:
    return on.driver or (f"one for CUDA {on.cuda_driver}" if on.cuda_driver else "not known")


def _cuda(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog, notes: Notes) -> None:
    build = choice.build
    assert build.cuda is not None
    notes.because(
        f"{build.label} has code for {describe(on.gpus)} and needs driver {floor(build, on, catalog)} or newer; "
        f"this is {_driver(on)}."
    )
    if request.strict_cuda and request.build is None:
        notes.because(
            f"By the strict rule, CUDA {build.cuda} is the highest of PyTorch's builds not above the driver's "
            f"{on.cuda_driver}, and {build.torch} the newest torch built for it."
        )
        usual = choose(choice.python, on, machine, msgspec.structs.replace(request, strict_cuda=False), catalog)
        if usual and usual.build.label != build.label:
            notes.because(f"Without --strict-cuda it would be {usual.build.label}, which this driver also runs.")
    elif on.cuda_driver and number(build.cuda) > number(on.cuda_driver):
        notes.because(
            f"The driver is for CUDA {on.cuda_driver}, and by CUDA's minor-version compatibility it runs every "
            f"{build.cuda.partition('.')[0]}.x build; only code shipped as PTX would need one for {build.cuda}."
        )


def _cpu(choice: Choice, on: Target, machine: Machine, request: Request, notes: Notes) -> None:
    label = choice.build.label
    if on.gpus:
        notes.because(f"No CUDA build fits {describe(on.gpus)} here, so {label} computes on the CPU.")
    elif request.gpus == ():
        notes.because(f"{label} computes on the CPU.")
    elif machine.amd_gpus and machine.os == "windows":
        notes.because(f"PyTorch has no build for AMD GPUs on Windows, so {label} computes on the CPU.")
    elif machine.amd_gpus and not on.gfx:
        notes.because(f"Which AMD GPU this is could not be found out, so {label} computes on the CPU.")
        notes.warn("If ROCm supports this GPU, name the build yourself: --build rocm7.2.")
    elif machine.amd_gpus and machine.os == "linux" and not machine.rocm_driver:
        notes.because(f"The AMD GPU's driver is not loaded (no /dev/kfd), so {label} computes on the CPU.")
        notes.warn("With AMD's kernel driver loaded, `dlenv setup` chooses a ROCm build for the GPUs that have one.")
    elif machine.amd_gpus and machine.os == "linux":
        notes.because(f"No ROCm build has code for {', '.join(on.gfx)}, so {label} computes on the CPU.")
    elif machine.intel_gpu:
        notes.because(
            f"An Intel GPU is not used unless you ask by --build xpu: most are part of the processor and no quicker "
            f"than it; {label} computes on the CPU."
        )
    else:
        notes.because(f"There is no GPU that PyTorch can use here, so {label} computes on the CPU.")
    if choice.build.index and not choice.build.on_package_index and machine.os == "linux":
        notes.because("The wheel comes from PyTorch's CPU index: without CUDA's libraries it is about 5 GB smaller.")


def _apple(choice: Choice, on: Target, request: Request, catalog: Catalog, notes: Notes) -> None:
    build = choice.build
    if choice.device == "mps":
        notes.because(f"torch {build.torch} computes on Apple's GPU through MPS, which every wheel for it has.")
        pool = (other for other in allowed(request, catalog) if host_problem(other, choice.python, on) is None)
        top = newest(pool)
        if top and number(top.torch) > number(build.torch):
            notes.because(
                f"torch {top.torch} can be installed here, but uses Apple's GPU from macOS {mps_floor(top)} on only, "
                f"and this is {on.macos}."
            )
    elif request.gpus == ():
        notes.because(f"{build.label} computes on the CPU, although it has MPS for Apple's GPU: no wheel is without.")
    else:
        notes.because(
            f"{build.label} computes on the CPU: it uses Apple's GPU from macOS {mps_floor(build)} on only, and this "
            f"is {on.macos}."
        )


def _newer(choice: Choice, on: Target, request: Request, catalog: Catalog, notes: Notes) -> None:
    """What stands in the way of the newest torch: Python, system, GPU or driver."""
    build = choice.build
    pool = [other for other in allowed(request, catalog) if other.system == on.system and other.build != "xpu"]
    top = newest(pool)
    if top and number(top.torch) > number(build.torch):
        if problem := host_problem(top, choice.python, on):
            notes.because(f"{problem.text}.")
        elif choice.device == "rocm" and request.build is None:
            notes.because(f"ROCm builds of torch newer than {build.torch} are not known to dlenv's catalog.")
    if not on.gpus or request.build is not None or request.strict_cuda:
        return
    here = [other for other in pool if host_problem(other, choice.python, on) is None]
    free = [other for other in here if other.cuda and not gpu_problem(other, without_driver(on), catalog.cuda)]
    best = newest(free)
    if best is None:
        _no_code(on, catalog, notes)
        return
    if choice.device == "cpu" or number(best.torch) > number(build.torch):
        notes.because(f"Driver {floor(best, on, catalog)} or newer gives {best.label}; this is {_driver(on)}.")
    installable = newest(here)
    if installable and number(installable.torch) > number(best.torch):
        problem = gpu_problem(installable, without_driver(on), catalog.cuda)
        reason = problem.text if problem else f"{installable.label} is no CUDA build"
        notes.because(f"{best.torch} is the last torch with code for this machine's GPUs: {reason}.")


def _no_code(on: Target, catalog: Catalog, notes: Notes) -> None:
    """No build for these GPUs at all, with whatever driver: name the last torch for each, or that there is none."""
    for gpu in {gpu.compute_capability: gpu for gpu in on.gpus}.values():
        alone = msgspec.structs.replace(without_driver(on), gpus=(gpu,))
        ever = [
            build
            for build in catalog.builds
            if build.cuda and build.system == on.system and gpu_problem(build, alone, catalog.cuda) is None
        ]
        last = newest(ever)
        if last is None:
            oldest = catalog.builds[-1].torch
            notes.because(f"No build of torch {oldest} or newer on {on.system} has code for {describe((gpu,))}.")
        else:
            notes.because(
                f"The last torch with code for {describe((gpu,))} is {last.label}, with driver "
                f"{floor(last, alone, catalog)} or newer and Python {last.python[0]} to {last.python[-1]}."
            )


def _single(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog, notes: Notes) -> None:
    """What choosing only one kind of the GPUs would give."""
    kinds: dict[str | None, list[Gpu]] = {}
    for gpu in on.gpus:
        kinds.setdefault(gpu.compute_capability, []).append(gpu)
    if len(kinds) == 1:
        return
    better = []
    for gpus in kinds.values():
        alone = msgspec.structs.replace(on, gpus=tuple(gpus))
        other = choose(choice.python, alone, machine, request, catalog)
        if other and rank(other, request) > rank(choice, request):
            better.append((other, tuple(gpus)))
    if better:
        other, chosen = max(better, key=lambda pair: rank(pair[0], request))
        notes.warn(
            f"One build has to suit every GPU; `{only(chosen)}` (only {describe(chosen)}) would give "
            f"{other.build.label}."
        )


def _unused(choice: Choice, on: Target, machine: Machine, request: Request, notes: Notes) -> None:
    """Builds that will not use what is there, or use something dlenv can't check."""
    build = choice.build
    if on.gpus and choice.device != "cuda":
        notes.warn(f"{build.label} leaves {describe(on.gpus)} unused.")
    if choice.device == "cpu" and build.cuda:
        notes.warn(f"{build.label} finds no GPU that it could use now, and computes on the CPU until there is one.")
    if choice.device == "rocm":
        if others := sorted(set(on.gfx) - set(build.gfx)):
            notes.warn(f"{build.label} has no code for {', '.join(others)}; hide it by HIP_VISIBLE_DEVICES.")
        if not machine.rocm_driver:
            notes.warn("ROCm needs AMD's kernel driver, which is not loaded here (no /dev/kfd).")
    if choice.device == "xpu":
        notes.warn("dlenv does not check Intel's drivers: `torch.xpu.is_available()` says whether the GPU can be used.")
    if request.strict_cuda and choice.device != "cuda":
        known = f"none is at or below the driver's CUDA {on.cuda_driver}" if on.cuda_driver else "no driver is known"
        notes.warn(f"--strict-cuda found no CUDA build: {known}.")
