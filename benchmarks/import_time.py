"""How long `import minicnn` takes in a new process, beyond NumPy's own import."""

from __future__ import annotations

import statistics
import subprocess
import sys

from contest import contest, machine, table


def main() -> None:
    def start(statement: str):
        return lambda: subprocess.run([sys.executable, "-c", statement], check=True)

    seconds = contest({"import numpy": start("import numpy"), "import minicnn": start("import minicnn")}, rounds=15)
    print(machine())
    print(table(seconds, against="import numpy"))
    beyond = statistics.median(b - a for a, b in zip(*seconds.values(), strict=True))
    print(f"import minicnn takes {1e3 * beyond:.0f} ms beyond NumPy's own import (the aim: at most 150)")


if __name__ == "__main__":
    main()
