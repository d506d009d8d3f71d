"""How gradients and training runs explode, step by step, and what saves which run.

Two parts. *Chains* of linear layers, whose weights are drawn anew for each layer or are the same matrix every time, as
in a recurrent network. Independent weights multiply the gradient's root mean square by the gain, σ_w = √(n Var(w)), in
each layer. Of one matrix applied over and over again it is the spectral radius ρ, the largest absolute value of an
eigenvalue, that decides in the long run (Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent
neural networks", section 2.1). For independent normal entries ρ is about the gain, and the two agree; for a symmetric
matrix of the same entries it is twice the gain, so that weights of gain 0.7 let the gradient vanish in a deep network
and explode in a recurrent one. The largest singular value, twice the gain for both, bounds a single step and not the
long run.

*Training runs* on MNIST that go wrong, in float32, whose largest number is 3.4·10³⁸, each with five remedies or none.
A run is saved if it stays finite and its loss ends lower than it began, and has learnt if the loss ends well below
that of guessing, ln 10. The two are not the same: clipping makes every step of a run with huge activations a small one,
and so keeps it finite, but its loss falls from thousands to tens. And what is infinite on the way forward has no
gradient that could be clipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

from .. import backend, nn, optim
from .. import functional as F
from ..engine import Parameter, Tensor, no_grad
from ..inspect.anomaly import AnomalyError, detect_anomaly
from ..nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from .deep import Layers, blocks, check_least, chosen, digits, linear, measure, on, profile
from .result import COLOURS, Progress, Result, Row, sentences

QUESTION = "How does training run to infinity, and which remedy saves which run?"


@dataclass(frozen=True)
class Run:
    """A network that explodes, and how it is trained."""

    title: str
    activation: str
    depth: int
    initialisation: str
    gain: float
    lr: float
    shared: bool = False  # the layers behind the first have one weight in common


RUNS = {
    "rate": Run("rate of 2\n(4 ReLU layers)", "relu", 4, "he", 1.0, 2.0),
    "deep": Run("gain of 1.5\n(20 ReLU layers)", "relu", 20, "he", 1.5, 0.05),
    "recurrent": Run("gain of 1.5, one\nweight 20 times", "relu", 20, "he", 1.5, 0.05, shared=True),
    "tanh": Run("gain of 3\n(20 tanh layers)", "tanh", 20, "glorot", 3.0, 0.05),
    "overflow": Run("gain of 6\n(60 ReLU layers)", "relu", 60, "he", 6.0, 0.05),
}

MAX_NORM, MAX_VALUE, SMALLER = 1.0, 0.01, 100.0
REMEDIES = {
    "none": "none",
    "clip_norm": f"clipping by\nnorm, {MAX_NORM:g}",
    "clip_value": f"clipping by\nvalue, {MAX_VALUE:g}",
    "batch_norm": "batch norm",
    "smaller_steps": f"steps {SMALLER:g}\ntimes smaller",
}

# What becomes of a run, from bad to good. Learnt: the loss is at least 0.1 below that of guessing.
OUTCOMES = ("not finite", "not lower", "lower", "learnt")
LEARNT = math.log(10) - 0.1

CHAINS = (("normal", 1.3), ("orthogonal", 1.0), ("normal", 0.7), ("symmetric", 0.7))
EMPTY = {
    "weights": "", "shared": False, "gain": math.nan, "back": 0, "log10_mean_square": math.nan, "error": math.nan,
    "theory": math.nan, "spectral_radius": math.nan, "singular_value": math.nan, "slope": math.nan,
    "slope_error": math.nan, "theory_slope": math.nan,
    "run": "", "remedy": "", "trial": 0, "step": 0, "loss": math.nan, "gradient_norm": math.nan,
    "largest_weight": math.nan, "first_non_finite": "", "start": math.nan, "end": math.nan, "outcome": "",
    "saved": False,
}  # fmt: skip


def exploding(
    seed: int = 0,
    *,
    chain_length: int = 50,
    chain_width: int = 128,
    chain_seeds: int = 10,
    runs: Sequence[str] = tuple(RUNS),
    remedies: Sequence[str] = tuple(REMEDIES),
    trials: int = 3,
    steps: int = 40,
    width: int = 64,
    batch: int = 64,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure how gradients grow, let training runs explode, and try the remedies on them.

    Rows of the part ``"chain"``, one for each layer of a chain: ``weights`` (``"normal"``, ``"orthogonal"``,
    ``"symmetric"``), ``shared`` (one matrix for all layers), ``gain``, ``back`` (how many layers the gradient has come
    back), ``log10_mean_square`` over seeds with its standard ``error`` and ``theory`` (the power of the gain or, if
    shared, of the spectral radius); of the whole chain ``spectral_radius``, ``singular_value`` (the largest) and the
    ``slope`` of the root mean square over its farther half, decades a layer, with ``slope_error`` and ``theory_slope``.

    Rows of the part ``"training"``, one for each step: ``run``, ``remedy``, ``trial``, ``step``, ``loss``,
    ``gradient_norm`` (before clipping), ``largest_weight`` (behind the step); of the whole run ``first_non_finite``
    (the step, the direction, the operation and its layer), ``start`` and ``end`` (the loss over all images),
    ``outcome`` (``"not finite"``, ``"not lower"``, ``"lower"``, ``"learnt"``: at least 0.1 below ln 10) and ``saved``
    (one of the latter two). What belongs to the other part is NaN or empty.

    Args:
        seed: of all random numbers.
        chain_length, chain_width, chain_seeds: layers, units a layer and chains of each kind; 0 seeds leave them out.
        runs: of ``"rate"`` (the learning rate is too high), ``"deep"``, ``"recurrent"``, ``"tanh"`` and ``"overflow"``
            (the gain is above one).
        remedies: of ``"none"``, ``"clip_norm"``, ``"clip_value"``, ``"batch_norm"``, ``"smaller_steps"``.
        trials: how often each run is tried with each remedy, with other weights.
        steps: of gradient descent.
        width: units a layer.
        batch: images a step; eight batches are used in turn.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Raises:
        RuntimeError: the device does not work.
        ValueError: a name that is not known, or a number that is too small.
    """
    runs, remedies = chosen("exploding", "runs", runs, RUNS), chosen("exploding", "remedies", remedies, REMEDIES)
    settings: dict[str, Any] = {
        "seed": seed, "chain_length": chain_length, "chain_width": chain_width, "chain_seeds": chain_seeds,
        "runs": runs, "remedies": remedies, "trials": trials, "steps": steps, "width": width, "batch": batch,
    }  # fmt: skip
    check_least(
        "exploding", settings, chain_length=4, chain_width=2, chain_seeds=0, trials=0, steps=1, width=1, batch=2
    )
    rows: list[Row] = []
    images, labels = digits(8 * batch, "float32")
    every = [(run, remedy, trial) for run in runs for remedy in remedies for trial in range(trials)]
    all_layers = sum(RUNS[run].depth for run, _, _ in every)
    done = 0
    with on(device) as settings["device"]:
        for i, (weights, gain) in enumerate(CHAINS if chain_seeds else ()):
            for shared in (False, True):
                rows += _chain(seed, weights, gain, shared, chain_length, chain_width, chain_seeds)
            if progress is not None:
                progress(0.1 * (i + 1) / len(CHAINS), "chains of linear layers")
        for run, remedy, trial in every:
            rows += _train(seed, run, remedy, trial, steps, width, images, labels)
            done += RUNS[run].depth
            if progress is not None:
                progress(0.1 + 0.9 * done / all_layers, f"{run}, {remedy}")
    if not rows:
        raise ValueError("exploding: nothing to do: chain_seeds and trials are 0")
    sentence, *details = _findings(rows, settings)
    return Result("exploding", QUESTION, settings, rows, sentence, _draw, (9.0, 8.0), details)


# --------------------------------------------------------------------------------------------------- chains


def _chain(seed: int, weights: str, gain: float, shared: bool, length: int, width: int, seeds: int) -> list[Row]:
    measured, radii, singular = [], [], []
    for k in range(seeds):
        generator = np.random.default_rng([seed, k])
        inputs, gradient = generator.normal(size=(2, 4, width))
        layers = [_layer(weights, gain, width, generator) for _ in range(1 if shared else length)]
        matrix = backend.to_host(layers[0].weight.data)
        radii.append(float(np.abs(np.linalg.eigvals(matrix)).max()))
        singular.append(float(np.linalg.norm(matrix, 2)))
        network = blocks(layers * length if shared else layers, "identity")
        measured.append(measure(network, lambda: network(Tensor(inputs)), gradient))  # noqa: B023 (called at once)
    found = profile(measured)
    far = profile([Layers(m.gradient[: length // 2], m.logs[: length // 2], m.saturated) for m in measured])
    rate = math.log10(math.exp(np.mean(np.log(radii))) if shared else gain)
    return [
        EMPTY
        | {
            "part": "chain", "weights": weights, "shared": shared, "gain": gain, "back": length - 1 - i,
            "log10_mean_square": float(found.mean_square[i]), "error": float(found.error[i]),
            "theory": 2 * rate * (length - 1 - i), "spectral_radius": float(np.mean(radii)),
            "singular_value": float(np.mean(singular)), "slope": far.slope, "slope_error": far.slope_error,
            "theory_slope": rate,
        }
        for i in range(length)
    ]  # fmt: skip


def _layer(weights: str, gain: float, width: int, generator: np.random.Generator) -> nn.Linear:
    """A linear layer whose weights have the variance gain² / width."""
    layer = linear(width, width, "orthogonal" if weights == "orthogonal" else "lecun", generator, gain)
    if weights == "symmetric":
        w = layer.weight.data
        layer.weight = Parameter((w + w.T) / math.sqrt(2))
    return layer


# ----------------------------------------------------------------------------------------------------- runs


def _train(
    seed: int, name: str, remedy: str, trial: int, steps: int, width: int, images: np.ndarray, labels: np.ndarray
) -> list[Row]:
    """Train until the end or the first infinity or NaN; every remedy begins with the same weights."""
    run, generator, batch = RUNS[name], np.random.default_rng([seed, trial]), len(images) // 8
    first = linear(images.shape[1], width, run.initialisation, generator, 1.0 if run.shared else run.gain, "float32")
    others = [
        linear(width, width, run.initialisation, generator, run.gain, "float32")
        for _ in range(1 if run.shared else run.depth - 1)
    ]
    linears = [first, *(others * (run.depth - 1) if run.shared else others)]
    layers = blocks(linears, run.activation, remedy == "batch_norm")
    head = linear(width, 10, "glorot", generator, dtype="float32")
    network = nn.Sequential(("layers", layers), ("head", head))
    lr = run.lr / (SMALLER if remedy == "smaller_steps" else 1)
    optimizer = optim.SGD(network.parameters(), lr=lr)

    def whole() -> float:
        with no_grad():
            return F.cross_entropy(network(images), labels).item()

    road: list[dict[str, Any]] = []
    start = end = math.nan
    broken = ""
    try:
        with detect_anomaly(), np.errstate(all="ignore"):
            start = whole()
            for step in range(steps):
                those = slice(step % 8 * batch, (step % 8 + 1) * batch)
                optimizer.zero_grad()
                road.append({"step": step})
                loss = F.cross_entropy(network(images[those]), labels[those])
                road[-1]["loss"] = loss.item()
                loss.backward()
                road[-1]["gradient_norm"] = float(get_total_norm([p.grad for p in network.parameters()]))
                if remedy == "clip_norm":
                    clip_grad_norm_(network.named_parameters(), MAX_NORM)
                elif remedy == "clip_value":
                    clip_grad_value_(network.named_parameters(), MAX_VALUE)
                optimizer.step()
                sizes = _largest(network)
                road[-1]["largest_weight"] = max(sizes.values())
                bad = [name for name, size in sizes.items() if not math.isfinite(size)]
                if bad:
                    broken = f"step {step}, update of {bad[0]}"
                    break
            else:
                end = whole()
    except AnomalyError as error:
        at = road[-1]["step"] if road else 0
        broken = f"step {at}, {error.direction}, {error.node.label}"
    became = outcome(start, end)
    known = {
        "part": "training", "run": name, "remedy": remedy, "trial": trial, "first_non_finite": broken, "start": start,
        "end": end, "outcome": became, "saved": became in OUTCOMES[2:],
    }  # fmt: skip
    return [EMPTY | known | entry for entry in road or [{"step": 0}]]


def _largest(network: nn.Module) -> dict[str, float]:
    """The largest absolute value in each parameter, by its name."""
    sizes = {name: abs(p.data).max() for name, p in network.named_parameters()}
    xp = backend.common_module("exploding", *sizes.values())
    together = xp.stack(list(sizes.values()))  # one crossing for all
    return dict(zip(sizes, backend.to_host(together).tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- the outcome


def outcome(start: float, end: float) -> str:
    """What became of a run with these losses, one of `OUTCOMES`."""
    if not math.isfinite(end):
        return "not finite"
    if end >= start:
        return "not lower"
    return "learnt" if end < LEARNT else "lower"


def _findings(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    parts = []
    tried = [row for row in rows if row["part"] == "training" and row["step"] == 0]
    each = len(settings["runs"]) * settings["trials"]
    if tried:
        counts = []
        for remedy in settings["remedies"]:
            mine = [row for row in tried if row["remedy"] == remedy]
            saved, learnt = sum(row["saved"] for row in mine), sum(row["outcome"] == "learnt" for row in mine)
            counts.append(f"{REMEDIES[remedy]}: {saved} ({learnt})".replace("\n", " "))
        what = "runs with too large weights or steps so many stay finite (and learn)"
        parts.append(f"of {each} {what}: {'; '.join(counts)}")
        clipped = [row for row in tried if row["remedy"].startswith("clip")]
        lost = sorted({row["run"] for row in clipped if not row["saved"]})
        idle = sorted({row["run"] for row in clipped if row["outcome"] == "lower"})
        if lost:
            parts.append(f"clipping does not save every run of {', '.join(lost)}")
        if idle:
            parts.append(f"clipping makes some of {', '.join(idle)} finite that learn nothing")
        example = next((row for row in tried if row["remedy"] == "none" and row["first_non_finite"]), None)
        if example:
            parts.append(f"the first untreated one ({example['run']}) breaks at {example['first_non_finite']}")
    symmetric = [row for row in rows if row["weights"] == "symmetric" and row["back"] == 0]
    if symmetric:
        alone, shared = sorted(symmetric, key=lambda row: row["shared"])
        parts.append(
            f"symmetric weights of gain {alone['gain']:g} change the gradient by {alone['slope']:+.3f} ± "
            f"{alone['slope_error']:.3f} powers of ten a layer where each layer has its own (log10 of the gain: "
            f"{alone['theory_slope']:+.3f}), and by {shared['slope']:+.3f} ± {shared['slope_error']:.3f} where all "
            f"share one (log10 of its spectral radius {shared['spectral_radius']:.2f}: {shared['theory_slope']:+.3f})"
        )
    return sentences(parts)


# ---------------------------------------------------------------------------------------------- the picture

SHADES = {"not finite": "#D55E00", "not lower": "#E69F00", "lower": "#BBDDEE", "learnt": "#56B4E9"}


def _draw(result: Result, figure: Any) -> None:
    chains, trained = result.where(part="chain"), result.where(part="training")
    present = [bool(chains or trained), bool(trained)]
    panels = figure.subfigures(sum(present), 1, height_ratios=[1.0, 0.95][: sum(present)], squeeze=False)[:, 0]
    plots = panels[0].subplots(1, bool(chains) + bool(trained), squeeze=False)[0]
    if chains:
        _draw_chains(result, plots[0])
    if trained:
        _draw_road(result, plots[-1])
        _draw_table(result, panels[1])


def _draw_chains(result: Result, axes: Any) -> None:
    for colour, (weights, gain) in zip(COLOURS, CHAINS, strict=False):
        for shared in (False, True):
            rows: list[Row] = result.where(part="chain", weights=weights, gain=gain, shared=shared)
            back, y, error, expected = (
                np.array([row[key] for row in rows]) for key in ("back", "log10_mean_square", "error", "theory")
            )
            axes.plot(back, expected / 2, color="black", linestyle="--", linewidth=0.9)
            axes.errorbar(
                back[::3], y[::3] / 2, yerr=error[::3] / 2, fmt="o", markersize=4, color=colour, capsize=2,
                markerfacecolor=colour if shared else "white",
                label=f"{weights}, gain {gain:g}" if shared else None,
            )  # fmt: skip
    axes.plot([], [], "o", color="grey", markersize=4, label="the same in all layers")
    axes.plot([], [], "o", color="grey", markersize=4, markerfacecolor="white", label="each layer its own")
    axes.plot([], [], color="black", linestyle="--", linewidth=0.9, label="powers of ρ or of the gain")
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    axes.set_xlabel("layers back from the loss")
    axes.set_ylabel("root mean square of ∂L/∂h")
    axes.set_title("Linear layers: own weights or shared ones", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=7.5)


def _draw_road(result: Result, axes: Any) -> None:
    settings = result.settings
    run, remedy = settings["runs"][0], settings["remedies"][0]
    rows = result.where(part="training", run=run, remedy=remedy, trial=0)
    steps = [row["step"] for row in rows]
    for colour, (key, label) in zip(
        COLOURS, {"loss": "loss", "gradient_norm": "gradient's norm", "largest_weight": "largest weight"}.items(),
        strict=False,
    ):  # fmt: skip
        axes.plot(steps, [row[key] for row in rows], "o-", color=colour, markersize=4, label=label)
    axes.set_yscale("log")
    largest = float(np.finfo(np.float32).max)
    axes.axhline(largest, color="black", linestyle="--", linewidth=0.9, label="float32's largest number")
    if rows[0]["first_non_finite"]:
        axes.axvline(steps[-1], color="#D55E00", linewidth=1, label="the first NaN or infinity")
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    title = RUNS[run].title.replace("\n", " ")
    axes.set_title(f"{title}, remedy: {remedy.replace('_', ' ')}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=7.5)


def _draw_table(result: Result, panel: Any) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    settings = result.settings
    runs, remedies = settings["runs"], settings["remedies"]
    axes = panel.subplots()
    table = np.zeros((len(runs), len(remedies)))
    for (i, run), (j, remedy) in itertools.product(enumerate(runs), enumerate(remedies)):
        ends = result.where(part="training", run=run, remedy=remedy, step=0)
        table[i, j] = median_low(OUTCOMES.index(row["outcome"]) for row in ends)
        middle = median_low(math.inf if math.isnan(row["end"]) else row["end"] for row in ends)
        loss = f"loss {middle:.3g}" if math.isfinite(middle) else "∞ or NaN"
        text = f"{loss}\nsaved {sum(row['saved'] for row in ends)} of {len(ends)}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8)
    axes.imshow(table, cmap=ListedColormap(list(SHADES.values())), vmin=-0.5, vmax=3.5, aspect="auto")
    axes.set_xticks(range(len(remedies)), [REMEDIES[r] for r in remedies], fontsize=8)
    axes.set_yticks(range(len(runs)), [RUNS[r].title for r in runs], fontsize=8)
    axes.set_xticks(np.arange(len(remedies) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(runs) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    texts = ("∞ or NaN", "finite, loss\nnot lower", "loss lower than\nat the start", "learnt: below\nln 10 − 0.1")
    axes.legend(
        [Patch(color=SHADES[name]) for name in OUTCOMES], texts, loc="center left", bbox_to_anchor=(1.01, 0.5),
        frameon=False, fontsize=8, labelspacing=1,
    )  # fmt: skip
    of_trials = f"the median of {settings['trials']} trials" if settings["trials"] > 1 else "one trial"
    axes.set_title(f"After {settings['steps']} steps ({of_trials})", fontsize=10)
