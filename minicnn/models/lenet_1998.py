"""LeNet-5 as published: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86, 1998. Section II.B and figure 2::

    layer    output      parameters
    input    1×32×32
    C1       6×28×28            156    5×5
    S2       6×14×14             12    sums of 2×2, times a coefficient, plus a bias
    C3       16×10×10         1,516    5×5, each map seeing those of S2 that table I says
    S4       16×5×5              32    as S2
    C5       120             48,120    5×5
    F6       84              10,164
    output   10          (840 fixed)   radial basis functions
    total                    60,000

A scaled tanh follows every layer up to F6. The paper's pixels are −0.1 for white and 1.175 for black, so that their
mean is about 0 and their variance 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend, nn
from .. import functional as F
from ..engine import Parameter, Tensor
from .bitmaps import codes
from .variant import check_images, check_sides, settle

# Table I: which maps of S2 (rows) each map of C3 (columns) sees. It "forces a break of symmetry in the network".
C3_TABLE = np.array([[mark == "X" for mark in row] for row in (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)])  # fmt: skip

def uniform(fan_in: int, *shape: int) -> Parameter:
    """Appendix A: weights begin evenly spread over ±2.4/fan_in, fan_in being the number of a unit's inputs."""
    parameter = Parameter(np.broadcast_to(np.float32(0), shape))  # copied, except in a dry run
    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)
    return parameter


class Squash(nn.Module):
    """Equation 6: f(a) = 1.7159 tanh(2a/3), so that f(±1) = ±1."""

    def forward(self, a: Tensor) -> Tensor:
        return F.tanh(a * (2 / 3)) * 1.7159


class Subsample(nn.Module):
    """S2, S4: four inputs are added, multiplied by a coefficient and added to a bias, one of each a map."""

    def __init__(self, channels: int):
        super().__init__()
        self.coefficient, self.bias = uniform(4, channels), uniform(4, channels)

    def forward(self, maps: Tensor) -> Tensor:
        sums = F.avg_pool2d(maps, 2, divisor_override=1)  # (N, C, H/2, W/2)
        return sums * self.coefficient.reshape(-1, 1, 1) + self.bias.reshape(-1, 1, 1)


class TableConv2d(nn.Module):
    """C3: a convolution in which a map sees only some of the maps before it; one kernel for each cross in `table`."""

    def __init__(self, table: np.ndarray, size: int):
        super().__init__()
        fans_in = [size * size * int(column.sum()) for column in table.T]
        self.weight = Parameter(F.cat([uniform(f, f // size**2, size, size) for f in fans_in]).data)
        self.bias = Parameter(F.cat([uniform(f, 1) for f in fans_in]).data)
        self.place = np.full(table.T.shape, len(self.weight))  # (out, in): which kernel; behind the last, one of zeros
        self.place[table.T] = np.arange(len(self.weight))

    def forward(self, maps: Tensor) -> Tensor:
        kernels = F.pad(self.weight, (0, 0, 0, 0, 0, 1))  # (60, 5, 5) → (61, 5, 5)
        weight = kernels[self.place]  # (16, 6, 5, 5)  # host: 96 numbers, which cross over each time
        return F.conv2d(maps, weight, self.bias)


class RadialBasis(nn.Module):
    """Equation 7, yᵢ = Σⱼ (xⱼ − wᵢⱼ)², as −yᵢ, so that the largest score wins as in every other network here."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("codes", codes(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return -((x.unsqueeze(1) - self.codes) ** 2).sum(2)  # (N, 1, 84) − (classes, 84) → (N, classes)


def side_of_last_map(input_size: int) -> int:
    """Behind C1 (−4), S2, C3 (−4) and S4: 5 for 32 pixels."""
    return ((input_size - 4) // 2 - 4) // 2


class LeNet5Of1998(nn.Sequential):
    """LeNet-5 as published: images (N, in_channels, input_size, input_size) → minus the penalties (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: int | None = None):
        super().__init__()
        settle(
            self, "lenet5", "1998", ("1998",), smallest=16, usual=32, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels,
        )  # fmt: skip
        side = side_of_last_map(self.input_size)
        self.c1, self.squash1 = nn.Conv2d(in_channels, 6, 5), Squash()
        self.s2, self.squash2 = Subsample(6), Squash()
        self.c3, self.squash3 = TableConv2d(C3_TABLE, 5), Squash()
        self.s4, self.squash4 = Subsample(16), Squash()
        self.c5, self.squash5 = nn.Conv2d(16, 120, side), Squash()  # sees all of S4's maps, as a linear layer would
        self.flatten = nn.Flatten()
        self.f6, self.squash6 = nn.Linear(120, 84), Squash()
        self.output = RadialBasis(num_classes)
        for layer, fan_in in ((self.c1, 25 * in_channels), (self.c5, 16 * side * side), (self.f6, 120)):
            for parameter in layer.parameters():
                parameter.data = uniform(fan_in, *parameter.shape).data

    def forward(self, images: Tensor) -> Tensor:
        check_images("lenet5", images, self.smallest)
        check_sides("lenet5", images, self.input_size, side_of_last_map)
        return super().forward(images)


def lenet5_loss(scores: Tensor, target: Any, j: float = 10.0) -> Tensor:
    """Equation 9, the maximum a posteriori criterion: the mean of y_D + log(e⁻ʲ + Σᵢ e^(−yᵢ)), D being the target.

    It is the cross-entropy with one class more, "rubbish", of the constant penalty `j`: penalties far above that are
    not pushed up further. The paper does not print its j.
    """
    rubbish = Tensor._of(backend.like(np.full((scores.shape[0], 1), -j, dtype=scores.dtype), scores.data))
    return F.cross_entropy(F.cat([scores, rubbish], dim=1), target)
