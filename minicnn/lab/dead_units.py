"""Units that never fire: how ReLU's die, whether they come back, and what leaky activations change.

A unit is called dead here if its pre-activation is above 0 for none of the training images. A ReLU unit then passes no
gradient on, and its own weights get none. In the first layer, whose inputs stay as they are, that is for good: with
gradient descent without momentum or weight decay nothing can move it. In a later layer it can come back, if the layers
before it change what it sees. The leaky activations' units that never fire still have a gradient: 0.01 or 0.2 of what
arrives, or eˣ of it (ELU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import backend, nn, optim
from .. import functional as F
from ..engine import Tensor, no_grad
from .deep import ACTIVATIONS, Block, blocks, check_least, chosen, digits, linear, on
from .result import COLOURS, Progress, Result, Row, sentences, where

QUESTION = "When do units stop firing, do they come back, and do leaky activations help?"

# A learning rate, and the biases that the layers begin with.
SCENARIOS = {"moderate": (0.1, 0.0), "large steps": (0.3, 0.0), "negative biases": (0.2, -1.5)}


def dead_units(
    seed: int = 0,
    *,
    activations: Sequence[str] = ("relu", "leaky_relu", "leaky_relu_0.2", "elu"),
    scenarios: Sequence[str] = tuple(SCENARIOS),
    trials: int = 3,
    steps: int = 300,
    images: int = 1024,
    batch: int = 64,
    width: int = 100,
    depth: int = 3,
    every: int = 10,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train small networks on MNIST and count, on the way, the units that fire for none of the training images.

    Rows, one for each layer at each look: ``scenario``, ``activation``, ``trial``, ``step``, ``layer`` (1 is the
    first), ``dead`` (the share of the layer's units), ``ever_dead`` (the share that was dead at this look or an earlier
    one), ``back`` (the share that was dead at an earlier look and is not now) and ``loss`` (over all images). A run
    ends with the first look at which the loss is infinite or NaN; the shares are then NaN.

    Args:
        seed: of all random numbers.
        activations: as those of `vanishing`; also ``"leaky_relu_0.2"``, of another slope than 0.01.
        scenarios: of ``"moderate"``, ``"large steps"`` and ``"negative biases"``: learning rates of 0.1, 0.3 and 0.2,
            the last with biases that begin at −1.5. Weights begin by He's rule.
        trials: how often each is trained, with other weights.
        steps: of gradient descent.
        images: of MNIST's training images, the first.
        batch: images a step.
        width, depth: units a layer, and layers before the last.
        every: steps from look to look.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Raises:
        RuntimeError: the device does not work.
        ValueError: a name that is not known, or a number that is too small.
    """
    activations = chosen("dead_units", "activations", activations, ACTIVATIONS)
    scenarios = chosen("dead_units", "scenarios", scenarios, SCENARIOS)
    sizes = {
        "trials": trials, "steps": steps, "images": images, "batch": batch, "width": width, "depth": depth,
        "every": every,
    }  # fmt: skip
    check_least("dead_units", sizes, **dict.fromkeys(sizes, 1))
    if images < batch:
        raise ValueError(f"dead_units: images is {images}, and must be at least batch, {batch}")
    settings = {"seed": seed, "activations": activations, "scenarios": scenarios, **sizes}
    data = digits(images, "float32")
    runs = [(s, a, t) for s in scenarios for a in activations for t in range(trials)]
    rows: list[Row] = []
    with on(device) as settings["device"]:
        for i, (scenario, activation, trial) in enumerate(runs):
            rows += _train(seed, scenario, activation, trial, data, steps, batch, width, depth, every)
            if progress is not None:
                progress((i + 1) / len(runs), f"{scenario}, {activation}")
    sentence, *details = _findings(rows, settings)
    return Result("dead_units", QUESTION, settings, rows, sentence, _draw, (9.0, 8.0), details)


def _train(
    seed: int, scenario: str, activation: str, trial: int, data: tuple[np.ndarray, np.ndarray], steps: int, batch: int,
    width: int, depth: int, every: int,
) -> list[Row]:  # fmt: skip
    (images, labels), (lr, bias) = data, SCENARIOS[scenario]
    generator = np.random.default_rng([seed, trial])  # the same weights for every activation
    sizes = [images.shape[1], *[width] * depth]
    layers = [linear(a, b, "he", generator, dtype="float32") for a, b in pairwise(sizes)]
    for linear_layer in layers:
        linear_layer.bias.data[...] = bias
    network, head = blocks(layers, activation), linear(width, 10, "glorot", generator, dtype="float32")
    optimizer = optim.SGD([*network.parameters(), *head.parameters()], lr=lr)

    rows: list[Row] = []
    ever = np.zeros((depth, width), bool)
    batches = len(images) // batch
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            silent, loss = _look(network, head, images, labels)
            ever |= silent
            for layer in range(depth):
                shares = [silent[layer].mean(), ever[layer].mean(), (ever & ~silent)[layer].mean()]
                dead, ever_dead, back = (float(share) if math.isfinite(loss) else math.nan for share in shares)
                rows.append(
                    {
                        "scenario": scenario, "activation": activation, "trial": trial, "step": step,
                        "layer": layer + 1, "dead": dead, "ever_dead": ever_dead, "back": back, "loss": loss,
                    }
                )  # fmt: skip
            if not math.isfinite(loss):
                break
        those = slice(step % batches * batch, (step % batches + 1) * batch)
        optimizer.zero_grad()
        F.cross_entropy(head(network(images[those])), labels[those]).backward()
        with np.errstate(all="ignore"):  # on the way to infinity, which the next look sees
            optimizer.step()
    return rows


def _look(network: nn.Sequential, head: nn.Linear, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Which units fire for no image, (depth, width), and the loss."""
    silent: list[np.ndarray] = []
    with no_grad():
        x = Tensor(images)
        for block in network:
            assert isinstance(block, Block)
            h = block.linear(x)
            silent.append(backend.to_host(~(h.data > 0).any(axis=0)))
            x = block.activation(h)
        loss = F.cross_entropy(head(x), labels).item()
    return np.array(silent), loss


# ---------------------------------------------------------------------------------------------- the outcome


def _findings(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    parts, of_relu, leaks = [], [], []
    for scenario in settings["scenarios"]:
        ends = []
        for activation in settings["activations"]:
            runs = [row for row in rows if (row["scenario"], row["activation"]) == (scenario, activation)]
            last = [row for row in runs if row["step"] == settings["steps"] and math.isfinite(row["loss"])]
            finite = len(last) // settings["depth"]
            if not finite:
                ends.append(f"{activation} ends in infinity or NaN")
                continue
            dead, ever, back = (100 * float(np.mean([r[key] for r in last])) for key in ("dead", "ever_dead", "back"))
            text = f"{activation} {dead:.1f} % dead, {back:.1f} of {ever:.1f} % back, loss {_mean(last, 'loss'):.2g}"
            lost = settings["trials"] - finite
            if activation == "relu":
                of_relu.append(f"{dead:.1f} % ({scenario})")
            ends.append(text + (f" ({lost} of {settings['trials']} end in infinity or NaN)" if lost else ""))
        parts.append(f"{scenario}: {', '.join(ends)}")
        leaks += _compared(rows, settings, scenario)
    first = [row for row in rows if row["activation"] == "relu" and row["layer"] == 1 and math.isfinite(row["loss"])]
    if first:
        back = max(row["back"] for row in first)
        parts.insert(0, f"of ReLU's in the first layer {f'{100 * back:.1f} %' if back else 'none'} ever came back")
    told = f"after {settings['steps']} steps of ReLU's units are dead {', '.join(of_relu) or 'an unknown share'}"
    if leaks:
        told += f"; the losses of ReLU and leaky ReLU end at {', '.join(leaks)}"
    return sentences([told, *parts])


def _compared(rows: Sequence[Row], settings: dict[str, Any], scenario: str) -> list[str]:
    """How the losses of ReLU and leaky ReLU end, ``"2.3 and 1.4 (negative biases)"``; nothing without both."""
    losses = []
    for activation in ("relu", "leaky_relu"):
        of_it = {"scenario": scenario, "activation": activation, "step": settings["steps"]}
        ends = where(rows, **of_it)
        finite = [row for row in ends if math.isfinite(row["loss"])]
        if ends:
            losses.append(f"{_mean(finite, 'loss'):.2g}" if finite else "infinity or NaN")
    return [f"{' and '.join(losses)} ({scenario})"] if len(losses) == 2 else []


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


# ---------------------------------------------------------------------------------------------- the picture


def _draw(result: Result, figure: Any) -> None:
    settings = result.settings
    layers = sorted({1, settings["depth"]})
    plots = figure.subplots(len(layers) + 1, len(settings["scenarios"]), sharex=True, sharey="row", squeeze=False)
    for column, scenario in zip(plots.T, settings["scenarios"], strict=True):
        for colour, activation in zip(COLOURS, settings["activations"], strict=False):
            for axes, layer in zip(column, layers, strict=False):
                _curve(axes, result.where(scenario=scenario, activation=activation, layer=layer), "dead", colour, "")
            _curve(
                column[-1], result.where(scenario=scenario, activation=activation, layer=1), "loss", colour, activation
            )
        rate, bias = SCENARIOS[scenario]
        column[0].set_title(f"{scenario}\n(rate {rate:g}, biases {bias:g})".replace("-", "−"), fontsize=10)
        column[-1].axhline(math.log(10), color="black", linestyle="--", linewidth=0.9, label="guessing, ln 10")
        column[-1].set_yscale("log")
        column[-1].set_xlabel("step")
        for axes in column:
            axes.grid(alpha=0.3)
    for axes, layer in zip(plots[:, 0], layers, strict=False):
        axes.set_ylabel(f"dead units, layer {layer}")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    plots[-1, 0].set_ylabel("cross entropy (nats)")
    plots[-1, 0].plot([], [], "x", color="grey", markersize=8, markeredgewidth=2, label="here a trial goes to infinity")
    handles, labels = plots[-1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)


def _curve(axes: Any, rows: Sequence[Row], key: str, colour: str, label: str) -> None:
    """The mean over trials with its standard error; a cross where it ends because a trial is not finite any more."""
    trials = len({row["trial"] for row in rows})
    steps, means, errors = [], [], []
    for step in sorted({row["step"] for row in rows}):
        values = [row[key] for row in rows if row["step"] == step and math.isfinite(row["loss"])]
        if len(values) < trials:
            break
        steps.append(step)
        means.append(np.mean(values))
        errors.append(np.std(values, ddof=1) / math.sqrt(trials) if trials > 1 else 0.0)
    low, high = np.array(means) - np.array(errors), np.array(means) + np.array(errors)
    axes.plot(steps, means, color=colour, linewidth=1.5, label=label or None)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    if len(steps) < len({row["step"] for row in rows}):
        axes.plot(steps[-1:], means[-1:], "x", color=colour, markersize=9, markeredgewidth=2)
