"""When a loss or a gradient is not finite: where it began, and what helps.

The advice is what the gradient lab measured (`minicnn lab exploding`): smaller steps and batch norm save most runs,
clipping by norm those whose gradients explode. What is infinite on the way forward has no gradient that could be
clipped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..engine import Tensor
from ..inspect.anomaly import AnomalyError, detect_anomaly
from ..nn import Module
from .measure import Criterion, on

FORWARD = (
    "A smaller learning rate usually helps (minicnn train: --lr, --warmup), or batch norm. Clipping the gradients "
    "(--clip-norm) helps only where it was they that made the weights so large: what is infinite on the way forward "
    "has no gradient that could be clipped"
)
BACKWARD = (
    "A smaller learning rate usually helps (minicnn train: --lr, --warmup), or clipping the gradients before they grow "
    "(minicnn.nn.utils.clip_grad_norm_; --clip-norm 1), or batch norm"
)
EITHER = "A smaller learning rate usually helps, or clipping the gradients (minicnn.nn.utils.clip_grad_norm_)"
LAB = "'minicnn lab exploding' shows which remedy saves which run"


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number. The weights are as they were before the batch that showed it."""


class NonFiniteGradient(NonFiniteLoss):
    """As `NonFiniteLoss`; the loss was finite, and a gradient was not."""


class NonFiniteWeights(NonFiniteLoss):
    """A step made a weight infinite or not a number. The checkpoints from before are kept."""


def first_bad_gradient(model: Module) -> str | None:
    """The name of the first parameter whose gradient is not finite; None where all are finite."""
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    return _first_bad(gradients)


def first_bad_weight(model: Module) -> str | None:
    """The name of the first parameter or buffer that is not finite; None where all are."""
    tensors = [(name, p.data) for name, p in model.named_parameters()]
    return _first_bad(tensors + [(name, b.data) for name, b in model.named_buffers() if b.dtype.kind == "f"])


def _first_bad(arrays: list[tuple[str, Any]]) -> str | None:
    if not arrays:
        return None
    with np.errstate(all="ignore"):
        total = sum(array.sum() for _, array in arrays)  # an infinity or a NaN stays one; from a GPU one number comes
        if math.isfinite(float(total)):
            return None
    for name, array in arrays:
        if not bool(backend.array_module(array).isfinite(array).all()):
            return name
    return None  # finite all of them, only their sum is not


def locate(
    model: Module, batches: list[tuple[np.ndarray, np.ndarray]], device: str, criterion: Criterion, random: Any
) -> tuple[str, str]:
    """Where the first number that is not finite is made, and what helps: the batches are computed once more.

    Args:
        random: the state that the random generator had before the batches: dropout draws the same masks. It is put
            there again, and afterwards what it was.

    Returns:
        Two sentences, the first of them empty where nothing was found.
    """
    generator = backend.generator().bit_generator
    after = generator.state
    grads = {p: p.grad for p in model.parameters()}
    try:
        generator.state = random
        with detect_anomaly(), np.errstate(all="ignore"):
            for images, labels in batches:
                loss: Tensor = criterion(model(on(device, images)), labels)
                loss.backward()
    except AnomalyError as error:
        what = str(error).partition("\n")[0]
        layer = f"in {error.node.path}: " if error.node.path else ""
        return f"It began {layer}{what}. ", FORWARD if error.direction == "forward" else BACKWARD
    finally:
        generator.state = after
        for p, grad in grads.items():
            p.grad = grad
    return "", EITHER
