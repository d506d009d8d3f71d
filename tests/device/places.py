"""Lets tests that were written for the host run on a device.

A test writes NumPy's arrays into ``.data`` and ``.grad``: on a device they cross over on the way. What it reads there
is an array of the device's. The double turns into NumPy's where a test wants it to; CuPy never does, so with CuPy a
test reads a copy on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn import backend
from minicnn.engine import Tensor

from . import double


class Seen(np.ndarray):
    """A copy on the host; what a test writes into it is written to the device, too."""

    there: Any = None

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        if self.there is not None:
            backend.assign(self.there, np.array(self))


class Slot:
    """``Tensor.data`` or ``Tensor.grad``, with a crossing wherever a test uses it."""

    def __init__(self, slot: Any, copies: bool):
        self._slot, self._copies = slot, copies

    def __get__(self, tensor: Any, owner: Any = None) -> Any:
        if tensor is None:
            return self._slot
        value = self._slot.__get__(tensor, owner)
        if self._copies and value is not None and not isinstance(value, np.ndarray) and double.looking():
            seen = backend.to_host(value).view(Seen)
            seen.there = value
            return seen
        return value

    def __set__(self, tensor: Any, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic) and double.looking():
            value = backend.new(np.asarray(value))
        self._slot.__set__(tensor, value)


def _moved(x: Any, move: Callable[[Any], Any]) -> Any:
    """`x` with every array in it moved."""
    if backend.is_array(x):
        return move(x)
    if isinstance(x, tuple | list):
        return type(x)(_moved(item, move) for item in x)
    return {k: _moved(v, move) for k, v in x.items()} if isinstance(x, dict) else x


def crossing(kernel: Callable) -> Callable:
    """`kernel` on the device: arrays of the host cross over, and results come back; what it saves stays there.

    The device is current meanwhile, as the engine has it.
    """

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        there = functools.partial(_moved, move=lambda x: backend.new(np.asarray(x)) if _of_host(x) else x)
        back = functools.partial(_moved, move=backend.to_host)
        with backend.beside(backend.new(np.zeros(1))):
            result = kernel(*map(there, args), **there(kwargs))
        return (back(result[0]), result[1]) if kernel.__name__.endswith("_forward") else back(result)

    return call


def _of_host(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic)


def on_a_device() -> bool:
    """Whether the tests run on one."""
    return isinstance(vars(Tensor)["data"], Slot)


def install(device: str) -> None:
    """Make tests run on ``"double"`` or ``"cuda"``."""
    if device == "double":
        double.install()
    for name in ("data", "grad"):
        setattr(Tensor, name, Slot(vars(Tensor)[name], copies=device == "cuda"))
