"""How far a training is: loss, accuracy, examples per second, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dlenv.console import say
from dlenv.language import translated

if TYPE_CHECKING:
    from dlenv_models.training import Epoch, Step


class TrainingProgress:
    """A context in which training reports to stderr: a bar on a terminal, else about ten lines."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(translated("epoch") + " {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TextColumn(
                f"{translated('loss')} {{task.fields[loss]:.4f}}  "
                f"{translated('accuracy')} {{task.fields[accuracy]:.2%}}"
            ),
            TextColumn(translated("validation") + " {task.fields[validation]}"),
            TextColumn("{task.fields[rate]:,.0f} " + translated("examples/s")),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=None, epoch=1, loss=0.0, accuracy=0.0, validation="-", rate=0.0)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_step(self, step: Step) -> None:
        """Move the bar; called after each batch."""
        rate = self._bar.tasks[0].speed or 0.0
        self._bar.update(
            self._task,
            completed=step.done,
            total=step.total,
            epoch=step.epoch,
            loss=step.loss,
            accuracy=step.accuracy,
            rate=rate,
        )

    def on_epoch(self, epoch: Epoch) -> None:
        """Show the validation accuracy; called after each epoch."""
        validation = f"{epoch.validation_accuracy:.2%}"
        self._bar.update(self._task, validation=validation)
        every = -(-self._epochs // 10)
        if self._bar.disable and (epoch.epoch == 1 or epoch.epoch % every == 0 or epoch.epoch == self._epochs):
            say(
                f"epoch {epoch.epoch}/{self._epochs}: loss {epoch.train_loss:.4f}, accuracy "
                f"{epoch.train_accuracy:.2%}, validation {validation}, {epoch.rate:,.0f} examples/s"
            )
