"""Where a planned environment is taken from: mirrors that answer, and what to do where PyTorch's index does not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from dlenv.catalog.mirrors import Kind, Mirror
from dlenv.machine import Machine
from dlenv.managers import python
from dlenv.managers.source import Source, Sources
from dlenv.network.http import public
from dlenv.network.mirrors import Choice, choose
from dlenv.plan import Candidate, Plan
from dlenv.setup import offline
from dlenv.setup.model import Options

# The end of a wheel's name on each system (PyPA, platform compatibility tags).
_WHEELS = {"linux": "*linux*_{arch}.whl", "windows": "*win_*.whl", "macos": "*macosx*_{arch}.whl"}


def find(plan: Plan, options: Options, machine: Machine) -> Sources:
    """What to try for ``plan``, in order; the mirrors of every kind that is needed are asked at once.

    The planned build, then the fallbacks that PyTorch's own index has, then those of the package index; each from
    every source of PyTorch with the best package index, and from its first source with the other package indexes.
    Where no source answers for a build, it is not tried at all, unless there is nothing else. Offline there is only
    the folder that was filled.
    """
    platform = python.platform(machine)
    if options.offline:
        return msgspec.structs.replace(offline.sources(options.offline), platform=platform)
    candidates = [plan.torch, *sorted(plan.fallbacks, key=lambda candidate: candidate.index is None)]
    jobs: dict[Kind | Candidate, partial[Choice]] = {"pypi": partial(choose, "pypi", options.mirror)}
    for candidate in candidates:
        if candidate.index:
            file = _wheel(candidate, plan.python, machine)
            jobs[candidate] = partial(choose, "pytorch", options.mirror, build=candidate.build, file=file)
    if plan.manager == "conda":
        jobs["conda"] = partial(choose, "conda", options.mirror)
    elif not python.find(plan.python, platform):
        jobs["python"] = partial(choose, "python", options.mirror)
    with ThreadPoolExecutor(len(jobs)) as pool:
        chosen = dict(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True))
    indexes = chosen["pypi"].mirrors
    tried = [each for each in candidates if not each.index or chosen[each].reachable] or [plan.torch]
    # What was found out about a fallback is news only where it takes the place of what was planned.
    notes = [
        note for job in jobs if job in (tried[0], plan.torch) or isinstance(job, str) for note in chosen[job].notes
    ]
    if tried[0] != plan.torch:
        place = "PyTorch's wheels, as above" if tried[0].index else "the package index"
        notes.append(f"So torch {tried[0].torch} ({tried[0].build}) comes from {place}")
    return Sources(
        packages=tuple(
            source
            for candidate in tried
            for source in _sources(candidate, indexes, chosen[candidate].mirrors if candidate.index else (), machine)
        ),
        python=tuple(mirror.environment() for mirror in chosen["python"].mirrors) if "python" in chosen else (),
        conda=tuple(mirror.url for mirror in chosen["conda"].mirrors) if "conda" in chosen else (),
        notes=tuple(notes),
        pypi=indexes[0],
        platform=platform,
    )


def _sources(
    candidate: Candidate, indexes: Sequence[Mirror], places: Sequence[Mirror], machine: Machine
) -> list[Source]:
    if not places:
        return [
            Source(
                candidate=candidate,
                environment=index.environment(),
                label=f"the package index ({index.name})",
                pypi=index,
            )
            for index in indexes
        ]
    pairs = [(indexes[0], place) for place in places] + [(index, places[0]) for index in indexes[1:]]
    return [
        Source(
            candidate=candidate,
            torch_index=place.url,
            flat=place.layout == "flat",
            local=_local(candidate, machine),
            environment=index.environment(),
            label=f"{place.name} ({public(place.url)}), the rest from {index.name}",
            pypi=index,
        )
        for index, place in pairs
    ]


def _local(candidate: Candidate, machine: Machine) -> str | None:
    """The local part of a version on PyTorch's index, where it surely has one.

    Wheels for Arm came without it for years, and torchvision's long after torch's ("ARM binaries do not have `+cpu`
    suffix (same as MacOS ones)", pytorch/pytorch#110791; torchvision 0.24.0 on cu130, pytorch/vision#9330).
    """
    return candidate.build if machine.os in ("linux", "windows") and machine.arch == "x86_64" else None


def _wheel(candidate: Candidate, version: str, machine: Machine) -> str:
    """A pattern for the file that a mirror must have to be of use."""
    local = f"+{local}" if (local := _local(candidate, machine)) else "*"
    end = _WHEELS.get(machine.os, "*.whl").format(arch=machine.arch)
    return f"torch-{candidate.torch}{local}-cp{version.replace('.', '')}-{end}"
