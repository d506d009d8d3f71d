"""The double is strict: faults that only a GPU would show are caught on it.

Each fault is a line that NumPy has no objection to, or another one than CuPy. It is run as if it stood in a file of
minicnn's. Faults that the double does not see are in test_lint.py and test_emulated.py; what makes the host wait is in
test_waiting.py, and work on another device than the current one in test_several.py, too.
"""

import json
import sys
import threading

import numpy as np
import pytest

from minicnn import backend
from tests.device import double, places

pytestmark = pytest.mark.host

# As below; test_emulated.py shows that CuPy itself refuses each of these.
LISTS_AND_ARITY = {
    "a list of numbers for where": "xp.where(a > 2, a, [0.0] * 4)",
    "one number in a list for where": "xp.where(a > 2, b, [0])",
    "a list of bounds for clip": "xp.clip(a, [0, 0, 0, 0], 1)",
    "a list of bounds for an array's clip": "a.clip(0, [1, 1, 1, 1])",
    "lists of numbers joined": "xp.concatenate([a, [[1, 2, 3, 4]]])",
    "numbers stacked": "xp.stack([1.0, 2.0])",
    "a list in a product": "xp.dot(rows, [1, 2, 3])",
    "a list in an array's product": "rows.dot([1, 2, 3])",
    "a list in a matrix product": "xp.matmul(a, [1, 2, 3, 4])",
    "a list in a tensor product": "xp.tensordot(a, [1, 2, 3, 4], axes=1)",
    "the sum of a list": "xp.sum([1.0, 2.0])",
    "the sum of a list of results": "xp.sum([a.sum(), b.sum()])",
    "the sum of a number": "xp.sum(2.0)",
    "the largest of a list": "xp.max([1.0, 2.0])",
    "the transpose of a list": "xp.transpose([[1, 2], [3, 4]])",
    "a list, padded": "xp.pad([1, 2], 1)",
    "zeros like a list": "xp.zeros_like([1, 2])",
    "an axis for a list": "xp.expand_dims([1, 2], 0)",
    "a list, broadcast": "xp.broadcast_to([1, 2], (2, 2))",
    "a list's axes swapped": "xp.swapaxes([[1, 2]], 0, 1)",
    "a list, repeated": "xp.repeat([1, 2], 2)",
    "the norm of a list": "xp.linalg.norm([3.0, 4.0])",
    "take_along_axis without its axis": "xp.take_along_axis(a, i[:, None])",
    "clip without its bounds": "xp.clip(a)",
    "a fifth argument of max": "a.max(0, None, True, -1.0)",
    "a sixth argument of sum": "xp.sum(a, 0, None, None, True, 0.0)",
    "swapaxes of one axis": "a.swapaxes(0)",
    "an axis given twice": "xp.sum(a, 0, axis=1)",
}

# With a, b (3, 4) and rows (3,) arrays of the device, n (3, 4) one of the host, i [2, 0, 1] integers of the device.
FAULTS = LISTS_AND_ARITY | {
    "take by a list, a transfer in silence": "xp.take(a, [0, 2])",
    "an array's take by a list": "rows.take([0, 2])",
    "results in a list for CuPy to stack": "xp.asarray([a.sum(), 1.0])",
    "where= of an operation": "xp.sqrt(a, where=a > 0)",
    "order= of an operation": "xp.add(a, b, order='C')",
    "where= of a sum": "a.sum(where=a > 0)",
    "initial= of a maximum": "a.max(initial=0)",
    "NumPy's function of an array": "np.exp(a)",
    "NumPy's sum of an array": "np.sum(a)",
    "NumPy's padding of an array": "np.pad(a, 1)",
    "NumPy's array of an array": "np.asarray(a)",
    "NumPy's mean of losses": "np.mean([a.sum(), b.sum()])",
    "arithmetic with an array of the host": "a + n",
    "arithmetic of an array of the host": "n * a",
    "arithmetic in place with an array of the host": "a.__iadd__(n)",
    "arithmetic with a number of NumPy's": "a * np.float64(2)",
    "arithmetic with an array without axes": "a * np.array(2.0)",
    "a list as an operand": "xp.maximum(a, [0, 0, 0, 0])",
    "an array of the host among those to join": "xp.concatenate([a, n])",
    "an array of the host that is assigned": "a.__setitem__(slice(0, 2), n[:2])",
    "a list that is assigned": "a.__setitem__((0, slice(0, 2)), [7, 8])",
    "a list as an index": "a[[0, 2]]",
    "an array of the host as an index": "a[np.array([0, 2])]",
    "a result in range": "range(a.argmax())",
    "a result as a length": "xp.zeros(a.argmax(), dtype='f')",
    "a result that is rounded": "round(a.sum(), 2)",
    "a result as a key": "{a.sum(): 1}",
    "a result as JSON": "json.dumps(a.sum())",
    "einsum into an array": "xp.einsum('ij->i', a, out=rows)",
    "reduceat": "xp.add.reduceat(rows, [0, 1])",
    "maximum.reduce": "xp.maximum.reduce(a)",
    "subtract.at": "xp.subtract.at(rows, i, 1.0)",
    "an index of several axes for NumPy's add.at": "np.add.at(a, (i, i), 1.0)",
    "scatter_add": "xp.scatter_add(rows, i, 1.0)",
    "errstate": "xp.errstate(all='ignore')",
    "take with a mode": "xp.take(rows, i, mode='clip')",
    "clip by keywords": "xp.clip(a, min=0, max=1)",
    "reshape by keyword": "xp.reshape(a, shape=(4, 3))",
    "astype with casting": "a.astype('f8', casting='safe')",
    "copyto from the host": "xp.copyto(a, n)",
    "whether it can be written to": "a.flags.writeable",
    "random numbers of the device": "xp.random.default_rng(0).normal(size=3)",
    "item by its place": "rows.item(1)",
    "an array of texts": "xp.asarray(['a', 'b'])",
    "a view that NumPy makes": "np.lib.stride_tricks.as_strided(a, (2, 2), (8, 8))",
    "a name that CuPy lacks": "xp.float128",
    "a write through a broadcast view": "xp.broadcast_to(rows, (2, 3)).__setitem__(0, 5.0)",
    # While the first device is current, and `far` is on the second.
    "arithmetic on another device": "far * 2",
    "arithmetic in place on another device": "far.__iadd__(1)",
    "arithmetic of two devices": "a + far",
    "the sign turned on another device": "-far",
    "an operation on another device": "xp.exp(far)",
    "a reduction on another device": "far.sum()",
    "a copy on another device": "far.copy()",
    "another dtype on another device": "far.astype('f8')",
    "an array like one on another device": "xp.zeros_like(far)",
    "a product on another device": "far @ far.T",
    "written to on another device": "far.__setitem__(0, 1.0)",
    "indices for another device": "far[i]",
    "indices from another device": "a[far.astype('f4', copy=False) > 2]",
    "join on another device": "xp.concatenate([far, far])",
    "add.at on another device": "xp.add.at(far, 0, 1.0)",
    "reshape with a copy on another device": "far.T.reshape(12)",
    "a view of every second, sent to the first device": "xp.asarray(far[:, ::2])",
}


@pytest.fixture
def given():
    with double.installed():
        n = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
        a, b, rows, i = (backend.to_device(x, "cuda") for x in (n, n, n[:, 0], np.array([2, 0, 1])))
        far = backend.to_device(n, "cuda:1")
        names = {"np": np, "a": a, "b": b, "n": n, "rows": rows, "i": i, "far": far, "json": json}
        yield names | {"xp": backend.array_module(a)}


def test_it_leaves_nothing_behind():
    before = dict(sys.modules)
    with double.installed():
        assert sys.modules["cupy"] is not before.get("cupy")
    assert sys.modules == before


def run(line, names):
    """As a line of minicnn's."""
    return eval(compile(line, f"{double.PACKAGE}/planted.py", "eval"), names)


@pytest.mark.parametrize("line", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_caught(line, given):
    errors = (TypeError, ValueError, AttributeError, NotImplementedError, double.WrongDevice)
    with pytest.raises(errors):
        run(line, given)


def test_in_place_product_binds_a_new_array(given):
    names = given | {"w": backend.to_device(np.ones((4, 4), np.float32), "cuda")}
    before = names["a"]
    exec(compile("a @= w", f"{double.PACKAGE}/planted.py", "exec"), names)
    assert names["a"] is not before and (np.asarray(before) == names["n"]).all()


def test_indices_out_of_range_wrap_around(given):
    given["far"] = backend.to_device(np.array([1, 3, -5]), "cuda")
    np.testing.assert_array_equal(run("rows[far]", given), [5, 1, 5])


def test_results_have_no_axes_and_every_crossing_counts(given):
    double.Counts.reset()
    total = run("a.sum()", given)
    assert isinstance(total, double.ndarray) and total.shape == ()
    assert run("float(a.sum())", given) == 78 and run("bool(a.any())", given) and run("a[a > 6].shape", given) == (6,)
    assert double.Counts.to_host == 3
    run("xp.asarray(n)", given)
    assert double.Counts.to_device == 1


def test_an_entry_is_a_view_as_cupys_is(given):
    exec(compile("entry = rows[0]; entry += 5", f"{double.PACKAGE}/planted.py", "exec"), given)
    assert float(given["rows"][0]) == 6


@pytest.mark.parametrize("line", ["xp.abs(a.T)", "a.T + b.T", "xp.where(a.T > 2, a.T, 0)", "xp.stack([a.T, b.T])"])
def test_results_lie_in_c_order_whatever_comes_in(given, line):
    assert run(line, given).flags.c_contiguous


def test_what_kernels_send_is_counted(given):
    double.Counts.reset()
    eval(compile("xp.asarray([1, 2])", f"{double.KERNELS}/planted.py", "eval"), given)
    run("xp.asarray([1, 2])", given)
    assert (double.Counts.to_device, double.Counts.from_kernels) == (2, 1)


def test_a_kernel_gets_arrays_of_the_device_from_the_host_s_tests(given):
    seen = []

    def some_forward(x):
        seen.append(type(x))
        return x, x

    with backend.device("cuda:1"):
        output, saved = places.crossing(some_forward)(given["n"])
    assert seen == [double.ndarray] and isinstance(output, np.ndarray) and isinstance(saved, double.ndarray)


def test_a_test_may_look(given):
    a, n = given["a"], given["n"]
    np.testing.assert_array_equal(a + n, 2 * n)
    np.testing.assert_array_equal(np.exp(a), np.exp(n))
    assert (a[[0, 2]] == n[[0, 2]]).all() and a.sum() == n.sum()


def test_a_copy_is_one(given):
    given["n"][0, 0] = -1
    assert given["a"][0, 0] == 1


RIGHT = [
    "xp.where(a > 2, a, 0)", "xp.exp(a, out=b)", "a.sum(axis=0, keepdims=True)", "xp.add.at(rows, i, 1.0)",
    "xp.take_along_axis(a, i[:, None], axis=1)", "xp.full((2, 2), 1.5, dtype=a.dtype)", "(a @ b.T).reshape(9)",
    "xp.concatenate([a, b], axis=1)", "xp.lib.stride_tricks.sliding_window_view(a, (2, 2))", "a.clip(0, 1)",
    "xp.expand_dims(rows, 0)", "a.astype('f8', copy=False)", "2 ** a", "-a // 2", "xp.result_type(a, 'f8')",
    "xp.pad(a, 1, constant_values=-1.0)", "far.T", "far[1:, ::2]", "far.reshape(12)", "far.get()", "float(far[0, 0])",
    "xp.concatenate((a, b))", "xp.stack([rows, rows], axis=1)", "xp.transpose(a, [1, 0])", "a.transpose([1, 0])",
    "a.reshape([4, 3])", "xp.pad(a, [(1, 1), (0, 2)])", "xp.tensordot(a, b, axes=[[1], [1]])", "a.sum(axis=(0, 1))",
    "xp.einsum('ij,kj->ik', a, b)", "xp.split(a, [1, 2])", "xp.broadcast_shapes((3, 1), (4,))", "xp.argmax(a, 0)",
    "xp.matmul(a, b.T, out=xp.empty((3, 3), dtype='f'))", "xp.result_type('f4', 'f8')", "xp.concatenate(a)",
    "far.astype('f4', copy=False)", "list(far)", "far.tolist()", "xp.asarray(far)", "xp.may_share_memory(far, far)",
]  # fmt: skip


def test_each_thread_has_a_device_of_its_own(given):
    found = []
    with double.Device(1):
        thread = threading.Thread(target=lambda: found.append(double.Device().id))
        thread.start()
        thread.join()
        with double.Device(0), double.Device(1):
            found.append(run("xp.ones(2, dtype='f4')", given).device.id)
        found.append(double.Device().id)
    assert [*found, double.Device().id] == [0, 1, 1, 0]


def test_memory_is_counted_for_each_device(given):
    pool = given["xp"].get_default_memory_pool()
    before = pool.used_bytes()
    with double.Device(1):
        there = pool.used_bytes()
        kept = run("xp.ones(1000, dtype='f4')", given)
        assert pool.used_bytes() == there + 4000
    assert pool.used_bytes() == before and kept.device.id == 1


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_right_passes(line, given):
    run(line, given)
