"""`debug`: walk through a computation, forward and backward, one operation at a time, and see every number.

The walk backward is `minicnn.backward_steps`; nothing here computes a gradient. Forward values are the recorded ones
(``with minicnn.inspect.record():``) or, where there was no recording, computed again by the same kernels.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from typing import Any

from ..engine import Tensor
from . import page
from .graph import graph
from .walk import BackwardWalk


class Debugger(BackwardWalk):
    """The walk backward, and with it the walk `forward`. Made by `debug`.

    In a notebook it draws itself as the page that `save` writes.

    Attributes:
        drawing: of what ran; made at once, because a backward pass frees the graph.
    """

    def __init__(self, out: Tensor, gradient: Any = None, names: Mapping[str, Tensor] | None = None):
        if not isinstance(out, Tensor):
            raise TypeError(f"debug: got {type(out).__name__}, and steps through what made a Tensor, usually a loss")
        super().__init__(out, gradient, names)
        self.drawing = graph(out) if out.node is not None else None

    def save(self, path: str | os.PathLike[str], megabytes: float = 8, title: str | None = None) -> None:
        """Write the page: one HTML file that shows the whole walk, forward and backward, without Python or a network.

        Args:
            path: a name that ends in ``.html``.
            megabytes: how large the file may be; ``math.inf`` for no limit. Arrays are cut for it where they must be,
                and the page says how.
            title: its heading.

        Raises:
            ValueError: another ending; a size that is not positive, or into which no page fits.
            OSError: the file cannot be written.
        """
        page.save(self, path, megabytes, title)

    def inline(self, megabytes: float = 1, height: int = page.HEIGHT) -> Inline:
        """The page for a notebook's cell, in which a saved notebook shows it without a kernel.

        Args:
            megabytes: how large it may be; all of it goes into the notebook's file.
            height: in pixels.

        Raises:
            ValueError: a size that is not positive, or into which no page fits.
        """
        list(self)  # so that the text has all the steps
        text = f"<details><summary>as text</summary><pre>{html.escape(str(self))}</pre></details>"
        return Inline(page.inline(self, megabytes, height) + text, str(self))

    def _repr_html_(self) -> str | None:
        return self.inline()._repr_html_() if len(self) else None  # a leaf has nothing to step through


class Inline:
    """What `Debugger.inline` returns: HTML for those who show it, else the walk as text."""

    def __init__(self, content: str, text: str):
        self._content, self._text = content, text

    def _repr_html_(self) -> str:
        return self._content

    def __repr__(self) -> str:
        return self._text


def debug(out: Tensor, gradient: Any = None, names: Mapping[str, Tensor] | None = None) -> Debugger:
    """Step through the computation of `out`, usually a loss, backward and forward.

    Nothing is changed: no ``.grad`` is written and nothing is freed, so that `Tensor.backward` can follow. What is
    shown is of the moment of the call: values are computed and leaves copied then. Steps backward are made as the walk
    reaches them, so finish it (``run()``) before an optimiser changes the weights or `Tensor.backward` frees the graph.

    Args:
        out: what to differentiate.
        gradient: an array of `out`'s shape; may be left out for one number, where it is 1.
        names: what to call tensors that belong to no module, ``{"x": x}``.

    Returns:
        A walk over the steps backward, whose ``forward`` is the walk over the steps forward::

            walk = minicnn.inspect.debug(loss)
            print(walk.next())                               # the loss
            walk.until(lambda step: step.grad_norm < 1e-8)   # where the gradient vanishes
            print(walk.goto("conv2").explain("weight", (0, 0, 2, 2)))
            print(walk.forward.goto("conv2"))
            walk.save("step.html")

    Raises:
        RuntimeError, ValueError: as `minicnn.backward_steps`.
    """
    return Debugger(out, gradient, names)
