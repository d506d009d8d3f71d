"""How weights begin: functions that fill a tensor in place, and the papers that they come from.

All of the scaled rules answer one question: how large may the weights be, so that the signal (or, going backward, the
gradient) is as large behind a layer as before it? A sum of `fan_in` products of independent numbers of mean 0 has
fan_in · Var(w) times the variance of its inputs, so Var(w) should be about 1 / fan_in.

Names, arguments and defaults are PyTorch's; `lecun_uniform_`, `lecun_normal_` and `alexnet_` are additions. Numbers are
drawn in float64 on the host, from `generator` (a ``numpy.random.Generator``) or else from the one that
`minicnn.manual_seed` starts, and then take the tensor's dtype and device, so that every device begins from the same
ones. Each function returns its tensor. An empty tensor is left as it is.

Raises, throughout:
    TypeError: the tensor is no `Tensor` of real floating-point numbers, or `generator` is no generator.
    ValueError: an argument is out of its range, or a fan is needed and the tensor has fewer than two dimensions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import numpy as np

from .. import backend
from ..engine import Tensor, is_dry_run

Generator = np.random.Generator

BLOCK = 1 << 16  # numbers drawn at a time, so that a layer of 100 million weights needs no float64 copy of them all

_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


# ------------------------------------------------------------------------------------------------ plain numbers

def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with `val`."""
    _check_tensor("constant_", tensor)
    if not is_dry_run():
        with backend.beside(tensor.data):
            tensor.data[...] = val
    return tensor


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill from the uniform distribution on [a, b)."""
    if not a <= b:
        raise ValueError(f"uniform_: a is {a} and b is {b}: a must not be above b")
    return _draw("uniform_", tensor, generator, lambda random, n: random.uniform(a, b, n))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill from the normal distribution N(mean, std²)."""
    if not std >= 0:
        raise ValueError(f"normal_: std is {std}, and must be at least 0")
    return _draw("normal_", tensor, generator, lambda random, n: random.normal(mean, std, n))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill from N(mean, std²) cut off below `a` and above `b` (values, not multiples of `std`).

    Numbers that fall outside are drawn again. Where most would, candidates are drawn evenly from [a, b] instead, and
    each is kept with a probability in proportion to the normal density.
    """
    if not (std > 0 and a < b):
        raise ValueError(f"trunc_normal_: std is {std}, a is {a}, b is {b}: std must be above 0, and a below b")
    inside = (math.erf((b - mean) / (std * math.sqrt(2))) - math.erf((a - mean) / (std * math.sqrt(2)))) / 2
    peak = min(max(mean, a), b)  # where in [a, b] the density is highest
    # 9 deviations further on, it is 10⁻¹⁷ of that: less than the smallest step between two uniform random numbers
    low, high = max(a, peak - 9 * std), min(b, peak + 9 * std)

    def accepted(random: Generator, n: int) -> np.ndarray:
        if inside > 0.3:
            x = random.normal(mean, std, n)
            return x[(x >= a) & (x <= b)]
        x = random.uniform(low, high, n)
        return x[random.random(n) < np.exp(((peak - mean) ** 2 - (x - mean) ** 2) / (2 * std**2))]

    def draw(random: Generator, n: int) -> np.ndarray:
        parts = [accepted(random, n)]
        while (lacking := n - sum(map(len, parts))) > 0:
            parts.append(accepted(random, 2 * lacking + 16)[:lacking])
        return np.concatenate(parts)

    return _draw("trunc_normal_", tensor, generator, draw)


# ---------------------------------------------------------------------------------------------- scaled by the fans

def lecun_uniform_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill from U(−√(3 / fan_in), √(3 / fan_in)), whose variance is 1 / fan_in.

    LeCun, Bottou, Orr & Müller 1998, "Efficient BackProp", section 4.6, equation 16: σ = fan_in^(−1/2), for sigmoids
    scaled as there (1.7159·tanh(2x/3)) and normalised inputs.
    """
    return _scaled_uniform(tensor, 1.0, fan_in_and_fan_out(tensor)[0], generator)


def lecun_normal_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill from N(0, 1 / fan_in); source as for `lecun_uniform_`."""
    return _scaled_normal(tensor, 1.0, fan_in_and_fan_out(tensor)[0], generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill from U(−r, r) with r = gain · √(6 / (fan_in + fan_out)).

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", section 4.2.1,
    equation 16: the compromise between keeping the signal's variance (1 / fan_in) and the gradient's (1 / fan_out).
    """
    return _scaled_uniform(tensor, gain, sum(fan_in_and_fan_out(tensor)) / 2, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill from N(0, gain² · 2 / (fan_in + fan_out)): Glorot & Bengio 2010, equation 12."""
    return _scaled_normal(tensor, gain, sum(fan_in_and_fan_out(tensor)) / 2, generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill from the uniform distribution with the variance of `kaiming_normal_`: U(−r, r), r = gain · √(3 / fan)."""
    return _scaled_uniform(tensor, calculate_gain(nonlinearity, a), _fan("kaiming_uniform_", tensor, mode), generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill from N(0, gain² / fan), which makes up for what a rectifier behind the layer takes away.

    He, Zhang, Ren & Sun 2015, "Delving deep into rectifiers", section 2.2: equation 10, ½ · fan_in · Var(w) = 1, with
    ``mode="fan_in"``; equation 14, ½ · fan_out · Var(w) = 1, with ``"fan_out"``; ½ · (1 + a²) for a leaky rectifier of
    slope `a` (equation 15).

    Args:
        tensor: a weight of at least two dimensions.
        a: the rectifier's negative slope; used with ``nonlinearity="leaky_relu"`` only.
        mode: ``"fan_in"`` keeps the size of the signal, ``"fan_out"`` that of the gradient.
        nonlinearity: what follows the layer; see `calculate_gain`.
        generator: see above.
    """
    return _scaled_normal(tensor, calculate_gain(nonlinearity, a), _fan("kaiming_normal_", tensor, mode), generator)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """PyTorch's recommended factor on the standard deviation, for the function that follows the layer.

    1 for ``linear``, ``conv1d`` to ``conv3d`` and ``sigmoid``; 5/3 for ``tanh``; √2 for ``relu`` (He et al. 2015);
    √(2 / (1 + slope²)) for ``leaky_relu``, whose slope is `param` or 0.01; 3/4 for ``selu``.
    """
    if nonlinearity in _GAINS:
        return _GAINS[nonlinearity]
    if nonlinearity != "leaky_relu":
        known = [*_GAINS, "leaky_relu"]
        near = difflib.get_close_matches(str(nonlinearity), known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(known)}"
        raise ValueError(f"calculate_gain: unknown nonlinearity {nonlinearity!r}. {hint}")
    slope = 0.01 if param is None else param
    if isinstance(slope, bool) or not isinstance(slope, int | float):
        raise ValueError(f"calculate_gain: param is {slope!r}, and must be a number, the slope of 'leaky_relu'")
    return math.sqrt(2 / (1 + slope**2))


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs one output of the layer sums over, and how many outputs one input goes to.

    The weight of a linear layer is (out, in); of a convolution, (out, in / groups, kh, kw), where each channel counts
    once for every place in the window. As in PyTorch, fan_out is out · kh · kw whatever the groups.
    """
    _check_tensor("fan_in_and_fan_out", tensor)
    if tensor.ndim < 2:
        raise ValueError(
            f"fan_in_and_fan_out: the tensor has shape {tensor.shape}, and must have at least two dimensions, "
            "(out, in, ...): a bias has no fan. Fill it with zeros_, constant_ or uniform_"
        )
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


# ---------------------------------------------------------------------------------------------------------- others

def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Fill with `gain` times a matrix (out, everything else) of orthonormal rows or, where it is tall, columns.

    Saxe, McClelland & Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", section 3. The matrix is drawn evenly from all such ones: QR of normal numbers with the signs of R's
    diagonal divided out, after Mezzadri 2007, "How to generate random matrices from the classical compact groups",
    section 5.
    """
    _check_tensor("orthogonal_", tensor)
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: the tensor has shape {tensor.shape}, and must have at least two dimensions")
    if tensor.size == 0:
        return tensor
    rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
    normal = _generator("orthogonal_", generator).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)  # orthonormal columns
    q = q * np.where(np.diag(r) < 0, -1, 1)
    return _write(tensor, gain * (q if rows >= columns else q.T))


def alexnet_(
    weight: Tensor, bias: Tensor, bias_value: float, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Start one layer of AlexNet: weights from N(0, 0.01²), all biases `bias_value`.

    Krizhevsky, Sutskever & Hinton 2012, section 5: biases of one in the second, fourth and fifth convolution and in
    the hidden fully-connected layers, so that their rectifiers begin with positive inputs; of zero in the others.
    """
    return normal_(weight, 0.0, 0.01, generator), constant_(bias, bias_value)


# -------------------------------------------------------------------------------------------------------- the inside

def _scaled_uniform(tensor: Tensor, gain: float, fan: float, generator: Generator | None) -> Tensor:
    bound = gain * math.sqrt(3 / fan) if fan else 0.0  # U(−r, r) has the variance r²/3; without a fan, no weights
    return uniform_(tensor, -bound, bound, generator)


def _scaled_normal(tensor: Tensor, gain: float, fan: float, generator: Generator | None) -> Tensor:
    return normal_(tensor, 0.0, gain / math.sqrt(fan) if fan else 0.0, generator)


def _fan(name: str, tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode is {mode!r}, and must be 'fan_in' or 'fan_out'")
    return fan_in_and_fan_out(tensor)[mode == "fan_out"]


def _draw(
    name: str, tensor: Tensor, generator: Generator | None, draw: Callable[[Generator, int], np.ndarray]
) -> Tensor:
    """Fill `tensor`, in order, with what ``draw(random, n)`` gives."""
    _check_tensor(name, tensor)
    random = _generator(name, generator)
    if is_dry_run():
        return tensor
    values = np.empty(tensor.size, tensor.dtype)
    for start in range(0, tensor.size, BLOCK):
        block = values[start : start + BLOCK]
        block[...] = draw(random, block.size)
    return _write(tensor, values)


def _write(tensor: Tensor, values: np.ndarray) -> Tensor:
    values = values.reshape(tensor.shape).astype(tensor.dtype, copy=False)
    backend.assign(tensor.data, values)
    return tensor


def _generator(name: str, generator: Generator | None) -> Generator:
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"{name}: generator is a {type(generator).__name__}, and must be a numpy.random.Generator, for instance "
            "numpy.random.default_rng(seed)"
        )
    return backend.generator() if generator is None else generator


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: fills a Tensor in place, got a {type(tensor).__name__}")
    if tensor.dtype.kind != "f":
        raise TypeError(f"{name}: the tensor is {tensor.dtype}, and must be of real floating-point numbers")
