"""Test the tester: a test that leaves global state changed fails, and only that one; what ran on what is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest

LEAKS = {
    "engine.recording": "engine.recording.set(False)",
    "engine._kernels": "minicnn.use_kernels('naive')",
    "engine._observers": "engine._observers.set((object(),))",
    "engine._scope": "engine._scope.set((object(),))",
    "engine._dry_run": "engine._dry_run.set(True)",
    "where new tensors go": "minicnn.device('cuda').__enter__()",
    "the number of threads": "minicnn.set_num_threads(minicnn.threads.get_num_threads() + 1)",
    "np.geterr()": "numpy.seterr(over='ignore')",
    "np.getbufsize()": "numpy.setbufsize(64)",
    "np.get_printoptions()": "numpy.set_printoptions(precision=3)",
    "the working directory": "os.chdir('/')",
    "the environment": "os.environ['MINICNN_NUM_THREADS'] = '1'",
}

PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]

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
    command, root = [*PYTEST, "-rE", str(path)], Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("i, name", list(enumerate(LEAKS)))
def test_a_leak_is_found_and_named(report, i, name):
    said = report.split(f"ERROR at teardown of test_leak_{i} ")[1].split("ERROR at")[0]
    assert f"left global state changed:\n{name}: " in said


def test_others_are_not_blamed(report):
    passed, failed = len(LEAKS) + 3, len(LEAKS)
    assert f"{passed} passed, {failed} errors" in report


@pytest.mark.parametrize("expression", ["gpu", "gpu and not long", "(gpu and not (long or host))", "not long and gpu"])
def test_an_expression_that_means_gpu_alone(expression):
    assert conftest.means_gpu(expression)


@pytest.mark.parametrize("expression", ["", "not gpu", "gpu or long", "not long and not gpu", "gpu and", "x(a=1)"])
def test_an_expression_that_does_not(expression):
    assert not conftest.means_gpu(expression)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "device: cpu; no GPU was exercised; 1 tests passed"),
        (["--device", "double"], "device: cuda:1, strict double (no GPU): NO GPU, CuPy "),
        (["--device", "cuda"], "device: none, every test is skipped: no CUDA device works: "),
    ],
)
def test_what_was_exercised_is_said_quietly_too(tmp_path, options, said):
    """Without CuPy, or with one that finds no device."""
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n", "utf-8")
    (tmp_path / "cupy.py").write_text("raise ImportError('no CuPy here')\n", "utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MINICNN_REQUIRE_GPU"}
    environment["PYTHONPATH"] = str(tmp_path)
    command = [*PYTEST, "-q", *options, str(tmp_path / "test_nothing.py")]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False
    )
    assert any(line.startswith(said) for line in run.stdout.splitlines()), run.stdout + run.stderr


# A device that works without CuPy, under CuPy's name.
DOUBLE = """
import sys
from tests.device import double
sys.modules.update(cupy=double.make(), cupyx=double.make_cupyx())
"""
SKIPPING = """
import pytest

def test_that_runs(): pass
def test_whose_library_is_missing(): pytest.importorskip("no_such_library")
@pytest.mark.skip(reason="not today")
def test_that_is_marked(): pass
@pytest.mark.xfail(reason="known")
def test_that_is_known_to_fail(): assert False
def test_for_two_devices(): pytest.skip("needs two CUDA devices")
"""


def on_a_device(folder, test, required):
    """What pytest says of the file `test`, which runs on a device."""
    (folder / "cupy.py").write_text(DOUBLE, "utf-8")
    (folder / "test_some.py").write_text(test, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(folder), "MINICNN_REQUIRE_GPU": required}
    command, root = [*PYTEST, "--device", "cuda", "-rEf", str(folder / "test_some.py")], Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_where_a_gpu_is_required_a_skip_is_a_failure(tmp_path):
    done = on_a_device(tmp_path, SKIPPING, "1")
    assert done.returncode == 1 and "1 failed, 1 passed, 1 skipped, 1 xfailed" in done.stdout, done.stdout
    failed = done.stdout.partition("short test summary")[2]
    assert "test_whose_library_is_missing" in failed and "test_that_is_marked" in failed
    assert "MINICNN_REQUIRE_GPU is set, and this is skipped: Skipped: not today" in done.stdout


def test_where_none_is_required_a_skip_is_one(tmp_path):
    done = on_a_device(tmp_path, SKIPPING, "")
    assert done.returncode == 0 and "1 passed, 3 skipped, 1 xfailed" in done.stdout, done.stdout


@pytest.mark.parametrize(("required", "returned"), [("1", 2), ("", 5)])  # interrupted; no tests ran
def test_a_whole_file_that_is_skipped_is_a_failure_too(tmp_path, required, returned):
    done = on_a_device(tmp_path, "import pytest\npytest.importorskip('no_such_library')\n", required)
    assert done.returncode == returned and ("this is skipped" in done.stdout) == bool(required), done.stdout


@pytest.mark.parametrize(("least", "returned"), [("1", 0), ("2", 1)])
def test_fewer_tests_than_expected_are_a_failure(tmp_path, least, returned):
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n", "utf-8")
    command, root = [*PYTEST, "--at-least", least, str(tmp_path / "test_one.py")], Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == returned and ("fewer than 2 tests passed" in done.stdout) == bool(returned), done.stdout
