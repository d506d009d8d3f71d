"""What the extra ``data`` brings: imported where it is used, and asked for by name where it is missing."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, purpose: str) -> Any:
    """The module of that name.

    Args:
        purpose: what it is for, as the beginning of a sentence: "pictures".

    Raises:
        ImportError: it is missing; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module)
        raise ImportError(f"{purpose} need {package}: pip install -e '.[data]' (in minicnn's folder)") from None
