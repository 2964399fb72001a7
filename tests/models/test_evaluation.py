from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from dlenv_models import plots
from dlenv_models.data import Split, load
from dlenv_models.evaluation import BATCH, measure, predict, preprocess
from dlenv_models.manifest import Metrics, Preprocessing
from dlenv_models.training import Options, train

PLAIN = Preprocessing(1.0, (0.0, 0.0), (1.0, 1.0))


def test_preprocess_is_per_channel_and_float32() -> None:
    apply = preprocess(Preprocessing(0.5, (1.0, 2.0, 3.0), (1.0, 2.0, 4.0)), (3, 2, 2))
    x = apply(torch.full((1, 3, 2, 2), 10, dtype=torch.uint8))
    assert x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == [4.0, 1.5, 0.5]
    assert preprocess(PLAIN, (2,))(torch.tensor([[3.0, 4.0]])).tolist() == [[3.0, 4.0]]


def test_measure_counts_what_was_called_what() -> None:
    # An identity: the logits are the inputs.
    inputs = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    metrics = measure(nn.Identity(), PLAIN, Split(inputs, torch.tensor([0, 0, 1, 1])), 2)
    assert metrics.test_accuracy == 0.75
    assert metrics.confusion == ((2, 0), (1, 1))
    small = math.log1p(math.exp(-9))
    assert metrics.test_loss == pytest.approx((3 * small + 9 + small) / 4)


def test_predict_switches_dropout_off_and_joins_batches() -> None:
    module = nn.Sequential(nn.Dropout(0.5)).train()
    inputs = torch.rand(BATCH + 3, 2)
    assert torch.equal(predict(module, PLAIN, inputs), inputs)


def test_pictures_and_figures_are_written(tmp_path: Path) -> None:
    dataset = load("spiral")
    trained = train("mlp", dataset, Options(epochs=3))
    metrics = measure(trained.module, dataset.preprocessing, dataset.test, 3)
    classes = ["$x", "数字", dataset.classes[2]]
    paths = [
        plots.learning_curves(trained.history, tmp_path / "curves.png"),
        plots.confusion_matrix(metrics, classes, tmp_path / "confusion.png"),
        plots.decision_boundary(trained.module, dataset.preprocessing, dataset, tmp_path / "boundary.png"),
    ]
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or []) > 20
    table, numbers = plots.write_history(trained.history, metrics, tmp_path)
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert float(lines[2]["train_loss"]) == trained.history[2].train_loss
    assert json.loads(numbers.read_text())["test_accuracy"] == metrics.test_accuracy


def test_the_matrix_of_many_classes_can_be_drawn(tmp_path: Path) -> None:
    confusion = tuple(tuple(int(i == j) for j in range(100)) for i in range(100))
    path = plots.confusion_matrix(Metrics(1.0, 0.0, confusion), [str(i) for i in range(100)], tmp_path / "many.png")
    with Image.open(path) as picture:
        assert max(picture.size) < 5000
