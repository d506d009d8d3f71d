"""Record what CuPy has, for the strict double and the lint: names and keywords, no behaviour.

    pip install cupy-cuda12x           # the wheel alone: neither a GPU nor a driver is needed to look at it
    python -m tests.device.record_api  # writes cupy_api.json beside this file

Run it again when the range of CuPy in setup.cfg moves, and read the difference: a name that went is a fault to come.
Where a device answers, a few calls check what no signature tells (`UFUNCS`) as well.

The table::

    cupy, numpy        the versions
    functions          {name: {"kind": "ufunc", "types": …} or {"kind": "function", "parameters": […]}}
    constants, classes names of the module that are neither
    ufuncs             the keywords of a ufunc's call, and of which ufuncs each method works ("binary": of all with two)
    ndarray            attributes, methods and their parameters, and what NumPy's has that CuPy's is `missing`
    random             the names in ``cupy.random`` and the methods of its two generators

Parameters are written as in a signature: ``axis=`` may be left out, ``*shape`` takes any number, after ``*`` come
keywords only (signature.py reads them). They are null where the wheel does not tell: it is compiled, and its text does
not begin with the signature.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

MODULES = ("", "fft", "lib.stride_tricks", "linalg")  # random numbers are drawn on the host

# What runs, on floats: no signature says so. `check_ufuncs` tries them where it can.
UFUNCS: dict[str, Any] = {
    "keywords": ["casting", "dtype", "out"],
    "methods": {
        "accumulate": ["add", "multiply"],
        "at": ["add", "maximum", "minimum"],
        "outer": "binary",
        "reduce": ["add", "multiply"],
        "reduceat": ["add"],
    },
}


def parameters(function: Any) -> list[str] | None:
    """The parameters as in a signature, but for the defaults' values; None where the wheel does not tell."""
    try:
        text = str(inspect.signature(function))
    except (TypeError, ValueError):  # compiled: its text begins with "name(self, a, int b=None) -> ..."
        found = re.match(r"[\w.]+(\(.*\))(?: ->.*)?$", (function.__doc__ or "").partition("\n")[0])
        if not found:
            return None
        text = found[1]
    text = text.rpartition(" -> ")[0] or text
    names = [re.sub(r"^\w+ (?=\w)", "", part.strip()) for part in _split(text[1:-1])]
    names = [re.sub(r"^([*\w]*)[^=]*(=?).*", r"\1\2", name, flags=re.DOTALL) for name in names]
    return [name for name in names if name not in ("", "self")]


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def methods(kind: type) -> dict[str, list[str] | None]:
    return {name: parameters(method) for name, method in inspect.getmembers(kind, callable) if name[0] != "_"}


def recorded() -> dict[str, Any]:
    import cupy
    import numpy

    functions: dict[str, Any] = {}
    for name in MODULES:
        module = cupy
        for part in filter(None, name.split(".")):
            module = getattr(module, part)
        for member, value in inspect.getmembers(module, callable):
            if member.startswith("_") or inspect.isclass(value):
                continue
            full = f"{name}.{member}".lstrip(".")
            if isinstance(value, cupy.ufunc):
                functions[full] = {"kind": "ufunc", "nin": value.nin, "types": " ".join(value.types)}
            else:
                functions[full] = {"kind": "function", "parameters": parameters(value)}
    public = {name: value for name, value in inspect.getmembers(cupy) if not name.startswith("_")}
    array = cupy.ndarray
    return {
        "cupy": cupy.__version__,
        "numpy": numpy.__version__,
        "functions": functions,
        "classes": [name for name, value in public.items() if inspect.isclass(value)],
        "constants": [name for name, value in public.items() if not callable(value) and not inspect.ismodule(value)],
        "ufuncs": UFUNCS,
        "ndarray": {
            "attributes": [n for n, m in inspect.getmembers(array) if not n.startswith("_") and not callable(m)],
            "methods": methods(array),
            "missing": [name for name in dir(numpy.ndarray) if not hasattr(array, name)],
        },
        "random": {
            "Generator": methods(cupy.random.Generator),
            "RandomState": methods(cupy.random.RandomState),
            "names": [name for name, value in inspect.getmembers(cupy.random, callable) if not name.startswith("_")],
        },
    }


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line for each name, so that differences can be read."""
    if not isinstance(value, dict) or "kind" in value:
        return json.dumps(value, sort_keys=True)
    body = (f"{indent} {json.dumps(name)}: {_text(inner, indent + ' ')}" for name, inner in sorted(value.items()))
    return "{\n" + ",\n".join(body) + f"\n{indent}}}"


def check_ufuncs() -> None:
    """Try `UFUNCS`.

    Raises:
        AssertionError: CuPy accepts or refuses something else.
    """
    import cupy

    def runs(call: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            call(*args, **kwargs)
        except (TypeError, NotImplementedError):
            return False
        return True

    a, i = cupy.ones(3, "float32"), cupy.zeros(3, "int64")
    for name in ("add", "subtract", "multiply", "maximum", "minimum", "logaddexp", "power", "true_divide"):
        ufunc = getattr(cupy, name)
        calls: dict[str, tuple] = {"accumulate": (a,), "at": (a, i, a), "outer": (a, a), "reduce": (a,)}
        for method, args in {**calls, "reduceat": (a, i)}.items():
            works = UFUNCS["methods"][method]
            assert runs(getattr(ufunc, method), *args) == (works == "binary" or name in works), f"{name}.{method}"
    given = {"axis": 0, "casting": "same_kind", "dtype": "f", "keepdims": True, "order": "C", "out": a, "subok": True}
    for keyword, value in {**given, "where": a > 0}.items():
        assert runs(cupy.exp, a, **{keyword: value}) == (keyword in UFUNCS["keywords"]), f"exp({keyword}=)"


def main() -> None:
    import cupy

    table = recorded()
    place = Path(__file__).with_name("cupy_api.json")
    place.write_text(_text(table) + "\n", "utf-8")
    unknown = [name for name, entry in table["functions"].items() if entry.get("parameters", "") is None]
    unknown += [f"ndarray.{name}" for name, found in table["ndarray"]["methods"].items() if found is None]
    print(f"{place.name}: CuPy {table['cupy']}, {len(table['functions'])} functions")
    print(f"parameters unknown: {', '.join(unknown) or 'none'}")
    if cupy.is_available():
        check_ufuncs()
    print(f"what no signature tells: {'checked' if cupy.is_available() else 'not checked, for want of a device'}")


if __name__ == "__main__":
    main()
