"""The steps of ``dlenv setup``: look, plan, build, fetch the notebooks."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import msgspec

from dlenv import catalog
from dlenv.environment.layout import Home
from dlenv.environment.record import Record
from dlenv.errors import DlenvError, UsageError
from dlenv.machine import Machine, inspect
from dlenv.managers import conda, venv
from dlenv.plan import Plan, make
from dlenv.setup import offline, pipeline
from dlenv.setup.model import Options, Outcome


def planned(options: Options) -> tuple[Machine, Plan]:
    """This machine (or the one that a file describes), and what is planned for it; raises ``DlenvError``."""
    machine = _described(options.machine_file) if options.machine_file else inspect(options.env)
    if options.record:
        if options.offline:
            offline.check_machine(options.offline, options.record.machine, machine)
        return machine, _again(options.record, machine)
    request = options.request
    if (machine.colab or machine.kaggle) and not options.machine_file:
        there = {f"installed_{name}": _version(name) for name in ("torch", "torchvision")}
        request = msgspec.structs.replace(request, **there)
    return machine, make(machine, request, catalog.load())


def is_ready(options: Options, plan: Plan) -> bool:
    """Whether the environment is as planned already, so that there is nothing to ask about."""
    return plan.manager != "colab" and pipeline.unchanged(Home(options.env), options, plan) is not None


def setup(options: Options, machine: Machine, plan: Plan) -> Outcome:
    """Build the environment and fetch the notebooks; raises ``DlenvError`` where there is no environment after it."""
    if plan.manager == "colab":
        from dlenv.managers import inplace

        outcome = inplace.apply(options, machine, plan)
    else:
        create = conda.create if plan.manager == "conda" else venv.create
        outcome = pipeline.build(options, machine, plan, create)
    return _with_notebooks(outcome, options, plan)


def persist_mirror(options: Options) -> list[str]:
    """Write the package index that is used into the user's own configuration; one sentence for each file."""
    from dlenv.network.mirrors import choose
    from dlenv.network.persist import persist

    mirror = choose("pypi", options.mirror).mirrors[0]
    return persist(mirror) or [f"{mirror.name} ({mirror.url}) is what uv and pip use already: nothing was written"]


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
        raise UsageError(
            f"{file} does not describe a machine ({error}); on that machine: dlenv setup --dry-run --json > {file.name}"
        ) from None


def _again(record: Record, machine: Machine) -> Plan:
    """The plan that builds what ``record`` says, on ``machine``; the proof says whether it works there."""
    was = record.machine
    if (was.os, was.arch) != (machine.os, machine.arch):
        raise UsageError(
            f"the record is of {was.os} on {was.arch}, and this is {machine.os} on {machine.arch}, for which "
            "its packages were not made; plan anew: dlenv setup"
        )
    gpus = tuple(gpu.index for gpu in machine.gpus) if record.plan.gpus else ()
    reasons = (f"everything is as on {record.created} by dlenv {record.dlenv}", *record.plan.reasons)
    return msgspec.structs.replace(record.plan, torch=record.torch, fallbacks=(), gpus=gpus, reasons=reasons)


def _with_notebooks(outcome: Outcome, options: Options, plan: Plan) -> Outcome:
    if plan.course is None:
        return outcome
    from dlenv.notebooks.fetch import fetch_notebooks

    folder = options.notebooks or Path(f"d2l-{plan.course.edition}")
    try:
        if options.offline:
            offline.put_notebooks(options.offline, plan.course.edition, folder)
        else:
            fetch_notebooks(plan.course.edition, folder)
    except DlenvError as error:
        again = f"dlenv notebooks fetch --course {plan.course.edition} --notebooks {folder}"
        return msgspec.structs.replace(outcome, problems=(f"the notebooks were not fetched: {error}; again: {again}",))
    return msgspec.structs.replace(outcome, notebooks=folder.absolute())
