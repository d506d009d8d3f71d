"""What the tests of the networks share: which there are, their losses, and weights drawn from names alone."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn import Tensor, models, nn
from minicnn import functional as F
from minicnn.engine import dry_run, no_grad

FIXTURES = Path(__file__).parent / "fixtures"
CIFAR = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
NETWORKS = tuple(sorted(name for name in models.__all__ if name.islower() and not name.endswith("_loss")))


def variants(network: str) -> tuple[str, ...]:
    return ("modern", "1998") if network == "lenet5" else ("paper",) if network in CIFAR else ("paper", "torchvision")


EACH = [(network, variant) for network in NETWORKS for variant in variants(network)]


def channels(network: str) -> int:
    return 1 if network == "lenet5" else 3


@contextmanager
def without_drawing() -> Iterator[None]:
    """Weights begin as zeros: drawing VGG's takes seconds, and shapes do not depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "_draw", lambda name, tensor, generator, draw: tensor)
        yield


def build(network: str, variant: str, **options: Any) -> nn.Module:
    """The network; where only a small one will do, `width` is left out if the variant's is fixed."""
    if variant == "1998":
        options.pop("width", None)
    return getattr(models, network)(variant=variant, **options)


def loss_of(model: nn.Module, output: Any, target: np.ndarray) -> Tensor:
    """The network's own criterion."""
    if model.variant == "1998":
        return models.lenet5_loss(output, target)
    return (models.googlenet_loss if model.architecture == "googlenet" else F.cross_entropy)(output, target)


def parameters(model: nn.Module) -> int:
    return sum(parameter.size for parameter in model.parameters())


def shape_of(model: nn.Module, *shape: int) -> Any:
    """The shape of the output (or outputs) for images of `shape`, by a dry run."""
    with dry_run(), no_grad():
        output = model(Tensor(np.broadcast_to(np.float32(0), shape)))
    return tuple(o.shape for o in output) if isinstance(output, tuple) else output.shape


def torchvision_state(network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in torchvision 0.29.1, in its order."""
    with gzip.open(FIXTURES / "state_dicts.json.gz") as file:
        return {name: tuple(shape) for name, shape in json.load(file)[network].items()}


# ---------------------------------------------------------- weights, images and labels from a seed and a name alone

SEED = 1998


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The entry `name` of a state dict: convolutions and linear layers by He's rule, norms near their start."""
    random, leaf = np.random.default_rng([SEED, zlib.crc32(name.encode())]), name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return (1 + 0.2 * random.random(shape)).astype(np.float32)
    if leaf in ("running_mean", "bias"):
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:
        return (1 + 0.1 * random.standard_normal(shape)).astype(np.float32)
    return (random.standard_normal(shape) * np.sqrt(2 / int(np.prod(shape[1:])))).astype(np.float32)


def fill(model: nn.Module) -> nn.Module:
    """Give all parameters and buffers drawn values."""
    model.load_state_dict({name: drawn(name, array.shape) for name, array in model.state_dict().items()})
    return model


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([SEED, 7]).standard_normal((n, *shape)).astype(np.float32)


def labels(n: int, classes: int) -> np.ndarray:
    return np.random.default_rng([SEED, 8]).integers(0, classes, n)


def sampled(name: str, size: int) -> np.ndarray:
    """The eight positions of a gradient that the references hold."""
    return np.random.default_rng([SEED, 9, zlib.crc32(name.encode())]).integers(0, size, 8)
