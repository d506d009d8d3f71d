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
from ..inspect.anomaly import AnomalyError, detect_anomaly, is_finite
from ..nn import Module
from .measure import Criterion, on

SMALLER = "A smaller learning rate usually helps (minicnn train: --lr, --warmup), or batch norm"
FORWARD = (
    f"{SMALLER}. Clipping the gradients (--clip-norm) helps only where it was they that made the weights so large: "
    "what is infinite on the way forward has no gradient that could be clipped"
)
BACKWARD = f"{SMALLER}, or clipping the gradients before they grow (--clip-norm 1, minicnn.nn.utils.clip_grad_norm_)"
PICTURES = (
    "No learning rate helps against that: look at the images, and at how they are prepared. --non-finite skip leaves "
    "such steps out"
)
LAB = ". 'minicnn lab exploding' shows which remedy saves which run"


def advice(clipped: bool) -> str:
    """What helps where nothing more is known; `clipped`: the norm of the gradients is bounded already."""
    return (SMALLER if clipped else BACKWARD) + LAB


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number. Weights and buffers are as they were before the step that showed it."""


class NonFiniteGradient(NonFiniteLoss):
    """As `NonFiniteLoss`; the loss was finite, and a gradient was not."""


class NonFiniteWeights(NonFiniteLoss):
    """A weight became infinite or not a number by a step, or a buffer (a running variance, say) on the way forward. The
    checkpoints from before are kept."""


def sum_of_gradients(model: Module) -> Any:
    """One number, where the model is: not finite if any gradient is not, and nearly always finite if all are."""
    return _sum([p.grad for p in model.parameters() if p.grad is not None])


def first_bad_gradient(model: Module) -> str | None:
    """The name of the first parameter whose gradient is not finite; None where all are finite."""
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    return _first_bad(gradients)


def sum_of_buffers(model: Module) -> Any:
    """As `sum_of_gradients`, of what layers keep on the way forward."""
    return _sum([array for _, array in _buffers(model)])


def first_bad_buffer(model: Module) -> str | None:
    """The name of the first buffer that is not finite; None where all are."""
    return _first_bad(_buffers(model))


def _buffers(model: Module) -> list[tuple[str, Any]]:
    return [(name, buffer.data) for name, buffer in model.named_buffers() if buffer.dtype.kind == "f"]


def first_bad_weight(model: Module) -> str | None:
    """The name of the first parameter or buffer that is not finite; None where all are."""
    return _first_bad([(name, p.data) for name, p in model.named_parameters()] + _buffers(model))


def _first_bad(arrays: list[tuple[str, Any]]) -> str | None:
    if math.isfinite(float(_sum([array for _, array in arrays]))):
        return None
    for name, array in arrays:
        if not is_finite(array):
            return name
    return None  # finite all of them, only their sum is not


def _sum(arrays: list[Any]) -> Any:
    """An infinity or a NaN stays one, whatever is added; from a device one number has to come."""
    if not arrays:
        return 0.0
    with np.errstate(all="ignore"), backend.beside(arrays[0]):
        return sum(array.sum() for array in arrays)


def locate(
    model: Module, batches: list[tuple[np.ndarray, np.ndarray]], device: str, criterion: Criterion, random: Any,
    clipped: bool,
) -> tuple[str, str]:  # fmt: skip
    """Where the first number that is not finite is made, and what helps: the batches are computed once more.

    Args:
        random: the state that the random generator had before the batches: dropout draws the same masks. It is put
            there again, and afterwards what it was.
        clipped: the norm of the gradients is bounded already, so that this is no advice.

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
        began = f"It began {layer}{what}. "
        finite = np.concatenate([np.isfinite(images).reshape(len(images), -1).all(axis=1) for images, _ in batches])
        if not finite.all():
            where = f"{(~finite).sum()} of the step's {len(finite)}, the first is number {finite.argmin() + 1}"
            return f"{began}The images were not finite to begin with ({where}). ", PICTURES
        return began, FORWARD + LAB if error.direction == "forward" and not clipped else advice(clipped)
    finally:
        generator.state = after
        for p, grad in grads.items():
            p.grad = grad
    return "", advice(clipped)
