"""For what CuPy makes the host wait: it reads something back, often how many there are, before it can go on.

Beside what says so (``get``, ``item``, ``float()``, ``bool()``, printing) and an index by a mask. `test_waiting.py`
compares these tables with what CuPy itself does, where there is one. The emulated device does not sort: what does was
read in CuPy's source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Functions, and methods of an array.
ALWAYS = {
    "argwhere", "array2string", "array_repr", "array_str", "asarray_chkfinite", "bincount", "compress", "delete",
    "digitize", "dump", "dumps", "extract", "flatnonzero", "histogram", "lib.stride_tricks.sliding_window_view",
    "nonzero", "place", "putmask", "tobytes", "tofile", "trim_zeros", "unravel_index",
    *("intersect1d", "median", "nanmedian", "percentile", "quantile", "setdiff1d", "setxor1d", "union1d", "unique",
      "unique_all", "unique_counts", "unique_inverse", "unique_values"),  # these sort
}  # fmt: skip

# Those that wait for some arguments alone (a method's without the array itself), by the number of arguments by position
# and the names of the others, or else by what the arguments are.
FORMS: dict[str, Callable[[int, set[str]], bool]] = {
    "where": lambda count, names: count + len(names) == 1,  # nonzero by another name
    "average": lambda count, names: count > 2 or "weights" in names,
}
ARRAYS = {"repeat", "fill"}  # where the argument is an array: how often, or with what


def waits(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], is_array: Callable[[Any], bool]) -> bool:
    """Whether the function or method `name` makes the host wait when it is called so (a method: without the array)."""
    if name in FORMS:
        return FORMS[name](len(args), set(kwargs))
    return name in ALWAYS or (name in ARRAYS and any(map(is_array, (*args, *kwargs.values()))))
