"""From a model of the repository to an engine that is warm."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import psutil
import torch

from dlenv.errors import ModelInvalid
from dlenv_models.architectures import largest_activation, parameters
from dlenv_models.manifest import Manifest, Preprocessing
from dlenv_models.repository import LoadedModel
from dlenv_service.batcher import Answer, Array
from dlenv_service.config import Settings
from dlenv_service.engine import CpuEngine, CudaEngine, Engine, classify, reconstruct
from dlenv_service.onnx_engine import sample
from dlenv_service.tensors import DTYPES, Signature

__all__ = ["Engines", "signature_of", "warm_engines"]

log = logging.getLogger("dlenv.service")

# Rows of the self-test, and how far from eager float32 a probability may be: kernels sum in different orders.
TESTED = 2
TOLERANCE = 1e-3


class Engines(NamedTuple):
    """What runs a model, and the device memory that it takes."""

    classifier: Engine
    reconstructor: Engine | None  # where the model gives reconstructions
    memory_bytes: int


def signature_of(manifest: Manifest, max_rows: int, max_body_bytes: int | None = None) -> Signature:
    """What a model takes and gives, in requests of up to ``max_rows``.

    ``max_body_bytes``: as large may the reconstructions of one answer be; of one row there may always be one.

    Raises:
        ModelInvalid: it takes what this service does not serve.
    """
    tensor = manifest.inputs[0]
    if tensor.datatype not in DTYPES:
        raise ModelInvalid(f"model {manifest.name!r} takes {tensor.datatype}, which this service does not serve")
    probabilities, label, *more = (output.name for output in manifest.outputs)
    shape = tuple(tensor.shape[1:])
    plain = Signature(manifest.name, tensor.name, tensor.datatype, shape, (probabilities, label), max_rows)
    if not more:
        return plain
    most = max_rows if max_body_bytes is None else min(max_rows, max_body_bytes // (4 * plain.row_size))
    return replace(plain, reconstruction=more[0], max_reconstructions=max(1, most))


def warm_engines(model: LoadedModel, signature: Signature, settings: Settings, device: torch.device) -> Engines:
    """PyTorch's engines for a model, warmed up.

    Raises:
        ModelInvalid: the device has no memory for it, its first batch fails there, or it answers what it should not.
    """
    prepare = model.manifest.preprocessing
    kinds = (classify, reconstruct) if signature.reconstruction else (classify,)
    programs = [kind(model.module, signature.shape, prepare.scale, prepare.mean, prepare.std).eval() for kind in kinds]
    on_gpu = device.type == "cuda"
    engine_kind = CudaEngine if on_gpu else CpuEngine
    torch.set_num_threads(settings.threads)  # a setting of each thread's own
    _check_memory(model.manifest, settings.max_batch, device, engines=len(programs))
    rows = sample(signature.shape, signature.dtype, min(TESTED, settings.max_batch))
    try:
        with torch.inference_mode():  # all of them before the first is moved to the device: they share the weights
            wanted = [[output.numpy() for output in program(torch.from_numpy(rows))] for program in programs]
        engines: list[Engine] = []
        answers = []
        for program in programs:
            engine = engine_kind(program, signature.shape, signature.dtype, settings.max_batch)
            engine.warm_up()
            engines.append(engine)
            answers.append(engine.run([rows], len(rows))[0])
    except RuntimeError as error:  # PyTorch's own, out of memory included
        log.debug("%s failed its warm-up", signature.model, exc_info=True)
        reason = str(error).partition("\n")[0]
        raise ModelInvalid(
            f"its first batches of up to {settings.max_batch} rows failed on {device} ({reason}); "
            "lower --max-batch or use another --device"
        ) from None
    for got, right in zip(answers, wanted, strict=True):
        _self_test(got, right, prepare, device)
    # On a CPU both have the same weights; on a GPU the second one's memory is what it took beside those.
    memory = sum(engine.memory_bytes for engine in engines) if on_gpu else engines[0].memory_bytes
    return Engines(engines[0], engines[1] if signature.reconstruction else None, memory)


def _self_test(got: Answer, wanted: list[Array], prepare: Preprocessing, device: torch.device) -> None:
    """Refuse a model whose answers are no probabilities, or not those of PyTorch on the CPU.

    Raises:
        ModelInvalid: with how far off they are.
    """
    probabilities, _, *made = wanted
    if not all(np.isfinite(each).all() for each in (probabilities, *made)):
        raise ModelInvalid("its answers to ordinary rows are no numbers: its weights overflow; train it again")
    off = float(np.abs(got.probabilities - probabilities).max())
    if not off <= TOLERANCE:
        raise ModelInvalid(f"on {device} its probabilities are off by {off:.2g} from PyTorch's on a CPU")
    if made:
        assert got.reconstructions is not None
        off = float(np.abs(got.reconstructions - made[0]).max()) * prepare.scale / max(prepare.std)
        if not off <= TOLERANCE:
            raise ModelInvalid(f"on {device} its reconstructions are off by {off:.2g} from PyTorch's on a CPU")


def _check_memory(manifest: Manifest, max_batch: int, device: torch.device, engines: int = 1) -> None:
    """Refuse a model whose largest batch would not fit into what is free now, on each of its engines.

    On a CPU nothing else would: Linux promises more memory than there is, and ends the process that uses it.

    Raises:
        ModelInvalid: with how much it needs and how much there is.
    """
    architecture = manifest.architecture
    row = largest_activation(architecture.name, architecture.arguments)
    weights = parameters(architecture.name, architecture.arguments)
    # Float32; three such tensors are there at the same time in a residual block: input, output and shortcut.
    needed = 4 * (3 * row * max_batch * engines + weights)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ModelInvalid(
            f"batches of {max_batch} rows need about {needed >> 20} MiB, and {free >> 20} MiB are free on {device}; "
            "lower --max-batch"
        )
