"""The networks: one architecture, one file. Each is a function that builds a `Module`."""

from .lenet import LeNet5, lenet5

__all__ = ["LeNet5", "lenet5"]
