"""The page: a whole walk, forward and backward, as one HTML file that needs neither Python nor a network.

`content` says what is on it, `arrays` which of the numbers, `network` how the graph stands; ``page.html`` is the frame,
``page.css`` the look, and the scripts, in the order of `SCRIPTS`, what happens in the browser.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...weights import replacing
from .arrays import Cut, Store
from .content import Shown, content

__all__ = ["inline", "save"]

SCRIPTS = (
    "numbers.js", "arrays.js", "heatmap.js", "entries.js", "products.js", "tables.js", "network.js", "strips.js",
    "step.js", "page.js",
)  # fmt: skip
FOLDER = Path(__file__).parent
HEIGHT = 900  # pixels, of the page in a notebook


def save(debugger: Shown, path: str | os.PathLike[str], megabytes: float = 8, title: str | None = None) -> None:
    """Write the page to one HTML file, which takes its place when it is complete.

    Args:
        debugger: what to show; where it stands does not change.
        path: a name that ends in ``.html`` or ``.htm``.
        megabytes: how large the file may be (1 MB is 1,000,000 bytes; `math.inf` for no limit). Arrays are cut for it
            where they must be, and the page says how.
        title: the heading; the network's name by default.

    Raises:
        ValueError: another ending; a size that is not positive, or into which no page fits; no operation to step
            through.
        TypeError: complex numbers.
        OSError: the file cannot be written.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"save: the file is {os.fspath(path)!r}, and its name must end in .html (or .htm)")
    page = _fitted(debugger, megabytes, title, lambda text: text)
    with replacing(path) as file:
        file.write(page.encode())


def inline(debugger: Shown, megabytes: float = 1.0, height: int = HEIGHT, title: str | None = None) -> str:
    """The page as an HTML element to put into another page: a notebook shows it, a saved one without a kernel too.

    Args:
        debugger, title: as for `save`.
        megabytes: how large the element may be. A network that is too large for that gets the smallest page there is.
        height: of the element, in pixels.

    Raises:
        ValueError: a size that is not positive; no operation to step through.
        TypeError: complex numbers.
    """

    def framed(page: str) -> str:
        inside = page.replace("&", "&amp;").replace("'", "&#39;")
        return (
            f'<iframe title="step through backprop" width="100%" height="{int(height)}" style="border: 0" '
            f"srcdoc='{inside}'></iframe>"
        )

    return _fitted(debugger, megabytes, title, framed, at_any_size=True)


def _fitted(
    debugger: Shown,
    megabytes: float,
    title: str | None,
    wrapped: Callable[[str], str],
    at_any_size: bool = False,
) -> str:
    """The page with as much of the arrays as there is room for.

    Its size follows from the shapes: the page without numbers, and the length of the numbers in base64, in which no
    letter has to be escaped.
    """
    if not megabytes > 0:  # nor NaN
        raise ValueError(
            f"the page: megabytes={megabytes:g}, and the size of a page must be more than 0 MB: give a positive "
            "number, or math.inf for no limit"
        )
    room = megabytes * 1e6
    store = Store()
    data = content(debugger, store, title)

    def size(cut: Cut) -> int:
        empty = wrapped(_page({**data, "rule": store.rule(cut), "arrays": store.entries(cut, with_data=False)}))
        return len(empty.encode()) + store.data_length(cut)

    cut = store.largest_cut(lambda cut: size(cut) <= room)
    if cut is None and at_any_size:
        cut = store.smallest_cut
    if cut is None:
        least = size(store.smallest_cut)
        raise ValueError(
            f"the page: {megabytes:g} MB are too small for the {len(debugger)} operations of this network. The "
            f"smallest page has {least:,} bytes: allow for megabytes={-(-least // 10_000) / 100:.2f}"
        )
    return wrapped(_page({**data, "rule": store.rule(cut), "arrays": store.entries(cut)}))


def _page(data: dict[str, Any]) -> str:
    """The frame with everything in its place."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": html.escape(data["title"]),
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "policy": f"'sha256-{digest}'",  # no other script than this one may run, whatever a layer is called
        # In a script no tag can begin without a "<".
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    frame = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], frame)
