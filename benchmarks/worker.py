"""One contender in a process of its own, told what to do on its standard input: `contest.Worker` is the other end.

Processes of their own keep apart what libraries share in one: threads that spin while they wait, the allocator, the
peak memory, and the changes to NumPy that old libraries need.

    python benchmarks/worker.py minicnn 2     # the library and its number of threads

A line is a command, ``["network", {"name": "lenet5", ...}]``; the answer is a line too, with ``"error"`` where there
was one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import math
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
import own
from contest import PEERS

import minicnn

PRODUCT = "product"  # no library, NumPy's matrix product alone
PACKAGES = {**PEERS, PRODUCT: "numpy"}
SETTLING = 0.1  # seconds


class Contender:
    """The commands, as methods; what they return goes back as JSON."""

    def __init__(self, library: str, threads: int):
        self.name, self.threads = library, threads
        self.module = importlib.import_module(f"peers_{PEERS[library]}") if library in PEERS else own
        self.kind = own.Own if self.module is own else self.module.CONTENDER
        self.tasks: dict[str, Callable[[], object]] = {}
        self.entrant: Any = None

    def hello(self) -> dict[str, Any]:
        """The library's version, and for which processors NumPy's BLAS has chosen its kernels."""
        kernels = [blas["architecture"] for blas in minicnn.threads.blas_libraries() or [] if "architecture" in blas]
        number = version(PACKAGES[self.name]) if self.name in PACKAGES else minicnn.__version__
        return {"version": number, "blas": kernels[0] if kernels else None}

    def set_threads(self) -> None:
        """Give the library its threads; minicnn, which also lists the network for the others, has held BLAS at one."""
        if self.module is own and self.name != PRODUCT:
            minicnn.set_num_threads(self.threads)
            return
        import threadpoolctl

        threadpoolctl.threadpool_limits(self.threads, user_api="blas")
        getattr(self.module, "set_threads", lambda n: None)(self.threads)

    def network(self, name: str, variant: str, batch: int, **options: Any) -> dict[str, Any]:
        """Build a network, with the same weights and images for every library."""
        minicnn.manual_seed(0)
        model = getattr(minicnn.models, name)(variant=variant, **options)
        rng = np.random.default_rng(1)
        shape = (batch, model.in_channels, model.input_size, model.input_size)
        images = rng.standard_normal(shape, dtype=np.float32)
        labels = rng.integers(0, model.num_classes, batch)
        self.entrant = self.kind(model, images, labels)
        self.set_threads()
        self.tasks = {"training": self.entrant.step, "inference": self.entrant.infer}
        return {"side": model.input_size}

    def loss(self) -> dict[str, Any]:
        """A training step without dropout, to be compared: its loss, and what it took."""
        self.entrant.dropping = False
        start = time.perf_counter()
        loss = self.entrant.step()
        seconds = time.perf_counter() - start
        self.entrant.dropping = True
        return {"loss": loss, "seconds": seconds}

    def layer(self, batch: int, x: list[int], w: list[int], **params: Any) -> dict[str, Any]:
        """Set up the passes of a convolution, or the product of the same size, weights × columns."""
        rng = np.random.default_rng(1)
        weights = rng.standard_normal(w, dtype=np.float32)
        if self.name == PRODUCT:
            depth, sites = math.prod(w[1:]), math.prod(params["sites"])
            groups, at_once = params["groups"], max(1, min(batch, (64 << 20) // (4 * depth * sites)))
            a = weights.reshape(groups, -1, depth)
            b = rng.standard_normal((groups, depth, at_once * sites), dtype=np.float32)
            out = np.empty((groups, a.shape[1], b.shape[2]), np.float32)
            self.tasks = {"product": lambda: [np.matmul(p, q, out=o) for p, q, o in zip(a, b, out, strict=True)]}
            self.set_threads()
            return {"images": at_once}
        self.set_threads()
        images = rng.standard_normal((batch, *x), dtype=np.float32)
        params.pop("sites")
        self.tasks = dict(self.module.convolution(images, weights, **params))
        return {"images": batch}

    def turn(self, task: str, least: float) -> dict[str, Any]:
        """Run `task` for at least `least` seconds, and at least once: the mean of the runs.

        As many as fit into `SETTLING` go first and do not count: the threads of whose turn was before may still spin,
        waiting for work, and memory and caches are the other's.
        """
        start = time.perf_counter()
        while time.perf_counter() - start < min(SETTLING, least):
            self.tasks[task]()
        runs, start = 0, time.perf_counter()
        while not runs or time.perf_counter() - start < least:
            self.tasks[task]()
            runs += 1
        return {"seconds": (time.perf_counter() - start) / runs}

    def load(self) -> None:
        """Two steps of the smallest network, so that what a library loads at first is not counted as the step's."""
        images = np.zeros((1, 1, 12, 12), np.float32)
        entrant = self.kind(minicnn.models.lenet5(input_size=12), images, np.zeros(1, np.int64))
        for _ in range(2):
            entrant.step()

    def memory(self, steps: int = 3) -> dict[str, Any]:
        """The peak of the process's memory over some training steps, beyond what it held before the first."""
        self.load()
        before = reset_peak()
        for _ in range(steps):
            self.entrant.step()
        return {"bytes": peak() - before, "before": before}

    def traced_memory(self, steps: int = 3) -> dict[str, Any]:
        """The peak of what Python's allocators (NumPy's among them) handed out during some training steps."""
        self.load()
        tracemalloc.start()
        for _ in range(steps):
            self.entrant.step()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return {"bytes": found}


def status(field: str) -> int:
    """An entry of Linux's /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def reset_peak() -> int:
    """Let the peak be what is held now, without what lies free in the allocator; returns that."""
    gc.collect()
    with suppress(AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    contender: Contender | None = None
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            contender = contender or Contender(sys.argv[1], int(sys.argv[2]))
            answer = getattr(contender, command)(**arguments)
        except Exception as error:
            plain = type(error).__name__ == "Unsupported"
            answer = {"error": str(error) if plain else f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
