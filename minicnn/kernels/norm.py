"""Local response normalisation and batch normalisation."""

from __future__ import annotations

from math import prod

from ..backend import Array

# ------------------------------------------------------------------------------ local response normalisation
# Krizhevsky et al. 2012, section 3.3. Here α is divided by the window's size, as the paper's released code and
# PyTorch do and the paper's formula does not.


def _channel_window_sum(values: Array, before: int, after: int) -> Array:
    """Along axis 1, the sum of each entry, the `before` entries before it and the `after` entries after it."""
    channels = values.shape[1]
    total = values.copy()
    for shift in range(1, min(before, channels - 1) + 1):
        total[:, shift:] += values[:, :-shift]
    for shift in range(1, min(after, channels - 1) + 1):
        total[:, :-shift] += values[:, shift:]
    return total


def local_response_norm_forward(input, size, alpha, beta, k):
    """b = a / dᵝ with d = k + α/size · Σ a² over `size` neighbouring channels; input (N, C, *)."""
    scale = k + alpha / size * _channel_window_sum(input * input, size // 2, (size - 1) // 2)
    return input * scale**-beta, (input, scale)


def local_response_norm_backward(grad_output, saved, needs, size, alpha, beta, k):
    """∂L/∂aᵢ = gᵢ dᵢ⁻ᵝ − 2αβ/size · aᵢ · Σⱼ gⱼ aⱼ dⱼ⁻ᵝ⁻¹ over the channels j whose windows hold i."""
    input, scale = saved
    damped = grad_output * scale**-beta
    # i lies in j's window when j lies in i's window seen from the other side: before and after change places.
    neighbours = _channel_window_sum(damped * input / scale, (size - 1) // 2, size // 2)
    return (damped - (2 * alpha * beta / size) * input * neighbours,)


# -------------------------------------------------------------------------------------- batch normalisation
# Ioffe and Szegedy 2015: algorithm 1 in training, algorithm 2 (steps 9 to 11) in evaluation.


def _per_channel(values: Array, ndim: int) -> Array:
    """(C,) → (C, 1, …), so that it broadcasts against (N, C, *)."""
    return values.reshape(-1, *[1] * (ndim - 2))


def _sum_per_channel(values: Array) -> Array:
    """(N, C, *) → (C,)."""
    return values.sum(axis=(0, *range(2, values.ndim)))


def _count_per_channel(values: Array) -> int:
    """How many entries of (N, C, *) a channel has; 1 in an empty batch, whose sums are 0 whatever divides them."""
    return max(values.shape[0] * prod(values.shape[2:]), 1)


def batch_norm_train_forward(input, weight, bias, eps):
    """x̂ = (x − mean) / √(var + eps), y = γ x̂ + β, with the batch's own statistics; input (N, C, *).

    `saved` begins with the mean and the biased variance, (C,) each: `functional.batch_norm` reads them there.
    """
    count = _count_per_channel(input)
    mean = _sum_per_channel(input) / count
    centred = input - _per_channel(mean, input.ndim)
    var = _sum_per_channel(centred * centred) / count  # written out: np.var takes the modulus of complex numbers
    inverse_std = (var + eps) ** -0.5
    normalised = centred * _per_channel(inverse_std, input.ndim)
    return _scale_and_shift(normalised, weight, bias), (mean, var, normalised, inverse_std, weight)


def batch_norm_train_backward(grad_output, saved, needs, eps):
    """∂L/∂x = γ/std · (g − mean(g) − x̂ · mean(g x̂)): the direct path, and those through mean and variance."""
    _, _, normalised, inverse_std, weight = saved
    ndim, count = grad_output.ndim, _count_per_channel(grad_output)
    grad_bias = _sum_per_channel(grad_output)  # (C,)
    grad_weight = _sum_per_channel(grad_output * normalised)  # (C,)
    grad_input = None
    if needs[0]:
        slope = inverse_std if weight is None else weight * inverse_std
        through_mean = _per_channel(grad_bias / count, ndim)
        through_var = normalised * _per_channel(grad_weight / count, ndim)
        grad_input = _per_channel(slope, ndim) * (grad_output - through_mean - through_var)
    return grad_input, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def batch_norm_eval_forward(input, weight, bias, mean, var, eps):
    """The same with fixed statistics `mean` and `var`, (C,) each: an affine map of each channel."""
    inverse_std = (var + eps) ** -0.5
    normalised = (input - _per_channel(mean, input.ndim)) * _per_channel(inverse_std, input.ndim)
    return _scale_and_shift(normalised, weight, bias), (normalised, inverse_std, weight)


def batch_norm_eval_backward(grad_output, saved, needs, mean, var, eps):
    normalised, inverse_std, weight = saved
    slope = inverse_std if weight is None else weight * inverse_std
    grad_input = grad_output * _per_channel(slope, grad_output.ndim) if needs[0] else None
    grad_weight = _sum_per_channel(grad_output * normalised) if needs[1] else None
    grad_bias = _sum_per_channel(grad_output) if needs[2] else None
    return grad_input, grad_weight, grad_bias


def _scale_and_shift(normalised: Array, weight: Array | None, bias: Array | None) -> Array:
    output = normalised
    if weight is not None:
        output = output * _per_channel(weight, output.ndim)
    if bias is not None:
        output = output + _per_channel(bias, output.ndim)
    return output
