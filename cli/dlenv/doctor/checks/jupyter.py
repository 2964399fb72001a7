"""Whether a notebook runs in this environment, and not in another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlenv.console import command_line
from dlenv.doctor import remedy, shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Repair, Step, Verdict, fail, ok, skip, warn

# Jupyter replaces these by the Python that it runs in itself (jupyter_client/manager.py, format_kernel_cmd).
_OWN = ("python", "python3", "python.exe", "python3.exe")
_DEFAULT = "python3"


def kernel(facts: Facts) -> Verdict:
    """Whether the kernel that notebooks ask for by default, "python3", runs in this environment."""
    stage = facts.stage("jupyter")
    if stage is None:
        return skip("the probe did not come to Jupyter: see python.start")
    if stage.status == "absent":
        if facts.version("d2l") or facts.version("jupyterlab") or facts.version("notebook"):
            text = "ipykernel is not installed: notebooks run in another environment, and do not find torch or d2l"
            return fail(text, remedy.install(facts, *remedy.pinned(facts, ("ipykernel",))))
        return skip("no notebooks are run in this environment: ipykernel is not installed")
    if stage.status != "ok":
        return fail(stage.error or stage.status, remedy.install(facts, "ipykernel", again=("ipykernel",)))
    first = next((item for item in _kernels(facts) if item["name"] == _DEFAULT), None)
    if first is not None and not _runs_here(facts, first):
        text = f"the kernel {_DEFAULT!r} in {first['folder']} runs {_program(first)}, not {facts.target.python}"
        return fail(text, _registration(facts, first))
    ours = [item["name"] for item in _kernels(facts) if _runs_here(facts, item)]
    if ours:
        return ok(f"ipykernel {stage.facts.get('version')}; kernels of this environment: {', '.join(ours)}")
    return fail("Jupyter has no kernel that runs this environment", _registration(facts, None))


def dangling(facts: Facts) -> Verdict:
    """Whether kernels are registered whose Python is gone."""
    stage = facts.stage("jupyter")
    if stage is None or stage.status != "ok":
        return skip("Jupyter's kernels are not known")
    gone = [item for item in _kernels(facts) if _is_gone(_program(item))]
    if not gone:
        return ok(f"{len(_kernels(facts))} kernels, and their programs are there")
    said = "; ".join(f"the kernel {item['name']!r} runs {_program(item)}, which is gone" for item in gone)
    inside = [item for item in gone if _inside(facts, item)]
    if len(inside) < len(gone):
        return warn(said, _unregistration(*(item["name"] for item in gone if item not in inside)))
    # ipykernel's own is written again, the others are only names for it.
    return fail(said, _again(facts, inside))


def _again(facts: Facts, kernels: list[Mapping[str, Any]]) -> Repair | str:
    steps = [Step(remove=str(Path(item["folder"], item["name"]))) for item in kernels]
    steps.append(Step(words=(str(facts.target.python), "-m", "ipykernel", "install", "--sys-prefix")))
    return Repair(steps=tuple(steps))


def _registration(facts: Facts, wrong: Mapping[str, Any] | None) -> Repair | str:
    words = ("-m", "ipykernel", "install", "--sys-prefix")
    if wrong is None or _inside(facts, wrong):
        return remedy.run_python(facts, *words)
    # The folder that is searched first is not the environment's.
    if facts.environ.get("JUPYTER_PATH"):
        return shell.unset("JUPYTER_PATH")
    return f"{_unregistration(_DEFAULT)} && {remedy.run_python(facts, *words)}"


def _unregistration(*names: str) -> str:
    return command_line("jupyter", "kernelspec", "remove", *names)


def _kernels(facts: Facts) -> list[Mapping[str, Any]]:
    found = facts.found("jupyter").get("kernels")
    if not isinstance(found, list):
        return []
    return [item for item in found if isinstance(item, dict) and item.get("argv")]


def _program(item: Mapping[str, Any]) -> str:
    return str(item["argv"][0])


def _runs_here(facts: Facts, item: Mapping[str, Any]) -> bool:
    program = _program(item)
    prefix = Path(str(facts.found("python").get("prefix"))).resolve()
    # The folder is resolved and the program is not: an environment may be a link, and its Python is one to another's.
    return program in _OWN or Path(program).parent.resolve() in (prefix / "bin", prefix / "Scripts", prefix)


def _is_gone(program: str) -> bool:
    return (
        not Path(program).exists() if Path(program).is_absolute() else program not in _OWN and not shutil.which(program)
    )


def _inside(facts: Facts, item: Mapping[str, Any]) -> bool:
    env = facts.target.env
    return env is not None and Path(item["folder"]).resolve().is_relative_to(env.resolve())
