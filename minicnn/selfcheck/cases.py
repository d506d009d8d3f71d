"""What each operation is tried with: every `Op` has a case, with strides, padding, groups and broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from ..engine import Op, Tensor, apply

Case = tuple[Any, ...]  # a function, and its inputs: shapes (to be drawn, standard normal) or arrays

X, CUBE, IMAGE, WIDE = (3, 4), (2, 3, 4), (2, 3, 5, 6), (2, 4, 7, 5)
CLASSES, PIXELS = np.array([2, 0, 1, 2]), np.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]]])
MASK = np.arange(12).reshape(X) % 3 == 0
CLASS_WEIGHT = np.array([0.5, 2.0, 1.5], np.float32)


def operations() -> dict[str, Op]:
    """All of them, by their names in `minicnn.functional`."""
    return {name: value for name, value in vars(F).items() if isinstance(value, Op)}


def positive(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.5, 2, shape)


def probabilities(*shape: int) -> np.ndarray:
    p = positive(*shape)
    return p / p.sum(axis=1, keepdims=True)


def running(x: Tensor) -> dict[str, Any]:
    """Running statistics of three channels, in the dtype of `x`."""
    return {"running_mean": np.array([-1, 0, 1], x.dtype), "running_var": np.array([0.5, 1, 2], x.dtype)}


def _other_float(a: Tensor) -> Tensor:
    return apply(F.TO_DTYPE, a, dtype=np.dtype("float64" if a.dtype == np.float32 else "float32"))


CASES: dict[str, list[Case]] = {
    "ADD": [(lambda a, b: a + b, X, X), (lambda a, b: a + b, CUBE, (3, 1)), (lambda a: 2 + a, X)],
    "SUB": [(lambda a, b: a - b, X, X), (lambda a, b: a - b, (4,), CUBE), (lambda a: 2 - a, X)],
    "MUL": [(lambda a, b: a * b, X, X), (lambda a, b: a * b, CUBE, (3, 1)), (lambda a: a * 3, X)],
    "DIV": [(lambda a, b: a / b, X, positive(*X)), (lambda a, b: a / b, CUBE, -positive(3, 1)), (lambda a: a / 4, X)],
    "NEG": [(lambda a: -a, X)],
    "POW": [(lambda a, n: a**n, positive(*X), X), (lambda a: a**3, X), (lambda a: a**-2.0, positive(*X))],
    "EXP": [(lambda a: a.exp(), X)],
    "LOG": [(lambda a: a.log(), positive(*X))],
    "SQRT": [(lambda a: a.sqrt(), positive(*X))],
    "ABS": [(lambda a: a.abs(), X)],
    "CLAMP": [
        (lambda a, low, high: a.clamp(low, high), X, np.full(X, -0.5), np.full(X, 0.4)),
        (lambda a: a.clamp(min=0.1), X),
    ],
    "TO_DTYPE": [(_other_float, X)],
    "TO_DEVICE": [(lambda a: apply(F.TO_DEVICE, a, device="cpu"), X)],
    "SUM": [(lambda a: a.sum(), X), (lambda a: a.sum(dim=(0, -1), keepdim=True), CUBE)],
    "MEAN": [(lambda a: a.mean(), X), (lambda a: a.mean(dim=(0, -1)), CUBE)],
    "VAR": [(lambda a: a.var(), X), (lambda a: a.var(dim=(0, 2), correction=0), CUBE)],
    "AMAX": [(lambda a: a.amax(), X), (lambda a: a.amax(dim=(0, 2), keepdim=True), CUBE)],
    "RESHAPE": [(lambda a: a.reshape(2, 6), X), (lambda a: a.transpose(0, 2).reshape(-1, 2), CUBE)],
    "PERMUTE": [(lambda a: a.permute(2, 0, 1), CUBE)],
    "GETITEM": [
        (lambda a: a[1:, ::2], X), (lambda a: a[[0, 2, 0, -1]], X), (lambda a: a[[0, 0, 1], [1, 1, 3]], X),
        (lambda a: F.getitem(a, MASK), X),
    ],
    "CAT": [(lambda a, b, c: F.cat([a, b, c], dim=1), (2, 1, 3), (2, 4, 3), (2, 2, 3)), (lambda a: F.cat([a, a]), X)],
    "PAD": [(lambda a: F.pad(a, (1, 2, 0, 3)), IMAGE), (lambda a: F.pad(a, (-1, 2, 1, -2), value=7.0), IMAGE)],
    "LINEAR": [(F.linear, (5, 4), (3, 4), (3,)), (F.linear, (2, 5, 4), (3, 4))],
    "MATMUL": [(lambda a, b: a @ b, (3, 4), (4, 2)), (lambda a, b: a @ b, (2, 1, 3, 4), (5, 4, 2))],
    "CONV2D": [
        (F.conv2d, IMAGE, (4, 3, 3, 2), (4,)),
        (lambda x, w, b: F.conv2d(x, w, b, stride=(2, 3), padding=(1, 2), dilation=(2, 1)), IMAGE, (2, 3, 2, 3), (2,)),
        (lambda x, w, b: F.conv2d(x, w, b, stride=2, groups=2), WIDE, (6, 2, 3, 2), (6,)),
        (lambda x, w: F.conv2d(x, w, padding=1, groups=4), WIDE, (4, 1, 3, 3)),
        (lambda x, w: F.conv2d(x, w, padding="same"), (1, 2, 4, 5), (3, 2, 2, 3)),
    ],
    "MAX_POOL2D": [
        (lambda x: F.max_pool2d(x, 2), IMAGE), (lambda x: F.max_pool2d(x, (3, 2), stride=(2, 1), padding=1), IMAGE),
        (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), WIDE),
    ],
    "AVG_POOL2D": [
        (lambda x: F.avg_pool2d(x, 2), IMAGE), (lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1), IMAGE),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), WIDE),
    ],
    "ADAPTIVE_AVG_POOL2D": [
        (lambda x: F.adaptive_avg_pool2d(x, (2, 4)), IMAGE), (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    ],
    "LOCAL_RESPONSE_NORM": [
        (lambda x: F.local_response_norm(x, 3, alpha=0.7, beta=0.75, k=2.0), (2, 5, 3, 2)),
        (lambda x: F.local_response_norm(x, 4, alpha=0.7, beta=0.3), (2, 5, 3)),
    ],
    "BATCH_NORM": [
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), IMAGE, (3,), (3,)),
        (lambda x: F.batch_norm(x, None, None, training=True, eps=0.1), (5, 4)),
    ],
    "BATCH_NORM_EVAL": [
        (lambda x, w, b: F.batch_norm(x, **running(x), weight=w, bias=b), IMAGE, (3,), (3,)),
    ],
    "RELU": [(F.relu, X)],
    "LEAKY_RELU": [(lambda x: F.leaky_relu(x, -0.3), X)],
    "ELU": [(lambda x: F.elu(x, 2.5), X)],
    "SIGMOID": [(F.sigmoid, np.linspace(-31, 31, 7))],
    "TANH": [(F.tanh, X)],
    "SILU": [(F.silu, np.linspace(-31, 31, 7))],
    "SOFTPLUS": [(F.softplus, np.linspace(-31, 31, 7)), (lambda x: F.softplus(x, 3.0, 1.0), X)],
    "SOFTMAX": [(lambda x: F.softmax(x, 1), X), (lambda x: F.softmax(x, -2), CUBE)],
    "LOG_SOFTMAX": [(lambda x: F.log_softmax(x, 1), X), (lambda x: F.log_softmax(x, -2), CUBE)],
    "DROPOUT": [(F.dropout, X), (lambda x: F.dropout(x, 0.2), IMAGE)],
    "CROSS_ENTROPY": [
        (lambda x: F.cross_entropy(x, CLASSES), (4, 3)), (lambda x: F.cross_entropy(x, PIXELS), (2, 3, 2, 2)),
        (lambda x: F.cross_entropy(x, CLASSES, CLASS_WEIGHT, label_smoothing=0.2, ignore_index=0), (4, 3)),
    ],
    "SOFT_CROSS_ENTROPY": [
        (F.cross_entropy, (4, 3), probabilities(4, 3)),
        (lambda x, t: F.cross_entropy(x, t, CLASS_WEIGHT, -100, "none", 0.2), (4, 3), probabilities(4, 3)),
    ],
    "NLL_LOSS": [
        (lambda x: F.nll_loss(x, CLASSES), (4, 3)),
        (lambda x: F.nll_loss(x, PIXELS, CLASS_WEIGHT, ignore_index=2), (2, 3, 2, 2)),
    ],
    "MSE_LOSS": [(F.mse_loss, X, X), (lambda x, t: F.mse_loss(x, t, reduction="none"), CUBE, (4,))],
}  # fmt: skip


def arrays(case: Case, dtype: str) -> tuple[Callable[..., Tensor], list[np.ndarray]]:
    """The function of a case, and its inputs on the host."""
    rng = np.random.default_rng(11)
    function: Callable[..., Tensor] = case[0]
    inputs: list[np.ndarray | tuple[int, ...]] = list(case[1:])
    drawn = [rng.standard_normal(x) if isinstance(x, tuple) else x for x in inputs]
    return function, [x.astype(dtype) for x in drawn]
