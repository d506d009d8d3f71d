"""Learning rates that change as training goes on, with PyTorch's names, arguments and sequences.

A schedule sets ``group["lr"]`` of its optimiser: once when it is made, then in each ``scheduler.step()``, which
belongs after ``optimizer.step()`` (once an epoch or once a batch, as you count). Most rules say how the next rate
follows from the present one, as PyTorch's do, so that two schedules on one optimiser multiply, and a rate changed by
hand is carried on.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, SupportsFloat

from .optimizer import Optimizer


class LRScheduler:
    """The base of the schedules: counts steps and writes what `get_lr` answers into the parameter groups.

    Args:
        optimizer: whose learning rates to set.
        last_epoch: the number of the last step done; −1 to begin. To go on from elsewhere the groups need
            ``"initial_lr"``, which loading an optimiser's state brings along.

    Attributes:
        last_epoch: how many steps have been done since the beginning.
        base_lrs: the groups' rates at the beginning.

    Raises:
        TypeError: `optimizer` is none.
        KeyError: `last_epoch` is given and a group has no ``"initial_lr"``.
    """

    _starting = False  # during the step that sets the first rate
    _unsaved: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = _checked_optimizer(self, optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{type(self).__name__}: last_epoch is {last_epoch}, but param_groups[{i}] has no 'initial_lr' to "
                    "count from. Load the optimiser's state first, or leave last_epoch at -1 to begin"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._start()

    def _start(self) -> None:
        """Set the first rate."""
        self._step_count = 0
        self._starting = True
        try:
            self.step()
        finally:
            del self._starting

    def get_lr(self) -> list[float]:
        """The rate of each group for step `last_epoch`; ask `get_last_lr` for those in force."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The rate that this schedule last gave to each group."""
        return list(self._last_lr)

    def step(self) -> None:
        """Move on by one step and set the learning rates; call it after ``optimizer.step()``."""
        if self._step_count == 1 and not self.optimizer.stepped:
            warnings.warn(
                f"{type(self).__name__}: scheduler.step() was called before optimizer.step(), so the first learning "
                "rate of the schedule is never used. Call optimizer.step() first",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self._rates()

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _rates_and_bases(self) -> Iterator[tuple[float, float]]:
        """Each group's rate now and at the beginning."""
        rates = self._rates()
        if len(rates) != len(self.base_lrs):
            raise ValueError(
                f"{type(self).__name__}: the optimiser has {len(rates)} parameter groups, and had {len(self.base_lrs)} "
                "when the schedule was made. Add groups before that, or make a new schedule"
            )
        return zip(rates, self.base_lrs, strict=True)

    def state_dict(self) -> dict[str, Any]:
        """All of the schedule but its optimiser, whose own `state_dict` holds the rates; a snapshot."""
        return deepcopy({name: value for name, value in self.__dict__.items() if name not in self._unsaved})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`; load the optimiser's as well.

        Raises:
            ValueError: it was not saved by a schedule of this kind.
        """
        if different := self.state_dict().keys() ^ state_dict.keys():
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: {', '.join(sorted(different))} is here or there only. Was "
                "this saved by another schedule?"
            )
        self.__dict__.update(deepcopy({k: v for k, v in state_dict.items() if k not in self._unsaved}))


class LambdaLR(LRScheduler):
    """The first rate times a factor that a function gives: base_lr · f(t).

    Args:
        optimizer: whose learning rates to set.
        lr_lambda: f(step), or a list of one for each group. Functions are not part of `state_dict`.
        last_epoch: see `LRScheduler`.
    """

    _unsaved = ("optimizer", "lr_lambdas")

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        groups = len(_checked_optimizer(self, optimizer).param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"LambdaLR: lr_lambda has {len(self.lr_lambdas)} functions for {groups} parameter groups")
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        pairs = zip(self.lr_lambdas, self._rates_and_bases(), strict=True)
        return [base * function(self.last_epoch) for function, (_, base) in pairs]


class StepLR(LRScheduler):
    """Multiply the rate by `gamma` every `step_size` steps: base_lr · gamma^⌊t / step_size⌋.

    Raises:
        ValueError: `step_size` is less than 1.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size = _at_least_one("StepLR", "step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        due = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [lr * self.gamma if due else lr for lr in self._rates()]


class MultiStepLR(LRScheduler):
    """Multiply the rate by `gamma` at each of `milestones` (steps; one listed twice counts twice)."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [lr * self.gamma ** self.milestones.count(self.last_epoch) for lr in self._rates()]


class LinearLR(LRScheduler):
    """Change the rate on a straight line from base_lr · `start_factor` to base_lr · `end_factor`, then hold it.

    With the defaults, a warm-up. The line reaches its end after `total_iters` steps.

    Raises:
        ValueError: `start_factor` is not in (0, 1], `end_factor` is not in [0, 1], or `total_iters` is less than 1
            (PyTorch takes 0, and stays at the start for ever).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor is {start_factor}, and must be above 0 and at most 1")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor is {end_factor}, and must be from 0 to 1")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = _at_least_one("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self._rates()]
        if self._starting or self.last_epoch > self.total_iters:
            return self._rates()
        # The factor is (start·T + t·(end − start)) / T; this is the ratio of two in a row.
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [lr * (1 + rise / before) for lr in self._rates()]


class CosineAnnealingLR(LRScheduler):
    """Lower the rate along half a cosine: eta_min + (base_lr − eta_min) · (1 + cos(π·t / T_max)) / 2.

    Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5, without the
    restarts: after `T_max` steps the rate is `eta_min`, and it rises again if stepped further.

    Raises:
        ValueError: `T_max` is less than 1.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max = _at_least_one("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self._starting:
            return self._rates()
        height = [1 + math.cos(math.pi * t / self.T_max) for t in (self.last_epoch - 1, self.last_epoch)]
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # on the floor: there is no ratio to rise by
            step = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * step for lr, base in self._rates_and_bases()]
        return [self.eta_min + (lr - self.eta_min) * (height[1] / height[0]) for lr in self._rates()]


class SequentialLR(LRScheduler):
    """One schedule after another, for instance a warm-up and then a cosine.

    Args:
        optimizer: whose learning rates to set.
        schedulers: the schedules in order, made for this optimiser. Each starts afresh, from the first rate.
        milestones: the steps at which the second, third, ... takes over.
        last_epoch: only −1; go on from a saved state with `load_state_dict`.

    Raises:
        TypeError, ValueError: no schedules, or milestones that are not one fewer; a schedule of another optimiser, or
            one that cannot be part (`ReduceLROnPlateau` needs a metric, `SequentialLR` has no start of its own).
    """

    _unsaved = ("optimizer", "_schedulers")

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ):
        self.optimizer = _checked_optimizer(self, optimizer)
        if last_epoch != -1:
            raise ValueError(f"SequentialLR: last_epoch is {last_epoch}, and must be -1: go on with load_state_dict()")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers and {len(milestones)} milestones: there must be a "
                "scheduler, and a milestone between each two"
            )
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, SequentialLR | ReduceLROnPlateau):
                raise TypeError(f"SequentialLR: schedulers[{i}] is a {type(scheduler).__name__}, which cannot be part")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{i}] was made for another optimiser")
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.last_epoch = 0
        self._restart(self._schedulers[self._turn()])

    def _turn(self) -> int:
        return bisect_right(self._milestones, self.last_epoch)

    def _restart(self, scheduler: LRScheduler) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        scheduler.last_epoch = -1
        scheduler._start()
        self._last_lr = scheduler.get_last_lr()

    def step(self):
        before = self._turn()
        self.last_epoch += 1
        scheduler = self._schedulers[self._turn()]
        if self._turn() != before:
            self._restart(scheduler)
        else:
            scheduler.step()
            self._last_lr = scheduler.get_last_lr()

    def state_dict(self):
        return super().state_dict() | {"_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for scheduler, part in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(part)


class ReduceLROnPlateau(LRScheduler):
    """Cut the rate when a metric, given to each `step`, has stopped getting better.

    Args:
        optimizer: whose learning rates to set.
        mode: ``"min"`` for a loss, ``"max"`` for an accuracy.
        factor: what the rate is multiplied by.
        patience: how many steps without improvement are let pass; the next one cuts.
        threshold: how much better counts: by this share of the best (``threshold_mode="rel"``) or by this much
            (``"abs"``).
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: how many steps after a cut are not judged.
        min_lr: the least rate, or a list of one for each group.
        eps: a cut smaller than this is not made.

    Raises:
        TypeError, ValueError: an unknown mode; `factor` not below 1; `min_lr` a list of another length.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ):
        self.optimizer = _checked_optimizer(self, optimizer)
        if factor >= 1:
            raise ValueError(f"ReduceLROnPlateau: factor is {factor}, and must be below 1")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode is {mode!r}, and must be 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode is {threshold_mode!r}, and must be 'rel' or 'abs'")
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lr = list(min_lr) if isinstance(min_lr, Sequence) else min_lr
        self._min_lrs()  # checks
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = self._rates()

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override]
        """Judge `metrics` (a number or a tensor of one; NaN is never better) and cut the rates if it is time."""
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self._min_lrs(), strict=True):
                lower = max(group["lr"] * self.factor, least)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._rates()

    def _is_better(self, current: float) -> bool:
        change = -self.threshold if self.mode == "min" else self.threshold
        bar = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return current < bar if self.mode == "min" else current > bar

    def _min_lrs(self) -> list[float]:
        groups = len(self.optimizer.param_groups)
        if not isinstance(self.min_lr, list):
            return [self.min_lr] * groups
        if len(self.min_lr) != groups:
            raise ValueError(f"ReduceLROnPlateau: min_lr has {len(self.min_lr)} rates for {groups} parameter groups")
        return self.min_lr


def _checked_optimizer(scheduler: LRScheduler, optimizer: Optimizer) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(scheduler).__name__}: optimizer is a {type(optimizer).__name__}, not an Optimizer")
    return optimizer


def _at_least_one(name: str, argument: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: {argument} is {value}, and must be at least 1")
    return value
