"""The best build of PyTorch for a target: the newest torch that fits, and of its flavours the best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import msgspec
from packaging.version import Version

from dlenv.catalog.cuda import number
from dlenv.plan.devices import capability
from dlenv.plan.fit import Target, gpu_problem, host_problem, needs_numpy_1, uses_mps

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.catalog.torch import Build
    from dlenv.machine.model import Machine
    from dlenv.plan.model import Request

Device = Literal["cuda", "rocm", "mps", "xpu", "cpu"]
# XPU builds exist, but an Intel GPU is no reason to take one: most are in processors, where the CPU is as quick. The
# wheels for Apple silicon compute on the CPU, too.
_WITHOUT_DRIVER = ("cpu", "mps")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A build, the Python it is for, and what it will compute on."""

    build: Build
    python: str
    device: Device


def rank(choice: Choice, request: Request) -> tuple[bool, Version, Version]:
    """Higher is better: a GPU, then the newest torch; under the strict rule the highest CUDA before the torch."""
    return (
        choice.device != "cpu",
        flavour(choice.build) if request.strict_cuda else number("0"),
        number(choice.build.torch),
    )


def allowed(request: Request, catalog: Catalog) -> tuple[Build, ...]:
    """The builds that the request leaves: its pins, and what dlenv's own extras need."""
    return tuple(
        build
        for build in catalog.builds
        if request.torch in (None, build.torch)
        and request.build in (None, build.build)
        and not (request.extras and not catalog.own.takes_torch(build.torch))
    )


def choose(python: str, on: Target, machine: Machine, request: Request, catalog: Catalog) -> Choice | None:
    """The best build for this Python, or None where none can be installed."""

    def pool() -> Iterator[Build]:
        return (build for build in allowed(request, catalog) if host_problem(build, python, on) is None)

    def usable() -> Iterator[Build]:
        return (build for build in pool() if gpu_problem(build, on, catalog.cuda) is None)

    if request.gpus is None and (build := newest(build for build in pool() if uses_mps(build, on))):
        return Choice(build=build, python=python, device="mps")
    if request.build is not None:
        build = newest(usable())
        return Choice(build=build, python=python, device=_device(build, on, request)) if build else None
    if on.gpus:
        cuda = (build for build in usable() if build.cuda)
        if build := strictest(cuda, on) if request.strict_cuda else newest(cuda):
            return Choice(build=build, python=python, device="cuda")
    if on.gfx and machine.rocm_driver and (build := newest(b for b in usable() if b.build.startswith("rocm"))):
        return Choice(build=build, python=python, device="rocm")
    if build := newest(build for build in pool() if build.build in _WITHOUT_DRIVER):
        return Choice(build=build, python=python, device="cpu")
    return None


def newest(builds: Iterable[Build]) -> Build | None:
    """The newest torch; of its builds what the package index carries, else the highest CUDA or ROCm.

    ``builds`` come in the catalog's order, the newest torch first, and are looked at no further than needed.
    """
    rest = iter(builds)
    first = next(rest, None)
    if first is None:
        return None
    same = (first, *takewhile(lambda build: build.torch == first.torch, rest))
    return max(same, key=lambda build: (build.on_package_index, flavour(build)))


def strictest(builds: Iterable[Build], on: Target) -> Build | None:
    """The highest CUDA not above the driver's, then the newest torch: the course's own rule."""
    if on.cuda_driver is None:
        return None
    fitting = [build for build in builds if build.cuda and not _above(build, on)]
    return max(fitting, key=lambda build: (flavour(build), number(build.torch)), default=None)


def flavour(build: Build) -> Version:
    """The version of CUDA or ROCm that a build is for; 0 for the others."""
    return number(build.cuda or (build.build.removeprefix("rocm") if build.build.startswith("rocm") else "0"))


def harmless(build: Build, on: Target, machine: Machine, catalog: Catalog) -> bool:
    """Whether a CUDA build that is to compute on the CPU leaves the machine's GPUs alone, or can use them.

    Where the driver is good enough for the build and the GPU is not, ``torch.cuda.is_available()`` says True and
    every operation fails: worse than no GPU at all.
    """
    for gpu in machine.gpus:
        if build.cuda and capability(gpu) is None:
            return False
        problem = gpu_problem(build, msgspec.structs.replace(on, gpus=(gpu,)), catalog.cuda)
        if problem is not None and problem.kind == "gpu":
            return False
    return True


def fallbacks(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog) -> tuple[Build, ...]:
    """What runs here and computes on what ``choice`` computes on, in the order to be tried.

    First, where ``choice`` was only announced, the best build that was seen; then the package index's own wheel, for
    when the wheel index of ``choice`` can't be reached.
    """
    if choice.build.on_package_index:
        return ()
    seen = _seen(choice, on, machine, request, catalog)
    own = _own(choice, on, machine, request, catalog)
    return tuple(build for build in (seen, own if own != seen else None) if build)


def _seen(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog) -> Build | None:
    if choice.build.confirmed:
        return None
    seen = tuple(build for build in catalog.builds if build.confirmed and _numpy_alike(build, choice, request))
    other = choose(choice.python, on, machine, request, msgspec.structs.replace(catalog, builds=seen))
    return other.build if other and other.device == choice.device else None


def _own(choice: Choice, on: Target, machine: Machine, request: Request, catalog: Catalog) -> Build | None:
    pool = [
        build
        for build in allowed(msgspec.structs.replace(request, build=None), catalog)
        if build.on_package_index
        and host_problem(build, choice.python, on) is None
        and request.build in (None, build.build)
        and _numpy_alike(build, choice, request)
    ]
    if choice.device == "cpu":
        pool = [build for build in pool if harmless(build, on, machine, catalog)]
    else:
        pool = [build for build in pool if build.cuda and gpu_problem(build, on, catalog.cuda) is None and on.gpus]
    if request.strict_cuda and on.gpus:  # a build that can't use the GPUs breaks no rule
        pool = [build for build in pool if not _above(build, on) or gpu_problem(build, on, catalog.cuda)]
        if choice.device == "cuda":
            return strictest(pool, on)
    return newest(pool)


def _above(build: Build, on: Target) -> bool:
    """Whether the build is for a newer CUDA than the driver."""
    return build.cuda is not None and (on.cuda_driver is None or number(build.cuda) > number(on.cuda_driver))


def _numpy_alike(build: Build, choice: Choice, request: Request) -> bool:
    """Whether the packages that are planned for ``choice`` do for this build: a course holds numpy back, or numpy 1."""
    return request.course is not None or needs_numpy_1(choice.build) or not needs_numpy_1(build)


def _device(build: Build, on: Target, request: Request) -> Device:
    if request.gpus == ():
        return "cpu"
    if build.cuda:
        return "cuda" if on.gpus else "cpu"
    if build.build.startswith("rocm"):
        return "rocm"
    return "xpu" if build.build == "xpu" else "cpu"
