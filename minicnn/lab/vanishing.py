"""How the gradient of a deep network shrinks or grows from layer to layer, at initialisation and in training.

Networks are fully connected, of `width` units a layer, x ← φ(norm(W x)), behind a shortcut x ← x + φ(norm(W x)). All
numbers are float64: 72 sigmoid layers take the gradient below float32's smallest number.

What is measured is the mean square of the gradient with respect to the pre-activations W x, over the inputs of a batch
and the units of a layer; at initialisation for normal inputs, with a normal gradient put in at the output (a loss of
random direction), in training for MNIST and the cross entropy. Slopes are told for the *root* mean square, in powers of
ten (decades) a layer on the way back from the loss, so that −0.3 halves the gradient in each layer; the mean square has
twice the slope. The sigmoid's −0.6 a layer, log10 of its steepest slope 1/4, is of this kind.

The mean of the logs of many networks lies below the log of their mean square, which is what theory predicts: a network
multiplies L random factors of variance about 5/n each (ReLU; n units a layer), so the log of its gradient is spread
like a normal number of variance 5 L / n, and its mean lies half of that below the log of the mean (Hanin and Nica 2020,
"Products of many large random matrices and gradients in deep neural networks"). A typical deep network has a smaller
gradient than the average over networks, which few large ones hold up. At 30 layers of 256 units ReLU's mean of logs is
0.13 decades of mean square low, and no number of seeds changes that.

For networks with shortcuts the theory has the limit that its assumption sets: that weights going back are independent
of those going forward. Where φ has a mean above 0 (ReLU and its relatives), the units of a residual network without
batch norm grow a common part, along which forward and backward are aligned, and gradients grow faster than it says.
With weights drawn afresh for the way back they do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import backend, nn, optim
from .. import functional as F
from ..engine import Tensor
from . import theory
from .deep import (
    ACTIVATIONS,
    INITIALISATIONS,
    Layers,
    Profile,
    blocks,
    chosen,
    digits,
    linear,
    measure,
    on,
    profile,
    slope_per_layer,
    weight_variance,
)
from .result import COLOURS, Progress, Result, Row, sentences

QUESTION = "How does the gradient change from layer to layer in a deep network, and what decides it?"

# What is held against the recursion, layer by layer: activation, initialisation, gain.
COMPARED = (
    ("relu", "he", 1.0),
    ("tanh", "glorot", 1.0),
    ("sigmoid", "glorot", 1.0),
    ("identity", "glorot", 1.1),
    ("identity", "glorot", 1.5),
)

# How far log10 of the mean square over seeds may lie from the recursion at any layer of 30 layers of 256 units or more.
# Chance: ReLU's mean square has the relative deviation √(e^(5·30/256) − 1) = 0.9 from network to network where all
# inputs fluctuate together, over 40 seeds 0.14 or 0.06 decades; three of them are 0.19. Theory: it is that of infinite
# width, and corrections are of the order of L/n = 0.12, 0.05 decades. More seeds make the first smaller but not the
# second, and the tolerance stays as it is.
TOLERANCE = 0.25

MOMENTUM = 0.9
LAYERS_SHOWN = 10  # of each network of the grid, the first and the last among them


def vanishing(
    seed: int = 0,
    *,
    activations: Sequence[str] = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu", "softplus"),
    depths: Sequence[int] = (10, 100),
    initialisations: Sequence[str] = ("lecun", "glorot", "he", "orthogonal", "normal"),
    norms: Sequence[bool] = (False, True),
    residuals: Sequence[bool] = (False, True),
    seeds: int = 2,
    width: int = 256,
    batch: int = 32,
    compare_depth: int = 30,
    compare_seeds: int = 40,
    training_steps: int = 20,
    training_depths: Sequence[int] = (10,),
    training_initialisations: Sequence[str] = ("glorot", "he"),
    lr: float = 0.002,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure gradients in deep networks, layer by layer, beside what theory says.

    Three parts, which the rows' key ``part`` tells apart:

    - ``"comparison"``: ReLU with He's initialisation, tanh and sigmoid with Glorot's, and linear networks with gains
      above one, against the mean-field recursion; every layer.
    - ``"grid"``: every combination of the arguments, at initialisation; up to ten layers of each network.
    - ``"training"``: combinations of `activations`, `norms`, `residuals`, `training_depths` and
      `training_initialisations` while they learn MNIST, before, halfway and after; every layer.

    The rows' other keys: ``activation, initialisation, gain, depth, norm, residual, seeds, step, layer`` (1 is the
    first); ``log10_mean_square`` (log10 of the mean over seeds of the gradient's mean square), its standard ``error``,
    ``mean_of_log10`` (of single inputs' gradients) and ``theory`` (of ``log10_mean_square``; with batch norm for a
    large batch); of the whole network ``slope`` and ``slope_error`` of the root mean square (decades a layer, back from
    the loss), by theory ``theory_slope``, ``glorot_slope``, ``he_slope`` and, at most, ``bound_slope``; ``saturated``,
    the share of the layer's entries where the activation is less steep than 0.05 of its steepest; and ``loss``. What
    does not apply is NaN.

    Args:
        seed: of all random numbers.
        activations: of ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"silu"``, ``"softplus"``,
            ``"identity"``.
        depths: how many layers, in the grid.
        initialisations: of ``"lecun"``, ``"glorot"``, ``"he"`` (normal, times √2, whatever the activation),
            ``"orthogonal"`` and ``"normal"``, which is N(0, 0.01²). Layers here are square, so that LeCun's and
            Glorot's rules are one.
        norms: without (False) and with (True) batch norm.
        residuals: plain (False) and with a shortcut over each layer (True).
        seeds: how many networks of each combination, in the grid.
        width: units a layer.
        batch: inputs at a time.
        compare_depth, compare_seeds: of the comparison; 0 seeds leave it out.
        training_steps: of gradient descent (momentum 0.9); 0 leaves the part out.
        training_depths, training_initialisations: which networks are trained.
        lr: the learning rate.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Raises:
        RuntimeError: the device does not work.
        ValueError: a name that is not known, or a number that is too small.
    """
    activations = chosen("vanishing", "activations", activations, ACTIVATIONS)
    initialisations = chosen("vanishing", "initialisations", initialisations, INITIALISATIONS)
    training_initialisations = chosen(
        "vanishing", "training_initialisations", training_initialisations, INITIALISATIONS
    )
    for argument, values, least in (
        ("depths", depths, 1),
        ("training_depths", training_depths, 1),
        ("seeds", [seeds], 1),
        ("width", [width], 1),
        ("batch", [batch], 2),
        ("compare_depth", [compare_depth], 1),
        ("compare_seeds", [compare_seeds], 0),
        ("training_steps", [training_steps], 0),
    ):
        if min(values, default=least) < least:
            raise ValueError(f"vanishing: {argument} is {values!r}, and must be at least {least}")
    settings = {
        "seed": seed, "activations": activations, "depths": tuple(depths), "initialisations": initialisations,
        "norms": tuple(norms), "residuals": tuple(residuals), "seeds": seeds, "width": width, "batch": batch,
        "compare_depth": compare_depth, "compare_seeds": compare_seeds, "training_steps": training_steps,
        "training_depths": tuple(training_depths), "training_initialisations": training_initialisations, "lr": lr,
    }  # fmt: skip
    kinds = [(a, n, r) for a in activations for n in norms for r in residuals]
    work = _Work(progress)
    work.expect(compare_seeds * len(COMPARED) * compare_depth)
    work.expect(sum(depths) * len(initialisations) * seeds * len(kinds))
    work.expect(sum(training_depths) * len(training_initialisations) * len(kinds) * 2 * training_steps)

    if not work.all:
        raise ValueError("vanishing: nothing to do: compare_seeds and training_steps are 0, and depths is empty")
    rows: list[Row] = []
    with on(device) as settings["device"]:
        if compare_seeds:
            for compared in _pairs(COMPARED):
                rows += _comparison(work, seed, compared, compare_depth, compare_seeds, width, batch)
        for depth in depths:
            for initialisation in initialisations:
                rows += _grid(work, seed, kinds, depth, initialisation, seeds, width, batch)
        if training_steps:
            data = digits(batch * (training_steps + 1))
            for depth in training_depths:
                for initialisation in training_initialisations:
                    for kind in kinds:
                        rows += _training(work, seed, kind, depth, initialisation, width, data, training_steps, lr)
    sentence, *details = _findings(rows, settings)
    return Result("vanishing", QUESTION, settings, rows, sentence, _draw, (9.0, 10.5), details)


class _Work:
    """How much there is to do, in layers to run, and how much is done."""

    def __init__(self, progress: Progress | None):
        self.progress, self.all, self.done = progress, 0, 0

    def expect(self, layers: int) -> None:
        self.all += layers

    def add(self, layers: int, text: str) -> None:
        self.done += layers
        if self.progress is not None:
            self.progress(self.done / self.all, text)


# ------------------------------------------------------------------------------------------ at initialisation


def _pairs(compared: Iterable[tuple[str, str, float]]) -> Iterable[list[tuple[str, str, float]]]:
    """Those of one initialisation together, so that its weights are drawn once."""
    by_rule: dict[str, list[tuple[str, str, float]]] = {}
    for entry in compared:
        by_rule.setdefault(entry[1], []).append(entry)
    return by_rule.values()


def _comparison(work: _Work, seed: int, compared: list, depth: int, seeds: int, width: int, batch: int) -> list[Row]:
    measured: list[list[Layers]] = [[] for _ in compared]
    for k in range(seeds):
        layers, inputs, gradient = _drawn(seed, k, depth, compared[0][1], width, batch)
        drawn = [layer.weight.data.copy() for layer in layers]
        for entry, (activation, _, gain) in zip(measured, compared, strict=True):
            for layer, weight in zip(layers, drawn, strict=True):
                backend.array_module(weight).multiply(weight, gain, out=layer.weight.data)
            entry.append(_at_initialisation(layers, (activation, False, False), inputs, gradient))
            work.add(depth, f"{seeds} networks of {depth} layers against theory")
    return [
        row
        for entry, (activation, initialisation, gain) in zip(measured, compared, strict=True)
        for row in _rows("comparison", (activation, False, False), initialisation, gain, depth, width, entry)
    ]


def _grid(
    work: _Work, seed: int, kinds: list, depth: int, initialisation: str, seeds: int, width: int, batch: int
) -> list[Row]:
    measured: list[list[Layers]] = [[] for _ in kinds]
    for k in range(seeds):
        layers, inputs, gradient = _drawn(seed, k, depth, initialisation, width, batch)
        for entry, kind in zip(measured, kinds, strict=True):
            entry.append(_at_initialisation(layers, kind, inputs, gradient))
            work.add(depth, f"{depth} layers, {initialisation}")
    shown = {round(i) for i in np.linspace(1, depth, min(depth, LAYERS_SHOWN))}
    return [
        row
        for entry, kind in zip(measured, kinds, strict=True)
        for row in _rows("grid", kind, initialisation, 1.0, depth, width, entry)
        if row["layer"] in shown
    ]


def _drawn(
    seed: int, k: int, depth: int, initialisation: str, width: int, batch: int
) -> tuple[list[nn.Linear], np.ndarray, np.ndarray]:
    """The layers of network `k`, inputs and the gradient of the output (batch, width), all drawn."""
    generator = np.random.default_rng([seed, k])
    inputs, gradient = generator.normal(size=(2, batch, width))
    layers = [linear(width, width, initialisation, generator) for _ in range(depth)]
    for layer in layers:
        layer.requires_grad_(False)  # the gradient of the pre-activations is wanted, that of the weights is not
    return layers, inputs, gradient


def _at_initialisation(layers: list[nn.Linear], kind: tuple, inputs: np.ndarray, gradient: np.ndarray) -> Layers:
    network = blocks(layers, *kind)
    return measure(network, lambda: network(Tensor(inputs, requires_grad=True)), gradient)


def _rows(
    part: str, kind: tuple[str, bool, bool], initialisation: str, gain: float, depth: int, width: int,
    measured: list[Layers], step: int = 0, loss: float = math.nan,
) -> list[Row]:  # fmt: skip
    """One row a layer."""
    activation, norm, residual = kind
    found: Profile = profile(measured)
    saturated = np.mean([layers.saturated for layers in measured], axis=0)  # host: `measure` brings it there
    expected = np.full(depth, np.nan)
    known = dict.fromkeys(("glorot_slope", "he_slope", "bound_slope"), math.nan)
    if part != "training":  # whose inputs are images, and whose weights change
        variance = weight_variance(initialisation, width, gain)
        phi = ACTIVATIONS[activation]()
        expected = theory.mean_field(phi, depth, variance, norm=norm, residual=residual).gradient
        if not (norm or residual):
            known["glorot_slope"] = math.log10(theory.glorot_factor(variance)) / 2
            known["bound_slope"] = math.log10(theory.bound_factor(phi, variance)) / 2
            if activation in ("relu", "leaky_relu"):
                he = theory.he_factor(variance, getattr(phi, "negative_slope", 0.0))
                known["he_slope"] = math.log10(he) / 2
    return [
        {
            "part": part, "activation": activation, "initialisation": initialisation, "gain": gain, "depth": depth,
            "norm": norm, "residual": residual, "seeds": len(measured), "step": step, "layer": layer + 1,
            "log10_mean_square": float(found.mean_square[layer]), "error": float(found.error[layer]),
            "mean_of_log10": float(found.mean_of_logs[layer]), "theory": float(expected[layer]),
            "slope": found.slope, "slope_error": found.slope_error, "theory_slope": slope_per_layer(expected),
            **known, "saturated": float(saturated[layer]), "loss": loss,
        }
        for layer in range(depth)
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------- in training


def _training(
    work: _Work, seed: int, kind: tuple[str, bool, bool], depth: int, initialisation: str, width: int,
    data: tuple[np.ndarray, np.ndarray], steps: int, lr: float,
) -> list[Row]:  # fmt: skip
    """Learn digits; measured is on the first batch of `data`, of which the others are for learning."""
    generator = np.random.default_rng([seed, 0, 1])
    images, labels = data
    batch = len(images) // (steps + 1)
    sizes = [images.shape[1], *[width] * depth]
    layers = [linear(a, b, initialisation, generator) for a, b in pairwise(sizes)]
    network = blocks(layers, *kind)
    head = linear(width, 10, "glorot", generator)
    optimizer = optim.SGD([*network.parameters(), *head.parameters()], lr=lr, momentum=MOMENTUM)

    def loss_of(step: int) -> Tensor:
        those = slice(step * batch, (step + 1) * batch)
        return F.cross_entropy(head(network(images[those])), labels[those])

    rows: list[Row] = []
    for step in range(steps + 1):
        if step in (0, steps // 2, steps):
            found = measure(network, lambda: loss_of(0))
            single = 2 * math.log10(batch)  # the loss is a mean: each input's own gradient is `batch` times as large
            found = Layers(found.gradient + single, found.logs + single, found.saturated)
            rows += _rows("training", kind, initialisation, 1.0, depth, width, [found], step, loss_of(0).item())
        if step < steps:
            optimizer.zero_grad()
            loss_of(step + 1).backward()
            optimizer.step()
        work.add(2 * depth if step else 0, f"training {depth} layers, {initialisation}, {kind[0]}")
    return rows


# ---------------------------------------------------------------------------------------------- the outcome


def _title(row: Row) -> str:
    linear = f"linear × {row['gain']:g}"
    return linear if row["activation"] == "identity" else f"{row['activation']} + {row['initialisation']}"


def _number(value: float, digits: int = 3) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0 makes −0 a 0


def _findings(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    firsts = [row for row in rows if row["layer"] == 1]
    parts = []
    compared = [row for row in rows if row["part"] == "comparison"]
    if compared:
        tops = [row for row in firsts if row["part"] == "comparison"]
        slopes = ", ".join(f"{_title(row)} {_number(row['slope'])}" for row in tops)
        exact = ", ".join(
            f"{_title(row)} {_number(row['slope'])} ± {row['slope_error']:.4f} ({_number(row['theory_slope'])})"
            for row in tops
        )
        worst = max(compared, key=_departure)
        agrees = _departure(worst) <= TOLERANCE
        parts += [
            f"on the way back through {settings['compare_depth']} layers the gradient changes by these powers of ten a "
            f"layer: {slopes}{', as theory says' if agrees else '; theory says otherwise'}",
            f"root mean squares over {settings['compare_seeds']} seeds, {settings['width']} units a layer, powers of "
            f"ten a layer, in brackets the mean-field recursion's: {exact}",
            f"log10 of the mean square departs from the recursion by at most {_departure(worst):.2f} "
            f"({_title(worst)}), {'within' if agrees else 'outside'} the tolerance of {TOLERANCE}",
        ]
        relu = next(row for row in compared if row["activation"] == "relu" and row["layer"] == 1)
        low = relu["log10_mean_square"] - relu["mean_of_log10"]
        parts.append(f"ReLU's mean of logs ends {low:.2f} below its log of the mean")
    grid = [row for row in firsts if row["part"] == "grid" and row["depth"] == max(settings["depths"])]
    plain = [row for row in grid if row["norm"] and not row["residual"]]
    if plain:
        most = max(plain, key=lambda row: row["slope"])
        parts.append(
            f"with batch norm the gradient grows towards the input in {sum(row['slope'] > 0 for row in plain)} of "
            f"{len(plain)} plain networks of {most['depth']} layers, at most by {_number(most['slope'])} a layer "
            f"({_title(most)})"
        )
    saturated = [
        row["saturated"]
        for row in rows
        if row["activation"] == "sigmoid" and row["part"] != "training" and not (row["norm"] or row["residual"])
    ]
    if saturated:
        share = 100 * max(saturated)
        parts.append(f"of a plain sigmoid layer's entries at most {share:.1f} % are saturated at the start")
    last = [row for row in firsts if row["part"] == "training" and row["step"] == settings["training_steps"]]
    if last:
        before = {_kind(row): row["loss"] for row in firsts if row["part"] == "training" and row["step"] == 0}
        parts.append(
            f"{settings['training_steps']} steps of training lower the loss below guessing's, ln 10, in "
            f"{sum(row['loss'] < math.log(10) - 0.1 for row in last)} of {len(last)} networks, and in "
            f"{sum(not row['loss'] < before[_kind(row)] for row in last)} they do not lower it at all"
        )
    return sentences(parts)


def _departure(row: Row) -> float:
    return abs(row["log10_mean_square"] - row["theory"])


def _kind(row: Row) -> tuple:
    return tuple(row[key] for key in ("activation", "initialisation", "depth", "norm", "residual"))


# ---------------------------------------------------------------------------------------------- the picture

VARIANTS = {(False, False): "plain", (True, False): "batch norm", (False, True): "shortcuts", (True, True): "both"}


def _draw(result: Result, figure: Any) -> None:
    present = [part for part in ("comparison", "grid", "training") if result.where(part=part)]
    heights = {"comparison": 1.15, "grid": 1.0, "training": 1.0}
    panels = figure.subfigures(len(present), 1, height_ratios=[heights[part] for part in present], squeeze=False)
    for part, panel in zip(present, panels[:, 0], strict=True):
        {"comparison": _draw_comparison, "grid": _draw_grid, "training": _draw_training}[part](result, panel)


def _draw_comparison(result: Result, panel: Any) -> None:
    sizes, apart = panel.subplots(1, 2)
    networks: dict[str, list[Row]] = {}
    for row in result.where(part="comparison"):
        networks.setdefault(_title(row), []).append(row)
    for colour, (title, rows) in zip(COLOURS, networks.items(), strict=False):
        layers = [row["layer"] for row in rows]
        y, error, expected, logs = (
            np.array([row[key] for row in rows]) for key in ("log10_mean_square", "error", "theory", "mean_of_log10")
        )
        sizes.errorbar(layers, y / 2, yerr=error / 2, fmt="o", color=colour, markersize=3.5, capsize=2, label=title)
        sizes.plot(layers, expected / 2, color="black", linestyle="--", linewidth=1)
        apart.errorbar(layers, y - expected, yerr=error, fmt="o", color=colour, markersize=3, capsize=2, linewidth=0.8)
        apart.plot(layers, logs - expected, color=colour, linewidth=1)
    sizes.plot([], [], color="black", linestyle="--", linewidth=1, label="mean-field theory")
    sizes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    sizes.set_ylabel("root mean square of ∂L/∂h")
    apart.axhline(0, color="black", linestyle="--", linewidth=1)
    apart.axhspan(-TOLERANCE, TOLERANCE, color="grey", alpha=0.12, linewidth=0)
    apart.errorbar([], [], [], fmt="o", color="grey", markersize=3, capsize=2, label="log of the mean over seeds")
    apart.plot([], [], color="grey", linewidth=1, label="mean of the logs: the typical\nnetwork, below the mean")
    apart.fill_between([], [], color="grey", alpha=0.12, label="tolerance")
    apart.set_ylabel("log10 mean square, measured − theory", fontsize=9)
    for axes in (sizes, apart):
        axes.set_xlabel("layer (the loss is at the right)")
        axes.grid(alpha=0.3)
    networks_named, kinds_named = (axes.get_legend_handles_labels() for axes in (sizes, apart))
    handles, labels = (a + b for a, b in zip(networks_named, kinds_named, strict=True))
    panel.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    width, seeds = result.settings["width"], result.settings["compare_seeds"]
    panel.suptitle(f"Gradients at initialisation, {width} units a layer, {seeds} seeds", fontsize=10)


def _draw_grid(result: Result, panel: Any) -> None:
    settings = result.settings
    depth = max(settings["depths"])
    variants = [v for v in VARIANTS if v[0] in settings["norms"] and v[1] in settings["residuals"]]
    plots = panel.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    rows: list[Row] = result.where(part="grid", depth=depth, layer=1)
    slopes = {(row["activation"], row["initialisation"], row["norm"], row["residual"]): row["slope"] for row in rows}
    limit = 0.6
    image = None
    for axes, variant in zip(plots, variants, strict=True):
        table = np.array(
            [[slopes[(a, i, *variant)] for i in settings["initialisations"]] for a in settings["activations"]]
        )
        image = axes.imshow(table, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), slope in np.ndenumerate(table):
            text = _number(slope, 2) if math.isfinite(slope) else "–"
            colour = "white" if abs(slope) > 0.4 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_xticks(
            range(len(settings["initialisations"])), settings["initialisations"], rotation=60, ha="right", fontsize=8
        )
        axes.set_yticks(range(len(settings["activations"])), settings["activations"], fontsize=8)
        axes.set_title(VARIANTS[variant], fontsize=9)
    bar = panel.colorbar(image, ax=list(plots), extend="both", shrink=0.9)
    bar.set_label("decades a layer", fontsize=8)
    panel.suptitle(f"Slope of the gradient on its way back, {depth} layers, at initialisation", fontsize=10)


def _draw_training(result: Result, panel: Any) -> None:
    settings = result.settings
    initialisation, depth = settings["training_initialisations"][-1], max(settings["training_depths"])
    last = settings["training_steps"]
    slopes, losses = panel.subplots(1, 2, sharey=True)
    names = settings["activations"]
    for i, (variant, label) in enumerate(VARIANTS.items()):
        kept = {"part": "training", "layer": 1, "initialisation": initialisation, "depth": depth}
        rows = result.where(**kept, norm=variant[0], residual=variant[1])
        for j, name in enumerate(names):
            y = j + 0.18 * (i - 1.5)
            ends = [next((r for r in rows if (r["activation"], r["step"]) == (name, s)), None) for s in (0, last)]
            if ends[0] is None or ends[1] is None:
                continue
            for axes, key in ((slopes, "slope"), (losses, "loss")):
                before, after = ends[0][key], ends[1][key]
                axes.plot([before, after], [y, y], color=COLOURS[i], linewidth=1)
                axes.plot(before, y, "o", markersize=4, markerfacecolor="white", color=COLOURS[i])
                axes.plot(after, y, "o", markersize=4, color=COLOURS[i], label=label if j == 0 else None)
    slopes.axvline(0, color="black", linewidth=0.8)
    slopes.set_xlabel("slope of the gradient on its way back (decades a layer)", fontsize=8)
    losses.set_xlabel("cross entropy (nats)", fontsize=8)
    losses.set_xscale("log")
    losses.axvline(math.log(10), color="black", linestyle="--", linewidth=0.8, label="guessing, ln 10")
    slopes.set_yticks(range(len(names)), names, fontsize=8)
    slopes.invert_yaxis()
    for axes in (slopes, losses):
        axes.grid(alpha=0.3, axis="x")
    losses.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    panel.suptitle(
        f"Before (hollow) and after (filled) {last} steps on MNIST, {depth} layers, {initialisation}", fontsize=10
    )
