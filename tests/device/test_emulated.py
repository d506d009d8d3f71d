"""Faults that neither the double nor the lint can see: memory that was never written, and the order of writes.

CuPy itself shows them on a device that is emulated, which is no GPU: there fresh memory is full of NaN (or −1), and
CUPYSIM_REVERSE=1 turns the order of all threads around. On a GPU what happens is up to chance, so that these tests are
skipped there. The faults that the double or the lint does see are in test_double.py and test_lint.py.
"""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from minicnn import backend
from minicnn.kernels import conv, pool, shape
from tests.device import double, lint
from tests.device.test_double import LISTS_AND_ARITY

ROOT = Path(__file__).resolve().parents[2]

# As in test_double.py: a, b (3, 4) and rows (3,) are arrays of the device, i is [2, 0, 1], twice is [0, 2, 0], and
# ties (3, 3) has the largest number of a row twice or more.

NAMES = ("a", "b", "rows", "i", "twice", "ties")

# Right with `zeros` in the place of `empty`; NumPy's fresh memory is often 0, too.
MEMORY = {
    "empty that windows are added to": "y = xp.empty(5, dtype='f'); y[:3] += rows; y[2:] += rows",
    "empty with a border that nobody writes": "y = xp.empty((5, 6), dtype='f'); y[1:-1, 1:-1] = a",
    "empty that classes are marked in": "y = xp.empty((3, 3), dtype='i8'); y[xp.arange(3, dtype='i8'), i] = 1",
    "empty for a velocity": "y = xp.empty(a.shape, dtype='f'); y *= 0.9; y += a",
    "empty that counts": "y = xp.empty(4, dtype='i8'); xp.add.at(y, twice, 1)",
    "empty for flags": "y = xp.empty(3, dtype='?'); y[twice] = True",
}

# NumPy writes one after another, from the first to the last.
ORDER = {
    "the last image of each class": "y = xp.zeros(3, dtype='i8'); y[twice] = xp.arange(3, dtype='i8')",
    "the first of equals wins its window": "r, c = xp.nonzero(ties == ties.max(axis=1, keepdims=True)); "
    "y = xp.zeros(3, dtype='i8'); y[r[::-1]] = c[::-1]",
    "max pooling's gradient by assignment": "y = xp.zeros(3, dtype='f'); y[twice] = rows",
    "a sum by indices, of different numbers": "y = xp.zeros(3, dtype='f'); y[twice] += rows",
    "put to a place twice": "y = a.copy(); xp.put(y, twice, rows)",
    "put_along_axis to a place twice": "y = a.copy(); xp.put_along_axis(y, twice[None], rows[None], axis=1)",
    "windows that overlap, written to":
        "y = xp.zeros(5, dtype='f'); xp.lib.stride_tricks.as_strided(y, (3, 3), (4, 4))[...] = b[:, :3]",
    "an array shuffled into itself": "y = a.copy(); y[i] = y",
    "take into what it takes from": "y = rows.copy(); xp.take(y, i, out=y)",
}  # fmt: skip

# What is done instead is the same on every device, in every order.
RIGHT = {
    "add.at": "y = xp.zeros(3, dtype='f'); xp.add.at(y, twice, rows)",
    "maximum.at": "y = xp.zeros(3, dtype='i8'); xp.maximum.at(y, twice, xp.arange(3, dtype='i8'))",
    "argmax": "y = ties.argmax(axis=1)",
    "slices, one after another": "y = xp.zeros(5, dtype='f'); y[:3] += rows; y[1:4] += rows; y[2:] += rows",
    "a copy, shuffled": "y = a.copy(); y[i] = a",
    "a permutation": "y = xp.take(rows, i)",
    "an operation into its own input": "y = a.copy(); xp.add(y[1:], y[:-1], out=y[1:])",
    "a product into its own factor": "y = a[:, :3].copy(); xp.matmul(y, y, out=y)",
}


def computed(line, xp):
    """`y` on the host, from a line of Python on the arrays of NumPy or of a device."""
    n = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    given = {"a": n, "b": 2 * n, "rows": n[:, 0], "i": np.array([2, 0, 1]), "twice": np.array([0, 2, 0])}
    given["ties"] = np.array([[1, 2, 2], [3, 0, 3], [5, 5, 5]], np.float32)
    names = {"xp": xp} | {name: xp.asarray(x) for name, x in given.items()}
    exec(compile(line, f"{double.PACKAGE}/planted.py", "exec"), names)  # as a line of minicnn's
    return backend.to_host(names["y"])


# --------------------------------------------------------------------------------------------------- on the host


@pytest.mark.host
@pytest.mark.parametrize("line", [*MEMORY.values(), *ORDER.values(), *RIGHT.values()])
def test_the_lint_says_nothing(line):
    source = f"def f(xp, {', '.join(f'{name}: Array' for name in NAMES)}):\n    {line}\n    return y\n"
    found = lint.findings("minicnn/kernels/planted.py", source)
    assert [f for f in found if "makes the host wait" not in f.message] == []  # nonzero does, which is another fault


@pytest.mark.host
@pytest.mark.parametrize("line", [*ORDER.values(), *RIGHT.values()])
def test_the_double_computes_what_numpy_does(line):
    expected = computed(line, np)
    with double.installed():
        np.testing.assert_array_equal(computed(line, sys.modules["cupy"]), expected)


@pytest.mark.host
@pytest.mark.parametrize("line", MEMORY.values(), ids=MEMORY)
def test_the_double_takes_memory_as_it_comes(line):
    with double.installed():
        assert computed(line, sys.modules["cupy"]).shape == computed(line, np).shape


# ------------------------------------------------------------------------------------------ on CuPy itself


@pytest.fixture(scope="module")
def emulated():
    """CuPy on the emulated device; a test that asks for it is skipped on a GPU."""
    cupy = pytest.importorskip("cupy")
    if b"cupysim" not in cupy.cuda.runtime.getDeviceProperties(0)["name"]:
        pytest.skip("on a GPU it is up to chance what fresh memory holds, and who writes last: emulated devices only")
    return cupy


@pytest.fixture
def cupy(emulated):
    """Each new array gets fresh memory, so that nothing of an earlier one is in it."""
    emulated.cuda.set_allocator(None)
    yield emulated
    emulated.cuda.set_allocator(emulated.get_default_memory_pool().malloc)


@pytest.mark.gpu
@pytest.mark.parametrize("line", MEMORY.values(), ids=MEMORY)
def test_memory_that_was_never_written_shows(line, cupy):
    right = line.replace("empty", "zeros")
    np.testing.assert_array_equal(computed(right, cupy), computed(right, np))
    assert not np.array_equal(computed(line, cupy), computed(right, np))


@pytest.mark.gpu
@pytest.mark.parametrize("line", LISTS_AND_ARITY.values(), ids=LISTS_AND_ARITY)
def test_the_double_refuses_what_cupy_does(line, emulated):
    with pytest.raises((TypeError, ValueError, AttributeError)):
        computed(f"y = {line}", emulated)


G = np.arange(1, 9, dtype=np.float32)
ZEROED = {  # minicnn's kernels that add to zeros, or leave some of them
    "max_pool2d_backward": (
        pool.max_pool2d_backward,
        lambda xp: (xp.asarray(G[:4].reshape(1, 1, 2, 2)), (xp.zeros((1, 1, 2, 2), dtype="i8"), (1, 1, 3, 3)), (True,),
                    (2, 2), (1, 1), (0, 0), (1, 1), False),
    ),
    "avg_pool2d_backward": (
        pool.avg_pool2d_backward,
        lambda xp: (xp.asarray(G[:4].reshape(1, 1, 2, 2)), (4, (1, 1, 3, 3)), (True,), (2, 2), (1, 1), (0, 0), False,
                    True, None),
    ),
    "adaptive_avg_pool2d_backward": (
        pool.adaptive_avg_pool2d_backward,
        lambda xp: (xp.asarray(G[:4].reshape(1, 1, 2, 2)), (1, 1, 3, 3), (True,), (2, 2)),
    ),
    "col2im": (
        conv.col2im,
        lambda xp: (xp.asarray(G.reshape(4, 2)), (1, 1, 2, 3), (1, 2), (2, 2), (1, 1), (0, 0), (1, 1)),
    ),
    "getitem_backward": (
        shape.getitem_backward,
        lambda xp: (xp.asarray(G[:3]), (5,), (True,), xp.asarray(np.array([1, 1, 3]))),
    ),
    "pad_backward": (
        shape.pad_backward,
        lambda xp: (xp.asarray(G[:3]), (5,), (True,), ((-1, -1),), 0.0),
    ),
}  # fmt: skip


def result(kernel, arguments):
    found = kernel(*arguments)
    return backend.to_host(found[0] if isinstance(found, tuple) else found)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ZEROED)
def test_a_kernel_that_takes_empty_for_zeros_shows(name, cupy):
    kernel, arguments = ZEROED[name]
    source = inspect.getsource(kernel)
    planted = vars(sys.modules[kernel.__module__]).copy()
    exec(source.replace(".zeros(", ".empty("), planted)
    assert ".zeros(" in source
    expected = result(kernel, arguments(np))
    np.testing.assert_array_equal(result(kernel, arguments(cupy)), expected)
    assert not np.array_equal(result(planted[name], arguments(cupy)), expected)


PROGRAM = """
    import json, sys
    import cupy
    from tests.device.test_emulated import computed
    print(json.dumps([computed(line, cupy).tolist() for line in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def in_both_orders(emulated):
    """What CuPy computes of each line of ORDER and RIGHT: threads from the first to the last, and the other way."""
    lines, found = [*ORDER.values(), *RIGHT.values()], []
    for reverse in "01":  # a process looks at the variable once
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM)], input=json.dumps(lines), capture_output=True, text=True,
            cwd=ROOT, env=os.environ | {"CUPYSIM_REVERSE": reverse, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    return {line: np.array(pair) for line, *pair in zip(lines, *found, strict=True)}


@pytest.mark.gpu
@pytest.mark.parametrize("line", ORDER.values(), ids=ORDER)
def test_the_order_of_writes_shows(line, in_both_orders):
    forward, backward = in_both_orders[line]
    assert not np.array_equal(forward, backward)
    assert not all(np.array_equal(found, computed(line, np)) for found in (forward, backward))


@pytest.mark.gpu
@pytest.mark.parametrize("line", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_so_in_every_order(line, in_both_orders):
    for found in in_both_orders[line]:
        np.testing.assert_array_equal(found, computed(line, np))
