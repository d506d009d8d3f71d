"""How large the gradient is at each layer: of one loss as a table and a plot, over a training run as a heat map."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..engine import Node, Parameter, Step, Tensor, backward_steps, module_path, observe, unobserved
from ..nn import Module
from ..nn.utils import get_total_norm
from . import table
from .plotting import COLOURS, as_csv, axes, label_layers
from .storage import is_view

PER_DECADE = 4  # bins of a histogram


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of one array: of an operation's output, or of a parameter.

    Attributes:
        depth: the operation's number in the order they ran, from 0.
        path: the layer.
        array: ``"output"``, or the parameter's name, ``"weight"``.
        operation: ``"conv2d"``.
        shape: of the array.
        norm, rms, mean: the Euclidean norm, the root mean square and the mean of all entries.
        zeros, non_finite: the shares of entries that are exactly 0, and that are infinite or NaN.
        ratio: of a parameter, lr · norm of the gradient / norm of the parameter: how far a plain step of gradient
            descent moves it, infinite for one that is all zero; None of an output.
        histogram: how many entries' absolute values are from 10^(k/4) to 10^((k+1)/4), by k.
    """

    depth: int
    path: str
    array: str
    operation: str
    shape: tuple[int, ...]
    norm: float
    rms: float
    mean: float
    zeros: float
    non_finite: float
    ratio: float | None
    histogram: dict[int, int] = field(repr=False)


COLUMNS = ("layer", "gradient of", "shape", "norm", "rms", "mean", "zeros", "non-finite", "update / weight")


@dataclass(frozen=True)
class GradientFlow:
    """The gradients of a network's layers, the first layer first; prints as a table, and draws one in a notebook.

    Attributes:
        network: its name.
        rows: a `LayerGradient` for each output and each parameter.
    """

    network: str
    rows: tuple[LayerGradient, ...]

    def of(self, array: str) -> list[LayerGradient]:
        """The rows of all ``"output"``, all ``"weight"``, and so on."""
        return [row for row in self.rows if row.array == array]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        return {"network": self.network, "rows": [asdict(row) for row in self.rows]}

    def to_csv(self) -> str:
        """A line for each row, without the histograms."""
        return as_csv(
            [
                {k: v for k, v in asdict(row).items() if k != "histogram"} | {"shape": table.dimensions(row.shape)}
                for row in self.rows
            ]
        )

    def _table(self) -> tuple[str, Sequence[str], list[Sequence[str]]]:
        rows: list[Sequence[str]] = [
            (
                row.path or "(network)",
                f"output of {row.operation}" if row.array == "output" else row.array,
                table.dimensions(row.shape),
                f"{row.norm:.3e}",
                f"{row.rms:.3e}",
                f"{row.mean:.2e}",
                f"{100 * row.zeros:.1f} %" if row.zeros else "",
                f"{100 * row.non_finite:.1f} %" if row.non_finite else "",
                "" if row.ratio is None else f"{row.ratio:.2e}",
            )
            for row in self.rows
        ]
        return f"{self.network}: its gradients", COLUMNS, rows

    def __str__(self) -> str:
        return table.as_text(*self._table(), words=3)

    __repr__ = __str__  # at a prompt, and in a notebook that shows no HTML

    def _repr_html_(self) -> str:
        return table.as_html(*self._table())

    def plot(self, ax: Any = None, value: str = "rms") -> Any:
        """Draw the size of the gradients against depth, on a logarithmic scale.

        Args:
            ax: matplotlib's axes; new ones by default.
            value: ``"rms"``, ``"norm"`` or ``"ratio"`` (of parameters only).

        Returns:
            The axes.

        Raises:
            ValueError: another `value`.
            ImportError: matplotlib is missing; the message names the extra.
        """
        labels = {"rms": "root mean square", "norm": "norm", "ratio": "update / weight"}
        if value not in labels:
            raise ValueError(f"plot: value is {value!r}, and must be one of {', '.join(labels)}")
        ax = axes(ax, width=9)
        marks = {"output": dict(marker="o", ls="-"), "weight": dict(marker="s", ls=""), "bias": dict(marker="^", ls="")}
        for colour, array in zip(COLOURS, dict.fromkeys(row.array for row in self.rows), strict=False):
            points = [(row.depth, getattr(row, value)) for row in self.of(array)]
            points = [(x, y) for x, y in points if y is not None and 0 < y < math.inf]
            if points:
                mark = marks.get(array, dict(marker="x", ls=""))
                ax.plot(*zip(*points, strict=True), color=colour, ms=4, label=array, **mark)
        lost = [row.depth for row in self.rows if row.non_finite or not row.norm]
        if lost:
            ax.plot(lost, [0.02] * len(lost), "k|", transform=ax.get_xaxis_transform(), label="all zero, or not finite")
        names = {row.depth: row.path for row in self.rows}
        label_layers(ax, [d for d in names if names[d] != names.get(d - 1)], names)  # each layer once
        ax.set(yscale="log", ylabel=f"gradient, {labels[value]}")
        ax.set_title(f"{self.network}: gradients from the first layer to the last", loc="left", fontsize=10)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        return ax

    def plot_histograms(self, ax: Any = None, array: str = "output") -> Any:
        """Draw the distribution of the gradients' sizes at each layer: the darker, the more of its entries.

        Args, returns and raises as `plot`; `array` is whose gradients.
        """
        rows = [row for row in self.of(array) if row.histogram]
        if not rows:
            raise ValueError(f"plot_histograms: no gradient of {array!r} has an entry that is not 0")
        ax = axes(ax, width=9)
        bins = [k for row in rows for k in row.histogram]
        low, high = min(bins), max(bins) + 1
        shares = np.array([[row.histogram.get(k, 0) / math.prod(row.shape) for row in rows] for k in range(low, high)])
        extent = (-0.5, len(rows) - 0.5, low / PER_DECADE, high / PER_DECADE)
        image = ax.imshow(shares, origin="lower", aspect="auto", cmap="Blues", extent=extent, interpolation="nearest")
        label_layers(ax, range(len(rows)), {i: row.path for i, row in enumerate(rows)})
        ax.set(ylabel=f"log₁₀ |gradient of {array}|")
        ax.figure.colorbar(image, ax=ax, label="share of the entries")
        ax.set_title(f"{self.network}: how the gradients' sizes are spread", loc="left", fontsize=10)
        return ax


def gradient_flow(loss: Tensor, model: Module, lr: float = 1.0) -> GradientFlow:
    """Measure the gradient at every layer of `model`. Nothing is changed: no ``.grad`` is written, nothing is freed.

    Args:
        loss: one number, made by `model`.
        model: any module; operations outside of it (the loss's) are left out, and so are those that only look at the
            same memory in another shape.
        lr: the learning rate in the update-to-weight ratio.

    Raises:
        RuntimeError: as `minicnn.backward_steps`.
        ValueError: no operation of `model` is behind `loss`.
    """
    outputs: list[tuple[Node, Array]] = []
    parameters: dict[Parameter, tuple[Node, Array]] = {}
    for step in unobserved(backward_steps(loss)):  # no step of a training run that is watched
        if model not in step.node.scope:
            continue
        outputs.append((step.node, step.grad_output))
        for source, grad in zip(step.node.inputs, step.grad_inputs, strict=True):
            if isinstance(source, Parameter) and grad is not None:
                before = parameters.get(source)
                with backend.beside(grad):
                    parameters[source] = (step.node, grad if before is None else before[1] + grad)
    name = getattr(model, "architecture", type(model).__name__)
    if not outputs:
        raise ValueError(f"gradient_flow: the loss was not made by {name}: no operation of it is behind the loss")
    names = {parameter: name for name, parameter in model.named_parameters()}
    depth = {node: i for i, (node, _) in enumerate(reversed(outputs))}
    rows = [
        _row(depth[node], node, path_in(node, model), "output", grad) for node, grad in outputs if not is_view(node)
    ]
    for parameter, (node, grad) in parameters.items():
        path, _, array = names.get(parameter, "").rpartition(".")
        rows.append(_row(depth[node], node, path, array or "parameter", grad, lr, parameter.data))
    order = {"output": 2, "weight": 0}
    rows.sort(key=lambda row: (row.depth, order.get(row.array, 1)))
    return GradientFlow(name, tuple(rows))


def _row(
    depth: int, node: Node, path: str, array: str, grad: Array, lr: float = 0.0, weight: Array | None = None
) -> LayerGradient:
    values = backend.to_host(grad).astype(np.float64).ravel()
    size = max(values.size, 1)
    with np.errstate(all="ignore"):
        norm: float = get_total_norm(values)
        mean = float(values.mean()) if values.size else math.nan
        ratio = None if weight is None else float(lr * norm / np.linalg.norm(backend.to_host(weight)))
    present = np.abs(values[np.isfinite(values) & (values != 0)])
    bins = Counter(np.floor(PER_DECADE * np.log10(present)).astype(int).tolist())
    return LayerGradient(
        depth, path, array, node.op.name, tuple(grad.shape), norm, norm / math.sqrt(size), mean,
        float((values == 0).sum()) / size, float((~np.isfinite(values)).sum()) / size, ratio,
        dict(sorted(bins.items())),
    )  # fmt: skip


def path_in(node: Node, model: Module) -> str:
    """The path of the layer that ran an operation, from `model` on."""
    return module_path(node.scope[node.scope.index(model) :])


# ---------------------------------------------------------------------------------------------- over a run


class FlowHistory:
    """The root mean square of the gradient at each layer's output, over a training run. Made by `track_gradients`.

    Attributes:
        layers: paths with the operation, ``"conv1 (conv2d)"``, the first layer first.
        passes: the numbers of the backward passes that were looked at, from 0; passes through other models do not
            count.
    """

    def __init__(self, model: Module, every: int):
        self._model, self._every = model, every
        self._seen = -1  # backward passes begun
        self._fresh = False  # whether a pass has begun that has not met the model yet
        self._count: Counter[tuple[str, str]] = Counter()
        self._columns: dict[tuple[str, str, int], int] = {}  # each layer's place in the first pass, from the end
        self._values: dict[int, dict[tuple[str, str, int], float]] = {}

    def begin_backward(self) -> None:
        """Called by the engine when a backward pass begins."""
        self._fresh = True

    def backward(self, step: Step) -> None:
        """Called by the engine at each step of each backward pass."""
        node = step.node
        if self._model not in node.scope:
            return
        if self._fresh:
            self._fresh = False
            self._seen += 1
            self._count.clear()
        if self._seen % self._every or is_view(node):
            return
        path, op = path_in(node, self._model), node.op.name
        key = (path, op, self._count[path, op])
        self._count[path, op] += 1
        self._columns.setdefault(key, len(self._columns))
        grad = step.grad_output
        self._values.setdefault(self._seen, {})[key] = float(get_total_norm(grad)) / math.sqrt(max(grad.size, 1))

    @property
    def layers(self) -> list[str]:
        keys = sorted(self._columns, key=self._columns.__getitem__, reverse=True)
        return [f"{path} ({op})" if path else op for path, op, _ in keys]

    @property
    def passes(self) -> list[int]:
        return list(self._values)

    @property
    def rms(self) -> np.ndarray:
        """(layers, passes); NaN where a pass did not run a layer."""
        keys = sorted(self._columns, key=self._columns.__getitem__, reverse=True)
        columns = [[values.get(key, math.nan) for key in keys] for values in self._values.values()]
        return np.array(columns, dtype=np.float64).reshape(len(self._values), len(keys)).T

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists."""
        return {"layers": self.layers, "passes": self.passes, "rms": self.rms.tolist()}

    def to_csv(self) -> str:
        """A line for each pass, a column for each layer."""
        names = [f"{i} {layer}" for i, layer in enumerate(self.layers)]
        columns = self.rms.T.tolist()
        return as_csv(
            [{"pass": i} | dict(zip(names, row, strict=True)) for i, row in zip(self.passes, columns, strict=True)]
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw a heat map, layers from top to bottom and passes from left to right, on a logarithmic scale.

        Zeros, and what is not finite, stay white.

        Args:
            ax: matplotlib's axes; new ones by default.

        Returns:
            The axes.

        Raises:
            ValueError: nothing was tracked.
            ImportError: matplotlib is missing; the message names the extra.
        """
        if not self._values:
            raise ValueError("plot: no backward pass of the model ran while its gradients were tracked")
        ax = axes(ax, width=8, height=max(3, 0.14 * len(self.layers)))
        with np.errstate(divide="ignore"):
            logs = np.log10(self.rms)
        logs[~np.isfinite(logs)] = np.nan
        image = ax.imshow(logs, aspect="auto", cmap="viridis", interpolation="nearest")
        ticks = np.unique(np.linspace(0, len(self.passes) - 1, 8).astype(int))
        ax.set_xticks(ticks, [self.passes[i] for i in ticks])
        ax.set_yticks(range(len(self.layers)), self.layers, fontsize=7)
        ax.set(xlabel="step")
        ax.figure.colorbar(image, ax=ax, label="log₁₀ of the gradient's root mean square")
        name = getattr(self._model, "architecture", type(self._model).__name__)
        ax.set_title(f"{name}: gradients over the run", loc="left", fontsize=10)
        return ax


@contextmanager
def track_gradients(model: Module, every: int = 1) -> Iterator[FlowHistory]:
    """Inside ``with track_gradients(model) as history:`` each backward pass's gradients are measured, layer by layer.

    Args:
        model: whose layers.
        every: look at one backward pass of so many.

    Raises:
        ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"track_gradients: every is {every}, and must be 1 or more")
    history = FlowHistory(model, every)
    with observe(history):
        yield history
