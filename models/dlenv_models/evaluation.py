"""How good a model is on rows it has not seen: accuracy, loss, confusion matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from dlenv_models.data.dataset import Split
from dlenv_models.manifest import Metrics, Preprocessing
from dlenv_models.pretraining import Pretrained

BATCH = 1000


def preprocess(
    preprocessing: Preprocessing, row_shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from raw values, (N, *row_shape) of any dtype, to the float32 input of the module."""
    shape = (-1, 1, 1) if len(row_shape) == 3 else (-1,)
    mean = torch.tensor(preprocessing.mean, device=device).view(shape)
    std = torch.tensor(preprocessing.std, device=device).view(shape)

    def apply(raw: torch.Tensor) -> torch.Tensor:
        return (raw.to(torch.float32) * preprocessing.scale - mean) / std

    return apply


def predict(
    module: nn.Module, preprocessing: Preprocessing, inputs: torch.Tensor, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Logits, float32 (N, classes) on the CPU, of raw ``inputs`` (N, ...); the module is left in eval mode."""
    prepare = preprocess(preprocessing, tuple(inputs.shape[1:]), device)
    module.eval()
    with torch.inference_mode():
        return torch.cat([module(prepare(batch.to(device))).cpu() for batch in torch.split(inputs, BATCH)])


def reconstruct(module: Pretrained, preprocessing: Preprocessing, inputs: torch.Tensor) -> torch.Tensor:
    """What the module makes of raw ``inputs`` (N, C, H, W), on the CPU: float32 of the same shape and units."""
    prepare = preprocess(preprocessing, tuple(inputs.shape[1:]))
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    module.eval()
    with torch.inference_mode():
        made = [module.reconstruct(prepare(batch)) for batch in torch.split(inputs, BATCH)]
    return (torch.cat(made) * std + mean) / preprocessing.scale


def measure(
    module: nn.Module,
    preprocessing: Preprocessing,
    split: Split,
    classes: int,
    device: torch.device | str = "cpu",
) -> Metrics:
    """Accuracy (0..1), mean cross-entropy loss (nats) and confusion counts [true class][predicted class]."""
    logits = predict(module, preprocessing, split.inputs, device)
    called = logits.argmax(dim=1)
    counts = torch.bincount(split.labels * classes + called, minlength=classes * classes).view(classes, classes)
    return Metrics(
        test_accuracy=int(counts.diagonal().sum()) / len(split),
        test_loss=float(F.cross_entropy(logits.double(), split.labels)),
        confusion=tuple(map(tuple, counts.tolist())),
    )
