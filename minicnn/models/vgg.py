"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.

Table 1, configurations A, B, D and E. All convolutions are 3×3, padded by 1, with ReLU; "pool" is a 2×2 maximum at
stride 2::

    maps       output of     A (11)        B (13)        D (16)        E (19)
    input      3×224×224
    conv1      64×224×224    1 × 3×3-64    2 × 3×3-64    2 × 3×3-64    2 × 3×3-64
    pool
    conv2      128×112×112   1 × 3×3-128   2 × 3×3-128   2 × 3×3-128   2 × 3×3-128
    pool
    conv3      256×56×56     2 × 3×3-256   2 × 3×3-256   3 × 3×3-256   4 × 3×3-256
    pool
    conv4      512×28×28     2 × 3×3-512   2 × 3×3-512   3 × 3×3-512   4 × 3×3-512
    pool
    conv5      512×14×14     2 × 3×3-512   2 × 3×3-512   3 × 3×3-512   4 × 3×3-512
    pool       512×7×7
    fc6        4096          ReLU, dropout
    fc7        4096          ReLU, dropout
    fc8        1000          softmax
    parameters               132,863,336   133,047,848   138,357,544   143,667,240

The variants with batch norm (``vgg16_bn`` …) are torchvision's: it came after the paper.

Initialisation. The paper trained A from random numbers and began the deeper ones with A's weights; its section 3.1 adds
that Glorot and Bengio's rule makes this unnecessary. But that rule halves the signal's variance at each ReLU, 2⁻¹⁸ in
all for E. Here ``variant="paper"`` takes He et al. 2015, the same rule corrected for ReLU, by fan-in; ``"torchvision"``
takes it by fan-out for the convolutions and N(0, 0.01²) for the linear layers.
"""

from __future__ import annotations

from .. import functional as F
from .. import nn
from ..engine import Tensor
from .variant import BOTH, check_images, scaled, settle

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # before each pool
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG of `depth` layers: images (N, in_channels, input_size, input_size) → scores (N, num_classes)."""

    def __init__(
        self, depth: int, batch_norm: bool, num_classes: int, variant: str, in_channels: int, input_size: int | None,
        width: float,
    ):  # fmt: skip
        super().__init__()
        settle(
            self, f"vgg{depth}_bn" if batch_norm else f"vgg{depth}", variant, BOTH, smallest=32, usual=224,
            input_size=input_size, num_classes=num_classes, in_channels=in_channels, width=width,
        )  # fmt: skip
        layers: list[nn.Module] = []
        channels = in_channels
        for repeats, out in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
            for _ in range(repeats):
                layers.append(nn.Conv2d(channels, scaled(out, width), 3, padding=1))
                layers += [nn.BatchNorm2d(scaled(out, width)), nn.ReLU()] if batch_norm else [nn.ReLU()]
                channels = scaled(out, width)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # The paper's classifier is sized for its images; torchvision's is 7×7, and other maps are averaged to that.
        side, hidden = self.input_size // 32 if variant == "paper" else 7, scaled(4096, width)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        self.initialise()

    def initialise(self) -> None:
        """He's rule, see above; biases of zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and self.variant == "torchvision":
                nn.init.normal_(layer.weight, std=0.01)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                mode = "fan_in" if self.variant == "paper" else "fan_out"
                nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            else:
                continue
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        check_images(self.architecture, images, self.smallest)
        maps = self.avgpool(self.features(images))  # (N, 512, 7, 7)
        return self.classifier(F.flatten(maps, 1))


def _builder(depth: int, batch_norm: bool = False):
    def build(
        num_classes: int = 1000, variant: str = "paper", in_channels: int = 3, input_size: int | None = None,
        width: float = 1.0,
    ) -> VGG:  # fmt: skip
        return VGG(depth, batch_norm, num_classes, variant, in_channels, input_size, width)

    build.__name__ = build.__qualname__ = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
    batch_normed = " and batch norm" if batch_norm else ""
    build.__doc__ = f"VGG with {depth} layers{batch_normed}, for sides from 32 (224 by default)."
    return build


vgg11, vgg13, vgg16, vgg19 = (_builder(depth) for depth in CONVOLUTIONS)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (_builder(depth, batch_norm=True) for depth in CONVOLUTIONS)
