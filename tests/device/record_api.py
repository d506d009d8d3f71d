"""Record what CuPy has, for the strict double and the lint: names, keywords, no behaviour.

    pip install cupy-cuda12x           # the wheel alone: neither a GPU nor a driver is needed to look at it
    python -m tests.device.record_api  # writes cupy_api.json beside this file

Run it again, and look at the difference, when the range of CuPy in setup.cfg moves.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

MODULES = ("", "lib.stride_tricks", "linalg")  # random numbers are drawn on the host
OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
IN_PLACE = [f"__i{name}__" for name in OPERATORS]


def parameters(function: Any) -> list[str] | None:
    """The names of the parameters; None where the wheel does not tell."""
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):  # compiled: the first line of the text says "name(self, a, b=None) -> ..."
        found = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", (function.__doc__ or "").partition("\n")[0])
        if found is None:
            return None
        names = [(part.partition("=")[0].split() or [""])[-1].lstrip("*") for part in found[1].split(",")]
        return [name for name in names if name not in ("self", "", "/")]


def recorded() -> dict[str, Any]:
    import cupy
    import numpy

    functions: dict[str, Any] = {}
    for name in MODULES:
        module = cupy
        for part in filter(None, name.split(".")):
            module = getattr(module, part)
        for member, value in inspect.getmembers(module):
            if member.startswith("_") or inspect.ismodule(value) or isinstance(value, type) or not callable(value):
                continue
            entry = {"kind": "ufunc"} if isinstance(value, cupy.ufunc) else {
                "kind": "function", "parameters": parameters(value),
            }  # fmt: skip
            functions[f"{name}.{member}".lstrip(".")] = entry
    array = cupy.ndarray
    methods = {n: parameters(m) for n, m in inspect.getmembers(array, callable) if not n.startswith("_")}
    attributes = [n for n, m in inspect.getmembers(array) if not n.startswith("_") and not callable(m)]
    return {
        "cupy": cupy.__version__,
        "numpy": numpy.__version__,
        "functions": functions,
        "ndarray": {
            "attributes": attributes, "methods": methods, "missing": [n for n in IN_PLACE if not hasattr(array, n)],
        },
    }  # fmt: skip


def main() -> None:
    place = Path(__file__).with_name("cupy_api.json")
    place.write_text(json.dumps(recorded(), indent=0, sort_keys=True) + "\n", "utf-8")
    print(f"{place.name}: {len(recorded()['functions'])} functions")


if __name__ == "__main__":
    main()
