"""Training a network: the loop, whole runs from a recipe, and runs that can be interrupted and go on.

`fit` and `evaluate` take any module, loaders and optimiser. `run` does the whole job of the command line: it makes
all of them from a `Recipe` and one seed, and with ``folder=`` keeps all that `resume` needs to go on, bit for bit.
`save` and `draw` write what came out. `PRESETS` are the recipes of papers.
"""

from .checkpoint import CheckpointError, Checkpoints
from .divergence import NonFiniteGradient, NonFiniteLoss, NonFiniteWeights
from .folder import Interrupted, RunFolder
from .loop import Callback, Progress, Training, fit
from .measure import Criterion, Evaluation, confusion_matrix, evaluate, gradient_sizes, top_confusions
from .presets import PRESETS, Preset
from .recipe import (
    AUGMENTATIONS,
    FOR_PICTURES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    Recipe,
    nearest,
    parse_config,
    read_config,
)
from .results import Run, draw, save
from .runs import resume, run
from .sources import SETS, judges, located, title

__all__ = [
    "AUGMENTATIONS", "FOR_PICTURES", "MODELS", "OPTIMIZERS", "PRESETS", "SCHEDULES", "SETS", "Callback",
    "CheckpointError", "Checkpoints", "Criterion", "Evaluation", "Interrupted", "NonFiniteGradient", "NonFiniteLoss",
    "NonFiniteWeights", "Preset", "Progress", "Recipe", "Run", "RunFolder", "Training", "confusion_matrix", "draw",
    "evaluate", "fit", "gradient_sizes", "judges", "located", "nearest", "parse_config", "read_config", "resume", "run",
    "save", "title", "top_confusions",
]  # fmt: skip
