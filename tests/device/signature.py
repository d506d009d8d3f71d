"""Whether a call fits what the table of CuPy's names (`cupy_api.json`) says of a function's parameters.

The table writes parameters as a signature does, ``name=`` for one that may be left out. The double asks about calls
that are made, the lint about calls that it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from inspect import Parameter, Signature
from typing import Any

# Keywords that a function has behind its ``**kwargs``; without a line here it is taken to have none.
BEHIND = {"einsum": ("dtype", "optimize"), "pad": ("constant_values", "end_values", "reflect_type", "stat_length")}

# Parameters for which a list or a tuple of Python's numbers will do: nowhere else does CuPy make an array of one, or
# (as of the indices of `take`) it makes one in silence, which is a transfer each time.
LISTS = {
    "axes", "axis", "constant_values", "destination", "dims", "end_values", "indices_or_sections", "new_shape",
    "newshape", "pad_width", "reps", "s", "shape", "shift", "source", "stat_length", "strides", "window_shape",
}  # fmt: skip
SEVERAL = {"arrays", "choicelist", "condlist", "tup"}  # those that take a list or a tuple of arrays
ONE = {"a", "arr", "array", "ary", "m", "x"}  # as the first, with few exceptions: an array, and not a number
NUMBERS_TOO = {
    "array2string", "asanyarray", "asarray", "asarray_chkfinite", "ascontiguousarray", "asfarray", "asfortranarray",
    "asnumpy", "iscomplexobj", "isrealobj", "may_share_memory", "ndim", "shape", "size",
}  # fmt: skip


@cache
def signature(name: str, parameters: tuple[str, ...]) -> Signature:
    """As `inspect` has it: `bind` and `bind_partial` raise a TypeError that says what is wrong with a call."""
    found: list[Parameter] = []
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD
    for text in parameters:
        if text.startswith("**"):
            continue
        if text.startswith("*"):
            kind = Parameter.KEYWORD_ONLY
            if text != "*":
                found.append(Parameter(text[1:], Parameter.VAR_POSITIONAL))
        else:
            optional = text.endswith("=") or kind is Parameter.KEYWORD_ONLY
            found.append(Parameter(text.rstrip("="), kind, default=None if optional else Parameter.empty))
    behind = (Parameter(text, Parameter.KEYWORD_ONLY, default=None) for text in BEHIND.get(name, ()))
    return Signature([*found, *behind])


def bound(name: str, parameters: list[str], args: tuple, kwargs: dict[str, Any], *, all_of_them: bool = True) -> dict:
    """The arguments of a call by the parameter that they are for; those of a ``*args`` are a tuple.

    Raises:
        TypeError: the call does not fit.
    """
    known = signature(name, tuple(parameters))
    arguments = known.bind_partial(*args, **kwargs).arguments  # first what should not be there, then what is missing
    return known.bind(*args, **kwargs).arguments if all_of_them else arguments


def each(arguments: dict[str, Any], parameters: list[str]) -> Iterator[tuple[str, Any]]:
    """`bound` arguments one by one, also those of a ``*args``."""
    for name, value in arguments.items():
        if f"*{name}" in parameters:
            yield from ((name, part) for part in value)
        else:
            yield name, value
