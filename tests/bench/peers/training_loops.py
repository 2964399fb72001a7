"""The same training by dlenv, a bare loop, Lightning and skorch: ``python training_loops.py WHO MODEL EPOCHS``.

Each trains the same module from the same weights on the same rows (the 3,500 of mnist5k's training split, float32, in
memory), 64 a batch in a new order each epoch, with Adam, and says the loss and accuracy of each epoch, as the book's
loop does. The frameworks get what their documentation names for speed: no logger, checkpoints, bars or callbacks that
are not needed, and batches that are taken out of the tensor at once instead of row by row. Prints the examples a second
of each epoch, and the accuracy on the held-out split, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from dlenv_models import zoo
from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import measure, preprocess
from dlenv_models.training import Epoch, recipe, train

BATCH = 64
RATE = 0.003


class Batches(torch.utils.data.Sampler[list[int]]):
    """Rows of each batch, all at once: a new order each epoch."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
        return iter(torch.randperm(self.rows).split(BATCH))

    def __len__(self) -> int:
        return -(-self.rows // BATCH)


def dlenv(_module: nn.Module, dataset: Dataset, model: str, epochs: int) -> tuple[nn.Module, list[float]]:
    options = replace(
        recipe(model, dataset), epochs=epochs, batch_size=BATCH, lr=RATE, augment=False, schedule="constant"
    )
    rates: list[float] = []

    def note(epoch: Epoch) -> None:
        rates.append(epoch.rate)

    return train(model, dataset, options, on_epoch=note).module, rates


def bare(module: nn.Module, dataset: Dataset, _model: str, epochs: int) -> tuple[nn.Module, list[float]]:
    inputs, labels = tensors(dataset)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    rates = []
    for _ in range(epochs):
        began = time.perf_counter()
        total, right = 0.0, 0
        for rows in torch.randperm(len(labels)).split(BATCH):
            logits = module(inputs[rows])
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            right += int((logits.argmax(dim=1) == labels[rows]).sum())
        rates.append(len(labels) / (time.perf_counter() - began))
    return module, rates


def lightning(module: nn.Module, dataset: Dataset, _model: str, epochs: int) -> tuple[nn.Module, list[float]]:
    import lightning as L

    class Classifier(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.rates: list[float] = []

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=RATE)

        def on_train_epoch_start(self) -> None:
            self.began, self.total, self.right, self.seen = time.perf_counter(), 0.0, 0, 0

        def training_step(self, batch: list[torch.Tensor], _number: int) -> torch.Tensor:
            rows, labels = batch
            logits = self.module(rows)
            loss = F.cross_entropy(logits, labels)
            self.total += loss.item() * len(rows)
            self.right += int((logits.argmax(dim=1) == labels).sum())
            self.seen += len(rows)
            return loss

        def on_train_epoch_end(self) -> None:
            self.rates.append(self.seen / (time.perf_counter() - self.began))

    inputs, labels = tensors(dataset)
    rows = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(rows, sampler=Batches(len(labels)), batch_size=None)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    classifier = Classifier()
    trainer.fit(classifier, loader)
    return module, classifier.rates


def skorch(module: nn.Module, dataset: Dataset, _model: str, epochs: int) -> tuple[nn.Module, list[float]]:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback

    inputs, labels = tensors(dataset)

    class Clock(Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_epoch_begin(self, _net: object, **_: object) -> None:
            self.began, self.right = time.perf_counter(), 0

        def on_batch_end(self, _net: object, batch: list[torch.Tensor], y_pred: torch.Tensor, **_: object) -> None:
            self.right += int((y_pred.argmax(dim=1) == batch[1]).sum())

        def on_epoch_end(self, _net: object, **_: object) -> None:
            self.rates.append(len(labels) / (time.perf_counter() - self.began))

    clock = Clock()
    net = NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=RATE, max_epochs=epochs, batch_size=None,
        iterator_train__sampler=Batches(len(labels)), train_split=None, verbose=0, callbacks=[clock],
        callbacks__valid_acc=None, callbacks__print_log=None,
    )  # fmt: skip
    net.fit(torch.utils.data.TensorDataset(inputs, labels), y=None)
    return net.module_, clock.rates


def tensors(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    prepare = preprocess(dataset.preprocessing, dataset.row_shape, torch.device("cpu"))
    return prepare(dataset.train.inputs.float()), dataset.train.labels


Loop = Callable[[nn.Module, Dataset, str, int], tuple[nn.Module, list[float]]]
LOOPS: dict[str, Loop] = {"dlenv": dlenv, "bare loop": bare, "Lightning": lightning, "skorch": skorch}


def main(who: str, model: str, epochs: int) -> None:
    warnings.simplefilter("ignore")  # Lightning's, about workers that would only slow this down
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = load("mnist5k")
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    module, rates = LOOPS[who](zoo.build(model, **shape), dataset, model, epochs)
    held = measure(module.eval(), dataset.preprocessing, dataset.test, len(dataset.classes), torch.device("cpu"))
    print(json.dumps({"rates": rates, "accuracy": held.test_accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
