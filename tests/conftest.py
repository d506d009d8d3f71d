"""What all tests share: random numbers from a fixed seed, and a check that no test leaves the process changed."""

import os

# The tests run in several processes already: a BLAS with threads of its own in each of them only slows them down.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(variable, "1")

from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from minicnn import backend, engine, threads

# Without deadlines, because a busy machine is not a bug; in CI with the same examples every time.
settings.register_profile(
    "minicnn",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("minicnn")

CONTEXT = {name: variable for name, variable in vars(engine).items() if isinstance(variable, ContextVar)}


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator for the test's own data, the same numbers in every run."""
    return np.random.default_rng(20_240_229)


def process_state() -> dict[str, Any]:
    """What a test must leave as it found it."""
    return {
        **{f"engine.{name}": variable.get() for name, variable in CONTEXT.items()},
        "the number of threads": threads._requested,
        "np.geterr()": np.geterr(),
        "np.get_printoptions()": np.get_printoptions(),
        "the working directory": os.getcwd(),
        "the environment": {name: value for name, value in os.environ.items() if name.startswith("MINICNN_")},
    }


def restore(state: dict[str, Any]) -> None:
    """Put back what would make the tests that follow fail too."""
    for name, variable in CONTEXT.items():
        variable.set(state[f"engine.{name}"])
    threads._requested = state["the number of threads"]
    np.seterr(**state["np.geterr()"])
    np.set_printoptions(**state["np.get_printoptions()"])
    os.chdir(state["the working directory"])


@pytest.fixture(autouse=True)
def no_leaks():
    """Start each test from the same random numbers, and fail it if it leaves global state changed."""
    backend.manual_seed(0)
    before = process_state()
    yield
    after = process_state()
    changed = [f"{name}: {value!r} -> {after[name]!r}" for name, value in before.items() if after[name] != value]
    if changed:
        restore(before)
        pytest.fail("this test left global state changed:\n" + "\n".join(changed), pytrace=False)
