"""Losses. Classes lie along axis 1: scores (N, C, *), class indices (N, *), class probabilities (N, C, *).

`reduction` is ``"none"`` (one loss an item), ``"sum"`` or ``"mean"``; the mean of a loss with class weights or
ignored items is the weighted mean, as in PyTorch.
"""

from __future__ import annotations

from math import prod

from ..backend import Array, array_module, is_array
from .activation import log_softmax_forward
from .elementwise import unbroadcast


def _reduce(losses: Array, reduction: str, total_weight) -> Array:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / _or_nan(total_weight)


def _grad_of_losses(grad_output: Array, reduction: str, total_weight) -> Array:
    """The gradient of each item's loss, to be broadcast where the losses were reduced."""
    return grad_output / _or_nan(total_weight) if reduction == "mean" else grad_output


def _or_nan(total_weight):
    """What a mean divides by: NaN for no items, without NumPy's warning of 0/0, and without a GPU's answer."""
    if not is_array(total_weight):
        return total_weight or float("nan")
    return array_module(total_weight).where(total_weight == 0, float("nan"), total_weight)


def _item_weights(input: Array, target: Array, weight: Array | None, ignore_index: int) -> Array:
    """(N, *): the class weight of each item's target, 1 without weights, 0 where the target is ignored."""
    xp = array_module(input)
    kept = target != ignore_index
    per_item = xp.ones_like(input[:, 0]) if weight is None else weight[xp.where(kept, target, 0)]
    return xp.where(kept, per_item, 0)


def _pick(values: Array, target: Array, ignore_index: int) -> Array:
    """(N, *): each item's entry at its target class; 0 where ignored."""
    xp = array_module(values)
    index = xp.where(target == ignore_index, 0, target)
    picked = xp.take_along_axis(values, xp.expand_dims(index, 1), axis=1)[:, 0]
    return xp.where(target == ignore_index, 0, picked)


def _one_hot(input: Array, target: Array) -> Array:
    """(N, C, *) booleans, True at each item's target class."""
    xp = array_module(input)
    classes = xp.arange(input.shape[1], dtype=xp.int64)
    return classes.reshape(-1, *[1] * (input.ndim - 2)) == target[:, None]


def nll_loss_forward(input, target, weight, ignore_index, reduction):
    """−w_y · input_y for log-probabilities `input` (N, C, *)."""
    weights = _item_weights(input, target, weight, ignore_index)  # (N, *)
    losses = -_pick(input, target, ignore_index) * weights
    return _reduce(losses, reduction, weights.sum()), (input, weights)


def nll_loss_backward(grad_output, saved, needs, target, weight, ignore_index, reduction):
    input, weights = saved
    grad = _grad_of_losses(grad_output, reduction, weights.sum()) * -weights  # (N, *)
    grad = array_module(input).where(target == ignore_index, 0, grad)  # even where all are and grad is NaN
    return (array_module(input).where(_one_hot(input, target), grad[:, None], 0),)


def cross_entropy_forward(input, target, weight, ignore_index, reduction, label_smoothing):
    """Softmax and negative log-likelihood in one: −w_y · log p_y, and with smoothing ε
    (1 − ε) · that − ε/C · Σ_c w_c log p_c (Szegedy et al. 2016, section 7)."""
    xp = array_module(input)
    log_p, _ = log_softmax_forward(input, dim=1)  # (N, C, *)
    weights = _item_weights(input, target, weight, ignore_index)  # (N, *)
    losses = -_pick(log_p, target, ignore_index) * weights  # (N, *)
    if label_smoothing:
        spread = -(log_p * _class_weights(input, weight)).sum(axis=1)  # (N, *)
        spread = xp.where(target == ignore_index, 0, spread)
        losses = (1 - label_smoothing) * losses + label_smoothing / input.shape[1] * spread
    return _reduce(losses, reduction, weights.sum()), (log_p, weights)


def cross_entropy_backward(grad_output, saved, needs, target, weight, ignore_index, reduction, label_smoothing):
    """∂L/∂z_c = p_c Σ_k t_k − t_c with the weighted, smoothed target t: without either, p − y."""
    log_p, weights = saved
    xp = array_module(log_p)
    wanted = xp.where(_one_hot(log_p, target), weights[:, None], 0)  # (N, C, *)
    if label_smoothing:
        spread = label_smoothing / log_p.shape[1] * _class_weights(log_p, weight)
        wanted = (1 - label_smoothing) * wanted + spread
    grad = _grad_of_losses(grad_output, reduction, weights.sum())
    if reduction == "none":
        grad = grad[:, None]
    wanted = xp.where(target[:, None] == ignore_index, 0, grad * wanted)  # even where all are ignored and grad is NaN
    return (xp.exp(log_p) * wanted.sum(axis=1, keepdims=True) - wanted,)


def soft_cross_entropy_forward(input, target, weight, reduction, label_smoothing):
    """−Σ_c w_c t_c log p_c for class probabilities `target` (N, C, *); the mean is over items, unweighted."""
    log_p, _ = log_softmax_forward(input, dim=1)
    smoothed = _smoothed(target, weight, label_smoothing)  # (N, C, *)
    losses = -(smoothed * log_p).sum(axis=1)  # (N, *)
    return _reduce(losses, reduction, prod(losses.shape)), (log_p, smoothed)


def soft_cross_entropy_backward(grad_output, saved, needs, weight, reduction, label_smoothing):
    log_p, smoothed = saved
    grad = _grad_of_losses(grad_output, reduction, prod(log_p.shape) // log_p.shape[1])
    if reduction == "none":
        grad = grad[:, None]
    grad_input = grad_target = None
    if needs[0]:
        p = array_module(log_p).exp(log_p)
        grad_input = grad * (p * smoothed.sum(axis=1, keepdims=True) - smoothed)
    if needs[1]:
        grad_target = grad * (label_smoothing - 1) * _class_weights(log_p, weight) * log_p
    return grad_input, grad_target


def _smoothed(target: Array, weight: Array | None, label_smoothing: float) -> Array:
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing / target.shape[1]
    return target * _class_weights(target, weight)


def _class_weights(input: Array, weight: Array | None) -> Array | int:
    """`weight` (C,) shaped to broadcast against (N, C, *)."""
    return 1 if weight is None else weight.reshape(-1, *[1] * (input.ndim - 2))


def mse_loss_forward(input, target, reduction):
    """(x − t)², entry by entry; differentiable in both."""
    difference = input - target
    return _reduce(difference * difference, reduction, difference.size), (difference, input.shape, target.shape)


def mse_loss_backward(grad_output, saved, needs, reduction):
    difference, input_shape, target_shape = saved
    grad = 2 * _grad_of_losses(grad_output, reduction, difference.size) * difference
    return unbroadcast(grad, input_shape) if needs[0] else None, unbroadcast(-grad, target_shape) if needs[1] else None
