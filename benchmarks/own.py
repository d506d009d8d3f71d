"""minicnn as a contender: a network's training step and inference, and the three passes of a convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from peers import SGD

import minicnn
from minicnn import Tensor, nn
from minicnn import functional as F


class Own:
    """What `peers.Peer` is for another library."""

    library, package = "minicnn", "minicnn-from-scratch"

    def __init__(self, model: nn.Module, images: np.ndarray, labels: np.ndarray):
        self.model, self.images, self.labels = model, images, labels
        self.loss = minicnn.models.paper_loss(model)
        self.optimizer = minicnn.optim.SGD(model.parameters(), **SGD)
        self.rates = {layer: layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)}
        model.train()

    @property
    def dropping(self) -> bool:
        return all(layer.p == p for layer, p in self.rates.items())

    @dropping.setter
    def dropping(self, on: bool) -> None:
        for layer, p in self.rates.items():
            layer.p = p if on else 0.0

    def step(self) -> float:
        self.model.train()
        loss = self.loss(self.model(Tensor(self.images)), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def infer(self) -> np.ndarray:
        self.model.eval()
        with minicnn.no_grad():
            return self.model(Tensor(self.images)).data


def convolution(x: np.ndarray, w: np.ndarray, **params: object) -> Iterator[tuple[str, Callable[[], object]]]:
    """Forward, and one gradient at a time from a graph that is kept."""

    def forward() -> Tensor:
        with minicnn.no_grad():
            return F.conv2d(Tensor(x), Tensor(w), **params)

    gradient = np.random.default_rng(2).standard_normal(forward().shape, dtype=np.float32)
    yield "forward", forward
    for name, wanted in (("input gradient", (True, False)), ("weight gradient", (False, True))):
        leaves = (Tensor(a, requires_grad=want) for a, want in zip((x, w), wanted, strict=True))
        output = F.conv2d(*leaves, **params)
        yield name, lambda output=output: next(minicnn.backward_steps(output, gradient))
