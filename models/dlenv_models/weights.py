"""Weights as bytes in the safetensors format, and back into a module; nothing is ever unpickled."""

from __future__ import annotations

import safetensors
import torch
from safetensors.torch import load, save
from torch import nn

from dlenv_models import zoo
from dlenv_models.manifest import Architecture


def dump(architecture: Architecture, module: nn.Module) -> bytes:
    """The module's state as safetensors; ``ValueError`` where it is not a finite state of that architecture."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    _compare(tensors, _skeleton(architecture).state_dict())
    return bytes(save(tensors))


def restore(architecture: Architecture, data: bytes) -> nn.Module:
    """The module with these weights: eval mode, on the CPU, float32, gradients off.

    Raises ``ValueError`` unless names, shapes and dtypes are exactly the architecture's and every number is finite.
    """
    try:
        tensors = load(data)
    except safetensors.SafetensorError as error:
        reason = ascii(str(error))[1:-1]  # it may quote the file, which may hold control sequences for a terminal
        raise ValueError(f"the weights are not in safetensors format ({reason})") from None
    # The format's own parser lets these two pass; only making the tensors fails.
    except KeyError as error:
        raise ValueError(f"the weights hold numbers of the type {error}, which PyTorch can't load") from None
    except TypeError:
        raise ValueError("the weights hold a tensor with a size beyond 63 bits, which PyTorch can't load") from None
    module = _skeleton(architecture)
    _compare(tensors, module.state_dict())
    module.load_state_dict(tensors, assign=True)
    return module.requires_grad_(False).eval()


def _skeleton(architecture: Architecture) -> nn.Module:
    with torch.device("meta"):  # shapes only: no memory, and the random generator of the caller stays as it is
        return zoo.build(architecture.name, **architecture.arguments)


def _compare(tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    if names := sorted(tensors.keys() ^ wanted.keys()):
        raise ValueError(f"the weights and the architecture don't share {names[0][:100]!r}")
    for name, right in wanted.items():
        tensor = tensors[name]
        if tensor.shape != right.shape or tensor.dtype != right.dtype:
            given, need = (f"{t.dtype} {list(t.shape)}" for t in (tensor, right))
            raise ValueError(f"the weights {name!r} are {given}, but the architecture has {need}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the weights {name!r} hold numbers that are not finite")
