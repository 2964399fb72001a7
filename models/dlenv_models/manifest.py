"""``manifest.json``: what a model is, what it takes and gives, where it comes from and how good it is.

A manifest may come from a stranger. :meth:`Manifest.from_json` believes nothing: unknown keys, wrong types, values
out of range and parts that contradict each other are refused with the key and the value. It imports no PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dlenv.errors import ModelInvalid
from dlenv_models import _check, architectures

SCHEMA = 1
WEIGHTS = "model.safetensors"
RECONSTRUCTION = "reconstruction"  # an output of architectures that learn without labels first
MAX_VERSION = 999_999_999
MAX_WEIGHTS = 2 * 1024**3  # bytes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: Open Inference Protocol datatype, and shape with -1 for the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A name in :data:`dlenv_models.architectures.ARCHITECTURES` and every argument it takes."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Preprocessing:
    """``x = (raw * scale - mean) / std``, with one mean and one std per channel, or per feature."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DataInfo:
    """The dataset: its name, where it comes from, its licence, and how many rows each split has."""

    name: str
    source: str
    license: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Metrics:
    """Measured on the held-out (test) split; ``confusion[i][j]`` counts rows of class i that were called j."""

    test_accuracy: float
    test_loss: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Training:
    """How the weights were made: the command, its seed, UTC time (ISO 8601), PyTorch's version, every option."""

    command: str
    seed: int
    created: str
    torch: str
    options: Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class FileInfo:
    """A file of the model: SHA-256 as 64 hexadecimal digits, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All that is known about one version of one model, beside its weights."""

    name: str
    version: int
    architecture: Architecture
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: DataInfo
    metrics: Metrics
    training: Training
    files: Mapping[str, FileInfo]
    schema: int = SCHEMA

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one input row: (C, H, W) of an image, or (F,)."""
        return self.inputs[0].shape[1:]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, ``schema`` first."""
        return {"schema": self.schema, **_plain({k: v for k, v in asdict(self).items() if k != "schema"})}

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Read what :meth:`to_json` gives; raises ``ModelInvalid`` naming the key and the value."""
        try:
            return _manifest(value)
        except ValueError as error:
            raise ModelInvalid(f"manifest.json: {error}") from None


def model_name(value: object, where: str = "name") -> str:
    """``value`` as a model's name; raises ``ValueError``. A name is also a folder, on every operating system."""
    if isinstance(value, str) and _NAME.fullmatch(value) and ".." not in value and not value.endswith("."):
        return value
    rule = "1 to 64 letters, digits, '_', '-' and single '.', starting with a letter or digit"
    raise ValueError(f"{where}: {_check.show(value)} is not a model name ({rule})")


def tensor_specs(architecture: Architecture) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a model: it takes uint8 pixels where rows are images, else float32.

    One that can reconstruct its input gives that too, as float32 in the input's own units (pixels: 0 to 255).
    """
    row_shape, classes = architecture.arguments["input_shape"], architecture.arguments["classes"]
    datatype = "UINT8" if len(row_shape) == 3 else "FP32"
    inputs = (TensorSpec("input", datatype, (-1, *row_shape)),)
    outputs = [TensorSpec("probabilities", "FP32", (-1, classes)), TensorSpec("label", "INT64", (-1,))]
    if architectures.ARCHITECTURES[architecture.name].pretrained:
        outputs.append(TensorSpec(RECONSTRUCTION, "FP32", (-1, *row_shape)))
    return inputs, tuple(outputs)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _manifest(value: object) -> Manifest:
    top = _check.mapping(value, "manifest", list(Manifest.__dataclass_fields__))
    if top["schema"] != SCHEMA or isinstance(top["schema"], bool):
        raise ValueError(f"schema: {_check.show(top['schema'])} is unknown; this dlenv reads {SCHEMA}")
    architecture = _architecture(top["architecture"])
    shape, count = architecture.arguments["input_shape"], architecture.arguments["classes"]
    names = _check.sequence(top["classes"], "classes", count, count)
    classes = tuple(_check.text(name, f"classes[{i}]") for i, name in enumerate(names))
    if len(set(classes)) != count:
        raise ValueError("classes: a name stands there twice")
    inputs, outputs = tensor_specs(architecture)
    _tensors(top["inputs"], "inputs", inputs)
    # Older manifests don't name the reconstruction, which the architecture can give all the same.
    _tensors(top["outputs"], "outputs", outputs, least=2)
    data = _data(top["data"])
    return Manifest(
        name=model_name(top["name"]),
        version=_check.integer(top["version"], "version", 1, MAX_VERSION),
        architecture=architecture,
        inputs=inputs,
        outputs=outputs,
        classes=classes,
        preprocessing=_preprocessing(top["preprocessing"], shape[0]),
        data=data,
        metrics=_metrics(top["metrics"], count, data.test),
        training=_training(top["training"]),
        files=_files(top["files"]),
    )


def _architecture(value: object) -> Architecture:
    given = _check.mapping(value, "architecture", ("name", "arguments"))
    name = _check.choice(given["name"], "architecture.name", architectures.ARCHITECTURES)
    spec = architectures.ARCHITECTURES[name]
    keys = ("input_shape", "classes", *spec.options)
    arguments = _check.mapping(given["arguments"], "architecture.arguments", keys, spec.later)
    return Architecture(name, architectures.complete(name, arguments, "architecture.arguments."))


def _tensors(value: object, key: str, wanted: Sequence[TensorSpec], least: int = 1) -> None:
    given = _check.sequence(value, key, least, len(wanted))
    for i, (item, spec) in enumerate(zip(given, wanted, strict=False)):
        fields = _check.mapping(item, f"{key}[{i}]", ("name", "datatype", "shape"))
        for field, right in (("name", spec.name), ("datatype", spec.datatype), ("shape", list(spec.shape))):
            if fields[field] != right and fields[field] != spec.shape:
                wrong = _check.show(fields[field])
                raise ValueError(f"{key}[{i}].{field}: {wrong} does not fit the architecture, which has {right!r}")


def _preprocessing(value: object, channels: int) -> Preprocessing:
    given = _check.mapping(value, "preprocessing", ("scale", "mean", "std"))
    mean = _check.sequence(given["mean"], "preprocessing.mean", channels, channels)
    std = _check.sequence(given["std"], "preprocessing.std", channels, channels)
    return Preprocessing(
        scale=_check.number(given["scale"], "preprocessing.scale", 1e-6, 1e6),
        mean=tuple(_check.number(x, f"preprocessing.mean[{i}]", -1e6, 1e6) for i, x in enumerate(mean)),
        std=tuple(_check.number(x, f"preprocessing.std[{i}]", 1e-6, 1e6) for i, x in enumerate(std)),
    )


def _data(value: object) -> DataInfo:
    given = _check.mapping(value, "data", list(DataInfo.__dataclass_fields__))
    name, source, licence = (_check.text(given[key], f"data.{key}", 1000) for key in ("name", "source", "license"))
    splits = ("train", "validation", "test")
    train, validation, test = (_check.integer(given[key], f"data.{key}", 0, 10**12) for key in splits)
    return DataInfo(name, source, licence, train, validation, test)


def _metrics(value: object, classes: int, rows: int) -> Metrics:
    given = _check.mapping(value, "metrics", list(Metrics.__dataclass_fields__))
    confusion = tuple(
        tuple(
            _check.integer(count, f"metrics.confusion[{i}][{j}]", 0, rows)
            for j, count in enumerate(_check.sequence(row, f"metrics.confusion[{i}]", classes, classes))
        )
        for i, row in enumerate(_check.sequence(given["confusion"], "metrics.confusion", classes, classes))
    )
    accuracy = _check.number(given["test_accuracy"], "metrics.test_accuracy", 0, 1)
    if (total := sum(map(sum, confusion))) != rows:
        raise ValueError(f"metrics.confusion: counts {total} rows, but data.test is {rows}")
    right = sum(confusion[i][i] for i in range(classes))
    if abs(right - accuracy * rows) > 0.5:
        raise ValueError(f"metrics.test_accuracy: {accuracy} is not what metrics.confusion says ({right} of {rows})")
    return Metrics(accuracy, _check.number(given["test_loss"], "metrics.test_loss", 0, 1e6), confusion)


def _training(value: object) -> Training:
    given = _check.mapping(value, "training", list(Training.__dataclass_fields__))
    options = given["options"]
    if not isinstance(options, Mapping) or len(options) > 64:
        raise ValueError("training.options: not an object of at most 64 options")
    for key, option in options.items():
        _check.text(key, "training.options", 64)
        if isinstance(option, str):
            _check.text(option, f"training.options.{key}", 1000)
        elif option is not None and not isinstance(option, bool):
            _check.number(option, f"training.options.{key}")
    return Training(
        command=_check.text(given["command"], "training.command", 2000),
        seed=_check.integer(given["seed"], "training.seed", 0, 2**63 - 1),
        created=_check.text(given["created"], "training.created", 40),
        torch=_check.text(given["torch"], "training.torch", 100),
        options=dict(options),
    )


def _files(value: object) -> Mapping[str, FileInfo]:
    given = _check.mapping(_check.mapping(value, "files", (WEIGHTS,))[WEIGHTS], f"files.{WEIGHTS}", ("sha256", "bytes"))
    digest = given["sha256"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(f"files.{WEIGHTS}.sha256: {_check.show(digest)} is not 64 hexadecimal digits")
    return {WEIGHTS: FileInfo(digest, _check.integer(given["bytes"], f"files.{WEIGHTS}.bytes", 1, MAX_WEIGHTS))}
