"""``dlenv runs``, on what ``dlenv train`` really leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLENV_REPOSITORY", str(tmp_path / "repository"))
    for hidden in ("4", "8"):
        words = ("train", "mlp", "--data", "spiral", "--epochs", "2", "--hidden", hidden, "--name", "m")
        assert run(*words).code == 0
    return tmp_path / "runs"


def test_what_was_trained(trained: Path, run: Run) -> None:
    listed = run("runs", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["run", "m-v1", "m-v2"]
    assert listed[1].split("\t")[1:4] == ["finished", "mlp on spiral", "2"]
    assert listed[1].endswith("\tm/1")
    shown = json.loads(run("runs", "show", "runs/m-v2", "--json").stdout)
    assert shown["command"] == "dlenv train mlp --data spiral --name m --hidden 8 --epochs 2"
    assert shown["parameters"]["hidden"] == [8]
    assert shown["parameters"]["optimizer"] == "adam"
    assert [line["epoch"] for line in shown["metrics"]] == [1, 2]
    assert shown["metrics"][-1]["validation_loss"] == shown["result"]["validation_loss"]
    assert shown["result"]["test_accuracy"] > 0.3
    text = run("runs", "show", "runs/m-v2").stdout
    assert "hidden\t[8]" in text
    differing = json.loads(run("runs", "compare", "runs/m-v1", "runs/m-v2", "--json").stdout)
    assert differing["hidden"] == [[4], [8]]
    assert "lr" not in differing
    assert "hidden\t[4]\t[8]" in run("runs", "compare", "runs/m-v1", "runs/m-v2").stdout


def test_the_best_first(trained: Path, run: Run) -> None:
    for figure, best in (("validation_loss", min), ("validation_accuracy", max)):
        found = [each["result"][figure] for each in json.loads(run("runs", "list", "--sort", figure, "--json").stdout)]
        assert found[0] == best(found)
        assert len(found) == 2


def test_a_second_model_of_the_name_elsewhere_does_not_take_its_place(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setenv("DLENV_REPOSITORY", str(tmp_path / "another"))
    assert run("train", "linear", "--data", "spiral", "--epochs", "1", "--name", "m").code == 0
    assert sorted(path.name for path in trained.iterdir()) == ["m-v1", "m-v1-2", "m-v2"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("list", "nowhere"), "nowhere is no folder"),
        (("list", "--sort", "beauty"), "no run here has 'beauty'"),
        (("show", "runs"), "has no run.json"),
        (("compare", "runs/m-v1"), "can't be compared"),
    ],
)
def test_what_is_not_there(trained: Path, words: tuple[str, ...], text: str, run: Run) -> None:
    done = run("runs", *words)
    assert done.code == 2
    assert text in done.stderr
