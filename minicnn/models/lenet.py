"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

Section II.B and figure 2. Below is the modern form, which courses teach: full connections instead of C3's table, fixed
average pooling instead of trainable subsampling, a linear output with softmax instead of radial basis functions. The
form that was published is in `lenet_1998`::

    layer    output      parameters
    input    1×28×28
    conv1    6×28×28            156    5×5, padded by 2 (the paper's 32×32 images have that border)
    pool1    6×14×14                   2×2 average
    conv2    16×10×10         2,416    5×5
    pool2    16×5×5                    2×2 average
    fc1      120             48,120    the paper's C5
    fc2      84              10,164    the paper's F6
    fc3      10                 850
    total                    61,706
"""

from __future__ import annotations

from .. import nn
from ..engine import Tensor
from .lenet_1998 import LeNet5Of1998
from .variant import check_images, check_sides, check_width, choose_variant, scaled, settle


def side_of_last_map(input_size: int) -> int:
    """Behind conv1 (keeps it), pool1, conv2 (−4) and pool2: 5 for 28 pixels."""
    return (input_size // 2 - 4) // 2


class LeNet5(nn.Sequential):
    """The modern LeNet-5: images (N, in_channels, input_size, input_size) → scores (N, num_classes)."""

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: int | None = None, width: float = 1.0
    ):
        super().__init__()
        settle(
            self, "lenet5", "modern", ("modern",), smallest=12, usual=28, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels, width=width,
        )  # fmt: skip
        c1, c2, hidden1, hidden2 = (scaled(c, width) for c in (6, 16, 120, 84))
        self.conv1, self.tanh1, self.pool1 = nn.Conv2d(in_channels, c1, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)
        self.conv2, self.tanh2, self.pool2 = nn.Conv2d(c1, c2, 5), nn.Tanh(), nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1, self.tanh3 = nn.Linear(c2 * side_of_last_map(self.input_size) ** 2, hidden1), nn.Tanh()
        self.fc2, self.tanh4 = nn.Linear(hidden1, hidden2), nn.Tanh()
        self.fc3 = nn.Linear(hidden2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        check_images("lenet5", images, self.smallest)
        check_sides("lenet5", images, self.input_size, side_of_last_map)
        return super().forward(images)


def lenet5(
    num_classes: int = 10, variant: str = "modern", in_channels: int = 1, input_size: int | None = None,
    width: float = 1.0,
) -> LeNet5 | LeNet5Of1998:  # fmt: skip
    """LeNet-5, modern for sides from 12 (28 by default), or as published, ``variant="1998"``, from 16 (32).

    ``"paper"`` is another name for ``"1998"``. That form is trained with `lenet5_loss`, and its `width` is fixed.
    """
    if choose_variant("lenet5", variant, ("modern", "1998", "paper")) == "modern":
        return LeNet5(num_classes, in_channels, input_size, width)
    if check_width("lenet5", width) != 1:
        raise ValueError(f"lenet5: width is {width}, and must be 1 for variant {variant!r}, whose table fixes it")
    return LeNet5Of1998(num_classes, in_channels, input_size)
