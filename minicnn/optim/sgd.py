"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .optimizer import Optimizer, buffer, in_blocks, number


class SGD(Optimizer):
    """Stochastic gradient descent, plain, with momentum, or with Nesterov's.

    The convention is PyTorch's: v ← μ·v + g, w ← w − lr·v. Two papers put the learning rate inside the velocity:

    - Sutskever, Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning",
      equations 1 to 4: v ← μ·v − lr·g, w ← w + v;
    - Krizhevsky, Sutskever & Hinton 2012 (AlexNet), section 5: v ← 0.9·v − 0.0005·lr·w − lr·g, w ← w + v.

    At a constant learning rate the weights are the same (the papers' v is −lr times this one). Where the rate is
    cut, the papers' velocity still carries the old one for some steps; here the new one applies at once.

    Args:
        params: the parameters, or groups of them; see `Optimizer`.
        lr: the learning rate.
        momentum: μ. The velocity begins with the first gradient, not with zeros.
        dampening: the share of each gradient, after the first, that the velocity does not take in.
        weight_decay: λ; λ·w is added to the gradient, which is that of λ/2·|w|².
        nesterov: look ahead by one more step of momentum.
        maximize: climb instead of descending.

    Raises:
        ValueError: `lr`, `momentum` or `weight_decay` is negative; `nesterov` without momentum or with dampening.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def check(self, options):
        for option in ("lr", "momentum", "weight_decay"):
            number("SGD", options, option, least=0)
        number("SGD", options, "dampening")
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                f"SGD: nesterov=True with momentum={options['momentum']} and dampening={options['dampening']}: "
                "Nesterov's needs momentum above 0 and dampening 0"
            )

    def update(self, weights, gradient, state, *, lr, momentum, dampening, weight_decay, nesterov, maximize):
        first = "momentum_buffer" not in state
        velocity = buffer(state, "momentum_buffer", weights) if momentum else None

        def rule(w, g, v):
            if maximize:
                g = -g
            if weight_decay:
                g = g + weight_decay * w  # ∇(L + λ/2·|w|²)
            if momentum:
                v *= momentum
                v += g if first or not dampening else (1 - dampening) * g  # v ← μ·v + (1 − τ)·g
                g = g + momentum * v if nesterov else v
            w -= lr * g  # w ← w − lr·g

        in_blocks(rule, weights, gradient, velocity)
