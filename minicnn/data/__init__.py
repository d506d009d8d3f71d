"""Data sets, transforms and batches. Everything here is NumPy on the host; a batch moves to a GPU once, whole."""

from .cifar import CIFAR10, CIFAR100, read_cifar
from .crop import CenterCrop, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip
from .dataset import ArrayDataset, Subset, random_split
from .download import DownloadError, home
from .folder import ImageFolder, Imagenette
from .idx import read_idx
from .loader import DataLoader
from .mnist import MNIST, FashionMNIST
from .pictures import read_picture
from .resize import RandomResizedCrop, Resize
from .sampler import RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler
from .transforms import Compose, Normalize, RandomShift, ToFloat

__all__ = [
    "CIFAR10", "CIFAR100", "MNIST", "ArrayDataset", "CenterCrop", "Compose", "DataLoader", "DownloadError",
    "FashionMNIST", "ImageFolder", "Imagenette", "Normalize", "Pad", "RandomCrop", "RandomHorizontalFlip",
    "RandomResizedCrop", "RandomSampler", "RandomShift", "RandomVerticalFlip", "Resize", "Sampler", "SequentialSampler",
    "Subset", "SubsetRandomSampler", "ToFloat", "WeightedRandomSampler", "home", "random_split", "read_cifar",
    "read_idx", "read_picture",
]  # fmt: skip
