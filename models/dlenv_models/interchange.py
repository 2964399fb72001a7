"""Models out of dlenv, as ONNX or as an exported PyTorch program, and weights of one's own into it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import nn

from dlenv.errors import DlenvError, ModelInvalid, UsageError
from dlenv_models import weights, zoo
from dlenv_models.architectures import parameters
from dlenv_models.manifest import Architecture

__all__ = ["FORMATS", "TOLERANCE", "export", "imported"]

Rows = torch.Tensor
Answer = tuple[torch.Tensor, torch.Tensor]
Program = Callable[[Rows], Answer]

# How far a probability may be from the original's: the service's bound between its engines (dlenv_service.onnx_engine).
TOLERANCE = 1e-5
EXAMPLE_ROWS = 2  # 0 and 1 rows are special to PyTorch's exporter
CHECKED = (1, 2, 7)  # rows in a batch


def export(program: nn.Module, rows: Rows, kind: str, target: Path) -> float:
    """Write ``program`` (raw rows to probabilities and labels) to ``target`` as ``kind``, one of :data:`FORMATS`.

    What was written is read again by the other runtime and asked about the first of ``rows`` (at least 7), in batches
    of 1, 2 and 7. Returns how far a probability is off at most. The file appears whole and checked, or not at all.

    Raises ``DlenvError`` where the answers differ by more than :data:`TOLERANCE`, ``UsageError`` where the file can't
    be written.
    """
    write, read = FORMATS[kind]
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about their own workings
            write(program.eval(), rows[:EXAMPLE_ROWS], scratch)
            off = _difference(program, read(scratch), rows)
        if not off <= TOLERANCE:  # nor where it is no number
            raise DlenvError(f"the exported model's probabilities are {off:.1e} off, so it was not kept")
        scratch.replace(target)
    except OSError as error:
        raise UsageError(f"{target} can't be written ({error.strerror}); choose another by --output") from None
    finally:
        if scratch.exists():
            scratch.unlink()
    return off


def _difference(program: nn.Module, exported: Program, rows: Rows) -> float:
    off = 0.0
    with torch.inference_mode():
        for count in CHECKED:
            (wanted, labels), (given, called) = program(rows[:count]), exported(rows[:count])
            off = max(off, float((wanted - given).abs().max()))
            chosen = wanted.gather(1, called.view(-1, 1))  # another label only where both are as likely
            off = max(off, float((wanted.gather(1, labels.view(-1, 1)) - chosen).max()))
    return off


def _write_onnx(program: nn.Module, example: Rows, path: Path) -> None:
    exported = torch.onnx.export(
        program,
        (example,),
        input_names=["input"],
        output_names=["probabilities", "label"],
        dynamic_shapes=({0: torch.export.Dim("count", min=1)},),
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    exported.save(path)


def _read_onnx(path: Path) -> Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(rows: Rows) -> Answer:
        probabilities, labels = session.run(None, {"input": rows.numpy()})
        return torch.from_numpy(probabilities), torch.from_numpy(labels)

    return run


def _write_program(program: nn.Module, example: Rows, path: Path) -> None:
    dynamic = ({0: torch.export.Dim("count", min=1)},)
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(torch.export.export(program, (example,), dynamic_shapes=dynamic), file)


def _read_program(path: Path) -> Program:
    with path.open("rb") as file:
        module: Program = torch.export.load(file).module()
    return module


FORMATS: Mapping[str, tuple[Callable[[nn.Module, Rows, Path], None], Callable[[Path], Program]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "torch-export": (_write_program, _read_program),
}


def imported(path: Path, architecture: Architecture) -> tuple[nn.Module, dict[str, str]]:
    """The architecture with the weights of a safetensors file, and which tensor of the file was taken for which.

    The names may be others than dlenv's, such as ``net.1.weight``: then the tensors, in the order of their names and
    with weights before biases, must have the shapes of the architecture's, one by one.

    Raises ``UsageError`` where the file can't be read, ``ModelInvalid`` where it doesn't fit.
    """
    limit = 16 * parameters(architecture.name, architecture.arguments) + 2**20  # float64, and as much again
    try:
        if (size := path.stat().st_size) > limit:
            raise ModelInvalid(
                f"{path} has {size:,} bytes, far more than {architecture.name} with these arguments takes"
            )
        tensors = load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        reason = ascii(str(error))[1:-1]
        raise ModelInvalid(
            f"{path} is not in safetensors format ({reason}); "
            "write it by safetensors.torch.save_file(net.state_dict(), ...)"
        ) from None
    with torch.device("meta"):
        wanted = zoo.build(architecture.name, **architecture.arguments).state_dict()
    taken = {name: name for name in wanted} if tensors.keys() == wanted.keys() else _by_order(tensors, wanted, path)
    try:
        module = weights.restore(architecture, save({name: tensors[given] for name, given in taken.items()}))
    except ValueError as error:
        raise ModelInvalid(f"{path} does not fit {architecture.name}: {error}") from None
    return module, {given: name for name, given in taken.items() if given != name}


# In the order in which PyTorch's layers hold them.
_PARTS = (
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    *("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
)


def _by_order(tensors: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> dict[str, str]:
    """For each name of the architecture the tensor of the file that takes its place in the order."""

    def place(name: str) -> tuple[list[tuple[bool, int, str]], int]:
        *layer, part = name.split(".")
        numbered = [(each.isdecimal(), int(each) if each.isdecimal() else 0, each) for each in _words(layer)]
        return numbered, _PARTS.index(part) if part in _PARTS else len(_PARTS)

    given = sorted(tensors, key=place)
    shapes, right = ([list(each[name].shape) for name in names] for each, names in ((tensors, given), (wanted, wanted)))
    if shapes != right:
        raise ModelInvalid(
            f"{path} holds tensors of the shapes {_short(shapes)}, but the architecture has {_short(right)}; give its "
            f"arguments, such as --hidden, or the tensors its names: {', '.join(wanted)[:300]}"
        )
    return dict(zip(wanted, given, strict=True))


def _words(layer: Sequence[str]) -> list[str]:
    """``["fc10"]`` as ``["fc", "10"]``, so that it comes after ``fc9``."""
    return [word for part in layer for word in re.findall(r"\d+|\D+", part)]


def _short(shapes: Sequence[Sequence[int]]) -> str:
    text = ", ".join(str(list(shape)) for shape in shapes)
    return text if len(text) <= 300 else f"{text[:300]}..."
