"""TensorBoard and MLflow, for those who look at their runs there; the record in its folder is kept in any case."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlenv.errors import DlenvError, MissingExtra, UsageError
from dlenv_models._check import did_you_mean
from dlenv_models.runs import Run, Tracker

__all__ = ["KINDS", "tracker"]

KINDS = ("tensorboard", "mlflow")
_MLFLOW_STATES = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED"}


def tracker(wanted: str, folder: Path, name: str, experiment: str, parameters: Mapping[str, Any]) -> Tracker:
    """What ``wanted`` names: ``tensorboard`` or ``tensorboard:FOLDER``, ``mlflow`` or ``mlflow:URI``.

    TensorBoard's files go into ``folder``, unless another is named. MLflow's address is ``$MLFLOW_TRACKING_URI``,
    unless one is named (https://mlflow.org/docs/latest/tracking.html).

    Raises ``UsageError`` for another name, ``MissingExtra`` where the package is not installed, ``DlenvError`` where
    MLflow can't be reached.
    """
    kind, _, place = wanted.partition(":")
    if kind == "tensorboard":
        return _TensorBoard(Path(place) / name if place else folder, parameters)
    if kind == "mlflow":
        return _MLflow(place or None, name, experiment, parameters)
    raise UsageError(f"track: {kind!r} is not one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


class _TensorBoard:
    """Event files that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            raise MissingExtra("TensorBoard's files need tensorboardX: pip install tensorboardX") from None
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("parameters", "\n".join(f"- {key}: {value}" for key, value in parameters.items()))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            self._writer.add_scalar(key, value, number)

    def end(self, run: Run) -> None:
        for key in run.result.keys() & {"test_accuracy", "test_loss"}:
            self._writer.add_scalar(key, run.result[key], run.epochs)
        self._writer.close()


class _MLflow:
    """A run of an experiment on an MLflow server, or in its folder or database."""

    def __init__(self, uri: str | None, name: str, experiment: str, parameters: Mapping[str, Any]) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError:
            raise MissingExtra("MLflow's records need mlflow: pip install mlflow-skinny, or mlflow") from None
        # By itself it tries for four minutes to reach a server that is not there.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        try:
            self._client = MlflowClient(uri)
            known = self._client.get_experiment_by_name(experiment)
            identity = known.experiment_id if known else self._client.create_experiment(experiment)
            self._run = self._client.create_run(identity, run_name=name).info.run_id
            for key, value in parameters.items():
                self._client.log_param(self._run, key, value)
        except (MlflowException, OSError) as error:
            raise DlenvError(f"MLflow at {uri or 'MLFLOW_TRACKING_URI'} takes no run: {error}") from None

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            self._client.log_metric(self._run, key, value, step=number)

    def end(self, run: Run) -> None:
        for key in run.result.keys() & {"test_accuracy", "test_loss"}:
            self._client.log_metric(self._run, key, run.result[key], step=run.epochs)
        self._client.set_tag(self._run, "dlenv.command", run.command)
        if run.git:
            self._client.set_tag(self._run, "mlflow.source.git.commit", run.git.commit)
        self._client.set_terminated(self._run, _MLFLOW_STATES.get(run.state, "FAILED"))
