"""``dlenv doctor``: what is wrong with this machine or environment, and how to put it right."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Literal

import click

from dlenv import completion
from dlenv.console import confirm, print_json, print_table, say
from dlenv.interruption import unwinding


@click.command(
    short_help="Say what is wrong with this machine or environment, and how to put it right.",
    epilog="""\b
Examples:
  dlenv doctor                         the active environment, or .venv
  dlenv doctor --env .venv --fix       put right what is safe, after asking
  dlenv doctor --only torch --verbose  one group of checks, also where they are fine
  dlenv doctor --report bug.md         for a bug report, without names and paths""",
)
@click.option("--env", type=click.Path(path_type=Path), help="Environment to examine. [default: the active one]")
@click.option("--python", type=click.Path(path_type=Path), help="Python to examine, instead of an environment.")
@click.option("--fix", is_flag=True, help="Carry out the fixes that change nothing but the environment.")
@click.option("--yes", is_flag=True, help="Do not ask before a fix.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--only",
    metavar="ID",
    multiple=True,
    shell_complete=completion.checks,
    help="Make only this check, or this group of checks; repeatable.",
)
@click.option("--list", "list_", is_flag=True, help="List the checks, and make none.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report for a bug report to this file.")
@click.option("--offline", is_flag=True, help="Ask nothing of the network.")
@click.option("-v", "--verbose", is_flag=True, help="Show also what is fine, and what was skipped.")
@click.argument("more", nargs=-1, metavar="[ID]...")
@unwinding()
def command(
    env: Path | None,
    python: Path | None,
    fix: bool,
    yes: bool,
    as_json: bool,
    only: tuple[str, ...],
    list_: bool,
    report: Path | None,
    offline: bool,
    verbose: bool,
    more: tuple[str, ...],
) -> int:
    """Examine this machine and an environment; change nothing without --fix.

    The environment is the active one (VIRTUAL_ENV, CONDA_PREFIX), else .venv in the current folder, else that of the
    Python that runs dlenv; conda's base comes last. Exit code 1 if something fails.
    """
    from dlenv.doctor import report as reports
    from dlenv.doctor.examine import examine
    from dlenv.doctor.gather import gather
    from dlenv.doctor.registry import select
    from dlenv.doctor.target import choose
    from dlenv.errors import UsageError

    if more and not only:
        raise UsageError(f"{more[0]!r} is no option; a check is chosen by --only {more[0]}")
    checks = select((*only, *more))
    if list_:
        others = {"env": env, "python": python, "fix": fix, "yes": yes, "report": report, "offline": offline}
        if other := next((name for name, value in {**others, "verbose": verbose}.items() if value), None):
            raise UsageError(f"--list examines nothing, so --{other} makes no sense with it; leave one of them out")
        if as_json:
            print_json([{"id": check.id, "title": check.title} for check in checks])
        else:
            print_table(["check", "title"], [[check.id, check.title] for check in checks])
        return 0
    if report is not None:
        _check(report)
    here = _here()
    target = choose(env, python, os.environ, here)
    also: tuple[Literal["machine"], ...] = ("machine",) if as_json or report is not None else ()
    facts = gather(target, checks, here, also=also, offline=offline)
    findings = examine(facts, checks)
    if fix and _fixed(findings, yes):
        facts = gather(target, checks, here, also=also, offline=offline)
        findings = examine(facts, checks)
    if report is not None:
        _write(report, reports.as_markdown(facts, findings, os.environ))
    if as_json:
        print_json(reports.as_json(facts, findings))
    else:
        reports.print_findings(findings, verbose)
        say(reports.summary(findings))
    return 0 if reports.is_ok(findings) else 1


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed: nothing in it can be examined
        return Path(os.path.abspath(os.sep))  # noqa: PTH100


def _fixed(findings: list, yes: bool) -> bool:  # type: ignore[type-arg]  # Finding is imported when it is needed
    """Carry out the safe repairs of ``findings`` after asking; whether anything was done."""
    from dlenv.doctor.fix import carry_out, repairs

    found = repairs(findings)
    if not found:
        say("There is nothing that --fix could carry out.")
        return False
    for repair in found:
        say(f"To be run: {repair}")
        if repair.note:
            say(f"  {repair.note}")
    if not yes:
        if not sys.stdin.isatty():
            say("Nothing was done: this is no terminal to ask on; --yes carries them out.")
            return False
        if not confirm("Run these commands?"):
            return False
    for repair in found:
        carry_out(repair)
    return True


def _check(path: Path) -> None:
    """Raise ``UsageError`` where no report can be written to ``path``, before anything is examined for it."""
    from dlenv.errors import UsageError

    problem = None
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            problem = None if stat.S_ISREG(path.stat().st_mode) else "is no file"
        if problem is None and not path.parent.is_dir():
            problem = f"can't be written: {path.parent} is no folder"
        elif problem is None and not os.access(path.parent, os.W_OK | os.X_OK):
            problem = f"can't be written: {path.parent} is not yours to write to"
    except (OSError, ValueError) as error:
        problem = f"can't be written ({getattr(error, 'strerror', None) or error})"
    if problem:
        raise UsageError(f"{path} {problem}; give another file by --report")


def _write(path: Path, text: str) -> None:
    from dlenv.errors import UsageError

    scratch = path.with_name(f".{path.name}.tmp")
    try:
        # A path that is not UTF-8 has surrogates, which can't be.
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        scratch.replace(path)
    except OSError as error:
        raise UsageError(f"{path} can't be written ({error.strerror}); give another file by --report") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    say(f"Wrote {path}; read it before you send it.")
