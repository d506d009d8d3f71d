"""ResNet: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016.

Table 1. A bracket is a block, whose input is added to its output (figures 2 and 5); ×n means n of them, and from
conv3_x on the first has stride 2::

    stage    output    18-layer       34-layer       50-layer           101-layer   152-layer
    conv1    112×112   7×7, 64, stride 2; then 3×3 max pool, stride 2
    conv2_x  56×56     ⎡3×3, 64⎤ ×2   ⎡3×3, 64⎤ ×3   ⎡1×1, 64 ⎤
                       ⎣3×3, 64⎦      ⎣3×3, 64⎦      ⎢3×3, 64 ⎥ ×3      ×3          ×3
                                                     ⎣1×1, 256⎦
    conv3_x  28×28     128, 128  ×2   128, 128  ×4   128, 128, 512  ×4  ×4          ×8
    conv4_x  14×14     256, 256  ×2   256, 256  ×6   256, 256, 1024 ×6  ×23         ×36
    conv5_x  7×7       512, 512  ×2   512, 512  ×3   512, 512, 2048 ×3  ×3          ×3
             1×1       average pool, 1000-way fully connected, softmax
    parameters         11,689,512     21,797,672     25,557,032         44,549,160  60,192,808

Batch norm follows each convolution, before the activation (section 3.4). ``variant="torchvision"`` moves a
bottleneck's stride from its first 1×1 to its 3×3, where it skips no input ("ResNet v1.5").
"""

from __future__ import annotations

from .. import functional as F
from .. import nn
from ..engine import Tensor
from .shortcut import check_shortcut, make_shortcut
from .variant import BOTH, check_images, scaled, settle


def conv(in_channels: int, channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the side, divided by its stride; batch norm follows, so it has no bias."""
    return nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Figure 5, left: two 3×3 convolutions."""

    expansion = 1  # channels that leave the block for each one inside

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str | bool, variant: str = "paper"):
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self.downsample = make_shortcut(in_channels, channels, stride, shortcut)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = nn.through(x, self.conv1, self.bn1, self.relu1)
        return nn.through(out, self.conv2, self.bn2, nn.Plus(self.downsample, x), self.relu2)


class Bottleneck(nn.Module):
    """Figure 5, right: 1×1 to fewer channels, 3×3, 1×1 to four times as many."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str | bool, variant: str = "paper"):
        super().__init__()
        first, second = (stride, 1) if variant == "paper" else (1, stride)
        self.conv1, self.bn1 = conv(in_channels, channels, 1, first), nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = conv(channels, channels, 3, second), nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3, self.bn3 = conv(channels, 4 * channels, 1), nn.BatchNorm2d(4 * channels)
        self.downsample = make_shortcut(in_channels, 4 * channels, stride, shortcut)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = nn.through(x, self.conv1, self.bn1, self.relu1)
        out = nn.through(out, self.conv2, self.bn2, self.relu2)
        return nn.through(out, self.conv3, self.bn3, nn.Plus(self.downsample, x), self.relu3)


Block = type[BasicBlock] | type[Bottleneck]


def stage(block: Block, in_channels: int, channels: int, depth: int, stride: int, *options) -> nn.Sequential:
    """`depth` blocks, of which the first takes the `stride` and the change of channels."""
    first = block(in_channels, channels, stride, *options)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1, *options) for _ in range(depth - 1)))


def initialise(network: nn.Module, zero_init_residual: bool) -> None:
    """He et al. 2015, by fan-out (its equation 14); if wanted, each block's last γ = 0, so that it starts as the
    identity (Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, BasicBlock | Bottleneck) and zero_init_residual:
            nn.init.zeros_(layer.bn2.weight if isinstance(layer, BasicBlock) else layer.bn3.weight)


class ResNet(nn.Module):
    """ResNet: images (N, in_channels, height, width) of any size (the paper's: 224×224) → scores (N, num_classes).

    Beside the arguments that all the networks take:
        shortcut: ``"B"``: projections where shapes change; ``"A"``: no parameters there; False: the plain network.
        zero_init_residual: start each block as the identity.
    """

    def __init__(
        self, name: str, block: Block, depths: tuple[int, ...], num_classes: int, variant: str, in_channels: int,
        input_size: int | None, width: float, shortcut: str | bool, zero_init_residual: bool,
    ):  # fmt: skip
        super().__init__()
        settle(  # padded as the layers are, one pixel leaves one
            self, name, variant, BOTH, smallest=1, usual=224, input_size=input_size,
            num_classes=num_classes, in_channels=in_channels, width=width, shortcut=check_shortcut(name, shortcut),
        )  # fmt: skip
        c2, c3, c4, c5 = (scaled(c, width) for c in (64, 128, 256, 512))
        e, options = block.expansion, (self.options["shortcut"], variant)
        self.conv1, self.bn1 = conv(in_channels, c2, 7, stride=2), nn.BatchNorm2d(c2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, c2, c2, depths[0], 1, *options)
        self.layer2 = stage(block, c2 * e, c3, depths[1], 2, *options)
        self.layer3 = stage(block, c3 * e, c4, depths[2], 2, *options)
        self.layer4 = stage(block, c4 * e, c5, depths[3], 2, *options)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c5 * e, num_classes)
        initialise(self, zero_init_residual)

    def forward(self, images: Tensor) -> Tensor:
        check_images(self.architecture, images, self.smallest)
        x = nn.through(images, self.conv1, self.bn1, self.relu, self.maxpool)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


def _builder(name: str, block: Block, depths: tuple[int, ...]):
    def build(
        num_classes: int = 1000, variant: str = "paper", in_channels: int = 3, input_size: int | None = None,
        width: float = 1.0, shortcut: str | bool = "B", zero_init_residual: bool = False,
    ) -> ResNet:  # fmt: skip
        options = (num_classes, variant, in_channels, input_size, width, shortcut, zero_init_residual)
        return ResNet(name, block, depths, *options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name.replace('resnet', 'ResNet-')}; arguments as for `ResNet`."
    return build


resnet18 = _builder("resnet18", BasicBlock, (2, 2, 2, 2))
resnet34 = _builder("resnet34", BasicBlock, (3, 4, 6, 3))
resnet50 = _builder("resnet50", Bottleneck, (3, 4, 6, 3))
resnet101 = _builder("resnet101", Bottleneck, (3, 4, 23, 3))
resnet152 = _builder("resnet152", Bottleneck, (3, 8, 36, 3))
