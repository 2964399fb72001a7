"""Pictures of a training: learning curves, confusion matrix, decision boundary (2-D data); and its figures as files."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from dlenv_models.data import Dataset
from dlenv_models.evaluation import predict, preprocess
from dlenv_models.manifest import Metrics, Preprocessing
from dlenv_models.pretraining import Pretrained
from dlenv_models.training import Epoch, Trained

# The classes of one's own images may be named in Chinese, which matplotlib's own font lacks: what the system has helps.
_CHINESE = {"Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "SimHei", "WenQuanYi Zen Hei"}
_fonts = rc_context({"font.family": ["DejaVu Sans", *sorted(_CHINESE.intersection(font_manager.get_font_names()))]})


def of_training(trained: Trained, metrics: Metrics, dataset: Dataset, folder: Path) -> list[Path]:
    """Every picture and file that fits the model and its data, into ``folder``; returns their paths."""
    files = [
        learning_curves(trained.history, folder / "learning-curves.png"),
        confusion_matrix(metrics, dataset.classes, folder / "confusion-matrix.png"),
        gradient_norms(trained.history, folder / "gradient-norms.png"),
        *write_history(trained.history, metrics, folder),
    ]
    if dataset.row_shape == (2,):
        path = folder / "decision-boundary.png"
        files.append(decision_boundary(trained.module, trained.preprocessing, dataset, path))
    if isinstance(trained.module, Pretrained):
        path = folder / "reconstructions.png"
        files.append(reconstructions(trained.module, trained.preprocessing, dataset, path))
    return files


def write_history(history: Sequence[Epoch], metrics: Metrics, folder: Path) -> list[Path]:
    """``history.csv`` (one line for each epoch) and ``metrics.json``; returns the paths."""
    table, numbers = folder / "history.csv", folder / "metrics.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        plain = [field.name for field in fields(Epoch) if field.name != "gradient_norms"]
        layers = _layers(history)
        writer = csv.writer(file)
        writer.writerow([*plain, *(f"gradient_norm {layer}" for layer in layers)])
        for epoch in history:
            norms = [epoch.gradient_norms.get(layer, "") for layer in layers]
            writer.writerow([*(getattr(epoch, name) for name in plain), *norms])
    numbers.write_text(json.dumps(asdict(metrics), indent=1) + "\n", encoding="utf-8")
    return [table, numbers]


@_fonts
def learning_curves(history: Sequence[Epoch], path: Path) -> Path:
    """Loss and accuracy of training and validation over the epochs, as PNG at ``path``."""
    figure = new_figure(10, 4)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    for split in ("train", "validation"):
        loss.plot(epochs, [getattr(epoch, f"{split}_loss") for epoch in history], label=split)
        accuracy.plot(epochs, [getattr(epoch, f"{split}_accuracy") for epoch in history], label=split)
    for axes, label in ((loss, "loss (nats)"), (accuracy, "accuracy")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    return save(figure, path)


@_fonts
def gradient_norms(history: Sequence[Epoch], path: Path) -> Path:
    """How long the gradient of each layer's weights is over the epochs, as PNG at ``path``.

    Where it is orders of magnitude shorter near the input, gradients vanish on their way down (d2l 5.4).
    """
    figure = new_figure(8, 4)
    axes = figure.subplots()
    layers = _layers(history)
    for number, layer in enumerate(layers):
        color = f"C{number}" if len(layers) <= 10 else str(0.85 * number / len(layers))  # else the input's is black
        norms = [epoch.gradient_norms.get(layer, math.nan) for epoch in history]
        axes.plot([epoch.epoch for epoch in history], norms, label=layer, color=color)
    axes.set(xlabel="epoch", ylabel="norm of the gradient", title="gradients of the weights", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=1 + len(layers) // 16, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, path)


@_fonts
def confusion_matrix(metrics: Metrics, classes: Sequence[str], path: Path) -> Path:
    """How many held-out rows of each class (line) were called what (column), as PNG at ``path``."""
    counts = np.array(metrics.confusion)
    size = 2.5 + 0.45 * min(len(classes), 40)
    figure = new_figure(size, size)
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", title=f"held-out accuracy {metrics.test_accuracy:.2%}")
    if len(classes) <= 40:  # more names and numbers can't be read
        axes.set_xticks(range(len(classes)), [_plain(name) for name in classes], rotation=90)
        axes.set_yticks(range(len(classes)), [_plain(name) for name in classes])
        for (true, called), count in np.ndenumerate(counts):
            if count:
                color = "white" if count > counts.max() / 2 else "black"
                axes.text(called, true, str(count), ha="center", va="center", color=color, fontsize=8)
    return save(figure, path)


@_fonts
def decision_boundary(module: nn.Module, preprocessing: Preprocessing, dataset: Dataset, path: Path) -> Path:
    """The class that the module gives to each point of the plane, and the held-out points, as PNG at ``path``."""
    figure = new_figure(6, 6)
    axes = figure.subplots()
    draw_regions(axes, module, preprocessing, dataset)
    axes.legend(loc="upper right")
    axes.set(title="decision boundary and held-out points", aspect="equal")
    return save(figure, path)


def reconstructions(module: Pretrained, preprocessing: Preprocessing, dataset: Dataset, path: Path) -> Path:
    """Ten held-out images, and below each what the module gives back for it, as PNG at ``path``."""
    rows = dataset.test.inputs[:: max(1, len(dataset.test) // 10)][:10]
    with torch.inference_mode():
        images = preprocess(preprocessing, dataset.row_shape)(rows)
        pairs = (images, module.reconstruct(images))
    figure = new_figure(8, 2)
    for axes, image in zip(figure.subplots(2, len(rows)).flat, torch.cat(pairs), strict=True):
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    return save(figure, path)


def draw_regions(axes: Axes, module: nn.Module, preprocessing: Preprocessing, dataset: Dataset) -> None:
    """Colour each point of the plane by the class that the module gives to it, and draw the held-out points."""
    points, labels = dataset.test.inputs.numpy(), dataset.test.labels.numpy()
    low, high = points.min(axis=0), points.max(axis=0)
    margin = (high - low) * 0.1
    x, y = (np.linspace(a, b, 300, dtype=np.float32) for a, b in zip(low - margin, high + margin, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    called = predict(module, preprocessing, grid).argmax(dim=1).numpy().reshape(len(y), len(x))
    # One level between each two neighbouring classes, so that each gets one colour of the map.
    levels = np.arange(len(dataset.classes) + 1) - 0.5
    axes.contourf(x, y, called, levels=levels, cmap="viridis", alpha=0.35)
    for label, name in enumerate(dataset.classes):
        x, y = points[labels == label].T
        color = [label / max(1, len(dataset.classes) - 1)] * len(x)
        axes.scatter(x, y, s=8, c=color, vmin=0, vmax=1, cmap="viridis", label=_plain(name))


def _layers(history: Sequence[Epoch]) -> list[str]:
    """The layers whose gradients were measured, in order; an ensemble's members may have different ones."""
    return list(dict.fromkeys(layer for epoch in history for layer in epoch.gradient_norms))


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches: pyplot would keep global state and may want a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG to ``path``, and return that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box in the picture is enough
        figure.savefig(path, dpi=120)
    return path


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib would read it as the start of a formula
