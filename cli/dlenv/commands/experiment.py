"""``dlenv experiment``: the findings of the course notes, run again."""

from __future__ import annotations

from pathlib import Path

import click

from dlenv import completion
from dlenv.console import echo, needs, print_json, print_table, say
from dlenv.errors import DlenvError, UsageError

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="Run the experiments of the course: a table, a picture, and what the course says.")
def command() -> None:
    """Run the experiments of the course: each gives a table, a picture, and what the course says about it."""


@command.command(name="list")
@_json
@needs("train")
def list_(as_json: bool) -> None:
    """List the experiments, in the order of the course's chapters."""
    from dlenv_models.experiments import NAMES, get

    experiments = [get(name) for name in NAMES]
    if as_json:
        print_json([{"name": each.name, "question": each.question, "chapter": each.chapter} for each in experiments])
        return
    print_table(
        ["experiment", "question", "chapter"], [[each.name, each.question, each.chapter] for each in experiments]
    )


@command.command()
@click.argument("name", metavar="NAME", shell_complete=completion.experiments)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of data, weights and order. [default: 0]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs") / "experiments",
    help="Folder for the picture. [default: runs/experiments]",
)
@_json
@needs("train")
def run(name: str, seed: int, output: Path, as_json: bool) -> None:
    """Run one experiment; takes less than two minutes on two cores.

    The same seed gives the same table on the same machine. The picture is NAME.png.
    """
    from dlenv_models import threads
    from dlenv_models.experiments import get
    from dlenv_models.plots import new_figure, save

    experiment = get(name)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {output} can't be made ({error.strerror}); choose another by --output") from None
    threads.use("mlp")
    say(f"{experiment.question} Running {name} with seed {seed}.")
    outcome = experiment.run(seed)
    figure = new_figure(10, 4.5)
    outcome.draw(figure)
    try:
        path = save(figure, output / f"{name}.png")
    except OSError as error:
        raise DlenvError(f"the picture can't be written to {output}: {error.strerror}") from None
    columns = [column.title for column in outcome.columns]
    if as_json:
        print_json(
            {
                "experiment": name,
                "seed": seed,
                "question": experiment.question,
                "rows": [dict(zip(columns, row, strict=True)) for row in outcome.rows],
                "found": outcome.found,
                "course": {"says": experiment.course_says, "chapter": experiment.chapter},
                "picture": str(path),
            }
        )
        return
    print_table(columns, outcome.shown())
    echo(f"Found: {outcome.found}.")
    echo(f"The course ({experiment.chapter}): {experiment.course_says}")
    echo(f"Picture: {path}")
