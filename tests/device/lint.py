"""What would fail on a GPU, found by reading: names and keywords that CuPy lacks, and NumPy where a device may be.

    python -m tests.device.lint    # one line for each finding; exit 1 if there are any

It sees paths that no test runs, and knows names (`cupy_api.json`, recorded from the real wheel), not behaviour. It
follows values within a function: what comes from ``to_host``, ``.numpy()``, NumPy itself or a parameter that is
annotated as a number, a text or ``np.ndarray`` is on the host. Everything else may be on a device.

A line that is right as it is says why: ``# host: reason``. Such a comment that excuses nothing is a finding too.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .signature import LISTS, SEVERAL, bound, each
from .waiting import ALWAYS, FORMS

API = json.loads(Path(__file__).with_name("cupy_api.json").read_text("utf-8"))
ROOT = Path(__file__).resolve().parents[2]

# ------------------------------------------------------------------------------------------------------ the table

KERNELS = "kernels"  # NumPy by name for dtypes and constants only
NEUTRAL = "neutral"  # NumPy by name for what is on the host: `ALLOWED`, or its arguments are seen to be
HOST = "host"  # arrays there are NumPy's, for the reason beside it; only `import cupy` is looked for

# The first pattern that fits a file under minicnn/ counts.
LEVELS = (
    ("backend.py", HOST, "the door between host and device: the one file that may import CuPy"),
    ("kernels/naive.py", HOST, "loops to read, and the tests' oracle"),
    ("kernels/fast/*", HOST, "the CPU engine room: NumPy arrays alone are sent there"),
    ("kernels/*", KERNELS, "arrays of any device"),
    ("nn/init.py", HOST, "weights are drawn on the host, and cross over in one line"),
    ("models/bitmaps.py", HOST, "a constant table"),
    *((name, NEUTRAL, "arrays of any device") for name in (
        "__init__.py", "cuda.py", "engine.py", "functional.py", "metrics.py", "models/*", "nn/*", "optim/*",
    )),
    *((f"train/{name}.py", HOST, "files, text and data sets") for name in (
        "checkpoint", "folder", "presets", "recipe", "results", "sources",
    )),
    ("train/*", NEUTRAL, "trains networks of any device"),
    ("inspect/explain/*", HOST, "explain/entry.py brings what it explains to the host"),
    ("inspect/page/*", HOST, "the page is made of numbers: page/arrays.py and page/content.py bring them to the host"),
    *((f"inspect/{name}.py", HOST, "pictures, tables and texts") for name in (
        "facts", "layout", "mathml", "picture", "plotting", "svg", "table",
    )),
    ("inspect/*", NEUTRAL, "watches arrays of any device"),
    ("gradcheck.py", HOST, "finite differences are taken and judged on the host, in float64"),
    *((name, HOST, "files: arrays on disk are the host's") for name in ("data/*", "pth.py", "weights.py")),
    *((name, HOST, "text, processes or pictures") for name in (
        "__main__.py", "allocator.py", "classify.py", "cli.py", "doctor.py", "report.py", "threads.py",
    )),
    *((f"lab/{name}.py", HOST, "theory, and what was measured, are the host's") for name in ("theory", "result")),
    ("lab/*", NEUTRAL, "trains and measures networks of any device"),
    ("stepping.py", HOST, "small networks on the host"),
    ("selfcheck/*", NEUTRAL, "runs on a device, and compares on the host"),
    ("testing.py", HOST, "comparisons are made on the host"),
)  # fmt: skip

# Names of NumPy's that neutral files may use as they like. The last group is also what kernels may.
ALLOWED: dict[str, tuple[str, ...]] = {
    "settings of NumPy's own": ("errstate",),
    "random numbers are drawn on the host": ("random.Generator", "random.default_rng"),
    "answers from shapes": ("broadcast_shapes", "ndindex", "prod"),
    "made from lengths and numbers; a transfer takes it over, or it stays": (
        "arange", "empty", "eye", "full", "linspace", "ones", "zeros",
    ),
    "dtypes and constants": (
        "bool_", "can_cast", "complex64", "complex128", "dtype", "e", "False_", "finfo", "float16", "float32",
        "float64", "floating", "generic", "iinfo", "inf", "int8", "int16", "int32", "int64", "integer", "intp",
        "issubdtype", "nan", "newaxis", "pi", "promote_types", "result_type", "True_", "uint8", "uint16", "uint32",
        "uint64",
    ),
}  # fmt: skip
DTYPES = ALLOWED["dtypes and constants"]
ANYWHERE = {name for names in ALLOWED.values() for name in names}
PLAIN_ANSWERS = {"broadcast_shapes", "can_cast", "dtype", "finfo", "issubdtype", "prod", "promote_types", "result_type"}

# What the table cannot tell: keywords that a signature has and the function refuses.
REFUSED = {("astype", "casting"), ("astype", "subok")}
CREATORS = ("arange", "empty", "eye", "full", "identity", "linspace", "ones", "tri", "zeros")
# Keywords of methods that share a name with the array's: a Tensor's, a list's.
NOT_ARRAYS = {"dim", "keepdim", "correction", "unbiased", "key", "reverse"}

LITERALS = ast.List | ast.Tuple | ast.ListComp
Place = str | None  # of a value: ARRAY of the host, PLAIN Python, or None, which may be on a device
ARRAY, PLAIN = "an array of the host", "plain"
PLAIN_ATTRIBUTES = {"shape", "dtype", "ndim", "size", "strides", "nbytes", "itemsize", "device"}
PLAIN_CALLS = {"bool", "float", "int", "len", "range", "str", "complex", "isinstance", "hasattr"}
THROUGH = {"abs", "dict", "enumerate", "list", "map", "max", "min", "reversed", "round", "set", "sorted", "sum",
           "tuple", "zip"}  # fmt: skip
FILLING = {"add", "append", "extend", "insert", "update"}
ARRAY_ANNOTATIONS = {"np.ndarray", "DataLoader"}
PLAIN_ANNOTATIONS = {"bool", "complex", "dict", "float", "int", "Iterable", "list", "None", "Row", "Sequence", "set",
                     "str", "tuple"}  # fmt: skip


class Finding(NamedTuple):
    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def level(path: str) -> str | None:
    """KERNELS, NEUTRAL or HOST; None for a file that is not in the table."""
    name = path.partition("minicnn/")[2]
    return next((found for pattern, found, _ in LEVELS if fnmatch(name, pattern)), None)


def findings(path: str, source: str) -> list[Finding]:
    """What would fail on a GPU in `source`; `path` ends in ``minicnn/...`` and decides how strict to be."""
    strictness = level(path)
    if strictness is None:
        return [Finding(path, 1, "in no line of LEVELS in tests/device/lint.py: is it neutral or the host's?")]
    tree = ast.parse(source)
    reader = Imports(path, tree) if strictness == HOST else Neutral(path, tree, strictness == KERNELS)
    found, excuses = set(map(Finding._make, reader.read())), _excuses(source)
    at_fault = {finding.line for finding in found}
    left = {finding for finding in found if not excuses.get(finding.line)}
    for line, reason in excuses.items():
        if not reason:
            left.add(Finding(path, line, "'# host:' needs a reason"))
        elif line not in at_fault:
            left.add(Finding(path, line, "'# host:' excuses nothing here: remove it"))
    return sorted(left)


def _excuses(source: str) -> dict[int, str]:
    """The reason on each line that has one."""
    comments = (t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT)
    matches = ((t.start[0], re.search(r"# host:\s*(.*)", t.string)) for t in comments)
    return {line: match[1] for line, match in matches if match}


# ------------------------------------------------------------------------------------------------------- reading


def dotted(node: ast.AST) -> str:
    """``"a.b.c"`` for such an expression, else the empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


class Imports:
    """The one rule for all files: CuPy is imported in one file."""

    def __init__(self, path: str, tree: ast.Module):
        self.path, self.tree = path, tree

    def read(self) -> Iterator[tuple[str, int, str]]:
        if self.path.endswith("minicnn/backend.py"):
            return
        for node in ast.walk(self.tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
                names = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
            if any(name.partition(".")[0] in ("cupy", "cupyx") for name in names):
                yield self.path, getattr(node, "lineno", 0), "CuPy is imported in backend.py alone"


class Neutral(Imports):
    """The rules for files whose arrays may be on any device."""

    def __init__(self, path: str, tree: ast.Module, kernels: bool):
        super().__init__(path, tree)
        self.kernels = kernels
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.modules = {
            (alias.asname or alias.name).partition(".")[0]
            for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
        }  # fmt: skip
        self.xps = {"xp"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(map(_gives_module, ast.walk(node.value))):
                value = node.value
                branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                if any(map(_gives_module, branches)):
                    self.xps |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        # Bound to: an expression, a Place, or None for what is not followed.
        self.values: dict[tuple[ast.AST, str], list[tuple[ast.AST, Any]]] = {}  # names, and by which statement
        self.fields: dict[str, list[Any]] = {}  # fields of the file's classes
        self.returns: dict[str, list[Place]] = {}  # what its functions and properties say that they return
        self._asked: set[Any] = set()
        self._collect()

    def read(self) -> Iterator[tuple[str, int, str]]:
        yield from super().read()
        for node in ast.walk(self.tree):
            for message in self.messages(node):
                yield self.path, getattr(node, "lineno", 0), message

    def messages(self, node: ast.AST) -> Iterator[str]:
        if _hides_numpy(node):
            yield "import numpy as np, so that its functions are seen to be the host's"
        elif isinstance(node, ast.Attribute) and not isinstance(self.parents[node], ast.Attribute):
            yield from self.name(node)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield "CuPy has no @= and Python would bind the name anew: use xp.matmul(a, b, out=c)"
        if isinstance(node, ast.Attribute) and node.attr == "writeable":
            yield "CuPy's flags have no 'writeable', and every view of its can be written to"
        if isinstance(node, ast.Attribute) and node.attr in API["ndarray"]["missing"] and self.may_be_on_device(node):
            yield f"cupy.ndarray has no {node.attr!r}"
        if isinstance(node, ast.Call):
            yield from self.call(node)
        if isinstance(node, ast.BinOp):
            yield from self.mixed(node.left, node.right)
        elif isinstance(node, ast.AugAssign):
            yield from self.mixed(node.target, node.value)
        elif isinstance(node, ast.Compare) and not any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            yield from self.mixed(node.left, *node.comparators)
        elif isinstance(node, ast.Subscript):
            yield from self.index(node)

    # ------------------------------------------------------------------------------------------------- names

    def xp(self, node: ast.AST) -> str | None:
        """What follows ``xp.`` in an expression that begins with it (or with a call that gives it)."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        begins = (isinstance(node, ast.Name) and node.id in self.xps) or _gives_module(node)
        return ".".join(parts) if begins and parts else None

    def name(self, node: ast.Attribute) -> Iterator[str]:
        chain = self.xp(node)
        if chain is not None:
            yield from _known(chain)
        elif dotted(node).startswith("np."):
            yield from self.numpy(node, dotted(node)[3:])

    def numpy(self, node: ast.Attribute, name: str) -> Iterator[str]:
        """A name of NumPy's."""
        if any(name == known or name.startswith(f"{known}.") for known in (DTYPES if self.kernels else ANYWHERE)):
            return
        if name == "ndarray" and self._within_isinstance(node):
            yield "isinstance(x, np.ndarray) is False on a device: use backend.is_array(x)"
            return
        if self.kernels:
            yield f"np.{name} in a kernel: use xp = array_module(x)"
            return
        if name == "ndarray":
            return  # an annotation
        parent = self.parents[node]
        if not (isinstance(parent, ast.Call) and parent.func is node):
            yield f"np.{name} may be called with what is on a device: use the array's own module"
            return
        arguments = [*parent.args, *(k.value for k in parent.keywords if k.arg not in ("dtype", "axis"))]
        if name == "broadcast_to":
            arguments = arguments[:1]  # the other is a shape
        if not all(self.place(a) or self._guarded(parent, a) for a in arguments):
            yield f"np.{name} of what may be on a device: use the array's own module, or backend.to_host first"

    def _within_isinstance(self, node: ast.AST) -> bool:
        while isinstance(self.parents[node], ast.BinOp | ast.Tuple):
            node = self.parents[node]
        call = self.parents[node]
        return isinstance(call, ast.Call) and dotted(call.func) == "isinstance"

    def _guarded(self, node: ast.AST, value: ast.AST) -> bool:
        """Whether `node` runs only where `value` is no array, or an array or a scalar of NumPy's."""
        x = re.escape(ast.unparse(value))
        array = rf"(backend\.)?is_array\({x}\)"
        while node in self.parents:
            inner, node = node, self.parents[node]
            if isinstance(node, ast.If | ast.IfExp) and inner is not node.test:
                body = node.body if isinstance(node.body, list) else [node.body]
                test = ast.unparse(node.test)
                if inner in body and re.fullmatch(rf"not {array}|isinstance\({x}, (list|np\.\w+)\)", test):
                    return True
                if inner not in body and re.search(rf"(^|\bor )({array}|hasattr\({x}, 'dtype'\))$", test):
                    return True
        return False

    # ------------------------------------------------------------------------------------------------- calls

    def call(self, node: ast.Call) -> Iterator[str]:
        chain = self.xp(node.func)
        if chain is not None:
            yield from self.function(chain, node)
        elif isinstance(node.func, ast.Attribute) and self.may_be_on_device(node.func):
            yield from self.method(node.func.attr, node)

    def function(self, name: str, node: ast.Call) -> Iterator[str]:
        entry = API["functions"].get(name)
        given = [k.arg for k in node.keywords if k.arg]
        if entry is not None and entry["kind"] == "ufunc":
            for keyword in given:
                if keyword not in API["ufuncs"]["keywords"]:
                    yield f"cupy.{name} has no keyword {keyword!r}: a ufunc takes out, dtype and casting alone"
            nin = entry["nin"]
            if not nin <= len(node.args) <= nin + 1 and not any(isinstance(a, ast.Starred) for a in node.args):
                yield f"cupy.{name} takes {nin} or {nin + 1} arguments by position, here are {len(node.args)}"
            for value in node.args:
                if isinstance(value, LITERALS):
                    yield f"cupy.{name}: {ast.unparse(value):.40} where CuPy wants its arrays"
        elif entry is not None:
            yield from _arguments(name, entry["parameters"], node)
            if name in CREATORS and "dtype" not in given and len(node.args) <= entry["parameters"].index("dtype="):
                yield f"xp.{name} without dtype= makes float64 or what the platform likes"
        yield from self.waiting(name, node)
        if name not in ("asarray", "array"):
            for argument in node.args:
                parts = argument.elts if isinstance(argument, ast.List | ast.Tuple) else [argument]
                if any(self.place(part) == ARRAY for part in parts):
                    yield f"cupy.{name} refuses an array of the host: backend.to_device first"

    def method(self, name: str, node: ast.Call) -> Iterator[str]:
        if name not in API["ndarray"]["methods"] or not hasattr(np.ndarray, name):
            return  # what CuPy's alone have, as get and set, are other objects' here
        given = {k.arg for k in node.keywords}
        if given & NOT_ARRAYS and not self.kernels:
            return
        for keyword in sorted(k for n, k in REFUSED if n == name and k in given):
            yield f"cupy.ndarray.{name} refuses the keyword {keyword!r}"
        yield from _arguments(name, API["ndarray"]["methods"][name], node, method=True)
        yield from self.waiting(name, node)
        if self.kernels and name in ("item", "tolist"):
            yield f"{name} in a kernel makes the host wait for the device"

    def waiting(self, name: str, node: ast.Call) -> Iterator[str]:
        """What makes the host wait in CuPy, whatever the arguments are."""
        names = {k.arg for k in node.keywords if k.arg}
        if name in ALWAYS or (name in FORMS and FORMS[name](len(node.args), names)):
            yield f"{name} makes the host wait until the device has told how many there are, or whether it may be"

    def may_be_on_device(self, node: ast.Attribute) -> bool:
        """Whether the object of a method may be an array on a device: not a module, and not seen to be on the host."""
        return dotted(node.value).partition(".")[0] not in self.modules | self.xps and self.place(node.value) is None

    # ------------------------------------------------------------------------------------- host meets device

    def mixed(self, *operands: ast.AST) -> Iterator[str]:
        places = [self.place(x) for x in operands]
        if ARRAY in places and None in places:
            text = ast.unparse(operands[places.index(ARRAY)])
            yield f"{text:.40} is on the host, and meets what may be on a device: numbers are Python's, arrays cross"

    def index(self, node: ast.Subscript) -> Iterator[str]:
        if self.place(node.value) is not None or not isinstance(node.ctx, ast.Load | ast.Store):
            return
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(self.place(part) == ARRAY for part in parts):
            yield "an index on the host is a hidden transfer each time: backend.to_device first"

    # ------------------------------------------------------------------------------------ where a value is

    def _collect(self) -> None:
        """What the names of each function and the fields of the file's classes are bound to."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                args = node.args
                for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
                    if arg is not None:
                        self.values.setdefault((node, arg.arg), []).append((node, _annotated(arg.annotation)))
                if isinstance(node, ast.FunctionDef):
                    self.returns.setdefault(node.name, []).append(_annotated(node.returns))
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value, node)
            elif isinstance(node, ast.AnnAssign) and isinstance(self.parents[node], ast.ClassDef):
                self.fields.setdefault(dotted(node.target), []).append(_annotated(node.annotation))
            elif isinstance(node, ast.AnnAssign):
                self._bind(node.target, _annotated(node.annotation) or node.value, node)
            elif isinstance(node, ast.NamedExpr):
                self._bind(node.target, node.value, node)
            elif isinstance(node, ast.For | ast.comprehension):
                by = node if isinstance(node, ast.For) else self.parents[node]
                self._bind(node.target, _iterated(node.iter), by)
            elif isinstance(node, ast.AugAssign):
                self._bind(node.target, node.value, node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FILLING:
                for argument in node.args:
                    self._bind(node.func.value, argument, node)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                self._bind(node.optional_vars, None, node)

    def _bind(self, target: ast.AST, value: ast.AST | Place, by: ast.AST) -> None:
        if isinstance(target, ast.Name):
            self.values.setdefault((self._function(target), target.id), []).append((by, value))
        elif isinstance(target, ast.Attribute):
            self.fields.setdefault(target.attr, []).append(value)
        elif isinstance(target, ast.Tuple | ast.List):
            pairs = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
            for i, part in enumerate(target.elts):
                self._bind(part, pairs[i] if pairs else value, by)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value, by)
        elif isinstance(target, ast.Subscript):  # a part of it alone
            self._bind(target.value, value, target)

    def _function(self, node: ast.AST) -> ast.AST:
        """The function (or else the module) that `node` stands in."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                break
        return node

    def _place_of_name(self, node: ast.Name) -> Place:
        scope = self._function(node)
        while (scope, node.id) not in self.values:
            if scope not in self.parents:
                return None
            scope = self._function(scope)
        bound = self._reaching(node, self.values[scope, node.id])
        return self._place_of_all((scope, node.id, tuple(map(id, bound))), bound)

    def _reaching(self, node: ast.Name, bound: list[tuple[ast.AST, Any]]) -> list[Any]:
        """Of all that a name is bound to what may hold at `node`: nothing from before the last that always runs."""
        path: dict[ast.AST, ast.AST] = {}  # from a node around `node` to its part that `node` is in
        inner: ast.AST = node
        while inner in self.parents:
            path[self.parents[inner]] = inner
            inner = self.parents[inner]
        held: list[Any] = []
        for by, value in sorted(bound, key=lambda pair: getattr(pair[0], "lineno", 0)):
            comprehension = isinstance(by, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp)
            if comprehension and by not in path:
                continue
            if comprehension or (isinstance(by, ast.Assign | ast.For) and self._always_before(by, path)):
                held = []
            held.append(value)
        return held or [None]

    def _always_before(self, by: ast.AST, path: dict[ast.AST, ast.AST]) -> bool:
        """Whether `by` has run wherever the end of `path` runs: it stands before it in a block around it."""
        if isinstance(by, ast.For):
            return path.get(by) in by.body
        around = self.parents[by]
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(around, block, None)
            if isinstance(statements, list) and by in statements and path.get(around) in statements:
                return statements.index(by) < statements.index(path[around])
        return False

    def _place_of_all(self, key: Any, bound: list[Any]) -> Place:
        if key in self._asked:  # x = f(x): the other bindings decide
            return PLAIN
        self._asked.add(key)
        places = [x if x is None or isinstance(x, str) else self.place(x) for x in bound]
        self._asked.discard(key)
        return _together(places)

    def place(self, node: ast.AST | None) -> Place:
        """Where the value of an expression is, as far as reading tells."""
        if node is None or isinstance(node, ast.Constant | ast.JoinedStr | ast.Slice):
            return PLAIN
        if isinstance(node, ast.Name):
            return PLAIN if node.id in PLAIN_CALLS else self._place_of_name(node)
        if isinstance(node, ast.Call):
            return self._place_of_call(node)
        if isinstance(node, ast.Attribute):
            if node.attr in PLAIN_ATTRIBUTES or dotted(node).startswith(("math.", "np.")):
                return PLAIN
            if self.place(node.value) == ARRAY:
                return ARRAY
            return self._place_of_all(node.attr, self.fields.get(node.attr) or self.returns.get(node.attr) or [None])
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.place(node.value)
        if isinstance(node, ast.IfExp):
            return _together([self.place(node.body), self.place(node.orelse)])
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            return self.place(node.value if isinstance(node, ast.DictComp) else node.elt)
        if isinstance(node, ast.UnaryOp):
            return PLAIN if isinstance(node.op, ast.Not) else self.place(node.operand)
        parts: list[ast.expr] = []
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            parts = node.elts
        elif isinstance(node, ast.Dict):
            parts = node.values
        elif isinstance(node, ast.BinOp):
            parts = [node.left, node.right]
        elif isinstance(node, ast.BoolOp):
            parts = node.values
        elif isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        else:
            return None
        return _together([self.place(part) for part in parts])

    def _place_of_call(self, node: ast.Call) -> Place:
        name = dotted(node.func)
        if name.startswith("np."):
            return PLAIN if name[3:] in PLAIN_ANSWERS else ARRAY
        if name.partition(".")[0] == "math" or name in PLAIN_CALLS:
            return PLAIN
        last = name.rpartition(".")[2] or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
        if last in ("to_host", "numpy") or name.endswith("backend.generator"):
            return ARRAY
        if last in ("item", "tolist"):
            return PLAIN
        if name in THROUGH:
            return _together([self.place(argument) for argument in node.args])
        if last in self.returns and (name == last or last not in API["ndarray"]["methods"]):
            return _together(self.returns[last])
        if isinstance(node.func, ast.Attribute):
            owner = self.place(node.func.value)
            arguments = [] if last in ("get", "items", "values") else node.args
            return owner and _together([owner, *map(self.place, arguments)])
        return None


def _hides_numpy(node: ast.AST) -> bool:
    """Whether it imports NumPy, or from it, by another name than np."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "numpy"
    names = node.names if isinstance(node, ast.Import) else []
    return any(n.name.partition(".")[0] == "numpy" and (n.name, n.asname) != ("numpy", "np") for n in names)


def _gives_module(node: ast.AST) -> bool:
    """Whether it is a call whose result is NumPy or CuPy."""
    return isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("array_module", "common_module")


def _iterated(node: ast.expr) -> ast.expr:
    """What a loop's targets are bound to: a tuple of as many where the iterator tells them apart."""
    name = dotted(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "items":
        return ast.Tuple([ast.Constant("key"), node.func.value])
    if isinstance(node, ast.Call) and name == "enumerate":
        return ast.Tuple([ast.Constant(0), _iterated(node.args[0])])
    return ast.Tuple(node.args) if isinstance(node, ast.Call) and name == "zip" and len(node.args) > 1 else node


def _together(places: list[Place]) -> Place:
    return None if None in places else ARRAY if ARRAY in places else PLAIN


def _annotated(annotation: ast.AST | None) -> Place:
    """An annotation is believed."""
    if annotation is None:
        return None
    words = set(re.findall(r"[A-Za-z_][\w.]*", ast.unparse(annotation)))
    if not words <= PLAIN_ANNOTATIONS | ARRAY_ANNOTATIONS:
        return None
    return ARRAY if words & ARRAY_ANNOTATIONS else PLAIN


def _known(chain: str) -> Iterator[str]:
    """What is wrong with the name after ``xp.``."""
    first, functions = chain.partition(".")[0], API["functions"]
    if first == "random":
        yield "xp.random differs from NumPy's and from device to device: draw on the host (backend.generator)"
    elif first == "fuse":
        yield "cupy.fuse is not used: of a lambda it makes a kernel that does not compile"
    elif first not in API["classes"] and first not in API["constants"] and chain not in functions:
        owner, _, method = chain.rpartition(".")
        if functions.get(owner, {}).get("kind") != "ufunc":
            if not any(known.startswith(f"{chain}.") for known in functions):
                yield f"cupy has no {chain!r}"
        elif method not in API["ufuncs"]["methods"]:
            yield f"cupy.{owner} has no {method!r}"
        else:
            works = API["ufuncs"]["methods"][method]
            if works == "binary":
                works = [name for name, entry in functions.items() if entry.get("nin") == 2]
            if owner not in works:
                yield f"cupy.{chain} is not supported: {method} works for {', '.join(works[:4])}"


def _arguments(name: str, parameters: list[str], node: ast.Call, method: bool = False) -> Iterator[str]:
    """Arguments that are too many or missing, keywords that the table does not have, and lists in place of arrays."""
    where = f"cupy.{'ndarray.' * method}{name}"
    args = tuple(a for a in node.args if not isinstance(a, ast.Starred))
    keywords = {k.arg: k.value for k in node.keywords if k.arg}
    seen = len(args) == len(node.args) and len(keywords) == len(node.keywords)  # nothing behind * or **
    try:
        arguments = bound(name, parameters, args, keywords, all_of_them=seen)
    except TypeError as error:
        yield f"{where}: {error}"
        return
    for parameter, value in each(arguments, parameters) if seen and name not in ("asarray", "array") else ():
        if isinstance(value, LITERALS) and parameter not in LISTS:
            parts = [value.elt] if isinstance(value, ast.ListComp) else value.elts
            if parameter not in SEVERAL or any(isinstance(part, ast.Constant) for part in parts):
                yield f"{where}: {ast.unparse(value):.40} where CuPy wants its arrays"


def main() -> int:
    found = []
    for file in sorted((ROOT / "minicnn").rglob("*.py")):
        found += findings(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
