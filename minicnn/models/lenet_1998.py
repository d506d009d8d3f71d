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

# Table I: which maps of S2 (rows) each map of C3 (columns) sees. It "forces a break of symmetry in the network".
C3_TABLE = np.array([[mark == "X" for mark in row] for row in (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)])  # fmt: skip

# The output's weight vectors: "a stylized image of the corresponding character class drawn on a 7×12 bitmap", +1 on −1
# (section II.B). Drawn anew: the published ones exist only as a picture, figure 3.
DIGITS = """
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .####.. ##...## .....## ...###. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## ..#.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## ..#.##. ######. ##.###. ....##. ##...## ##...##
##...## ...##.. ....##. ..####. .#..##. ##...## ###..## ...##.. .#####. ##...##
##...## ...##.. ...##.. .....## .#..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## #...##. .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
"""


def codes(num_classes: int) -> np.ndarray:
    """The bitmaps as (num_classes, 84) of ±1; random ones, always the same, for classes that are not digits."""
    rows = [line.split() for line in DIGITS.split("\n") if line]
    drawn = [[1.0 if pixel == "#" else -1.0 for row in rows for pixel in row[digit]] for digit in range(10)]
    others = np.random.default_rng(1998).choice([-1.0, 1.0], (max(num_classes - 10, 0), 84))
    return np.concatenate([drawn, others]).astype(np.float32)[:num_classes]


def uniform(fan_in: int, *shape: int) -> Parameter:
    """Appendix A: weights begin evenly spread over ±2.4/fan_in, fan_in being the number of a unit's inputs."""
    parameter = Parameter(np.zeros(shape, dtype=np.float32))
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
        self.weight = Parameter(np.concatenate([uniform(f, f // size**2, size, size).data for f in fans_in]))
        self.bias = Parameter(np.concatenate([uniform(f, 1).data for f in fans_in]))
        self.place = np.full(table.T.shape, len(self.weight))  # (out, in): which kernel; behind the last, one of zeros
        self.place[table.T] = np.arange(len(self.weight))

    def forward(self, maps: Tensor) -> Tensor:
        kernels = F.pad(self.weight, (0, 0, 0, 0, 0, 1))  # (60, 5, 5) → (61, 5, 5)
        return F.conv2d(maps, kernels[self.place], self.bias)  # a weight of (16, 6, 5, 5)


class RadialBasis(nn.Module):
    """Equation 7, yᵢ = Σⱼ (xⱼ − wᵢⱼ)², as −yᵢ, so that the largest score wins as in every other network here."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("codes", codes(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return -((x.unsqueeze(1) - self.codes) ** 2).sum(2)  # (N, 1, 84) − (classes, 84) → (N, classes)


class LeNet5Of1998(nn.Sequential):
    """LeNet-5 as published: images (N, in_channels, input_size, input_size) → minus the penalties (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: int = 32):
        side = ((input_size - 4) // 2 - 4) // 2  # after C1, S2, C3, S4
        super().__init__(
            ("c1", nn.Conv2d(in_channels, 6, 5)),
            ("squash1", Squash()),
            ("s2", Subsample(6)),
            ("squash2", Squash()),
            ("c3", TableConv2d(C3_TABLE, 5)),
            ("squash3", Squash()),
            ("s4", Subsample(16)),
            ("squash4", Squash()),
            ("c5", nn.Conv2d(16, 120, side)),  # sees all of S4's maps, and so is the same as a linear layer
            ("squash5", Squash()),
            ("flatten", nn.Flatten()),
            ("f6", nn.Linear(120, 84)),
            ("squash6", Squash()),
            ("output", RadialBasis(num_classes)),
        )
        self.architecture, self.variant, self.input_size = "lenet5", "1998", input_size
        for layer, fan_in in ((self.c1, 25 * in_channels), (self.c5, 16 * side * side), (self.f6, 120)):
            for parameter in layer.parameters():
                parameter.data = uniform(fan_in, *parameter.shape).data


def lenet5_loss(scores: Tensor, target: Any, j: float = 10.0) -> Tensor:
    """Equation 9, the maximum a posteriori criterion: the mean of y_D + log(e⁻ʲ + Σᵢ e^(−yᵢ)), D being the target.

    It is the cross-entropy with one class more, "rubbish", of the constant penalty `j`: penalties far above that are
    not pushed up further. The paper does not print its j.
    """
    rubbish = Tensor(backend.like(np.full((scores.shape[0], 1), -j, dtype=scores.dtype), scores.data))
    return F.cross_entropy(F.cat([scores, rubbish], dim=1), target)
