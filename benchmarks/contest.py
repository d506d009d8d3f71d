"""What the benchmarks share: contenders that take turns, and a line about the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version


def machine() -> str:
    """Processor, cores, Python and the versions of what is installed."""
    try:
        with open("/proc/cpuinfo") as info:
            processor = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    found = []
    for package in ("numpy", "torch", "threadpoolctl"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{processor}, {os.cpu_count()} processors, Python {platform.python_version()}, {', '.join(found)}"


def contest(contenders: dict[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of each run of each contender; they take turns, so that noise falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(warm_up + rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if i >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], against: str, items: int | None = None) -> str:
    """Medians, the spread of the middle half, and ratios to the contender `against`."""
    base = statistics.median(seconds[against])
    lines = [f"{'':24}{'median':>10}{'quartiles':>20}{'ratio':>8}{'items/s':>12}"]
    for name, runs in seconds.items():
        low, median, high = statistics.quantiles(runs, n=4) if len(runs) > 1 else runs * 3
        rate = f"{items / median:,.3g}" if items else ""
        quartiles = f"{1e3 * low:.2f} to {1e3 * high:.2f}"
        lines.append(f"{name:24}{1e3 * median:>7.2f} ms{quartiles:>20}{median / base:>8.2f}{rate:>12}")
    return "\n".join(lines)
