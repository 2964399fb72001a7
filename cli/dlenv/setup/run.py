"""The steps of ``dlenv setup``: look, plan, build, fetch the notebooks."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from dlenv import catalog
from dlenv.console import command_line
from dlenv.environment.layout import Home
from dlenv.environment.record import Record
from dlenv.errors import DlenvError, SetupError, UsageError
from dlenv.machine import Machine, inspect
from dlenv.managers import conda, venv
from dlenv.network.http import public
from dlenv.notebooks.fetch import check, fetch_notebooks
from dlenv.notebooks.folder import default, fetching
from dlenv.plan import Plan, make
from dlenv.setup import offline, pipeline
from dlenv.setup.model import Options, Outcome


def planned(options: Options) -> tuple[Machine, Plan]:
    """This machine (or the one that a file describes), and what is planned for it; raises ``DlenvError``."""
    machine = _described(options.machine_file) if options.machine_file else inspect(options.env)
    if options.record:
        if options.offline:
            offline.check_machine(options.offline, options.record.machine, machine)
        return machine, _again(options.record, machine, options.request.gpus)
    request = options.request
    if (machine.colab or machine.kaggle) and not options.machine_file:
        there = {f"installed_{name}": _version(name) for name in ("torch", "torchvision")}
        request = msgspec.structs.replace(request, **there)
    return machine, make(machine, request, catalog.load())


def placed(options: Options, plan: Plan) -> Options:
    """``options`` with the folder of the notebooks: the one that is named, else the last one, else ``d2l-<edition>``.

    Raises ``DlenvError`` where environment or notebooks can't be put where they are to be.
    """
    home = Home(options.env)
    if plan.manager != "colab":
        home.check()
        if not os.path.lexists(home.env):
            _check_parent(home.builds, "--env")
    if plan.course is None:
        return options
    edition = plan.course.edition
    old = Record.read(Path(sys.prefix)) if plan.manager == "colab" else home.record()
    last = old.notebooks if old and old.plan.course and old.plan.course.edition == edition else None
    place = (options.notebooks or Path(last or default(edition))).absolute()
    check(edition, place)
    if not place.exists():
        _check_parent(place, "--notebooks")
    return msgspec.structs.replace(options, notebooks=place)


def replaces(options: Options, plan: Plan) -> str | None:
    """What will become of an environment that somebody else made where the new one goes; None where there is none."""
    home = Home(options.env)
    if plan.manager == "colab" or not home.is_foreign():
        return None
    return (
        f"{home.env} was not built by dlenv: it will be kept in {home.builds}, where its scripts do not work, "
        "and the new one takes its place"
    )


def is_ready(options: Options, plan: Plan) -> bool:
    """Whether the environment is as planned already, so that there is nothing to ask about."""
    return plan.manager != "colab" and pipeline.unchanged(Home(options.env), options, plan) is not None


def setup(options: Options, machine: Machine, plan: Plan) -> Outcome:
    """Build the environment and fetch the notebooks; raises ``DlenvError`` where there is no environment after it.

    ``options`` are those that ``placed`` gave.
    """
    if plan.manager == "colab":
        from dlenv.managers import inplace

        outcome = inplace.apply(options, machine, plan)
    else:
        create = conda.create if plan.manager == "conda" else venv.create
        outcome = pipeline.build(options, machine, plan, create)
    return _with_notebooks(outcome, options, plan)


def persist_mirror(options: Options) -> list[str]:
    """Write the package index to be used into the user's own configuration; one sentence for each file.

    A setup afterwards uses just that one: the user's own index wins over others, and so does a mirror that is named.
    """
    from dlenv.network.mirrors import choose
    from dlenv.network.persist import persist

    choice = choose("pypi", options.mirror)
    if not choice.reachable:
        return ["No package index answers: nothing was written into your configuration"]
    mirror = choice.mirrors[0]
    done = f"{mirror.name} ({public(mirror.url)}) is what uv and pip use already: nothing was written"
    return persist(mirror) or [done]


def _version(name: str) -> str | None:
    """The version of a package in the Python that runs dlenv, which on Colab and Kaggle is the notebooks' own."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _described(file: Path) -> Machine:
    """The machine in the JSON that ``dlenv setup --dry-run --json`` printed there."""
    try:
        data = msgspec.json.decode(file.read_bytes())
        return Machine.from_json(data["machine"])
    except OSError as error:
        raise UsageError(f"{file} can't be read ({error.strerror})") from None
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        there = f"dlenv setup --dry-run --json > {command_line(file.name)}"
        raise UsageError(f"{file} does not describe a machine ({error}); on that machine: {there}") from None


def _again(record: Record, machine: Machine, wanted: tuple[int, ...] | None) -> Plan:
    """The plan that builds what ``record`` says, on ``machine``; the proof says whether it works there."""
    was = record.machine
    if (was.os, was.arch) != (machine.os, machine.arch):
        raise UsageError(
            f"the record is of {was.os} on {was.arch}, and this is {machine.os} on {machine.arch}, for which "
            "its packages were not made; plan anew: dlenv setup"
        )
    there = tuple(gpu.index for gpu in machine.gpus)
    if wanted and not record.plan.gpus:
        raise UsageError(
            f"--gpu {','.join(map(str, wanted))}: the record is of torch {record.torch.torch} ({record.torch.build}), "
            "planned for no NVIDIA GPU; leave it out"
        )
    if absent := [index for index in wanted or () if index not in there]:
        raise UsageError(f"there is no GPU {absent[0]} here; name others, as nvidia-smi counts them, by --gpu")
    gpus, devices = record.plan.gpus, record.plan.devices
    if wanted == ():
        gpus, devices = (), ()
    elif gpus:  # as many as there are here; what is no GPU of NVIDIA's is as it was there
        gpus = there if wanted is None else wanted
        devices = tuple(f"cuda:{position}" for position in range(len(gpus)))
    reasons = (f"everything is as on {record.created} by dlenv {record.dlenv}", *record.plan.reasons)
    return msgspec.structs.replace(
        record.plan, torch=record.torch, fallbacks=(), gpus=gpus, devices=devices, reasons=reasons
    )


def _check_parent(path: Path, option: str) -> None:
    """Raise ``SetupError`` where ``path``, which is not there, can't be made."""
    above = next(parent for parent in path.parents if os.path.lexists(parent))
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):  # noqa: PTH112  # this one never raises
        raise SetupError(f"{path} can't be made: {above} is no folder that you can write to; choose another {option}")


def _with_notebooks(outcome: Outcome, options: Options, plan: Plan) -> Outcome:
    if plan.course is None or options.notebooks is None:
        return outcome
    folder = options.notebooks
    record = Record.read(outcome.environment)  # none on Colab, where not all is done yet
    if record and record.notebooks != str(folder):
        with contextlib.suppress(OSError):  # somebody else's environment: then it is not remembered
            msgspec.structs.replace(record, notebooks=str(folder)).write(outcome.environment)
    try:
        if options.offline:
            offline.put_notebooks(options.offline, plan.course.edition, folder)
        else:
            fetch_notebooks(plan.course.edition, folder)
    except DlenvError as error:
        again = fetching(plan.course.edition, folder)
        text = str(error) if again in str(error) else f"the notebooks were not fetched: {error}; again: {again}"
        return msgspec.structs.replace(outcome, problems=(*outcome.problems, text))
    return msgspec.structs.replace(outcome, notebooks=folder)
