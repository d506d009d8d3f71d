"""Deep networks of equal layers, built to be measured, and the measurement of gradients in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, nn
from .. import functional as F
from ..data import MNIST, ArrayDataset
from ..engine import Parameter, Tensor, backward_steps, dry_run
from ..nn import init
from .theory import steepest, value_and_slope

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # of slope 0.01
    "leaky_relu_0.2": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}

# N(0, 0.01²) is AlexNet's. Where a layer has as many inputs as outputs, LeCun's and Glorot's rules are one.
INITIALISATIONS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "lecun": init.lecun_normal_,
    "glorot": lambda weight, generator: init.xavier_normal_(weight, generator=generator),
    "he": lambda weight, generator: init.kaiming_normal_(weight, nonlinearity="relu", generator=generator),
    "orthogonal": lambda weight, generator: init.orthogonal_(weight, generator=generator),
    "normal": lambda weight, generator: init.normal_(weight, 0.0, 0.01, generator),
}

SATURATED = 0.05  # of the steepest slope: an entry whose slope is less is counted as saturated


def weight_variance(initialisation: str, width: int, gain: float = 1.0) -> float:
    """σ_w² = n Var(w) of a square layer of `width` n, whose weights were multiplied by `gain`."""
    return gain**2 * {"he": 2.0, "normal": width * 0.01**2}.get(initialisation, 1.0)


def chosen(experiment: str, argument: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """`names` as a tuple.

    Raises:
        ValueError: one of them is not `known`.
    """
    names, known = tuple([names] if isinstance(names, str) else names), tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{experiment}: {argument} holds {name!r}: choose from {', '.join(known)}")
    return names


def check_least(experiment: str, settings: Mapping[str, Any], **least: int) -> None:
    """Each of these settings must be at least so large, or if it is a tuple at least so long.

    Raises:
        ValueError: one is not.
    """
    for argument, bound in least.items():
        value = settings[argument]
        size, rule = (len(value), "have a length of") if isinstance(value, tuple) else (value, "be")
        if not size >= bound:
            raise ValueError(f"{experiment}: {argument} is {value!r}, and must {rule} at least {bound}")


@contextmanager
def own_random_numbers(seed: int) -> Iterator[np.random.Generator]:
    """Inside, minicnn's random numbers (weights, dropout masks) start from `seed`; after it they go on as before."""
    generator = backend.generator()
    before = generator.bit_generator.state
    generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    try:
        yield generator
    finally:
        generator.bit_generator.state = before


@contextmanager
def on(device: str | None) -> Iterator[str]:
    """Inside, new tensors are made on `device`, and arrays are computed with there; None is where they are made anyway.
    Gives the device's name.

    Raises:
        RuntimeError: the device does not work.
        ValueError: it is no name of a device.
    """
    with nullcontext() if device is None else backend.device(device):
        array = backend.new(np.zeros(1))  # tries it, before the work
        with backend.beside(array):
            yield backend.device_of(array)


# -------------------------------------------------------------------------------------------------- networks


class BatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` of rows (N, C), as of images of one pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return F.reshape(super().forward(F.reshape(input, *input.shape, 1, 1)), *input.shape)  # (N, C)


class Block(nn.Module):
    """One layer, φ(W x + b), with a batch norm before φ if wanted; with a shortcut, x is added to it."""

    def __init__(self, linear: nn.Linear, activation: str, norm: bool = False, residual: bool = False):
        super().__init__()
        self.linear = linear
        self.norm = BatchNorm(linear.out_features).to(linear.weight.dtype.name) if norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]()
        self.residual = residual

    def forward(self, input: Tensor) -> Tensor:
        output = self.activation(self.norm(self.linear(input)))
        return input + output if self.residual else output


def linear(
    inputs: int,
    outputs: int,
    initialisation: str,
    generator: np.random.Generator,
    gain: float = 1.0,
    dtype: str = "float64",
) -> nn.Linear:
    """A linear layer whose weights were drawn by `initialisation`, times `gain`; its biases are 0."""
    with dry_run():  # draws nothing
        layer = nn.Linear(inputs, outputs)
    layer.weight, layer.bias = Parameter(np.zeros((outputs, inputs), dtype)), Parameter(np.zeros(outputs, dtype))
    INITIALISATIONS[initialisation](layer.weight, generator)
    with backend.beside(layer.weight.data):
        layer.weight.data *= gain
    return layer


def blocks(linears: Iterable[nn.Linear], activation: str, norm: bool = False, residual: bool = False) -> nn.Sequential:
    """A `Block` for each linear layer, one after the other. Where a layer changes the width it has no shortcut.

    The layers are used as they are, so that several networks can share them.
    """
    return nn.Sequential(
        *(Block(layer, activation, norm, residual and layer.in_features == layer.out_features) for layer in linears)
    )


def digits(count: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """MNIST's first training images as rows (count, 784), of mean 0 and variance 1 over all of MNIST; their labels."""
    dataset = MNIST(train=True)
    images = dataset.images[:count].reshape(-1, 28 * 28).astype(dtype) / 255
    return (images - dataset.MEAN) / dataset.STD, dataset.labels[:count]


def averaged_digits(count: int, side: int) -> ArrayDataset:
    """The first `count` of `digits` as float32 images (1, side, side); `side` divides 28, and pixels are averaged."""
    pixels, labels = digits(count, "float32")
    step = 28 // side
    return ArrayDataset(pixels.reshape(count, 1, side, step, side, step).mean(axis=(3, 5)), labels)


# ----------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Layers:
    """What was measured at each block of a network, arrays (blocks,).

    Attributes:
        gradient: log10 of the mean square, over the batch and the units, of the gradient with respect to the
            pre-activations W x + b.
        logs: the mean over the batch of log10 of the mean square over the units, which is never more.
        saturated: the share of the entries at which the activation is less steep than 0.05 of its steepest.
    """

    gradient: np.ndarray
    logs: np.ndarray
    saturated: np.ndarray


def measure(network: nn.Sequential, forward: Callable[[], Tensor], gradient: np.ndarray | None = None) -> Layers:
    """Run `forward` and its backward pass once, and look at every `Block` that is a child of `network`.

    Args:
        network: holds the blocks.
        forward: runs the network; returns a loss, or the output whose `gradient` is given.
        gradient: of the output; left out, 1.
    """
    found = [child for child in network if isinstance(child, Block)]
    place = {block: i for i, block in enumerate(found)}  # two blocks may share a linear layer
    inputs: dict[nn.Module, backend.Array] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], _: Tensor) -> None:
        inputs[module] = args[0].data

    with ExitStack() as hooks:
        for block in found:
            hooks.enter_context(block.activation.register_forward_hook(keep))
        output = forward()
    sizes, logs, saturated = (np.full(len(found), np.nan) for _ in range(3))
    for step in backward_steps(output, gradient):
        i = next((place[module] for module in step.node.scope if module in place), None)
        if i is not None and step.op.name == "linear":
            rows = log10_mean_square(backend.to_host(step.grad_output))
            sizes[i], logs[i] = _log10_mean(rows), rows.mean()
    steep = {type(block.activation): SATURATED * steepest(block.activation) for block in found}
    for i, block in enumerate(found):
        slope: np.ndarray = value_and_slope(block.activation, backend.to_host(inputs[block.activation]))[1]
        saturated[i] = (np.abs(slope) < steep[type(block.activation)]).mean()  # host: theory's
    return Layers(sizes, logs, saturated)


def share_right(answers: backend.Array, labels: np.ndarray) -> float:
    """The share of the `answers` (N,), on any device, that are the `labels` (N,), on the host."""
    return float((backend.to_host(answers) == labels).mean())


def log10_mean_square(rows: np.ndarray) -> np.ndarray:
    """log10 of the mean of each row's squares, which themselves may be too small or too large for the dtype.

    `rows` (N, C) → (N,), float64.
    """
    largest = np.abs(rows).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (rows / np.where(largest > 0, largest, 1)[:, None]).astype(np.float64)  # at most 1
        return 2 * np.log10(largest) + np.log10((scaled * scaled).mean(axis=1))


@dataclass(frozen=True)
class Profile:
    """Gradients over the layers of a network, from several seeds; arrays (layers,) and numbers.

    Attributes:
        mean_square: log10 of the mean over seeds of the mean square.
        error: its standard error.
        mean_of_logs: the mean over seeds of `Layers.logs`.
        slope: by how many powers of ten the root mean square changes from a layer to the one before it, fitted by least
            squares to ``mean_square / 2``.
        slope_error: its standard error.
    """

    mean_square: np.ndarray
    error: np.ndarray
    mean_of_logs: np.ndarray
    slope: float
    slope_error: float


def profile(measured: Sequence[Layers]) -> Profile:
    """The `Profile` of networks of one kind, one from each seed.

    Standard errors are by the jackknife, each seed left out in turn, since neighbouring layers of a network fluctuate
    together; NaN for a single seed.
    """
    logs = np.array([layers.gradient for layers in measured])  # (seeds, layers)
    mean_of_logs = np.mean([layers.logs for layers in measured], axis=0)
    mean_square = _log10_mean(logs)
    slope = slope_per_layer(mean_square)
    if len(logs) == 1:
        return Profile(mean_square, np.full_like(mean_square, np.nan), mean_of_logs, slope, math.nan)
    without = np.array([_log10_mean(np.delete(logs, i, axis=0)) for i in range(len(logs))])  # (seeds, layers)
    slopes = np.array([slope_per_layer(curve) for curve in without])
    return Profile(mean_square, _jackknife(without), mean_of_logs, slope, float(_jackknife(slopes)))


def slope_per_layer(mean_square: Sequence[float] | np.ndarray) -> float:
    """`Profile.slope` of log10 of mean squares, the first layer's first. NaN for a single layer or one not finite."""
    y = np.asarray(mean_square, dtype=np.float64) / 2
    if len(y) < 2 or not np.isfinite(y).all():
        return math.nan
    back = -np.arange(len(y), dtype=np.float64)  # how far towards the input
    back -= back.mean()
    return float(back @ y / (back @ back))


def _log10_mean(logs: np.ndarray) -> np.ndarray:
    """log10 of the mean along the first axis of what `logs` are the logs of."""
    with np.errstate(invalid="ignore", divide="ignore"):  # ∞ − ∞
        largest = logs.max(axis=0)
        return np.where(np.isfinite(largest), largest + np.log10((10 ** (logs - largest)).mean(axis=0)), largest)


def _jackknife(without: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.sqrt((len(without) - 1) * without.var(axis=0))
