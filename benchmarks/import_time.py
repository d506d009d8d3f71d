"""How long `import minicnn` takes in a new process, beyond NumPy's own import."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from contest import describe, machine, table, take_turns


def start(statement: str) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - begin

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    contenders = {statement: start(statement) for statement in ("import numpy", "import minicnn")}
    seconds = take_turns(contenders, options.rounds)
    print(describe(machine()))
    print(table(seconds, against="import numpy"))
    beyond = statistics.median(b - a for a, b in zip(*seconds.values(), strict=True))
    print(f"import minicnn takes {1e3 * beyond:.0f} ms beyond NumPy's own import (the aim: at most 150)")


if __name__ == "__main__":
    main()
