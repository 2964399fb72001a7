from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_evaluate_on_the_models_own_data(run: Run, tmp_path: Path) -> None:
    result = run("evaluate", "spiral-linear", "--output", tmp_path / "o")
    assert result.code == 0
    assert "accuracy 53.25% of 999 rows" in result.stderr
    assert result.stdout.splitlines()[0] == "true \\ called\tarm 1\tarm 2\tarm 3\tright"
    assert (tmp_path / "o" / "confusion-matrix.png").is_file()


def test_json_holds_the_confusion(run: Run) -> None:
    report = json.loads(run("evaluate", "mnist-mlp/1", "--data", "mnist5k", "--json").stdout)
    assert report["rows"] == 1000
    assert report["accuracy"] == sum(report["confusion"][i][i] for i in range(10)) / 1000
    assert report["loss"] > 0


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("nothing",), 1, "no model 'nothing'"),
        (
            ("mnist-mlp", "--data", "spiral"),
            1,
            "rows of spiral have the shape [2]; the model mnist-mlp takes [1, 28, 28]",
        ),
        (("mnist-mlp", "--data", "mnist6k"), 2, "no dataset 'mnist6k'"),
        (("mnist-mlp", "--data", "mnist", "--mirror", "http://127.0.0.1:9"), 1, "no mirror gave"),
        (("mnist-mlp", "--data", "/proc/self/fdinfo"), 1, "holds no images in class folders"),
        (("spiral-mlp", "--output", "/proc/nothing"), 1, "can't be written"),
    ],
)
def test_misuse_is_one_line(run: Run, words: tuple[str, ...], code: int, reason: str) -> None:
    result = run("evaluate", *words)
    assert (result.code, result.stdout) == (code, "")
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
