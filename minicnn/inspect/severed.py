"""Find where a network's graph is cut: a detour through ``.data``, ``.numpy()``, ``detach()`` or `no_grad` in a forward
lets training run without an error while everything before the cut learns nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..engine import Node, Tensor, enable_grad
from ..nn import Module


def severed(model: Module, *inputs: Any) -> list[str]:
    """Run `model` once and name every layer whose output does not depend on its input or on one of its parameters.

    Args:
        model: any module; its state and gradients stay as they are, except what its forward pass itself updates.
        inputs: what to call it with; floating-point ones are taken to require a gradient.

    Returns:
        A line for each cut, with the layer's path (the innermost layer that holds the cut); empty where all is well.
    """
    leaves = [x if isinstance(x, Tensor) else Tensor(x) for x in inputs]
    leaves = [Tensor(x.data, requires_grad=x.dtype.kind == "f") for x in leaves]
    cuts: dict[str, list[str]] = {}

    def check(path: str, module: Module, args: tuple, output: Any) -> None:
        outputs = list(_tensors(output))
        wanted = [(f"its input {i}", t) for i, t in enumerate(_tensors(args)) if t.requires_grad]
        own = ((name, p) for name, p in module._parameters.items() if p is not None and p.requires_grad)
        wanted += [(f"its parameter {name}", p) for name, p in own]
        lost = [what for what, source in wanted if not any(depends_on(out, source) for out in outputs)]
        if lost:
            name = f"{path} ({type(module).__name__})" if path else type(module).__name__
            cuts[path] = [f"{name}: the output does not depend on {what}" for what in lost]

    handles = []
    try:
        for path, module in model.named_modules():
            hook = lambda module, args, output, path=path: check(path, module, args, output)  # noqa: E731 (binds path)
            handles.append(module.register_forward_hook(hook))
        with enable_grad():
            model(*leaves)
    finally:
        for handle in handles:
            handle.remove()
    # A cut in a layer is a cut in everything around it: say the innermost.
    inner = [p for p in cuts if not any(q != p and (not p or q.startswith(f"{p}.")) for q in cuts)]
    return [line for path in inner for line in cuts[path]]


def depends_on(output: Tensor, source: Tensor) -> bool:
    """Whether a gradient of `output` would reach `source`."""
    if output is source:
        return True
    target, oldest = (source, -1) if source.node is None else (source.node, source.node.sequence)
    todo: list[Node | Tensor | None] = [output.node]
    seen: set[Node] = set()
    while todo:
        node = todo.pop()
        if node is target:
            return True
        if not isinstance(node, Node) or node in seen or node.sequence < oldest:
            continue
        seen.add(node)
        todo += [source for source, need in zip(node.inputs, node.needs, strict=True) if need]
    return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
