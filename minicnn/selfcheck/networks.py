"""The five networks that are checked, and one training step of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import backend, models
from ..engine import Tensor
from ..nn import Module
from ..optim import SGD


class Size(NamedTuple):
    """How large a network and its batch are."""

    batch: int
    side: int
    width: float = 1.0

    def __str__(self) -> str:
        return f"{self.batch} images of {self.side}×{self.side}, width {self.width:g}"


# Small: every layer is there, and a step takes a moment everywhere. Large: a GPU has something to do.
SMALL = {
    "lenet5": Size(4, 28),
    "alexnet": Size(2, 67, 0.0625),
    "vgg16": Size(2, 32, 0.0625),
    "googlenet": Size(2, 33, 0.125),
    "resnet18": Size(4, 32, 0.125),
}
LARGE = {
    "lenet5": Size(64, 28),
    "alexnet": Size(16, 127),
    "vgg16": Size(16, 64),
    "googlenet": Size(16, 64),
    "resnet18": Size(16, 64),
}


class Training:
    """A network on a device, with its optimiser and one batch; the same numbers for the same arguments everywhere."""

    def __init__(self, name: str, size: Size, device: str, dtype: str = "float32"):
        backend.manual_seed(0)
        self.channels = 1 if name == "lenet5" else 3
        self.device = device
        self.model: Module = getattr(models, name)(
            num_classes=10, in_channels=self.channels, input_size=size.side, width=size.width
        )
        self.model.to(device, dtype).train()
        self.criterion = models.paper_loss(self.model)
        self.optimizer = SGD(self.model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        rng = np.random.default_rng(0)
        self.images: np.ndarray = rng.standard_normal((size.batch, self.channels, size.side, size.side)).astype(dtype)
        self.labels: np.ndarray = rng.integers(0, 10, size.batch)

    def forward(self) -> Tensor:
        """The loss, on the device."""
        return self.criterion(self.model(Tensor(self.images).to(self.device)), self.labels)

    def step(self) -> Tensor:
        """One training step; the loss, on the device."""
        loss = self.forward()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def outcome(self) -> dict[str, np.ndarray]:
        """A step's loss, every gradient, and every parameter and running statistic after it, on the host."""
        loss = self.step()
        found: dict[str, Any] = {"loss": loss.data}
        found |= {f"gradient of {name}": p.grad for name, p in self.model.named_parameters()}
        found |= self.model.state_dict()
        check_places(found, self.device)
        return {name: backend.to_host(value) for name, value in found.items()}


def check_places(arrays: dict[str, Any], device: str) -> None:
    """Refuse arrays that came to lie elsewhere: where there are several devices, results follow what they are of."""
    for name, array in arrays.items():
        if backend.device_of(array) != backend.device(device):
            raise RuntimeError(f"{name} is on {backend.device_of(array)}, and must be on {backend.device(device)}")


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` training images of MNIST, normalised, and their labels."""
    from ..data import MNIST, Normalize

    everything = MNIST()
    images, labels = everything.batch(np.arange(count))
    return Normalize(everything.MEAN, everything.STD)(images), labels
