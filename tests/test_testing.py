"""`minicnn.testing`: one line for a test of your own layer, and layers out of files."""

import sys

import numpy as np
import pytest

from minicnn import Tensor, backend, nn
from minicnn import functional as F
from minicnn.gradcheck import GradcheckError
from minicnn.testing import assert_close, assert_gradients, check_file, load_from_file

WRONG = '''
import numpy as np
from minicnn import Op, apply, nn

double = Op("double", lambda x: (2 * x, None), lambda g, saved, needs: (g,))

class Double(nn.Module):
    def forward(self, x):
        return apply(double, x)
'''
RIGHT = '''
from dataclasses import dataclass
from minicnn import nn

@dataclass
class Options:
    size: int = 3

class Layer(nn.Linear):
    def __init__(self, features=Options.size, out=2):
        super().__init__(features, out)

class Sized(nn.Linear):
    def __init__(self, features):
        super().__init__(features, 1)

def build(out=4):
    return nn.Sequential(nn.Linear(3, out), nn.Tanh())

def cube(x):
    return x * x * x

ready = Layer()
number = 3
'''


@pytest.fixture
def file(tmp_path):
    def write(text, name="mylayers.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    yield write
    for name in ("mylayers", "helper_of_mylayers"):
        sys.modules.pop(name, None)


# ------------------------------------------------------------------------------------------------- assert_gradients

def test_assert_gradients_returns_the_report(rng):
    report = assert_gradients(nn.Linear(3, 2), rng.standard_normal((4, 3)), seed=3)
    assert report
    assert report.seed == 3


def test_assert_gradients_fails_with_the_report(rng):
    with pytest.raises(AssertionError, match=r"gradcheck of <lambda>: WRONG\n(.|\n)*severed after mul") as caught:
        assert_gradients(lambda x: F.tanh((x * 2).detach()), rng.standard_normal(3))
    assert isinstance(caught.value, GradcheckError)
    assert caught.value.report.kinds == {"missing"}


def test_pytest_shows_the_users_own_line(rng):
    """Frames with ``__tracebackhide__`` are left out of pytest's traceback: the last one shown is the test's."""
    with pytest.raises(AssertionError) as caught:
        assert_gradients(lambda x: x.detach() * 2, rng.standard_normal(3))
    shown = [entry.name for entry in caught.traceback.filter(caught)]
    assert shown == ["test_pytest_shows_the_users_own_line"]


# ----------------------------------------------------------------------------------------------------- assert_close

def test_assert_close_passes(rng):
    x = rng.standard_normal((3, 4))
    assert_close(x, x)
    assert_close(Tensor(x), x + 1e-9)
    assert_close(x.astype(np.float32), x)
    assert_close([1, 2], np.array([1.0, 2.0]))
    assert_close([np.inf, -np.inf], [np.inf, -np.inf])
    assert_close(np.zeros((0, 2)), np.zeros((0, 2)))
    assert_close(1 + 1j, 1 + 1j)
    assert_close(x, x + 0.1, atol=0.11, rtol=0)
    assert_close(1.1 * x, x, atol=0, rtol=0.11)


def test_assert_close_names_the_worst_entry(rng):
    expected = np.ones((2, 3))
    actual = expected.copy()
    actual[1, 2], actual[0, 1] = 3, 1.5
    with pytest.raises(
        AssertionError, match=r"2 of 6 entries differ .* is \[1, 2\]: 3 instead of 1 \(difference 2, relative 2\)"
    ):
        assert_close(actual, expected)
    with pytest.raises(AssertionError, match=r"is \[1\]: 1 instead of 0 \(difference 1\)"):
        assert_close([0, 1], [0, 0])


@pytest.mark.parametrize(
    ("actual", "expected"), [([np.nan], [1.0]), ([np.inf], [1.0]), ([np.nan], [np.nan]), ([1j], [1])]
)
def test_assert_close_fails_on(actual, expected):
    with pytest.raises(AssertionError, match=r"1 of 1 entries differ"):
        assert_close(actual, expected, rtol=0.1, atol=0.1)


def test_assert_close_defaults_depend_on_the_precision():
    assert_close(np.float32(1), np.float32(1 + 5e-6))
    with pytest.raises(AssertionError):
        assert_close(np.float64(1), np.float64(1 + 5e-6))


def test_assert_close_compares_shapes():
    with pytest.raises(AssertionError, match=r"actual has shape \(2, 1\), expected \(2,\)"):
        assert_close(np.zeros((2, 1)), np.zeros(2))


# -------------------------------------------------------------------------------------------------- out of a file

def test_check_file_of_a_class(file):
    path = file(RIGHT)
    assert check_file(f"{path}:Layer", [(4, 3)])
    assert check_file(f"{path}:Layer", [(4, 5)], args=[5], kwargs={"out": 1}).inputs[1].shape == (1, 5)


def test_check_file_of_functions_and_instances(file):
    path = file(RIGHT)
    assert [i.name for i in check_file(f"{path}:cube", [(2, 2)]).inputs] == ["x"]
    assert [i.name for i in check_file(f"{path}:build", [(2, 3)]).inputs] == ["input", "0.weight", "0.bias"]
    assert check_file(f"{path}:ready", [(2, 3)])


def test_check_file_finds_what_is_wrong(file):
    report = check_file(f"{file(WRONG)}:Double", [(2, 3)])
    assert report.status == "wrong"
    assert report.title == "Double"
    assert report.first_wrong.op == "double"


def test_check_file_is_decided_by_the_seed(file):
    path = file(RIGHT)
    reports = [check_file(f"{path}:Layer", [(4, 3)], seed=seed).to_dict()["worst"] for seed in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_check_file_says_what_a_class_lacks(file):
    with pytest.raises(ValueError, match=r"mylayers.py:Sized cannot be built: .*features.*\. Give it arguments"):
        check_file(f"{file(RIGHT)}:Sized", [(4, 3)])


def test_files_beside_it_are_found(file):
    file("factor = 3\n", "helper_of_mylayers.py")
    path = file("from helper_of_mylayers import factor\ndef triple(x):\n    return x * factor\n")
    before = list(sys.path)
    assert check_file(f"{path}:triple", [(2,)])
    assert sys.path == before


@pytest.mark.parametrize("spec", ["mylayers.py", "mylayers:Layer", "mylayers.py:", "mylayers.py:a b", ":Layer", ""])
def test_spec_of_another_form(spec):
    with pytest.raises(ValueError, match=r"must be FILE.py:NAME, for instance mylayers.py:MyLayer"):
        load_from_file(spec)


def test_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.py"):
        load_from_file(f"{tmp_path}/nothing.py:Layer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import no_such_thing\n", "line 1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def broken(:\n", "SyntaxError: "),
    ],
)
def test_file_that_fails(file, text, message):
    with pytest.raises(ValueError, match=f"mylayers.py cannot be run: .*{message}"):
        load_from_file(f"{file(text)}:Layer")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Lyer", "defines no 'Lyer': did you mean 'Layer'"),
        ("Convolution", "defines no 'Convolution': it defines Options, Layer, Sized, build, cube"),
        ("number", "number is int, and must be a class, a layer or a function"),
    ],
)
def test_name_that_is_not_there(file, name, message):
    with pytest.raises(ValueError, match=message):
        load_from_file(f"{file(RIGHT)}:{name}")


def test_a_module_of_the_same_name_stays(file):
    path = file("class Layer: pass\n", "backend.py")
    loaded = load_from_file(f"{path}:Layer")
    assert loaded.__name__ == "Layer"
    sys.modules.pop("backend", None)
    sys.modules["backend"] = backend
    try:
        load_from_file(f"{path}:Layer")
        assert sys.modules["backend"] is backend
    finally:
        del sys.modules["backend"]
