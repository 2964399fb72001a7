"""Training on several processes, here or on a Ray cluster: the same steps as in one, each batch shared out.

Every process has the whole model and takes its rows of each batch; PyTorch's DistributedDataParallel averages the
gradients (d2l 13.5; Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020), so
the weights stay the same everywhere. The order of the rows, the augmentation and the global batch are those of a
single process: the result is, too, but for the order in which numbers are added. Two things can't be: dropout, which
draws for the rows that a process has, and batch normalisation, whose mean is that of a process's rows.

Ray Train starts the processes, and starts them again where one dies; they go on from the last checkpoint, a few
seconds ago. Checkpoints are safetensors and JSON; nothing of them is unpickled.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dlenv.errors import DataError, DlenvError, UsageError
from dlenv_models import training
from dlenv_models.architectures import smallest_batch
from dlenv_models.data import Dataset
from dlenv_models.options import Options
from dlenv_models.own_ray import ray_for, room
from dlenv_models.pretraining import Pretrained
from dlenv_models.training import Epoch, Group, Progress, Trained

__all__ = ["check", "train"]

EVERY_S = 5.0  # seconds from one checkpoint to the next: for each all processes wait
MOST_FAILURES = 3  # of the processes, until it is given up
_TENSORS, _REST = "tensors.safetensors", "progress.json"


def train(
    name: str,
    dataset: Dataset,
    options: Options,
    arguments: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    *,
    workers: int,
    threads: int,
    address: str | None = None,
    storage: str | None = None,
) -> Trained:
    """Train as :func:`dlenv_models.training.train` does, in ``workers`` processes of ``threads`` CPU threads each.

    ``address`` is an existing Ray cluster's, else Ray is started here and ended. ``storage`` is a folder or address
    that all machines reach, for checkpoints; without one they are kept on this machine, enough for its own processes.

    Raises ``UsageError`` for an option that can't be used, ``DlenvError`` where Ray can't be had or gives up.
    """
    check(name, dataset, options, arguments, workers)
    gpu = options.device == "cuda"
    begin = time.perf_counter()
    with (
        ray_for("train", cpus=workers * threads + 1, address=address, processes=workers),
        tempfile.TemporaryDirectory(prefix="dlenv-train-") as scratch,
    ):
        import ray
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.queue import Queue

        room(cpus=workers * threads, gpus=workers if gpu else 0)
        epochs: Queue = Queue(actor_options={"num_cpus": 0})
        listener = _Listener(epochs, on_epoch)
        listener.start()
        config = {
            "name": name,
            "dataset": ray.put(dataset),
            "options": options,
            "arguments": arguments,
            "threads": threads,
            "epochs": epochs,
        }
        trainer = TorchTrainer(
            _work,
            train_loop_config=config,
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": threads, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name="training",
                storage_path=storage or scratch,
                failure_config=FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise DataError(f"training failed: {_reason(error)}") from None
        finally:
            epochs.put(None)
            listener.join(10)
        if listener.error:
            raise DataError(listener.error)
        with result.checkpoint.as_directory() as folder:
            return _trained(Path(folder), name, dataset, options, arguments, time.perf_counter() - begin)


def check(name: str, dataset: Dataset, options: Options, arguments: Mapping[str, Any] | None, workers: int) -> None:
    """Raise ``UsageError`` for what can't be shared out, before any process is started."""
    if not 2 <= workers <= (most := min(options.batch_size, len(dataset.train))):
        raise UsageError(f"workers: {workers} is not between 2 and the batch size, {most}")
    if options.device not in ("cpu", "cuda"):
        raise UsageError(
            f"device: {options.device!r} can't be shared out; with --workers it is cpu, or cuda for a GPU each"
        )
    # The GPUs are those of the workers' machines: own_ray.room looks for them.
    training.check(name, replace(options, device="cpu"), dataset)
    architecture = training.describe(name, dataset, options, arguments)
    smallest = training.smallest_of_batches(len(dataset.train), options.batch_size)
    if smallest // workers < (least := smallest_batch(name, architecture.arguments)) > 1:
        raise UsageError(
            f"workers: of a batch of {smallest} rows, {workers} processes have too few each for {name}, whose batch "
            f"normalisation compares at least {least}; take fewer workers or another batch size"
        )


class _Listener(threading.Thread):
    """Tells of each epoch once: those after a checkpoint come again where a process died. Keeps what went wrong."""

    def __init__(self, told: Any, on_epoch: Callable[[Epoch], None]) -> None:
        super().__init__(daemon=True)
        self._told = told
        self._on_epoch = on_epoch
        self.error = ""

    def run(self) -> None:
        """Until there is None."""
        last = 0
        while (each := self._told.get()) is not None:
            if isinstance(each, str):
                self.error = each
            elif each.epoch > last:
                last = each.epoch
                self._on_epoch(each)


def _work(config: Mapping[str, Any]) -> None:
    """What each process does."""
    import ray

    torch.set_num_threads(config["threads"])
    group = _Workers(config["epochs"])
    try:
        training.train(config["name"], ray.get(config["dataset"]), config["options"], config["arguments"], group=group)
    except DlenvError as error:  # in all of them alike, and again if Ray started them again
        if not group.rank:
            config["epochs"].put(str(error))


class _Workers(Group):
    """The processes that Ray Train started."""

    def __init__(self, epochs: Any) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._epochs = epochs
        self._saved = time.monotonic()

    def wrap(self, module: nn.Module) -> nn.Module:
        # A decoder, and what a Boltzmann machine needs for the way back, have no part in the logits.
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=isinstance(module, Pretrained))

    def sums(self, *numbers: float) -> tuple[float, ...]:
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        together = torch.tensor(numbers, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(together)
        return tuple(together.tolist())

    def begin(self, progress: Progress) -> None:
        from ray.train import get_checkpoint

        if checkpoint := get_checkpoint():
            with checkpoint.as_directory() as folder:
                _load(Path(folder), progress)

    def end(self, progress: Progress, *, last: bool) -> None:
        from ray.train import Checkpoint, report

        if not self.rank:
            self._epochs.put(progress.history[-1])
        # All have to report together, so the first process decides for all.
        due = last or time.monotonic() - self._saved > EVERY_S
        if not self.of_first(float(due))[0]:
            return
        self._saved = time.monotonic()
        if self.rank:
            report({})
            return
        with tempfile.TemporaryDirectory(prefix="dlenv-checkpoint-") as folder:
            _save(Path(folder), progress)
            report({}, checkpoint=Checkpoint.from_directory(folder))


def _save(folder: Path, progress: Progress) -> None:
    optimizer = progress.optimizer.state_dict()
    tensors = {f"module.{key}": value for key, value in progress.module.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in progress.best.items()}
    tensors |= {
        f"optimizer.{number}.{key}": torch.as_tensor(value)
        for number, state in optimizer["state"].items()
        for key, value in state.items()
    }
    tensors |= {"random.order": progress.random.get_state(), "random.dropout": torch.get_rng_state()}
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, folder / _TENSORS)
    rest = {
        "history": [asdict(epoch) for epoch in progress.history],
        "best_loss": progress.best_loss,
        "best_epoch": progress.best_epoch,
    }
    (folder / _REST).write_text(json.dumps(rest), encoding="utf-8")


def _load(folder: Path, progress: Progress) -> None:
    tensors = load_file(folder / _TENSORS)
    progress.module.load_state_dict(_part(tensors, "module."))
    progress.best = _part(tensors, "best.")
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        number, _, name = key.partition(".")
        states.setdefault(int(number), {})[name] = value
    progress.optimizer.load_state_dict({**progress.optimizer.state_dict(), "state": states})
    progress.random.set_state(tensors["random.order"])
    torch.set_rng_state(tensors["random.dropout"])
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    progress.history[:] = [Epoch(**epoch) for epoch in rest["history"]]
    progress.best_loss, progress.best_epoch = rest["best_loss"], rest["best_epoch"]


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _trained(
    folder: Path,
    name: str,
    dataset: Dataset,
    options: Options,
    arguments: Mapping[str, Any] | None,
    seconds: float,
) -> Trained:
    """The model of the last checkpoint; with patience that of its best epoch."""
    architecture, preprocessing, module = training.build(name, dataset, options, arguments)
    tensors = load_file(folder / _TENSORS)
    module.load_state_dict(_part(tensors, "best." if options.patience else "module."))
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    history = tuple(Epoch(**epoch) for epoch in rest["history"])
    return Trained(module.cpu().eval(), architecture, preprocessing, history, seconds, training.story(options))


def _reason(error: BaseException) -> str:
    """The last line of what went wrong in a process."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
