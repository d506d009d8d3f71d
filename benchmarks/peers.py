"""A network of minicnn's in another library: the operations that it runs, run by that library's functions.

minicnn lists what a network does without doing it (`minicnn.inspect.trace`), and a `Recipe` plays that list with the
functions of a `Peer`. So every variant of every network has its peer, with the same weights, the same shapes and the
same number of calls, and a value is let go after its last use, as a module's forward lets it go.

A peer has a method for each operation that its library has, named as minicnn names it. Each is in a file of its own,
`peers_NAME.py`, which alone imports the library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn import nn
from minicnn.engine import Tensor
from minicnn.inspect.trace import trace

# A training step is forward, backward, and stochastic gradient descent with these.
SGD = {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}
HEAD = 0.3  # the weight of GoogLeNet's auxiliary losses
HAVE_STATE = ("dropout", "batch_norm", "batch_norm_eval")  # operations that ask their layer for more than their inputs


class Unsupported(Exception):
    """The library cannot run this network; the message says why."""


@dataclass
class Instruction:
    """One operation: where its inputs lie in the list of values, and which of them nobody needs afterwards."""

    operation: Any
    params: dict[str, Any]
    inputs: list[int]
    finished: list[int]
    label: str
    shape: tuple[int, ...]


class Recipe:
    """What `model` does, in the mode that it is in, to images of `shape`: `run` does it with `peer`'s functions."""

    def __init__(self, peer: Peer, model: nn.Module, shape: tuple[int, ...]):
        traced = trace(model, shape)
        weights = list(model.parameters())
        # The list of values begins with the weights, the images and None, which stands for what is left out.
        place = {id(x): i for i, x in enumerate((*weights, traced.inputs[0]))}
        nothing = len(place)
        place |= {id(node): nothing + 1 + i for i, node in enumerate(traced.nodes)}
        outputs = traced.output if isinstance(traced.output, tuple) else (traced.output,)
        self.outputs = [place[id(traced.maker(x))] for x in outputs if isinstance(x, Tensor)]
        self.instructions = []
        last_user: dict[int, Instruction] = {}
        for node in traced.nodes:
            name, params = node.op.name, dict(node.params)
            operation = getattr(peer, name, None)
            if operation is None:
                raise Unsupported(f"it has no {name}")
            if name in HAVE_STATE:
                params = {"layer": node.scope[-1]} | {k: v for k, v in params.items() if k == "eps"}
            inputs = [place.get(id(x), nothing) for x in node.inputs]
            instruction = Instruction(operation, params, inputs, [], node.label, node.shape)
            last_user |= {i: instruction for i in inputs if i > nothing and i not in self.outputs}
            self.instructions.append(instruction)
        for i, instruction in last_user.items():
            instruction.finished.append(i)

    def run(self, weights: list[Any], images: Any) -> list[Any]:
        """The network's outputs, in the peer's arrays."""
        values: list[Any] = [*weights, images, None]
        for step in self.instructions:
            value = step.operation(*[values[i] for i in step.inputs], **step.params)
            if value.shape != step.shape:
                raise Unsupported(f"{step.label} has shape {tuple(value.shape)} there, not {tuple(step.shape)}")
            values.append(value)
            for i in step.finished:
                values[i] = None
        return [values[i] for i in self.outputs]


class Peer(ABC):
    """`model`, built anew in another library, with `images` (an array) and `labels` to train on.

    A library's class has the operations and `array`, `parameter`, `cross_entropy`, `update` and `infer`.
    """

    library = ""  # its name for people
    package = ""  # its name for pip

    def __init__(self, model: nn.Module, images: np.ndarray, labels: np.ndarray):
        self.model = model  # the layers' own numbers are asked for at every call
        self.images, self.labels = self.array(images), self.array(labels)
        self.weights = [self.parameter(np.array(p.data)) for p in model.parameters()]
        self.statistics = {
            id(layer): tuple(self.array(np.array(x.data)) for x in (layer.running_mean, layer.running_var))
            for layer in model.modules()
            if isinstance(layer, nn.BatchNorm2d)
        }
        self.dropping = True  # whether dropout drops
        self.training = Recipe(self, model.train(), images.shape)
        self.evaluation = Recipe(self, model.eval(), images.shape)

    def array(self, x: np.ndarray) -> Any:
        """`x` as the library takes what is not trained."""
        return x

    @abstractmethod
    def parameter(self, x: np.ndarray) -> Any:
        """`x` as the library takes what is trained."""

    @abstractmethod
    def cross_entropy(self, scores: Any, labels: Any) -> Any:
        """The mean cross-entropy of `scores`, before softmax, with class numbers."""

    @abstractmethod
    def update(self, loss: Any) -> None:
        """Backward from `loss`, and one step of `SGD`."""

    @abstractmethod
    def infer(self) -> Any:
        """The scores of the images, in evaluation mode and without a graph."""

    def step(self) -> float:
        """One training step; returns the loss before it."""
        main, *heads = self.training.run(self.weights, self.images)
        loss = self.cross_entropy(main, self.labels)
        for scores in heads:
            loss = loss + HEAD * self.cross_entropy(scores, self.labels)
        del main, heads
        self.update(loss)
        return self.number(loss)

    def number(self, loss: Any) -> float:
        return float(loss)


def window(shape: tuple[int, ...], output_size: tuple[int, int]) -> tuple[int, int] | None:
    """The sides of the windows in which `adaptive_avg_pool2d` cuts maps of `shape`; None where they are not equal."""
    (height, width), (rows, columns) = shape[2:], output_size
    return None if height % rows or width % columns else (height // rows, width // columns)


def bins(length: int, count: int) -> np.ndarray:
    """The matrix (length, count) that averages `length` entries in `count` bins: bin i from ⌊iL/n⌋ to ⌈(i+1)L/n⌉."""
    matrix = np.zeros((length, count), np.float32)
    for i in range(count):
        first, end = i * length // count, -(-(i + 1) * length // count)
        matrix[first:end, i] = 1 / (end - first)
    return matrix
