"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

Section II.B and figure 2. The modern form below is what courses teach: full connections instead of C3's table, fixed
average pooling instead of trainable subsampling, a linear output with softmax instead of radial basis functions::

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
from .variant import choose_variant


class LeNet5(nn.Sequential):
    """The modern LeNet-5: images (N, in_channels, input_size, input_size) → scores (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: int = 28):
        side = (input_size // 2 - 4) // 2  # after conv1 (keeps it), pool1, conv2 (−4), pool2
        if side < 1:
            raise ValueError(f"lenet5: input_size={input_size} is too small: after two poolings nothing is left. The smallest is 12")
        super().__init__(
            ("conv1", nn.Conv2d(in_channels, 6, 5, padding=2)),
            ("tanh1", nn.Tanh()),
            ("pool1", nn.AvgPool2d(2)),
            ("conv2", nn.Conv2d(6, 16, 5)),
            ("tanh2", nn.Tanh()),
            ("pool2", nn.AvgPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(16 * side * side, 120)),
            ("tanh3", nn.Tanh()),
            ("fc2", nn.Linear(120, 84)),
            ("tanh4", nn.Tanh()),
            ("fc3", nn.Linear(84, num_classes)),
        )


def lenet5(num_classes: int = 10, variant: str = "modern", in_channels: int = 1, input_size: int | None = None) -> nn.Module:
    """LeNet-5.

    Args:
        num_classes: scores an image.
        variant: ``"modern"``: 28×28 in, tanh, average pooling, 61,706 parameters.
        in_channels: 1 for grey images, 3 for coloured ones.
        input_size: side of the images in pixels, 28 by default.

    Raises:
        ValueError: an unknown variant; images too small for two poolings.
    """
    choose_variant("lenet5", variant, ("modern",))
    return LeNet5(num_classes, in_channels, 28 if input_size is None else input_size)
