"""What is done to gradients between the backward pass and the step, and how long they are."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["limit", "norms"]


def limit(module: nn.Module, clip: float = 0.0, clip_value: float = 0.0, normalize: bool = False) -> None:
    """Change the gradients of ``module`` in place, each way that is not 0 or False, in this order.

    ``clip_value`` cuts off each number at that amount, which can turn the gradient's direction. ``clip`` shortens the
    whole to that norm where it is longer, and keeps its direction: d2l 9.5.3, "Gradient Clipping"; Pascanu, Mikolov
    and Bengio, "On the difficulty of training recurrent neural networks" (2013). ``normalize`` makes the norm 1
    whatever it was, also where gradients have all but vanished: Hazan, Levy and Shalev-Shwartz, "Beyond Convexity:
    Stochastic Quasi-Convex Optimization" (2015).
    """
    if clip_value:
        nn.utils.clip_grad_value_(module.parameters(), clip_value)
    if clip:
        nn.utils.clip_grad_norm_(module.parameters(), clip)
    if normalize:
        gradients = [weights.grad for weights in module.parameters() if weights.grad is not None]
        # A gradient of nothing but zeros has no direction, and stays what it is.
        norm = nn.utils.get_total_norm(gradients).clamp(min=torch.finfo(torch.float32).tiny)
        for gradient in gradients:
            gradient.div_(norm)


def norms(module: nn.Module) -> dict[str, float]:
    """The Euclidean norm of the gradient of each layer's weights (not biases), from the input to the output.

    A layer without a gradient, because it is frozen, is left out.
    """
    return {
        name.removesuffix(".weight"): float(weights.grad.norm())
        for name, weights in module.named_parameters()
        if weights.grad is not None and weights.ndim > 1
    }
