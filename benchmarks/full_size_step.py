"""One training step (forward, backward, SGD with momentum and weight decay) of the five networks at full size."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable

import numpy as np
from contest import contest, machine, table

import minicnn
from minicnn import Tensor, models
from minicnn import functional as F

NETWORKS = ("lenet5", "alexnet", "vgg16", "googlenet", "resnet34")


def training_step(name: str, batch: int) -> Callable[[], None]:
    """A step of the paper's network `name` on random images; each call is one."""
    model = getattr(models, name)()
    channels = 1 if name == "lenet5" else 3
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, channels, model.input_size, model.input_size), dtype=np.float32)
    labels = rng.integers(0, 10, batch)
    optimizer = minicnn.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        output = model(Tensor(images))
        loss = models.googlenet_loss(output, labels) if name == "googlenet" else F.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    minicnn.set_num_threads(options.threads)
    seconds = {}
    for name in options.models:  # one network at a time, so that only one is in memory
        seconds |= contest({name: training_step(name, options.batch)}, options.rounds, warm_up=1)
    print(machine(), f"{options.threads} threads, batch {options.batch}", sep="; ")
    print(table(seconds, against=options.models[0], items=options.batch))
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    print(f"peak memory of the process: {unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
