"""The training loop: `fit`, and behind it `Training`, which can be stopped after any step and go on later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import backend, models, optim
from ..data import DataLoader
from ..nn import Module
from ..nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from .divergence import (
    NonFiniteGradient,
    NonFiniteLoss,
    NonFiniteWeights,
    first_bad_buffer,
    first_bad_gradient,
    locate,
    sum_of_buffers,
    sum_of_gradients,
)
from .measure import Criterion, Evaluation, device_of, evaluate, has_top_5, hits, in_top_5, on, read, scores_of

MAX_SKIPPED = 25  # steps in a row: then skipping does not help
MAX_SPAWNED = 1_000_000  # generators made from minicnn's


class Progress(NamedTuple):
    """Where a training stands, as `fit` tells ``on_step``: loss, accuracy and speed are of this epoch so far."""

    epoch: int  # from 1
    epochs: int
    step: int  # in this epoch, from 1
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


class Callback:
    """What wants to know how a training goes. Each method is told the `Training`, and here does nothing.

    A method may set ``training.stop``, a reason to end after the present step, and read whatever it likes. What it
    raises ends the training.
    """

    def step(self, training: Training, progress: Progress) -> None:
        """The weights were updated."""

    def skipped(self, training: Training, reason: str) -> None:
        """A batch was left out, as its loss or gradient was not finite."""

    def evaluating(self, training: Training) -> None:
        """A batch of an evaluation is about to be computed."""

    def evaluated(self, training: Training, result: Evaluation, entry: dict[str, Any]) -> None:
        """The network was judged, at the end of an epoch or within it."""

    def epoch(self, training: Training, entry: dict[str, Any]) -> None:
        """An epoch is over."""

    def safe(self, training: Training) -> None:
        """`Training.state_dict` may be called: after each step, its evaluation, and each epoch."""


class _Functions(Callback):
    """Two functions as a callback."""

    def __init__(self, on_step: Callable[[Progress], None] | None, on_epoch: Callable[[dict[str, Any]], None] | None):
        self.on_step, self.on_epoch = on_step, on_epoch

    def step(self, training: Training, progress: Progress) -> None:
        if self.on_step is not None:
            self.on_step(progress)

    def epoch(self, training: Training, entry: dict[str, Any]) -> None:
        if self.on_epoch is not None:
            self.on_epoch(entry)


class Training:
    """A training under way. `fit` makes one and runs it; the arguments are there.

    Attributes:
        epoch: the present one, from 1; ``epochs`` + 1 at the end.
        updates: steps that were taken.
        history: what `fit` returns, so far.
        best: the lowest loss on the test images so far, None before the first that is a number.
        stop: why to end, set by a callback or by `patience`; empty while there is no reason.
    """

    def __init__(
        self,
        model: Module,
        train_loader: DataLoader,
        test_loader: DataLoader | None,
        optimizer: optim.Optimizer,
        scheduler: Any = None,
        epochs: int = 1,
        *,
        schedule_each: Literal["step", "epoch"] = "epoch",
        device: str | None = None,
        criterion: Criterion | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        evaluate_every: int | None = None,
        patience: int | None = None,
        max_steps: int | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        batches = len(train_loader)
        if epochs < 1 or batches < 1:
            raise ValueError(f"fit: needs at least one epoch of at least one batch, got {epochs} of {batches}")
        counts = {"accumulate": accumulate, "evaluate_every": evaluate_every, "patience": patience}
        for name, count in {**counts, "max_steps": max_steps}.items():
            if count is not None and count < 1:
                raise ValueError(f"fit: {name} is {count}, and must be at least 1")
        if non_finite not in ("stop", "skip"):
            raise ValueError(f"fit: non_finite is {non_finite!r}, and must be 'stop' or 'skip'")
        if test_loader is None and (patience or evaluate_every):
            raise ValueError("fit: patience= and evaluate_every= need a test_loader to judge by")
        self.model, self.train_loader, self.test_loader = model, train_loader, test_loader
        self.optimizer, self.scheduler, self.schedule_each = optimizer, scheduler, schedule_each
        self.criterion, self.device = criterion or models.paper_loss(model), device or device_of(model)
        self.epochs, self.steps, self.max_steps = epochs, -(-batches // accumulate), max_steps
        self.accumulate, self.clip_norm, self.clip_value = accumulate, clip_norm, clip_value
        self.non_finite, self.evaluate_every, self.patience = non_finite, evaluate_every, patience
        self.callbacks = list(callbacks)
        self.gradient_norm: float | None = None  # before it was clipped, where it was measured

        self.epoch, self.updates, self.stop = 1, 0, ""
        self.best: float | None = None
        self.history: dict[str, Any] = {"steps": {"loss": [], "lr": []}, "epochs": []}
        if evaluate_every is not None:
            self.history["evaluations"] = []
        self._over = False  # all batches of the epoch are done, the evaluation at its end is not
        self._due = False  # an evaluation within the epoch is
        self._judged: dict[str, Any] = {}  # what the latest evaluation gave, and after how many steps
        self._waited = 0  # evaluations since the best
        self._skipped = 0  # in a row
        self._top_5 = False
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._step, self._seen, self._correct, self._in_five, self._total, self._seconds = 0, 0, 0, 0, 0.0, 0.0

    # ------------------------------------------------------------------------------------------------- running

    def run(self) -> dict[str, Any]:
        """Train from where it is to the end; the history."""
        self._began, self._began_at = time.perf_counter(), self._steps_done()
        if self._due:
            self._evaluate_within()
        while not self.over:
            if not self._over and not self.stop:
                self._run_batches()
            self._end_epoch()
        return self.history

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.epoch > self.epochs or bool(self.stop and self._step == 0)

    def _run_batches(self) -> None:
        self.model.train()
        batches, total = iter(self.train_loader), len(self.train_loader)
        try:
            self._since = time.perf_counter()
            # Never more than there are: a loader that was asked once too often believes to be in the next epoch.
            while group := list(islice(batches, max(0, min(self.accumulate, total - self._step * self.accumulate)))):
                self._run_group(group)
                if self.max_steps is not None and self.updates >= self.max_steps:
                    self.stop = f"{self.max_steps} steps are done"
                if self.evaluate_every is not None and self.updates % self.evaluate_every == 0 and not self._skipped:
                    self._due = True
                    self._evaluate_within()
                self._tell("safe")
                if self.stop:
                    break
            else:
                next(batches, None)  # now it may
        finally:
            if hasattr(batches, "close"):
                batches.close()
        self._over = True

    def _run_group(self, group: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """One step, on the batches whose gradients it adds up."""
        images_in_all = sum(len(labels) for _, labels in group)
        random = backend.generator().bit_generator.state
        kept = self._buffers()
        rate = float(self.optimizer.param_groups[0]["lr"])
        shares = [1.0] if len(group) == 1 else [len(labels) / images_in_all for _, labels in group]
        losses, correct, five = [], [], []  # one number each, where the network is
        with np.errstate(over="ignore", invalid="ignore"):  # the loss is looked at instead
            for i, (images, labels) in enumerate(group):
                labels = backend.on_both(labels, self.device)
                outputs = self.model(on(self.device, images))
                loss = self.criterion(outputs, labels)
                if i == 0:
                    self.optimizer.zero_grad()
                (loss if len(group) == 1 else loss * shares[i]).backward()
                scores = scores_of(outputs)  # (B, C)
                losses.append(loss.data)
                correct.append(hits(scores, labels))
                five.append(in_top_5(scores, labels))
                self._top_5 = has_top_5(scores)
            # The one time in a step that a device is waited for. It has to be before the weights change.
            sums = sum_of_gradients(self.model), sum_of_buffers(self.model)
            of_gradients, of_buffers, norm, *numbers = read(*sums, self._norm(), *losses, *correct, *five)
            parts, right, in_five = (numbers[i : i + len(group)] for i in range(0, len(numbers), len(group)))
            value = sum(part * share for part, share in zip(parts, shares, strict=True))
            problem, kind = self._problem(parts, value, of_gradients, of_buffers, norm)
            self._step += 1
            if problem:
                self._not_finite(problem, kind, group, random, rate, kept)
                return
            self._skipped = 0
            self._clip(norm)
            self.history["steps"]["loss"].append(value)
            self.history["steps"]["lr"].append(rate)
            self.optimizer.step()
        self.updates += 1
        if self.scheduler is not None and self.schedule_each == "step":
            self.scheduler.step()
        self._seen += images_in_all
        self._correct += int(sum(right))
        self._in_five += int(sum(in_five))
        self._total += value * images_in_all
        self._tell("step", self._progress())

    def _norm(self) -> Any:
        """Of all gradients together, where it is needed; where they are, as nothing waits here."""
        if self.clip_norm is None:
            return 0.0
        return get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _problem(
        self, losses: list[float], loss: float, of_gradients: float, of_buffers: float, norm: float
    ) -> tuple[str, type[NonFiniteLoss]]:
        """What is not finite, if anything."""
        for part in losses:
            if not math.isfinite(part):
                return f"the loss is {part}", NonFiniteLoss
        if not math.isfinite(of_buffers) and (name := first_bad_buffer(self.model)):
            return f"the loss is {loss:g}, and {name} is not finite", NonFiniteWeights
        if not math.isfinite(of_gradients) and (name := first_bad_gradient(self.model)):
            return f"the loss is {loss:g}, and the gradient of {name} is not finite", NonFiniteGradient
        if not math.isfinite(norm):
            return f"the loss is {loss:g}, and the norm of the gradients is {norm}", NonFiniteGradient
        return "", NonFiniteLoss

    def _clip(self, norm: float) -> None:
        if self.clip_norm is not None:
            self.gradient_norm = norm
            clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
        if self.clip_value is not None:
            clip_grad_value_(self.model.named_parameters(), self.clip_value)

    def _progress(self) -> Progress:
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        done, here = self._steps_done(), self._steps_done() - self._began_at
        last = self.epochs * self.steps
        if self.max_steps is not None:
            last = min(last, self.max_steps)
        left = (now - self._began) / max(here, 1) * max(last - done, 0)
        seen, speed = self._seen, self._seen / self._seconds if self._seconds else 0.0
        return Progress(
            self.epoch, self.epochs, self._step, self.steps, self._total / seen, self._correct / seen, speed, left
        )

    def _steps_done(self) -> int:
        return (self.epoch - 1) * self.steps + self._step

    def _not_finite(
        self, problem: str, kind: type[NonFiniteLoss], group: list[tuple[np.ndarray, np.ndarray]],
        random: Any, rate: float, kept: dict[str, Any],
    ) -> None:  # fmt: skip
        began, advice = locate(
            self.model, group, self.device, self.criterion, random, self.clip_norm is not None
        )
        self.optimizer.zero_grad()
        for name, buffer in self.model.named_buffers():
            backend.assign(buffer.data, kept[name])
        where = f"at step {self._step} of epoch {self.epoch}, with learning rate {rate:g}"
        message = f"fit: {problem} {where}. {began}{advice}"
        if self.non_finite == "stop":
            raise kind(message)
        self._skipped += 1
        if self._skipped >= MAX_SKIPPED:
            raise kind(f"{message}. {self._skipped} steps in a row were skipped: that does not help")
        self._tell("skipped", f"{problem} {where}. {began}".strip())

    def _buffers(self) -> dict[str, Any]:
        return {name: backend.copy(buffer.data) for name, buffer in self.model.named_buffers()}

    # --------------------------------------------------------------------------------------------- evaluations

    def _evaluate_within(self) -> None:
        entry: dict[str, Any] = {"step": self.updates, "epoch": self.epoch}
        self._evaluate(entry)
        self.history["evaluations"].append(entry)
        self._due = False
        self._since = time.perf_counter()  # does not count for the speed of training

    def _evaluate(self, entry: dict[str, Any]) -> None:
        """Judge the network, and write how well it does into `entry`; the same weights are judged once."""
        assert self.test_loader is not None
        if self._judged.get("updates") == self.updates:
            entry |= {name: value for name, value in self._judged.items() if name != "updates"}
            return
        test = evaluate(self.model, self._watched(self.test_loader), self.device, self.criterion)
        finite = math.isfinite(test.loss)
        facts = {"test_loss": test.loss if finite else None, "test_accuracy": test.accuracy}
        if test.top5_error is not None:
            facts["test_top5_error"] = test.top5_error
        self._judged = {"updates": self.updates, **facts}
        entry |= facts
        if finite and (self.best is None or test.loss < self.best):
            self.best, self._waited = test.loss, 0
        else:
            self._waited += 1
            if self.patience is not None and self._waited >= self.patience:
                self.stop = f"no better for {self._waited} evaluations"
        self._tell("evaluated", test, entry)

    def _watched(self, loader: DataLoader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in loader:
            self._tell("evaluating")
            yield batch

    def _end_epoch(self) -> None:
        seen, speed = self._seen, self._seen / self._seconds if self._seconds else 0.0
        entry: dict[str, Any] = {  # None where all was skipped
            "epoch": self.epoch, "loss": self._total / seen if seen else None,
            "accuracy": self._correct / seen if seen else None, "images_per_second": speed,
        }  # fmt: skip
        if self._top_5:
            entry["top5_error"] = (seen - self._in_five) / seen if seen else None
        if self.test_loader is not None:
            self._evaluate(entry)
        if self.scheduler is not None and self.schedule_each == "epoch":
            self.scheduler.step()
        self.history["epochs"].append(entry)
        self._over = False
        self.epoch += 1
        self._begin_epoch()
        self._tell("epoch", entry)
        self._tell("safe")

    def _tell(self, event: str, *facts: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *facts)

    # --------------------------------------------------------------------------------------- stopping and going on

    COUNTS = ("epoch", "updates", "_step", "_seen", "_correct", "_in_five", "_waited", "_skipped")
    NUMBERS = ("_total", "_seconds")
    FLAGS = ("_over", "_due", "_top_5")

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that is needed to go on later, bit for bit: arrays by name, and what JSON can write.

        Parameters, buffers, the optimiser, the schedule, the place in the epoch, the history, and the state of the
        loader's and minicnn's random numbers. Valid where `Callback.safe` is called, or within an evaluation.
        """
        optimizer = self.optimizer.state_dict()
        arrays = {f"model.{name}": backend.to_host(array) for name, array in self.model.state_dict().items()}
        numbers: dict[str, dict[str, Any]] = {}
        for i, entries in optimizer["state"].items():
            for name, value in entries.items():
                if backend.is_array(value):
                    arrays[f"optimizer.{i}.{name}"] = value
                else:
                    numbers.setdefault(str(i), {})[name] = value
        for name, values in self.history["steps"].items():
            arrays[f"history.{name}"] = np.array(values, np.float64)  # host: lists of numbers
        generator = backend.generator().bit_generator
        facts = {
            "optimizer": {"state": numbers, "param_groups": optimizer["param_groups"]},
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loader": self.train_loader.state_dict(),
            "generator": {"state": generator.state, "spawned": _spawned(generator)},
            "epochs": self.history["epochs"],
            "evaluations": self.history.get("evaluations"),
            "best": self.best,
            "judged": self._judged,
            "stop": self.stop,
            **{name: getattr(self, name) for name in (*self.COUNTS, *self.NUMBERS, *self.FLAGS)},
        }
        return arrays, facts

    def load_state_dict(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, of a training made in the same way.

        Raises:
            ValueError: it does not fit, or makes no sense. Parts may have been loaded then.
        """
        try:
            with np.errstate(all="ignore"):  # arrays of the optimiser are cast, whatever is in them
                self._load(arrays, facts)
        except (ArithmeticError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"this is no state of such a training: {type(error).__name__} {error}") from None

    def set_rate(self, lr: float) -> None:
        """Go on with another learning rate: `lr` is what the rate at the start would have been, and the schedule goes
        on from where it is."""
        for group in self.optimizer.param_groups:
            start = group.get("initial_lr", group["lr"])
            group["lr"] *= lr / start
            group["initial_lr"] = lr
        if self.scheduler is not None:
            self.scheduler.base_lrs = [lr] * len(self.optimizer.param_groups)

    def _load(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        for names, kind in ((self.COUNTS, int), (self.NUMBERS, float), (self.FLAGS, bool)):
            for name in names:
                if type(facts[name]) is not kind or facts[name] < 0:
                    raise ValueError(f"{name.strip('_')} is {facts[name]!r}")
        for entry in (*facts["epochs"], *(facts["evaluations"] or ()), facts["judged"]):
            if type(entry) is not dict or not all(type(v) in (int, float, type(None)) for v in entry.values()):
                raise ValueError("its history is none")
        if not 0 <= facts["generator"]["spawned"] < MAX_SPAWNED or type(facts["stop"]) is not str:
            raise ValueError("it has numbers that make no sense")
        state: dict[int, dict[str, Any]] = {int(i): dict(e) for i, e in facts["optimizer"]["state"].items()}
        for key, array in arrays.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                state.setdefault(int(i), {})[name] = array
        weights = {k.removeprefix("model."): a for k, a in arrays.items() if k.startswith("model.")}
        types = {name: str(array.dtype) for name, array in self.model.state_dict().items()}
        for name, array in weights.items():
            if types.get(name, found := str(array.dtype)) != found:  # a cast would not give the bits of before
                raise ValueError(f"{name} is {found}, and the network's is {types[name]}")
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict({"state": state, "param_groups": facts["optimizer"]["param_groups"]})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(facts["scheduler"])
        self.train_loader.load_state_dict(facts["loader"])
        self.optimizer.stepped = facts["updates"] > 0
        self.history["steps"] = {name: arrays[f"history.{name}"].tolist() for name in ("loss", "lr")}
        self.history["epochs"] = list(facts["epochs"])
        if self.evaluate_every is not None:
            self.history["evaluations"] = list(facts["evaluations"])
        self.best, self.stop, self._judged = facts["best"], facts["stop"], dict(facts["judged"])
        for name in (*self.COUNTS, *self.NUMBERS, *self.FLAGS):
            setattr(self, name, facts[name])
        generator = backend.generator()
        generator.bit_generator.state = facts["generator"]["state"]
        if (missing := facts["generator"]["spawned"] - _spawned(generator.bit_generator)) > 0:
            generator.spawn(missing)


def _spawned(generator: Any) -> int:
    """How many generators were made from this one: the next gets the next number."""
    return int(getattr(generator.seed_seq, "n_children_spawned", 0))


def fit(
    model: Module,
    train_loader: DataLoader,
    test_loader: DataLoader | None,
    optimizer: optim.Optimizer,
    scheduler: Any = None,
    epochs: int = 1,
    *,
    schedule_each: Literal["step", "epoch"] = "epoch",
    device: str | None = None,
    criterion: Criterion | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    non_finite: Literal["stop", "skip"] = "stop",
    evaluate_every: int | None = None,
    patience: int | None = None,
    max_steps: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train `model` for `epochs` passes over `train_loader`.

    Args:
        test_loader: evaluated after each epoch; may be None.
        scheduler: a learning-rate schedule, moved on after each step or each epoch (`schedule_each`).
        device: where the images go, by default to the model.
        criterion: the loss, a function of what `model` returns and the labels that gives the mean over the images. Left
            out, that of the network's paper (`models.paper_loss`), which is cross-entropy for most.
        on_step: called with a `Progress` after each step.
        on_epoch: called with the epoch's entry in the history after each epoch.
        accumulate: batches whose gradients make one step; each image of them counts alike.
        clip_norm, clip_value: bounds for the gradients (`minicnn.nn.utils`).
        non_finite: what to do when a loss, gradient or buffer is not finite: ``"stop"``, or ``"skip"`` the step.
            Either way weights, buffers, optimiser and schedule stay as they were. After `MAX_SKIPPED` in a row it stops
            too.
        evaluate_every: evaluate `test_loader` within epochs too, every so many steps. Where that is after the last step
            of an epoch, it is the one evaluation for both.
        patience: stop when so many evaluations in a row have not lowered the loss on `test_loader`; one that is not
            finite has not.
        max_steps: stop after so many steps.
        callbacks: see `Callback`.

    Returns:
        The history, plain numbers: ``{"steps": {"loss": [...], "lr": [...]}, "epochs": [{"epoch": 1, "loss": ...,
        "accuracy": ..., "images_per_second": ..., "test_loss": ..., "test_accuracy": ...}, ...]}``; with more than five
        classes each has a ``"top5_error"`` and a ``"test_top5_error"`` too, 0 to 1. With `evaluate_every` there are
        ``"evaluations"`` too, each with its ``"step"``. None stands for what is not a number: a test loss that is not
        finite, and the loss of an epoch whose steps were all skipped.

    Raises:
        NonFiniteLoss: with the place, the layer, the learning rate, and what usually helps.
        ValueError: nothing to train on, fewer than one epoch, or an option that makes no sense.
    """
    return Training(
        model, train_loader, test_loader, optimizer, scheduler, epochs,
        schedule_each=schedule_each, device=device, criterion=criterion, accumulate=accumulate, clip_norm=clip_norm,
        clip_value=clip_value, non_finite=non_finite, evaluate_every=evaluate_every, patience=patience,
        max_steps=max_steps, callbacks=[_Functions(on_step, on_epoch), *callbacks],
    ).run()  # fmt: skip
