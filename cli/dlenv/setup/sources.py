"""Where a planned environment is taken from: mirrors that answer, and what to do where PyTorch's index does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from dlenv.catalog.mirrors import Kind, Mirror
from dlenv.machine import Machine
from dlenv.managers import python
from dlenv.managers.source import Source, Sources
from dlenv.network.mirrors import Choice, choose
from dlenv.plan import Candidate, Plan
from dlenv.setup import offline
from dlenv.setup.model import Options

# The end of a wheel's name on each system (PyPA, platform compatibility tags).
_WHEELS = {"linux": "*linux*_{arch}.whl", "windows": "win_*.whl", "macos": "macosx*_{arch}.whl"}


def find(plan: Plan, options: Options, machine: Machine) -> Sources:
    """What to try for ``plan``, in order; the mirrors of every kind that is needed are asked at once.

    Each source of PyTorch with the best package index, the first source with the other package indexes, then the
    package index's own wheel where it runs here. An index of PyTorch that does not answer is not tried at all.
    Offline there is only the folder that was filled.
    """
    if options.offline:
        return offline.sources(options.offline)
    jobs: dict[Kind, partial[Choice]] = {"pypi": partial(choose, "pypi", options.mirror)}
    if plan.torch.index:
        build = plan.torch.build
        jobs["pytorch"] = partial(choose, "pytorch", options.mirror, build=build, file=_wheel(plan, machine))
    if plan.manager == "conda":
        jobs["conda"] = partial(choose, "conda", options.mirror)
    elif not python.find(plan.python):
        jobs["python"] = partial(choose, "python", options.mirror)
    with ThreadPoolExecutor(len(jobs)) as pool:
        chosen = dict(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True))
    notes = [note for choice in chosen.values() for note in choice.notes]
    indexes = chosen["pypi"].mirrors
    packages = []
    if "pytorch" in chosen and chosen["pytorch"].reachable:
        places = chosen["pytorch"].mirrors
        packages = [_source(plan.torch, indexes[0], place) for place in places]
        packages += [_source(plan.torch, index, places[0]) for index in indexes[1:]]
    elif "pytorch" in chosen and plan.fallbacks:
        other = plan.fallbacks[0]
        notes.append(f"So torch {other.torch} ({other.build}) comes from the package index")
    elif "pytorch" in chosen:
        packages = [_source(plan.torch, indexes[0], place) for place in chosen["pytorch"].mirrors]
    else:
        packages = [_source(plan.torch, index) for index in indexes]
    packages += [_source(candidate, index) for candidate in plan.fallbacks for index in indexes]
    return Sources(
        packages=tuple(packages),
        python=tuple(mirror.environment() for mirror in chosen["python"].mirrors) if "python" in chosen else (),
        conda=tuple(mirror.url for mirror in chosen["conda"].mirrors) if "conda" in chosen else (),
        notes=tuple(notes),
    )


def _source(candidate: Candidate, index: Mirror, place: Mirror | None = None) -> Source:
    return Source(
        candidate=candidate,
        torch_index=place.url if place else None,
        flat=place is not None and place.layout == "flat",
        environment=index.environment(),
        label=f"{place.name} ({place.url}), the rest from {index.name}"
        if place
        else f"the package index ({index.name})",
    )


def _wheel(plan: Plan, machine: Machine) -> str:
    """A pattern for the file that a mirror must have to be of use."""
    end = _WHEELS.get(machine.os, "*.whl").format(arch=machine.arch)
    return f"torch-{plan.torch.torch}*-cp{plan.python.replace('.', '')}-{end}"
