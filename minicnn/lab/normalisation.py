"""Normalisation: what none, local response normalisation and batch norm do to the gradient, and what they buy.

Ioffe & Szegedy 2015, "Batch normalization": it makes "training more resilient to the parameter scale" (section 3.3), as
BN(s·W·x) = BN(W·x) whatever s > 0, and lets one use learning rates that are much higher.

Krizhevsky et al. 2012, section 3.3, has local response normalisation with k = 2, n = 5, α = 10⁻⁴, β = 0.75, here with
PyTorch's division of α by n. Activations have to be above a hundred before α is felt. Below that it divides everything
by k^β = 1.68, so that a network which has it at every layer is, to begin with, one with smaller weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import backend, nn
from .. import functional as F
from ..data import ArrayDataset, DataLoader
from ..engine import Tensor, use_kernels
from ..inspect.flow import gradient_flow
from ..optim import SGD
from .deep import averaged_digits, check_least, chosen, on, own_random_numbers, share_right
from .result import COLOURS, Progress, Result, Row, rounded, sentences, where

QUESTION = "What does normalisation buy: over which learning rates and initial weights does a network train?"

NORMS = ("none", "LRN", "batch norm")
TITLES = {"none": "without normalisation", "LRN": "with LRN", "batch norm": "with batch norm"}
SIDE = 14  # of the images, in pixels
POOLED = (2, 4)  # the layers behind which the maps are halved
MEASURED = 64  # images whose gradients are looked at
EVERY = 8  # steps to a point of the training curves
TRAINS = 0.3  # share of right answers from which a network counts as training: three times that of guessing


def normalisation(
    seed: int = 0,
    *,
    norms: tuple[str, ...] = NORMS,
    scales: tuple[float, ...] = (0.5, 1.0, 2.0),
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0),
    seeds: int = 2,
    steps: int = 80,
    depth: int = 6,
    channels: int = 8,
    images: int = 512,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train a small network on MNIST's digits from weights and with learning rates that do and do not suit it.

    The network has `depth` convolutions of 3×3 with ReLU, then the mean of each map and one linear layer. Batch norm
    comes before ReLU, LRN behind it. The convolutions' weights are drawn by He's rule and multiplied by the scale; all
    networks of a seed begin with the same ones, but for that.

    Args:
        seed: of the first networks' weights and batches; the others have the seeds after it.
        norms: some of ``"none"``, ``"LRN"``, ``"batch norm"``.
        scales: of the initial weights, in He's.
        learning_rates: of stochastic gradient descent with momentum 0.9.
        seeds: how many networks for each pair of a scale and a learning rate.
        steps, batch_size: of training.
        images: how many, the first of the training images, averaged to 14×14 pixels.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Returns:
        A row for each number. ``quantity`` says what ``value`` is, and what ``at`` counts:

        - ``"gradient"``: the root mean square of the loss's gradient at the output of convolution `at`, from 1, before
          training; the row's ``learning_rate`` is None.
        - ``"loss"``, ``"accuracy"``: means over the 8 steps that end with step `at`, while it trains. From the step on
          at which the loss is no finite number, the loss is infinite and the accuracy 0.

    Raises:
        RuntimeError: the device does not work.
        ValueError: an unknown norm, or a number that is too small.
    """
    norms = chosen("normalisation", "norms", norms, NORMS)
    settings = {
        "seed": seed, "norms": norms, "scales": tuple(scales), "learning_rates": tuple(learning_rates), "seeds": seeds,
        "steps": steps, "depth": depth, "channels": channels, "images": images, "batch_size": batch_size,
    }  # fmt: skip
    check_least(
        "normalisation", settings, norms=1, scales=1, learning_rates=1, seeds=1, steps=2 * EVERY, depth=1, channels=1,
        batch_size=2, images=batch_size,
    )  # fmt: skip
    dataset = averaged_digits(images, SIDE)
    networks = list(itertools.product(norms, scales, range(seed, seed + seeds)))
    rows: list[Row] = []
    # Layers as small as these are not worth cutting into blocks for threads.
    with use_kernels("im2col"), on(device) as settings["device"]:
        for i, (norm, scale, own_seed) in enumerate(networks):
            network = {"norm": norm, "scale": scale, "seed": own_seed}
            for layer, size in enumerate(_gradients(_build(own_seed, norm, scale, depth, channels), dataset), 1):
                rows.append({**network, "learning_rate": None, "quantity": "gradient", "at": layer, "value": size})
            for j, rate in enumerate(learning_rates):
                model = _build(own_seed, norm, scale, depth, channels)
                loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, seed=own_seed)
                for step, loss, accuracy in _train(model, loader, steps, rate):
                    run = {**network, "learning_rate": rate}
                    rows.append({**run, "quantity": "loss", "at": step, "value": loss})
                    rows.append({**run, "quantity": "accuracy", "at": step, "value": accuracy})
                if progress is not None:
                    done = (i + (j + 1) / len(learning_rates)) / len(networks)
                    progress(done, f"{norm}, weights × {scale:g}, learning rate {rate:g}")
    sentence, *details = _findings(rows, settings)
    return Result("normalisation", QUESTION, settings, rows, sentence, _draw, (10.0, 7.5), details)


# ---------------------------------------------------------------------------------- the network and its training


def _build(seed: int, norm: str, scale: float, depth: int, channels: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    with own_random_numbers(seed):
        for i in range(1, depth + 1):
            conv = nn.Conv2d(channels if layers else 1, channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            with backend.beside(conv.weight.data):
                conv.weight.data *= scale
            layers += [(f"conv{i}", conv)]
            layers += [(f"norm{i}", nn.BatchNorm2d(channels))] if norm == "batch norm" else []
            layers += [(f"relu{i}", nn.ReLU())]
            layers += [(f"norm{i}", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))] if norm == "LRN" else []
            layers += [(f"pool{i}", nn.MaxPool2d(2))] if i in POOLED else []
        head = [("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("linear", nn.Linear(channels, 10))]
    return nn.Sequential(*layers, *head)


def _gradients(model: nn.Sequential, dataset: ArrayDataset) -> list[float]:
    images, labels = dataset.batch(np.arange(min(MEASURED, len(dataset))))
    flow = gradient_flow(F.cross_entropy(model(Tensor(images)), labels), model)
    return [row.rms for row in flow.of("output") if row.operation == "conv2d"]


def _train(
    model: nn.Sequential, loader: DataLoader, steps: int, learning_rate: float
) -> Iterator[tuple[int, float, float]]:
    """Train, and tell every few steps which it is, the mean loss and the share of right answers since then."""
    optimizer = SGD(model.parameters(), learning_rate, momentum=0.9)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    seen: list[tuple[Tensor, backend.Array, np.ndarray]] = []  # since the last look: no step waits for its loss
    finite = True
    with np.errstate(over="ignore", invalid="ignore"):
        for step, (images, labels) in enumerate(itertools.islice(batches, steps), 1):
            if finite:
                scores = model(Tensor(images))
                loss = F.cross_entropy(scores, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen.append((loss.detach(), scores.data.argmax(axis=1), labels))
            if step % EVERY == 0:
                losses: list[float] = []
                right: list[float] = []
                for loss, answers, labels in seen:
                    finite = finite and math.isfinite(loss.item())
                    losses.append(loss.item() if finite else math.inf)
                    right.append(share_right(answers, labels) if finite else 0.0)
                seen.clear()
                yield step, float(np.mean(losses or [math.inf])), float(np.mean(right or [0.0]))  # host: numbers


# --------------------------------------------------------------------------------------- the sentence, the picture


def final_accuracies(rows: Sequence[Row], settings: dict[str, Any], norm: str) -> np.ndarray:
    """(scales, learning rates): the share of right answers in the last 16 steps, the mean over the seeds."""
    found: list[Row] = where(rows, quantity="accuracy", norm=norm)
    last = sorted({row["at"] for row in found})[-2:]
    found = [row for row in found if row["at"] in last]
    return np.array(
        [
            [
                np.mean([row["value"] for row in found if (row["scale"], row["learning_rate"]) == (scale, rate)])
                for rate in settings["learning_rates"]
            ]
            for scale in settings["scales"]
        ]
    )


def _profile(rows: Sequence[Row], norm: str, scale: float) -> np.ndarray:
    """(layers,): the gradient at each layer, the geometric mean over the seeds."""
    found: list[Row] = where(rows, quantity="gradient", norm=norm, scale=scale)
    with np.errstate(divide="ignore"):
        logs = np.log([row["value"] for row in found]).reshape(-1, max(row["at"] for row in found))
    return np.exp(logs.mean(axis=0))


def _curve(result: Result, norm: str, scale: float, learning_rate: float) -> tuple[list[int], np.ndarray]:
    """The steps, and the loss there, the mean over the seeds."""
    rows: list[Row] = result.where(quantity="loss", norm=norm, scale=scale, learning_rate=learning_rate)
    steps = sorted({row["at"] for row in rows})
    return steps, np.array([row["value"] for row in rows]).reshape(-1, len(steps)).mean(axis=0)


def _findings(rows: Sequence[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    scales: tuple[float, ...] = settings["scales"]
    rates: tuple[float, ...] = settings["learning_rates"]
    trained: list[str] = []
    found: list[str] = []
    for norm in settings["norms"]:
        accuracies = final_accuracies(rows, settings, norm)
        trains = accuracies >= TRAINS
        trained.append(f"{trains.sum()}{'' if trained else ' train'} {TITLES[norm]}")
        good = [rate for rate, works in zip(rates, trains.T, strict=True) if works.any()]
        highest = f"up to a rate of {max(good):g}" if good else "at no rate"
        text = f"networks {TITLES[norm]} train {highest}, at best to {100 * accuracies.max():.0f} % right"
        low, high = (_profile(rows, norm, scale)[0] for scale in (min(scales), max(scales)))
        if high > 0 and low > 0 and len(scales) > 1:
            change = high / low if high > low else low / high
            text += (
                f"; weights {max(scales) / min(scales):g} times as large make the first layer's gradient "
                f"{rounded(change)} times as {'large' if high > low else 'small'}"
            )
        found.append(text)
    return sentences(
        [
            f"of {len(scales) * len(rates)} pairs of initial weights and a learning rate, {', '.join(trained)}",
            *found,
            f"a pair trains if {100 * TRAINS:g} % of the digits are right at the end of {settings['steps']} steps "
            f"(guessing: 10 %), the mean of {settings['seeds']} runs; one that does not may be slow only",
        ]
    )


def _draw(result: Result, figure: Any) -> None:
    settings = result.settings
    norms, scales = settings["norms"], settings["scales"]
    rates: tuple[float, ...] = settings["learning_rates"]
    grid = figure.subplots(3, len(norms), sharey="row", squeeze=False)
    for (gradient, accuracy, loss), norm in zip(grid.T, norms, strict=True):
        accuracies = final_accuracies(result.rows, settings, norm)
        best = [rates[i] for i in accuracies.argmax(axis=1)]
        for colour, scale, rate in zip(COLOURS, scales, best, strict=False):
            sizes = _profile(result.rows, norm, scale)
            layers = range(1, len(sizes) + 1)
            gradient.plot(layers, sizes, color=colour, marker="o", ms=3, label=f"× {scale:g}")
            loss.plot(*_curve(result, norm, scale, rate), color=colour, marker="o", ms=3, label=f"× {scale:g}")
        _draw_accuracies(accuracy, 100 * accuracies, scales, rates)
        gradient.set(yscale="log", xlabel="layer", xticks=layers)
        gradient.set_title("no normalisation" if norm == "none" else norm, fontsize=11)
        loss.set(xlabel="step", ylim=(0, 3))
        loss.set_title(f"at the best rates: {', '.join(f'{rate:g}' for rate in best)}", fontsize=9)
        for ax in (gradient, loss):
            ax.grid(alpha=0.3)
    grid[0, 0].set_ylabel("gradient at its output, rms")
    grid[1, 0].set_ylabel("initial weights, in He's")
    grid[2, 0].set_ylabel("cross entropy, nats")
    for row in (0, 2):
        legend = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
        grid[row, -1].legend(title="initial weights,\nin He's", **legend)


def _draw_accuracies(ax: Any, percent: np.ndarray, scales: tuple[float, ...], rates: tuple[float, ...]) -> None:
    ax.imshow(percent, cmap="cividis", vmin=0, vmax=100, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(percent):
        ax.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=9, color="white" if value < 60 else "black")
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(scales)), [f"× {scale:g}" for scale in scales])
    ax.set(xlabel="learning rate")
    ax.set_title("right answers at the end, %", fontsize=9)
