"""``dlenv catalog``: the PyTorch builds that dlenv knows, and whether an index still agrees with them."""

from __future__ import annotations

import click

from dlenv.console import print_json, print_table, say

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="Show the PyTorch builds that dlenv knows, and compare them with an index.")
def command() -> None:
    """Show the PyTorch builds that dlenv knows, and compare them with an index."""


@command.command()
@_json
def show(as_json: bool) -> None:
    """Show every release of torch with its builds: where they run, and on which GPUs."""
    import msgspec

    from dlenv import catalog

    builds = catalog.load().builds
    if as_json:
        print_json([msgspec.to_builtins(build) for build in builds])
        return
    rows = []
    for build in builds:
        gpus = " ".join([*build.sm, *(f"{ptx}+PTX" for ptx in build.ptx), *build.gfx])
        where = "package index" if build.on_package_index else build.index or ""
        state = where if build.confirmed else f"{where} (announced)"
        pythons = f"{build.python[0]}-{build.python[-1]}"
        rows.append([build.torch, build.torchvision, build.build, build.system, pythons, gpus, state])
    print_table(["torch", "torchvision", "build", "system", "python", "GPUs", "from"], rows)


@command.command()
@click.option(
    "--index",
    metavar="URL",
    help="Compare with this index: a package index, or PyTorch wheels where it holds {build} or ends with a build. "
    "[default: PyTorch's own for every build, and PyPI]",
)
@click.option("--kind", type=click.Choice(["torch"]), default="torch", show_default=True, help="What to compare.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds for a page.")
@_json
def check(index: str | None, kind: str, timeout: float, as_json: bool) -> int:
    """Compare the catalog with what an index offers, and name the rows that are stale.

    Exit code 1 if a row is stale or an index does not answer.
    """
    import msgspec

    from dlenv import catalog
    from dlenv.catalog import check as examine

    facts = catalog.load()
    verdicts = examine.check(facts, examine.sources(facts, index), timeout=timeout)
    ok = all(verdict.ok for verdict in verdicts)
    if as_json:
        print_json({"schema": 1, "ok": ok, "kind": kind, "indexes": [msgspec.to_builtins(v) for v in verdicts]})
        return int(not ok)
    rows = [
        [verdict.index, finding.kind, finding.torch, finding.build, finding.system, finding.text]
        for verdict in verdicts
        for finding in verdict.findings
    ]
    if rows:
        print_table(["index", "finding", "torch", "build", "system", "what"], rows)
    for verdict in verdicts:
        if verdict.error:
            say(f"Not compared: {verdict.error}.")
        elif verdict.ok:
            say(f"{verdict.index} agrees with the catalog.")
    return int(not ok)
