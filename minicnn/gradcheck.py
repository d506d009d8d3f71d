"""Numerical checks of gradients that say what is wrong.

A random cotangent c turns the outputs f(x) into one number, φ(x) = Σ c·f(x), whose gradient the backward passes give
in one go. Moving one entry of the input, or the whole input in a random direction, by a step h gives the same slope
without any backward pass::

    complex step         Im φ(x + ih) / h, h = 1e-20        exact to rounding, where every operation is smooth
    central difference   (φ(x + h) − φ(x − h)) / 2h         elsewhere: wrong by about h², and by rounding / h

The complex step is Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998. The
cotangent is random because ones hide mistakes: ``softmax(x).sum()`` has the gradient zero, and so have many wrong ones.

At a kink (ReLU at 0, two equal entries under a maximum) the slopes to the right and to the left differ. Such entries
are set aside and counted, but only if the two slopes keep apart as h shrinks and backward's answer lies between them.

The file in order: the public function, the report, what is checked, the measuring, the search for the first wrong
operation, the diagnosis.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .engine import Node, Tensor, apply, backward_steps, enable_grad, no_grad, observe

__all__ = ["Diagnosis", "Entry", "GradcheckError", "GradcheckReport", "InputReport", "WrongOperation", "gradcheck"]

COMPLEX_STEP, CENTRAL = "complex step", "central differences"
RTOL = {COMPLEX_STEP: 1e-12, CENTRAL: 1e-6}
TINY = 1e-20  # the complex step: nothing is subtracted, so nothing is lost
EPS = {"float64": 1e-5, "float32": 5e-3}  # near the cube root of the rounding, where central differences err least
ENTRIES_PER_OPERATION = 200  # measured where a whole model is searched for its wrong operation

RIGHT, WRONG, KINK, UNSURE, INCONCLUSIVE = "right", "wrong", "kink", "unsure", "inconclusive"


# ----------------------------------------------------------------------------------------- the public function

def gradcheck(
    fn_or_module: Callable[..., Any],
    *inputs: Any,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = False,
    seed: int = 0,
    max_entries: int = 1000,
    directions: int | None = None,
    localize: bool | None = None,
    dtype: Any = np.float64,
) -> GradcheckReport:
    """Compare the gradients of backward with numerical ones, and say what is wrong where they differ.

    Checked are the gradients of all floating-point inputs (arrays, and tensors that require a gradient) and, of a
    module, of all parameters. A difference of up to ``atol + rtol · (the largest gradient in that input)`` is right.
    Nothing that was passed is changed: parameters, buffers, modes and the random generator are put back.

    Args:
        fn_or_module: takes `inputs`, returns a tensor or tuples, lists or dicts of tensors. Layers and tensors that a
            function refers to by name are converted to `dtype` for the check too.
        inputs: tensors, arrays, and whatever else the function takes.
        eps: the first step of the central differences (relative for entries above 1), 1e-5 by default; where it may be
            too long, shorter ones follow.
        atol: by default what rounding makes unavoidable.
        rtol: by default 1e-12 for the complex step, 1e-6 for central differences.
        raise_exception: raise `GradcheckError` unless all is right.
        seed: of the cotangents, and of the entries and directions drawn.
        max_entries: entries to measure in all; of a large tensor a random sample, and a random direction.
        directions: measure only so many random directions through all inputs at once: cheap, for huge models.
        localize: search for the first operation whose backward is wrong: None where something is wrong, True always.
        dtype: to compute in; None leaves everything in its own precision (float32 is too coarse for a strict check).

    Raises:
        GradcheckError: with `raise_exception`, unless all is right.
        TypeError: the function returns no floating-point tensor.
        ValueError: nothing requires a gradient.
    """
    options = Options(eps, atol, rtol, seed, max_entries, directions)
    function = Function(fn_or_module, inputs, None if dtype is None else np.dtype(dtype))
    try:
        with np.errstate(all="ignore"):
            check = Check(function, options)
            check.run()
            wanted = check.status == WRONG if localize is None else localize
            found = search(check) if wanted and check.blocked is None else None
            settle(check, found)
            diagnoses = diagnose(check)
            if found is not None and found.first is not None and check.error is not None and not found.first.worst:
                diagnoses = []  # the operation that raised says it better
    finally:
        function.state.restore()
    report = summarize(function.title, check, found, diagnoses)
    if raise_exception and not report:
        raise GradcheckError(report)
    return report


class GradcheckError(AssertionError):
    """A gradient is wrong or could not be judged; the message is the report, which is in ``.report`` too."""

    def __init__(self, report: GradcheckReport):
        super().__init__(f"\n{report}")
        self.report = report


# ------------------------------------------------------------------------------------------------- the report

@dataclass(frozen=True)
class Entry:
    """One measured slope: of the entry at `index`, or (where that is a text) in a random direction."""

    input: str
    index: tuple[int, ...] | str
    analytic: float
    numerical: float
    verdict: str

    @property
    def absolute(self) -> float:
        return abs(self.analytic - self.numerical)

    @property
    def relative(self) -> float:
        """The difference as a share of the larger of the two."""
        larger = max(abs(self.analytic), abs(self.numerical))
        return self.absolute / larger if larger else 0.0

    def to_dict(self) -> dict[str, Any]:
        index = self.index if isinstance(self.index, str) else list(self.index)
        return {**vars(self), "index": index, "absolute": self.absolute, "relative": self.relative}


@dataclass(frozen=True)
class Diagnosis:
    """What is probably wrong.

    `kind` is one of ``"factor" "sign" "transposed" "flipped" "broadcast" "missing" "shape" "error" "non-finite"
    "float32" "coarse" "kinks" "not deterministic" "written to"``.
    """

    kind: str
    input: str
    text: str

    def __str__(self) -> str:
        return f"{self.input}: {self.text}" if self.input else self.text


@dataclass(frozen=True)
class InputReport:
    """What was measured of one input or parameter (of all at once where `shape` is None).

    `largest` is the largest slope, `allowed` the difference that passes as rounding.
    """

    name: str
    shape: tuple[int, ...] | None
    entries: int
    directions: int
    wrong: int
    set_aside: int
    largest: float
    allowed: float

    def __str__(self) -> str:
        size = math.prod(self.shape or ())
        parts = []
        if self.entries:
            part = "all" if self.entries == size else f"{self.entries} of"
            parts.append(f"{part} {size} entries")
        if self.directions:
            parts.append(f"{self.directions} random direction{'s' * (self.directions > 1)}")
        counts = [f"{n} {what}" for n, what in ((self.wrong, "wrong"), (self.set_aside, "set aside on a kink")) if n]
        tail = f": {', '.join(counts)}" if counts else ""
        return f"{self.name}{'' if self.shape is None else f' {self.shape}'}, {' and '.join(parts)}{tail}"


@dataclass(frozen=True)
class WrongOperation:
    """The first operation, counted from the output, whose backward is wrong by itself."""

    op: str
    path: str
    position: int
    total: int
    diagnoses: tuple[Diagnosis, ...]
    worst: tuple[Entry, ...]

    @property
    def label(self) -> str:
        return f"{self.op} in {self.path}" if self.path else self.op


@dataclass(frozen=True, repr=False)
class GradcheckReport:
    """The outcome of `gradcheck`: truthy when right, printed as a block of text.

    Attributes:
        status: ``"right"``, ``"wrong"`` or ``"inconclusive"``.
        method: ``"complex step"`` or ``"central differences"``; empty where nothing could be measured.
        inputs: what was measured of each input and parameter.
        worst: the five entries that differ most, in units of what is allowed.
        set_aside: how many entries lie on a kink.
        diagnoses: what is probably wrong with the whole.
        first_wrong: the first operation, counted from the output, whose backward is wrong by itself, and why.
        notes: what else there is to say.
    """

    title: str
    status: str
    method: str
    inputs: tuple[InputReport, ...]
    worst: tuple[Entry, ...]
    set_aside: int
    diagnoses: tuple[Diagnosis, ...]
    first_wrong: WrongOperation | None
    notes: tuple[str, ...]
    seed: int

    def __bool__(self) -> bool:
        return self.status == RIGHT

    @property
    def kinds(self) -> set[str]:
        """The kinds of all diagnoses, of the whole and of the first wrong operation."""
        return {d.kind for d in (*self.diagnoses, *(self.first_wrong.diagnoses if self.first_wrong else ()))}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, texts and numbers."""

        def plain(value: Any) -> Any:
            if hasattr(value, "to_dict"):
                return value.to_dict()
            if hasattr(value, "__dataclass_fields__"):
                return plain(vars(value))
            if isinstance(value, dict):
                return {key: plain(v) for key, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return plain(vars(self))

    def __str__(self) -> str:
        lines = [f"gradcheck of {self.title}: {self.status if self else self.status.upper()}"]

        def block(heading: str, texts: Any) -> None:
            lines.extend(f"  {heading if i == 0 else '':<12}{text}" for i, text in enumerate(texts))

        block("method", [f"{self.method or 'nothing could be measured'}, random cotangent (seed {self.seed})"])
        shown = self.inputs if len(self.inputs) <= 12 else sorted(self.inputs, key=lambda i: -i.wrong)[:12]
        rest = [f"and {len(self.inputs) - len(shown)} more"] if len(shown) < len(self.inputs) else []
        block("checked", [*shown, *rest])
        block("diagnosis", self.diagnoses)
        if (first := self.first_wrong) is not None:
            position = f"operation {first.position} of {first.total}, counted from the output"
            block("first wrong", [f"{first.label} ({position})", *first.diagnoses])
        if self.worst:
            block("worst", _table(self.worst[:1] if self else self.worst))
        block("note", self.notes)
        return "\n".join(lines)

    __repr__ = __str__


def _table(entries: tuple[Entry, ...]) -> list[str]:
    rows = [("input", "index", "analytic", "numerical", "absolute", "relative")]
    for e in entries:
        index = e.index if isinstance(e.index, str) else str(list(e.index))
        relative = f"{e.relative:.2g}" + (" (kink)" if e.verdict == KINK else "")
        rows.append((e.input, index, f"{e.analytic:+.9g}", f"{e.numerical:+.9g}", f"{e.absolute:.2g}", relative))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def summarize(title: str, check: Check, found: Found | None, diagnoses: list[Diagnosis]) -> GradcheckReport:
    notes = list(check.notes)
    if zero := [m.name for m in check.measured if check.vanishes(m)]:
        others = f" and {len(zero) - 8} others" if len(zero) > 8 else ""
        notes.append(f"the gradient is zero, as far as can be measured, of {', '.join(zero[:8])}{others}")
    finite = all(d.kind != "non-finite" for d in diagnoses)
    if found is not None and found.first is None and found.total:
        notes.append(
            (f"each of the {found.total} operations" if found.total > 1 else "the only operation")
            + " is right by itself"
            + (": the error lies outside" if check.status == WRONG and finite else "")
        )
    return GradcheckReport(
        title=title,
        status=check.status,
        method=check.method,
        inputs=tuple(m.report() for m in check.measured),
        worst=check.worst(),
        set_aside=check.count(KINK),
        diagnoses=tuple(diagnoses),
        first_wrong=None if found is None else found.first,
        notes=tuple(notes),
        seed=check.options.seed,
    )


# --------------------------------------------------------------------- what is checked: a function, an operation

class Computation:
    """Something that can be run again and again: leaves to differentiate by, outputs to differentiate."""

    names: list[str]
    leaves: list[Tensor]

    def outputs(self) -> list[Tensor]:
        """Run forward on the leaves' present values, with the same random numbers every time."""
        raise NotImplementedError


class Function(Computation):
    """The function or module that the user passed, with its inputs."""

    def __init__(self, fn: Any, inputs: tuple[Any, ...], dtype: Any):
        if inspect.isclass(fn):
            raise TypeError(f"gradcheck: {fn.__name__} is a class; check a layer made from it, {fn.__name__}(...)")
        self.fn = fn
        is_module = hasattr(fn, "named_parameters")
        self.title = type(fn).__name__ if is_module else getattr(fn, "__name__", type(fn).__name__)
        parameters = {name: p for name, p in fn.named_parameters() if p.requires_grad} if is_module else {}
        self.names, self.leaves = [], []
        self.arguments: list[Any] = []
        for name, value in zip(_argument_names(fn.forward if is_module else fn, len(inputs)), inputs, strict=True):
            array = value.data if isinstance(value, Tensor) else value
            if backend.is_array(array) and array.dtype.kind == "f":
                wanted = not isinstance(value, Tensor) or value.requires_grad
                with backend.beside(array):
                    value = Tensor(array.astype(dtype or array.dtype, order="C"), requires_grad=wanted)
                if wanted:
                    self.names.append(f"input {name}" if name in parameters else name)
                    self.leaves.append(value)
            self.arguments.append(value)
        self.names += parameters
        self.leaves += parameters.values()
        if not self.leaves:
            raise ValueError(
                f"gradcheck of {self.title}: nothing to check: no input is floating-point and requires a gradient, and "
                "there are no parameters. Pass arrays of floats, or tensors with requires_grad=True"
            )
        self.state = State(fn, dtype)

    def outputs(self) -> list[Tensor]:
        self.state.restart()
        result = self.fn(*self.arguments)
        outputs = list(_tensors(result))
        if not outputs:
            raise TypeError(
                f"gradcheck of {self.title}: it returned {type(result).__name__}, and must return a minicnn.Tensor of "
                "floats, or a tuple, list or dict of them"
            )
        return outputs


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        if result.dtype.kind in "fc":
            yield result
    elif isinstance(result, tuple | list | dict):
        for part in result.values() if isinstance(result, dict) else result:
            yield from _tensors(part)


def _argument_names(fn: Any, count: int) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        parameters = ()  # type: ignore[assignment]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return names + [f"input[{i}]" for i in range(len(names), count)]


class State:
    """What running a function can change: converted to `dtype`, put back before each run and at the end."""

    def __init__(self, fn: Any, dtype: Any):
        owner = getattr(fn, "__self__", fn)  # of a bound method
        roots = [owner, *getattr(owner, "__dict__", {}).values(), *getattr(fn, "args", ())]  # of functools.partial
        if inspect.isfunction(fn) or inspect.ismethod(fn):
            names = inspect.getclosurevars(fn)
            roots += [*names.nonlocals.values(), *names.globals.values()]
        tops = [root for root in roots if hasattr(type(root), "named_parameters")]
        modules = {id(m): m for top in tops for m in (top.modules() if hasattr(top, "modules") else [top])}
        tensors = {id(p): p for top in tops for _, p in top.named_parameters()}
        buffers = {id(b): b for top in tops if hasattr(top, "named_buffers") for _, b in top.named_buffers()}
        attributes = [vars(m) for m in modules.values()]
        registries = [value for a in attributes for value in a.values() if type(value) is dict]
        values = [*roots, *(value for a in attributes for value in a.values())]
        tensors |= {id(value): value for value in values if isinstance(value, Tensor)}
        arrays = [value for value in values if isinstance(value, np.ndarray) and value.flags.writeable]
        self.generator = backend.generator().bit_generator.state
        self.dicts = [(d, dict(d)) for d in (*attributes, *registries)]
        self.arrays = [(a, a.copy()) for a in arrays if a.size < 1_000_000]  # a larger one is data rather than state
        self.originals = [(t, t.data) for t in (*tensors.values(), *buffers.values())]
        for tensor, data in self.originals:
            if dtype is not None and data.dtype.kind == "f":
                with backend.beside(data):
                    tensor.data = data.astype(dtype, order="C")
        self.buffers = [(b, b.data) for b in buffers.values()]

    def restart(self) -> None:
        backend.generator().bit_generator.state = self.generator
        for attributes, contents in self.dicts:
            attributes.clear()
            attributes.update(contents)
        for array, values in self.arrays:
            array[...] = values
        for buffer, values in self.buffers:
            buffer.data = backend.copy(values)

    def restore(self) -> None:
        self.restart()
        for tensor, data in self.originals:
            tensor.data = data


class Operation(Computation):
    """One operation by itself, on the arrays that it met in a larger computation."""

    def __init__(self, node: Node, arrays: list[Array | None]):
        self.node, self.arrays = node, arrays
        self.tensors = [
            None if a is None else _leaf(a, need) for a, need in zip(arrays, node.needs, strict=True)
        ]
        self.all_names = _argument_names(node.op.forward, len(arrays))
        self.names = [name for name, need in zip(self.all_names, node.needs, strict=True) if need]
        self.leaves = [t for t in self.tensors if t is not None and t.requires_grad]
        self.generator = backend.generator().bit_generator.state

    def outputs(self) -> list[Tensor]:
        backend.generator().bit_generator.state = self.generator
        output = apply(self.node.op, *self.tensors, **self.node.params)
        if output.node is not None:
            output.node.backward_kernel = self.node.backward_kernel
        return [output]


class Trace:
    """Watches a forward pass: the operations in order, and what came out of each."""

    def __init__(self) -> None:
        self.values: dict[Node, Array] = {}

    def forward(self, node: Node, output: Array) -> None:
        self.values[node] = output


# ---------------------------------------------------------------------------------------------- the measuring

@dataclass(frozen=True)
class Options:
    eps: float | None
    atol: float | None
    rtol: float | None
    seed: int
    max_entries: int
    directions: int | None


@dataclass(frozen=True)
class Line:
    """A way to leave the point: along one entry of one leaf, or in a direction through some of the leaves."""

    label: tuple[int, ...] | str
    leaf: int = 0
    entry: int | None = None
    direction: dict[int, Array] = field(default_factory=dict)


@dataclass
class Slope:
    """A slope along a line: backward's answer, the measured value, and how certain that is.

    `gap` is how far the slopes to the right and to the left are apart, summed over the outputs; `low` and `high` bound
    what backward may answer at a kink, where each output has its right slope or its left one.
    """

    line: Line
    analytic: float
    numerical: float
    noise: float = 0.0
    size: float = 0.0
    gap: float = 0.0
    gap_noise: float = 0.0
    low: float = 0.0
    high: float = 0.0
    verdict: str = RIGHT

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numerical)


@dataclass
class Measured:
    """The slopes measured of one leaf, by its number; of all at once where that is −1 and `shape` is None."""

    leaf: int
    name: str
    shape: Any
    gradient: np.ndarray | None
    slopes: list[Slope]
    allowed: float = 0.0

    @property
    def entries(self) -> int:
        return sum(s.line.entry is not None for s in self.slopes)

    @property
    def noise(self) -> float:
        return max((s.noise for s in self.slopes), default=0.0)

    @property
    def largest(self) -> float:
        return max((abs(s.numerical) for s in self.slopes if math.isfinite(s.numerical)), default=0.0)

    @property
    def answer(self) -> float:
        return max((abs(s.analytic) for s in self.slopes), default=0.0)

    @property
    def scale(self) -> float:
        """What differences are compared with: of the two gradients the smaller, so that a wild one excuses nothing."""
        return min(self.largest, self.answer)

    def count(self, verdict: str) -> int:
        return sum(s.verdict == verdict for s in self.slopes)

    def report(self) -> InputReport:
        directions, wrong, kinks = len(self.slopes) - self.entries, self.count(WRONG), self.count(KINK)
        return InputReport(self.name, self.shape, self.entries, directions, wrong, kinks, self.largest, self.allowed)


class Check:
    """Forward, backward and measurements of a computation at one point."""

    def __init__(self, computation: Computation, options: Options):
        self.computation, self.options = computation, options
        self.rng = np.random.default_rng(options.seed)
        self.base = [leaf.data for leaf in computation.leaves]
        self.trace = Trace()
        self.blocked: Diagnosis | None = None  # why measuring makes no sense
        before = [backend.copy(array) for array in self.base]
        with enable_grad(), observe(self.trace):
            self.result = computation.outputs()
        for name, leaf, array, old in zip(computation.names, computation.leaves, self.base, before, strict=True):
            if leaf.data is not array or not _equal(array, old):
                backend.assign(array, old)
                leaf.data = array
                self.blocked = Diagnosis("written to", name, "forward changes its input: compute into a new array")
        self.cotangents = [self.rng.standard_normal(output.shape) for output in self.result]
        self.cotangent = np.concatenate([c.ravel() for c in self.cotangents])
        self.centre = _flat([output.data for output in self.result])
        given = max(_rounding(x) for x in self.base)
        coarse = [node for node, value in self.trace.values.items() if _rounding(value) > given]
        self.notes = [f"only a coarse check: {coarse[0].label} gives {coarse[0].dtype}"] if coarse else []
        arrays = (*self.base, *self.trace.values.values(), *(output.data for output in self.result))
        self.machine = max(map(_rounding, arrays))  # the coarsest on the way
        self.gradients: list[np.ndarray | None] = []
        self.method, self.status = "", RIGHT
        self.measured: list[Measured] = []
        self.error: Exception | None = None  # of the backward pass

    def run(self) -> None:
        """Measure and judge."""
        self.blocked = self.blocked or self.forward_trouble()
        if self.blocked is None:
            try:
                self.gradients = self.backward()
            except Exception as error:  # whatever a user's backward raises
                self.error = error
            else:
                self.blocked = self.backward_trouble()
        if self.blocked or self.error:
            self.status = INCONCLUSIVE if self.blocked and self.blocked.kind == "not deterministic" else WRONG
            return
        lines = self.lines()
        self.measure(lines)
        if -1 in lines and self.count(WRONG):  # whose fault is it?
            self.measure({i: [self.through(i)] for i in range(len(self.base))})
        self.conclude()

    # ------------------------------------------------------------------------------------ forward and backward

    def evaluate(self, values: list[Array]) -> np.ndarray:
        """All outputs with the leaves at `values`, as one vector."""
        leaves = self.computation.leaves
        try:
            for leaf, value in zip(leaves, values, strict=True):
                leaf.data = value
            with no_grad():
                return _flat([output.data for output in self.computation.outputs()])
        finally:
            for leaf, value in zip(leaves, self.base, strict=True):
                leaf.data = value

    def backward(self) -> list[np.ndarray | None]:
        """The gradient of Σ cotangent·output by each leaf, None where none arrives. Writes no ``.grad``."""
        sums: dict[int, Array] = {}

        def add(leaf: Tensor, grad: Array) -> None:
            with backend.beside(grad):
                sums[id(leaf)] = sums[id(leaf)] + grad if id(leaf) in sums else grad

        for output, cotangent in zip(self.result, self.cotangents, strict=True):
            if output.requires_grad and output.node is None:
                add(output, _beside(cotangent, output.data))
            elif output.requires_grad:
                for step in backward_steps(output, _beside(cotangent, output.data)):
                    for source, grad in zip(step.node.inputs, step.grad_inputs, strict=True):
                        if grad is not None and isinstance(source, Tensor):
                            add(source, grad)
        grads = [sums.get(id(leaf)) for leaf in self.computation.leaves]
        return [None if grad is None else backend.to_host(grad).astype(np.float64) for grad in grads]

    def forward_trouble(self) -> Diagnosis | None:
        for node, value in self.trace.values.items():
            if not _finite(value):
                return Diagnosis("non-finite", "", f"forward: {node.label} is the first to give NaN or infinity")
        if not _finite(self.centre):
            return Diagnosis("non-finite", "", "forward gives NaN or infinity")
        again = self.evaluate(self.base)
        if again.shape != self.centre.shape or _size(again - self.centre) > 1e3 * self.machine * _size(self.centre):
            return Diagnosis(
                "not deterministic",
                "",
                "two runs on the same input differ. Draw random numbers from minicnn.backend.generator(), which is "
                "restarted before each run, or switch them off",
            )
        return None

    def backward_trouble(self) -> Diagnosis | None:
        for name, gradient in zip(self.computation.names, self.gradients, strict=True):
            if gradient is not None and not _finite(gradient):
                pairs = zip(self.result, self.cotangents, strict=True)
                steps = (s for o, c in pairs if o.node is not None for s in backward_steps(o, _beside(c, o.data)))
                first = next(s for s in steps if not all(g is None or _finite(g) for g in s.grad_inputs))
                text = f"the gradient is NaN or infinite: backward of {first.node.label} is the first to give it"
                return Diagnosis("non-finite", name, text)
        return None

    # --------------------------------------------------------------------------------------------------- slopes

    def lines(self) -> dict[int, list[Line]]:
        """Where to measure each leaf: at every entry while `max_entries` lasts; else a sample, and a direction.

        With the option `directions`, through all leaves at once, under the number −1.
        """
        count = len(self.base)
        if self.options.directions is not None:
            labels = [f"direction {k + 1}" for k in range(self.options.directions)]
            return {-1: [self.through(*range(count), label=label) for label in labels]}
        lines: dict[int, list[Line]] = {}
        left = self.options.max_entries
        for done, i in enumerate(sorted(range(count), key=lambda i: self.base[i].size)):  # what small ones leave over
            shape, size, share = self.base[i].shape, self.base[i].size, max(left // (count - done), 4)
            entries = np.arange(size) if size <= share else np.sort(self.rng.choice(size, share, replace=False))
            left -= len(entries)
            lines[i] = [Line(tuple(map(int, np.unravel_index(e, shape))), i, int(e)) for e in entries]
            if size > share:
                lines[i].append(self.through(i))
        return dict(sorted(lines.items()))

    def through(self, *leaves: int, label: str = "direction") -> Line:
        """A line in a random direction through these leaves, of length 1 in each."""
        direction = {}
        for i in leaves:
            u = self.rng.standard_normal(self.base[i].shape)
            direction[i] = _beside(u / max(float(np.sqrt((u * u).sum())), 1e-300), self.base[i])
        return Line(label, direction=direction)

    def moved(self, line: Line, by: complex, base: list[Array]) -> list[Array]:
        values = list(base)
        if line.entry is not None:
            with backend.beside(base[line.leaf]):
                values[line.leaf] = base[line.leaf].copy(order="C")
                values[line.leaf].reshape(-1)[line.entry] += by
        for i, u in line.direction.items():
            with backend.beside(u):
                values[i] = (base[i] + by * u).astype(base[i].dtype)
        return values

    def answer(self, line: Line, moves: dict[int, np.ndarray]) -> float:
        """Backward's slope: of the line's entry, or along `moves`."""
        if line.entry is not None:
            moves = {line.leaf: np.zeros(0)}
        total = 0.0
        for i, move in moves.items():
            gradient = self.gradients[i]
            if gradient is not None:
                total += float(gradient.reshape(-1)[line.entry] if line.entry is not None else (gradient * move).sum())
        return total

    def complex_slope(self, line: Line, base: list[Array]) -> Slope:
        output = self.evaluate(self.moved(line, 1j * TINY, base))
        moves = {i: backend.to_host(u) for i, u in line.direction.items()}
        return Slope(line, self.answer(line, moves), float(self.cotangent @ output.imag) / TINY)

    def step(self, line: Line, eps: float) -> float:
        return eps if line.entry is None else eps * max(1.0, abs(_at(self.base, line)))

    def central_slope(self, line: Line, eps: float) -> Slope:
        h = ahead = behind = self.step(line, eps)
        up, down = self.moved(line, h, self.base), self.moved(line, -h, self.base)
        if line.entry is not None:  # the steps as rounding left them
            ahead, behind = _at(up, line) - _at(self.base, line), _at(self.base, line) - _at(down, line)
        moves = {i: (backend.to_host(up[i]) - backend.to_host(down[i])) / (2 * h) for i in line.direction}
        top, bottom, c = self.evaluate(up), self.evaluate(down), self.cotangent
        right, left = c * (top - self.centre) / ahead, c * (self.centre - bottom) / behind
        answer = self.answer(line, moves)
        changed = top != bottom
        if answer and not changed.any():  # a change may be too small to show
            changed[:] = True
        reached = (c * self.centre)[changed]
        return Slope(
            line,
            answer,
            float(c @ (top - bottom)) / (ahead + behind),
            noise=16 * self.machine * float(np.linalg.norm(reached)) / h,
            size=float(np.abs(right + left).sum()) / 2,
            gap=float(np.abs(right - left).sum()),
            gap_noise=8 * self.machine * float(np.abs(reached).sum()) / h,
            low=float(np.minimum(right, left).sum()),
            high=float(np.maximum(right, left).sum()),
        )

    # -------------------------------------------------------------------------------------------------- methods

    def about(self, leaf: int) -> tuple[int, str, Any, np.ndarray | None]:
        if leaf < 0:
            return leaf, "all inputs at once", None, None
        return leaf, self.computation.names[leaf], tuple(self.base[leaf].shape), self.gradients[leaf]

    def measure(self, lines: dict[int, list[Line]]) -> None:
        if not self.method:
            reason = self.why_not_complex()
            self.method = CENTRAL if reason else COMPLEX_STEP
            if reason:
                self.notes.append(f"central differences, because {reason}")
        if self.method == COMPLEX_STEP and not self.measure_complex(lines):
            self.method = CENTRAL
            self.notes.append(
                "central differences, because the complex step contradicts them: an operation is marked smooth and "
                "does not take complex numbers"
            )
        if self.method == CENTRAL:
            self.measure_central(lines)

    def why_not_complex(self) -> str:
        """The reason against the complex step; empty where there is none."""
        nodes = list(self.trace.values)
        if not nodes:
            return "no operation was recorded"
        if rough := list(dict.fromkeys(node.op.name for node in nodes if not node.op.smooth)):
            return f"not marked smooth: {', '.join(rough[:5])}{', …' if len(rough) > 5 else ''}"
        if self.machine > np.finfo(np.float64).eps:
            return "the complex step needs float64"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                output = self.evaluate([backend.cast(array, np.complex128) for array in self.base])
        except Exception as error:  # whatever a user's function raises
            return f"the function does not take complex numbers ({_one_line(error)})"
        if output.dtype.kind != "c":
            return "the function drops the imaginary part of complex numbers"
        if _size(output.real - self.centre) > 1e-9 * _size(self.centre):
            return "the function gives other values for complex numbers"
        return ""

    def measure_complex(self, lines: dict[int, list[Line]]) -> bool:
        """Measure by the complex step; False where central differences show that it does not hold here."""
        base = [backend.cast(array, np.complex128) for array in self.base]
        measured = [Measured(*self.about(i), [self.complex_slope(line, base) for line in lines[i]]) for i in lines]
        largest = max((m.largest for m in measured), default=0.0)
        for m in measured:
            self.allow(m, COMPLEX_STEP, 1e-13 * largest)  # what a sum that cancels leaves behind
            for s in m.slopes:
                s.verdict = RIGHT if s.difference <= m.allowed else WRONG
        wrong = [(m, s) for m in measured for s in m.slopes if s.verdict == WRONG]
        if wrong:
            m, s = max(wrong, key=lambda pair: pair[1].difference)
            central = self.central_slope(s.line, EPS["float64"])
            if central.difference <= central.noise + 1e-6 * m.largest < 0.1 * s.difference:
                return False
        self.measured += measured
        return True

    def measure_central(self, lines: dict[int, list[Line]]) -> None:
        default = EPS["float64" if self.machine < 1e-10 else "float32"]
        eps = default if self.options.eps is None else self.options.eps
        for i in lines:
            m = Measured(*self.about(i), [self.central_slope(line, eps) for line in lines[i]])
            self.allow(m, CENTRAL, m.noise)
            m.slopes = [self.judge(s, m.allowed, eps) for s in m.slopes]
            self.measured.append(m)
        confirmed = 0
        for m in self.measured:
            for k, s in enumerate(m.slopes):
                if s.verdict == WRONG and confirmed < 20:  # so many are beyond doubt
                    m.slopes[k] = self.judge_again(s, m, eps)
                    confirmed += m.slopes[k].verdict == WRONG

    def allow(self, m: Measured, method: str, unavoidable: float) -> None:
        rtol = RTOL[method] if self.options.rtol is None else self.options.rtol
        m.allowed = rtol * m.scale + (unavoidable if self.options.atol is None else self.options.atol)

    def judge(self, slope: Slope, allowed: float, eps: float) -> Slope:
        """The slope with its verdict: right, wrong or at a kink; measured again with smaller steps if need be.

        A kink within the step puts the measured slope off by at most half the gap between right and left: a gap that is
        smaller than the difference explains nothing. Where a kink may be, smaller steps tell: the gap of a curve
        shrinks with the step, that of a kink beside the point vanishes, that of a kink at the point stays.
        """
        slope.verdict = RIGHT if slope.difference <= allowed else WRONG
        agrees = slope.verdict == RIGHT
        if not slope.gap > max(3 * slope.gap_noise, 1e-3 * slope.size if agrees else slope.difference):
            return slope
        smaller = [self.central_slope(slope.line, eps / 10), self.central_slope(slope.line, eps / 100)]
        if any(s.gap < 0.3 * slope.gap for s in smaller):
            return slope if agrees else next((s for s in smaller if s.difference <= allowed), slope)
        clear = [s for s in smaller if s.gap > 3 * s.gap_noise]
        if clear:
            low, high, slack = clear[-1].low, clear[-1].high, allowed + clear[-1].gap_noise
            slope.verdict = KINK if low - slack <= slope.analytic <= high + slack else slope.verdict
        return slope

    def judge_again(self, slope: Slope, m: Measured, eps: float) -> Slope:
        """A slope found wrong, more slowly: is it the measurement that is?

        There may be a kink inside, which the outputs need not show: the derivative of ``relu(x) − relu(−x)``, which is
        x, is 1 at 0, and right backward passes add up to 0. Steps that meet one do not count; if all do, who knows. Or
        the function is so curved that the step is too long: then shorter ones come closer to backward's answer, as far
        as their rounding lets them.
        """
        met: list[Slope] = []
        for h in (eps, eps / 10, eps / 100, eps / 1000):
            if self.kink_inside(slope.line, h):
                continue
            slope = self.central_slope(slope.line, h)
            doubt = m.allowed + (2 * slope.noise if h < eps else 0)
            if slope.difference <= doubt:
                slope.verdict = RIGHT if doubt < 1e-4 * m.scale else UNSURE
                return slope
            slope.verdict = WRONG
            if met and slope.difference > 0.5 * met[-1].difference:
                return met[0]
            met.append(slope)
        if met:
            return met[0]
        slope.verdict = UNSURE
        return slope

    def kink_inside(self, line: Line, eps: float) -> bool:
        """Whether an operation has another slope to the right than to the left."""
        h, runs = self.step(line, eps), []
        for by in (-h, 0.0, h):
            with observe(trace := Trace()):
                self.evaluate(self.moved(line, by, self.base))
            runs.append([backend.to_host(v) for node, v in trace.values.items() if not node.op.smooth])
        return any(self.bends(below, here, above, h) for below, here, above in zip(*runs, strict=True))

    def bends(self, below: np.ndarray, here: np.ndarray, above: np.ndarray, h: float) -> bool:
        """Whether an array changes otherwise in the step ahead than in the step behind."""
        right, left = (above - here) / h, (here - below) / h
        noise = 32 * self.machine * _size(here) / h
        return _size(right - left) > max(1e-2 * _size(right), 1e-2 * _size(left), noise)

    def conclude(self) -> None:
        """The verdict on the whole, from those on the slopes."""
        if self.count(WRONG) or self.count(UNSURE):
            self.status = WRONG
        elif any(self.too_coarse(m) or self.too_many_kinks(m) for m in self.measured):
            self.status = INCONCLUSIVE
        else:
            self.status = RIGHT

    def too_coarse(self, m: Measured) -> bool:
        """Whether an error of 0.1 % (or what `rtol` allows) could hide behind the rounding."""
        enough = max(1e-3, self.options.rtol or 0)
        return m.noise > enough * m.scale and not self.vanishes(m)

    def vanishes(self, m: Measured) -> bool:
        """Whether the gradient is zero but for rounding: beside the others, and as far as can be measured."""
        largest = max(other.answer for other in self.measured)
        return m.answer <= 1e-12 * largest and m.largest <= max(10 * m.noise, m.allowed)

    def too_many_kinks(self, m: Measured) -> bool:
        return 2 * m.count(KINK) > len(m.slopes)

    def count(self, verdict: str) -> int:
        return sum(m.count(verdict) for m in self.measured)

    def worst(self) -> tuple[Entry, ...]:
        """The five slopes that differ most, in units of what is allowed; those on kinks last."""
        all_slopes = [(m, s) for m in self.measured for s in m.slopes]

        def badness(pair: tuple[Measured, Slope]) -> tuple[bool, float]:
            m, s = pair
            ratio = s.difference / m.allowed if m.allowed else s.difference * 1e300
            return s.verdict != KINK, ratio if math.isfinite(ratio) else math.inf

        worst = sorted(all_slopes, key=badness, reverse=True)[:5]
        return tuple(Entry(m.name, s.line.label, s.analytic, s.numerical, s.verdict) for m, s in worst)


def _flat(arrays: list[Array]) -> np.ndarray:
    flat = np.concatenate([backend.to_host(array).ravel() for array in arrays])
    return flat if flat.dtype.kind == "c" else flat.astype(np.float64)


def _leaf(array: Array, requires_grad: bool) -> Tensor:
    """A tensor of its own, where the array is."""
    leaf = Tensor._of(backend.copy(array))
    leaf.requires_grad = requires_grad
    return leaf


def _beside(values: np.ndarray, array: Array) -> Array:
    """`values` in the dtype of `array` and on its device."""
    return backend.to_device(values.astype(array.dtype), backend.device_of(array))


def _equal(a: Array, b: Array) -> bool:
    return np.array_equal(backend.to_host(a), backend.to_host(b), equal_nan=True)


def _size(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0))


def _rounding(array: Array) -> float:
    return float(np.finfo(array.dtype).eps)


def _finite(array: Array) -> bool:
    return bool(np.isfinite(backend.to_host(array)).all())


def _at(values: list[Array], line: Line) -> float:
    return float(values[line.leaf].reshape(-1)[line.entry])


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# --------------------------------------------------------------------------- the search for the wrong operation

@dataclass(frozen=True)
class Found:
    """What the search through `total` operations found; `first` is None where each is right by itself."""

    total: int
    first: WrongOperation | None


def search(check: Check) -> Found:
    """Check each operation behind the outputs by itself, from the last to the first, until one is wrong."""
    todo = [output.node for output in check.result if output.node is not None]
    nodes: set[Node] = set()
    while todo:
        node = todo.pop()
        if node not in nodes:
            nodes.add(node)
            todo += [source for source in node.inputs if isinstance(source, Node)]
    options = Options(None, None, None, check.options.seed, ENTRIES_PER_OPERATION, None)
    for position, node in enumerate(sorted(nodes, key=lambda n: -n.sequence), start=1):
        arrays = [check.trace.values[s] if isinstance(s, Node) else None if s is None else s.data for s in node.inputs]
        alone = Check(Operation(node, arrays), options)
        alone.run()
        settle(alone, None)
        if alone.status == WRONG:
            diagnoses = tuple(diagnose(alone))
            return Found(
                len(nodes),
                WrongOperation(node.op.name, node.path, position, len(nodes), diagnoses, alone.worst()),
            )
    return Found(len(nodes), None)


def settle(check: Check, found: Found | None) -> None:
    """Decide what the slopes could not: a kink, where each operation has been found right by itself; else wrong."""
    verdict = KINK if found is not None and found.first is None else WRONG
    for m in check.measured:
        for s in m.slopes:
            s.verdict = verdict if s.verdict == UNSURE else s.verdict
    if check.measured:
        check.conclude()
    if found is not None and found.first is not None:
        check.status = WRONG


# ------------------------------------------------------------------------------------------------ the diagnosis

def diagnose(check: Check) -> list[Diagnosis]:
    """What is probably wrong, as far as the numbers tell."""
    if check.blocked is not None:
        return [check.blocked]
    if check.error is not None:
        return [_failed_backward(check, check.error)]
    diagnoses = [d for m in check.measured if m.count(WRONG) and (d := _pattern(check, m)) is not None]
    if len(diagnoses) == len(check.measured) > 1 and len({(d.kind, d.text) for d in diagnoses}) == 1:
        diagnoses = [Diagnosis(diagnoses[0].kind, "every input", diagnoses[0].text)]
    if check.status == INCONCLUSIVE or check.machine > 1e-10:
        diagnoses += [d for m in check.measured if (d := _undecided(check, m)) is not None]
    return diagnoses


def _failed_backward(check: Check, error: Exception) -> Diagnosis:
    """Why backward raised. Of an operation by itself, its kernel is asked again, and what it returned looked at."""
    if not isinstance(check.computation, Operation):
        return Diagnosis("error", "", f"backward raised {_one_line(error)}")
    node = check.result[0].node
    assert node is not None
    output = check.result[0]
    try:
        cotangent = _beside(check.cotangents[0], output.data)
        with backend.computing(cotangent):
            grads = tuple(node.backward_kernel(cotangent, node.saved, node.needs, **node.params))
    except Exception as again:
        return Diagnosis("error", "", f"backward raised {_one_line(again)}")
    for name, grad, source, need in zip(check.computation.all_names, grads, node.inputs, node.needs, strict=False):
        if not need or source is None:
            continue
        if grad is None:
            return Diagnosis("missing", name, "backward returned None for it")
        if grad.shape != source.shape:
            return _wrong_shape(name, tuple(grad.shape), tuple(source.shape))
    return Diagnosis("error", "", _one_line(error))


def _wrong_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> Diagnosis:
    text = f"the gradient has shape {got}, the input {expected}"
    try:
        broadcast = np.broadcast_shapes(got, expected) == got
    except ValueError:
        broadcast = False
    if broadcast:
        padded = (None,) * (len(got) - len(expected)) + expected
        axes = tuple(i for i, n in enumerate(padded) if n != got[i])
        return Diagnosis("broadcast", name, f"{text}: not summed over axes {axes}, along which the input was broadcast")
    if sorted(got) == sorted(expected):
        return Diagnosis("transposed", name, f"{text}: transposed")
    return Diagnosis("shape", name, text)


def _undecided(check: Check, m: Measured) -> Diagnosis | None:
    if check.too_many_kinks(m):
        text = f"{m.count(KINK)} of {len(m.slopes)} entries lie on a kink, too many to judge: move the input a little"
        return Diagnosis("kinks", m.name, text)
    if not check.too_coarse(m):
        return None
    share = m.noise / m.scale if m.scale else math.inf
    text = f"rounding makes the measured slopes uncertain by {100 * share:.2g} % of the largest"
    if check.machine < 1e-10:
        return Diagnosis("coarse", m.name, f"{text}: give a larger eps, or make the output smaller")
    labels = [node.label for node, value in check.trace.values.items() if _rounding(value) == check.machine]
    where = f"{labels[0]} computes in it" if labels else "the input has it"
    return Diagnosis("float32", m.name, f"{text}: float32 is too coarse ({where}); check in float64")


def _pattern(check: Check, m: Measured) -> Diagnosis | None:
    """What the wrong gradient of one leaf has to do with the right one."""
    wrong = [s for s in m.slopes if s.verdict == WRONG]
    if not all(math.isfinite(s.numerical) for s in wrong):
        return Diagnosis("non-finite", m.name, "forward gives NaN or infinity within a step of the input")
    slopes = [s for s in m.slopes if s.verdict != KINK]
    analytic, numerical = (np.array([getattr(s, k) for s in slopes]) for k in ("analytic", "numerical"))
    if not analytic.any():
        return Diagnosis("missing", m.name, _severed(check, m))
    if (ratio := _factor(analytic, numerical, m.allowed)) is not None:
        kind, text, telling = _about_factor(ratio, check, m)
        if telling or len(slopes) > 1:  # one pair of numbers always has a factor
            return Diagnosis(kind, m.name, text)
    entries = [s for s in slopes if s.line.entry is not None]
    if m.gradient is not None and entries:
        places = np.array([s.line.entry for s in entries])
        measured = np.array([s.numerical for s in entries])

        def fits(guess: np.ndarray) -> bool:
            return bool(np.abs(guess.reshape(-1)[places] - measured).max() <= 10 * m.allowed)

        for kind, text, guess in (*_rearranged(m.gradient), *_with_turned_inputs(check, m)):
            if fits(guess):
                return Diagnosis(kind, m.name, text)
    if text := _one_slice(check, m, [s for s in wrong if s.line.entry is not None]):
        return Diagnosis("broadcast", m.name, text)
    if all(s.analytic == 0 for s in wrong):
        return Diagnosis("missing", m.name, f"zero at {len(wrong)} entries where it is not; right at the others")
    return None


def _factor(analytic: np.ndarray, numerical: np.ndarray, allowed: float) -> float | None:
    """r, where analytic = r · numerical throughout."""
    square = float(numerical @ numerical)
    if not square:
        return None
    ratio = float(analytic @ numerical) / square
    rest = float(np.abs(analytic - ratio * numerical).max())
    error = abs(ratio - 1) * float(np.abs(numerical).max())
    return ratio if error > allowed and rest <= allowed + 0.01 * error else None


def _about_factor(ratio: float, check: Check, m: Measured) -> tuple[str, str, bool]:
    """Kind and text for a gradient of `ratio` times what it should be; and whether the number means something."""
    if abs(ratio + 1) < 1e-4:
        return "sign", "wrong sign throughout", True
    if abs(ratio - 1) < 0.05:
        return "factor", f"too {'large' if ratio > 1 else 'small'} by {100 * abs(ratio - 1):.3g} % throughout", False
    sizes: dict[int, list[str]] = {}
    shapes = {m.name: m.shape or (), "the output": tuple(check.result[0].shape)}
    shapes |= {name: tuple(x.shape) for name, x in zip(check.computation.names, check.base, strict=True)}
    for name, shape in shapes.items():
        for n, what in _sizes(shape):
            sizes.setdefault(n, []).append(f"{what} of {name}")
    times = abs(ratio)
    factor, telling = f"{times:.6g}", False
    for n, meanings in sizes.items():
        if abs(times - n) < 1e-4 * n or abs(times * n - 1) < 1e-4:
            factor, telling = f"{n}" if times > 1 else f"1/{n}", True
            factor += f" ({n} is the {', the '.join(meanings[:3])})"
            break
    text = f"{'wrong sign, and ' if ratio < 0 else ''}off by a constant factor of {factor}"
    return "sign" if ratio < 0 else "factor", text, telling


def _sizes(shape: tuple[int, ...]) -> list[tuple[int, str]]:
    """What numbers a factor may stand for."""
    sizes = [(shape[0], "batch size")] if len(shape) > 1 else []
    if len(shape) == 4:
        sizes += [
            (shape[2] * shape[3], "number of spatial positions"),
            (shape[0] * shape[2] * shape[3], "number of spatial positions in the batch"),
            (shape[1], "number of channels"),
        ]
    sizes += [(n, f"length of axis {i}") for i, n in enumerate(shape) if len(shape) != 4 and (i or len(shape) == 1)]
    sizes.append((math.prod(shape), "number of entries"))
    return [(n, what) for n, what in sizes if n > 1]


def _rearranged(gradient: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """What the gradient would have to be, if it is transposed or flipped: kind, text, guess."""
    shape = gradient.shape
    for i, j in combinations(range(gradient.ndim), 2):
        if shape[i] == shape[j]:
            yield "transposed", f"transposed: right with axes {i} and {j} exchanged", gradient.swapaxes(i, j)
    if gradient.ndim > 1:
        reread = np.ascontiguousarray(gradient).reshape(shape[::-1]).transpose()
        yield "transposed", "transposed: right when its entries are read with the axes in reverse order", reread
        yield "flipped", "kernel not flipped: right when turned by 180°", np.flip(gradient, (-2, -1))
        for axis in (gradient.ndim - 2, gradient.ndim - 1):
            yield "flipped", f"kernel not flipped: right when reversed along axis {axis}", np.flip(gradient, axis)


def _with_turned_inputs(check: Check, m: Measured) -> Iterator[tuple[str, str, np.ndarray]]:
    """An operation's gradient as backward gives it when another, image-like input is turned by 180°."""
    operation = check.computation
    if not isinstance(operation, Operation):
        return
    for i, (name, array) in enumerate(zip(operation.all_names, operation.arrays, strict=True)):
        if array is None or array.ndim < 3 or name == m.name:
            continue
        arrays = [*operation.arrays[:i], backend.copy(array[..., ::-1, ::-1]), *operation.arrays[i + 1 :]]
        turned = Check(Operation(operation.node, arrays), check.options)
        gradient = turned.backward()[m.leaf]
        if gradient is not None:
            yield "flipped", f"kernel not flipped: right when {name} is turned by 180°", gradient


def _one_slice(check: Check, m: Measured, wrong: list[Slope]) -> str:
    """Whether the gradient is what one slice of the output contributes, and not the sum of all slices."""
    if not wrong or len(check.result) != 1 or check.result[0].ndim == 0:
        return ""
    shape = tuple(check.result[0].shape)
    eps = 1e-5 if check.machine < 1e-10 else 5e-3
    parts = []
    for s in wrong[:4]:
        up, down = check.moved(s.line, eps, check.base), check.moved(s.line, -eps, check.base)
        parts.append((check.cotangent * (check.evaluate(up) - check.evaluate(down)) / (2 * eps)).reshape(shape))
    for axis, length in enumerate(shape):
        rest = tuple(i for i in range(len(shape)) if i != axis)
        sums = np.array([part.sum(axis=rest) for part in parts])  # (slopes, length): what each slice contributes
        answers = np.array([s.analytic for s in wrong[:4]])[:, None]
        agree = np.abs(sums - answers).max(axis=0) <= 1e-4 * m.largest
        if length > 1 and agree.any() and np.abs(answers).min() > 1e-2 * m.largest:
            k = int(agree.argmax())
            return f"not summed over axis {axis} of the output: it is what slice {k} alone contributes"
    return ""


def _severed(check: Check, m: Measured) -> str:
    """Why no gradient arrives: where the trail from the leaf to the outputs ends."""
    if m.shape is None:
        return "no gradient arrives"
    if isinstance(check.computation, Operation):
        return "the gradient is zero throughout"
    leaf = check.computation.leaves[m.leaf]
    reached: set[Any] = {leaf}
    used: set[Any] = set()
    for node in check.trace.values:  # in the order of execution
        sources = {source for source in node.inputs if source is not None} & reached
        if sources:
            reached.add(node)
            used |= sources
    if leaf not in used:
        return (
            "no gradient arrives: no operation was given this tensor. Its .data or .numpy() was used, or a tensor made "
            "of them, or an operation that is not minicnn's"
        )
    ends = [n for n in reached - used if isinstance(n, Node) and all(n is not o.node for o in check.result)]
    if not ends:
        return "the gradient is zero: an operation between it and the output passes none on"
    last = max(ends, key=lambda n: n.sequence)
    if True not in last.needs:
        return f"no gradient arrives: {last.label} ran inside no_grad()"
    return (
        f"no gradient arrives: the graph is severed after {last.label}, whose result was taken out by detach(), .data "
        "or .numpy(), or by a tensor made of it"
    )
