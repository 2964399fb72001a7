"""The commands beside published figures are ready to run: options that exist, and a script that runs them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dlenv.commands import train
from dlenv.training_options import ARGUMENTS, OPTIONS
from dlenv_models.architectures import complete
from dlenv_models.data import DATASETS
from dlenv_models.options import Options

SCRIPT = Path(__file__).parents[1] / "bench" / "accuracy.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy_of_published", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_each_command_of_the_table_can_be_run(script: ModuleType) -> None:
    rows = script.rows(script.TABLE)
    assert {row.data for row in rows} == {"mnist", "fashion-mnist", "cifar10"} < set(DATASETS)
    for row in rows:
        context = train.command.make_context("train", list(row.words[1:]))
        given = {key: value for key, value in context.params.items() if value is not None}
        shape = [3, 32, 32] if row.data == "cifar10" else [1, 28, 28]
        arguments = {key: given[key] for key in ARGUMENTS if key in given}
        complete(given["architecture"], {**arguments, "input_shape": shape, "classes": 10})
        Options(**{key: given[key] for key in OPTIONS if key in given})
        assert 50 < float(row.accuracy) < 100


def test_they_are_run_where_the_data_are(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a set that needs no download, and a command that fails."""
    table = tmp_path / "table.md"
    table.write_text(
        "| `dlenv train linear --data digits --epochs 3` | 90.0 % | somebody | not run |\n"
        "| `dlenv train linear --data mnist --fast` | 88.0 % | LeCun | not run |\n"
    )
    monkeypatch.chdir(tmp_path)
    *_, digits, mnist = script.lines(table, [], ["--threads", "1"])
    reached = digits.split(" | ")[-1].removesuffix(" |")
    assert float(reached.removesuffix(" %")) > 80
    assert "| 88.0 % | LeCun | not run: Error: No such option" in mnist
    assert list(script.lines(table, ["cifar10"], []))[2:] == []
