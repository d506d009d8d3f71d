"""GoogLeNet: Szegedy et al., "Going deeper with convolutions", CVPR 2015.

Table 1, 22 layers deep. "Reduce" is a 1×1 convolution before the 3×3 or 5×5, "proj" one behind the pooling::

    layer        output       depth  1×1  3×3 reduce  3×3  5×5 reduce  5×5  pool proj
    conv1        64×112×112   1      7×7, stride 2
    max pool     64×56×56     0      3×3, stride 2; local response normalisation
    conv2        192×56×56    2                   64  192               (1×1, then 3×3: conv2 and conv3 below)
    max pool     192×28×28    0      local response normalisation; 3×3, stride 2
    inception3a  256×28×28    2       64          96  128          16   32         32
    inception3b  480×28×28    2      128         128  192          32   96         64
    max pool     480×14×14    0      3×3, stride 2
    inception4a  512×14×14    2      192          96  208          16   48         64     first auxiliary classifier
    inception4b  512×14×14    2      160         112  224          24   64         64
    inception4c  512×14×14    2      128         128  256          24   64         64
    inception4d  528×14×14    2      112         144  288          32   64         64     second auxiliary classifier
    inception4e  832×14×14    2      256         160  320          32  128        128
    max pool     832×7×7      0      3×3, stride 2
    inception5a  832×7×7      2      256         160  320          32  128        128
    inception5b  1024×7×7     2      384         192  384          48  128        128
    average      1024×1×1     0      over the whole map; dropout 40 %
    fc           1000         1      softmax
    parameters   6,998,552 for use, and 13,378,280 with both auxiliary classifiers

The paper gives neither the constants of its response normalisation (here PyTorch's defaults, over 5 channels) nor an
initialisation (here He et al. 2015). A departure: auxiliary classifiers average maps smaller than the paper's 14×14
evenly, to 4×4 or the map's own size, not by 5×5 windows. ``variant="torchvision"``: batch norm instead of response
normalisation and biases, 3×3 where the paper has 5×5, a last max pool of 2×2, dropout 20 %, weights from N(0, 0.01²).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .. import backend, nn
from .. import functional as F
from ..engine import Tensor
from .inception import AuxiliaryClassifier, ConvUnit, Inception
from .variant import BOTH, check_images, check_sides, scaled, settle

INCEPTION = {  # 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool proj
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


class GoogLeNetOutputs(NamedTuple):
    """What training returns: scores (N, num_classes) of the network and of its auxiliary classifiers."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


def googlenet_loss(
    outputs: GoogLeNetOutputs | Tensor, target: Any, auxiliary_weight: float = 0.3, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy, with that of the auxiliary classifiers, where there are any, weighted by 0.3 (section 5)."""
    if not isinstance(outputs, GoogLeNetOutputs):
        return F.cross_entropy(outputs, target, label_smoothing=label_smoothing)
    target = backend.on_both(target, outputs.logits.device)  # crosses over once for the three
    main, aux2, aux1 = (F.cross_entropy(scores, target, label_smoothing=label_smoothing) for scores in outputs)
    return main + auxiliary_weight * (aux1 + aux2)


def side_of_maps_4(input_size: int) -> int:
    """Of the inception modules 4a to 4e: 14 for 224 pixels."""
    return (input_size + 1) // 2 // 8


class GoogLeNet(nn.Module):
    """GoogLeNet: images (N, in_channels, height, width) → scores (N, num_classes), in training `GoogLeNetOutputs`."""

    def __init__(
        self, num_classes: int, variant: str, in_channels: int, input_size: int | None, aux_logits: bool, width: float
    ):
        super().__init__()
        paper = variant == "paper"
        settle(
            self, "googlenet", variant, BOTH, smallest=31 if paper else 15, usual=224, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels, width=width, aux_logits=bool(aux_logits),
        )  # fmt: skip
        unit, norm = partial(ConvUnit, variant), partial(nn.LocalResponseNorm, 5) if paper else nn.Identity
        c1, c2, c3 = (scaled(c, width) for c in (64, 64, 192))
        self.conv1 = unit(in_channels, c1, 7, stride=2)
        self.maxpool1, self.norm1 = nn.MaxPool2d(3, stride=2, ceil_mode=True), norm()
        self.conv2, self.conv3 = unit(c1, c2, 1), unit(c2, c3, 3)
        self.norm2, self.maxpool2 = norm(), nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = {"2": c3}  # that leave each module
        for previous, name in zip(["2", *INCEPTION], INCEPTION, strict=False):
            row = tuple(scaled(c, width) for c in INCEPTION[name])
            setattr(self, f"inception{name}", Inception(variant, channels[previous], row))
            channels[name] = row[0] + row[2] + row[4] + row[5]
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(3 if paper else 2, stride=2, ceil_mode=True)
        self.aux_logits = aux_logits
        if aux_logits:
            side = side_of_maps_4(self.input_size) if paper else 4  # torchvision averages all maps to 4×4
            self.aux1 = AuxiliaryClassifier(variant, channels["4a"], num_classes, side, width)
            self.aux2 = AuxiliaryClassifier(variant, channels["4d"], num_classes, side, width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4 if paper else 0.2)
        self.fc = nn.Linear(channels["5b"], num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and paper:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutputs:
        check_images("googlenet", images, self.smallest)
        with_heads = self.training and self.aux_logits
        if with_heads and isinstance(self.aux1.pool, nn.AvgPool2d):  # 5×5 at stride 3, not to a fixed side
            pooled, reader = lambda side: (side_of_maps_4(side) - 5) // 3 + 1, "each auxiliary classifier"
            check_sides("googlenet", images, self.input_size, pooled, reader)
        x = self.norm1(self.maxpool1(self.conv1(images)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = x4a = self.inception4a(x)
        x = x4d = self.inception4d(self.inception4c(self.inception4b(x)))
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(F.flatten(self.avgpool(x), 1)))
        if with_heads:
            return GoogLeNetOutputs(logits, self.aux2(x4d), self.aux1(x4a))
        return logits


def googlenet(
    num_classes: int = 1000, variant: str = "paper", in_channels: int = 3, input_size: int | None = None,
    aux_logits: bool = True, width: float = 1.0,
) -> GoogLeNet:  # fmt: skip
    """GoogLeNet for sides from 31 (torchvision's: 15); the paper's auxiliary classifiers are sized for `input_size`.

    Beside the arguments that all the networks take:
        aux_logits: whether to have the two auxiliary classifiers; training then returns `GoogLeNetOutputs`.
    """
    return GoogLeNet(num_classes, variant, in_channels, input_size, aux_logits, width)
