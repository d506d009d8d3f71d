"""Whole trainings: everything is made from a recipe and one seed, is trained, judged, and kept in a folder."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from .. import backend, models, optim
from ..models import LeNet5Of1998
from ..nn import Module
from . import sources
from .folder import RunFolder, installed
from .loop import Callback, Progress, Training, _Functions
from .measure import Criterion, evaluate, gradient_sizes
from .recipe import MODELS, OPTIMIZERS, Recipe
from .results import Run


def run(
    recipe: Recipe,
    device: str | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    *,
    folder: str | os.PathLike[str] | RunFolder | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    workers: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a network by `recipe`. The same recipe gives the same numbers every time, on any number of workers.

    Args:
        folder: keep config, log and checkpoints there, so that `resume` can go on; see `RunFolder`. Left out, nothing
            is written.
        root, download: for the data set.
        workers: threads that prepare images ahead; left out, 2 for pictures in files.
        callbacks: see `Callback`.

    Raises:
        ValueError: a name or number in `recipe` that makes no sense; before any work is done.
        RuntimeError: `device` does not work.
        NonFiniteLoss: the training diverged, see `fit`.
        Interrupted: Ctrl-C or SIGTERM, with a folder.
        OSError: data cannot be read, or the folder not be written.
    """
    recipe.check()
    recipe = sources.located(recipe)
    kept = RunFolder(folder) if isinstance(folder, str | os.PathLike) else folder
    return _run(recipe, device, [_Functions(on_step, on_epoch), *callbacks], kept, root, download, workers, False)


def resume(
    folder: str | os.PathLike[str] | RunFolder,
    device: str | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    workers: int | None = None,
    callbacks: Sequence[Callback] = (),
    lr: float | None = None,
) -> Run:
    """Go on with a run that was interrupted, bit for bit as if it had not been; or that diverged, at another rate.

    Args:
        device: left out, the one it began on.
        lr: the learning rate to go on with, as it would have been at the start: the schedule goes on from where it is.
            The folder's config stays what the run began with; log and checkpoints have the change.

    Raises:
        ValueError: `folder` is none of a run, or damaged, or the data or its config have changed; `lr` is no rate, or
            the run is over.
        RuntimeError, NonFiniteLoss, Interrupted, OSError: as `run`.
    """
    kept = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    recipe, before = kept.recipe(), kept.began_with()
    if before.get("numpy", here := installed("numpy")) != here:
        warnings.warn(
            f"the run began with NumPy {before['numpy']}, this is {here}: the last bits may differ", stacklevel=2
        )
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}, and must be a number above 0")
    if device is None and isinstance(before.get("device"), str):
        device = before["device"]
        if backend.device(device).type == "cuda" and (problem := backend.cuda_problem()):
            raise RuntimeError(
                f"the run began on {device}, which does not work here: {problem}. On the processor it goes on by "
                "--device cpu (device='cpu'); the last bits may differ"
            )
    kept.take_counts(before)
    root = root or (before["root"] if isinstance(before.get("root"), str) else None)
    hooks = [_Functions(on_step, on_epoch), *callbacks]
    return _run(recipe, device, hooks, kept, root, download, workers, True, lr)


def _run(
    recipe: Recipe, device: str | None, callbacks: list[Callback], folder: RunFolder | None,
    root: str | os.PathLike[str] | None, download: bool, workers: int | None, going_on: bool, lr: float | None = None,
) -> Run:  # fmt: skip
    with ExitStack() as stack:
        if folder is not None:
            if going_on:
                folder.recipe()  # says so, where there is none, before a lock is made there
            stack.enter_context(folder.alone())
            stack.enter_context(folder.watching())
        data = sources.load(recipe, root, download)
        files = isinstance(getattr(data.train, "dataset", None), sources.ImageFolder)
        workers = (2 if files else 0) if workers is None else workers

        generator = backend.manual_seed(recipe.seed)
        model = MODELS[recipe.model](
            num_classes=len(data.classes), in_channels=data.channels, input_size=data.side, **recipe.options
        )
        device = device or next((p.device for p in model.parameters()), backend.CPU)
        model.to(device)
        optimizer = make_optimizer(recipe, model)
        train_loader, judge = data.loaders(recipe, generator, workers)
        total = recipe.epochs * -(-len(train_loader) // recipe.accumulate)
        total = min(total, recipe.steps or total)
        if recipe.warmup > total:
            raise ValueError(
                f"warmup is {recipe.warmup} steps, and the training has {total}: it would never reach its learning "
                "rate. Make the one shorter, or the other longer"
            )
        schedule = make_schedule(recipe, optimizer, total)
        look = (*data.look(), device)
        before = gradient_sizes(model, *look)
        training = Training(
            model, train_loader, judge, optimizer, schedule, recipe.epochs,
            schedule_each="step", device=device, criterion=make_criterion(recipe, model), accumulate=recipe.accumulate,
            clip_norm=recipe.clip_norm, clip_value=recipe.clip_value, non_finite="skip" if recipe.non_finite == "skip"
            else "stop", evaluate_every=recipe.evaluate_every, patience=recipe.patience, max_steps=recipe.steps,
            callbacks=[*callbacks, *([folder] if folder is not None else [])],
        )  # fmt: skip
        if folder is not None:
            folder.facts = {"data": data.fingerprint(), "recipe": json.loads(recipe.to_json())}
            folder.description = data.description()
            if going_on:
                folder.restore(training)
            else:
                folder.begin(recipe, device, workers, root)
            stack.enter_context(folder.logging(training))
            if lr is not None:
                folder.set_rate(training, lr)
        history = training.run()
        if folder is not None:
            folder.done(training)
        gradients = {"before training": before, "after": gradient_sizes(model, *look)}
        result = evaluate(model, judge, device, training.criterion)
        return Run(
            recipe, model, len(data.train), history, result, data.judged_by, gradients, data, training.stop
        )


def make_optimizer(recipe: Recipe, model: Module) -> optim.Optimizer:
    """The optimiser of a recipe; biases and norms are a group without weight decay, if there is any, unless
    ``decay_all``."""
    make, usual_rate, usual = OPTIMIZERS[recipe.optimizer]
    options: dict[str, Any] = {**usual, "lr": usual_rate if recipe.lr is None else recipe.lr}
    if recipe.momentum is not None:
        options["momentum"] = recipe.momentum
    options["weight_decay"] = recipe.decay
    parameters = list(model.parameters())
    if recipe.decay_all or not recipe.decay:
        return make(parameters, **options)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return make([group for group in groups if group["params"]], **options)


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer, total: int) -> optim.lr_scheduler.LRScheduler:
    """The learning rate of a recipe over `total` steps."""
    if recipe.schedule == "cosine" and not recipe.warmup:
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    return optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(recipe, step, total))


def rate_factor(recipe: Recipe, step: int, total: int) -> float:
    """What the learning rate is multiplied by in step `step`, from 0, of `total`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "cosine":
        share = min(1.0, (step - recipe.warmup) / max(1, total - recipe.warmup))
        return (1 + math.cos(math.pi * share)) / 2
    passed = sum(step >= stone * total for stone in recipe.milestones)
    return recipe.factors[passed - 1] if passed else 1.0


def make_criterion(recipe: Recipe, model: Module) -> Criterion:
    """The loss of the network's paper, with label smoothing where the recipe has it.

    Raises:
        ValueError: label smoothing, and a loss that is no cross-entropy.
    """
    if not recipe.label_smoothing:
        return models.paper_loss(model)
    if isinstance(model, LeNet5Of1998):
        raise ValueError("label_smoothing is for cross-entropy, and LeNet-5 of 1998 has a loss of its own")

    loss: Any = models.paper_loss(model)
    return partial(loss, label_smoothing=recipe.label_smoothing)
