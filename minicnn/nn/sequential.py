"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..engine import Tensor, in_place, is_grad_enabled, is_observed, offering
from ..kernels.fast import epilogue
from .layers import BatchNorm2d, Conv2d, Identity, ReLU, Tanh
from .module import Module


class Plus:
    """A step of `through`: adds ``layer(input)``, a way past the steps before; nothing, if `layer` is None."""

    def __init__(self, layer: Callable[[Any], Any] | None, input: Any):
        self.layer, self.input = layer, input

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.layer is None else x + self.layer(self.input)


def through(x: Any, *steps: Callable[[Any], Any]) -> Any:
    """Layers one after the other: ``through(x, a, b, c)`` is ``c(b(a(x)))``.

    In inference (`no_grad`), a convolution's kernel does what follows it, batch norm in evaluation mode, `Plus`, ReLU
    and tanh, to each part of its output while that lies in the cache (`kernels.fast.epilogue`). The numbers are the
    same. What `Plus` adds is computed before the convolution, and layers that the kernel has done are not called. They
    are all called, one by one, where somebody observes operations (`inspect`), and from the first on that has a hook,
    or a `forward` of its own.
    """
    if is_grad_enabled():
        for step in steps:
            x = step(x)
        return x
    waiting = list(steps)
    while waiting:
        layer = waiting.pop(0)
        follow = _follow(waiting) if _function(layer) is CONVOLUTION and isinstance(x, Tensor) and x.ndim == 4 else []
        if not follow:
            x = layer(x)
            continue
        offer = epilogue.Offer(x.data, follow)
        if is_observed():
            x = layer(x)
            offer.take(x.shape, x.dtype)
            with in_place():
                for _ in range(len(offer.taken)):
                    x = waiting.pop(0)(x)
        else:
            with offering(offer):
                x = layer(x)
            del waiting[: len(offer.taken)]
        del offer  # and with it the shortcut's maps
    return x


def _follow(waiting: list[Any]) -> list[epilogue.Step]:
    """What a convolution's kernel may do of the layers that wait behind it, up to the first that it cannot. Each `Plus`
    among them learns here what it adds."""
    follow: list[epilogue.Step] = []
    for i, layer in enumerate(waiting):
        function = _function(layer)
        if function is RELU:
            follow.append(epilogue.relu())
        elif function is TANH:
            follow.append(epilogue.tanh())
        elif function is BATCH_NORM and not layer.training and layer.track_running_stats:
            tensors = layer.weight, layer.bias, layer.running_mean, layer.running_var
            follow.append(epilogue.batch_norm([None if t is None else t.data for t in tensors], layer.eps))
        elif function is PLUS and layer.layer is None:
            follow.append(epilogue.nothing())
        elif function is PLUS:
            shortcut = layer.layer(layer.input)
            waiting[i] = Plus(Identity(), shortcut)
            follow.append(epilogue.addition(shortcut.data if isinstance(shortcut, Tensor) else shortcut))
        else:
            break
    return follow


def _function(step: Any) -> Any:
    """What a step's call comes to; None for a module that a hook, or a call or forward of its own, changes."""
    if not isinstance(step, Module):
        return type(step).__call__
    forward: Any = step.forward
    changed = step._forward_hooks or type(step).__call__ is not CALL or getattr(forward, "__self__", None) is not step
    return None if changed else forward.__func__


# As they were defined: what somebody puts in their place later is another function.
CALL, PLUS = Module.__call__, Plus.__call__
CONVOLUTION, BATCH_NORM, RELU, TANH = Conv2d.forward, BatchNorm2d.forward, ReLU.forward, Tanh.forward


class Sequential(Module):
    """Modules one after the other.

    ``Sequential(a, b)`` names them "0" and "1"; names of your own come as a dict or as pairs:
    ``Sequential({"conv": a, "relu": b})``, ``Sequential(("conv", a), ("relu", b))``.
    """

    def __init__(self, *modules: Any):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], dict):
            modules = tuple(modules[0].items())
        for index, entry in enumerate(modules):
            name, module = entry if isinstance(entry, tuple) else (str(index), entry)
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        return through(input, *self._modules.values())

    def append(self, module: Module) -> Sequential:
        """Add a module at the end, under the next number."""
        self.add_module(str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return list(self._modules.values())[index]
