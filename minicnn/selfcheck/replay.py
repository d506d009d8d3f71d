"""PyTorch's time for the same training step: what minicnn's forward pass recorded, carried out by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..engine import Node, Tensor
from .networks import Training


def _torch() -> Any:
    return import_module("torch")  # optional, and without the hints that `import` would ask for


def _ordered(last: Node) -> list[Node]:
    """All that `last` was made from, and itself, in the order in which they were made."""
    found, waiting = {}, [last]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += [source for source in node.inputs if isinstance(source, Node)]
    return sorted(found.values(), key=lambda node: node.sequence)


def training_step(training: Training) -> Callable[[], object]:
    """A step (forward, backward, SGD with momentum) in PyTorch, on the CPU, of what `training` computes on the host.

    Raises:
        NotImplementedError: it has an operation that this does not know.
    """
    torch = _torch()
    loss = training.forward()
    assert loss.node is not None
    nodes = _ordered(loss.node)
    leaves = {id(x): x for node in nodes for x in node.inputs if isinstance(x, Tensor)}
    given = {key: torch.tensor(x.numpy(), requires_grad=x.requires_grad) for key, x in leaves.items()}
    calls = [(node, _call(node)) for node in nodes]
    optimizer = torch.optim.SGD([x for x in given.values() if x.requires_grad], **_options(training))

    def step() -> object:
        values: dict[int, Any] = dict(given)
        for node, call in calls:
            values[id(node)] = call(*(None if x is None else values[id(x)] for x in node.inputs))
        optimizer.zero_grad()
        values[id(nodes[-1])].backward()
        optimizer.step()
        return values[id(nodes[-1])]

    return step


def _options(training: Training) -> dict[str, Any]:
    group = training.optimizer.param_groups[0]
    return {name: group[name] for name in ("lr", "momentum", "weight_decay")}


def _call(node: Node) -> Callable[..., Any]:
    """The operation of `node` in PyTorch, a function of its inputs."""
    torch = _torch()
    G, p = torch.nn.functional, node.params
    calls: dict[str, Callable[..., Any]] = {
        "add": torch.add,
        "mul": torch.mul,
        "conv2d": lambda x, w, b: G.conv2d(x, w, b, p["stride"], p["padding"], p["dilation"], p["groups"]),
        "linear": G.linear,
        "relu": G.relu,
        "tanh": torch.tanh,
        "reshape": lambda x: x.reshape(p["shape"]),
        "cat": lambda *x: torch.cat(x, p["dim"]),
        "max_pool2d": lambda x: G.max_pool2d(
            x, p["kernel_size"], p["stride"], p["padding"], p["dilation"], p["ceil_mode"]
        ),
        "avg_pool2d": lambda x: G.avg_pool2d(x, p["kernel_size"], p["stride"], p["padding"], p["ceil_mode"]),
        "adaptive_avg_pool2d": lambda x: G.adaptive_avg_pool2d(x, p["output_size"]),
        "local_response_norm": lambda x: G.local_response_norm(x, p["size"], p["alpha"], p["beta"], p["k"]),
        "batch_norm": lambda x, w, b: G.batch_norm(x, None, None, w, b, True, 0.0, p["eps"]),
        "dropout": lambda x, mask: x * mask,
        "cross_entropy": lambda x: G.cross_entropy(x, torch.tensor(p["target"])),
        "mean": lambda x: x.mean(p["dim"], p["keepdim"]),
    }
    if node.op.name not in calls:
        raise NotImplementedError(f"PyTorch's {node.op.name} is not among those that are timed")
    return calls[node.op.name]
