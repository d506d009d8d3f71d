"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012.

Figure 2 and section 3.5; each half of the channels lives on one of two GPUs, the towers::

    layer  maps           kernel                        sees                parameters
    input  3 × 227×227
    conv1  96 × 55×55     11×11, stride 4               all                     34,944
           96 × 27×27     normalise, 3×3 max pool, stride 2
    conv2  256 × 27×27    5×5, padded by 2              its own tower          307,456
           256 × 13×13    normalise, 3×3 max pool, stride 2
    conv3  384 × 13×13    3×3, padded by 1              both towers            885,120
    conv4  384 × 13×13    3×3, padded by 1              its own tower          663,936
    conv5  256 × 13×13    3×3, padded by 1              its own tower          442,624
           256 × 6×6      3×3 max pool, stride 2
    fc6    4096           dropout                       both towers         37,752,832
    fc7    4096           dropout                       both towers         16,781,312
    fc8    1000           softmax                       both towers          4,097,000
    total                                                                   60,965,224

The paper prints 224 for the input, from which 11×11 kernels at stride 4 do not make 55 positions; 227 does.
Response normalisation (section 3.3: k = 2, n = 5, α = 10⁻⁴, β = 0.75) stays within a tower, as it did on the GPUs.

``variant="torchvision"`` follows Krizhevsky's "One weird trick for parallelizing convolutional neural networks", 2014:
one tower of 64, 192, 384, 256, 256 channels, no normalisation, conv1 padded by 2, dropout before fc6 and fc7 instead
of after them, and PyTorch's initialisation.
"""

from __future__ import annotations

from .. import functional as F
from .. import nn
from ..engine import Tensor
from .variant import BOTH, check_images, check_sides, scaled, settle


class TowerNorm(nn.LocalResponseNorm):
    """Local response normalisation in which the two halves of the channels do not see each other."""

    def forward(self, input: Tensor) -> Tensor:
        n, channels, height, width = input.shape
        towers = input.reshape(2 * n, channels // 2, height, width)
        return super().forward(towers).reshape(n, channels, height, width)


def side_of_last_map(input_size: int) -> int:
    """The side of the paper's maps behind the last pooling: 6 for 227 pixels."""
    side = (input_size - 11) // 4 + 1  # conv1; the other convolutions keep the side
    for _ in range(3):
        side = (side - 3) // 2 + 1  # a pooling of 3×3 at stride 2
    return side


class AlexNet(nn.Module):
    """AlexNet: images (N, in_channels, input_size, input_size) → scores (N, num_classes)."""

    def __init__(
        self, num_classes: int, variant: str, in_channels: int, input_size: int | None, width: float, lrn: str
    ):
        super().__init__()
        smallest, usual, others = (67, 227, {"lrn": lrn}) if variant == "paper" else (63, 224, {})
        settle(
            self, "alexnet", variant, BOTH, smallest=smallest, usual=usual, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels, width=width, **others,
        )  # fmt: skip
        if lrn not in ("code", "text"):
            raise ValueError(f"alexnet: lrn is {lrn!r}, and must be 'code' (α divided by the window) or 'text' (not)")
        hidden = scaled(4096, width)
        # Convolutions and linear layers have torchvision's numbers; layers that it lacks have names, and shift none.
        if variant == "paper":
            c1, c2, c3, c4, c5 = (scaled(c, width, multiple=2) for c in (96, 256, 384, 384, 256))
            alpha, side = 1e-4 if lrn == "code" else 1e-4 * 5, side_of_last_map(self.input_size)
            self.features = nn.Sequential(
                ("0", nn.Conv2d(in_channels, c1, 11, stride=4)), ("1", nn.ReLU()),
                ("norm1", TowerNorm(5, alpha, beta=0.75, k=2.0)), ("2", nn.MaxPool2d(3, stride=2)),
                ("3", nn.Conv2d(c1, c2, 5, padding=2, groups=2)), ("4", nn.ReLU()),
                ("norm2", TowerNorm(5, alpha, beta=0.75, k=2.0)), ("5", nn.MaxPool2d(3, stride=2)),
                ("6", nn.Conv2d(c2, c3, 3, padding=1)), ("7", nn.ReLU()),
                ("8", nn.Conv2d(c3, c4, 3, padding=1, groups=2)), ("9", nn.ReLU()),
                ("10", nn.Conv2d(c4, c5, 3, padding=1, groups=2)), ("11", nn.ReLU()), ("12", nn.MaxPool2d(3, stride=2)),
            )  # fmt: skip
            self.classifier = nn.Sequential(
                ("1", nn.Linear(c5 * side**2, hidden)), ("2", nn.ReLU()), ("3", nn.Dropout(0.5)),
                ("4", nn.Linear(hidden, hidden)), ("5", nn.ReLU()), ("dropout", nn.Dropout(0.5)),
                ("6", nn.Linear(hidden, num_classes)),
            )  # fmt: skip
            self.initialise()
        else:
            c1, c2, c3, c4, c5 = (scaled(c, width) for c in (64, 192, 384, 256, 256))
            self.features = nn.Sequential(
                nn.Conv2d(in_channels, c1, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
                nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
                nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(),
                nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(),
                nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            )  # fmt: skip
            self.avgpool = nn.AdaptiveAvgPool2d(6)
            self.classifier = nn.Sequential(
                nn.Dropout(0.5), nn.Linear(c5 * 6 * 6, hidden), nn.ReLU(),
                nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, num_classes),
            )  # fmt: skip

    def initialise(self) -> None:
        """Section 5: weights from N(0, 0.01²); biases of one in conv2, conv4, conv5, fc6 and fc7, of zero elsewhere."""
        with_ones = {"features.3", "features.8", "features.10", "classifier.1", "classifier.4"}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.alexnet_(layer.weight, layer.bias, bias_value=1.0 if name in with_ones else 0.0)

    def forward(self, images: Tensor) -> Tensor:
        check_images("alexnet", images, self.smallest)
        if self.variant == "paper":
            check_sides("alexnet", images, self.input_size, side_of_last_map)
            maps = self.features(images)  # (N, c5, side, side)
        else:
            maps = self.avgpool(self.features(images))  # (N, c5, 6, 6)
        return self.classifier(F.flatten(maps, 1))


def alexnet(
    num_classes: int = 1000, variant: str = "paper", in_channels: int = 3, input_size: int | None = None,
    width: float = 1.0, lrn: str = "code",
) -> AlexNet:  # fmt: skip
    """AlexNet, the paper's for sides from 67 (227 by default) and torchvision's from 63 (224).

    Beside the arguments that all the networks take:
        lrn: which α normalises: ``"code"`` divides it by the window of 5, as the paper's code and PyTorch do;
            ``"text"`` does not, as the paper's formula.
    """
    return AlexNet(num_classes, variant, in_channels, input_size, width, lrn)
