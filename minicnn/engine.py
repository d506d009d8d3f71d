"""Reverse-mode automatic differentiation, whole.

A `Tensor` is an array that may remember the `Node` that made it. A node knows its operation (`Op`), where its
inputs came from, and what its backward pass needs. `backward_steps` walks the nodes from the last made to the
first and yields each as a `Step`; `Tensor.backward` runs the walk and adds up the gradients at the leaves.

The walk needs no recursion and no sorting pass: nodes are numbered as they are made, and an operation's inputs
exist before its output, so "always take the highest number that has a gradient waiting" is a topological order.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import allocator, backend, threads
from .backend import Array
from .kernels import cut, fast, naive, recording


class Scope(tuple[Any, ...]):
    """The modules that are being called, the outermost first. Each call makes one of its own, so that two calls of a
    layer can be told apart, and knows that of the call around it, `outer`."""

    outer: Scope | None = None


NOWHERE = Scope()

# What is going on around an operation. Context variables, so each thread has its own.
_dry_run: ContextVar[bool] = ContextVar("dry_run", default=False)
_scope: ContextVar[Scope] = ContextVar("scope", default=NOWHERE)
_observers: ContextVar[tuple[Any, ...]] = ContextVar("observers", default=())
_in_place: ContextVar[bool] = ContextVar("in_place", default=False)
_kernels: ContextVar[str] = ContextVar("kernels", default="fast")
_convolution = fast.forced
_epilogue = fast.offered

_sequence = itertools.count()


# ------------------------------------------------------------------------------------------------ operations


@dataclass(frozen=True, eq=False)
class Op:
    """An operation: how it is computed, how its gradient is, and what to say about it.

    Attributes:
        name: the public function's name, ``"conv2d"``.
        forward: ``forward(*arrays, **params) -> (output, saved)``; an optional input may be None.
        backward: ``backward(grad_output, saved, needs, **params) -> one gradient per input``, None where
            ``needs`` is False. It may return `grad_output` itself or a view of it, never an array in `saved`.
        shape: ``shape(*input_shapes, **params) -> output shape``, without arithmetic, for dry runs; left out, they run
            `forward` on zeros.
        smooth: whether the output is a smooth function of every input, so that the complex-step check holds.
        formula: forward and backward in symbols, for people.
    """

    name: str
    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[..., tuple[Array | None, ...]]
    shape: Callable[..., tuple[int, ...]] | None = None
    smooth: bool = False
    formula: str = ""

    def __repr__(self) -> str:
        return f"Op({self.name!r})"


_FREED = object()  # stands in `Node.saved` once backward has passed


class Node:
    """One operation that was carried out: the edges of the graph point from it to what it was made from."""

    __slots__ = (
        "op", "params", "inputs", "needs", "saved", "forward_kernel", "backward_kernel", "scope", "sequence", "shape",
        "dtype", "in_place", "recorded", "retained", "__weakref__",
    )  # fmt: skip

    def __init__(self, op, params, inputs, needs, saved, kernels, output):
        self.op: Op = op
        self.params: dict[str, Any] = params
        # An input is the node that made it or, where nothing did, the tensor itself (a leaf); None if left out.
        self.inputs: tuple[Node | Tensor | None, ...] = inputs
        self.needs: tuple[bool, ...] = needs
        self.saved: Any = saved
        self.forward_kernel, self.backward_kernel = kernels  # of the implementation that ran
        self.scope: Scope = _scope.get()
        self.sequence: int = next(_sequence)
        self.shape: tuple[int, ...] = output.shape
        self.dtype = output.dtype
        self.in_place: bool = _in_place.get()  # whether the fast kernels write it over the first input
        self.recorded: Array | None = None  # the output, where a recording is on
        self.retained: weakref.ref[Tensor] | None = None  # the tensor that asked to keep its gradient

    @property
    def path(self) -> str:
        """The layer that ran the operation, as a dotted path from the outermost module called; may be empty."""
        return module_path(self.scope)

    @property
    def freed(self) -> bool:
        """Whether a backward pass has already used this node up."""
        return self.saved is _FREED

    def free(self) -> None:
        self.saved, self.inputs = _FREED, ()

    def backward(self, grad_output: Array) -> tuple[Array | None, ...]:
        """The gradients of the inputs, one each (None where not needed), of the inputs' shapes and dtypes."""
        if self.freed:
            raise RuntimeError(
                f"backward through {self.label}: this graph was used up by an earlier backward(), which frees "
                "what it passes. Either run the forward pass again, or keep the graph with "
                "backward(retain_graph=True)"
            )
        if True not in self.needs:  # then the kernel may have saved nothing
            return (None,) * len(self.inputs)
        with backend.computing(grad_output):
            grads = tuple(self.backward_kernel(grad_output, self.saved, self.needs, **self.params))
            return self._checked(grads, backend.array_module(grad_output))

    def _checked(self, grads: tuple[Any, ...], xp: ModuleType) -> tuple[Array | None, ...]:
        """What the kernel returned, as arrays of the inputs' dtypes; not one that is not needed."""
        if len(grads) != len(self.inputs):
            raise RuntimeError(
                f"backward of {self.label} returned {len(grads)} gradients for {len(self.inputs)} inputs"
            )
        out: list[Array | None] = [None] * len(grads)
        for i, (grad, source, need) in enumerate(zip(grads, self.inputs, self.needs, strict=True)):
            if not need or source is None:
                continue
            if grad is None:
                raise RuntimeError(f"backward of {self.label} returned no gradient for input {i}, which needs one")
            grad = _as_array(grad, xp)
            if grad.shape != source.shape:
                raise GradientShapeError(
                    f"backward of {self.label} returned a gradient of shape {grad.shape} for input {i} of shape "
                    f"{source.shape}: a gradient has the shape of what it is the gradient of"
                )
            out[i] = grad if grad.dtype == source.dtype else grad.astype(source.dtype)
        return tuple(out)

    @property
    def label(self) -> str:
        return f"{self.op.name} in {self.path}" if self.path else self.op.name

    def __repr__(self) -> str:
        return f"Node({self.label}, {tuple(self.shape)})"


class GradientShapeError(RuntimeError):
    """A backward pass returned a gradient of another shape than its input's."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a backward pass: what arrived at an operation and what it passed on.

    Attributes:
        node: the operation that was carried out.
        grad_output: the gradient of its output, complete (all uses of the output are summed).
        grad_inputs: one gradient per input, None where none is needed.
    """

    node: Node
    grad_output: Array
    grad_inputs: tuple[Array | None, ...]

    @property
    def op(self) -> Op:
        return self.node.op

    @property
    def path(self) -> str:
        return self.node.path

    @property
    def output(self) -> Array:
        """The operation's forward value: as recorded inside ``inspect.record()``, else computed again."""
        return recompute(self.node)

    def __repr__(self) -> str:
        return f"Step({self.node.label}, grad_output {self.grad_output.shape})"


def module_path(scope: tuple[Any, ...]) -> str:
    """The dotted path that leads through the modules in `scope`, from (and without) the outermost."""
    parts = []
    for parent, child in itertools.pairwise(scope):
        if parent is child:
            continue
        names = (name for name, module in parent.named_modules(remove_duplicate=False) if module is child)
        parts.append(next(names, type(child).__name__))
    return ".".join(parts)


def current_path() -> str:
    """The path of the layer being called now, for error messages; empty outside of any."""
    return module_path(_scope.get())


# -------------------------------------------------------------------------------------------------- contexts


class _set(ContextDecorator):
    """A context variable's value while a `with`, or a function that is decorated, lasts."""

    def __init__(self, variable: ContextVar, value: Any):
        self.variable, self.value = variable, value
        self.tokens: list[Token] = []  # of entries that are not over

    def __enter__(self) -> Any:
        self.tokens.append(self.variable.set(self.value))
        return self.value

    def __exit__(self, *_: object) -> None:
        self.variable.reset(self.tokens.pop())

    def _recreate_cm(self) -> _set:  # one for each call of a decorated function, as threads may call it at once
        return _set(self.variable, self.value)


def no_grad():
    """Inside ``with no_grad():`` (or a function under ``@no_grad()``) nothing is recorded for backward."""
    return _set(recording, False)


def enable_grad():
    """Undo a surrounding `no_grad`."""
    return _set(recording, True)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded for backward."""
    return recording.get()


def dry_run():
    """Inside ``with dry_run():`` operations compute shapes and dtypes only: no arithmetic, no memory.

    A network that is built inside draws no weights, so that its shapes alone are there.
    """
    return _set(_dry_run, True)


def is_dry_run() -> bool:
    """Whether operations compute shapes only."""
    return _dry_run.get()


def entered(module: Any):
    """Inside ``with entered(module) as scope:`` operations belong to `module` (and to those entered around it)."""
    scope = Scope((*_scope.get(), module))
    scope.outer = _scope.get()
    return _set(_scope, scope)


def observe(observer: Any):
    """Show every operation to `observer` while the ``with`` lasts.

    It is called as ``observer.forward(node, output)`` after each operation (in `no_grad` too), as
    ``observer.begin_backward()`` when a backward pass begins, and as ``observer.backward(step)`` at each of its steps,
    where it has such methods.
    """
    return _set(_observers, (*_observers.get(), observer))


def is_observed() -> bool:
    """Whether operations are being shown to somebody."""
    return bool(_observers.get())


def in_place():
    """Inside, operations are those which the fast kernels do in place where nobody observes them (`nn.through`); here
    each has an output of its own, but its node tells."""
    return _set(_in_place, True)


def offering(epilogue: fast.Offer):
    """Inside, the convolution's kernel may do to its output what shall follow it."""
    return _set(_epilogue, epilogue)


def unobserved(walk: Iterator[Step]) -> Iterator[Step]:
    """A backward pass (`backward_steps`) that no observer sees."""
    while True:
        with _set(_observers, ()):
            step = next(walk, None)
        if step is None:
            return
        yield step
        del step  # or its gradients would live on while the next step is computed


class use_kernels:
    """Choose the implementation of the heavy operations: ``"naive"``, ``"im2col"`` or ``"fast"`` (the default).

    Args:
        name: one of them.
        convolution: the algorithm of the fast convolution, ``"im2col"`` or ``"winograd"`` wherever it applies; None for
            the one that should take less time (`inspect.plan` tells). Each pass asks anew, forward and backward.

    A call switches; as a context manager (``with use_kernels("naive"):``) it switches back at the end. The choice
    is per thread. Arrays on a GPU and complex arrays always take ``"im2col"``, the array-neutral form, on a GPU cut to
    `cuda.set_max_workspace_size`. A node keeps to the implementation that ran forward. An operation that a room does
    not offer takes ``"im2col"`` too.
    """

    rooms = {"naive": naive, "im2col": None, "fast": fast}

    def __init__(self, name: str, convolution: str | None = None):
        if name not in self.rooms:
            raise ValueError(f"use_kernels: unknown implementation {name!r}: choose one of {', '.join(self.rooms)}")
        if convolution is not None and (name != "fast" or convolution not in fast.ALGORITHMS):
            raise ValueError(
                f"use_kernels: convolution is {convolution!r} for {name!r}: only 'fast' has a choice, between "
                f"{' and '.join(map(repr, fast.ALGORITHMS))}"
            )
        self._previous = _kernels.get(), _convolution.get()
        _kernels.set(name)
        _convolution.set(convolution)

    def __enter__(self) -> use_kernels:
        return self

    def __exit__(self, *_: object) -> None:
        name, convolution = self._previous
        _kernels.set(name)
        _convolution.set(convolution)


def _implementation(op: Op, on_host: bool, kinds: set[str]) -> tuple[Callable, Callable]:
    """The forward and backward that the current choice of kernels gives `op` on arrays of these kinds of numbers."""
    threads.hold_blas()
    allocator.keep_freed_memory()
    if not on_host:  # the fast kernels are NumPy's
        return _passes(op, cut)
    return _passes(op, use_kernels.rooms[_kernels.get()] if kinds == {"f"} else None)


def _passes(op: Op, room: ModuleType | None) -> tuple[Callable, Callable]:
    """An operation's forward and backward in a room, or its own where the room has not both."""
    forward = getattr(room, op.forward.__name__, None)
    backward = getattr(room, op.backward.__name__, None)
    return (op.forward, op.backward) if forward is None or backward is None else (forward, backward)


# --------------------------------------------------------------------------------------------------- tensors


class Tensor:
    """An array that can take part in a computation whose gradient is wanted.

    Args:
        data: an array (used as it is, without a copy, unless `requires_grad`), a number or nested lists
            (Python floats become float32), or another tensor. Within ``with minicnn.device(...)`` what is on the host
            crosses over, but another tensor's array stays where it is.
        requires_grad: whether `backward` shall leave the gradient in ``.grad``. Such a tensor owns a copy of
            `data`, because optimisers write into it.

    Raises:
        TypeError: `requires_grad` for integers or booleans, which have no gradient.
    """

    __slots__ = ("data", "grad", "node", "_requires_grad", "__weakref__")
    __array_ufunc__ = None  # so that ``array + tensor`` asks the tensor

    def __init__(self, data: Any, requires_grad: bool = False):
        given = isinstance(data, Tensor)
        if isinstance(data, Tensor):
            data = data.data
        if not backend.is_array(data):
            try:
                array = np.asarray(data)
            except ValueError:  # nested lists of different lengths
                array = np.asarray(None)
            if array.dtype.kind not in "biufc":
                raise TypeError(
                    f"Tensor: cannot make an array of numbers from {data!r:.60}: give numbers, nested lists of equal "
                    "lengths, or an array"
                )
            data = array.astype(np.float32) if array.dtype == np.float64 else array
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        if isinstance(data, np.ndarray) and not given and not _dry_run.get():  # host: what is there crosses over
            data = backend.new(data)
        self.data: Array = backend.copy(data) if requires_grad and not _dry_run.get() else data
        self.grad: Array | None = None
        self.node: Node | None = None
        self._requires_grad = False
        self.requires_grad = requires_grad

    @classmethod
    def _of(cls, data: Array, node: Node | None = None) -> Tensor:
        """An array as it is and where it is, as the result of an operation or of none."""
        out = Tensor.__new__(Tensor)
        out.data, out.grad, out.node, out._requires_grad = data, None, node, node is not None
        return out

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    device = property(lambda self: backend.device(backend.device_of(self.data)))
    is_leaf = property(lambda self: self.node is None)

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None and not value:
            raise RuntimeError(
                "requires_grad: only a leaf's can be changed; use detach() to cut a result off its graph"
            )
        if value and self.data.dtype.kind not in "fc":
            raise TypeError(
                f"requires_grad: only floating-point tensors have gradients, this one is {self.data.dtype}. "
                "Write its numbers as floats, or convert with .to(dtype='float32') first"
            )
        self._requires_grad = bool(value)

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor to the ``.grad`` of every leaf that it was made from.

        Args:
            gradient: the gradient of whatever comes after, of this tensor's shape; may be left out for one number,
                where it is 1.
            retain_graph: keep the graph for another `backward`; else it is freed as it is passed.

        Raises:
            RuntimeError: nothing here requires a gradient; the tensor is not one number and `gradient` is missing;
                the graph was freed.
            ValueError: `gradient` has another shape.
        """
        steps = backward_steps(self, gradient)
        if self.node is None:
            for _ in steps:  # raises what there is to raise
                raise AssertionError("a leaf has no steps")
            _accumulate(self, _first_gradient(self, gradient), ())
            return
        for step in steps:
            _deliver(step)
            if not retain_graph:
                step.node.free()
            del step  # or its gradients would live on while the next step is computed

    def retain_grad(self) -> None:
        """Keep the gradient of this tensor in ``.grad`` too, though it is not a leaf."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        if self.node is not None:
            self.node.retained = weakref.ref(self)

    def detach(self) -> Tensor:
        """The same array, cut off from its history."""
        return Tensor._of(self.data)

    def numpy(self) -> np.ndarray:
        """The values on the host: the array itself where it is there already. No gradient flows through it."""
        return backend.to_host(self.data)

    def item(self) -> float | int:
        """The one number in this tensor, as Python's.

        Raises:
            ValueError: there is not exactly one.
        """
        if self.data.size != 1:
            raise ValueError(f"item: needs exactly one number, this tensor has shape {self.shape}")
        return self.data.item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = self.numpy()
        if copy:
            return np.array(host, dtype=dtype)
        return host if dtype is None else host.astype(dtype, copy=False)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a tensor of no dimensions")
        return self.shape[0]

    if TYPE_CHECKING:  # what functional.py attaches

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def sum(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def mean(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def var(
            self, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
        ) -> Tensor: ...
        def amax(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def clamp(self, min: Any = None, max: Any = None) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor: ...
        def transpose(self, dim0: int, dim1: int) -> Tensor: ...
        def permute(self, *dims: Any) -> Tensor: ...
        def squeeze(self, dim: Any = None) -> Tensor: ...
        def unsqueeze(self, dim: int) -> Tensor: ...
        def to(self, device: Any = None, dtype: Any = None) -> Tensor: ...

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", threshold=60, precision=4, prefix="Tensor(")
        notes = f", shape={self.shape}, dtype={self.dtype}"
        if self.device != "cpu":
            notes += f", device={self.device}"
        if self.node is not None:
            notes += f", made by {self.node.label}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"{type(self).__name__}({text}{notes})"


class Parameter(Tensor):
    """A tensor that a module trains: a leaf that requires a gradient and owns its array."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data, requires_grad)


# ------------------------------------------------------------------------------------------------- forward


def apply(op: Op, *inputs: Tensor | None, **params: Any) -> Tensor:
    """Carry out `op` on tensors (None for an optional input left out) and remember it for backward."""
    return apply_with_saved(op, *inputs, **params)[0]


def apply_with_saved(op: Op, *inputs: Tensor | None, **params: Any) -> tuple[Tensor, Any]:
    """`apply`, and what the forward kernel saved (None in a dry run)."""
    arrays = [None if t is None else t.data for t in inputs]
    kinds = {x.dtype.kind for x in arrays if x is not None}
    if not kinds <= {"f", "c"}:
        wrong = next(x.dtype for x in arrays if x is not None and x.dtype.kind not in "fc")
        raise TypeError(
            f"{_label(op)}: an input is {wrong}, and only floating-point numbers have gradients. "
            "Convert it first, for instance with .to(dtype='float32')"
        )
    dry = _dry_run.get()
    xp = np if dry else backend.common_module(lambda: _label(op), *arrays)  # shapes have none
    kernels = _implementation(op, xp is np, kinds)
    record = recording.get()
    needs = tuple([record and t is not None and t._requires_grad for t in inputs])
    if dry:
        if op.shape is None:  # one of the user's own: what comes out of zeros has the shape
            zeros = (None if x is None else np.zeros(x.shape, dtype=x.dtype) for x in arrays)
            with np.errstate(all="ignore"):
                made = np.asarray(op.forward(*zeros, **params)[0])  # host: a dry run
            shape, dtype = made.shape, made.dtype
        else:
            shape = op.shape(*(None if x is None else x.shape for x in arrays), **params)
            dtype = params.get("dtype") or np.result_type(*(x.dtype for x in arrays if x is not None))
        output, saved = np.broadcast_to(np.zeros((), dtype=dtype), shape), None
    else:
        with backend.computing(*arrays), nullcontext() if record == (True in needs) else no_grad():
            output, saved = kernels[0](*arrays, **params)
            output = _as_array(output, xp)
    observers = _observers.get()
    node = None
    if observers or True in needs:
        sources = tuple(t if t is None or t.node is None else t.node for t in inputs)
        node = Node(op, params, sources, needs, saved, kernels, output)
        for observer in observers:
            if hasattr(observer, "forward"):
                observer.forward(node, output)
    return Tensor._of(output, node if True in needs else None), saved


def _as_array(x: Any, xp: ModuleType) -> Array:
    """What a kernel returned, as an array: NumPy makes scalars of 0-d results, a user's kernel may return a number."""
    return x if type(x) is np.ndarray or (backend.is_array(x) and not isinstance(x, np.generic)) else xp.asarray(x)


def _label(op: Op) -> str:
    path = current_path()
    return f"{op.name} in {path}" if path else op.name


def recompute(node: Node, values: dict[Node, Array] | None = None) -> Array:
    """The output of `node`: as recorded or, where it was not, computed again from the leaves, by the same kernels.

    Weights that changed since the forward pass give other values.

    Args:
        values: outputs that are known already, to which those found on the way are added.

    Raises:
        RuntimeError: the graph was freed by a backward pass.
    """
    values = {} if values is None else values
    todo = [node]
    while todo:
        n = todo[-1]
        if n.recorded is not None:
            values[n] = n.recorded
        if n in values:
            todo.pop()
            continue
        if n.freed:
            raise RuntimeError(f"{n.label}: its graph was freed; record the values with minicnn.inspect.record()")
        missing = [source for source in n.inputs if isinstance(source, Node) and source not in values]
        if missing:
            todo += missing
            continue
        arrays = [values[s] if isinstance(s, Node) else None if s is None else s.data for s in n.inputs]
        with backend.computing(*arrays):
            output = n.forward_kernel(*arrays, **n.params)[0]
            values[n] = _as_array(output, backend.common_module(n.op.name, *arrays))
    return values[node]


# ------------------------------------------------------------------------------------------------- backward


def backward_steps(out: Tensor, gradient: Any = None) -> Iterator[Step]:
    """Walk the graph behind `out` backward, one operation at a time.

    Pure: it writes no ``.grad``, frees nothing, and can be run again.

    Args:
        out: what to differentiate, usually a loss.
        gradient: an array or tensor of `out`'s shape; may be left out for one number, where it is 1.

    Returns:
        A generator of a `Step` for each operation, each after all that used its output.

    Raises:
        RuntimeError, ValueError: as `Tensor.backward`; at the call, not at the first step.
    """
    if not out.requires_grad:
        raise RuntimeError(
            "backward: this tensor does not require a gradient, because nothing it was made from does, or because "
            "the graph was cut: by no_grad(), detach(), or a detour through .data or .numpy()"
        )
    return _walk(out.node, _first_gradient(out, gradient))


def _first_gradient(out: Tensor, gradient: Any) -> Array:
    if gradient is None:
        if out.size != 1:
            raise RuntimeError(
                f"backward: a gradient can be left out only for one number, and this tensor has shape {out.shape}. "
                f"Reduce it first (.sum() or .mean()), or pass gradient=, an array of shape {out.shape}"
            )
        with backend.beside(out.data):
            return backend.array_module(out.data).ones_like(out.data)
    if isinstance(gradient, Tensor):
        gradient = gradient.data
    else:
        gradient = backend.like(gradient, out.data, out.dtype, "backward")
    if gradient.shape != out.shape:
        raise ValueError(f"backward: gradient has shape {gradient.shape}, the tensor {out.shape}: they must be equal")
    backend.common_module("backward", out.data, gradient)
    with backend.beside(gradient):
        return gradient.astype(out.dtype)  # a copy: it may end up as somebody's .grad


def _walk(root: Node | None, gradient: Array) -> Iterator[Step]:
    if root is None:  # a leaf: no operation to pass
        return
    for observer in _observers.get():
        if hasattr(observer, "begin_backward"):
            observer.begin_backward()
    waiting = {root: gradient}  # gradients that have arrived at a node so far
    queue = [(-root.sequence, root)]  # highest number first
    while queue:
        node = heapq.heappop(queue)[1]
        grad_output = waiting.pop(node)
        step = Step(node, grad_output, node.backward(grad_output))
        for source, grad in zip(node.inputs, step.grad_inputs, strict=True):
            if grad is None or not isinstance(source, Node):
                continue
            if source in waiting:
                waiting[source] = _sum(waiting[source], grad)
            else:
                waiting[source] = grad
                heapq.heappush(queue, (-source.sequence, source))
        for observer in _observers.get():
            if hasattr(observer, "backward"):
                observer.backward(step)
        del grad, grad_output
        yield step
        del step


def _sum(a: Array, b: Array) -> Array:
    with backend.computing(a):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):  # host: the fast kernels are NumPy's
            return fast.add_forward(a, b)[0]
        return a + b


def _deliver(step: Step) -> None:
    """Add a step's gradients to the leaves among its inputs, and to the output's tensor if that retains its own."""
    node = step.node
    if node.retained is not None and (tensor := node.retained()) is not None:
        _accumulate(tensor, step.grad_output, (step.grad_output,))
    known: tuple[Array, ...] = (step.grad_output,)
    for source, grad in zip(node.inputs, step.grad_inputs, strict=True):
        if grad is not None and isinstance(source, Tensor):
            _accumulate(source, grad, known)
            known = (*known, grad)


def _accumulate(leaf: Tensor, grad: Array, known: tuple[Array, ...]) -> None:
    """Add `grad` to ``leaf.grad``. The first time, copy it if it may be somebody else's (`known`) array, or if it is
    one number broadcast (a stride is 0), because a ``.grad`` can be written to."""
    if leaf.grad is not None:
        leaf.grad = _sum(leaf.grad, grad)
        return
    xp = backend.array_module(grad)
    shared = 0 in grad.strides or any(type(x) is type(grad) and xp.may_share_memory(grad, x) for x in known)
    leaf.grad = backend.copy(grad) if shared else grad
