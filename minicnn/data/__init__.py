"""Data sets, transforms and batches. Everything here is NumPy on the host; a batch moves to a GPU once, whole."""

from .dataset import ArrayDataset, Subset, random_split
from .idx import read_idx
from .loader import DataLoader
from .mnist import MNIST
from .transforms import Compose, Normalize, RandomShift, ToFloat

__all__ = [
    "MNIST", "ArrayDataset", "Compose", "DataLoader", "Normalize", "RandomShift", "Subset", "ToFloat", "random_split",
    "read_idx",
]  # fmt: skip
