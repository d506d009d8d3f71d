"""How well a network does, what it confuses, and how large its gradients are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import backend, models
from ..backend import Array
from ..engine import Tensor, backward_steps, no_grad
from ..metrics import among_first
from ..nn import Module

Criterion = Callable[[Any, Any], Tensor]  # (what the network returns, labels) → one number, a mean over images


class Evaluation(NamedTuple):
    """How well a network does on a data set."""

    accuracy: float  # 0 to 1
    loss: float  # the mean of the criterion
    predictions: np.ndarray  # (N,), the class with the highest score
    labels: np.ndarray  # (N,)
    top5_error: float | None = None  # 0 to 1, `metrics.topk_error`; None where there are no more than five classes


def evaluate(
    model: Module,
    loader: Iterable[tuple[np.ndarray, np.ndarray]],
    device: str | None = None,
    criterion: Criterion | None = None,
) -> Evaluation:
    """How well `model` does on what `loader` yields, in evaluation mode and without recording gradients.

    Args:
        criterion: as for `fit`.

    Raises:
        ValueError: `loader` yields nothing.
    """
    criterion, device = criterion or models.paper_loss(model), device or device_of(model)
    predictions: list[Array] = []
    answers: list[np.ndarray] = []
    losses: list[Tensor] = []
    five: list[Array | int] = []
    was_training = model.training
    model.eval()
    try:
        with no_grad(), np.errstate(over="ignore", invalid="ignore"):  # the loss says it
            for images, labels in loader:
                answers.append(labels)
                labels = backend.on_both(labels, device)
                outputs = model(on(device, images))
                scores = scores_of(outputs)  # (B, C)
                losses.append(criterion(outputs, labels))
                five.append(in_top_5(scores, labels))
                with backend.beside(scores.data):
                    predictions.append(scores.data.argmax(axis=1))  # (B,)
    finally:
        model.train(was_training)
    if not answers:
        raise ValueError("evaluate: the loader yields no batch")
    with backend.beside(predictions[0]):
        guessed = backend.to_host(backend.array_module(predictions[0]).concatenate(predictions))
    true = np.concatenate(answers)  # host: a loader's labels
    numbers = read(*losses, *five)
    means, in_five = numbers[: len(losses)], sum(numbers[len(losses) :])
    total = sum(mean * len(labels) for mean, labels in zip(means, answers, strict=True))
    top5_error = (len(true) - in_five) / len(true) if has_top_5(scores) else None
    return Evaluation(float((guessed == true).mean()), total / len(true), guessed, true, top5_error)


def device_of(model: Module) -> str:
    """Where its parameters are; one without parameters computes on the host."""
    return next((p.device for p in model.parameters()), backend.CPU)


def on(device: str, images: np.ndarray) -> Tensor:
    return Tensor._of(backend.to_device(images, device))


def scores_of(outputs: Any) -> Tensor:
    """The scores (B, C) that answers are read from: of several outputs, those that are called logits."""
    return getattr(outputs, "logits", outputs)


def read(*values: Any) -> list[float]:
    """What is one number each (Python's, a tensor or an array) as Python's. From a device they come together, in one
    transfer: each wait for a device costs as much as many small operations."""
    found = [value.data if isinstance(value, Tensor) else value for value in values]
    far = [x for x in found if backend.is_array(x) and backend.array_module(x) is not np]
    if far:
        with backend.beside(far[0]):
            place = backend.device_of(far[0])
            together = backend.array_module(far[0]).stack([backend.to_device(x, place).reshape(()) for x in far])
        came = dict(zip(map(id, far), backend.to_host(together).tolist(), strict=True))
        found = [came.get(id(x), x) for x in found]
    return [float(x.item() if backend.is_array(x) else x) for x in found]


def hits(scores: Tensor, labels: np.ndarray) -> Array:
    """How many of the images have their class first: one number, where the scores are."""
    with backend.beside(scores.data):
        return (scores.data.argmax(axis=1) == backend.like(labels, scores.data)).sum()


def has_top_5(scores: Tensor) -> bool:
    """Whether it says anything that a class is among the first five."""
    return scores.ndim == 2 and scores.shape[1] > 5


def in_top_5(scores: Tensor, labels: np.ndarray) -> Array | int:
    """How many of the images have their class among the first five: one number, where the scores are."""
    if not has_top_5(scores):
        return 0
    with backend.beside(scores.data):
        return among_first(scores.data, labels, 5).sum()


# ------------------------------------------------------------------------------------------- looking at results

def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: entry [t, p] is how many of class t were taken for p."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def top_confusions(matrix: np.ndarray, count: int = 5) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (true, predicted, how often), the most frequent first."""
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    found = [(int(i) // len(errors), int(i) % len(errors), int(errors.flat[i])) for i in order]
    return [confusion for confusion in found if confusion[2]]


def gradient_sizes(
    model: Module, images: np.ndarray, labels: np.ndarray, device: str | None = None
) -> dict[str, float]:
    """The root mean square of ∂loss/∂output of each layer, by its path, first layer first; changes nothing.

    Args:
        images, labels: one batch, the loss being that of the network's paper, in evaluation mode.
    """
    was_training = model.training
    model.eval()
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            loss = models.paper_loss(model)(model(on(device or device_of(model), images)), labels)
    finally:
        model.train(was_training)
    sizes: dict[str, float] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # the sizes say it
        for step in backward_steps(loss):
            if step.path:  # the first step of a layer in this order is the one that made its output
                with backend.beside(step.grad_output):
                    sizes.setdefault(step.path, float((step.grad_output**2).mean()) ** 0.5)
    return dict(reversed(sizes.items()))
