"""What GoogLeNet is made of: Szegedy et al. 2015, figure 2b for the inception module, section 5 for the heads."""

from __future__ import annotations

from functools import partial

from .. import functional as F
from .. import nn
from ..engine import Tensor
from .variant import scaled


class ConvUnit(nn.Sequential):
    """A convolution and ReLU; torchvision has batch norm between them and no bias."""

    def __init__(self, variant: str, in_channels: int, channels: int, size: int, stride: int = 1):
        conv = nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=variant == "paper")
        norm = [] if variant == "paper" else [("bn", nn.BatchNorm2d(channels, eps=0.001))]
        super().__init__(("conv", conv), *norm, ("relu", nn.ReLU()))


class Inception(nn.Module):
    """Figure 2b: four branches over one input, joined along the channels; `channels` is a row of the table."""

    def __init__(self, variant: str, in_channels: int, channels: tuple[int, ...]):
        super().__init__()
        c1, reduce3, c3, reduce5, c5, projection = channels
        unit = partial(ConvUnit, variant)
        self.branch1 = unit(in_channels, c1, 1)
        self.branch2 = nn.Sequential(unit(in_channels, reduce3, 1), unit(reduce3, c3, 3))
        self.branch3 = nn.Sequential(unit(in_channels, reduce5, 1), unit(reduce5, c5, 5 if variant == "paper" else 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(in_channels, projection, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryClassifier(nn.Sequential):
    """Section 5: average pooling of maps of `side`, 1×1 convolution to 128, 1024 units, dropout 70 %, scores."""

    def __init__(self, variant: str, in_channels: int, num_classes: int, side: int, width: float):
        channels, hidden, pooled = scaled(128, width), scaled(1024, width), min(4, side)
        pool: nn.Module = nn.AdaptiveAvgPool2d(pooled)
        if variant == "paper" and side >= 14:
            pool, pooled = nn.AvgPool2d(5, stride=3), (side - 5) // 3 + 1
        super().__init__(
            ("pool", pool), ("conv", ConvUnit(variant, in_channels, channels, 1)), ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(channels * pooled * pooled, hidden)), ("relu", nn.ReLU()), ("dropout", nn.Dropout(0.7)),
            ("fc2", nn.Linear(hidden, num_classes)),
        )  # fmt: skip
