"""What this computer offers minicnn: versions, BLAS and its threads, a GPU, the extras, and what can be promised."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from . import allocator, backend, cuda, threads

# As in setup.cfg (a test compares them).
EXTRAS = {
    "fast": ("threadpoolctl",),
    "data": ("safetensors", "pillow", "pooch", "platformdirs", "tqdm"),
    "viz": ("matplotlib",),
    "notebook": ("jupyterlab", "nbclient", "ipykernel"),
    "cuda12": ("cupy-cuda12x",),
    "cuda13": ("cupy-cuda13x",),
    "bench": ("threadpoolctl", "matplotlib"),
    "test": (
        "pytest", "pytest-xdist", "hypothesis", "pillow", "safetensors", "nbclient", "ipykernel", "selenium", "ruff",
        "mypy",
    ),
}


def examine() -> list[tuple[str, str]]:
    """What there is to say, as (subject, one line)."""
    return [
        ("Python", f"{platform.python_version()}, {platform.python_implementation()} on {platform.platform()}"),
        ("NumPy", np.__version__),
        ("BLAS", _blas()),
        ("processors", f"{threads.cpu_count()} for this process, of {os.cpu_count()}"),
        ("threads", _threads()),
        ("equal bits", _equal_bits()),
        ("memory", _memory()),
        ("GPU", _gpu()),
        *((f"extra {name}", _extra(name)) for name in EXTRAS),
    ]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _blas() -> str:
    threads.hold_blas()
    libraries = threads.blas_libraries()
    if libraries is None:  # what NumPy was built with; nobody to ask for the number of threads
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{built['name']} {built.get('version', '')}, on as many threads as it likes"
    return "; ".join(_library(b) for b in libraries) or "none that threadpoolctl knows"


def _library(blas: dict[str, Any]) -> str:
    count, name = blas["num_threads"], blas.get("architecture")
    held = os.environ.get("OPENBLAS_CORETYPE") if blas["internal_api"] == "openblas" else None
    chosen = f", for {name} processors" if name else ""
    chosen += f" as OPENBLAS_CORETYPE is {held}: unset, it takes what this one has" if held else ""
    return f"{blas['internal_api']} {blas['version'] or ''}{chosen}, held at {count} thread{'s' * (count != 1)}"


def _threads() -> str:
    given = os.environ.get(threads.VARIABLE)
    why = "one for each processor" if given is None else f"{threads.VARIABLE} is {given}"
    return f"{threads.get_num_threads()} ({why}); --threads and {threads.VARIABLE} change it"


def _equal_bits() -> str:
    if threads.hold_blas():
        return "one seed gives the same bits on every run and any number of threads"
    return (
        "promise WITHDRAWN: without threadpoolctl BLAS splits its products among as many threads as it likes, which "
        f"changes their last bits. {_command('fast')}"
    )


def _memory() -> str:
    if allocator.keep_freed_memory():
        return f"up to {allocator.MOST >> 30} GB that was freed is kept for what comes; not with {allocator.VARIABLE}=0"
    return "what is freed goes back to the system as the C library likes"


CUPY = {"cupy-cuda12x": "cuda12", "cupy-cuda13x": "cuda13", "cupy": ""}  # distributions of CuPy, and their extras here


def _gpu() -> str:
    driver = _driver()
    installed = {name: number for name in CUPY if (number := _version(name))}
    cupy = next(iter(installed.values()), None)
    problem = backend.cuda_problem()
    if problem is None:
        found = cuda.properties("cuda")
        if found.is_gpu:
            return f"works: {found.name}, driver {found.driver}, through CuPy {found.cupy}"
        return f"none: CuPy {found.cupy} works, on a device that is no GPU: {found.name}"
    have = "CuPy is missing" if cupy is None else f"CuPy {cupy} is there"
    if driver is None:
        return f"none: {have}, and an NVIDIA driver (libcuda) is missing. Everything else works without"
    if int(driver.partition(".")[0]) < 12:
        return f"not in use: there is a driver for CUDA {driver}, and CuPy's wheels need one for 12.0: update it"
    if cupy is None:
        return f"not in use: there is a driver for CUDA {driver}, CuPy is missing. {_command(_extra_for(driver))}"
    cure = _cure(driver, list(installed))
    return f"does not work: there is a driver for CUDA {driver}, {have}, and {problem}. {cure}"


def _cure(driver: str, installed: list[str]) -> str:
    """A wheel that the driver can run may lack CUDA's libraries, which its own extra brings. Any other has to go first:
    CuPy's distributions are all unpacked into the same folder."""
    if len(installed) == 1 and (own := CUPY[installed[0]]) and own <= _extra_for(driver):
        return _command(own)
    return f"First: pip uninstall {' '.join(installed)}. {_command(_extra_for(driver))}"


def _driver() -> str | None:
    """The version of CUDA that the installed driver is for; None without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        number = ctypes.c_int()
        try:
            failed = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number))
        except (OSError, AttributeError):  # there is none, or none that can be asked
            continue
        if not failed:
            return f"{number.value // 1000}.{number.value % 1000 // 10}"
    return None


def _extra_for(driver: str) -> str:
    """A driver runs programs of its own version of CUDA, and of older ones."""
    return "cuda13" if int(driver.partition(".")[0]) >= 13 else "cuda12"


def _extra(name: str) -> str:
    found = {distribution: _version(distribution) for distribution in EXTRAS[name]}
    absent = [distribution for distribution, number in found.items() if number is None]
    if absent:
        return f"missing: {', '.join(absent)}. {_command(name)}"
    return "present: " + ", ".join(f"{distribution} {number}" for distribution, number in found.items())


def _command(extra: str) -> str:
    return f"Add with: pip install -e '.[{extra}]'"
