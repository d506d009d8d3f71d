"""CUDA devices: whether there is one that works, and how much of its memory a convolution takes."""

from __future__ import annotations

from . import backend
from .backend import max_workspace_size, set_max_workspace_size

__all__ = ["device_count", "is_available", "max_workspace_size", "set_max_workspace_size"]


def is_available() -> bool:
    """Whether a CUDA device works: something is allocated, computed and copied back. `minicnn doctor` says why not."""
    return backend.cuda_problem() is None


def device_count() -> int:
    """How many there are; 0 where none works."""
    return backend.device_count() if is_available() else 0
