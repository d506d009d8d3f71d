"""What the benchmarks share: contenders that take turns, in processes of their own, and a line about the machine."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

PEERS = {"PyTorch": "torch", "DeZero": "dezero", "MyGrad": "mygrad", "Chainer": "chainer"}  # by name, pip's name
# They have a library compute as if the processor had less than it has. Who wants the same bits on several processors
# sets them; a reader's computer does not have them, so contenders run without.
HOLDING_BACK = (
    "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
)  # fmt: skip
# What has all of them compute as on a processor without AVX-512.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
DISTURBED = 2.0  # times its shortest run a contender takes, where somebody else takes its time
BUSY = 0.2  # from so many processors on that others keep busy, before anything begins, times are not to be kept


def installed(package: str) -> str | None:
    """The package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(path: str = "/proc/cpuinfo") -> dict[str, Any]:
    """Processor, cores, Python and the versions of what is installed, and the date."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open(path) as lines:
        info = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        processor = info.get("model name", processor)
        if "cpu family" in info and "model" in info:  # a virtual machine's name for it may be that of several
            processor += f", family {info['cpu family']}, model {info['model']}"
    packages = ("numpy", "threadpoolctl", *PEERS.values())
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: found for package in packages if (found := installed(package))},
    }


def busy(seconds: float = 3.0, path: str = "/proc/stat") -> float | None:
    """How many processors others keep busy, as seen while this process sleeps; None where the system does not tell.

    A load average would not do: it remembers for minutes what this process itself did before.
    """

    def ticks() -> tuple[int, int]:  # of all processors; of these, idle
        with open(path) as lines:
            counts = [int(count) for count in next(lines).split()[1:9]]  # what guests took is in them already
        return sum(counts), counts[3] + counts[4]  # idle, waiting for a disk

    try:
        (total, idle), _, (later, still_idle) = ticks(), time.sleep(seconds), ticks()
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return round((os.cpu_count() or 1) * (1 - (still_idle - idle) / max(later - total, 1)), 2)


def describe(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    kernels = f", BLAS for {machine['blas']}" if machine.get("blas") else ""
    return (
        f"{machine['processor']} ({machine['processors']} processors, {machine['system']}), "
        f"Python {machine['python']}, {versions}{kernels}"
    )


def take_turns(
    contenders: dict[str, Callable[[], float]], rounds: int, patience: float = math.inf
) -> dict[str, list[float]]:
    """The seconds that each contender says its runs took; they take turns, so that noise falls on all alike.

    The first round warms up and does not count. A contender whose runs have taken `patience` seconds rests from then
    on; where even the first took as long, that one counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + rounds):
        for name, run in contenders.items():
            if sum(seconds[name]) < patience:
                seconds[name].append(run())
    return {name: runs[1:] or runs for name, runs in seconds.items()}


def calm_turns(
    contenders: dict[str, Callable[[], float]], rounds: int, patience: float = math.inf
) -> dict[str, list[float]]:
    """`take_turns`; twice, where somebody else took a contender's time, for fewer of its runs are disturbed then."""
    seconds = take_turns(contenders, rounds, patience)
    for name, runs in seconds.items():
        if (uneven := max(runs) / min(runs)) > DISTURBED:
            print(f"{name}'s longest run took {uneven:.2f} times its shortest: all take their turns again")
            again = take_turns(contenders, rounds, patience)
            return {name: runs + again[name] for name, runs in seconds.items()}
    return seconds


def table(seconds: dict[str, list[float]], against: str) -> str:
    """Medians, the spread of the middle half, and ratios to the contender `against`."""
    base = statistics.median(seconds[against])
    lines = [f"{'':24}{'median':>12}{'quartiles':>22}{'ratio':>8}"]
    for name, runs in seconds.items():
        low, median, high = statistics.quantiles(runs, n=4, method="inclusive") if len(runs) > 1 else runs * 3
        quartiles = f"{1e3 * low:.2f} to {1e3 * high:.2f}"
        lines.append(f"{name:24}{1e3 * median:>9.2f} ms{quartiles:>22}{median / base:>8.2f}")
    return "\n".join(lines)


def geometric_mean(ratios: Iterable[float]) -> float:
    return statistics.geometric_mean(ratios)


class Refused(Exception):
    """A contender did not do what it was asked to; the message says why."""


class Worker:
    """A contender in a process of its own, `worker.py`. Close it, or use it in a ``with``."""

    held_back: ClassVar[dict[str, str]] = {}  # `AVX2`, where all are to be

    def __init__(self, library: str, threads: int, timeout: float = math.inf):
        self.timeout = timeout
        # Without threadpoolctl, BLAS reads its number of threads here.
        variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        # OpenBLAS's threads spin 2ⁿ ticks for more work: a tenth of a second by default, taken from whose turn is next.
        variables["OPENBLAS_THREAD_TIMEOUT"] = "20"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), library, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={name: x for name, x in os.environ.items() if name not in HOLDING_BACK} | variables | self.held_back,
        )  # fmt: skip

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            Refused: it says why it cannot, it ended, or it took too long.
        """
        assert self.process.stdin and self.process.stdout
        late = threading.Event()
        timer = threading.Timer(min(self.timeout, threading.TIMEOUT_MAX), lambda: (late.set(), self.process.kill()))
        timer.daemon = True
        timer.start()
        try:
            print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if late.is_set():
            raise Refused(f"took more than {self.timeout:.0f} s")
        if not line:
            raise Refused(f"the process ended, with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def turn(self, task: str, least: float) -> Callable[[], float]:
        """A contender for `take_turns`: `task` again and again for at least `least` seconds, the mean of the runs."""
        return lambda: self.ask("turn", task=task, least=least)["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # a command that was never read
                if stream:
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
