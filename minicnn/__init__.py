"""minicnn: the classic convolutional networks on a small autograd engine that can be read, run and stepped through."""

import importlib
from typing import Any

from . import cuda, functional, models, nn, optim
from .backend import device, manual_seed
from .engine import (
    Op,
    Parameter,
    Step,
    Tensor,
    apply,
    backward_steps,
    enable_grad,
    no_grad,
    use_kernels,
)
from .functional import cat, stack
from .gradcheck import gradcheck
from .threads import set_num_threads

__version__ = "0.1.0"

__all__ = [
    "Op",
    "Parameter",
    "Step",
    "Tensor",
    "apply",
    "backward_steps",
    "cat",
    "cuda",
    "device",
    "enable_grad",
    "functional",
    "gradcheck",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "optim",
    "set_num_threads",
    "stack",
    "use_kernels",
]

_loaded_on_use = ("data", "inspect", "lab", "testing", "train", "weights")
_of_inspect = ("detect_anomaly", "summary")


def __getattr__(name: str) -> Any:
    """Sub-packages that a program may not need are imported when first named."""
    if name in _of_inspect:
        return getattr(importlib.import_module(".inspect", __name__), name)
    if name in _loaded_on_use:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_loaded_on_use, *_of_inspect])
