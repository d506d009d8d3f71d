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
from .lenet_1998 import LeNet5Of1998
from .variant import check_counts, choose_size, choose_variant, scaled


class LeNet5(nn.Sequential):
    """The modern LeNet-5: images (N, in_channels, input_size, input_size) → scores (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: int = 28, width: float = 1.0):
        side = (input_size // 2 - 4) // 2  # after conv1 (keeps it), pool1, conv2 (−4), pool2
        c1, c2, hidden1, hidden2 = (scaled(c, width) for c in (6, 16, 120, 84))
        super().__init__(
            ("conv1", nn.Conv2d(in_channels, c1, 5, padding=2)),
            ("tanh1", nn.Tanh()),
            ("pool1", nn.AvgPool2d(2)),
            ("conv2", nn.Conv2d(c1, c2, 5)),
            ("tanh2", nn.Tanh()),
            ("pool2", nn.AvgPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(c2 * side * side, hidden1)),
            ("tanh3", nn.Tanh()),
            ("fc2", nn.Linear(hidden1, hidden2)),
            ("tanh4", nn.Tanh()),
            ("fc3", nn.Linear(hidden2, num_classes)),
        )
        self.architecture, self.variant, self.input_size = "lenet5", "modern", input_size


def lenet5(
    num_classes: int = 10, variant: str = "modern", in_channels: int = 1, input_size: int | None = None,
    width: float = 1.0,
) -> LeNet5 | LeNet5Of1998:  # fmt: skip
    """LeNet-5, modern for sides from 12 (28 by default), or as published, ``variant="1998"``, from 16 (32).

    ``"paper"`` is another name for ``"1998"``. That form is trained with `lenet5_loss`, and its `width` is fixed.
    """
    choose_variant("lenet5", variant, ("modern", "1998", "paper"))
    check_counts("lenet5", num_classes=num_classes, in_channels=in_channels)
    if variant == "modern":
        return LeNet5(num_classes, in_channels, choose_size("lenet5", input_size, 28, smallest=12), width)
    if width != 1:
        raise ValueError(f"lenet5: width is {width}, and must be 1 for variant {variant!r}, whose table fixes it")
    return LeNet5Of1998(num_classes, in_channels, choose_size("lenet5", input_size, 32, smallest=16))
