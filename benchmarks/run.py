"""Measures minicnn beside PyTorch, DeZero, MyGrad and Chainer, as far as they are installed, and keeps what it saw.

    python benchmarks/run.py                                        # all of it, into .benchmarks/
    python benchmarks/run.py --quick                                # a glance: small batches, few rounds
    python benchmarks/run.py --only networks --models resnet50 --rounds 5
    python benchmarks/run.py --only layers --out benchmarks/results # for `report.py` to publish

Sections, each a file of JSON: `networks` (a training step, and inference), `layers` (the three passes of every
convolution), `scaling` (time against batch size, depth and side of the images), `memory` (peak of a training step).
With --avx2 the networks alone, into `avx2.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contest import (
    AVX2,
    BUSY,
    PEERS,
    Refused,
    Worker,
    busy,
    calm_turns,
    describe,
    installed,
    machine,
    table,
    take_turns,
)
from worker import PRODUCT

import minicnn
from minicnn.engine import dry_run
from minicnn.inspect.trace import trace

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """What is measured: a network, its batch, and for small trials its side and width."""

    name: str
    variant: str
    batch: int
    side: int | None = None
    width: float = 1.0

    @property
    def label(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant == "paper" else self.name

    def arguments(self) -> dict[str, Any]:
        return {"input_size": self.side} | ({"width": self.width} if self.width != 1 else {})

    def row(self) -> Row:
        return {"network": self.label, "batch": self.batch} | ({"side": self.side} if self.side else {})


# As PyTorch's users have them.
NETWORKS = (
    Network("lenet5", "modern", 64),
    Network("alexnet", "torchvision", 16),
    Network("vgg16", "torchvision", 4),
    Network("googlenet", "torchvision", 8),
    Network("resnet18", "torchvision", 8),
    Network("resnet34", "torchvision", 8),
    Network("resnet50", "torchvision", 8),
)
# The papers' forms, with response normalisation and groups: beside the means.
PAPERS = (
    Network("alexnet", "paper", 16),
    Network("googlenet", "paper", 8),
)
LAYERS_OF = ("alexnet", "vgg16", "resnet18", "resnet50")
BATCHES, DEPTHS = (1, 2, 4, 8, 16, 32), ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
SIDES = (32, 64, 96, 128, 160, 192, 224)
SMALLEST = {"lenet5": 12, "alexnet": 67, "vgg16": 32, "googlenet": 31}  # for --tiny; ResNets: 32


class Bench:
    """The sections, as generators of rows; `options` are the command line's."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.peers = [name for name in PEERS if name in options.libraries and installed(PEERS[name])]
        for name in options.libraries:
            if name not in self.peers:
                print(f"{name} is not installed, and left out: pip install {PEERS[name]}")

    @property
    def main_peer(self) -> list[str]:
        """PyTorch, where it is there: the one that everything is measured beside."""
        return [name for name in self.peers if name == "PyTorch"]

    def shaped(self, network: Network) -> Network:
        """`network` as large as the command line wants it."""
        options = self.options
        if options.tiny:
            network = replace(network, batch=2, side=SMALLEST.get(network.name, 32), width=0.125)
        elif options.quick:
            network = replace(network, batch=max(2, network.batch // 4))
        return replace(network, batch=options.batch or network.batch, side=options.side or network.side)

    def chosen(self, networks: tuple[Network, ...]) -> list[Network]:
        models = self.options.models
        return [self.shaped(n) for n in networks if not models or n.name in models]

    def open(self, library: str, network: Network, timeout: float = math.inf) -> Worker:
        """A contender that has built `network`."""
        worker = Worker(library, self.options.threads, timeout)
        try:
            arguments = network.arguments()
            worker.ask("network", name=network.name, variant=network.variant, batch=network.batch, **arguments)
        except BaseException:
            worker.close()
            raise
        return worker

    # ------------------------------------------------------------------------------------------- networks

    def networks(self) -> Iterator[Row]:
        for network in self.chosen(NETWORKS if self.options.quick else NETWORKS + PAPERS):
            with self.open("minicnn", network) as own:
                losses = [own.ask("loss")["loss"] for _ in range(2)]
                if not self.main_peer:
                    for task in ("training", "inference"):
                        yield from self.match(network, task, {"minicnn": own})
                for library in self.peers:
                    if self.options.quick and library != "PyTorch" and network.name != "lenet5":
                        continue
                    yield from self.against(network, own, losses, library)

    def against(self, network: Network, own: Worker, losses: list[float], library: str) -> Iterator[Row]:
        """minicnn and another library take turns, after both have shown that they compute the same."""
        patience = math.inf if library == "PyTorch" else self.options.patience
        try:
            with self.open(library, network, timeout=max(60.0, 10 * patience)) as other:
                seconds = []
                for _ in losses:
                    answer = other.ask("loss")
                    seconds.append((answer["loss"], answer["seconds"]))
                    if answer["seconds"] > patience:
                        break
                self.compare(losses, [loss for loss, _ in seconds])
                contenders = {"minicnn": own, library: other}
                if len(seconds) == len(losses):
                    yield from self.match(network, "training", contenders, patience)
                else:  # too slow for more than one step
                    yield {
                        **network.row(), "task": "training", "contender": library,
                        "seconds": [seconds[0][1]], "minicnn": self.alone(own, "training"),
                    }  # fmt: skip
                yield from self.match(network, "inference", contenders, patience)
        except Refused as refusal:
            print(f"\n{network.label}, {library}: {refusal}")
            yield {**network.row(), "contender": library, "reason": str(refusal)}

    def compare(self, ours: list[float], theirs: list[float]) -> None:
        """The same losses, and the same change by a step, as far as float32 goes through a deep network.

        Raises:
            Refused: they differ.
        """
        agree = math.isclose(ours[0], theirs[0], rel_tol=1e-3)
        if len(theirs) > 1:
            agree = agree and math.isclose(ours[0] - ours[1], theirs[0] - theirs[1], rel_tol=0.1, abs_tol=2e-5)
        if not agree:
            raise Refused(f"computes something else: losses {theirs}, minicnn's are {ours}")

    def match(
        self, network: Network, task: str, workers: dict[str, Worker], patience: float = math.inf
    ) -> Iterator[Row]:
        contenders = {name: worker.turn(task, self.options.least) for name, worker in workers.items()}
        print(f"\n{network.label}, batch {network.batch}, {task}")
        seconds = calm_turns(contenders, self.options.rounds, patience)
        print(table(seconds, against=list(seconds)[-1]))
        own = seconds.pop("minicnn")
        for library, runs in seconds.items():
            yield {**network.row(), "task": task, "contender": library, "seconds": runs, "minicnn": own}
        if not seconds:
            yield {**network.row(), "task": task, "contender": None, "seconds": [], "minicnn": own}

    def alone(self, worker: Worker, task: str) -> list[float]:
        return take_turns({"": worker.turn(task, self.options.least)}, self.options.rounds)[""]

    # --------------------------------------------------------------------------------------------- layers

    def layers(self) -> Iterator[Row]:
        """GFLOP/s of each different convolution: 2 operations a multiply-add, as the direct algorithm has them."""
        names = self.options.models or LAYERS_OF[: 2 if self.options.quick else None]
        batch = self.options.batch or (2 if self.options.quick or self.options.tiny else 8)
        libraries = ["minicnn", *self.main_peer, PRODUCT]
        workers = {name: Worker(name, self.options.threads) for name in libraries}
        try:
            for row, layer in self.convolutions(names):
                images = {name: worker.ask("layer", batch=batch, **layer)["images"] for name, worker in workers.items()}
                one = 2 * math.prod(layer["w"]) * math.prod(layer["sites"])
                for name in ("forward", "input gradient", "weight gradient"):
                    tasks = {library: PRODUCT if library == PRODUCT else name for library in libraries}
                    least = self.options.least / 8
                    turns = {library: workers[library].turn(task, least) for library, task in tasks.items()}
                    seconds = take_turns(turns, max(1, self.options.rounds // 2))
                    rates = {name: [one * images[name] / 1e9 / s for s in runs] for name, runs in seconds.items()}
                    yield {**row, "batch": batch, "pass": name, "gflops": rates}
                    best = "  ".join(f"{library} {sorted(r)[len(r) // 2]:.0f}" for library, r in rates.items())
                    print(f"{row['network']} {row['layer']}, {name}: {best} GFLOP/s")
        finally:
            for worker in workers.values():
                worker.close()

    def convolutions(self, names: tuple[str, ...]) -> Iterator[tuple[Row, dict[str, Any]]]:
        """The different convolutions of the networks, in their order, and what `Contender.layer` takes for each."""
        seen = set()
        for network in NETWORKS + PAPERS:
            if network.name not in names:
                continue
            network = self.shaped(network)
            with dry_run():
                build = getattr(minicnn.models, network.name)
                model = build(variant=network.variant, **network.arguments()).eval()
                nodes = trace(model, (1, model.in_channels, model.input_size, model.input_size)).nodes
            for node in nodes:
                if node.op.name != "conv2d":
                    continue
                x, w = (source.shape for source in node.inputs[:2])
                layer = {"x": x[1:], "w": w, "sites": node.shape[2:], **node.params}
                if (key := json.dumps(layer)) in seen:
                    continue
                seen.add(key)
                stride, groups = node.params["stride"][0], node.params["groups"]
                label = f"{x[1]}→{w[0]}, {w[2]}×{w[3]}, {x[2]} pixels"
                label += f", stride {stride}" * (stride > 1) + f", {groups} groups" * (groups > 1)
                yield {"network": network.label, "layer": label}, layer

    # -------------------------------------------------------------------------------------------- scaling

    def scaling(self) -> Iterator[Row]:
        """A training step of ResNets, with one thing varied."""
        base = Network("resnet18", "torchvision", 4, side=112)
        if self.options.tiny:
            base = replace(base, batch=2, side=64, width=0.125)
        few = slice(0, 2 if self.options.quick or self.options.tiny else None)
        series = {
            "batch": [(n, replace(base, batch=n)) for n in BATCHES[few]],
            "depth": [(int(name.removeprefix("resnet")), replace(base, name=name)) for name in DEPTHS[few]],
            "side": [(n, replace(base, side=n)) for n in SIDES[few]],
        }
        for axis, points in series.items():
            for x, network in points:
                workers = {library: self.open(library, network) for library in ("minicnn", *self.main_peer)}
                try:
                    turns = {name: worker.turn("training", self.options.least) for name, worker in workers.items()}
                    seconds = take_turns(turns, max(1, self.options.rounds // 2))
                finally:
                    for worker in workers.values():
                        worker.close()
                yield {**network.row(), "axis": axis, "x": x, "seconds": seconds}
                times = "  ".join(f"{name} {1e3 * sorted(r)[len(r) // 2]:.0f} ms" for name, r in seconds.items())
                print(f"{axis} {x}: {times}")

    # --------------------------------------------------------------------------------------------- memory

    def memory(self) -> Iterator[Row]:
        """The peak of three training steps beyond what the process held before them, weights included."""
        if not Path("/proc/self/clear_refs").exists():
            print("memory: measured on Linux alone, whose kernel tells a process its peak and lets it begin anew")
            return
        for network in self.chosen(NETWORKS + PAPERS):
            if self.options.quick and network.name not in ("lenet5", "resnet18"):
                continue
            row: Row = {**network.row(), "bytes": {}}
            for library, command in (("minicnn", "memory"), ("minicnn", "traced_memory"), ("PyTorch", "memory")):
                if library == "minicnn" or library in self.main_peer:
                    with self.open(library, network) as worker:
                        label = "minicnn, tracemalloc" if command == "traced_memory" else library
                        row["bytes"][label] = worker.ask(command)["bytes"]
            yield row
            print(network.label, {name: f"{n / 1e6:.1f} MB" for name, n in row["bytes"].items()})


SECTIONS = ("networks", "layers", "scaling", "memory")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--models", nargs="+", choices=sorted({n.name for n in NETWORKS}))
    parser.add_argument("--libraries", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="runs that count (9, or 2 with --quick)")
    parser.add_argument("--least", type=float, help="seconds that a run lasts at least, by repetition")
    parser.add_argument("--patience", type=float, default=8.0, help="seconds for a task of DeZero, MyGrad or Chainer")
    parser.add_argument("--batch", type=int, help="instead of each network's own")
    parser.add_argument("--side", type=int, help="of the images, instead of each network's own")
    parser.add_argument("--avx2", action="store_true", help="networks beside PyTorch, as if without AVX-512")
    parser.add_argument("--quick", action="store_true", help="small batches, few rounds")
    parser.add_argument("--tiny", action="store_true", help="networks too small to say anything: whether it runs")
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks", help="the folder for the results")
    options = parser.parse_args()
    if options.avx2:
        options.only, options.libraries, Worker.held_back = ["networks"], ["PyTorch"], AVX2
    small = options.quick or options.tiny
    options.rounds = options.rounds or (2 if small else 9)
    options.least = (0.0 if options.tiny else 0.1 if small else 0.4) if options.least is None else options.least
    return options


def rounded(value: Any) -> Any:
    """Numbers to four digits, in whatever is written down."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(x) for x in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write(path: Path, about: Row, rows: list[Row]) -> None:
    """`rows` as JSON, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(rounded(row), ensure_ascii=False) for row in rows)
    path.write_text(f'{{"about": {json.dumps(about, ensure_ascii=False)},\n"rows": [\n{lines}\n]}}\n', "utf-8")


def main() -> None:
    options = parse()
    where, others = machine(), busy()
    with Worker("minicnn", options.threads) as worker:
        where["blas"] = worker.ask("hello")["blas"]
    print(describe(where), f"{options.threads} threads", where["date"], sep="; ")
    if others and others > BUSY:
        print(f"The machine is busy (others use {others} of its processors): do not keep these numbers.")
    bench = Bench(options)
    about = {
        "machine": where, "busy": others, "minicnn": minicnn.__version__, "threads": options.threads,
        "rounds": options.rounds,
        "complete": not (options.quick or options.tiny or options.models or options.batch or options.side),
    }  # fmt: skip
    for section in options.only:
        start = time.perf_counter()
        print(f"\n== {section}")
        rows = list(getattr(bench, section)())
        write(options.out / f"{'avx2' if options.avx2 else section}.json", about, rows)
        print(f"{section} took {time.perf_counter() - start:.0f} s")
    print(f"written to {options.out}")


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:  # minicnn itself: what others refuse is in the results
        sys.exit(f"minicnn: {refusal}")
