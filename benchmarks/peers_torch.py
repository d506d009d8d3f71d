"""PyTorch. ReLU works in place, as in torchvision's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peers import SGD, Peer
from torch.nn import functional as F


def set_threads(n: int) -> None:
    torch.set_num_threads(n)


class PyTorch(Peer):
    library, package = "PyTorch", "torch"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.optimizer = torch.optim.SGD(self.weights, **SGD)

    def array(self, x):
        return torch.from_numpy(x)

    def parameter(self, x):
        return torch.nn.Parameter(torch.from_numpy(x))

    def cross_entropy(self, scores, labels):
        return F.cross_entropy(scores, labels)

    def update(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def infer(self):
        with torch.inference_mode():
            return self.evaluation.run(self.weights, self.images)[0].numpy()

    def number(self, loss):
        return loss.item()

    def batch_norm(self, x, weight, bias, *, layer, eps):
        return F.batch_norm(x, *self.statistics[id(layer)], weight, bias, True, layer.momentum, eps)

    def batch_norm_eval(self, x, weight, bias, *, layer, eps):
        return F.batch_norm(x, *self.statistics[id(layer)], weight, bias, False, 0.0, eps)

    def dropout(self, x, *_, layer):
        return F.dropout(x, layer.p) if self.dropping else x

    def cat(self, *xs, dim):
        return torch.cat(xs, dim)

    add = staticmethod(torch.add)
    adaptive_avg_pool2d = staticmethod(F.adaptive_avg_pool2d)
    avg_pool2d = staticmethod(F.avg_pool2d)
    conv2d = staticmethod(F.conv2d)
    linear = staticmethod(F.linear)
    local_response_norm = staticmethod(F.local_response_norm)
    max_pool2d = staticmethod(F.max_pool2d)
    relu = staticmethod(torch.relu_)
    reshape = staticmethod(torch.reshape)
    tanh = staticmethod(torch.tanh)


def convolution(x: np.ndarray, w: np.ndarray, **params: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Forward, and one gradient at a time from a graph that is kept."""
    arrays = torch.from_numpy(x), torch.from_numpy(w)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return F.conv2d(*arrays, **params)

    gradient = torch.randn(forward().shape)
    yield "forward", forward
    for name, wanted in (("input gradient", 0), ("weight gradient", 1)):
        leaves = [a.clone().requires_grad_(i == wanted) for i, a in enumerate(arrays)]
        output, leaf = F.conv2d(*leaves, **params), leaves[wanted]
        yield name, lambda output=output, leaf=leaf: torch.autograd.grad(output, leaf, gradient, retain_graph=True)


CONTENDER = PyTorch
