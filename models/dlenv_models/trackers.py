"""TensorBoard and MLflow, for those who look at their runs there; the record in its folder is kept in any case."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlenv.errors import DlenvError, MissingExtra, UsageError
from dlenv_models._check import did_you_mean
from dlenv_models.runs import Run, Tracker

__all__ = ["KINDS", "check", "tracker"]

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
    raise _unknown(kind)


def check(wanted: str, experiment: str) -> None:
    """Raise what :func:`tracker` would, before there is anything to tell."""
    kind, _, place = wanted.partition(":")
    if kind == "tensorboard":
        _summary_writer()
    elif kind == "mlflow":
        _mlflow(place or None, experiment)
    else:
        raise _unknown(kind)


def _unknown(kind: str) -> UsageError:
    return UsageError(f"track: {kind!r} is not one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtra("TensorBoard's files need tensorboardX: pip install tensorboardX") from None
    return SummaryWriter


def _mlflow(uri: str | None, experiment: str) -> tuple[Any, str]:
    """A client, and the experiment's identity, which is made where there is none."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise MissingExtra("MLflow's records need mlflow: pip install mlflow-skinny, or mlflow") from None
    # By itself it tries for four minutes to reach a server that is not there.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        client = MlflowClient(uri)
        known = client.get_experiment_by_name(experiment)
        return client, known.experiment_id if known else client.create_experiment(experiment)
    except (MlflowException, OSError) as error:
        raise _no_run(uri, error) from None


def _no_run(uri: str | None, error: Exception) -> DlenvError:
    return DlenvError(f"MLflow at {uri or 'MLFLOW_TRACKING_URI'} takes no run: {error}")


class _TensorBoard:
    """Event files that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            self._writer = _summary_writer()(str(folder))
        except OSError as error:
            raise DlenvError(f"TensorBoard's files can't be written to {folder}: {error.strerror}") from None
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
        self._client, identity = _mlflow(uri, experiment)
        from mlflow.exceptions import MlflowException

        try:
            self._run = self._client.create_run(identity, run_name=name).info.run_id
            for key, value in parameters.items():
                self._client.log_param(self._run, key, value)
        except (MlflowException, OSError) as error:
            raise _no_run(uri, error) from None

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
