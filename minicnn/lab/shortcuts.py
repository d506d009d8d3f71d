"""Shortcuts: what they do to the gradient of a deep network, and to its training.

He et al. 2016, section 4.2: of two plain networks the deeper has the higher *training* error, which no overfitting
explains: the degradation. With shortcuts the deeper network is the better one. "We argue that this optimization
difficulty is unlikely to be caused by vanishing gradients" (section 4.1): with batch norm they "exhibit healthy norms".
Here they are measured, before training, and do not vanish; in the plain networks they grow from each block to the one
before it.

Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow networks": L blocks make
2^L paths, of which most go through about L/2 branches, and the gradient comes by the shorter ones (their figure 6, of
a network that was trained).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import backend, models
from .. import functional as F
from ..data import ArrayDataset, DataLoader
from ..engine import Tensor, use_kernels
from ..inspect.flow import gradient_flow
from ..inspect.provenance import provenance
from ..models import CifarResNet
from ..optim import SGD
from .deep import averaged_digits, check_least, on, own_random_numbers
from .result import COLOURS, Progress, Result, Row, rounded, sentences, where

QUESTION = "Do shortcuts make deep networks trainable, and what do they do to the gradient?"

BUILDERS = {
    20: models.resnet20, 32: models.resnet32, 44: models.resnet44, 56: models.resnet56, 110: models.resnet110,
}  # fmt: skip
MEASURED = 64  # images whose gradients are looked at
VANISHES = 0.1  # a gradient at the first layer that is no more than that of the last one is called vanishing
CLEAR = 5  # percent of the images: the least difference that is called one. It must be above 3 standard errors, too


def shortcuts(
    seed: int = 0,
    *,
    depths: tuple[int, ...] = (20, 56),
    seeds: int = 3,
    epochs: int = 7,
    images: int = 512,
    input_size: int = 14,
    width: float = 0.25,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Plain networks against residual ones on MNIST's digits: gradients before training, and training error.

    The two networks of a depth begin with the same weights, and see the same batches.

    Args:
        seed: of the first networks' weights and batches; the others have the seeds after it.
        depths: layers: some of 20, 32, 44, 56 and 110. The shallowest and the deepest are compared.
        seeds: how many networks of each kind.
        epochs, batch_size, learning_rate: of training, by stochastic gradient descent with momentum 0.9 and weight
            decay 0.0001, as in the paper, which trains 64,000 steps on larger images, and cuts the rate. After as few
            steps as here, a network that is behind may be slow only. (At rates of 0.02 and 0.3 plain-56 is behind too.)
        images: how many, the first of the training images.
        input_size: their side, a divisor of 28: pixels are averaged.
        width: multiplies the paper's 16, 32 and 64 channels.
        device: where the networks live, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; left out, where new tensors are made.
        progress: told how far it is.

    Returns:
        A row for each number. ``quantity`` says what ``value`` is, and what ``at`` counts:

        - ``"gradient"``: the root mean square of the loss's gradient at the output of a block, before training; `at` is
          the block, 0 the first convolution.
        - ``"loss"``, ``"error"``: means over the epoch `at`, from 1, while it trains.
        - ``"share"``: of the gradient of the first convolution's weight before training, what came by the paths through
          `at` branches: its projection on the whole. Residual networks only.

    Raises:
        RuntimeError: the device does not work.
        ValueError: an argument is out of its range.
    """
    for depth in depths:
        if depth not in BUILDERS:
            raise ValueError(f"shortcuts: depths holds {depth!r}: choose from {', '.join(map(str, BUILDERS))}")
    settings = {
        "seed": seed, "depths": tuple(depths), "seeds": seeds, "epochs": epochs, "images": images,
        "input_size": input_size, "width": width, "batch_size": batch_size, "learning_rate": learning_rate,
    }  # fmt: skip
    check_least("shortcuts", settings, depths=1, seeds=1, epochs=1, batch_size=2, images=batch_size)
    dataset = _images(images, input_size)
    kinds = [(residual, depth) for residual in (False, True) for depth in depths]
    work = seeds * epochs * sum(depth for _, depth in kinds)  # the time that an epoch takes grows with the depth
    rows: list[Row] = []
    done = 0
    # Layers as small as these are not worth cutting into blocks for threads.
    with use_kernels("im2col"), on(device) as settings["device"]:
        for own_seed in range(seed, seed + seeds):
            for residual, depth in kinds:
                network = {"network": name(depth, residual), "depth": depth, "residual": residual, "seed": own_seed}
                with own_random_numbers(own_seed):
                    model = BUILDERS[depth](
                        10, in_channels=1, input_size=input_size, width=width, shortcut="A" if residual else False
                    )
                rows += [{**network, **row} for row in _before(model, dataset, residual)]
                loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, seed=own_seed)
                for epoch, loss, error in _train(model, loader, epochs, learning_rate):
                    rows.append({**network, "quantity": "loss", "at": epoch, "value": loss})
                    rows.append({**network, "quantity": "error", "at": epoch, "value": error})
                    done += depth
                    if progress is not None:
                        progress(done / work, f"{network['network']}, seed {own_seed}, epoch {epoch}")
    sentence, *details = _findings(rows, settings)
    return Result("shortcuts", QUESTION, settings, rows, sentence, _draw, (10.0, 7.5), details)


def name(depth: int, residual: bool) -> str:
    """``"plain-20"`` or ``"ResNet-20"``."""
    return f"{'ResNet' if residual else 'plain'}-{depth}"


def binomial(blocks: int) -> np.ndarray:
    """The share of the 2^blocks paths that go through 0, 1, …, `blocks` branches."""
    return np.array([math.comb(blocks, k) for k in range(blocks + 1)]) / 2.0**blocks


# ----------------------------------------------------------------------------------------- training and measuring


def _images(count: int, side: int) -> ArrayDataset:
    if side < 1 or 28 % side:
        raise ValueError(f"shortcuts: input_size is {side}, and must divide 28, the side of the digits")
    return averaged_digits(count, side)


def _before(model: CifarResNet, dataset: ArrayDataset, residual: bool) -> Iterator[Row]:
    """The gradients before training."""
    images, labels = dataset.batch(np.arange(min(MEASURED, len(dataset))))
    loss = F.cross_entropy(model(Tensor(images)), labels)
    ends = [row for row in gradient_flow(loss, model).of("output") if row.path.endswith("relu2") or row.path == "relu"]
    for block, row in enumerate(ends):
        yield {"quantity": "gradient", "at": block, "value": row.rms}
    if residual:
        shares = provenance(loss, model, by="branches").of("conv1", "weight")
        for branches, share in shares.items():
            yield {"quantity": "share", "at": int(branches), "value": share}


def _train(
    model: CifarResNet, loader: DataLoader, epochs: int, learning_rate: float
) -> Iterator[tuple[int, float, float]]:
    """Train, and tell after each epoch its number, the mean loss and the share of wrong answers."""
    optimizer = SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4)
    for epoch in range(1, epochs + 1):
        losses, answers, right = [], [], []  # what is on a device stays there until the end of the epoch
        for images, labels in loader:
            with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges shows in its loss
                scores = model(Tensor(images))
                loss = F.cross_entropy(scores, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.detach())
            answers.append(scores.data.argmax(axis=1))
            right.append(labels)
        wrong = [(backend.to_host(given) != labels).mean() for given, labels in zip(answers, right, strict=True)]
        yield epoch, float(np.mean([loss.item() for loss in losses])), float(np.mean(wrong))


# --------------------------------------------------------------------------------------- the sentence, the picture


def _values(rows: Sequence[Row], quantity: str, **network: Any) -> np.ndarray:
    """(seeds, places): all numbers of a kind; rows come run by run."""
    found: list[Row] = where(rows, quantity=quantity, **network)
    places = len({row["at"] for row in found})
    return np.array([row["value"] for row in found]).reshape(-1, places)


def _mean_and_error(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the first axis, with the standard error; infinite for a single run."""
    if len(runs) == 1:
        return runs[0], np.full(runs.shape[1:], math.inf)
    return runs.mean(axis=0), runs.std(axis=0, ddof=1) / math.sqrt(len(runs))


VERDICTS = {-1: "helps", 0: "makes no clear difference to", 1: "harms"}


def _findings(rows: Sequence[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences, the most important one first."""
    shallow, deep = min(settings["depths"]), max(settings["depths"])
    networks = [(residual, depth) for residual in (False, True) for depth in sorted({deep, shallow}, reverse=True)]
    errors = {kind: 100 * _values(rows, "error", residual=kind[0], depth=kind[1])[:, -1] for kind in networks}
    means = [f"{errors[residual, depth].mean():.0f} % in {name(depth, residual)}" for residual, depth in networks]
    told = f"in epoch {settings['epochs']} the training error is {', '.join(means)}"
    if shallow != deep:
        plain, residual = (compared(errors[kind, shallow], errors[kind, deep]) for kind in (False, True))
        shown = "the degradation" if plain > 0 else "no degradation at this size"
        told += f": depth {VERDICTS[plain]} plain networks ({shown}) and {VERDICTS[residual]} those with shortcuts"
    parts = [told]
    if settings["seeds"] > 1:
        spread = ", ".join(
            f"{name(depth, residual)} {mean:.1f} ± {error:.1f}"
            for residual, depth in networks
            for mean, error in [_mean_and_error(errors[residual, depth])]
        )
        parts.append(
            f"with standard errors over {settings['seeds']} seeds, in percent of {settings['images']} digits: {spread}"
        )
    steps = settings["epochs"] * (settings["images"] // settings["batch_size"])
    parts.append(
        f"these are {steps} steps, and the paper's networks train for 64,000: a network that is behind here may be "
        "slow only"
    )
    growth = {}
    for residual in (False, True):
        sizes = _values(rows, "gradient", residual=residual, depth=deep)
        with np.errstate(divide="ignore", invalid="ignore"):
            growth[name(deep, residual)] = float(np.exp(np.log(sizes[:, 0] / sizes[:, -1]).mean()))
    times = " and ".join(f"{rounded(value)} times ({network})" for network, value in growth.items())
    vanishing = [network for network, value in growth.items() if not value > VANISHES]
    parts.append(
        f"before training the gradient at the first convolution is {times} as large as at the last block: it vanishes "
        f"in {' and '.join(vanishing) or 'neither'}"
    )
    shares = _values(rows, "share", depth=deep).mean(axis=0)
    blocks = len(shares) - 1
    parts.append(
        f"the gradient of the first convolution of {name(deep, True)} comes, before training, through "
        f"{shares @ np.arange(blocks + 1):.1f} of {blocks} branches on average; the average path has {blocks / 2:g}"
    )
    return sentences(parts)


def compared(shallow: np.ndarray, deep: np.ndarray) -> int:
    """1 if the errors of the deeper of two networks, (seeds,) in percent, are clearly higher, −1 if lower, else 0."""
    mean, error = _mean_and_error(deep - shallow)
    return int(np.sign(mean)) if abs(mean) >= CLEAR and abs(mean) >= 3 * error else 0


def _draw(result: Result, figure: Any) -> None:
    depths = result.settings["depths"]
    layout = figure.add_gridspec(2, 2, height_ratios=[1.15, 1])
    gradient, error = figure.add_subplot(layout[0, 0]), figure.add_subplot(layout[0, 1])
    for colour, depth in zip(COLOURS, depths, strict=False):
        for residual in (False, True):
            look = {"color": colour, "ls": "-" if residual else "--", "label": name(depth, residual)}
            runs = _values(result.rows, "gradient", residual=residual, depth=depth)
            logs, spread = _mean_and_error(np.log10(runs))
            blocks = np.arange(runs.shape[1])
            gradient.plot(blocks, 10**logs, marker="o", ms=3, **look)
            if np.isfinite(spread).all():
                band = 10 ** (logs - spread), 10 ** (logs + spread)
                gradient.fill_between(blocks, *band, color=colour, alpha=0.2, lw=0)
            mean, spread = _mean_and_error(100 * _values(result.rows, "error", residual=residual, depth=depth))
            spread = np.where(np.isfinite(spread), spread, 0)
            error.errorbar(np.arange(1, len(mean) + 1), mean, spread, marker="o", ms=3, capsize=2, **look)
    for ax in (gradient, error):
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    gradient.set(yscale="log", xlabel="block (0: the first convolution)", ylabel="gradient at its output, rms")
    gradient.set_title("before training", loc="left", fontsize=10)
    error.set(xlabel="epoch", ylabel="training error, %", ylim=(0, 100))
    error.set_title("while training, with standard errors over the seeds", loc="left", fontsize=10)
    error.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    panels = figure.add_subfigure(layout[1, :]).subplots(1, len(depths), squeeze=False)[0]
    for ax, depth in zip(panels, depths, strict=True):
        mean, spread = _mean_and_error(100 * _values(result.rows, "share", depth=depth))
        branches = np.arange(len(mean))
        ax.bar(branches, mean, color=COLOURS[5], label="of its gradient")
        if np.isfinite(spread).all():
            ax.errorbar(branches, mean, spread, color=COLOURS[6], ls="", capsize=2, lw=1)
        ax.plot(branches, 100 * binomial(len(mean) - 1), "k--", label="of the paths")
        ax.axhline(0, color="black", lw=0.8)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="branches on a path", ylabel="share, %")
        ax.set_title(f"first layer of {name(depth, True)}", loc="left", fontsize=10)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
