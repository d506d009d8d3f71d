"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..engine import Tensor, in_place, is_grad_enabled, is_observed, offering
from ..kernels.fast import epilogue
from .layers import BatchNorm2d, Conv2d, ReLU
from .module import Module


class Plus:
    """A step of `through`: adds ``layer(input)``, a way past the steps before; nothing, if `layer` is None."""

    def __init__(self, layer: Callable[[Tensor], Tensor] | None, input: Tensor):
        self.layer, self.input = layer, input
        self.known: Tensor | None = None

    def ahead(self) -> Tensor | None:
        """What will be added, before there is anything to add it to."""
        self.known = None if self.layer is None else self.layer(self.input)
        return self.known

    def __call__(self, x: Tensor) -> Tensor:
        if self.layer is None:
            return x
        return x + (self.layer(self.input) if self.known is None else self.known)


def through(x: Any, *steps: Callable[[Any], Any]) -> Any:
    """Layers one after the other: ``through(x, a, b, c)`` is ``c(b(a(x)))``.

    In inference (`no_grad`), a convolution's kernel does what follows it, batch norm in evaluation mode, `Plus` and
    ReLU, to each part of its output while that lies in the cache (`kernels.fast.epilogue`). The numbers are the same;
    layers that the kernel has done are not called. All are called, one by one, where somebody observes them: in
    `inspect`, or by a hook on one of them.
    """
    if is_grad_enabled():
        for step in steps:
            x = step(x)
        return x
    done = 0
    while done < len(steps):
        layer, *rest = steps[done:]
        offer = epilogue.Offer(list(_after(layer, x, rest)))
        if is_observed():
            x = layer(x)
            if offer.steps:
                offer.take(x.shape, x.dtype)
            with in_place():
                for step in rest[: offer.taken]:
                    x = step(x)
        else:
            with offering(offer if offer.steps else None):
                x = layer(x)
        done += 1 + offer.taken
    return x


def _after(layer: Any, x: Any, rest: list[Any]) -> Iterator[epilogue.Step]:
    """What the kernel of `layer` can do of the rest, if that is a convolution of images (N, C, H, W)."""
    if _passes(layer) is not CONVOLUTION or x.ndim != 4:
        return
    for step in rest:
        make = EPILOGUES.get(_passes(step))
        if make is None or (made := make(step)) is None:
            return
        yield made


def _passes(step: Any) -> Any:
    """The function that a step is when it is called; None for a module that a hook or a call of its own changes."""
    if not isinstance(step, Module):
        return type(step).__call__
    changed = step._forward_hooks or type(step).__call__ is not CALL
    return None if changed else getattr(step.forward, "__func__", None)


def _norm(layer: BatchNorm2d) -> epilogue.Norm | None:
    if layer.training or not layer.track_running_stats:
        return None
    tensors = layer.weight, layer.bias, layer.running_mean, layer.running_var
    return epilogue.Norm([None if t is None else t.data for t in tensors], layer.eps)


def _addition(plus: Plus) -> epilogue.Addition:
    tensor = plus.ahead()
    return epilogue.Addition(None if tensor is None else tensor.data)


# As they were defined: a class that somebody changes later is another.
CALL, CONVOLUTION = Module.__call__, Conv2d.forward
EPILOGUES: dict[Any, Callable[[Any], epilogue.Step | None]] = {
    BatchNorm2d.forward: _norm,
    Plus.__call__: _addition,
    ReLU.forward: lambda _: epilogue.ReLU(),
}


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
