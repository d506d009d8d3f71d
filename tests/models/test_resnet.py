"""ResNet: strides, shortcuts, plain networks, zero-initialised γ, initialisation."""

import numpy as np
import pytest

from minicnn import Tensor, models, nn
from minicnn.models.resnet import BasicBlock, Bottleneck
from minicnn.models.shortcut import PaddedShortcut

from .helpers import CIFAR, fill, images, parameters


def small(network="resnet18", **options):
    return getattr(models, network)(**{"num_classes": 5, "width": 1 / 16, **options})


@pytest.mark.parametrize(("variant", "first", "second"), [("paper", 2, 1), ("torchvision", 1, 2)])
def test_where_a_bottleneck_has_its_stride(variant, first, second):
    model = small("resnet50", variant=variant)
    for stage in (model.layer2, model.layer3, model.layer4):
        assert stage[0].conv1.stride == (first, first)
        assert stage[0].conv2.stride == (second, second)
        assert stage[0].downsample[0].stride == (2, 2)
        assert stage[1].conv1.stride == stage[1].conv2.stride == (1, 1)


def test_the_variants_of_the_shallow_ones_are_the_same_network():
    x, outputs = Tensor(images(2, 3, 32, 32)), []
    for variant in ("paper", "torchvision"):
        outputs.append(fill(small(variant=variant)).eval()(x).data)
    np.testing.assert_array_equal(*outputs)


def test_the_variants_of_the_deep_ones_are_not():
    x, outputs = Tensor(images(2, 3, 32, 32)), []
    for variant in ("paper", "torchvision"):
        outputs.append(fill(small("resnet50", variant=variant)).eval()(x).data)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3 * np.abs(outputs[0]).max()


def test_option_a_skips_pixels_and_adds_channels_of_zeros(rng):
    x = rng.standard_normal((2, 3, 5, 6))
    y = PaddedShortcut(4, 2)(Tensor(x)).data
    assert y.shape == (2, 7, 3, 3)
    np.testing.assert_array_equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()


@pytest.mark.parametrize(
    ("network", "projections"),
    [("resnet18", [(64, 128), (128, 256), (256, 512)]),
     ("resnet50", [(64, 256), (256, 512), (512, 1024), (1024, 2048)])],
)  # fmt: skip
def test_parameters_of_the_shortcuts(network, projections, blank):
    """Option A has none, so that its network counts as many as the plain one; B has a 1×1 and a batch norm each."""
    counts = {shortcut: parameters(getattr(models, network)(shortcut=shortcut)) for shortcut in ("A", "B", True, False)}
    assert counts["A"] == counts[False]
    assert counts["B"] == counts[True] == counts["A"] + sum(a * b + 2 * b for a, b in projections)


@pytest.mark.parametrize("network", ["resnet34", "resnet50", *CIFAR])
def test_plain_networks_add_nothing(network):
    plain = small(network, shortcut=False)
    blocks = [module for module in plain.modules() if isinstance(module, BasicBlock | Bottleneck)]
    assert blocks
    for block in blocks:
        assert block.downsample is None
        assert not any("downsample" in name for name in block.state_dict())
    block = fill(blocks[0]).eval()
    x = Tensor(images(1, block.conv1.in_channels, 5, 5))
    last = block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(x)))))
    if isinstance(block, Bottleneck):
        last = block.bn3(block.conv3(block.relu2(last)))
    np.testing.assert_array_equal(block(x).data, np.maximum(last.data, 0))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("network", ["resnet18", "resnet50", "resnet20"])
def test_zero_initialised_blocks_begin_as_their_shortcut(network, shortcut):
    model, seen = small(network, shortcut=shortcut, zero_init_residual=True).eval(), 0
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            x = Tensor(images(2, block.conv1.in_channels, 6, 6))
            np.testing.assert_array_equal(block(x).data, np.maximum(block.downsample(x).data, 0))
            seen += 1
    assert seen == {"resnet18": 8, "resnet50": 16, "resnet20": 9}[network]
    for block in small(network).modules():
        if isinstance(block, BasicBlock | Bottleneck):
            assert all((norm.weight.data == 1).all() for norm in block.modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_block_is_its_branch_plus_its_shortcut():
    basic = BasicBlock(4, 6, 2, "B"), BasicBlock(4, 4, 1, "B"), BasicBlock(4, 6, 2, "A")
    for block in (*basic, Bottleneck(4, 3, 2, "B")):
        fill(block).eval()
        x = Tensor(images(2, 4, 5, 6))
        branch = block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(x)))))
        if isinstance(block, Bottleneck):
            branch = block.bn3(block.conv3(block.relu2(branch)))
        np.testing.assert_array_equal(block(x).data, np.maximum(branch.data + block.downsample(x).data, 0))


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "resnet20"])
def test_initialisation_is_hes(network):
    for name, layer in small(network, width=1 / 2).named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            out, _, kh, kw = layer.weight.shape
            ratio = layer.weight.data.std() / np.sqrt(2 / (out * kh * kw))
            assert abs(ratio - 1) < 5 / np.sqrt(layer.weight.size), name
