"""``dlenv notebooks run``: execute the course's notebooks headless, and say what ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from dlenv.console import print_json, print_table, say
from dlenv.interruption import unwinding


@click.command(
    "run",
    epilog="""\b
Examples:
  dlenv notebooks run preliminaries            a chapter
  dlenv notebooks run preliminaries/pandas     a notebook""",
)
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--env", type=click.Path(path_type=Path), help="Environment.  [default: the active one]")
@click.option(
    "--notebooks",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of notebooks.  [default: where dlenv setup puts them]",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="For each notebook.",
)
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Put copies with their outputs here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@unwinding()
def command(
    chapters: tuple[str, ...],
    env: Path | None,
    notebooks: Path | None,
    time_limit: float,
    keep: Path | None,
    as_json: bool,
) -> int:
    """Run notebooks one after the other, and tabulate what ran, and what failed and why.

    CHAPTER is a chapter (preliminaries), a notebook (preliminaries/pandas) or the beginning of its name; without any,
    all are run. The notebooks themselves are not changed; commands in them that install packages are left out.

    The exit code is 1 where a notebook failed for any other reason than that the network or a GPU is missing.
    """
    from dlenv.notebooks import kernel, run

    env = env or kernel.active()
    root = notebooks or run.default(env)
    chosen = run.select(root, chapters)
    outcomes = []
    for outcome in run.run(env, root, chosen, time_limit, keep):
        outcomes.append(outcome)
        say(f"[{len(outcomes)}/{len(chosen)}] {outcome.notebook}: {outcome.kind}, {outcome.seconds:.1f} s")
    counts = dict(Counter(outcome.kind for outcome in outcomes))
    if as_json:
        print_json(
            {
                "schema": 1,
                "environment": str(kernel.stable(env)),
                "notebooks": str(root.absolute()),
                "counts": counts,
                "results": [outcome.to_json() for outcome in outcomes],
            }
        )
    else:
        rows = [(outcome.notebook, outcome.kind, f"{outcome.seconds:.1f}", outcome.why) for outcome in outcomes]
        print_table(("notebook", "result", "seconds", "why"), rows)
    say(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return int(any(outcome.wrong for outcome in outcomes))
