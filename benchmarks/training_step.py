"""One training step of LeNet-5 (modern; batch 64; SGD with momentum) in minicnn and, where installed, in PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from contest import contest, machine, table

import minicnn
from minicnn import Tensor
from minicnn import functional as F


def data(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((batch, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, batch)


def minicnn_step(batch: int, kernels: str) -> Callable[[], None]:
    images, labels = data(batch)
    model = minicnn.models.lenet5()
    optimizer = minicnn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        with minicnn.use_kernels(kernels):
            loss = F.cross_entropy(model(Tensor(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def pytorch_step(batch: int, threads: int) -> Callable[[], None] | None:
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    torch.set_num_threads(threads)
    images, labels = (torch.from_numpy(x) for x in data(batch))
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    minicnn.set_num_threads(options.threads)
    contenders = {f"minicnn ({kernels})": minicnn_step(options.batch, kernels) for kernels in ("fast", "im2col")}
    if (peer := pytorch_step(options.batch, options.threads)) is not None:
        contenders["PyTorch"] = peer
    seconds = contest(contenders, options.rounds)
    print(machine(), f"{options.threads} threads, batch {options.batch}", sep="; ")
    print(table(seconds, against=next(reversed(contenders)), items=options.batch))


if __name__ == "__main__":
    main()
