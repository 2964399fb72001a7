"""From a model of the repository to an engine that is warm."""

from __future__ import annotations

import logging

import numpy as np
import psutil
import torch

from dlenv.errors import ModelInvalid
from dlenv_models.architectures import largest_activation, parameters
from dlenv_models.manifest import Manifest
from dlenv_models.repository import LoadedModel
from dlenv_service.batcher import Array
from dlenv_service.config import Settings
from dlenv_service.engine import CpuEngine, CudaEngine, Engine, classify
from dlenv_service.onnx_engine import sample
from dlenv_service.tensors import DTYPES, Signature

__all__ = ["signature_of", "warm_engine"]

log = logging.getLogger("dlenv.service")

# Rows of the self-test, and how far from eager float32 a probability may be: kernels sum in different orders.
TESTED = 2
TOLERANCE = 1e-3


def signature_of(manifest: Manifest, max_rows: int) -> Signature:
    """What a model takes and gives, in requests of up to ``max_rows``.

    Raises:
        ModelInvalid: it takes what this service does not serve.
    """
    tensor = manifest.inputs[0]
    if tensor.datatype not in DTYPES:
        raise ModelInvalid(f"model {manifest.name!r} takes {tensor.datatype}, which this service does not serve")
    outputs = (manifest.outputs[0].name, manifest.outputs[1].name)
    return Signature(manifest.name, tensor.name, tensor.datatype, tuple(tensor.shape[1:]), outputs, max_rows)


def warm_engine(model: LoadedModel, signature: Signature, settings: Settings, device: torch.device) -> Engine:
    """PyTorch's engine for a model, warmed up.

    Raises:
        ModelInvalid: the device has no memory for it, its first batch fails there, or it answers what it should not.
    """
    prepare = model.manifest.preprocessing
    module = classify(model.module, signature.shape, prepare.scale, prepare.mean, prepare.std)
    kind = CudaEngine if device.type == "cuda" else CpuEngine
    torch.set_num_threads(settings.threads)  # a setting of each thread's own
    _check_memory(model.manifest, settings.max_batch, device)
    try:
        rows = sample(signature.shape, signature.dtype, min(TESTED, settings.max_batch))
        with torch.inference_mode():
            wanted = module.eval()(torch.from_numpy(rows))[0].numpy()
        engine: Engine = kind(module, signature.shape, signature.dtype, settings.max_batch)
        engine.warm_up()
        got = engine.run([rows], len(rows))[0].probabilities
    except RuntimeError as error:  # PyTorch's own, out of memory included
        log.debug("%s failed its warm-up", signature.model, exc_info=True)
        reason = str(error).partition("\n")[0]
        raise ModelInvalid(
            f"its first batches of up to {settings.max_batch} rows failed on {device} ({reason}); "
            "lower --max-batch or use another --device"
        ) from None
    _self_test(got, wanted, device)
    return engine


def _self_test(got: Array, wanted: Array, device: torch.device) -> None:
    """Refuse a model whose answers are no probabilities, or not those of PyTorch on the CPU.

    Raises:
        ModelInvalid: with how far off they are.
    """
    if not np.isfinite(wanted).all():
        raise ModelInvalid("its answers to ordinary rows are no numbers: its weights overflow; train it again")
    off = float(np.abs(got - wanted).max())
    if not off <= TOLERANCE:
        raise ModelInvalid(f"on {device} its probabilities are off by {off:.2g} from PyTorch's on a CPU")


def _check_memory(manifest: Manifest, max_batch: int, device: torch.device) -> None:
    """Refuse a model whose largest batch would not fit into what is free now.

    On a CPU nothing else would: Linux promises more memory than there is, and ends the process that uses it.

    Raises:
        ModelInvalid: with how much it needs and how much there is.
    """
    architecture = manifest.architecture
    row = largest_activation(architecture.name, architecture.arguments)
    weights = parameters(architecture.name, architecture.arguments)
    # Float32; three such tensors are there at the same time in a residual block: input, output and shortcut.
    needed = 4 * (3 * row * max_batch + weights)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ModelInvalid(
            f"batches of {max_batch} rows need about {needed >> 20} MiB, and {free >> 20} MiB are free on {device}; "
            "lower --max-batch"
        )
