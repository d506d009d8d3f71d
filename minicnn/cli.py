"""The command line: ``minicnn demo``, ``train``, ``resume``, ``step``, ``classify``, ``summary``, and so on.

Arguments come in and words go out here; the work is done elsewhere. Whatever goes wrong ends in one line on stderr.
Exit status: 0 done, 1 failed (also: a gradient is wrong), 2 a command line that makes no sense (also: no device to
check), 130 Ctrl-C, 143 SIGTERM while training.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import itertools
import json
import math
import os
import re
import runpy
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from . import (
    __version__,
    backend,
    classify,
    doctor,
    manual_seed,
    models,
    report,
    selfcheck,
    stepping,
    threads,
    train,
    weights,
)
from .data.folder import printable
from .engine import dry_run
from .gradcheck import gradcheck
from .inspect import Memory, Summary, debug, facts, memory, summary
from .inspect.memory import CONVENTIONS, OPTIMIZERS
from .lab import EXPERIMENTS
from .nn import Module

# ------------------------------------------------------------------------------------------------- command line


class CommandLineError(Exception):
    """The command line makes no sense; the message says why, in one line."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(f"{self.prog}: {message} (see: {self.prog} --help)")


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """`check` as an argument type: its ValueError becomes the message."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or int(text) < least:
            raise ValueError(f"must be a whole number, {least} or more, got {text!r}")
        return int(text)

    return _checked(convert)


def _one_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    return _checked(lambda text: train.nearest(kind, text, known))


def _rate(text: str) -> float:
    try:
        value = _number(text)
    except ValueError:
        value = 0.0
    if value == 0:
        raise ValueError(f"must be a number above 0, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"must be a number from 0 up, got {text!r}")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(",")))


def _option(text: str) -> tuple[str, str | int | float | bool]:
    """``"width=0.5"`` → ``("width", 0.5)``; what is neither a number, True nor False is a text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"must be NAME=VALUE, for instance variant=1998, got {text!r}")
    if name == "variant":  # 1998 is the name of one
        return name, value
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        found = value
    return name, found if type(found) in (int, float, bool) else value


def _device(text: str) -> str:
    kind = backend.device(text).type
    if kind == "cuda" and (problem := backend.cuda_problem()):
        raise ValueError(f"{text} does not work here: {problem}")
    return text


def _cuda_device(text: str) -> str:
    if backend.device(text).type != "cuda":
        raise ValueError(f"must be cuda or cuda:N, got {text!r}: NumPy on the CPU is what a device is compared with")
    return text


def _file(*endings: str) -> Callable[[str], Path]:
    """The name of a file that can be written, with one of these endings."""

    def convert(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in endings:
            raise ValueError(f"must be the name of a file that ends in {' or '.join(endings)}, got {text!r}")
        if path.is_dir():
            raise ValueError(f"{text!r} is a folder, and must be the name of a file")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"{text!r} cannot be written: {path.parent} must be a folder that you may write to")
        return path

    return _checked(convert)


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _new_folder(text: str) -> Path:
    if not _is_free(Path(text)) and not train.RunFolder(text).has_not_begun():
        raise ValueError(f"{text!r} exists, and results are not written over others: choose another name or remove it")
    return Path(text)


def _target(text: str) -> tuple[Path, str]:
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"must be FILE.py:NAME, for instance mylayers.py:MyLayer, got {text!r}")
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file}")
    return Path(file), name


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"must be whole numbers with commas, for instance 2,3,8,8, got {text!r}")
    return tuple(map(int, text.split(",")))


def _call(text: str) -> tuple[list[Any], dict[str, Any]]:
    """``"3, 8, bias=False"`` → ``([3, 8], {"bias": False})``; values are literals, nothing is executed."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or any(k.arg is None for k in call.keywords):
            raise ValueError
        return [ast.literal_eval(a) for a in call.args], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError):
        raise ValueError(f"must be written as in a call, for instance \"3, 8, bias=False\", got {text!r}") from None


NETWORKS = list(train.MODELS)

COMMANDS = (
    "demo", "train", "resume", "step", "classify", "lab", "summary", "memory", "facts", "gradcheck", "doctor",
    "selfcheck",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """The command line's grammar and help."""
    usual = train.Recipe()
    parser = Parser(prog="minicnn", description="Classic convolutional networks on a small NumPy autograd engine.")
    parser.add_argument("--version", action="version", version=f"minicnn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], help: str, description: str = "") -> Callable[..., Any]:
        added = commands.add_parser(name, help=help, description=description or None, allow_abbrev=False)
        added.set_defaults(run=run, parser=added)
        return added.add_argument

    def add_training_options(option: Callable[..., Any]) -> None:
        number = {"type": _whole(1), "metavar": "N"}
        option("--epochs", **number, help=f"passes over the training images ({usual.epochs})")
        option("--seed", type=_whole(0), metavar="N", help=f"of all random numbers ({usual.seed})")
        option(
            "--images", **number,
            help="train on N images only, for a quick look: the first ones, or of photographs some at random",
        )  # fmt: skip
        option("--device", type=_checked(_device), default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
        option("--threads", **number, help=f"how many to compute with ({threads.VARIABLE}, or one for each processor)")

    option = command(
        "demo", _demo, "train LeNet-5 on MNIST, from nothing, and test it",
        "Train LeNet-5 on the 60,000 training images of MNIST, which minicnn brings with it, test it on the 10,000 "
        "test images, and draw a page of pictures. The last line is the test accuracy.",
    )  # fmt: skip
    add_training_options(option)
    picture = Path("minicnn-demo.png")
    option("--output", type=_file(".png"), metavar="FILE.png", default=picture, help="pictures (%(default)s)")

    option = command(
        "train", _train, "train a network with options of your own",
        "Train a network; without options on MNIST, as minicnn demo does. Config, environment, log, checkpoints, "
        "weights, history and a page of pictures go into a new folder. Ctrl-C saves, and minicnn resume goes on.",
    )  # fmt: skip
    optimizers = {name: f"{rate:g}" for name, (_, rate, _) in train.OPTIMIZERS.items()}
    option("model", nargs="?", type=_one_of("model", train.MODELS), metavar="MODEL", help=", ".join(train.MODELS))
    add_training_options(option)
    number, rate = {"type": _whole(1), "metavar": "N"}, {"type": _checked(_rate), "metavar": "X"}
    option(
        "--preset", type=_one_of("preset", train.PRESETS), metavar="NAME",
        help=f"begin with the recipe of a paper: {', '.join(train.PRESETS)}; other options change it",
    )  # fmt: skip
    option("--list-presets", action="store_true", help="say what the presets are, and where from")
    option("--config", metavar="FILE", help="begin with the recipe in a file: the config.json of another run")
    option(
        "--data", metavar="NAME",
        help=f"{', '.join(train.SETS)}, or a folder of pictures, a folder a class ({usual.data}); for a folder "
        + " and ".join(f"--{name.replace('_', '-')} is {value}" for name, value in train.FOR_PICTURES.items())
        + " unless given",
    )  # fmt: skip
    option("--root", metavar="FOLDER", help="where the data set is (minicnn's in the cache folder, or MINICNN_HOME)")
    option("--download", action="store_true", help="get the data set where it is missing")
    option("--broken", choices=("skip", "refuse"), help=f"what to do with broken pictures ({usual.broken})")
    option("--input-size", **number, help="side of the images in pixels (the data's, or the network's)")
    option("--augment", choices=train.AUGMENTATIONS, help="random changes to the images (what is usual for the data)")
    option(
        "--option", type=_checked(_option), metavar="NAME=VALUE", action="append",
        help="of the network: variant=1998, width=0.5, shortcut=False; may be given again",
    )  # fmt: skip
    option("--batch-size", **number, help=f"images in a step ({usual.batch_size})")
    option("--accumulate", **number, help="batches whose gradients make one step (1)")
    option(
        "--optimizer", type=_one_of("optimizer", optimizers), metavar="NAME",
        help=f"{', '.join(optimizers)} ({usual.optimizer})",
    )  # fmt: skip
    option("--lr", **rate, help=f"learning rate at the start ({', '.join(map(' '.join, optimizers.items()))})")
    option("--momentum", type=_checked(_number), metavar="X", help="of sgd and rmsprop (0.9, 0)")
    option("--weight-decay", type=_checked(_number), metavar="X", help="not on biases and norms (adamw 0.01, else 0)")
    option("--decay-all", action="store_true", default=None, help="weight decay on biases and norms too")
    option("--schedule", choices=train.SCHEDULES, help=f"of the learning rate ({usual.schedule})")
    option("--warmup", type=_whole(0), metavar="N", help="steps over which it rises along a line first (0)")
    option("--milestones", type=_checked(_numbers), metavar="X,X", help="of step, as shares of the training (0.5,0.75)")
    option("--factors", type=_checked(_numbers), metavar="X,X", help="of the rate behind each milestone (0.1,0.01)")
    option("--label-smoothing", type=_checked(_number), metavar="X", help="from 0 to 1 (0)")
    option("--clip-norm", **rate, help="scale the gradients down to this norm together")
    option("--clip-value", **rate, help="bound each entry of the gradients")
    option("--non-finite", choices=("stop", "skip"), help=f"losses or gradients that are infinite ({usual.non_finite})")
    option("--steps", **number, help="stop after N steps")
    option("--patience", **number, help="stop when N evaluations in a row were no better")
    option("--evaluate-every", **number, help="evaluate every N steps too, not only after each epoch")
    option(
        "--hold-back", **number,
        help="do not train on N of the training images but judge by them, not by the test images: to choose options",
    )  # fmt: skip
    option("--output", type=_checked(_new_folder), metavar="FOLDER", help="for the results (runs/MODEL-1, -2, ...)")

    def add_folder_options(option: Callable[..., Any], every: str, keep: str) -> None:
        option("--workers", type=_whole(0), metavar="N", help="threads that prepare images (2 for pictures, else 0)")
        option("--checkpoint-every", **number, help=f"steps ({every})")
        option("--keep", **number, help=f"checkpoints ({keep})")

    add_folder_options(option, "the end of each epoch, and 5 minutes", "3")

    option = command(
        "resume", _resume, "go on with a training that was interrupted",
        "Go on where the newest whole checkpoint is, bit for bit as if the run had not been interrupted; or, after it "
        "diverged, with a smaller learning rate.",
    )  # fmt: skip
    option("folder", metavar="RUN", help="the folder of minicnn train")
    option("--device", type=_checked(_device), help="cpu, cuda or cuda:N (where the run began)")
    option("--threads", **number, help=f"how many to compute with ({threads.VARIABLE}, or one for each processor)")
    option("--root", metavar="FOLDER", help="where the data set is (where it was)")
    option("--download", action="store_true", help="get the data set where it is missing")
    option(
        "--lr", **rate,
        help="go on from the last good checkpoint with another learning rate, as it would have been at the start",
    )  # fmt: skip
    add_folder_options(option, "as when it began", "as when it began")

    option = command(
        "step", _step, "step through a network's forward and backward pass in a web page",
        "Write a web page, one file that works without a network, in which the forward and the backward pass of a "
        "network on one picture can be stepped through, every number to be seen.",
    )  # fmt: skip
    option("model", type=_one_of("model", NETWORKS), metavar="MODEL", help=", ".join(NETWORKS))
    option("--image", metavar="N", default="0", help="which of MNIST's test images, or a picture's file (%(default)s)")
    option("--label", type=_whole(0), metavar="N", help="the class of the loss (the digit's own, or the likeliest)")
    option("--weights", metavar="FILE", help="of minicnn train, say; left out, weights are drawn anew")
    option("--seed", type=_whole(0), metavar="N", default=0, help="of the weights that are drawn anew (%(default)s)")
    option("--variant", metavar="NAME", help="paper (the default) or torchvision; of lenet5 1998 or modern")
    option("--num-classes", type=_whole(1), metavar="N", help="scores an image (10)")
    option("--in-channels", type=_whole(1), metavar="N", help="3 for coloured images, 1 for grey ones")
    option("--input-size", type=_whole(1), metavar="N", help="side of the images in pixels")
    option("--training", action="store_true", help="auxiliary classifiers, dropout, batch statistics, as in training")
    option("--megabytes", type=_checked(_rate), metavar="X", default=8, help="how large the page may be (%(default)s)")
    page = Path("step.html")
    option(
        "-o", "--output", type=_file(".html", ".htm"), metavar="FILE.html", default=page,
        help="the page (%(default)s)",
    )  # fmt: skip

    option = command(
        "lab", _lab, "run an experiment about vanishing and exploding gradients",
        "Run one of the gradient lab's experiments at its usual size, in a minute or two. Prints the result in a "
        "sentence and draws it.",
    )  # fmt: skip
    option("name", type=_one_of("experiment", EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    option("--seed", type=_whole(0), metavar="N", default=0, help="of all random numbers (%(default)s)")
    option("--device", type=_checked(_device), default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    option("--plot", type=_file(".png", ".svg", ".pdf"), metavar="FILE", help="the picture (minicnn-lab-NAME.png)")
    option("--csv", type=_file(".csv"), metavar="FILE", help="write the observations, a line each")
    option("--json", action="store_true", help="print everything as JSON")

    option = command(
        "gradcheck", _gradcheck, "check the gradients of a layer of your own",
        "Check the gradients of a class (a minicnn.nn.Module) or a function in a Python file, which is run. The exit "
        "status is 0 where they are right and 1 where they are not.",
    )  # fmt: skip
    option("target", type=_checked(_target), metavar="FILE.py:NAME", help="a file, and a class or function in it")
    option(
        "--input", type=_checked(_shape), metavar="N,C,H,W", action="append", required=True,
        help="the shape of an input, to be drawn at random; once for each input",
    )  # fmt: skip
    option(
        "--args", type=_checked(_call), metavar="ARGS", default=([], {}),
        help="what to build the class with, as in '3, 8, bias=False'",
    )  # fmt: skip
    option("--seed", type=_whole(0), metavar="N", default=0, help="of all random numbers (%(default)s)")

    def add_network_options(option: Callable[..., Any]) -> None:
        option("model", type=_one_of("model", NETWORKS), metavar="MODEL", help=", ".join(NETWORKS))
        option("--variant", metavar="NAME", help="paper (the default) or torchvision; of lenet5 1998 or modern")
        option("--num-classes", type=_whole(1), metavar="N", help="scores an image")
        option("--in-channels", type=_whole(1), metavar="N", help="3 for coloured images, 1 for grey ones")
        option("--input-size", type=_whole(1), metavar="N", help="side of the images in pixels")
        option("--batch-size", type=_whole(1), metavar="N", default=1, help="images (%(default)s)")
        option("--json", action="store_true", help="print everything as JSON")

    option = command(
        "summary", _summary, "show the layers of a network as a table",
        "The layers of a network: output shapes, parameters, multiply-adds, memory, receptive fields. Nothing is "
        "computed but shapes.",
    )  # fmt: skip
    add_network_options(option)
    option("--training", action="store_true", help="as in training (auxiliary classifiers), not as in evaluation")
    option("--markdown", action="store_true", help="print the table for a README")

    option = command(
        "memory", _memory, "say what memory a step of a network takes",
        "What a training step of a network takes: parameters, gradients, optimiser state, activations, workspace. "
        "Predicted from shapes.",
    )  # fmt: skip
    add_network_options(option)
    option(
        "--convention", type=_one_of("convention", CONVENTIONS), metavar="NAME", default="actual",
        help=f"{', '.join(CONVENTIONS)} (%(default)s)",
    )  # fmt: skip
    option(
        "--optimizer", type=_one_of("optimizer", OPTIMIZERS), metavar="NAME", default="momentum",
        help=f"{', '.join(OPTIMIZERS)} (%(default)s)",
    )  # fmt: skip
    option("--evaluation", action="store_true", help="one evaluation, not a training step")
    option("--layers", action="store_true", help="list the layers' parameters and activations too, in bytes")

    option = command(
        "classify", _classify, "say what pictures show, by a network with weights from a file",
        "The most probable classes of pictures, prepared as torchvision does. README and minicnn/weights.py say where "
        "torchvision publishes weights.",
    )  # fmt: skip
    option("model", type=_one_of("model", NETWORKS), metavar="MODEL", help=", ".join(NETWORKS))
    option("images", nargs="+", metavar="IMAGE", help="pictures, in any format that Pillow reads")
    option("--weights", required=True, metavar="FILE", help="safetensors, .npz or PyTorch's .pth")
    option("--variant", metavar="NAME", help="instead of the one that the weights name (PyTorch's .pth name none)")
    option("--names", metavar="FILE", help="names of the classes: a JSON list or a line each (the weights' own)")
    option("--top", type=_whole(1), metavar="N", default=5, help="how many classes to print (%(default)s)")

    option = command(
        "facts", _facts_ledger, "recompute the figures of the papers and courses",
        "Claims of papers and courses about the networks: the source, what minicnn computes, and the verdict.",
    )  # fmt: skip
    known = "lenet5, alexnet, vgg (or vgg16 …), googlenet, resnet or ilsvrc (all)"
    option("network", nargs="?", metavar="NETWORK", help=known)
    option("--json", action="store_true", help="print everything as JSON")

    command("doctor", _doctor, "say what this computer offers: versions, threads, GPU, extras")

    option = command(
        "selfcheck", _selfcheck, "check a GPU against NumPy, by its owner",
        "Check that a CUDA device computes what NumPy does: every operation and five networks, forward and backward, a "
        "short training, repeatability, memory, files. Exit status 0 passed, 1 a check failed, 2 no usable device.",
    )  # fmt: skip
    option("--device", type=_checked(_cuda_device), default="cuda", help="cuda or cuda:N (%(default)s)")
    option("--quick", action="store_true", help="time small networks only, and fewer steps of each")
    option("--json", action="store_true", help="print everything as JSON")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments in `argv`.

    Raises:
        CommandLineError: they make no sense; the message has the nearest name for a misspelt one.
    """
    parser = make_parser()
    try:
        if not argv:
            raise ValueError(f"a command is missing. There are {', '.join(COMMANDS)}")
        if not argv[0].startswith("-"):
            train.nearest("command", argv[0], COMMANDS)
        arguments, unknown = parser.parse_known_args(argv)
        parser = getattr(arguments, "parser", parser)
        if unknown and unknown[0].startswith("-"):
            train.nearest("option", unknown[0].partition("=")[0], set(re.findall("--[a-z-]+", parser.format_help())))
        if unknown or "run" not in arguments:
            raise ValueError(f"what is {(unknown or argv)[0]!r} for? There is one argument too many")
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no "→" shows "?"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"minicnn: note: {_one_line(message)}")
            arguments = parse(sys.argv[1:] if argv is None else argv)
            if getattr(arguments, "threads", None):
                threads.set_num_threads(arguments.threads)
            status = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except CommandLineError as error:
        _say(str(error))
        return 2
    except train.Interrupted as interruption:
        _say(f"minicnn: {interruption}")
        return 128 + interruption.signal
    except KeyboardInterrupt:
        _say("minicnn: interrupted")
        return 130
    except BrokenPipeError:  # ``minicnn ... | head``: nobody reads on; Python would complain once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        _say(f"minicnn: error: {_one_line(error) or type(error).__name__}")
        return 1


def _one_line(message: object) -> str:
    """What may have the name of a file in it, with whatever letters."""
    return printable(" ".join(str(message).split()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ demo and train

class Meter:
    """A line about how far something is: on a terminal one that changes, elsewhere one now and then."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.terminal, self.shown = stream, stream.isatty(), time.monotonic()
        try:
            "━─".encode(stream.encoding or "ascii")
            self.full, self.empty = "━", "─"
        except UnicodeEncodeError:
            self.full, self.empty = "#", "-"

    def due(self) -> bool:
        """Whether it is time for a line: ten times a second on a terminal, every ten seconds elsewhere."""
        now = time.monotonic()
        if now - self.shown < (0.1 if self.terminal else 10):
            return False
        self.shown = now
        return True

    def bar(self, share: float) -> str:
        done = round(20 * share)
        return self.full * done + self.empty * (20 - done)

    def show(self, line: str) -> None:
        if not self.terminal:
            print(line, file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line[:width].ljust(width), end="", file=self.stream, flush=True)

    def clear(self) -> None:
        """Wipe the line that changes."""
        if self.terminal:
            blank = " " * (shutil.get_terminal_size().columns - 1)
            print("\r" + blank + "\r", end="", file=self.stream, flush=True)


class Display(Meter):
    """Shows a training while it runs."""

    def __init__(self, recipe: train.Recipe) -> None:
        super().__init__(sys.stdout)
        self.recipe, self.steps, self.epochs = recipe, 0, 0

    def step(self, p: train.Progress) -> None:
        """A line, if it is time for one."""
        self.steps += 1
        if not self.due():
            return
        minutes, seconds = divmod(round(p.seconds_left), 60)
        epoch, step = f"epoch {p.epoch}/{p.epochs}", f"{p.step:{len(str(p.steps))}}/{p.steps}"
        facts = f"{_facts(p.loss, p.accuracy)}  {p.images_per_second:,.0f} images/s  {minutes}:{seconds:02} left"
        self.show(f"{epoch} {self.bar(p.step / p.steps) if self.terminal else ' step'} {step}  {facts}")

    def epoch(self, entry: dict[str, Any]) -> None:
        """A line that stays."""
        self.epochs += 1
        self.shown = time.monotonic()
        self.clear()
        print(
            f"epoch {entry['epoch']}/{self.recipe.epochs}  {_facts(entry['loss'], entry['accuracy'])}  "
            f"{entry['images_per_second']:,.0f} images/s  {train.judges(self.recipe)} images: "
            f"{_facts(entry['test_loss'], entry['test_accuracy'], entry.get('test_top5_error'))}",
            flush=True,
        )


def _facts(loss: float | None, accuracy: float | None, top5_error: float | None = None) -> str:
    if accuracy is None:
        return "all steps were skipped"
    top5 = "" if top5_error is None else f"  top-5 error {100 * top5_error:.2f} %"
    return f"loss {'not finite' if loss is None else f'{loss:.4f}'}  accuracy {100 * accuracy:5.2f} %{top5}"


def _training(recipe: train.Recipe, device: str | None, run: Callable[..., train.Run], verb: str = "training") -> Any:
    """Train by ``run(device, on_step, on_epoch)``, with words on stdout."""
    print(
        f"{verb} {recipe.model} on {train.title(recipe)} with {recipe.optimizer}: epochs {recipe.epochs}, images a "
        f"step {recipe.batch_size * recipe.accumulate}, seed {recipe.seed}, device {device or 'as before'}, threads "
        f"{threads.get_num_threads()}",
        flush=True,
    )
    display, began = Display(recipe), time.perf_counter()
    try:
        done = run(device, display.step, display.epoch)
    finally:
        display.clear()
    if not (display.steps or display.epochs):
        print("nothing was left to train")
    print(f"{'trained and ' if display.steps else ''}tested in {time.perf_counter() - began:.1f} s")
    if done.stopped:
        print(f"stopped early: {done.stopped}")
    if done.result.top5_error is not None:
        print(f"{train.judges(recipe)} top-5 error {100 * done.result.top5_error:.2f} %")
    names = done.data.classes
    matrix = train.confusion_matrix(done.result.labels, done.result.predictions, len(names))
    print("most frequent mistakes (true → predicted: how often)")
    for true, predicted, count in train.top_confusions(matrix):
        print(f"    {names[true]} → {names[predicted]}: {count}")
    return done


def _page(run: train.Run, path: Path | str) -> int:
    """Draw the page of pictures, or say why not; the exit status."""
    if problem := report.missing():
        print(f"no page of pictures: {problem}")
        return 0
    try:
        train.draw(run, path)
    except (OSError, ValueError) as error:
        _say(f"minicnn: error: no page of pictures: {_one_line(error)}")
        return 1
    print(f"page of pictures: {path}")
    return 0


def _last_line(run: train.Run) -> None:
    print(f"{train.judges(run.recipe)} accuracy {100 * run.result.accuracy:.2f} %")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The entries of a recipe that the command line names."""
    given = vars(arguments)
    return {f.name: value for f in fields(train.Recipe) if (value := given.get(f.name)) is not None}


def _demo(arguments: argparse.Namespace) -> int:
    recipe = train.Recipe(**_given(arguments))
    run = _training(recipe, arguments.device, lambda *how: train.run(recipe, *how))
    status = _page(run, arguments.output)
    _last_line(run)
    return status


def _train(arguments: argparse.Namespace) -> int:
    if arguments.list_presets:
        for name, preset in train.PRESETS.items():
            print(f"{name}: {preset.recipe.model} on {preset.recipe.data}. {preset.source}. Here: {preset.departures}")
        return 0
    if arguments.preset and arguments.config:
        arguments.parser.error("--preset and --config are two recipes to begin with: give one of them")
    if not (arguments.model or arguments.preset or arguments.config):
        arguments.parser.error("the following arguments are required: MODEL (or --preset, or --config)")
    recipe = train.read_config(arguments.config, partial=True) if arguments.config else train.Recipe()
    if arguments.preset:
        recipe = train.PRESETS[arguments.preset].recipe
    elif not arguments.config and arguments.data and arguments.data not in train.SETS:
        recipe = replace(recipe, **train.FOR_PICTURES)
    given = _given(arguments)
    if arguments.option or given.get("model", recipe.model) != recipe.model:  # options are for one network
        kept = recipe.options if given.get("model", recipe.model) == recipe.model or arguments.preset else {}
        given["options"] = {**kept, **dict(arguments.option or [])}
    if given.get("schedule", "step") != "step":  # those of a preset are for its own
        recipe = replace(recipe, milestones=train.Recipe.milestones, factors=train.Recipe.factors)
    recipe = replace(recipe, **given)
    recipe.check()
    if recipe.schedule != "step" and {"milestones", "factors"} & given.keys():
        arguments.parser.error(f"--milestones and --factors are for --schedule step, and this one is {recipe.schedule}")
    recipe = train.located(recipe)
    numbered = (Path("runs", f"{recipe.model}-{i}") for i in itertools.count(1))
    path = arguments.output or next(filter(_is_free, numbered))
    folder = train.RunFolder(path, arguments.checkpoint_every, arguments.keep)

    def run(*how: Any) -> train.Run:
        return train.run(
            recipe, *how, folder=folder, root=arguments.root, download=arguments.download, workers=arguments.workers
        )

    return _results(_training(recipe, arguments.device, run), path)


def _resume(arguments: argparse.Namespace) -> int:
    folder = train.RunFolder(arguments.folder, arguments.checkpoint_every, arguments.keep)

    def run(*how: Any) -> train.Run:
        return train.resume(
            folder, *how, root=arguments.root, download=arguments.download, workers=arguments.workers, lr=arguments.lr
        )

    return _results(_training(folder.recipe(), arguments.device, run, "resuming"), folder.path)


def _results(run: train.Run, folder: Path) -> int:
    try:
        written = train.save(run, folder)
    except OSError as error:
        raise OSError(f"{error}. The training is over and kept: 'minicnn resume {folder}' writes its results") from None
    for path in written:
        print(f"written: {path}")
    status = _page(run, folder / "page.png")
    _last_line(run)
    return status


# ------------------------------------------------------------------------------------------------------ stepping

def _step(arguments: argparse.Namespace) -> int:
    manual_seed(arguments.seed)
    names = ("num_classes", "in_channels", "input_size")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    image = int(arguments.image) if re.fullmatch(r"\d{1,9}", arguments.image) else arguments.image
    build = getattr(models, arguments.model)
    specimen = stepping.prepare(build, image, arguments.label, arguments.weights, arguments.variant, **options)
    if not arguments.weights:
        _say("minicnn: note: the weights are drawn anew; --weights takes those that minicnn train has written")
    specimen.model.train(arguments.training)
    loss = specimen.loss()
    walk = debug(loss)
    walk.save(arguments.output, arguments.megabytes, f"{arguments.model}, {specimen.description}")
    print(f"loss {loss.item():.6g}, {len(walk)} operations forward and {len(walk)} backward")
    print(f"written: {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB)")
    return 0


# ----------------------------------------------------------------------------------------------------------- lab

def _lab(arguments: argparse.Namespace) -> int:
    missing = report.missing()
    if missing and arguments.plot:
        raise ImportError(missing)  # before the work
    meter = Meter(sys.stderr)

    def progress(share: float, text: str) -> None:
        if meter.due():
            meter.show(f"{meter.bar(share)} {100 * share:3.0f} %  {text}")

    try:
        result = EXPERIMENTS[arguments.name](seed=arguments.seed, device=arguments.device, progress=progress)
    finally:
        meter.clear()
    print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if arguments.json else result)
    if arguments.csv:
        with weights.replacing(arguments.csv) as file:
            file.write(result.to_csv().encode())
        _say(f"written: {arguments.csv}")
    if missing:
        _say(f"minicnn: note: no picture: {missing}")
        return 0
    path = arguments.plot or Path(f"minicnn-lab-{arguments.name}.png")
    with weights.replacing(path) as file:
        result.plot().savefig(file, format=path.suffix[1:], dpi=150)
    _say(f"written: {path}")
    return 0


# ---------------------------------------------------------------------------------------------- gradcheck, doctor

def _gradcheck(arguments: argparse.Namespace) -> int:
    file, name = arguments.target
    generator = backend.manual_seed(arguments.seed)
    with _code_of(file):
        names = {n: value for n, value in runpy.run_path(str(file), run_name=file.stem).items() if callable(value)}
    target: Any = names[train.nearest("class or function", name, names)]
    with _code_of(file):
        if inspect.isclass(target):
            positional, keywords = arguments.args
            target = target(*positional, **keywords)
        inputs = [generator.standard_normal(shape) for shape in arguments.input]
        result = gradcheck(target, *inputs, seed=arguments.seed)
    print(result)
    return 0 if result else 1


@contextmanager
def _code_of(file: Path) -> Iterator[None]:
    """Let code of `file` import its neighbours; what it raises becomes one line that names its last line before."""
    beside = str(file.parent.resolve())
    sys.path.insert(0, beside)
    try:
        yield
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        if isinstance(error, SyntaxError):
            lines.append(error.lineno)
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        raise RuntimeError(" ".join(f"{place}: {type(error).__name__}: {error}".split())) from error
    finally:
        sys.path.remove(beside)


# -------------------------------------------------------------------------------------------------- classifying

def _classify(arguments: argparse.Namespace) -> int:
    build = getattr(models, arguments.model)
    classifier = classify.Classifier.load(build, arguments.weights, arguments.variant, arguments.names)
    for classified in classifier(arguments.images, arguments.top):
        print(*classify.lines(classified), sep="\n")
    return 0


# --------------------------------------------------------------------------------------- summary, memory, facts

def _network(arguments: argparse.Namespace) -> tuple[Module, tuple[int, ...]]:
    """The network that the command line names, of shapes alone, and the shape of its input."""
    build = getattr(models, arguments.model)
    names = ("variant", "num_classes", "in_channels", "input_size")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    with dry_run():
        model = build(**given)
    channels = given.get("in_channels", inspect.signature(build).parameters["in_channels"].default)
    return model, (arguments.batch_size, channels, model.input_size, model.input_size)


def _show(result: Summary | Memory, arguments: argparse.Namespace) -> None:
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else result)


def _summary(arguments: argparse.Namespace) -> int:
    if arguments.markdown and arguments.json:
        arguments.parser.error("--markdown and --json are two ways to print one table: give one of them")
    model, shape = _network(arguments)
    result = summary(model.train(arguments.training), shape)
    if arguments.markdown:
        print(result.to_markdown())
    else:
        _show(result, arguments)
    return 0


def _memory(arguments: argparse.Namespace) -> int:
    model, shape = _network(arguments)
    result = memory(model, shape, arguments.convention, arguments.optimizer, not arguments.evaluation)
    _show(result, arguments)
    if arguments.layers and not arguments.json:
        print(f"\n{'layer':34}{'parameters, bytes':>20}{'activations, bytes':>20}")
        for layer in result.by_layer():
            print(f"{layer.path or '(network)':34}{layer.parameters:>20,}{layer.activations:>20,}")
    return 0


def _facts_ledger(arguments: argparse.Namespace) -> int:
    found = facts(arguments.network)
    if arguments.json:
        print(json.dumps([fact.to_dict() for fact in found], indent=2, ensure_ascii=False))
        return 0
    print(*found, sep="\n\n")
    verdicts = Counter(fact.verdict for fact in found)
    print(f"\n{len(found)} claims: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    print(f"minicnn {__version__}")
    for subject, line in doctor.examine():
        print(f"{subject:16}{line}")
    return 0


# ---------------------------------------------------------------------------------------------------- selfcheck

def _selfcheck(arguments: argparse.Namespace) -> int:
    meter = Meter(sys.stderr)

    def begin(name: str) -> None:
        if meter.terminal:
            meter.show(f"checking: {name}")

    def done(check: selfcheck.Check) -> None:
        meter.clear()
        if not arguments.json:
            print(check, flush=True)

    try:
        result = selfcheck.run(arguments.device, arguments.quick, begin, done)
    except selfcheck.NoDevice as error:
        reason = f"{error}. GPU: {dict(doctor.examine())['GPU']}"
        if arguments.json:
            print(json.dumps(selfcheck.no_device(arguments.device, reason), indent=2, ensure_ascii=False))
        raise CommandLineError(f"minicnn selfcheck: {reason}") from error
    finally:
        meter.clear()
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return 0 if result.passed else 1
    failed = [check.name for check in result.checks if not check.passed]
    count = len(result.checks)
    print(f"FAILED: {', '.join(failed)}" if failed else f"passed: {count} checks")
    if row := result.row():
        print(f"for the table in README.md, 'last verified on':\n{row}")
    return 1 if failed else 0
