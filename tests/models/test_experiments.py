"""The experiments of the course: what the command gives, and that the findings are those of the course."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dlenv.commands.experiment import command
from dlenv.errors import UsageError
from dlenv_models.experiments import NAMES, Outcome, get

Rows = list[dict[str, Any]]


def run(*words: object) -> Any:
    """The command in this process; its errors come out as they are."""
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)


def spiral(rows: Rows) -> None:
    linear, stacked, relu = (row["held-out accuracy"] for row in rows)
    assert linear == pytest.approx(stacked, abs=0.02)  # layers without an activation are one linear layer
    assert linear < 0.6
    assert relu > 0.97


def saving_memory(rows: Rows) -> None:
    assert [row["new MiB for each update"] for row in rows] == [8, 8, 4, 0]
    assert [row["w stays in its place"] for row in rows] == ["no", "yes", "yes", "yes"]


def linear_regression(rows: Rows) -> None:
    *descent, closed = rows
    losses = [row["loss"] for row in descent]
    assert closed["loss"] <= losses[-1] < 1.001 * closed["loss"]
    assert 0 < descent[-1]["distance from the closed form"] < 0.15


def polynomial_degree(rows: Rows) -> None:
    held = {row["degree"]: row["held-out loss"] for row in rows}
    training = [row["training loss"] for row in rows]
    assert training == sorted(training, reverse=True)
    assert held[1] > 100 * held[3]  # underfitting
    assert held[19] > 100 * held[3]  # overfitting


def weight_decay(rows: Rows) -> None:
    norms = [row["norm of the weights"] for row in rows]
    assert norms == sorted(norms, reverse=True)
    assert rows[0]["training loss"] < 1e-6
    assert min(row["held-out loss"] for row in rows) < 0.01 * rows[0]["held-out loss"]


def vanishing_gradients(rows: Rows) -> None:
    first, last = rows[0], rows[-2]
    assert first["sigmoid"] / last["sigmoid"] < 0.25**7
    assert 0.1 < first["relu"] / last["relu"] < 10


def initialisation(rows: Rows) -> None:
    small, _, kaiming, large = (row["deviation after layer 10"] for row in rows)
    assert small < 1e-10
    assert 0.1 < kaiming < 10
    assert large > 1e5
    after = {row["weights at the start"]: row["loss after 100 steps"] for row in rows}
    assert min(after, key=lambda start: after[start]) == "Kaiming"


def depth_width(rows: Rows) -> None:
    assert all(row["parameters"] <= 90 for row in rows)
    means = [row["mean held-out accuracy"] for row in rows]
    assert max(means[:2]) > 0.95
    assert means[-1] < 0.6  # tall and thin: hardly anything gets through two units


def dropout(rows: Rows) -> None:
    plain, half = (next(row for row in rows if row["dropout"] == each) for each in (0, 0.5))
    assert half["held-out loss"] < plain["held-out loss"]
    assert half["training loss"] > plain["training loss"]


QUICK: dict[str, Callable[[Rows], None]] = {
    "saving-memory": saving_memory,
    "linear-regression": linear_regression,
    "polynomial-degree": polynomial_degree,
    "weight-decay": weight_decay,
    "vanishing-gradients": vanishing_gradients,
    "initialisation": initialisation,
}
LONG = {"spiral": spiral, "depth-width": depth_width, "dropout": dropout}


def check(name: str, holds: Callable[[Rows], None], folder: Path) -> None:
    result = run("run", name, "--json", "--output", folder)
    answer = json.loads(result.stdout)
    holds(answer["rows"])
    assert answer["course"]["chapter"].startswith("d2l ")
    assert Path(answer["picture"]) == folder / f"{name}.png"
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", QUICK)
def test_what_the_course_found_is_found_again(name: str, tmp_path: Path) -> None:
    check(name, QUICK[name], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("DLENV_TEST_EXPERIMENTS" not in os.environ, reason="takes minutes: set DLENV_TEST_EXPERIMENTS=1")
@pytest.mark.parametrize("name", LONG)
def test_what_the_course_found_is_found_again_in_longer_experiments(name: str, tmp_path: Path) -> None:
    check(name, LONG[name], tmp_path)


def test_every_experiment_has_a_test() -> None:
    assert set(NAMES) == {*QUICK, *LONG}


def test_a_seed_gives_the_same_figures_again_and_another_gives_others() -> None:
    experiment = get("weight-decay")
    first, again, other = (experiment.run(seed) for seed in (0, 0, 1))
    assert isinstance(first, Outcome)
    assert first.shown() == again.shown()
    assert first.shown() != other.shown()


def test_people_get_a_table_the_finding_and_the_chapter(tmp_path: Path) -> None:
    output = run("run", "polynomial-degree", "--output", tmp_path).stdout
    assert "degree\ttraining loss\theld-out loss" in output
    assert "Found: the data come from degree 3" in output
    assert 'The course (d2l 3.6, "Generalization"' in output


def test_list() -> None:
    lines = run("list").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["experiment", *NAMES]
    assert [each["name"] for each in json.loads(run("list", "--json").stdout)] == list(NAMES)


def test_an_unknown_experiment_is_named_with_its_neighbour() -> None:
    with pytest.raises(UsageError, match=r"'spirals' is not one of .*; did you mean 'spiral'\?"):
        run("run", "spirals")


def test_a_folder_that_can_not_be_made() -> None:
    with pytest.raises(UsageError, match="choose another by --output"):
        run("run", "polynomial-degree", "--output", "/dev/null/pictures")
