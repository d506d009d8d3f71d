"""CUDA devices: whether there is one that works, and how much of its memory a convolution takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from . import backend
from .backend import max_workspace_size, set_max_workspace_size

__all__ = ["device_count", "is_available", "max_workspace_size", "set_max_workspace_size"]


def is_available() -> bool:
    """Whether a CUDA device works: something is allocated, computed and copied back. `minicnn doctor` says why not."""
    return backend.cuda_problem() is None


def device_count() -> int:
    """How many there are; 0 where none works."""
    return backend.device_count() if is_available() else 0


# ------------------------------------------------------------------------------- what `minicnn selfcheck` asks

# What names of NVIDIA's GPUs begin with. Another name is not taken for a GPU's: an emulated device has one, too.
GPU_NAMES = ("GeForce", "GRID", "NVIDIA", "Orin", "Quadro", "Tesla", "TITAN", "Xavier")


class Properties(NamedTuple):
    """What a device says about itself."""

    name: str
    is_gpu: bool  # its name is one of a GPU's; False for an emulated device
    memory: int  # bytes
    driver: str  # its version, where it tells, else "for CUDA 12.9"
    cuda: str  # of the runtime
    cupy: str


def properties(device: str) -> Properties:
    """What the device of this name says about itself."""
    cupy = backend._cupy()
    runtime = cupy.cuda.runtime
    found = runtime.getDeviceProperties(backend.device(device).index)
    name = found["name"].decode()
    is_gpu = name.startswith(GPU_NAMES) and "no GPU" not in name
    driver = (_linux_driver() if is_gpu else None) or f"for CUDA {_dotted(runtime.driverGetVersion())}"
    cuda = _dotted(runtime.runtimeGetVersion())
    return Properties(name, is_gpu, int(found["totalGlobalMem"]), driver, cuda, cupy.__version__)


def _dotted(number: int) -> str:
    """12090 → 12.9, as CUDA counts."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _linux_driver(path: str = "/proc/driver/nvidia/version") -> str | None:
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", Path(path).read_text("utf-8", "replace"))
    except OSError:
        return None
    return found and found[0]


def synchronize(device: str) -> None:
    """Wait until this device has done all that was asked of it."""
    backend._cupy().cuda.Device(backend.device(device).index).synchronize()


def used_memory(device: str) -> int:
    """Bytes in arrays on this device."""
    with _pool(device) as pool:
        return int(pool.used_bytes())


def held_memory(device: str) -> int:
    """Bytes that CuPy holds on this device, in arrays or to use again: the most that was used at one time since
    `release_memory`, and what rounding and gaps add."""
    with _pool(device) as pool:
        return int(pool.total_bytes())


def release_memory(device: str) -> None:
    """Give back what CuPy holds on this device and no array uses."""
    with _pool(device) as pool:
        pool.free_all_blocks()


@contextmanager
def _pool(device: str) -> Iterator[Any]:
    """CuPy's memory pool, which tells of the device that is current."""
    cupy = backend._cupy()
    with cupy.cuda.Device(backend.device(device).index):
        yield cupy.get_default_memory_pool()


@contextmanager
def synchronization_refused() -> Iterator[None]:
    """Inside, whatever waits for the device raises: a copy to the host, ``float()`` of a result, an index by a mask.

    CuPy's ``cupyx.allow_synchronize(False)``, which calls itself incomplete: waiting outside CuPy's Python is not seen.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cupyx.allow_synchronize", UserWarning)  # that it will go, in a later CuPy
        with backend._cupyx().allow_synchronize(False):
            yield
