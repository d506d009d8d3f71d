"""Losses against their formulas on Python's floats, one item at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .helpers import assert_close, complex_step, drawn, dtypes, each_implementation, implementations, normal, run, seeds

IGNORED = -100
reductions = st.sampled_from(["none", "sum", "mean"])
each_cross_entropy, each_nll = map(each_implementation, ("cross_entropy", "nll_loss"))


@st.composite
def classifications(draw):
    """(scores, classes, class weights or None, reduction); some items ignored, but never all."""
    place = draw(st.lists(st.integers(1, 2), max_size=2))
    items, classes = (draw(st.integers(1, 3)), *place), draw(st.integers(1, 4))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    scores = 2 * normal(rng, (items[0], classes, *place)).astype(dtype)
    target = rng.integers(0, classes, items)
    target[rng.random(items) < 0.25] = IGNORED
    target.flat[0] = 0
    weight = draw(st.sampled_from([None, (0.1 + rng.random(classes)).astype(dtype)]))
    return scores, target, weight, draw(reductions)


def arguments(name: str, target, reduction: str, weight=None, label_smoothing: float = 0.0) -> dict[str, Any]:
    """The params of ``"cross_entropy"``, and those of them that ``"nll_loss"`` has."""
    params = {"target": target, "weight": weight, "ignore_index": IGNORED, "reduction": reduction}
    return params | ({"label_smoothing": label_smoothing} if name == "cross_entropy" else {})


def reduced(losses: dict[tuple, float], shape, reduction: str, total_weight: float):
    if reduction == "none":
        return np.array([losses.get(at, 0.0) for at in np.ndindex(shape)]).reshape(shape)
    return math.fsum(losses.values()) / (total_weight if reduction == "mean" else 1.0)


def loss_oracle(log_probabilities, target, weight, reduction, label_smoothing=0.0):
    """−log p of the target class, mixed with the average −log p of all classes; `log_probabilities` one item."""
    losses, total_weight, classes = {}, 0.0, None
    for at in np.ndindex(target.shape):
        if target[at] != IGNORED:
            log_p, y = log_probabilities(at), int(target[at])
            classes = len(log_p)
            w = [1.0] * classes if weight is None else weight.tolist()
            total_weight += w[y]
            even = math.fsum(w[c] * log_p[c] for c in range(classes)) / classes
            losses[at] = -(1 - label_smoothing) * w[y] * log_p[y] - label_smoothing * even
    return reduced(losses, target.shape, reduction, total_weight)


def item(scores: np.ndarray, at: tuple) -> list[float]:
    """The scores of one item: classes lie along axis 1."""
    return scores[(at[0], slice(None), *at[1:])].tolist()


def log_softmax(x: list[float]) -> list[float]:
    total = math.fsum(math.exp(v) for v in x)
    return [math.log(math.exp(v) / total) for v in x]


@drawn
@given(classifications(), st.sampled_from([0.0, 0.1, 1.0]), seeds)
def test_cross_entropy(case, label_smoothing, seed):
    scores, target, weight, reduction = case
    expected = loss_oracle(lambda at: log_softmax(item(scores, at)), target, weight, reduction, label_smoothing)
    params = arguments("cross_entropy", target, reduction, weight, label_smoothing)
    runs = [run(pair, (scores,), seed=seed, **params) for pair in implementations("cross_entropy").values()]
    for result in runs:
        assert_close(result.output, np.asarray(expected).astype(scores.dtype))
        assert_close(result.grads[0], runs[0].grads[0])


@drawn
@given(classifications(), seeds)
def test_cross_entropy_gradient_is_p_minus_y(case, seed):
    """Times the item's weight, and over the sum of the weights for the mean; nothing for an item ignored."""
    scores, target, weight, reduction = case
    params = arguments("cross_entropy", target, reduction, weight)
    total = sum(1.0 if weight is None else float(weight[y]) for y in target.ravel() if y != IGNORED)
    for pair in implementations("cross_entropy").values():
        result = run(pair, (scores,), seed=seed, **params)
        grad = np.zeros(scores.shape)
        for at in np.ndindex(target.shape):
            if (y := target[at]) != IGNORED:
                factor = result.grad_output[at] if reduction == "none" else result.grad_output
                factor = factor * (1.0 if weight is None else weight[y]) / (total if reduction == "mean" else 1)
                p = [math.exp(v) for v in log_softmax(item(scores, at))]
                grad[(at[0], slice(None), *at[1:])] = [factor * (p[c] - (c == y)) for c in range(len(p))]
        assert_close(result.grads[0], grad.astype(scores.dtype))


@drawn
@given(classifications(), seeds)
def test_nll_loss(case, seed):
    scores, target, weight, reduction = case
    params = arguments("nll_loss", target, reduction, weight)
    expected = loss_oracle(lambda at: item(scores, at), target, weight, reduction)
    for pair in implementations("nll_loss").values():
        result = run(pair, (scores,), seed=seed, **params)
        assert_close(result.output, np.asarray(expected).astype(scores.dtype))
        # Linear in the scores, so its value is ⟨gradient, scores⟩.
        assert_close(np.sum(result.grads[0] * scores), np.sum(result.grad_output * result.output))
        for at in np.ndindex(target.shape):
            others = np.delete(item(result.grads[0], at), [] if target[at] == IGNORED else target[at])
            np.testing.assert_array_equal(others, 0)


@drawn
@given(classifications(), st.sampled_from([0.0, 0.2]), seeds)
def test_soft_cross_entropy(case, label_smoothing, seed):
    """−Σ w t log p with class probabilities t; the mean divides by the number of items, whatever their weights."""
    scores, classes, weight, reduction = case
    scores = scores.astype(np.float64)
    weight = None if weight is None else weight.astype(np.float64)
    t = np.random.default_rng([seed, 6]).dirichlet(np.ones(scores.shape[1]), classes.shape)
    t = np.moveaxis(t, -1, 1)
    w = np.ones(scores.shape[1]) if weight is None else weight

    def formula(scores, t):
        """In NumPy, for the complex step."""
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        t = (1 - label_smoothing) * t + label_smoothing / scores.shape[1]
        losses = -np.einsum("c,nc...,nc...->n...", w, t, np.log(p))
        return losses if reduction == "none" else np.asarray(losses.sum() if reduction == "sum" else losses.mean())

    params = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing}
    for pair in implementations("soft_cross_entropy").values():
        result = run(pair, (scores, t), seed=seed, **params)
        assert_close(result.output, formula(scores, t))
        assert_close(result.grads[0], complex_step(lambda z: formula(z, t), scores, result.grad_output))
        assert_close(result.grads[1], complex_step(lambda z: formula(scores, z), t, result.grad_output))


@drawn
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=3), reductions, dtypes, seeds)
def test_mse_loss(axes, reduction, dtype, seed):
    """Two shapes that broadcast: an axis may be of length 1 on either side."""
    rng = np.random.default_rng(seed)
    x, t = (normal(rng, [1 if axis[side] else axis[0] for axis in axes], dtype) for side in (1, 2))
    result = run(implementations("mse_loss")["neutral"], (x, t), seed=seed, reduction=reduction)
    pairs = list(zip(*(side.ravel().tolist() for side in np.broadcast_arrays(x, t)), strict=True))
    losses = [(a - b) ** 2 for a, b in pairs]
    total = {"none": losses, "sum": math.fsum(losses), "mean": math.fsum(losses) / len(losses)}[reduction]
    shape = np.broadcast_shapes(x.shape, t.shape) if reduction == "none" else ()
    assert_close(result.output, np.reshape(total, shape).astype(dtype))

    grad = np.broadcast_to(result.grad_output, np.broadcast_shapes(x.shape, t.shape))
    grad = grad / (len(losses) if reduction == "mean" else 1)
    for side, sign, found in ((x, 1, result.grads[0]), (t, -1, result.grads[1])):
        expected = np.zeros(side.shape)
        places = np.broadcast_to(np.arange(side.size).reshape(side.shape), grad.shape)  # where each entry came from
        for (a, b), g, place in zip(pairs, grad.ravel().tolist(), places.ravel(), strict=True):
            expected.flat[place] += sign * 2 * (a - b) * g
        assert_close(found, expected.astype(dtype))


@each_cross_entropy
def test_two_equal_classes_cost_log_2(pair):
    result = run(pair, (np.array([[3.0, 3.0]]),), **arguments("cross_entropy", np.array([1]), "mean"))
    assert_close(result.output, np.array(math.log(2)))
    assert_close(result.grads[0], result.grad_output * np.array([[0.5, -0.5]]))


@each_cross_entropy
def test_a_confident_mistake_costs_its_margin_and_no_overflow(pair):
    params = arguments("cross_entropy", np.array([0, 1]), "none")
    scores = np.array([[-1e4, 1e4], [-1e4, 1e4]], dtype=np.float32)
    output, saved = pair.forward(scores, **params)
    np.testing.assert_array_equal(output, [2e4, 0])
    (grad,) = pair.backward(np.array([1, 1], dtype=np.float32), saved, (True,), **params)
    np.testing.assert_array_equal(grad, [[-1, 1], [0, 0]])


@each_cross_entropy
def test_a_class_ruled_out_costs_nothing_to_others(pair):
    """A score of −∞ (a masked class) is p = 0: neither the loss of another target nor its gradient may be NaN."""
    result = run(pair, (np.array([[1.0, 1.0, -np.inf]]),), **arguments("cross_entropy", np.array([0]), "sum"))
    assert_close(result.output, np.array(math.log(2)))
    assert_close(result.grads[0], result.grad_output * np.array([[-0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_batch_of_items_ignored_costs_nothing(name, reduction):
    """(Their mean is 0/0, NaN in PyTorch too.)"""
    params = arguments(name, np.full(2, IGNORED), reduction, label_smoothing=0.3)
    for pair in implementations(name).values():
        result = run(pair, (np.array([[1.0, 2.0], [3.0, 4.0]]),), **params)
        assert (result.output == 0).all()
        np.testing.assert_array_equal(result.grads[0], np.zeros((2, 2)))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_an_item_ignored_may_have_ruled_out_any_class(name):
    for out in (0, 1):
        scores = np.zeros((2, 2))
        scores[0, out] = -np.inf
        for pair in implementations(name).values():
            result = run(pair, (scores,), **arguments(name, np.array([IGNORED, 1]), "sum"))
            assert_close(result.output, np.array(math.log(2) if name == "cross_entropy" else 0.0))
            np.testing.assert_array_equal(result.grads[0][0], 0)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_an_empty_batch_costs_nothing(name, reduction):
    params = arguments(name, np.empty(0, dtype=int), reduction)
    for pair in implementations(name).values():
        result = run(pair, (np.empty((0, 3)),), **params)
        assert result.output.shape == ((0,) if reduction == "none" else ())
        assert result.output.sum() == 0
        assert result.grads[0].shape == (0, 3)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_any_class_may_be_the_one_to_ignore(name):
    scores, target = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0])
    for pair in implementations(name).values():
        both = run(pair, (scores,), **arguments(name, target, "mean") | {"ignore_index": 1})
        second = run(pair, (scores[1:],), **arguments(name, target[1:], "mean"))
        assert_close(both.output, second.output)
        np.testing.assert_array_equal(both.grads[0][0], 0)
