"""A process that trains, for tests that kill it: a tiny network with batch norm and dropout on tiny pictures.

    python tests/train_driver.py start FOLDER [ENTRY=JSON ...]    # entries of the recipe
    python tests/train_driver.py resume FOLDER

With DIE="what,n" in the environment it kills itself (SIGKILL) at the n-th time that: ``write``: half of a checkpoint is
written; ``rename``: a file is whole and about to be put in its place; ``renamed``: it has been; ``log``: half of a
log's line is written; ``step``: a step has been taken. The exit status and stderr are the command line's.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from minicnn import cli, nn, train, weights
from minicnn.data import ArrayDataset
from minicnn.train import checkpoint, folder


class Dots(ArrayDataset):
    """Where the bright pixel is decides."""

    MEAN, STD = 0.1, 0.2
    classes = ("left", "middle", "right")

    def __init__(self, train=True):
        random = np.random.default_rng(train)
        labels = random.integers(0, 3, 70 if train else 30)
        images = random.integers(0, 90, (len(labels), 8, 8))
        images[np.arange(len(labels)), 3, 1 + 2 * labels] += 120
        super().__init__(images.astype(np.uint8), labels)


def tiny(num_classes=3, in_channels=1, input_size=None):
    model = nn.Sequential(
        ("conv", nn.Conv2d(in_channels, 4, 3, padding=1)), ("norm", nn.BatchNorm2d(4)), ("relu", nn.ReLU()),
        ("flat", nn.Flatten()), ("drop", nn.Dropout(0.3)), ("fc", nn.Linear(256, num_classes)),
    )  # fmt: skip
    model.input_size, model.smallest = input_size or 8, 1
    return model


RECIPE = train.Recipe(
    model="tiny", data="dots", epochs=4, batch_size=8, accumulate=2, augment="shift", lr=0.01, clip_norm=1.0, warmup=3,
    evaluate_every=3, label_smoothing=0.1, weight_decay=0.01,
)  # fmt: skip


def install():
    train.SETS["dots"], train.MODELS["tiny"] = Dots, tiny


def die(what, number):
    count = [number]

    def now(event):
        if event == what:
            count[0] -= 1
            if count[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    write, replace = checkpoint._Digesting.write, os.replace
    append, step = folder.RunFolder._append, folder.RunFolder.step

    def dying_write(self, data):
        half = len(data) // 2
        write(self, bytes(data)[:half])
        self.file.flush()
        now("write")
        write(self, bytes(data)[half:])
        return len(data)

    def dying_replace(source, target):
        now("rename")
        replace(source, target)
        now("renamed")

    def dying_append(self, name, line):
        append(self, name, line[: len(line) // 2])
        now("log")
        append(self, name, line[len(line) // 2 :])

    def dying_step(self, training, progress):
        step(self, training, progress)
        now("step")

    checkpoint._Digesting.write, weights.os.replace = dying_write, dying_replace
    folder.RunFolder._append, folder.RunFolder.step = dying_append, dying_step


def main(verb, path, *entries):
    install()
    if "DIE" in os.environ:
        what, number = os.environ["DIE"].split(",")
        die(what, int(number))
    cli.report.missing = lambda: "no pictures here"
    if verb == "resume":
        return cli.main(["resume", path, "--checkpoint-every", "1", "--workers", "2"])
    changes = {name: json.loads(value) for name, value in (entry.split("=", 1) for entry in entries)}
    train.PRESETS["tiny"] = train.Preset(train.Recipe(**{**RECIPE.__dict__, **changes}), "", "")
    return cli.main(["train", "--preset", "tiny", "--output", path, "--checkpoint-every", "1"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
