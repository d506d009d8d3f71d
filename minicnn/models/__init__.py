"""The networks: one architecture, one file. Each is a function that builds a `Module`, and takes

    num_classes: scores an image.
    variant: ``"paper"`` builds what was published; ``"torchvision"`` that library's network, with its departures,
        parameter names and shapes. LeNet-5's are called ``"1998"`` and ``"modern"``.
    in_channels: 3 for coloured images, 1 for grey ones.
    input_size: side of the images in pixels. The papers' classifiers are sized for it; where averaging makes the
        network the same for every side, it is only checked.
    width: multiplies the channels of every layer, for quick experiments.

Each notes on the network what it was built with: ``architecture``, ``variant``, ``num_classes``, ``in_channels``,
``input_size``, and in ``options`` what else decides what it computes. Files of weights say the same.

Raises:
    ValueError: an unknown variant (the message names the nearest); a side that the poolings use up (it names the
        smallest that works); numbers that are not positive. When called: images of a side that does not fit.
"""

from .alexnet import AlexNet, alexnet
from .googlenet import GoogLeNet, GoogLeNetOutputs, googlenet, googlenet_loss
from .lenet import LeNet5, lenet5
from .lenet_1998 import LeNet5Of1998, lenet5_loss
from .paper_loss import paper_loss
from .resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from .resnet_cifar import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from .vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "VGG", "AlexNet", "CifarResNet", "GoogLeNet", "GoogLeNetOutputs", "LeNet5", "LeNet5Of1998", "ResNet", "alexnet",
    "googlenet", "googlenet_loss", "lenet5", "lenet5_loss", "paper_loss", "resnet18", "resnet20", "resnet32",
    "resnet34", "resnet44", "resnet50", "resnet56", "resnet101", "resnet110", "resnet152", "vgg11", "vgg11_bn", "vgg13",
    "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
]  # fmt: skip
