"""The gradient lab: what courses tell of deep networks' gradients, measured.

Each experiment is a function ``name(seed=0, *, ..., device=None, progress=None)`` that returns a `Result`: tidy rows,
a sentence with the outcome, a picture. The same arguments give the same numbers, and minicnn's own random numbers go on
as if it had not run. ``minicnn lab NAME`` runs one from the command line.

Networks live on `device`; what was measured in them, and theory, on the host.
"""

from collections.abc import Callable

from . import deep, theory
from .auxiliary_heads import auxiliary_heads
from .dead_units import dead_units
from .exploding import exploding
from .normalisation import normalisation
from .result import Progress, Result, Row
from .shortcuts import shortcuts
from .vanishing import vanishing

# By the names that the command line knows them by.
EXPERIMENTS: dict[str, Callable[..., Result]] = {
    "vanishing": vanishing,
    "exploding": exploding,
    "auxiliary_heads": auxiliary_heads,
    "shortcuts": shortcuts,
    "normalisation": normalisation,
    "dead_units": dead_units,
}

__all__ = [
    "EXPERIMENTS",
    "Progress",
    "Result",
    "Row",
    "auxiliary_heads",
    "dead_units",
    "deep",
    "exploding",
    "normalisation",
    "shortcuts",
    "theory",
    "vanishing",
]
