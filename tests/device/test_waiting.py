"""What makes the host wait: the double counts it, and the tables in waiting.py say of CuPy what CuPy does."""

import numpy as np
import pytest

from minicnn.engine import Op, Tensor, apply
from minicnn.kernels.activation import relu_backward
from tests.device import double, lint, waiting

# a (3, 4), rows [1, 0, 2], mask and i [2, 0, 1] on the device, `xp` its module. What sorts, or needs libraries that the
# emulated device lacks, is left out.
WAITS = {
    "argwhere": "xp.argwhere(a)", "nonzero": "xp.nonzero(a)", "flatnonzero": "xp.flatnonzero(a)",
    "array_repr": "xp.array_repr(rows)", "array_str": "xp.array_str(rows)", "array2string": "xp.array2string(rows)",
    "bincount": "xp.bincount(i)", "compress": "xp.compress(mask, rows)", "delete": "xp.delete(rows, 1)",
    "extract": "xp.extract(mask, rows)", "histogram": "xp.histogram(rows)", "place": "xp.place(rows, mask, a[0])",
    "putmask": "xp.putmask(rows, mask, rows)", "trim_zeros": "xp.trim_zeros(rows)",
    "unravel_index": "xp.unravel_index(i, (3, 3))", "asarray_chkfinite": "xp.asarray_chkfinite(rows)",
    "lib.stride_tricks.sliding_window_view": "xp.lib.stride_tricks.sliding_window_view(a, (2, 2))",
    "the method nonzero": "a.nonzero()", "the method compress": "rows.compress(mask)", "tobytes": "rows.tobytes()",
    "dumps": "rows.dumps()", "where": "xp.where(a > 2)", "average": "xp.average(rows, weights=rows + 1)",
    "repeat": "xp.repeat(rows, i)", "the method repeat": "rows.repeat(i)", "fill": "rows.fill(rows[0])",
    "get": "rows.get()", "tolist": "rows.tolist()", "item": "rows[0].item()", "float": "float(rows[0])",
    "int": "int(rows[0])", "bool": "bool(rows[0])", "complex": "complex(rows[0])", "format": "f'{rows[0]:.2f}'",
    "repr": "repr(rows)", "str": "str(rows)", "asnumpy": "xp.asnumpy(rows)", "a mask as an index": "a[mask]",
    "a mask to write at": "a.__setitem__(a > 2, 0.0)", "in": "3.0 in rows",
}  # fmt: skip
SILENT = {
    "three arguments": "xp.where(a > 2, a, 0)", "a mean": "xp.average(rows)", "so often each": "xp.repeat(rows, 2)",
    "filled with a number": "rows.fill(2)", "indices": "a[i]", "indices to write at": "a.__setitem__(i, 0.0)",
    "take": "xp.take(rows, i)", "put": "xp.put(rows, i, rows)", "count_nonzero": "xp.count_nonzero(a)",
    "isclose": "xp.isclose(a, a)", "allclose": "xp.allclose(a, a)", "array_equal": "xp.array_equal(a, a)",
    "isfinite": "xp.isfinite(a).all()", "argmax": "a.argmax(axis=1)", "clip": "a.clip(0, 1)", "pad": "xp.pad(a, 1)",
    "take_along_axis": "xp.take_along_axis(a, i[:, None], axis=1)", "add.at": "xp.add.at(rows, i, 1.0)",
    "as_strided": "xp.lib.stride_tricks.as_strided(a, (2, 2), (4, 4))", "rows of it": "list(rows)",
    "einsum": "xp.einsum('ij->i', a)", "norm": "xp.linalg.norm(a)", "concatenate": "xp.concatenate([a, a])",
}  # fmt: skip

REFUSED = double.DeviceSynchronized
GOING = "will be removed"  # what CuPy says of allow_synchronize


def given(xp):
    a = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    arrays = {"a": a, "rows": np.array([1, 0, 2], np.float32), "mask": a[:, 0] > 2, "i": np.array([2, 0, 1])}
    return {name: xp.asarray(x) for name, x in arrays.items()} | {"xp": xp}


def run(line, names):
    """As a line of minicnn's."""
    return eval(compile(line, f"{double.PACKAGE}/planted.py", "eval"), names)


def counted(line, pretended):
    """How often the double counts that the line waits."""
    names = given(double.make())
    pretended.Counts.reset()
    run(line, names)
    return pretended.Counts.to_host


@pytest.fixture
def pretended():
    with double.installed():
        yield double


@pytest.mark.host
@pytest.mark.parametrize("line", WAITS.values(), ids=WAITS)
def test_the_double_counts_it_and_can_refuse_it(line, pretended):
    assert counted(line, pretended) >= 1
    names = given(double.make())
    with pytest.warns(UserWarning, match=GOING), pretended.allow_synchronize(False), pytest.raises(REFUSED):
        run(line, names)


@pytest.mark.host
@pytest.mark.parametrize("line", SILENT.values(), ids=SILENT)
def test_the_double_counts_nothing_else(line, pretended):
    assert counted(line, pretended) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("line", WAITS.values(), ids=WAITS)
def test_cupy_waits_there(line):
    import cupy
    import cupyx

    run(line, given(cupy))  # its kernels are compiled
    names = given(cupy)
    refused = pytest.raises(cupyx.DeviceSynchronized)
    with pytest.warns(UserWarning, match=GOING), cupyx.allow_synchronize(False), refused:
        run(line, names)


@pytest.mark.gpu
@pytest.mark.parametrize("line", SILENT.values(), ids=SILENT)
def test_cupy_does_not_wait_there(line):
    import cupy
    import cupyx

    run(line, given(cupy))
    names = given(cupy)
    with pytest.warns(UserWarning, match=GOING), cupyx.allow_synchronize(False):
        run(line, names)


@pytest.mark.host
def test_the_tables_name_what_cupy_has():
    known = {*lint.API["functions"], *lint.API["ndarray"]["methods"]}
    assert waiting.ALWAYS | set(waiting.FORMS) | waiting.ARRAYS <= known
    assert not waiting.ALWAYS & (set(waiting.FORMS) | waiting.ARRAYS)


@pytest.mark.host
@pytest.mark.parametrize("index", ["x < 0", "(x < 0).nonzero()"])
def test_waiting_in_a_kernel_is_counted(pretended, index):
    source = f"def forward(x):\n    y = x.copy()\n    y[{index}] = 0.0\n    return y, y\n"
    names: dict = {}
    exec(compile(source, f"{double.PACKAGE}/kernels/planted.py", "exec"), names)
    x = Tensor(np.array([-1.0, 2.0], np.float32)).to("cuda")
    pretended.Counts.reset()
    assert apply(Op("planted", names["forward"], relu_backward), x).shape == (2,)
    assert pretended.Counts.to_host >= 1
