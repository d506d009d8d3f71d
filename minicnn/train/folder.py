"""The folder of a run: its config, environment, log and checkpoints, and one process at a time.

    config.json       the recipe (`recipe.Recipe`)
    environment.json  versions, the machine, the command; informs, and has what a resumption takes where it is not told
    log.jsonl         a line of JSON for each step, evaluation, epoch, skipped step and change of the learning rate
    log.csv           the same as a table
    checkpoints/      the latest few (`checkpoint`), and the latest that led nowhere, under another name
    best.npz          the weights with the lowest loss so far on the images that judge; where another learning rate is
                      taken from a step before that, those are gone, and it is the lowest loss since
    weights.npz, history.json, page.png: at the end (`results`)

A log is cut back to where it was at the checkpoint that a run goes on from, so nothing is in it twice. What is not
finite is null in it.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from .. import backend, cuda, threads, weights
from .checkpoint import UNFINISHED, Checkpoints, sync_folder
from .divergence import PICTURES, NonFiniteLoss, NonFiniteWeights, advice, first_bad_weight
from .loop import Callback, Progress, Training
from .measure import Evaluation
from .recipe import Recipe, read_config

COLUMNS = (
    "event", "step", "epoch", "loss", "accuracy", "top5_error", "lr", "gradient_norm", "test_loss", "test_accuracy",
    "test_top5_error", "seconds", "images_per_second", "reason",
)  # fmt: skip
TIMES = ("seconds", "images_per_second")  # what differs from run to run
KEPT = 3  # checkpoints
BEFORE = (".lock", "environment.json")  # all that is in a run's folder before it has begun, but for unfinished files
MINUTES = 5.0  # between checkpoints, where no number of steps is asked for


class Interrupted(KeyboardInterrupt):
    """A signal ended a run, which can go on.

    Attributes:
        signal: its number: 2 for Ctrl-C, 15 for SIGTERM.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


class RunFolder(Callback):
    """A run's folder, as a callback that keeps it.

    Args:
        path: of the folder.
        every: steps between checkpoints; left out, one at each epoch's end and one when `MINUTES` have passed.
        keep: checkpoints; left out, `KEPT`.

    Where a run goes on, what is left out is as when it began.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None = None, keep: int | None = None):
        for name, count in (("every", every), ("keep", keep)):
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}, and must be at least 1")
        self.path, self.every, self.keep = Path(path), every, keep
        self.checkpoints = Checkpoints(self.path / "checkpoints", KEPT if keep is None else keep)
        self.facts: dict[str, Any] = {}  # go into every checkpoint, and must be the same when a run goes on
        self.description: dict[str, Any] = {}  # goes into best.npz, as into weights.npz
        self.saved = -1  # the step of the latest checkpoint
        self._seconds = 0.0  # before this process took over
        self._logs: dict[str, Any] = {}
        self._signal = 0
        self._in_training = False

    # ------------------------------------------------------------------------------------- beginning and going on

    def begin(self, recipe: Recipe, device: str, workers: int, root: str | os.PathLike[str] | None) -> None:
        """Write down what is going to be done.

        Raises:
            ValueError: there is a run in the folder already.
            OSError: it cannot be written.
        """
        if (self.path / "config.json").exists() or self.checkpoints.paths():
            raise ValueError(f"{self.path}: has a run in it: go on with it by minicnn resume, or choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints.tidy()  # of one that was killed before it had begun
        facts = {**environment(device, workers, root), "every": self.every, "keep": self.checkpoints.keep}
        with weights.replacing(self.path / "environment.json") as file:
            file.write(json.dumps(facts, indent=1).encode())
        with weights.replacing(self.path / "config.json") as file:  # last: from here on it can be resumed
            file.write(recipe.to_json().encode())
        sync_folder(self.path)

    def has_not_begun(self) -> bool:
        """Whether nothing is in the folder but what a run leaves that is killed before it has begun, or has so far."""
        return self.path.is_dir() and all(
            entry.name in BEFORE or entry.match(UNFINISHED) for entry in self.path.iterdir()
        )

    def recipe(self) -> Recipe:
        """What the folder says is to be done.

        Raises:
            ValueError: it is no run's folder, or its config is damaged.
        """
        config = self.path / "config.json"
        if not config.is_file():
            raise ValueError(f"{self.path}: no run that can go on: there is no config.json in it. Start it again")
        return read_config(config)

    def began_with(self) -> dict[str, Any]:
        """The environment that the run began in, as far as it can be read."""
        try:
            found = json.loads((self.path / "environment.json").read_bytes()[: 1 << 20])
        except (OSError, ValueError, RecursionError):
            return {}
        return found if type(found) is dict else {}

    def take_counts(self, before: dict[str, Any]) -> None:
        """Have checkpoints as in `before`, which `began_with` gave, where nothing else was asked for."""
        counts = {name: n for name in ("every", "keep") if type(n := before.get(name)) is int and n >= 1}
        if self.every is None:
            self.every = counts.get("every")
        if self.keep is None:
            self.checkpoints.keep = counts.get("keep", KEPT)

    def restore(self, training: Training) -> int:
        """Put `training` where the newest whole checkpoint was; the step, 0 where there is none.

        Raises:
            ValueError: the data are not those of before, or no checkpoint fits.
        """
        self.checkpoints.tidy()
        for path, arrays, facts in self.checkpoints.load():
            of_run = facts.get("run")
            if type(of_run) is not dict or type(of_run.get("recipe")) is not dict:
                raise ValueError(f"{path}: no checkpoint of a run: it does not say which recipe it is of")
            self._compare(of_run["recipe"])
            if of_run.get("data") != self.facts["data"]:
                raise ValueError(
                    f"{self.path}: the data have changed since this run began (files, labels, or how many there are), "
                    "so it cannot go on as if they had not. Put them back, or start a new run"
                )
            try:
                training.load_state_dict(arrays, facts["training"])
                lengths = {name: int(facts["logs"][name]) for name in ("log.jsonl", "log.csv")}
                self._seconds = float(facts["seconds"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: does not fit {self.path / 'config.json'}: {str(error)[:300]}") from None
            for name, length in lengths.items():
                self._cut(self.path / name, length)
            return training.updates
        if self.checkpoints.paths():
            warnings.warn(f"{self.path}: no checkpoint is whole: the run begins anew, and so do its logs", stacklevel=3)
        for name in ("log.jsonl", "log.csv"):
            self._cut(self.path / name, 0)
        return 0

    def _compare(self, began_with: dict[str, Any]) -> None:
        """Refuse a recipe that is not the one of before. Where the data are may change: what they are is compared."""
        now = self.facts["recipe"]
        for name in now:
            if name != "data" and now[name] != began_with.get(name):
                config = self.path / "config.json"
                rate = f", or 'minicnn resume {self.path} --lr X'" if name == "lr" else ""
                raise ValueError(
                    f"{config}: {name} is {str(now[name])[:100]}, and was {str(began_with.get(name))[:100]} when this "
                    f"run began. Put it back{rate}, or start another run: minicnn train --config {config}"
                )

    def _cut(self, log: Path, length: int) -> None:
        size = log.stat().st_size if log.exists() else 0
        if size < length:
            warnings.warn(f"{log}: shorter than it was at the checkpoint: lines are missing", stacklevel=3)
        elif size > length:
            os.truncate(log, length)

    # --------------------------------------------------------------------------------------------------- running

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the folder is this process's.

        Raises:
            ValueError: another process works in it.
            OSError: it cannot be written.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "ab") as file:
            try:
                import fcntl  # there is none on Windows

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, in whatever way that ends
            except ImportError:
                pass
            except BlockingIOError:
                raise ValueError(f"{self.path}: another process is at work on this run") from None
            except OSError as error:
                warnings.warn(
                    f"{self.path}: cannot be locked there ({error.strerror}): see to it that no other process works on "
                    "this run",
                    stacklevel=3,
                )
            try:
                yield
            finally:
                if not (self.path / "config.json").exists():  # nothing has begun: nothing is left
                    for name in BEFORE:
                        (self.path / name).unlink(missing_ok=True)
                    with suppress(OSError):  # somebody has put something there
                        for folder in made:
                            folder.rmdir()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM end the run where it can go on, by `Interrupted`; a second one ends it at once."""

        def handle(number: int, _: FrameType | None) -> None:
            if self._signal or not self._in_training:
                began = (self.path / "config.json").exists()
                then = f"'minicnn resume {self.path}' goes on" if began else "Nothing has begun: start it again"
                raise Interrupted(number, f"interrupted. {then}")
            self._signal = number

        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield
            return
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def logging(self, training: Training) -> Iterator[None]:
        """Inside, what happens is written down, and a first checkpoint is there."""
        self._began, self._last = time.perf_counter() - self._seconds, time.monotonic()
        with open(self.path / "log.jsonl", "ab", 0) as lines, open(self.path / "log.csv", "ab", 0) as table:
            self._logs = {"log.jsonl": lines, "log.csv": table}
            if table.tell() == 0:
                self._append("log.csv", ",".join(COLUMNS) + "\n")
            if not self.checkpoints.paths():
                self.save(training)
            self._in_training = True
            try:
                yield
            except NonFiniteLoss as error:
                aside = self._set_aside(training, error)
                last = next(iter(self.checkpoints.whole()), "missing")
                raise type(error)(
                    f"{error}. {aside}The last good checkpoint is {last}: 'minicnn resume {self.path}' goes on from "
                    "it, with --lr X at another learning rate"
                ) from error
            finally:
                self._in_training = False
                self._logs = {}

    def _set_aside(self, training: Training, error: NonFiniteLoss) -> str:
        """Set the checkpoint aside whose very next step diverged: its weights are finite, and still no learning rate
        helps, as the loss of that step does not depend on any. What was done, a sentence or nothing."""
        path, aside = self.checkpoints.path(training.updates), None
        if path.exists() and PICTURES not in str(error):
            with suppress(OSError):  # it is what diverged that has to be told
                aside = self.checkpoints.set_aside(path)
        if aside is None:
            return ""
        return f"The checkpoint of step {training.updates} led there at once and is now {aside}. "

    def set_rate(self, training: Training, lr: float) -> None:
        """Let the rest of a run have another learning rate, and note that in log and checkpoint.

        Raises:
            ValueError: the run is over.
            OSError: it cannot be written.
        """
        if training.over:
            raise ValueError(f"{self.path}: the run is over, and another learning rate has nothing to change")
        training.set_rate(lr)
        abandoned = self._best_is_later(training.updates)
        if abandoned:  # the next evaluation is the first that is known of this branch
            training.best = None
        self._write("rate", step=training.updates, lr=lr)
        self.save(training)
        if abandoned:
            (self.path / "best.npz").unlink(missing_ok=True)

    def _best_is_later(self, step: int) -> bool:
        """Whether best.npz was written after `step`: by what is abandoned when another rate is taken from there on."""
        try:
            return int(weights.read(self.path / "best.npz")[1]["step"]) > step
        except (OSError, KeyError, ValueError):
            return False

    def save(self, training: Training) -> None:
        """Write a checkpoint.

        Raises:
            NonFiniteWeights: a weight is not finite: there would be nothing to go on with.
            OSError: it cannot be written.
        """
        if (bad := first_bad_weight(training.model)) is not None:
            raise NonFiniteWeights(
                f"fit: {bad} is not finite after step {training.updates}. {advice(training.clip_norm is not None)}"
            )
        for log in self._logs.values():
            os.fsync(log.fileno())
        arrays, facts = training.state_dict()
        lengths = {name: log.tell() for name, log in self._logs.items()}
        seconds = time.perf_counter() - self._began
        self.checkpoints.save(
            training.updates, arrays, {"training": facts, "logs": lengths, "seconds": seconds, "run": self.facts}
        )
        self.saved, self._last = training.updates, time.monotonic()

    # --------------------------------------------------------------------------------------------- as a callback

    def step(self, training: Training, progress: Progress) -> None:
        steps = training.history["steps"]
        norm = {} if training.gradient_norm is None else {"gradient_norm": training.gradient_norm}
        self._write(
            "step", step=training.updates, epoch=progress.epoch, loss=steps["loss"][-1], lr=steps["lr"][-1], **norm
        )

    def skipped(self, training: Training, reason: str) -> None:
        self._write("skipped", step=training.updates, epoch=training.epoch, reason=reason)
        warnings.warn(f"skipped a step: {reason}", stacklevel=2)

    def evaluating(self, training: Training) -> None:
        if self._signal:
            self._leave(training)

    def evaluated(self, training: Training, result: Evaluation, entry: dict[str, Any]) -> None:
        if "step" in entry:  # else it is part of the epoch's line
            self._write("evaluation", **entry)
        if training.best == result.loss and training.updates:
            facts = {"step": training.updates, "test_loss": result.loss, **self.description}
            try:
                weights.save(training.model, self.path / "best.npz", **facts)
            except OSError as error:
                raise OSError(
                    error.errno, f"{error.strerror or error}. 'minicnn resume {self.path}' goes on when that is mended"
                ) from error

    def epoch(self, training: Training, entry: dict[str, Any]) -> None:
        self._write("epoch", step=training.updates, **entry)
        self._last = -np.inf  # a checkpoint is due

    def safe(self, training: Training) -> None:
        if self._signal:
            self._leave(training)
        due = time.monotonic() - self._last > 60 * MINUTES
        if due or (self.every is not None and training.updates % self.every == 0):
            self.save(training)

    def _leave(self, training: Training) -> None:
        number, self._in_training = self._signal, False
        self.save(training)
        raise Interrupted(
            number, f"interrupted; saved at step {training.updates}. 'minicnn resume {self.path}' goes on"
        )

    def _write(self, event: str, **facts: Any) -> None:
        facts = {"event": event, **facts, "seconds": round(time.perf_counter() - self._began, 3)}
        row = io.StringIO()
        csv.DictWriter(row, COLUMNS, lineterminator="\n").writerow(facts)
        self._append("log.jsonl", json.dumps(facts, allow_nan=False) + "\n")
        self._append("log.csv", row.getvalue())

    def _append(self, name: str, line: str) -> None:
        """Write to a log, unbuffered: what was written survives the process."""
        problem: OSError | None = None
        try:
            whole = self._logs[name].write(line.encode()) == len(line.encode())
        except OSError as error:
            whole, problem = False, error
        if not whole:
            reason = problem.strerror if problem else "the disk is full"
            raise OSError(
                problem.errno if problem else errno.ENOSPC,
                f"{self.path / name} could not be written ({reason}). The checkpoints are kept: 'minicnn resume "
                f"{self.path}' goes on when there is space",
            ) from problem

    def done(self, training: Training) -> None:
        """The training is over: a last checkpoint, unless there is one."""
        self._in_training = False
        if self.saved != training.updates or self._last == -np.inf:
            self.save(training)


def installed(name: str) -> str | None:
    """The version of a package, None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment(device: str, workers: int, root: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Versions, the machine and the command, for who looks at a run later; of a CUDA device also what it is."""
    place = backend.device(device)
    is_cuda = place.type == "cuda"
    return {
        "minicnn": sys.modules[__name__.partition(".")[0]].__version__,
        "python": platform.python_version(),
        "numpy": installed("numpy"),
        "packages": {name: installed(name) for name in ("threadpoolctl", "pillow", "matplotlib")},
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": threads.get_num_threads(),
        "device": str(place),
        "properties": cuda.properties(place)._asdict() if is_cuda else None,  # whether it is a GPU, driver, CuPy
        "workers": workers,
        "root": None if root is None else os.path.abspath(root),
        "command": sys.argv,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
