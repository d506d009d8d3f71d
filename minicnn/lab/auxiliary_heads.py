"""GoogLeNet's two auxiliary classifiers: do they feed its first layer, and does it train the better for it?

Szegedy et al. 2015, section 5: given the depth of the network, "the ability to propagate gradients back through all the
layers in an effective manner was a concern", and the heads were added to "increase the gradient signal that gets
propagated back". A year later (Szegedy et al. 2016, "Rethinking the Inception architecture", section 4) they "did not
result in improved convergence early in the training", were of a little use near its end, and were thought to act as
regularisers. Both can be true: a first layer may get more gradient without learning faster.

Since backward is linear, the main loss's part of the gradient is exactly what the network without heads would get with
the same weights.
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
from ..engine import Tensor, no_grad, use_kernels
from ..inspect.provenance import provenance
from ..models.googlenet import GoogLeNet, GoogLeNetOutputs, googlenet
from ..optim import SGD
from .deep import ACTIVATIONS, check_least, chosen, digits, on, own_random_numbers, share_right
from .result import COLOURS, Progress, Result, Row, rounded, sentences, where

QUESTION = "Do GoogLeNet's auxiliary heads feed its first layer, and does it train the better for it?"

VARIANTS = {"LRN": "paper", "batch norm": "torchvision"}  # GoogLeNet's, by how they normalise
WEIGHTS = {"main": 1.0, "auxiliary 1": 0.3, "auxiliary 2": 0.3}  # of the losses: section 5
MEASURED = 32  # images whose gradients are looked at
SNAPSHOTS = 4  # during a training run, beside the one before it
CLEAR = 0.1  # the least difference in accuracy that is called one; and it must be above 3 standard errors


def auxiliary_heads(
    seed: int = 0,
    *,
    activations: tuple[str, ...] = ("relu", "sigmoid"),
    norms: tuple[str, ...] = ("LRN", "batch norm"),
    seeds: int = 3,
    steps: int = 64,
    images: int = 128,
    classes: int = 4,
    input_size: int = 33,
    width: float = 0.125,
    batch_size: int = 16,
    learning_rate: float = 0.003,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train small GoogLeNets on MNIST's digits with and without heads, and look where the stem's gradient comes from.

    A network without heads begins with the same weights as the one with them. All weights are drawn by He's rule, which
    is made for ReLU and left as it is for other activations. There is no dropout: it would blur what is measured.

    Args:
        seed: of the first network's weights and batches; the others have the seeds after it.
        activations: in place of every ReLU; see `deep.ACTIVATIONS`.
        norms: ``"LRN"`` (the paper's network) or ``"batch norm"`` (torchvision's variant of it).
        seeds: how many networks of each kind.
        steps, batch_size, learning_rate: of training, by stochastic gradient descent with momentum 0.9.
        images, classes: the first training images of the first classes, at least two.
        input_size, width: as for `models.googlenet`.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Returns:
        A row for each snapshot of each network. ``loss`` and ``accuracy`` are those of the main output on the images
        that it trains on (as in training: batch norm takes the batch's statistics). ``stem`` and ``last`` are the
        norms of the gradients of the first convolution's weight and the last layer's, and ``main``, ``auxiliary_1`` and
        ``auxiliary_2`` those of the parts of the stem's, by loss; ``share_…`` is such a part's projection on the whole,
        as a share of it. Shares add up to 1.

    Raises:
        RuntimeError: the device does not work.
        ValueError: an unknown name, a number that is too small, or a network that cannot be built.
    """
    activations = chosen("auxiliary_heads", "activations", activations, ACTIVATIONS)
    norms = chosen("auxiliary_heads", "norms", norms, VARIANTS)
    settings = {
        "seed": seed, "seeds": seeds, "activations": activations, "norms": norms, "steps": steps, "images": images,
        "classes": classes, "input_size": input_size, "width": width, "batch_size": batch_size,
        "learning_rate": learning_rate,
    }  # fmt: skip
    check_least(
        "auxiliary_heads", settings, activations=1, norms=1, seeds=1, steps=1, classes=2, batch_size=2,
        images=batch_size,
    )  # fmt: skip
    dataset = _images(images, classes, input_size)
    at = np.unique(np.linspace(0, steps, SNAPSHOTS + 1).round().astype(int)).tolist()
    rows: list[Row] = []
    runs = list(itertools.product(range(seed, seed + seeds), activations, norms))
    # Layers as small as these are not worth cutting into blocks for threads.
    with use_kernels("im2col"), on(device) as settings["device"]:
        for i, (own_seed, activation, norm) in enumerate(runs):
            for j, model in enumerate(_pair(own_seed, activation, norm, classes, input_size, width)):
                kind = {"activation": activation, "norm": norm, "heads": model.aux_logits, "seed": own_seed}
                loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, seed=own_seed)
                for step, found in _train(model, loader, dataset, steps, at, learning_rate):
                    rows.append({**kind, "step": step, **found})
                    if progress is not None:
                        heads = "with" if model.aux_logits else "without"
                        done = (2 * i + j + step / steps) / (2 * len(runs))
                        progress(done, f"{activation}, {norm}, {heads} heads, step {step}")
    sentence, *details = _findings(rows, settings)
    return Result("auxiliary_heads", QUESTION, settings, rows, sentence, _draw, (10.0, 7.0), details)


# ------------------------------------------------------------------------------------------ networks and images


def _images(count: int, classes: int, side: int) -> ArrayDataset:
    """The first `count` training images of the first classes, their pixels repeated to reach `side`."""
    data: tuple[np.ndarray, np.ndarray] = digits(100 + 30 * count // classes, "float32")  # three times too many, about
    pixels, labels = data
    wanted = np.flatnonzero(labels < classes)[:count]
    places = np.arange(side) * 28 // side
    square = pixels[wanted].reshape(-1, 1, 28, 28)
    return ArrayDataset(square[:, :, places][:, :, :, places], labels[wanted])  # (count, 1, side, side)


def _pair(seed: int, activation: str, norm: str, classes: int, side: int, width: float) -> list[GoogLeNet]:
    """A network with heads and one without, which otherwise have the same weights."""
    with own_random_numbers(seed):
        built = [
            googlenet(classes, VARIANTS[norm], in_channels=1, input_size=side, aux_logits=heads, width=width)
            for heads in (True, False)
        ]
        for model in built:
            for parent in list(model.modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, nn.ReLU):
                        setattr(parent, name, ACTIVATIONS[activation]())
                    elif isinstance(layer, nn.Dropout):
                        setattr(parent, name, nn.Identity())
                    elif isinstance(layer, nn.Conv2d | nn.Linear):
                        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    built[1].load_state_dict(built[0].state_dict(), strict=False)
    return built


# --------------------------------------------------------------------------------------- training and measuring


def _train(
    model: GoogLeNet, loader: DataLoader, dataset: ArrayDataset, steps: int, at: list[int], learning_rate: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Train, and yield what is found at the steps `at`; 0 is before the first."""
    optimizer = SGD(model.parameters(), learning_rate, momentum=0.9)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    yield 0, _snapshot(model, dataset)
    for step, (images, labels) in enumerate(itertools.islice(batches, steps), 1):
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges shows in its loss
            losses = _losses(model(Tensor(images)), labels)
            optimizer.zero_grad()
            _total(losses).backward()
            optimizer.step()
        if step in at:
            yield step, _snapshot(model, dataset)


def _losses(outputs: GoogLeNetOutputs | Tensor, labels: np.ndarray) -> dict[str, Tensor]:
    """The terms of the loss by their names, weighted."""
    if isinstance(outputs, Tensor):
        return {"main": F.cross_entropy(outputs, labels)}
    scores = {"main": outputs.logits, "auxiliary 1": outputs.aux_logits1, "auxiliary 2": outputs.aux_logits2}
    return {name: WEIGHTS[name] * F.cross_entropy(scores[name], labels) for name in scores}


def _snapshot(model: GoogLeNet, dataset: ArrayDataset) -> dict[str, Any]:
    """The numbers of a row, beside those that say which it is."""
    images, labels = dataset.batch(np.arange(len(dataset)))
    with no_grad():
        outputs = model(Tensor(images))
    scores = outputs if isinstance(outputs, Tensor) else outputs.logits
    found = {
        "loss": float(F.cross_entropy(scores, labels).item()),
        "accuracy": share_right(scores.data.argmax(axis=1), labels),
    }
    losses = _losses(model(Tensor(images[:MEASURED])), labels[:MEASURED])
    every = provenance(losses, model).parts if model.aux_logits else ()
    parts = {p.part: (p.norm, p.share) for p in every if (p.path, p.array) == ("conv1.conv", "weight")}
    model.zero_grad()
    _total(losses).backward()
    found |= {"stem": _norm(model.conv1.conv.weight), "last": _norm(model.fc.weight)}
    model.zero_grad()
    parts = parts or {"main": (found["stem"], 1.0)}
    for name in WEIGHTS:
        key = name.replace(" ", "_")
        found[key], found[f"share_{key}"] = parts.get(name, (0.0, 0.0))
    return found


def _norm(parameter: Tensor) -> float:
    """Of the parameter's gradient."""
    return float(np.linalg.norm(backend.to_host(parameter.grad).astype(np.float64)))


def _total(losses: dict[str, Tensor]) -> Tensor:
    first, *others = losses.values()
    return sum(others, start=first)


# --------------------------------------------------------------------------------------- the sentence, the picture


def _kinds(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["activation"], row["norm"]) for row in rows))


def _curves(rows: Sequence[Row], key: str, **values: Any) -> tuple[list[int], np.ndarray]:
    """The steps, and `key` there: an array (seeds, steps)."""
    found: list[Row] = where(rows, **values)
    steps = sorted({row["step"] for row in found})
    return steps, np.array([row[key] for row in found]).reshape(-1, len(steps))  # rows come run by run


def _findings(rows: Sequence[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    kinds = _kinds(rows)
    times: dict[str, float] = {}
    feeds, right, verdicts = [], [], []
    for activation, norm in kinds:
        title, kind = f"{activation}, {norm}", {"activation": activation, "norm": norm}
        stem, main = (_curves(rows, key, heads=True, **kind)[1][:, 0] for key in ("stem", "main"))
        times[title] = float(np.exp(np.log(stem / main).mean()))
        shares = [_curves(rows, f"share_{name.replace(' ', '_')}", heads=True, **kind)[1][:, 0] for name in WEIGHTS]
        feeds.append(f"{' + '.join(f'{round(100 * share.mean()) + 0}' for share in shares)} ({title})")
        heads, plain = (_late(*_curves(rows, "accuracy", heads=heads, **kind)) for heads in (True, False))
        verdicts.append(verdict(heads, plain, settings["classes"]))
        right.append(f"{100 * heads.mean():.0f} and {100 * plain.mean():.0f} ({title}: {verdicts[-1]})")
    helped, harmed = (verdicts.count(f"heads {what}") for what in ("help", "harm"))
    told = [f"{f'{value:.2f}' if value < 10 else rounded(value)} ({title})" for title, value in times.items()]
    by_size = [text for _, text in sorted(zip(times.values(), told, strict=True))]
    steps, seeds = settings["steps"], settings["seeds"]
    return sentences(
        [
            f"before training the heads make the gradient of GoogLeNet's first layer "
            f"{' to '.join(dict.fromkeys([by_size[0], by_size[-1]]))} times as large, {'and' if helped else 'but'} in "
            f"{steps} steps of training they clearly help {helped or 'none'} of {len(kinds)} kinds of network"
            f"{f' and harm {harmed}' if harmed else ''}",
            f"these factors are {', '.join(told)}",
            f"of that gradient come from the main loss, auxiliary 1 and auxiliary 2, in percent: {', '.join(feeds)}",
            f"percent of the training images right with and without heads, in the second half of {steps} steps, the "
            f"mean of {seeds} runs: {', '.join(right)}",
            f"clear is a difference of {100 * CLEAR:g} percent or more, and 3 standard errors; these networks are "
            f"{settings['width']:g} times as wide as the paper's and train for {steps} steps; others may differ",
        ]
    )


def _late(steps: list[int], curves: np.ndarray) -> np.ndarray:
    """The mean over the second half of each curve, (seeds,): at one step alone accuracy is high or low by chance."""
    return curves[:, np.array(steps) >= steps[-1] / 2].mean(axis=1)


def verdict(heads: np.ndarray, plain: np.ndarray, classes: int) -> str:
    """What accuracies of networks with heads and without them, (seeds,), say. Each pair began with the same weights."""
    gains = heads - plain
    error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    if max(heads.mean(), plain.mean()) < 1 / classes + CLEAR:
        return "neither learns"
    if abs(gains.mean()) < max(CLEAR, 3 * error):
        return "no clear difference"
    return "heads help" if gains.mean() > 0 else "heads harm"


def _draw(result: Result, figure: Any) -> None:
    kinds = _kinds(result.rows)
    grid = figure.subplots(3, len(kinds), sharex=True, sharey="row", squeeze=False)
    for (gradient, share, loss), (activation, norm) in zip(grid.T, kinds, strict=True):
        kind = {"activation": activation, "norm": norm}
        gradient.set_title(f"{activation}, {norm}", fontsize=10)
        _draw_gradient(gradient, result, kind)
        _draw_shares(share, result, kind)
        _draw_loss(loss, result, kind)
    for ax, label in zip(grid[:, 0], ("stem's gradient, norm", "its shares, %", "main loss, nats"), strict=True):
        ax.set_ylabel(label)
    for ax in grid.flat:
        ax.grid(alpha=0.3)
        ax.set_axisbelow(True)
    for ax in grid[:, -1]:
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)


def _draw_gradient(ax: Any, result: Result, kind: dict[str, str]) -> None:
    for colour, name in zip(COLOURS, WEIGHTS, strict=False):
        steps, curves = _curves(result.rows, name.replace(" ", "_"), heads=True, **kind)
        ax.plot(steps, _geometric_mean(curves), color=colour, marker="o", ms=3, label=f"from {name}")
    steps, curves = _curves(result.rows, "stem", heads=False, **kind)
    ax.plot(steps, _geometric_mean(curves), color=COLOURS[6], ls="--", label="all, without heads")
    ax.set_yscale("log")


def _draw_shares(ax: Any, result: Result, kind: dict[str, str]) -> None:
    steps = _curves(result.rows, "step", heads=True, **kind)[0]
    bar = 0.8 * min(np.diff(steps), default=1)
    above, below = np.zeros(len(steps)), np.zeros(len(steps))
    for colour, name in zip(COLOURS, WEIGHTS, strict=False):
        shares = _curves(result.rows, f"share_{name.replace(' ', '_')}", heads=True, **kind)[1].mean(axis=0) * 100
        start = np.where(shares >= 0, above, below)  # what points against the whole hangs below zero
        ax.bar(steps, shares, bar, start, color=colour, label=f"from {name}")
        above, below = above + np.maximum(shares, 0), below + np.minimum(shares, 0)
    ax.axhline(100, color="black", lw=0.8, ls=":")
    ax.axhline(0, color="black", lw=0.8)


def _draw_loss(ax: Any, result: Result, kind: dict[str, str]) -> None:
    for heads, colour, style in ((True, COLOURS[4], "-"), (False, COLOURS[6], "--")):
        steps, curves = _curves(result.rows, "loss", heads=heads, **kind)
        for curve in curves:
            ax.plot(steps, curve, color=colour, ls=style, lw=0.7, alpha=0.5)
        mean, label = curves.mean(axis=0), f"{'with' if heads else 'without'} heads"
        ax.plot(steps, mean, color=colour, ls=style, lw=2.5 if heads else 1.5, label=label)
    ax.set(xlabel="step", ylim=(0, None))


def _geometric_mean(curves: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.exp(np.log(curves).mean(axis=0))
