"""The loss that belongs to a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import functional as F
from ..engine import Tensor
from ..nn import Module
from .googlenet import GoogLeNet, googlenet_loss
from .lenet_1998 import LeNet5Of1998, lenet5_loss


def paper_loss(model: Module) -> Callable[[Any, Any], Tensor]:
    """The loss, a function of (outputs, targets), that the paper of `model` has: cross-entropy for most.

    GoogLeNet's adds those of its auxiliary classifiers, where training has any (`googlenet_loss`), and LeNet-5's of
    1998 is its own (`lenet5_loss`).
    """
    if isinstance(model, GoogLeNet):
        return googlenet_loss
    return lenet5_loss if isinstance(model, LeNet5Of1998) else F.cross_entropy
