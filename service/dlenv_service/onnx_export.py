"""Models as ONNX, made by PyTorch's exporter in a process of its own and kept for the next start.

    python -m dlenv_service.onnx_export ROOT NAME VERSION FILE [NAME VERSION FILE ...]

The exporter takes seconds and a few hundred megabytes, most of them for what it imports. So all models that wait are
exported together, and the service serves them with PyTorch meanwhile
(docs.pytorch.org/docs/stable/onnx_export.html).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path

import filelock
import numpy as np

from dlenv import folders
from dlenv.errors import ModelInvalid
from dlenv_models.manifest import Manifest
from dlenv_service import child

__all__ = ["ExportFailed", "Exporter", "cached"]

LIMIT_S = 300  # in which the exporter must be done
NICE = 10  # the service itself goes first
# What the exporter sees of the batch: 0 and 1 rows are special to it.
EXAMPLE_ROWS = 2
# Raised when what is exported changes other than by the model or these packages.
FORMAT = 1
PACKAGES = ("torch", "onnx", "onnxscript")


def cached(manifest: Manifest) -> Path:
    """Where the ONNX file of a model is kept: by all that it is made from, so that it need never be made again.

    Raises:
        ModuleNotFoundError: a package that the exporter needs is not installed.
    """
    document = manifest.to_json()
    made_from = [
        FORMAT,
        [f"{package} {_version(package)}" for package in PACKAGES],
        [document[key] for key in ("architecture", "preprocessing", "inputs", "files")],
    ]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    return folders.cache() / "onnx" / f"{key[:32]}.onnx"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(f"{package} is not installed", name=package) from None


class ExportFailed(Exception):
    """A model can't be exported."""


class Exporter:
    """Makes ONNX files; another thread may stop it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def make(self, root: Path | None, manifests: Sequence[Manifest]) -> None:
        """See to it that there are ONNX files of these models of the repository ``root``; takes seconds.

        Raises:
            ExportFailed: with the reason; other models may have been exported all the same.
            ModuleNotFoundError: a package that the exporter needs is not installed.
            OSError, filelock.Timeout: the folder where they are kept can't be used.
        """
        files = {cached(manifest): manifest for manifest in manifests}
        folder = folders.cache() / "onnx"
        folder.mkdir(parents=True, exist_ok=True)
        # Replicas on one machine start at the same time and want the same files.
        with filelock.FileLock(folder / ".lock", timeout=LIMIT_S):
            words = [(each.name, str(each.version), str(file)) for file, each in files.items() if not file.is_file()]
            if words:
                self._run([str(root or ""), *chain.from_iterable(words)])

    def stop(self) -> None:
        """End what runs, and start no more."""
        self._stopped = True
        if (process := self._child) is not None:
            process.kill()

    def _run(self, words: list[str]) -> None:
        if self._stopped:
            raise ExportFailed("the service stops")
        command = child.command("dlenv_service.onnx_export", *words)
        self._child = process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if self._stopped:  # meanwhile
            process.kill()
        try:
            _, said = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ExportFailed(f"PyTorch's exporter took more than {LIMIT_S} s") from None
        finally:
            self._child = None
        if process.returncode:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise ExportFailed(lines[-1] if lines else f"PyTorch's exporter ended with {process.returncode}")


def export(root: Path | None, name: str, version: int, file: Path) -> None:
    """Write the ONNX file of a model: from raw rows to probabilities and labels, for any number of rows.

    Raises:
        ModelInvalid, ModelNotFound: the repository doesn't give the model, or another one meanwhile.
    """
    import torch

    from dlenv_models.repository import Repository
    from dlenv_service.engine import classify
    from dlenv_service.tensors import DTYPES

    torch.set_num_threads(1)
    model = Repository(root).load(name, version)
    if cached(model.manifest) != file:
        raise ModelInvalid(f"the model {name}/{version} was replaced meanwhile")
    prepare = model.manifest.preprocessing
    tensor = model.manifest.inputs[0]
    shape = tuple(tensor.shape[1:])
    module = classify(model.module, shape, prepare.scale, prepare.mean, prepare.std).eval()
    example = torch.from_numpy(np.zeros((EXAMPLE_ROWS, *shape), DTYPES[tensor.datatype]))
    program = torch.onnx.export(
        module,
        (example,),
        input_names=["rows"],
        output_names=["probabilities", "labels"],
        dynamic_shapes=({0: torch.export.Dim("count", min=1)},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    scratch = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        program.save(scratch)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def main(root: str, *words: str) -> int:
    """Export all models that can be; the last line on standard error says what is wrong with another one."""
    warnings.simplefilter("ignore")  # of the exporter, about its own workings
    with contextlib.suppress(AttributeError):  # Windows has none
        os.nice(NICE)
    code = 0
    for name, version, file in zip(words[::3], words[1::3], words[2::3], strict=True):
        try:
            export(Path(root) if root else None, name, int(version), Path(file))
        except Exception as error:  # noqa: BLE001 - the others may do
            code = 1
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            print(f"{name} version {version}: {reason}", file=sys.stderr)
    return code
