"""The heavy operations once more, as loops: one line for each formula, nothing clever, slow on purpose.

Read this file to see what a layer computes and where its gradient comes from; the tests hold the other
implementations to it. In all of it x is the input, y the output and g = ∂L/∂y the gradient that arrives from
above, and there is one rule, the chain rule, in its scattering form:

    go over the outputs again, in the same loops, and send each one's gradient back
    to everything that made it, times how much that contributed:   ∂L/∂x += g · ∂y/∂x

The `+=` is the sum over all the uses of a value. The batch is n, channels are c (in) and o (out), rows and columns
are h, w in the input, i, j in the output and k, l inside a window.

The loops compute in float64 and round to the input's dtype at the end. Signatures are those of the files beside
this one; what a forward saves is its own affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def _float64(*arrays: np.ndarray | None) -> list:
    return [None if a is None else a.astype(np.float64) for a in arrays]


def _needed(needs: tuple[bool, ...], dtype: np.dtype, *grads: np.ndarray) -> tuple[np.ndarray | None, ...]:
    """The gradients that are wanted, in the input's dtype."""
    return tuple(grad.astype(dtype) if need else None for grad, need in zip(grads, needs, strict=True))


def _window(i: int, j: int, size, stride, padding, dilation, image) -> Iterator[tuple[int, int, int, int]]:
    """Entry (k, l) of the window of output (i, j) lies on (h, w); only entries inside the image (H, W) are given."""
    for k in range(size[0]):
        for l in range(size[1]):
            h = i * stride[0] + k * dilation[0] - padding[0]
            w = j * stride[1] + l * dilation[1] - padding[1]
            if 0 <= h < image[0] and 0 <= w < image[1]:
                yield k, l, h, w


# ---------------------------------------------------------------------------------------------- convolution

def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    """y[n,o,i,j] = b[o] + Σ_{c,k,l} w[o,c,k,l] · x[n, c, i·stride + k·dilation − padding, the same with j and l]

    Input (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) or None. Outside the image x is 0. With groups, the
    outputs and the channels are cut into as many parts, and an output sees the channels of its own part only.
    """
    x, filters, offset = _float64(input, weight, bias)
    (batch, _, *image), (out_channels, channels, *size) = x.shape, filters.shape
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(image, size, stride, padding, dilation, strict=True)
    )
    y = np.empty((batch, out_channels, rows, columns))
    for n, o, i, j in np.ndindex(y.shape):
        first = o // (out_channels // groups) * channels  # where the channels of o's group begin
        total = 0.0 if offset is None else offset[o]
        for c in range(channels):
            for k, l, h, w in _window(i, j, size, stride, padding, dilation, image):
                total += filters[o, c, k, l] * x[n, first + c, h, w]
        y[n, o, i, j] = total
    return y.astype(input.dtype), (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    """y is a sum of products w · x: ∂(w·x)/∂x = w, ∂(w·x)/∂w = x and ∂y/∂b = 1."""
    input, weight = saved
    x, filters, g = _float64(input, weight, grad_output)
    (_, _, *image), (out_channels, channels, *size) = x.shape, filters.shape
    grad_x, grad_filters, grad_offset = np.zeros_like(x), np.zeros_like(filters), np.zeros(out_channels)
    for n, o, i, j in np.ndindex(g.shape):
        first = o // (out_channels // groups) * channels
        grad_offset[o] += g[n, o, i, j]
        for c in range(channels):
            for k, l, h, w in _window(i, j, size, stride, padding, dilation, image):
                grad_x[n, first + c, h, w] += g[n, o, i, j] * filters[o, c, k, l]
                grad_filters[o, c, k, l] += g[n, o, i, j] * x[n, first + c, h, w]
    return _needed(needs, input.dtype, grad_x, grad_filters, grad_offset)


# -------------------------------------------------------------------------------------------------- pooling

def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows fit; `ceil_mode` adds one that sticks out, if it starts before the end of the image."""
    last = size + 2 * padding - dilation * (kernel - 1) - 1  # the last row on which a window may start
    count = last // stride + 1
    return count + 1 if ceil_mode and last % stride and count * stride < size + padding else count


def max_pool2d_forward(input, kernel_size, stride, padding, dilation, ceil_mode):
    """y[n,c,i,j] = the largest x[n,c,h,w] in the window; the first of equals; a NaN beats everything."""
    x, image = input.astype(np.float64), input.shape[2:]
    out = map(_pooled_size, image, kernel_size, stride, padding, dilation, (ceil_mode, ceil_mode))
    y = np.full((*x.shape[:2], *out), -math.inf)  # what a window that holds nothing but padding gives
    winner = np.full((*y.shape, 2), -1)  # the (h, w) that won
    for n, c, i, j in np.ndindex(y.shape):
        for _, _, h, w in _window(i, j, kernel_size, stride, padding, dilation, image):
            value, best = x[n, c, h, w], y[n, c, i, j]
            if winner[n, c, i, j, 0] < 0 or value > best or (math.isnan(value) and not math.isnan(best)):
                y[n, c, i, j], winner[n, c, i, j] = value, (h, w)
    return y.astype(input.dtype), (winner, input.shape)


def max_pool2d_backward(grad_output, saved, needs, kernel_size, stride, padding, dilation, ceil_mode):
    """y is a copy of the winner: ∂y/∂x is 1 there and 0 elsewhere."""
    winner, shape = saved
    grad_x = np.zeros(shape)
    for n, c, i, j in np.ndindex(grad_output.shape):
        h, w = winner[n, c, i, j]
        if h >= 0:
            grad_x[n, c, h, w] += grad_output[n, c, i, j]
    return _needed(needs, grad_output.dtype, grad_x)


def _area(i: int, j: int, size, stride, padding, image, count_include_pad: bool, divisor_override) -> int:
    """What the sum over the window of output (i, j) is divided by."""
    if divisor_override is not None:
        return divisor_override
    area = 1
    for o, k, s, p, n in zip((i, j), size, stride, padding, image, strict=True):
        start, end = o * s - p, o * s - p + k
        if count_include_pad:
            area *= min(end, n + p) - start  # rows beyond the padding, which ceil_mode may reach, do not count
        else:
            area *= min(end, n) - max(start, 0)
    return area


def avg_pool2d_forward(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """y[n,c,i,j] = Σ x[n,c,h,w] over the window / the number of entries counted"""
    x, image = input.astype(np.float64), input.shape[2:]
    out = map(_pooled_size, image, kernel_size, stride, padding, (1, 1), (ceil_mode, ceil_mode))
    y = np.empty((*x.shape[:2], *out))
    for n, c, i, j in np.ndindex(y.shape):
        total = 0.0
        for _, _, h, w in _window(i, j, kernel_size, stride, padding, (1, 1), image):
            total += x[n, c, h, w]
        y[n, c, i, j] = total / _area(i, j, kernel_size, stride, padding, image, count_include_pad, divisor_override)
    return y.astype(input.dtype), input.shape


def avg_pool2d_backward(
    grad_output, saved, needs, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    """∂y/∂x = 1 / the number of entries counted, the same for every entry of the window."""
    image, grad_x = saved[2:], np.zeros(saved)
    g = grad_output.astype(np.float64)
    for n, c, i, j in np.ndindex(g.shape):
        area = _area(i, j, kernel_size, stride, padding, image, count_include_pad, divisor_override)
        for _, _, h, w in _window(i, j, kernel_size, stride, padding, (1, 1), image):
            grad_x[n, c, h, w] += g[n, c, i, j] / area
    return _needed(needs, grad_output.dtype, grad_x)


def _bin(i: int, size: int, out: int) -> range:
    """The entries that output i of `out` averages: from ⌊i · size/out⌋ up to ⌈(i + 1) · size/out⌉."""
    return range(math.floor(i * size / out), math.ceil((i + 1) * size / out))


def adaptive_avg_pool2d_forward(input, output_size):
    """y[n,c,i,j] = the mean of x[n,c,h,w] over bin i of the rows and bin j of the columns"""
    x, (height, width) = input.astype(np.float64), input.shape[2:]
    y = np.zeros((*x.shape[:2], *output_size))
    for n, c, i, j in np.ndindex(y.shape):
        rows, columns = _bin(i, height, output_size[0]), _bin(j, width, output_size[1])
        for h in rows:
            for w in columns:
                y[n, c, i, j] += x[n, c, h, w] / (len(rows) * len(columns))
    return y.astype(input.dtype), input.shape


def adaptive_avg_pool2d_backward(grad_output, saved, needs, output_size):
    """∂y/∂x = 1 / the number of entries in the bin."""
    (height, width), grad_x = saved[2:], np.zeros(saved)
    g = grad_output.astype(np.float64)
    for n, c, i, j in np.ndindex(g.shape):
        rows, columns = _bin(i, height, output_size[0]), _bin(j, width, output_size[1])
        for h in rows:
            for w in columns:
                grad_x[n, c, h, w] += g[n, c, i, j] / (len(rows) * len(columns))
    return _needed(needs, grad_output.dtype, grad_x)


# -------------------------------------------------------------------------------------------- normalisation

def _neighbours(c: int, size: int, channels: int) -> range:
    """The channels around c: size//2 before it and (size − 1)//2 after it, where there are any."""
    return range(max(c - size // 2, 0), min(c + (size - 1) // 2 + 1, channels))


def local_response_norm_forward(input, size, alpha, beta, k):
    """y[c] = x[c] · d[c]^−β  with  d[c] = k + α/size · Σ x[m]² over the neighbours m of c

    Input (N, C, *): n and the place in the image stay as they are. Krizhevsky et al. 2012, section 3.3; there α is
    not divided by size.
    """
    x = input.astype(np.float64)
    y, d = np.empty_like(x), np.full_like(x, k)
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        for m in _neighbours(c, size, x.shape[1]):
            d[at] += alpha / size * x[(n, m, *place)] ** 2
        y[at] = x[at] * d[at] ** -beta
    return y.astype(input.dtype), (input, d)


def local_response_norm_backward(grad_output, saved, needs, size, alpha, beta, k):
    """x[c] is in the numerator of y[c], and every neighbour x[m] (x[c] again among them) is in its d[c]:

    ∂y[c]/∂x[c] = d[c]^−β          ∂y[c]/∂d[c] = −β x[c] d[c]^(−β−1)          ∂d[c]/∂x[m] = 2α/size · x[m]
    """
    input, d = saved
    x, g = _float64(input, grad_output)
    grad_x = np.zeros_like(x)
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        grad_x[at] += g[at] * d[at] ** -beta
        grad_d = g[at] * -beta * x[at] * d[at] ** (-beta - 1)
        for m in _neighbours(c, size, x.shape[1]):
            grad_x[(n, m, *place)] += grad_d * 2 * alpha / size * x[(n, m, *place)]
    return _needed(needs, input.dtype, grad_x)


def batch_norm_train_forward(input, weight, bias, eps):
    """y = γ x̂ + β  with  x̂ = (x − μ) / √(σ² + ε),  for each channel with the mean μ and variance σ² of its batch

    Input (N, C, *), γ = weight and β = bias (C,) or None. Ioffe and Szegedy 2015, algorithm 1. `saved` begins with
    μ and σ², from which `functional.batch_norm` updates the running statistics.
    """
    x, gamma, beta = _float64(input, weight, bias)
    mean, var, count = np.zeros(x.shape[1]), np.zeros(x.shape[1]), x.shape[0] * math.prod(x.shape[2:])
    for n, c, *place in np.ndindex(x.shape):
        mean[c] += x[(n, c, *place)] / count
    for n, c, *place in np.ndindex(x.shape):
        var[c] += (x[(n, c, *place)] - mean[c]) ** 2 / count
    y = _normalise(x, mean, var, eps, gamma, beta)
    return y.astype(input.dtype), (mean.astype(input.dtype), var.astype(input.dtype), mean, var, input, weight)


def batch_norm_train_backward(grad_output, saved, needs, eps):
    """Through x̂ to σ², to μ, and to x, which takes part in all three (the paper's section 3; m is the count):

    ∂L/∂x̂  = g γ
    ∂L/∂σ² = Σ ∂L/∂x̂ · (x − μ) · −½ (σ² + ε)^−³ᐟ²
    ∂L/∂μ  = Σ ∂L/∂x̂ · −(σ² + ε)^−½                       (through σ² nothing comes: Σ (x − μ) = 0)
    ∂L/∂x  = ∂L/∂x̂ · (σ² + ε)^−½ + ∂L/∂σ² · 2 (x − μ)/m + ∂L/∂μ · 1/m
    """
    *_, mean, var, input, weight = saved
    x, gamma, g = _float64(input, weight, grad_output)
    channels, count = x.shape[1], x.shape[0] * math.prod(x.shape[2:])
    gamma = np.ones(channels) if gamma is None else gamma
    grad_mean, grad_var = np.zeros(channels), np.zeros(channels)
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        grad_var[c] += g[at] * gamma[c] * (x[at] - mean[c]) * -0.5 * (var[c] + eps) ** -1.5
        grad_mean[c] += g[at] * gamma[c] * -((var[c] + eps) ** -0.5)
    grad_x, grad_gamma, grad_beta = _normalise_backward(g, x, mean, var, eps, gamma)
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        grad_x[at] += grad_var[c] * 2 * (x[at] - mean[c]) / count + grad_mean[c] / count
    return _needed(needs, input.dtype, grad_x, grad_gamma, grad_beta)


def batch_norm_eval_forward(input, weight, bias, mean, var, eps):
    """The same with a given μ and σ², (C,) each. Algorithm 2, steps 9 to 11."""
    x, gamma, beta, mu, sigma2 = _float64(input, weight, bias, mean, var)
    return _normalise(x, mu, sigma2, eps, gamma, beta).astype(input.dtype), (input, weight)


def batch_norm_eval_backward(grad_output, saved, needs, mean, var, eps):
    """μ and σ² are constants now, so only the direct path is left."""
    input, weight = saved
    x, gamma, g, mu, sigma2 = _float64(input, weight, grad_output, mean, var)
    gamma = np.ones(x.shape[1]) if gamma is None else gamma
    return _needed(needs, input.dtype, *_normalise_backward(g, x, mu, sigma2, eps, gamma))


def _normalise(x, mean, var, eps, gamma, beta) -> np.ndarray:
    """y = γ (x − μ) (σ² + ε)^−½ + β"""
    y = np.empty_like(x)
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        normalised = (x[at] - mean[c]) * (var[c] + eps) ** -0.5
        y[at] = (1.0 if gamma is None else gamma[c]) * normalised + (0.0 if beta is None else beta[c])
    return y


def _normalise_backward(g, x, mean, var, eps, gamma) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∂y/∂x = γ (σ² + ε)^−½, as far as μ and σ² stand still; ∂y/∂γ = x̂; ∂y/∂β = 1."""
    grad_x, grad_gamma, grad_beta = np.zeros_like(x), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for n, c, *place in np.ndindex(x.shape):
        at = (n, c, *place)
        grad_x[at] += g[at] * gamma[c] * (var[c] + eps) ** -0.5
        grad_gamma[c] += g[at] * (x[at] - mean[c]) * (var[c] + eps) ** -0.5
        grad_beta[c] += g[at]
    return grad_x, grad_gamma, grad_beta


# -------------------------------------------------------------------------------------------------- linear

def linear_forward(input, weight, bias):
    """y[n,o] = b[o] + Σ_c w[o,c] · x[n,c]

    Input (*, in), weight (out, in) or (in,) for an output without its last axis, bias (out,), one number or None.
    """
    bias = np.zeros((), dtype=input.dtype) if bias is None else bias
    x, w, b = _float64(_matrix(input), _matrix(weight), bias.reshape(-1))
    y = np.empty((len(x), len(w)))
    for n, o in np.ndindex(y.shape):
        total = b[o % len(b)]  # one number serves every output
        for c in range(x.shape[1]):
            total += w[o, c] * x[n, c]
        y[n, o] = total
    return y.reshape(input.shape[:-1] + weight.shape[:-1]).astype(input.dtype), (input, weight, bias.shape)


def linear_backward(grad_output, saved, needs):
    """∂(w·x)/∂x = w, ∂(w·x)/∂w = x and ∂y/∂b = 1: a convolution whose window is the whole input."""
    input, weight, bias_shape = saved
    x, w, g = _float64(_matrix(input), _matrix(weight), grad_output)
    g = g.reshape(len(x), len(w))
    grad_x, grad_w, grad_b = np.zeros_like(x), np.zeros_like(w), np.zeros(math.prod(bias_shape))
    for n, o in np.ndindex(g.shape):
        grad_b[o % len(grad_b)] += g[n, o]
        for c in range(x.shape[1]):
            grad_x[n, c] += g[n, o] * w[o, c]
            grad_w[o, c] += g[n, o] * x[n, c]
    grads = grad_x.reshape(input.shape), grad_w.reshape(weight.shape), grad_b.reshape(bias_shape)
    return _needed(needs, input.dtype, *grads)


def _matrix(array: np.ndarray) -> np.ndarray:
    """All axes but the last joined into one: a row an item."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


# ---------------------------------------------------------------------------------------------- activations

def relu_forward(input):
    """y = 0 where x ≤ 0, else x (so that a NaN stays one)"""
    y = np.zeros_like(input)
    for at in np.ndindex(input.shape):
        if not input[at] <= 0:
            y[at] = input[at]
    return y, input


def relu_backward(grad_output, saved, needs):
    """∂y/∂x = 0 where x ≤ 0, else 1. At x = 0 either would do; 0 is the custom."""
    input = saved
    grad_input = np.zeros_like(input)
    for at in np.ndindex(input.shape):
        if not input[at] <= 0:
            grad_input[at] = grad_output[at]
    return _needed(needs, input.dtype, grad_input)


def sigmoid_forward(input):
    """y = 1 / (1 + e^−x)"""
    y = np.empty(input.shape)
    for at in np.ndindex(input.shape):
        x = float(input[at])
        y[at] = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))  # e^−x would overflow
    return y.astype(input.dtype), y


def sigmoid_backward(grad_output, saved, needs):
    """∂y/∂x = e^−x / (1 + e^−x)² = y (1 − y)"""
    grad_x = np.empty(saved.shape)
    for at in np.ndindex(saved.shape):
        grad_x[at] = grad_output[at] * saved[at] * (1 - saved[at])
    return _needed(needs, grad_output.dtype, grad_x)


def _lines(array: np.ndarray, dim: int) -> np.ndarray:
    """A view with axis `dim` last: its lines run through the classes, whatever the axes before them are."""
    return np.moveaxis(array, dim, -1)


def _shifted(line: np.ndarray) -> list[float]:
    """x − max x. That changes no softmax, e^−max cancels, and no exponential overflows."""
    values = line.tolist()
    largest = max(values)
    return [value - largest for value in values]


def _sum_of_exp(x: list[float]) -> float:
    """Σ_m e^x[m]"""
    return sum(math.exp(value) for value in x)


def softmax_forward(input, dim):
    """y[c] = e^x[c] / Σ_m e^x[m], along `dim`"""
    y = np.empty(input.shape)
    for at in np.ndindex(_lines(y, dim).shape[:-1]):
        x = _shifted(_lines(input, dim)[at])
        total = _sum_of_exp(x)
        for c in range(len(x)):
            _lines(y, dim)[at][c] = math.exp(x[c]) / total
    return y.astype(input.dtype), y


def softmax_backward(grad_output, saved, needs, dim):
    """Every input moves every output: ∂y[c]/∂x[m] = y[c] · ([c = m] − y[m])"""
    grad_x = np.zeros(saved.shape)
    for at in np.ndindex(_lines(grad_x, dim).shape[:-1]):
        y, g = _lines(saved, dim)[at], _lines(grad_output, dim)[at]
        for c in range(len(y)):
            for m in range(len(y)):
                _lines(grad_x, dim)[at][m] += g[c] * y[c] * ((c == m) - y[m])
    return _needed(needs, grad_output.dtype, grad_x)


def log_softmax_forward(input, dim):
    """y[c] = x[c] − log Σ_m e^x[m], along `dim`"""
    y = np.empty(input.shape)
    for at in np.ndindex(_lines(y, dim).shape[:-1]):
        x = _shifted(_lines(input, dim)[at])
        total = _sum_of_exp(x)
        for c in range(len(x)):
            _lines(y, dim)[at][c] = x[c] - math.log(total)
    return y.astype(input.dtype), y


def log_softmax_backward(grad_output, saved, needs, dim):
    """∂y[c]/∂x[m] = [c = m] − e^y[m], and e^y is the softmax"""
    grad_x = np.zeros(saved.shape)
    for at in np.ndindex(_lines(grad_x, dim).shape[:-1]):
        y, g = _lines(saved, dim)[at], _lines(grad_output, dim)[at]
        for c in range(len(y)):
            for m in range(len(y)):
                _lines(grad_x, dim)[at][m] += g[c] * ((c == m) - math.exp(y[m]))
    return _needed(needs, grad_output.dtype, grad_x)


# --------------------------------------------------------------------------------------------------- losses

def cross_entropy_forward(input, target, weight, ignore_index, reduction, label_smoothing):
    """loss = −Σ_c t[c] · log p[c]  with  p = softmax(x)  and t the distribution that is wanted, 1 on the target class

    Scores x (N, C, *), target classes (N, *). Smoothing takes a part ε of t away and spreads it over all C classes
    (Szegedy et al. 2016, section 7); class weights w (C,) multiply:  t[c] = w[c] · ((1 − ε) · [c = target] + ε/C).
    An item whose target is `ignore_index` costs nothing. The mean is Σ loss / Σ w[target].
    """
    losses, total_weight = np.zeros(target.shape), np.zeros(())
    for at in np.ndindex(target.shape):
        if target[at] == ignore_index:
            continue
        x, w = _shifted(_lines(input, 1)[at]), [1.0] * input.shape[1] if weight is None else weight.tolist()
        t, total = _wanted(target[at], w, label_smoothing), _sum_of_exp(x)
        total_weight += w[target[at]]
        for c in (c for c in range(len(x)) if t[c]):  # 0 · log p is 0, even where p is 0
            losses[at] -= t[c] * (x[c] - math.log(total))
    if reduction != "none":
        losses = losses.sum() / (total_weight if reduction == "mean" else 1)
    return np.asarray(losses).astype(input.dtype), (input, total_weight)


def cross_entropy_backward(grad_output, saved, needs, target, weight, ignore_index, reduction, label_smoothing):
    """∂ log p[c]/∂x[m] = [c = m] − p[m]. For Σ t = 1 all of it together comes to ∂L/∂x = p − t."""
    input, total_weight = saved
    grad_x = np.zeros(input.shape)
    g = np.broadcast_to(grad_output / (total_weight if reduction == "mean" else 1), target.shape)
    for at in np.ndindex(target.shape):
        if target[at] == ignore_index:
            continue
        x, w = _shifted(_lines(input, 1)[at]), [1.0] * input.shape[1] if weight is None else weight.tolist()
        t, total = _wanted(target[at], w, label_smoothing), _sum_of_exp(x)
        for c in range(len(x)):
            for m in range(len(x)):
                _lines(grad_x, 1)[at][m] += g[at] * -t[c] * ((c == m) - math.exp(x[m]) / total)
    return _needed(needs, input.dtype, grad_x)


def _wanted(target: int, weight: list[float], label_smoothing: float) -> list[float]:
    """t[c] for each class c."""
    classes = range(len(weight))
    return [weight[c] * ((1 - label_smoothing) * (c == target) + label_smoothing / len(weight)) for c in classes]
