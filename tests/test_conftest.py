"""Test the tester: a test that leaves global state changed fails, and only that one."""

import subprocess
import sys
from pathlib import Path

import pytest

LEAKS = {
    "engine._grad_enabled": "engine._grad_enabled.set(False)",
    "engine._kernels": "minicnn.use_kernels('naive')",
    "engine._observers": "engine._observers.set((object(),))",
    "engine._scope": "engine._scope.set((object(),))",
    "engine._dry_run": "engine._dry_run.set(True)",
    "where new tensors go": "minicnn.device('cuda').__enter__()",
    "the number of threads": "minicnn.set_num_threads(minicnn.threads.get_num_threads() + 1)",
    "np.geterr()": "numpy.seterr(over='ignore')",
    "np.get_printoptions()": "numpy.set_printoptions(precision=3)",
    "the working directory": "os.chdir('/')",
    "the environment": "os.environ['MINICNN_NUM_THREADS'] = '1'",
}

SUITE = """
import os
import numpy
import minicnn
from minicnn import engine

drawn = []
{tests}
def test_same_random_numbers_again(rng):
    drawn.append((rng.random(), minicnn.backend.generator().random()))

def test_same_random_numbers(rng):
    drawn.append((rng.random(), minicnn.backend.generator().random()))
    assert drawn[0] == drawn[1]

def test_uses_and_puts_back():
    with minicnn.no_grad(), minicnn.use_kernels("naive"), numpy.errstate(all="ignore"):
        pass
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What pytest says of a suite that has one test for each leak."""
    tests = "".join(f"def test_leak_{i}():\n    {code}\n\n" for i, code in enumerate(LEAKS.values()))
    path = tmp_path_factory.mktemp("suite") / "test_leaks.py"
    path.write_text(SUITE.format(tests=tests), "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rE", str(path)]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    return run.stdout


@pytest.mark.parametrize("i, name", list(enumerate(LEAKS)))
def test_a_leak_is_found_and_named(report, i, name):
    said = report.split(f"ERROR at teardown of test_leak_{i} ")[1].split("ERROR at")[0]
    assert f"left global state changed:\n{name}: " in said


def test_others_are_not_blamed(report):
    passed, failed = len(LEAKS) + 3, len(LEAKS)
    assert f"{passed} passed, {failed} errors" in report
