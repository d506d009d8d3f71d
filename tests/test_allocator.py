"""The C library keeps what is freed, unless somebody has decided otherwise."""

import os
import subprocess
import sys

import pytest

from minicnn import allocator

pytestmark = pytest.mark.host

# 20 steps that each make 16 arrays of 3 MB and free them: the share of these that came afresh from the system. (In
# larger arrays its pages may be large ones.)
STEPS = """
import resource, numpy as np
from minicnn import Tensor, allocator, no_grad
from minicnn import functional as F

x = Tensor(np.ones((3, 512, 512), np.float32))
with no_grad():
    for step in range(20):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [F.relu(x) for _ in range(16)]
        del arrays
pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (18 * 48 << 20)
print(allocator.keep_freed_memory(), pages)
"""


def steps(**variables: str) -> tuple[bool, float]:
    """Whether freed memory was to be kept, and the share of a step's memory that came afresh."""
    plain = {name: value for name, value in os.environ.items() if name not in (allocator.VARIABLE, *allocator.OTHERS)}
    ran = subprocess.run(
        [sys.executable, "-c", STEPS], env=plain | variables, capture_output=True, text=True, check=True, timeout=120
    )
    kept, pages = ran.stdout.split()
    return kept == "True", float(pages)


def glibc() -> bool:
    return sys.platform == "linux" and os.confstr("CS_GNU_LIBC_VERSION") is not None


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_a_step_finds_the_memory_of_the_one_before():
    kept, pages = steps()
    assert kept and pages < 0.1


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
@pytest.mark.parametrize(
    "variable", [{allocator.VARIABLE: "0"}, {"MALLOC_TRIM_THRESHOLD_": "100000"}], ids=["ours", "glibc's"]
)
def test_who_has_decided_otherwise_is_obeyed(variable):
    kept, pages = steps(**variable)
    assert not kept and pages > 0.5


@pytest.mark.parametrize("problem", [AttributeError, OSError])
def test_another_c_library_keeps_its_ways(monkeypatch, problem):
    def library(name):
        raise problem

    monkeypatch.setattr(allocator, "_kept", None)
    for name in (allocator.VARIABLE, *allocator.OTHERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", library)
    assert allocator.keep_freed_memory() is False
