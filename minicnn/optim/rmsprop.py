"""RMSprop: divide each gradient by a running root mean square of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import array_module
from .optimizer import Optimizer, buffer, in_blocks, number


class RMSprop(Optimizer):
    """RMSprop.

    Tieleman & Hinton 2012, "Neural Networks for Machine Learning", lecture 6e; `centered` and `momentum` after
    Graves 2013, "Generating sequences with recurrent neural networks", equations 38 to 41 (whose ε stands under the
    root; PyTorch's, and this one, beside it).

    Args:
        params: the parameters, or groups of them; see `Optimizer`.
        lr: the learning rate.
        alpha: how much of the running means each step keeps.
        eps: added to the root mean square.
        weight_decay: λ; λ·w is added to the gradient.
        momentum: of the divided gradients.
        centered: divide by the gradient's standard deviation, not by its root mean square. Rounding can make a
            variance a little negative: it counts as 0 here, where PyTorch's weights become NaN.
        maximize: climb instead of descending.

    Raises:
        ValueError: `lr`, `alpha`, `eps`, `weight_decay` or `momentum` is negative.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**options, "centered": centered, "maximize": maximize})

    def check(self, options):
        for option in ("lr", "alpha", "eps", "weight_decay", "momentum"):
            number("RMSprop", options, option, least=0)

    def update(self, weights, gradient, state, *, lr, alpha, eps, weight_decay, momentum, centered, maximize):
        xp = array_module(weights)
        state["step"] = state.get("step", 0) + 1
        mean_square = buffer(state, "square_avg", weights)
        mean = buffer(state, "grad_avg", weights) if centered else None
        velocity = buffer(state, "momentum_buffer", weights) if momentum else None

        def rule(w, g, n, m, v):
            if maximize:
                g = -g
            if weight_decay:
                g = g + weight_decay * w  # ∇(L + λ/2·|w|²)
            n *= alpha
            n += (1 - alpha) * (g * g)  # n ← α·n + (1 − α)·g²
            variance = n
            if centered:
                m *= alpha
                m += (1 - alpha) * g  # m ← α·m + (1 − α)·g
                variance = xp.maximum(n - m * m, 0)
            step = g / (xp.sqrt(variance) + eps)
            if momentum:
                v *= momentum
                v += step  # v ← μ·v + g / (√n + ε)
                step = v
            w -= lr * step

        in_blocks(rule, weights, gradient, mean_square, mean, velocity)
