"""Layers and networks: PyTorch's names, argument names, defaults and meaning."""

from ..engine import Parameter
from . import init, utils
from .layers import (
    ELU,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    MSELoss,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from .module import Module
from .sequential import Plus, Sequential, through

__all__ = [
    "ELU", "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm2d", "Conv2d", "CrossEntropyLoss", "Dropout", "Flatten",
    "Identity", "LeakyReLU", "Linear", "LocalResponseNorm", "MSELoss", "MaxPool2d", "Module", "Parameter", "Plus",
    "ReLU", "Sequential", "SiLU", "Sigmoid", "Softplus", "Tanh", "init", "through", "utils",
]  # fmt: skip
