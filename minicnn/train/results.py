"""What a run came to, and what is kept of it: weights, history, a page of pictures."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import backend, report, weights
from ..nn import Module
from .measure import Evaluation, confusion_matrix
from .recipe import Recipe
from .sources import Data, judges

SHOWN_CLASSES = 12  # in a confusion matrix, if there are more
SHOWN_LAYERS, LONGEST_LAYER = 20, 14  # in the drawing of gradients, and letters of their names
SHORT = 4  # letters of a class over a wrong answer


class Run(NamedTuple):
    """What `run` did."""

    recipe: Recipe
    model: Module
    train_images: int
    history: dict[str, Any]
    result: Evaluation  # on `judged_by`
    judged_by: Any  # the test images, or those held back
    gradients: dict[str, dict[str, float]]  # `gradient_sizes` before and after the training
    data: Data
    stopped: str = ""  # why, where it was before the last epoch's end


def draw(run: Run, path: str | os.PathLike[str]) -> None:
    """Write the page of pictures about `run` to `path`, as PNG.

    Raises:
        ValueError: there is nothing to draw: all steps were skipped.
        ImportError: matplotlib is missing; the message names the extra.
        OSError: `path` cannot be written.
    """
    if not run.history["steps"]["loss"]:
        raise ValueError("there is no page of a run whose steps were all skipped")
    recipe, result, judge = run.recipe, run.result, judges(run.recipe)
    wrong = np.flatnonzero(result.predictions != result.labels)[: report.WRONG_ANSWERS]
    count = sum(parameter.size for parameter in run.model.parameters())
    matrix, names = _shown(confusion_matrix(result.labels, result.predictions, len(run.data.classes)), run.data.classes)
    with weights.replacing(path) as file:
        report.training_page(
            file,
            title=f"{recipe.model} on {run.data.title}: {100 * result.accuracy:.2f} % of "
            f"{len(result.labels):,} {judge} images",
            subtitle=" · ".join([
                f"{count:,} parameters",
                f"{len(run.history['epochs'])} × {run.train_images:,} images{_changes(recipe, run.data)}",
                f"batches of {recipe.batch_size * recipe.accumulate}",
                f"{recipe.optimizer}, learning rate {run.history['steps']['lr'][0]:g}{_falls(recipe)}",
                f"seed {recipe.seed}",
            ]),
            judge=judge,
            history={**run.history, "epochs": [_known(entry) for entry in run.history["epochs"]]},
            confusion=matrix,
            filters=backend.to_host(next(p.data for p in run.model.parameters() if p.ndim == 4)),
            wrong=_wrong_answers(run, wrong, names),
            gradients={moment: _thinned(sizes) for moment, sizes in run.gradients.items()},
            classes=names,
        )  # fmt: skip


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


def _changes(recipe: Recipe, data: Data) -> str:
    if recipe.augment in (None, "shift") and data.title == "MNIST":
        return f", shifted by up to {recipe.shift}"
    return "" if recipe.augment == "none" else ", changed at random"


def _falls(recipe: Recipe) -> str:
    return {"cosine": " falling along a cosine", "constant": "", "step": " falling in steps"}[recipe.schedule]


def _shown(matrix: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, list[str] | None]:
    """The confusions of the classes that are confused most, where there are many; names, where numbers do not do."""
    names = list(classes)
    if len(names) > SHOWN_CLASSES:
        errors = matrix - np.diag(np.diag(matrix))
        most = np.sort(np.argsort(-(errors.sum(0) + errors.sum(1)), kind="stable")[:SHOWN_CLASSES])
        return matrix[np.ix_(most, most)], [names[i] for i in most]
    return matrix, None if names == [str(i) for i in range(len(names))] else names


def _wrong_answers(run: Run, wrong: np.ndarray, names: list[str] | None) -> list[tuple[np.ndarray, Any, Any]]:
    if not len(wrong):
        return []
    images = run.judged_by.batch(wrong)[0]  # (B, C, H, W)
    pictures = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1).clip(0, 1)
    shown = run.data.classes if names is None else [name[:SHORT] for name in run.data.classes]
    labels, guesses = run.result.labels[wrong], run.result.predictions[wrong]
    return [(p, shown[t], shown[g]) for p, t, g in zip(pictures, labels, guesses, strict=True)]


def _thinned(sizes: dict[str, float]) -> dict[str, float]:
    """Of many layers a part, evenly spread, and of long names the end."""
    if len(sizes) <= SHOWN_LAYERS:
        return sizes
    kept = np.linspace(0, len(sizes) - 1, SHOWN_LAYERS).astype(int)
    names = list(sizes)
    ends = {names[i]: names[i] if len(names[i]) <= LONGEST_LAYER else "…" + names[i][1 - LONGEST_LAYER :] for i in kept}
    return {end: sizes[name] for name, end in ends.items()}


def save(run: Run, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``weights.npz`` (see `minicnn.weights`) and ``history.json`` into `folder`, made if need be; their paths.

    Raises:
        OSError: they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state, history = folder / "weights.npz", folder / "history.json"
    weights.save(run.model, state, **run.data.description())
    facts = {
        "recipe": asdict(run.recipe),
        "judged_by": f"{judges(run.recipe)} images",
        "accuracy": run.result.accuracy,
        "top5_error": run.result.top5_error,
        "loss": run.result.loss,
        "stopped": run.stopped,
        "gradients": run.gradients,
        "history": run.history,
    }
    with weights.replacing(history) as file:
        file.write(json.dumps(_plain(facts), indent=1, allow_nan=False).encode())
    return [state, history]


def _plain(value: Any) -> Any:
    """`value` without infinities and NaN, which JSON has not: None instead."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
