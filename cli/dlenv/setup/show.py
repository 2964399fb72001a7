"""A plan and an outcome as people read them, and as scripts do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlenv.console import command_line, echo, say
from dlenv.machine import Machine
from dlenv.plan import Plan
from dlenv.setup.model import Outcome


def as_json(machine: Machine, planned: Plan) -> dict[str, Any]:
    """The object that ``dlenv setup --dry-run --json`` prints."""
    return {
        "schema": 1,
        "machine": machine.to_json(),
        "plan": planned.to_json(),
        "reasons": list(planned.reasons),
        "warnings": list(planned.warnings),
    }


def plan(machine: Machine, planned: Plan, env: Path) -> None:
    """Print what was found, what is planned and why."""
    torch = planned.torch
    where = f"{env} " if planned.manager != "colab" else "in place "
    parts = [f"Python {planned.python}", f"torch {torch.torch} ({torch.build})", f"torchvision {torch.torchvision}"]
    if planned.course:
        parts.append(planned.course.package.replace("==", " "))
    if planned.extras:
        parts.append(f"dlenv with {', '.join(planned.extras)}")
    if torch.installed_mib:
        parts.append(f"about {torch.installed_mib / 1024:.1f} GiB for PyTorch")
    echo(f"Machine: {'; '.join(_machine(machine))}")
    echo(f"Plan: {where}by {planned.manager}: {', '.join(parts)}")
    _list("Why:", planned.reasons)
    _list("Careful:", planned.warnings)


def outcome(done: Outcome) -> None:
    """Print where the environment is, what was proven, and how to go on."""
    record = done.record
    if not done.changed:
        echo(f"{done.environment} is as planned; nothing to do")
    else:
        stages = record.proof.get("stages", [])
        echo(
            f"{done.environment} works: torch {record.torch.torch} ({record.torch.build}), "
            f"Python {record.plan.python}, {len(record.packages)} packages; proven by {len(stages)} checks"
        )
    for warning in record.plan.warnings:
        say(f"Careful: {warning}")
    if (planned := record.plan.torch) != record.torch:
        again = command_line("dlenv", "setup", "--repair", "--env", _shown(done.environment))
        say(f"torch {planned.torch} ({planned.build}) was planned and could not be had; again: {again}")
    if done.kept:
        say(f"What was there before is kept as {done.kept}; remove it when you no longer need it")
    if done.added:
        say(f"These were installed by hand and are not in the new environment: {' '.join(done.added)}")
        say(f"They come back by: {command_line('uv', 'pip', 'install', '--python', done.python, *done.added)}")
    for path in done.previous:
        say(f"{path} stays while it is in use, or holds packages that were installed by hand")
    if done.notebooks:
        echo(f"Notebooks: {done.notebooks}")
    if record.plan.manager != "colab":
        echo(f"Use it:  {_activation(done)}")
    if record.plan.course and record.plan.manager != "colab" and not done.problems:
        folder = ("--notebooks", _shown(done.notebooks)) if done.notebooks else ()
        echo(f"Learn:   {command_line('dlenv', 'lab', '--env', _shown(done.environment), *folder)}")
    if "serve" in record.plan.extras:
        echo(f"Serve:   {command_line(f'{_shown(done.python.parent)}{os.sep}dlenv', 'serve')}")
    _list("Not done:", done.problems)


def _machine(machine: Machine) -> list[str]:
    libc = f", {' '.join(machine.libc)}" if machine.libc else ""
    found = [f"{machine.os_version}, {machine.arch}{libc}"]
    if machine.driver:
        found.append(f"NVIDIA driver {machine.driver} (CUDA {machine.cuda_driver or 'unknown'})")
    for gpu in machine.gpus:
        memory = f", {gpu.memory_mib:,} MiB" if gpu.memory_mib else ""
        found.append(f"GPU {gpu.index} {gpu.name}, compute capability {gpu.compute_capability or 'unknown'}{memory}")
    if not machine.gpus:
        found.append("no NVIDIA GPU")
    return found


def _list(title: str, lines: Sequence[str]) -> None:
    if lines:
        echo(title)
    for line in lines:
        echo(f"  - {line}")


def _activation(done: Outcome) -> str:
    if done.record.plan.manager == "conda":
        return command_line("conda", "activate", done.environment)
    if os.name == "nt":
        return command_line(f"{_shown(done.environment)}\\Scripts\\activate")
    return command_line(".", f"{_shown(done.environment)}/bin/activate")


def _shown(path: Path) -> str:
    """Relative to the current folder where it lies in there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
