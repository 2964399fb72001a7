"""An examination as people and programs read it: a table, JSON, Markdown for a bug report."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import click

from dlenv import __version__
from dlenv.console import print_table, printable
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import BAD, Finding
from dlenv.doctor.redact import redact
from dlenv.language import translated

__all__ = ["as_json", "as_markdown", "print_findings", "summary"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black", "error": "magenta"}
_MAX_LINES = 40  # of what a stage of the probe printed


def is_ok(findings: Sequence[Finding]) -> bool:
    """Whether nothing fails, and every check could be made."""
    return not any(finding.status in BAD for finding in findings)


def as_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, object]:
    """The one object that ``dlenv doctor --json`` prints."""
    machine = facts.machine
    return {
        "schema": 1,
        "ok": is_ok(findings),
        "machine": {
            "os": machine.os if machine else sys.platform,
            "arch": machine.arch if machine else platform.machine(),
            "python": machine.python if machine else platform.python_version(),
            "cuda_driver": machine.cuda_driver if machine else None,
            "driver": machine.driver if machine else None,
            "gpus": [
                {"name": gpu.name, "compute_capability": gpu.compute_capability, "memory_mib": gpu.memory_mib}
                for gpu in (machine.gpus if machine else ())
            ],
        },
        "environment": str(facts.target.env) if facts.target.env else None,
        "checks": [finding.to_json() for finding in findings],
    }


def print_findings(findings: Sequence[Finding], verbose: bool) -> None:
    """What is wrong, and with ``verbose`` also what is right: a table on a terminal, a line each in a pipe."""
    if not sys.stdout.isatty():
        rows = [
            [item.status, item.id, item.title, _one_line(item.detail), _one_line(item.fix or "")] for item in findings
        ]
        print_table(["status", "check", "title", "detail", "fix"], rows)
        return
    shown = [item for item in findings if verbose or item.status not in ("ok", "skip")]
    if shown:
        _print_coloured(shown)
    # Not in the table: a command that is broken into lines can't be copied.
    for item in shown:
        if item.fix:
            click.echo(f"{click.style(item.id, bold=True)}: {click.style(printable(translated(item.fix)), fg='cyan')}")


def summary(findings: Sequence[Finding]) -> str:
    """How many of each kind, in one line."""
    count: Counter[str] = Counter(item.status for item in findings)
    said = {
        "fail": f"{count['fail']} failed",
        "error": f"{count['error']} could not be made",
        "warn": f"{count['warn']} with a warning",
        "ok": f"{count['ok']} fine",
        "skip": f"{count['skip']} skipped",
    }
    parts = [text for status, text in said.items() if count[status]]
    verdict = "Nothing is wrong" if is_ok(findings) else "Something is wrong"
    checks = "1 check" if len(findings) == 1 else f"{len(findings)} checks"
    return f"{verdict}: {checks}, {', '.join(parts)}."


def as_markdown(facts: Facts, findings: Sequence[Finding], environ: Mapping[str, str]) -> str:
    """The whole examination for a bug report, without what tells who the user is."""
    lines = ["# dlenv doctor", "", summary(findings), "", "## Machine", ""]
    lines += [f"- {key}: {value}" for key, value in _machine(facts)]
    lines += ["", "## Checks", "", "| status | check | detail | fix |", "| --- | --- | --- | --- |"]
    lines += [f"| {i.status} | {i.id} | {_cell(i.detail)} | {_cell(i.fix or '')} |" for i in findings]
    if facts.distributions is not None:
        lines += ["", "## Packages", "", "```"]
        lines += [
            f"{item.name} {item.version} ({item.installer or 'unknown installer'})" for item in facts.distributions
        ]
        lines.append("```")
    if facts.report is not None:
        lines += ["", "## Probe", ""]
        lines += [f"- {stage.name}: {stage.status}, {stage.seconds:.2f} s" for stage in facts.report.stages]
        for stage in facts.report.stages:
            text = "\n".join(filter(None, (stage.error, stage.traceback, stage.output))).strip()
            if text:
                lines += [
                    "",
                    f"### {stage.name}",
                    "",
                    "```",
                    *text.replace("```", "'''").splitlines()[-_MAX_LINES:],
                    "```",
                ]
    versions = frozenset(item.version for item in facts.distributions or () if item.version)
    return redact("\n".join(lines) + "\n", environ, versions)


def _machine(facts: Facts) -> list[tuple[str, object]]:
    machine, target = facts.machine, facts.target
    found: list[tuple[str, object]] = [
        ("dlenv", __version__),
        ("environment", f"{target.env} ({target.kind}, {target.why})"),
        ("Python", f"{facts.found('python').get('version')} of {target.python}"),
    ]
    if machine is not None:
        gpus = [
            f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB" for gpu in machine.gpus
        ]
        found += [
            ("system", f"{machine.os_version}, kernel {machine.kernel}, {machine.arch}"),
            ("C library", " ".join(machine.libc) if machine.libc else "unknown"),
            ("processors", machine.cpus),
            ("memory", f"{machine.memory_mib} MiB"),
            ("container", machine.container or "none"),
            ("NVIDIA driver", f"{machine.driver} (CUDA {machine.cuda_driver}, NVML {machine.nvml.status})"),
            ("GPUs", "; ".join(gpus) or "none"),
        ]
    return found


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_coloured(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*map(translated, ("status", "check", "what was found")))
    for item in findings:
        detail = printable(translated(_one_line(item.detail)))
        table.add_row(Text(item.status, style=_COLOURS[item.status]), Text(item.id), Text(detail))
    Console().print(table)
