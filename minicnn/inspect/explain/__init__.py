"""`explain`: any entry of a gradient as a sum of products, in numbers that can be followed and done again by hand.

It shares nothing with the backward passes: an entry is put together afresh from the operation's inputs, its output and
the gradient that arrived, in float64. So it can be held against what the engine computed.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import functional as F
from ...backend import Array
from ...engine import Node, Op
from . import elementwise, losses, moving, norms, products, windows
from .entry import Entry, Explain, host
from .explanation import Explanation, Term, total
from .slopes import by_slopes

__all__ = ["EXPLANATIONS", "Explanation", "Term", "argument_names", "explain"]

# By the operation's name: what gives an entry's formula, its terms and a note. One may be added for an own operation.
EXPLANATIONS: dict[str, Explain] = {
    **elementwise.EXPLANATIONS, **moving.EXPLANATIONS, **products.EXPLANATIONS, **windows.EXPLANATIONS,
    **norms.EXPLANATIONS, **losses.EXPLANATIONS,
}  # fmt: skip
_FORWARD = {op.name: op.forward for op in vars(F).values() if isinstance(op, Op)}


def explain(
    node: Node,
    inputs: Sequence[Array | None],
    output: Array,
    grad_output: Array,
    grad_inputs: Sequence[Array | None],
    argument: int | str,
    index: Any,
) -> Explanation:
    """Take one entry of a gradient apart.

    Args:
        node: the operation that was carried out; it may have been freed.
        inputs: the values that went in, None where an argument was left out.
        output: the value that came out.
        grad_output: the gradient of `output`.
        grad_inputs: what the engine made of it, one an input, None where none was needed.
        argument: which input's gradient: its name (see `argument_names`) or its number.
        index: of the entry: an int, or a tuple or array of ints, negative ones counted from the end; () for a single
            number.

    Returns:
        The entry's terms, their sum, and the engine's value. An operation without an entry in `EXPLANATIONS` (or one of
        your own that has the name of one of minicnn's) is explained by numerical slopes.

    Raises:
        ValueError: no argument of that name or number; one that got no gradient.
        IndexError: an index that is not in the gradient.
        TypeError: an index that is not made of ints; complex numbers.
    """
    name = node.op.name
    number, argument = _argument(node, argument)
    if grad_inputs[number] is None:
        raise ValueError(
            f"explain: {argument} of {node.label} got no gradient, because it was left out or nothing that requires a "
            "gradient led to it. Give the tensor requires_grad=True, or choose another argument"
        )
    grad_input = host(grad_inputs[number])
    index = _index(node, argument, grad_input.shape, index)
    params = {key: host(value) for key, value in node.params.items()}
    entry = Entry(node.op, params, host(tuple(inputs)), host(output), host(grad_output), number, index)
    if "c" in (entry.grad.dtype.kind, grad_input.dtype.kind):
        raise TypeError(f"explain: {node.label} computed with complex numbers, and only real ones are explained")
    same_name = name not in _FORWARD or _FORWARD[name] is node.op.forward
    with np.errstate(all="ignore"):
        formula, terms, note = (EXPLANATIONS.get(name, by_slopes) if same_name else by_slopes)(entry)
    value = float(grad_input[index])
    return Explanation(name, argument, index, formula, tuple(terms), total(t.value for t in terms), value, note)


def argument_names(node: Node) -> tuple[str, ...]:
    """What an operation's inputs are called, in their order: ``("input", "weight", "bias")``."""
    count = len(node.needs)
    if node.op is F.DROPOUT:  # a product underneath
        return "input", "mask"
    parameters = inspect.signature(node.op.forward).parameters.values()
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
        names.append(parameter.name)
    return tuple(names[:count])


def _argument(node: Node, argument: int | str) -> tuple[int, str]:
    """The number and the name of an argument given by either."""
    names = argument_names(node)
    if isinstance(argument, str) and argument in names:
        return names.index(argument), argument
    if isinstance(argument, int | np.integer) and -len(names) <= argument < len(names):
        return int(argument) % len(names), names[argument]
    numbers = f"or its number, 0 to {len(names) - 1}" if len(names) > 1 else "or 0"
    raise ValueError(f"explain: {node.label} has no argument {argument!r}: choose {', '.join(names)}, {numbers}")


def _index(node: Node, argument: str, shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """`index` as a tuple of ints, none of them negative."""
    index = index.tolist() if isinstance(index, np.ndarray) else index
    parts = index if isinstance(index, tuple | list) else (index,)
    try:
        numbers = tuple(operator.index(part) for part in parts)
    except TypeError:
        raise TypeError(f"explain: the index is {index!r}, and must be an int or a tuple of ints") from None
    what = f"explain: the gradient of {argument} of {node.label} has shape {shape}"
    if len(numbers) != len(shape):
        raise IndexError(f"{what}, so an entry has {len(shape)} numbers in its index, and {index!r} has {len(numbers)}")
    for axis, (i, length) in enumerate(zip(numbers, shape, strict=True)):
        if not -length <= i < length:
            raise IndexError(f"{what}, and index {index!r} is beyond axis {axis}, which has {length} entries")
    return tuple(i % length for i, length in zip(numbers, shape, strict=True))
