"""``dlenv setup``: an environment for this machine, built, proven, and switched to."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from dlenv import completion
from dlenv.console import confirm, print_json, say
from dlenv.errors import UsageError
from dlenv.interruption import unwinding

if TYPE_CHECKING:
    from dlenv.environment.record import Record
    from dlenv.plan import Request

_PARTS = {"all": ("serve", "train")}
_NO_SETUP = ("dry_run", "download", "offline")  # nothing is built, or nothing is taken from the network
_PYTHON = re.compile(r"3\.\d{1,2}")
_VERSION = re.compile(r"\d+(\.\d+){1,2}")
_BUILD = re.compile(r"cpu|mps|xpu|cu\d{2,3}|rocm\d+(\.\d+)*")


@click.command(
    short_help="Build an environment that provably works on this machine.",
    epilog="""\b
Examples:
  dlenv setup --dry-run                        what would be done here, and why
  dlenv setup --course en                      .venv, and the notebooks in d2l-en
  dlenv setup --course none --with all         to train and serve, without the course
  dlenv setup --build cu126 --gpu 0            your choice; refused with the reason if it can't run
  dlenv setup --download usb --course zh       fill a folder; then, without network:
  dlenv setup --offline usb""",
)
@click.option("--env", type=click.Path(path_type=Path), default=Path(".venv"), show_default=True, help="Where.")
@click.option("--manager", type=click.Choice(["uv", "conda", "colab"]), help="[default: uv; on Colab in place]")
@click.option("--python", metavar="3.x", help="Version of Python.  [default: what the course is proven with]")
@click.option("--torch", metavar="VERSION", default="auto", show_default=True, help="Version of PyTorch.")
@click.option(
    "--build", metavar="BUILD", default="auto", show_default=True, help="Its build: cpu, cu126, mps, rocm7.2 ..."
)
@click.option(
    "--gpu",
    "gpus",
    metavar="INDEX",
    multiple=True,
    help="GPUs that it must run on, as nvidia-smi counts them; or none.  [default: all]",
)
@click.option(
    "--strict-cuda/--no-strict-cuda", help="The highest CUDA not above the driver's, then its newest PyTorch."
)
@click.option(
    "--course",
    type=click.Choice(["zh", "en", "none"]),
    help="Edition of Dive into Deep Learning.  [default: zh where the system speaks Chinese, else en]",
)
@click.option(
    "--notebooks",
    type=click.Path(path_type=Path),
    help="Folder for the course's notebooks.  [default: the last one, else d2l-zh or d2l-en]",
)
@click.option(
    "--with",
    "extras",
    type=click.Choice(["serve", "train", "otel", "all", "none"]),
    multiple=True,
    callback=lambda _context, _option, words: tuple(sorted({p for word in words for p in _PARTS.get(word, (word,))})),
    help="Add this part of dlenv to what the environment has; none: take out what is not named.",
)
@click.option(
    "--mirror",
    metavar="NAME",
    default="auto",
    show_default=True,
    shell_complete=completion.mirrors,
    help="auto, none, or a mirror of the catalog.",
)
@click.option("--persist-mirror", is_flag=True, help="Before, write the mirror into your own uv and pip settings.")
@click.option("--from", "record", type=click.Path(path_type=Path), help="Build what this dlenv-environment.json says.")
@click.option(
    "--download", type=click.Path(path_type=Path), help="Build nothing; fill this folder with all that is needed."
)
@click.option(
    "--for",
    "machine_file",
    type=click.Path(path_type=Path),
    help="With --download: the machine, as dlenv setup --dry-run --json printed it there.",
)
@click.option("--offline", type=click.Path(path_type=Path), help="Install from a folder that --download filled.")
@click.option("--repair", is_flag=True, help="Build again, even where nothing has changed.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@unwinding()
def command(**given: Any) -> int:
    """Look at this machine, plan the newest PyTorch that it can really run, build the environment and prove it.

    The environment is built beside the old one and takes its place when it is proven to work; a setup that fails or is
    interrupted leaves the old one as it was. Running it again changes nothing, and what an environment was asked for
    holds until you name something else.
    """
    from dlenv.setup import run, show

    options = _options(given)
    machine, plan = run.planned(options)
    if not given["download"]:
        options = run.placed(options, plan)
        if notice := run.replaces(options, plan):
            say(notice)
    if given["dry_run"]:
        if given["as_json"]:
            print_json(show.as_json(machine, plan))
        else:
            show.plan(machine, plan, options.env)
        return 0
    if folder := given["download"]:
        from dlenv.setup import download

        contents = download.fill(folder, options, machine, plan)
        if given["as_json"]:
            print_json(contents.to_json(folder))
        else:
            download.show(folder, contents)
        return 1 if contents.problems else 0
    if not given["yes"] and sys.stdin.isatty() and not run.is_ready(options, plan):
        show.plan(machine, plan, options.env)
        confirm("Go on?", default=True, abort=True)
    if given["persist_mirror"]:
        for line in run.persist_mirror(options):
            say(line)
    outcome = run.setup(options, machine, plan)
    if given["as_json"]:
        print_json(outcome.to_json())
    else:
        show.outcome(outcome)
    return 1 if outcome.problems else 0


def _options(given: dict[str, Any]) -> Any:
    import msgspec

    from dlenv.environment.layout import Home
    from dlenv.network.mirrors import check
    from dlenv.notebooks.folder import preferred
    from dlenv.plan import Request
    from dlenv.setup.model import Options

    if given["offline"] and given["download"]:
        raise UsageError("--download fills a folder and --offline installs from one; give one of them")
    if given["offline"] and given["record"]:
        raise UsageError(f"--offline {given['offline']} says what is to be installed; leave --from out")
    if given["machine_file"] and not given["download"]:
        raise UsageError("--for names the machine that --download is for; give --download too")
    if given["persist_mirror"] and (other := next((name for name in _NO_SETUP if given[name]), None)):
        option = other.replace("_", "-")
        raise UsageError(f"--persist-mirror needs a setup from the network; leave it out, or --{option}")
    check(given["mirror"])
    course = given["course"] or preferred()
    request = Request(
        manager=given["manager"],
        python=_checked("--python", given["python"], _PYTHON, "3.11"),
        torch=_checked("--torch", given["torch"], _VERSION, "2.14.1"),
        build=_checked("--build", given["build"], _BUILD, "cpu, cu126, mps or rocm7.2"),
        gpus=_gpus(given["gpus"]),
        strict_cuda=given["strict_cuda"],
        course=None if course == "none" else cast("Any", course),
        extras=tuple(part for part in given["extras"] if part != "none"),
    )
    if (old := Home(given["env"]).record()) and not given["download"]:
        # What the environment was asked for holds, until another wish is named.
        kept = {field: getattr(old.request, field) for field in request.__struct_fields__ if not _is_given(field)}
        if "none" not in given["extras"]:
            kept["extras"] = tuple(sorted({*old.request.extras, *request.extras}))
        request = msgspec.structs.replace(request, **kept)
    record = _record(given)
    return Options(
        env=given["env"],
        request=_of(record, given) if record else request,
        mirror=given["mirror"],
        notebooks=given["notebooks"],
        repair=given["repair"],
        record=record,
        offline=given["offline"],
        machine_file=given["machine_file"],
    )


def _record(given: dict[str, Any]) -> Record | None:
    """What is to be built exactly, or None where it is to be planned."""
    if folder := given["offline"]:
        from dlenv.setup import offline

        return offline.record(folder, given)
    from dlenv.environment.record import Record
    from dlenv.setup.wishes import contradiction

    if not (file := given["record"]):
        return None
    record = Record.load(file)
    if other := contradiction(record, given):
        option, has = other
        raise UsageError(f"{option} is not what {file} says ({has}); leave it out, or plan anew without --from")
    return record


def _of(record: Record, given: dict[str, Any]) -> Request:
    """What was asked for, with the GPUs of this machine, where they are named."""
    import msgspec

    return msgspec.structs.replace(record.request, gpus=_gpus(given["gpus"])) if _is_given("gpus") else record.request


def _is_given(field: str) -> bool:
    source = click.get_current_context().get_parameter_source(field)
    return source not in (None, ParameterSource.DEFAULT)


def _checked(option: str, value: str | None, pattern: re.Pattern[str], example: str) -> str | None:
    if value is None or value == "auto":
        return None
    if not pattern.fullmatch(value):
        raise UsageError(f"{option} {value!r} is not understood; give one such as {example}, or auto")
    return value


def _gpus(words: tuple[str, ...]) -> tuple[int, ...] | None:
    """``--gpu 0 --gpu 1``, ``--gpu 0,1``, ``--gpu none``; None means all of them."""
    values = [value.strip() for word in words for value in word.split(",")]
    if not values or values == ["auto"]:
        return None
    if values == ["none"]:
        return ()
    if not all(value.isdecimal() for value in values):
        raise UsageError(
            f"--gpu {','.join(values)} is not understood; give indices as nvidia-smi counts them, auto or none"
        )
    return tuple(sorted({int(value) for value in values}))
