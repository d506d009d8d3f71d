"""One page of pictures about a training run. The one file that draws with matplotlib (the extra ``viz``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

# Okabe and Ito, "Color Universal Design", 2008: told apart by colour-blind eyes too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"

WRONG_ANSWERS = 18  # so many fit on the page
LONGEST_NAME = 12  # of a class, in letters


def missing() -> str | None:
    """One line that names the extra to install where there is no matplotlib; None where there is one."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "pictures need matplotlib: pip install -e '.[viz]' (in minicnn's folder)"
    return None


def training_page(
    file: BinaryIO,
    *,
    title: str,
    subtitle: str,
    judge: str,
    history: Mapping[str, Any],
    confusion: np.ndarray,
    filters: np.ndarray,
    wrong: Sequence[tuple[np.ndarray, Any, Any]],
    gradients: Mapping[str, Mapping[str, float]],
    classes: Sequence[str] | None = None,
) -> None:
    """Draw a run on one page, a PNG image written to `file`.

    Args:
        judge: which images the network is judged by, ``"test"``.
        history: what `minicnn.train.fit` returns.
        confusion: (C, C) counts, a row for each true class, a column for each predicted one.
        filters: (O, C, kh, kw), the weight of the first convolution.
        wrong: (image (H, W), or in colours (H, W, 3), true, predicted) of wrong answers.
        gradients: for each moment ("at the start") the size of the gradient at each layer, first layer first.
        classes: their names; left out, they are called by their numbers.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    if problem := missing():
        raise ImportError(problem)
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.titlepad": 10,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13, 9.6), facecolor="white")
        figure.text(0.045, 0.965, title, fontsize=17, fontweight="bold", va="center")
        figure.text(0.045, 0.932, subtitle, fontsize=10, color="#444444", va="center")
        edges = {"left": 0.06, "right": 0.965}
        upper = figure.add_gridspec(1, 2, top=0.87, bottom=0.5, wspace=0.16, width_ratios=(1.35, 1), **edges)
        lower = figure.add_gridspec(1, 3, top=0.4, bottom=0.115, wspace=0.28, width_ratios=(0.8, 1.15, 1.3), **edges)
        _loss_curve(figure.add_subplot(upper[0]), history, judge)
        _confusion(figure.add_subplot(upper[1]), confusion, classes)
        _filters(figure, lower[0], filters)
        _gradients(figure.add_subplot(lower[1]), gradients)
        _wrong_answers(figure, lower[2], wrong)
        figure.savefig(file, format="png", dpi=110)


def _loss_curve(axes, history, judge) -> None:
    losses, epochs = np.asarray(history["steps"]["loss"]), history["epochs"]
    per_epoch = len(losses) / len(epochs)
    at = np.arange(1, len(losses) + 1) / per_epoch
    axes.plot(at, losses, color=BLUE, alpha=0.22, linewidth=0.7, label="training, each batch")
    window = max(1, round(per_epoch / 20))
    smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")  # each the mean of the `window` before it
    axes.plot(at[window - 1 :], smooth, color=BLUE, linewidth=1.8, label=f"training, mean of {window} batches")
    tested = [(e["epoch"], e["test_loss"]) for e in epochs if "test_loss" in e]
    if tested:
        label = f"{judge} images, after each epoch"
        axes.plot(*zip(*tested, strict=True), "o", color=ORANGE, markersize=7, label=label)
    axes.set(title="Loss (cross-entropy)", xlabel="epoch", yscale="log", xlim=(0, len(epochs) * 1.01))
    floor = min([smooth.min(), *(loss for _, loss in tested)])
    axes.set_ylim(floor / 3, max([losses.max(), *(loss for _, loss in tested)]) * 1.3)
    axes.set_xticks(range(0, len(epochs) + 1, max(1, len(epochs) // 12)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.legend(frameon=False, loc="upper right")


def _confusion(axes, confusion, names) -> None:
    classes = len(confusion)
    errors = confusion - np.diag(np.diag(confusion))
    axes.imshow(np.where(np.eye(classes), np.nan, errors), cmap="Blues", vmin=0, vmax=max(1, errors.max()) * 1.25)
    for true in range(classes):
        for predicted in range(classes):
            count, hit = confusion[true, predicted], true == predicted
            if count == 0 and not hit:
                continue
            colour = GREY if hit else "white" if count > 0.65 * errors.max() else "black"
            axes.text(predicted, true, f"{count}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set(title=f"Confusion matrix: {errors.sum():,} wrong of {confusion.sum():,}")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    if names is not None:
        short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
        axes.set_xticks(range(classes), short, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
        axes.set_yticks(range(classes), short, fontsize=7.5)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(0.5, classes - 1), minor=True)
    axes.set_yticks(np.arange(0.5, classes - 1), minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color="#EEEEEE", linewidth=0.8)


def _small_pictures(figure, cell, title: str, rows: int, columns: int, gap: float = 0.0):
    """Axes for small pictures in rows, under one title; a `gap` above each row is for titles of their own."""
    figure.add_subplot(cell, frame_on=False, xticks=[], yticks=[]).set_title(title)
    heights = (max(gap / 4, 1e-9), *[1] * rows)
    grid = cell.subgridspec(rows + 1, columns, wspace=0.08, hspace=0.08 + gap, height_ratios=heights)
    for i in range(rows * columns):
        yield figure.add_subplot(grid[1 + i // columns, i % columns], frame_on=False, xticks=[], yticks=[])


def _filters(figure, cell, filters) -> None:
    shown = filters[:6].mean(axis=1)  # (O, kh, kw), colour channels averaged
    reach = np.abs(shown).max()
    all_axes = list(_small_pictures(figure, cell, "Filters of the first layer", 3, 2))
    for axes, kernel in zip(all_axes, shown, strict=False):
        image = axes.imshow(kernel, cmap="PuOr", vmin=-reach, vmax=reach)
    bar = figure.colorbar(image, ax=all_axes, aspect=30, pad=0.06)
    bar.outline.set_visible(False)


def _gradients(axes, gradients) -> None:
    marks = zip(gradients.items(), ((ORANGE, "s"), (BLUE, "o"), (GREEN, "^")), strict=False)
    for (moment, sizes), (colour, marker) in marks:
        axes.plot(range(len(sizes)), list(sizes.values()), marker=marker, color=colour, linewidth=1.2, label=moment)
    layers = list(next(iter(gradients.values())))
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(title="Gradient at each layer's output", yscale="log", ylabel="root mean square")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.legend(frameon=False)


def _wrong_answers(figure, cell, wrong) -> None:
    title = "Wrong answers (true → predicted)" if wrong else "Wrong answers: none"
    all_axes = _small_pictures(figure, cell, title, 3, 6, gap=0.3)
    for axes, (image, true, predicted) in zip(all_axes, wrong, strict=False):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(f"{true} → {predicted}", fontsize=8.5, fontweight="normal", loc="center", pad=3)
