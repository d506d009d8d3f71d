"""Adam, and AdamW, which differ in where the weight decay goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import array_module
from .optimizer import Optimizer, buffer, in_blocks, number


class Adam(Optimizer):
    """Adam: steps of about `lr` for each weight, from running means of its gradient and of the gradient's square.

    Kingma & Ba 2015, "Adam: a method for stochastic optimization", Algorithm 1; `amsgrad` after Reddi, Kale & Kumar
    2018, "On the convergence of Adam and beyond", Algorithm 2, with PyTorch's order: the largest uncorrected v is
    kept, and corrected for its bias afterwards.

    Args:
        params: the parameters, or groups of them; see `Optimizer`.
        lr: the paper's α.
        betas: how much of the two running means each step keeps, β₁ and β₂.
        eps: added to the root of the mean square.
        weight_decay: λ; λ·w is added to the gradient and so passes through both means (`AdamW` keeps it out of them).
        amsgrad: divide by the largest mean square so far, not by the present one.
        maximize: climb instead of descending.

    Raises:
        ValueError: `lr`, `eps` or `weight_decay` is negative; one of `betas` is not in [0, 1).
    """

    decoupled = False  # whether weight decay stays out of the gradient

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def check(self, options):
        for option in ("lr", "eps", "weight_decay"):
            number(self.name, options, option, least=0)
        number(self.name, options, "betas", least=0, below=1)
        if not isinstance(options["betas"], tuple) or len(options["betas"]) != 2:
            raise ValueError(f"{self.name}: betas is {options['betas']}, and must be two numbers, as in (0.9, 0.999)")

    def update(self, weights, gradient, state, *, lr, betas, eps, weight_decay, amsgrad, maximize):
        # Line by line as in Loshchilov & Hutter 2019, Algorithm 2, which prints Adam and AdamW side by side.
        xp = array_module(weights)
        beta1, beta2 = betas
        t = state["step"] = state.get("step", 0) + 1
        mean, mean_square = buffer(state, "exp_avg", weights), buffer(state, "exp_avg_sq", weights)
        largest = buffer(state, "max_exp_avg_sq", weights) if amsgrad else None

        def rule(w, g, m, v, v_max):
            if maximize:
                g = -g
            if weight_decay and not self.decoupled:
                g = g + weight_decay * w  # ∇(L + λ/2·|w|²)
            m *= beta1
            m += (1 - beta1) * g  # m ← β₁·m + (1 − β₁)·g
            v *= beta2
            v += (1 - beta2) * (g * g)  # v ← β₂·v + (1 − β₂)·g²
            if amsgrad:
                v = xp.maximum(v_max, v, out=v_max)
            m_hat = m / (1 - beta1**t)  # both began at 0, which pulls the first means down
            v_hat = v / (1 - beta2**t)
            if weight_decay and self.decoupled:
                w *= 1 - lr * weight_decay  # w ← w − lr·λ·w
            w -= lr * (m_hat / (xp.sqrt(v_hat) + eps))  # w ← w − lr·m̂ / (√v̂ + ε)

        in_blocks(rule, weights, gradient, mean, mean_square, largest)


class AdamW(Adam):
    """Adam whose weight decay is decoupled from the gradient: each step shrinks every weight by the same factor.

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", Algorithm 2. As in PyTorch the factor is
    1 − lr·λ; the paper's λ is not multiplied by the base rate α but only by the schedule.

    Arguments, defaults and errors are `Adam`'s, but for ``weight_decay=0.01``.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
