"""Each rule finds the fault it is for, and nothing in code that is right; minicnn itself is clean."""

import ast
import json
from fnmatch import fnmatch

import numpy as np
import pytest

from tests.device import lint, record_api

pytestmark = pytest.mark.host

AROUND = """
import math
import numpy as np
from .. import backend
from ..backend import array_module

def planted(a, b, tensor, losses, count: int, n: {kind}):
    xp = array_module(a)
    {line}
"""


def found(line, path="minicnn/kernels/planted.py"):
    kind = "Array" if "kernels" in path else "np.ndarray"
    return [finding.message for finding in lint.findings(path, AROUND.format(line=line, kind=kind))]


# At both levels.
FAULTS = {
    "xp.scatter_add(a, b, 1)": "no 'scatter_add'",
    "xp.float128": "no 'float128'",
    "array_module(a).float128": "no 'float128'",
    "backend.common_module('planted', a, b).nanargsort(a)": "no 'nanargsort'",
    "xp.lib.stride_tricks.windows(a)": "no 'lib.stride_tricks.windows'",
    "xp.errstate(all='ignore')": "no 'errstate'",
    "xp.pad(a, 1, foo=1)": "cupy.pad: got an unexpected keyword argument 'foo'",
    "xp.clip(a, min=0, max=1)": "cupy.clip: got an unexpected keyword argument 'min'",
    "xp.take(a, b, mode='clip')": "cupy.take: got an unexpected keyword argument 'mode'",
    "xp.reshape(a, shape=(2, 2))": "cupy.reshape: got an unexpected keyword argument 'shape'",
    "xp.einsum('ij->i', a, out=b)": "cupy.einsum: got an unexpected keyword argument 'out'",
    "xp.sum(a, where=b)": "cupy.sum: got an unexpected keyword argument 'where'",
    "xp.max(a, initial=0)": "cupy.max: got an unexpected keyword argument 'initial'",
    "xp.take_along_axis(a, b)": "cupy.take_along_axis: missing a required argument: 'axis'",
    "xp.sum(a, 0, axis=1)": "cupy.sum: multiple values for argument 'axis'",
    "a.swapaxes(0)": "cupy.ndarray.swapaxes: missing a required argument: 'axis2'",
    "a.max(0, None, True, -1.0)": "cupy.ndarray.max: too many positional arguments",
    "xp.where(a > b, a, [0])": "cupy.where: [0] where CuPy wants its arrays",
    "xp.clip(a, a_min=[0, 1], a_max=2)": "cupy.clip: [0, 1] where",
    "xp.dot(a, (1, 2))": "cupy.dot: (1, 2) where",
    "xp.sum([a.sum(), b.sum()])": "cupy.sum: [a.sum(), b.sum()] where",
    "xp.max([x.max() for x in a])": "cupy.max: [x.max() for x in a] where",
    "xp.stack([1, 2])": "cupy.stack: [1, 2] where",
    "xp.take(a, [0, 2])": "cupy.take: [0, 2] where",
    "a.take([0, 2])": "cupy.ndarray.take: [0, 2] where",
    "xp.maximum(a, [0, 1])": "cupy.maximum: [0, 1] where",
    "xp.exp()": "cupy.exp takes 1 or 2 arguments by position, here are 0",
    "xp.add(a, b, a, b)": "cupy.add takes 2 or 3 arguments by position, here are 4",
    "xp.zeros(3, 'f4', 'C', a)": "cupy.zeros: too many positional arguments",
    "xp.sqrt(a, where=b)": "cupy.sqrt has no keyword 'where'",
    "xp.add(a, b, order='C')": "cupy.add has no keyword 'order'",
    "xp.maximum.reduce(a)": "cupy.maximum.reduce is not supported: reduce works for add, multiply",
    "xp.logaddexp.accumulate(a)": "cupy.logaddexp.accumulate is not supported",
    "xp.multiply.reduceat(a, b)": "cupy.multiply.reduceat is not supported",
    "xp.subtract.at(a, b, 1)": "cupy.subtract.at is not supported",
    "xp.exp.outer(a, b)": "cupy.exp.outer is not supported",
    "xp.exp.resolve_dtypes(a)": "cupy.exp has no 'resolve_dtypes'",
    "xp.random.normal(size=3)": "draw on the host",
    "xp.random.default_rng(0)": "draw on the host",
    "xp.fuse(lambda x: x)": "does not compile",
    "a @= b": "no @=",
    "isinstance(a, np.ndarray)": "backend.is_array",
    "isinstance(a, (list, np.ndarray))": "backend.is_array",
    "isinstance(a, int | np.ndarray)": "backend.is_array",
    "a.astype('f8', casting='safe')": "astype refuses the keyword 'casting'",
    "a.sum(where=b)": "cupy.ndarray.sum: got an unexpected keyword argument 'where'",
    "a.max(initial=0)": "cupy.ndarray.max: got an unexpected keyword argument 'initial'",
    "a.clip(a_min=0)": "cupy.ndarray.clip: got an unexpected keyword argument 'a_min'",
    "a.take(b, mode='wrap')": "cupy.ndarray.take: got an unexpected keyword argument 'mode'",
    "a.transpose(axes=(1, 0))": "cupy.ndarray.transpose: got an unexpected keyword argument 'axes'",
    "a.item(1)": "cupy.ndarray.item: too many positional arguments",
    "a.flags.writeable": "'writeable'",
    "a.flags.writeable = False": "'writeable'",
    "a.setflags(write=False)": "no 'setflags'",
    "a.resize(2, 2)": "no 'resize'",
    "xp.zeros(3)": "xp.zeros without dtype=",
    "xp.ones((2, 2))": "xp.ones without dtype=",
    "xp.full(3, 1.0)": "xp.full without dtype=",
    "xp.empty(3)": "xp.empty without dtype=",
    "xp.arange(3)": "xp.arange without dtype=",
    "xp.linspace(0, 1, 3)": "xp.linspace without dtype=",
    "import cupy": "backend.py alone",
    "import cupyx.scipy.special": "backend.py alone",
    "from cupy import asarray": "backend.py alone",
    "importlib.import_module('cupy')": "backend.py alone",
    "from numpy import exp": "import numpy as np",
    "import numpy; numpy.exp(a)": "import numpy as np",
    "import numpy as xp; xp.exp(a)": "import numpy as np",
    "import numpy.linalg": "import numpy as np",
    "a.nonzero()": "nonzero makes the host wait",
    "xp.flatnonzero(a)": "flatnonzero makes the host wait",
    "xp.where(a > 0)": "where makes the host wait",
    "xp.unique(a)": "unique makes the host wait",
    "a.tobytes()": "tobytes makes the host wait",
    "xp.average(a, weights=b)": "average makes the host wait",
    "xp.lib.stride_tricks.sliding_window_view(a, (2, 2))": "sliding_window_view makes the host wait",
}

# In neutral files NumPy is allowed on the host; that it stays there is what these rules are for.
MIXED = {
    "np.exp(a)": "np.exp of what may be on a device",
    "np.mean(losses)": "np.mean of what may be on a device",
    "np.mean([a.sum(), b.sum()])": "np.mean of what may be on a device",
    "np.asarray(tensor.data)": "np.asarray of what may be on a device",
    "np.lib.stride_tricks.as_strided(a, (2, 2), (8, 8))": "may be on a device",
    "np.add.at(a, b, 1.0)": "np.add.at of what may be on a device",
    "np.broadcast_to(a, (2, 3))": "np.broadcast_to of what may be on a device",
    "list(map(np.exp, losses))": "np.exp may be called",
    "np.float64(2) * a": "np.float64(2) is on the host, and meets",
    "a * np.array(2.0)": "np.array(2.0) is on the host, and meets",
    "a + n": "n is on the host, and meets",
    "a += n": "n is on the host, and meets",
    "a > np.zeros(3)": "is on the host, and meets",
    "a - tensor.numpy()": "is on the host, and meets",
    "b = backend.to_host(a); a + b": "b is on the host, and meets",
    "xp.maximum(a, n)": "cupy.maximum refuses an array of the host",
    "xp.concatenate([a, n])": "cupy.concatenate refuses an array of the host",
    "a[n]": "a hidden transfer",
    "a[:, np.array([0, 2])]": "a hidden transfer",
    "kept = {}; kept['a'] = a; np.stack(list(kept.values()))": "np.stack of what may be on a device",
    "count, *n = a; np.stack(n)": "np.stack of what may be on a device",
    "[np.exp(count) for x in a if (count := x)]": "np.exp of what may be on a device",
    "with a as count: np.exp(count)": "np.exp of what may be on a device",
    "kept = []; kept += [a]; np.stack(kept)": "np.stack of what may be on a device",
    "kept = []; kept.append(a); np.stack(kept)": "np.stack of what may be on a device",
}
KERNELS = {
    "def inner(x: np.ndarray): ...": "np.ndarray in a kernel",
    "np.exp(a)": "np.exp in a kernel",
    "np.zeros(3, dtype=a.dtype)": "np.zeros in a kernel",
    "np.errstate(all='ignore')": "np.errstate in a kernel",
    "a.item()": "item in a kernel makes the host wait",
    "a.sum().tolist()": "tolist in a kernel makes the host wait",
}
RIGHT = [
    "xp.zeros((2, 2), dtype=a.dtype)", "xp.full(3, 1.0, a.dtype)", "xp.arange(0, 3, 1, a.dtype)", "xp.add.at(a, b, 1)",
    "xp.add.reduce(a)", "xp.maximum.at(a, b, 1)", "xp.multiply.outer(a, b)", "xp.exp(a, out=b, casting='same_kind')",
    "a.sum(axis=0, keepdims=True)", "a.astype(np.float32, copy=False)", "a.reshape(2, 2, order='C')",
    "xp.concatenate(list(b))", "xp.stack([a, b])", "xp.stack([x for x in a])", "xp.transpose(a, [1, 0])",
    "xp.pad(a, [(1, 1), (0, 2)])", "xp.tensordot(a, b, axes=[[1], [1]])", "a.sum(axis=(0, 1))", "xp.sum(*b)",
    "xp.split(a, [1, 2])", "xp.add(*b)", "xp.take_along_axis(a, **b)", "xp.reshape(a, (2, 2))",
    "xp.pad(a, 1, constant_values=-1.0)", "xp.average(a)", "xp.lib.stride_tricks.as_strided(a, (2,), (4,))",
    "xp.linalg.norm(a, axis=0)", "xp.pad(a, 1)", "a * math.pi",
    "xp.einsum('ij->i', a, optimize=True)", "xp.clip(a, 0, 1)", "a.clip(0, 1)", "xp.where(a > 0, a, -xp.inf)",
    "xp.asarray([1, 2], dtype=a.dtype)", "a.dtype == np.float32", "a @ b", "isinstance(count, np.integer)", "a[b]",
    "xp.concatenate([a, b], axis=1)", "xp.broadcast_to(a, *[(2, 3)])", "np.pi * a", "xp.linalg.norm",
]  # fmt: skip
RIGHT_IF_NEUTRAL = [
    "a.item()", "backend.to_host(a).tobytes()", "n.nonzero()",
    "np.exp(backend.to_host(a))", "np.exp(tensor.numpy()) + 1", "np.array([1.0, 2.0])", "np.exp(n)", "n[n > 0] * 2",
    "np.broadcast_to(np.zeros((), dtype=a.dtype), a.shape)", "np.errstate(all='ignore')", "tensor.sum(dim=0)",
    "np.random.default_rng(count).normal(size=3)", "np.broadcast_shapes(a.shape, b.shape)", "np.prod(a.shape)",
    "np.sqrt(float(a.sum()))", "b = backend.to_host(a); b = b.astype(float); np.exp(b * count)",
    "np.mean([float(x) for x in losses])", "a if backend.is_array(a) else np.asarray(a)", "n.max(initial=0)",
    "a = np.array(a) if isinstance(a, list) else None", "losses.sort(key=len, reverse=True)", "xp.asarray(n) + a",
    "dict(a=1).get('a', 2)", "backend.to_device(n, a.device) * a", "np.exp(sorted([count, 2]))",
    "np.exp(a.tolist())", "first, *others = n; np.exp(others)", "[np.exp(x) for c in a if (x := float(c))]",
    "kept = {}; kept['a'] = 1; np.exp(list(kept.values()))",
]  # fmt: skip


@pytest.mark.parametrize("path", ["minicnn/kernels/planted.py", "minicnn/engine.py"])
@pytest.mark.parametrize(("line", "words"), FAULTS.items(), ids=str)
def test_a_fault_is_found_in_kernels_and_neutral_files(line, words, path):
    assert any(words in message for message in found(line, path)), found(line, path)


@pytest.mark.parametrize(("line", "words"), MIXED.items(), ids=str)
def test_what_stays_on_the_host_does_not_meet_a_device(line, words):
    messages = found(line, "minicnn/functional.py")
    assert any(words in message for message in messages), messages


@pytest.mark.parametrize(("line", "words"), KERNELS.items(), ids=str)
def test_kernels_name_numpy_for_dtypes_alone(line, words):
    assert any(words in message for message in found(line))


@pytest.mark.parametrize("line", RIGHT)
def test_what_is_right_passes(line):
    assert found(line) == [] and found(line, "minicnn/nn/layers.py") == []


@pytest.mark.parametrize("line", RIGHT_IF_NEUTRAL)
def test_what_is_seen_to_be_on_the_host_passes(line):
    assert found(line, "minicnn/train/loop.py") == []


def test_a_finding_is_a_line_that_names_the_place():
    [finding] = lint.findings("minicnn/kernels/conv.py", "def f(x, xp):\n    return xp.pad(x, 1, foo=2)\n")
    assert str(finding) == "minicnn/kernels/conv.py:2: cupy.pad: got an unexpected keyword argument 'foo'"


def test_host_code_is_held_to_the_import_alone():
    source = "import numpy as np\ndef f(a):\n    a @= np.exp(a)\n"
    assert lint.findings("minicnn/data/planted.py", source) == []
    [finding] = lint.findings("minicnn/data/planted.py", source + "import cupy\n")
    assert finding.line == 4 and "backend.py alone" in finding.message
    assert lint.findings("minicnn/backend.py", "import cupy\n") == []


# ------------------------------------------------------------------------------------------------- exceptions


def test_a_reason_excuses_its_line():
    assert found("np.exp(a)  # host: b has shown that a is on the host", "minicnn/engine.py") == []
    assert found("np.exp(a)  # fmt: skip  # host: b has shown it", "minicnn/engine.py") == []


def test_an_exception_needs_a_reason():
    messages = found("np.exp(a)  # host:", "minicnn/engine.py")
    assert any("np.exp" in m for m in messages) and any("needs a reason" in m for m in messages)


@pytest.mark.parametrize("path", ["minicnn/engine.py", "minicnn/kernels/conv.py", "minicnn/lab/deep.py"])
def test_an_exception_that_excuses_nothing_is_a_finding(path):
    assert found("a + b  # host: because", path) == ["'# host:' excuses nothing here: remove it"]


def test_a_text_is_no_exception():
    assert found("xp.errstate('# host: because')") != []


# -------------------------------------------------------------------------------------------------- the levels


def files():
    return sorted(file.relative_to(lint.ROOT).as_posix() for file in (lint.ROOT / "minicnn").rglob("*.py"))


def test_minicnn_is_clean():
    assert [str(f) for path in files() for f in lint.findings(path, (lint.ROOT / path).read_text("utf-8"))] == []


def test_the_command_prints_findings_and_fails(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "minicnn"
    folder.mkdir()
    (folder / "engine.py").write_text("import cupy\n")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    assert lint.main() == 1
    assert capsys.readouterr().out == "minicnn/engine.py:1: CuPy is imported in backend.py alone\n"
    (folder / "engine.py").write_text("import math\n")
    assert lint.main() == 0 and capsys.readouterr().out == ""


def test_a_file_that_no_line_names_is_a_finding():
    [finding] = lint.findings("minicnn/unheard_of.py", "")
    assert "LEVELS" in finding.message


def test_each_line_of_the_levels_names_a_file_and_a_reason():
    names = [path.removeprefix("minicnn/") for path in files()]
    for pattern, level, reason in lint.LEVELS:
        assert any(fnmatch(name, pattern) for name in names), pattern
        assert level in (lint.KERNELS, lint.NEUTRAL, lint.HOST) and reason


def test_what_computes_on_tensors_is_not_exempt():
    strict = {"activation", "conv", "elementwise", "linear", "loss", "norm", "pool", "reduction", "shape"}
    assert {p for p in files() if lint.level(p) == lint.KERNELS} >= {f"minicnn/kernels/{name}.py" for name in strict}
    names = ("engine", "functional", "train/loop", "nn/module", "nn/utils", "optim/adam", "models/vgg", "inspect/flow")
    for name in names:
        assert lint.level(f"minicnn/{name}.py") == lint.NEUTRAL


# --------------------------------------------------------------------------------------------------- the table


def test_the_table_knows_what_is_known():
    functions, array = lint.API["functions"], lint.API["ndarray"]
    assert lint.API["cupy"].startswith("14.")
    assert functions["zeros"]["parameters"] == ["shape", "dtype=", "order="]
    assert functions["reshape"]["parameters"][:2] == ["a", "newshape"]
    assert functions["take_along_axis"]["parameters"] == ["a", "indices", "axis"]
    assert {"pad", "take_along_axis", "lib.stride_tricks.as_strided", "linalg.norm"} <= set(functions)
    assert not {"scatter_add", "errstate", "float128"} & set(functions)
    assert functions["exp"]["kind"] == "ufunc" and "f->f" in functions["exp"]["types"].split()
    assert array["methods"]["sum"] == ["axis=", "dtype=", "out=", "keepdims="] and array["methods"]["item"] == []
    assert {"__imatmul__", "__index__", "setflags"} <= set(array["missing"]) and "__iadd__" not in array["missing"]
    assert "T" in array["attributes"] and "float32" in lint.API["classes"] and "inf" in lint.API["constants"]
    assert "normal" not in lint.API["random"]["Generator"] and "normal" in lint.API["random"]["RandomState"]
    assert lint.API["ufuncs"] == record_api.UFUNCS


def test_creators_can_be_given_a_dtype():
    for name in lint.CREATORS:
        assert "dtype=" in lint.API["functions"][name]["parameters"]


def test_names_that_are_allowed_are_numpys():
    for name in lint.ANYWHERE:
        value = np
        for part in name.split("."):
            value = getattr(value, part)


def test_parameters_are_read_from_compiled_texts():
    def compiled(text):
        function = type("compiled", (), {"__doc__": text, "__call__": None})()
        return record_api.parameters(function)

    assert compiled("ndarray.sum(self, axis=None, dtype=None) -> ndarray\n\nSums.") == ["axis=", "dtype="]
    assert compiled("f(bool a=False, *, tuple b=(), int c=(1, 2), **more)") == ["a=", "*", "b=", "c=", "**more"]
    assert compiled("_base.reshape(self, *shape, order='C')") == ["*shape", "order="]
    assert compiled("ndarray.repeat(self, repeats, axis: int | None = None)") == ["repeats", "axis="]
    assert compiled("Says nothing.") is None and compiled(None) is None
    assert record_api.parameters(lambda a, /, b=1, *, c: 0) == ["a", "b=", "*", "c"]


def test_the_file_is_as_the_script_writes_it():
    text = (lint.ROOT / "tests/device/cupy_api.json").read_text("utf-8")
    assert record_api._text(json.loads(text)) + "\n" == text and len(text) < 150_000


def test_planted_lines_are_python():
    for line in (*FAULTS, *MIXED, *KERNELS, *RIGHT, *RIGHT_IF_NEUTRAL):
        ast.parse(AROUND.format(line=line, kind="Array"))
