"""ResNet for CIFAR-10: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", section 4.2.

6n + 2 layers for images of 32×32, much thinner than those for ImageNet; the shortcuts are option A throughout::

    output    layers                          20     32     44     56     110
    16×32×32  3×3, 16                 n =     3      5      7      9      18
    16×32×32  n blocks of two 3×3, 16
    32×16×16  n blocks of two 3×3, 32         the first with stride 2
    64×8×8    n blocks of two 3×3, 64         the first with stride 2
              average pool, 10-way fully connected, softmax
    as table 6 counts: million parameters     0.27   0.46   0.66   0.85   1.7

Exactly 269,722, 464,154, 658,586, 853,018 and 1,727,962 with ten classes. ``shortcut=False`` gives the plain networks
of figure 6, left, which have as many.
"""

from __future__ import annotations

from .. import functional as F
from .. import nn
from ..engine import Tensor
from .resnet import BasicBlock, conv, initialise, stage
from .shortcut import check_shortcut
from .variant import check_images, scaled, settle


class CifarResNet(nn.Module):
    """6n + 2 layers: images (N, in_channels, height, width) of any size (the paper's: 32×32) → scores (N, num_classes).

    Beside the arguments that all the networks take (the paper's variant is the only one):
        shortcut: ``"A"``: no parameters where shapes change; ``"B"``: projections there; False: the plain network.
        zero_init_residual: start each block as the identity.
    """

    def __init__(
        self, n: int, num_classes: int, variant: str, in_channels: int, input_size: int | None, width: float,
        shortcut: str | bool, zero_init_residual: bool,
    ):  # fmt: skip
        super().__init__()
        name = f"resnet{6 * n + 2}"
        settle(  # padded as the layers are, one pixel leaves one
            self, name, variant, ("paper",), smallest=1, usual=32, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels, width=width, shortcut=check_shortcut(name, shortcut),
        )  # fmt: skip
        c1, c2, c3 = (scaled(c, width) for c in (16, 32, 64))
        shortcut = self.options["shortcut"]
        self.conv1, self.bn1 = conv(in_channels, c1, 3), nn.BatchNorm2d(c1)
        self.relu = nn.ReLU()
        self.layer1 = stage(BasicBlock, c1, c1, n, 1, shortcut)
        self.layer2 = stage(BasicBlock, c1, c2, n, 2, shortcut)
        self.layer3 = stage(BasicBlock, c2, c3, n, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c3, num_classes)
        initialise(self, zero_init_residual)

    def forward(self, images: Tensor) -> Tensor:
        check_images(self.architecture, images, self.smallest)
        x = nn.through(images, self.conv1, self.bn1, self.relu)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.flatten(self.avgpool(x), 1))


def _builder(n: int):
    def build(
        num_classes: int = 10, variant: str = "paper", in_channels: int = 3, input_size: int | None = None,
        width: float = 1.0, shortcut: str | bool = "A", zero_init_residual: bool = False,
    ) -> CifarResNet:  # fmt: skip
        return CifarResNet(n, num_classes, variant, in_channels, input_size, width, shortcut, zero_init_residual)

    build.__name__ = build.__qualname__ = f"resnet{6 * n + 2}"
    build.__doc__ = f"ResNet-{6 * n + 2} for CIFAR-10; arguments as for `CifarResNet`."
    return build


resnet20, resnet32, resnet44, resnet56, resnet110 = (_builder(n) for n in (3, 5, 7, 9, 18))
