"""What mean-field theory says of the gradient in a wide network whose weights have just been drawn.

In a layer h = W x with many inputs and independent weights of mean 0, each pre-activation h is a sum of many small
terms, so it is normal, with the variance q = σ_w² E[x²] (σ_w² = fan_in · Var(w)). Behind an activation, x = φ(√q z)
with z normal, and so on from layer to layer (Poole et al. 2016, "Exponential expressivity in deep neural networks
through transient chaos", section 2):

    q_l = σ_w² E[φ(√q_{l−1} z)²] + σ_b²

Backward, the mean square of a gradient is multiplied in each layer by (Schoenholz et al. 2017, "Deep information
propagation", on gradient backpropagation)

    χ_l = σ_w² E[φ'(√q_l z)²]

where the weights of the backward pass are taken to be independent of the forward pass. q_l need not have come to rest:
the recursion is integrated for the depth at hand. The older rules are special cases. Glorot and Bengio 2010 take
φ' = 1, so χ = n Var(w); He et al. 2015 have a rectifier, whose φ'² is 1 for one half and a² (0 for ReLU) for the other,
so χ = ½ (1 + a²) n Var(w). And whatever q is, χ ≤ σ_w² max φ'²: the sigmoid's φ' is at most 1/4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import backend
from ..engine import Tensor

Activation = Callable[[Tensor], Tensor]

# Midpoints of 8,000 cells between −12 and 12 standard deviations, beyond which the density is below 10⁻³¹. No point is
# 0, where the rectifiers have their kink: on either side the rule stays exact to the square of a cell.
CELLS = 8_000
POINTS = (np.arange(CELLS) + 0.5) * (24 / CELLS) - 12
DENSITY = np.exp(-POINTS * POINTS / 2) * (24 / CELLS) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Moments:
    """Means over normal z of an activation's value φ(√q z) and slope φ'(√q z)."""

    mean: float  # E[φ]
    square: float  # E[φ²]
    slope_square: float  # E[φ'²]

    @property
    def variance(self) -> float:
        return self.square - self.mean**2


@dataclass(frozen=True)
class MeanField:
    """What theory expects at the layers 1 to L, arrays (L,) of float64.

    Attributes:
        q: the variance of the pre-activations; with batch norm, before it.
        chi: by what the mean square of the gradient with respect to a layer's input is multiplied on its way through
            the layer, from the output to the input; with a shortcut, through both ways together.
        gradient: log10 of the mean square of the gradient with respect to the pre-activations, where that with respect
            to the network's output has the mean square 1.
    """

    q: np.ndarray
    chi: np.ndarray
    gradient: np.ndarray


def value_and_slope(activation: Activation, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """φ(x) and φ'(x), the slope by the activation's own backward pass; arrays of the shape and dtype of `x`."""
    with backend.device("cpu"):  # whatever device new tensors are made on around here
        point = Tensor(x, requires_grad=True)
    value = activation(point)
    value.backward(np.ones_like(x))
    assert point.grad is not None
    return value.data, point.grad


def moments(activation: Activation, q: float) -> Moments:
    """The `Moments` of `activation` for pre-activations of the variance `q`, integrated numerically."""
    value, slope = value_and_slope(activation, math.sqrt(q) * POINTS)
    return Moments(*(float(DENSITY @ y) for y in (value, value * value, slope * slope)))


def steepest(activation: Activation) -> float:
    """The largest |φ'|, as found between −12 and 12."""
    return float(np.abs(value_and_slope(activation, POINTS)[1]).max())


def mean_field(
    activation: Activation,
    depth: int,
    weight_variance: float,
    *,
    bias_variance: float = 0.0,
    input_square: float = 1.0,
    norm: bool = False,
    residual: bool = False,
) -> MeanField:
    """The recursion through `depth` layers x ← φ(W x + b), of equal width.

    With `residual` a layer is x ← x + φ(W x + b). The mean square p of x and its mean m then grow by
    2 m E[φ] + E[φ²] and by E[φ], and the gradient comes back through both ways, χ = 1 + σ_w² E[φ'²] (Yang and
    Schoenholz 2017, "Mean field residual networks: on the edge of chaos").

    With `norm` there is a batch norm before φ. It divides h by its deviation over the batch, σ_w √v with v the variance
    of x over the batch, and the gradient by the same number: χ = E[φ'²] / v at q = 1, where v = Var[φ] behind a plain
    layer. The size of the weights cancels. This is the limit of a large batch of independent inputs, for ReLU
    π / (π − 1); Yang et al. 2019, "A mean field theory of batch normalization", treat batches of any size. As
    Var[φ] ≤ E[φ'²] for every φ (Poincaré's inequality), gradients in a plain network with batch norm never shrink on
    their way back to the second layer, and stay as they are only where φ is linear. Smaller batches of N have about
    1/N more a layer.

    Args:
        activation: φ, an operation on a `Tensor`, entry by entry.
        depth: the number of layers, L.
        weight_variance: σ_w², the fan-in times the variance of a weight.
        bias_variance: σ_b².
        input_square: the mean square of the network's inputs, whose mean is taken to be 0.
        norm, residual: see above.
    """
    q, chi, slopes = np.empty(depth), np.empty(depth), np.empty(depth)
    square, mean, spread = input_square, 0.0, input_square
    for layer in range(depth):
        q[layer] = weight_variance * square + bias_variance
        through = moments(activation, 1.0 if norm else q[layer])
        # of the gradient with respect to the pre-activation: its share of that with respect to the layer's output
        slopes[layer] = through.slope_square / (weight_variance * spread if norm else 1)
        chi[layer] = residual + weight_variance * slopes[layer]
        square = through.square + (square + 2 * mean * through.mean if residual else 0)
        mean = through.mean + (mean if residual else 0)
        spread = through.variance + (spread if residual else 0)
    with np.errstate(divide="ignore"):
        back = np.cumsum(np.log10(chi[::-1]))[::-1]  # from the output to the input of each layer
        above = np.append(back[1:], 0.0)  # ... to its output
        return MeanField(q, chi, above + np.log10(slopes))


def glorot_factor(weight_variance: float) -> float:
    """χ by Glorot and Bengio 2010, equation 6 (φ' = 1): n Var(w), here `weight_variance`."""
    return weight_variance


def he_factor(weight_variance: float, negative_slope: float = 0.0) -> float:
    """χ by He et al. 2015, equations 13 and 15 (a rectifier): ½ (1 + a²) n Var(w), with a the `negative_slope`."""
    return 0.5 * (1 + negative_slope**2) * weight_variance


def bound_factor(activation: Activation, weight_variance: float) -> float:
    """What χ can be at most: σ_w² max φ'². For the sigmoid σ_w² / 16."""
    return weight_variance * steepest(activation) ** 2
