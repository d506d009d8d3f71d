"""VGG: its table, its classifier's size, its initialisation."""

import numpy as np
import pytest

from minicnn import Tensor, models, nn

from .helpers import images, shape_of

TABLE = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("network", TABLE)
def test_table_1(network, batch_norm, blank):
    model = getattr(models, network + "_bn" * batch_norm)(input_size=32)
    expected = []
    for entry in TABLE[network].split():
        expected += ["M"] if entry == "M" else [entry, "BatchNorm2d", "ReLU"] if batch_norm else [entry, "ReLU"]
    found = []
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
            found.append(str(layer.out_channels))
        else:
            found.append("M" if isinstance(layer, nn.MaxPool2d) else type(layer).__name__)
    assert found == expected


@pytest.mark.parametrize(("side", "maps"), [(224, 7), (64, 2), (96, 3), (100, 3), (32, 1)])
def test_the_papers_classifier_is_sized_for_its_images_and_torchvisions_is_not(side, maps, blank):
    paper = models.vgg11(input_size=side, width=1 / 16)
    assert paper.classifier[0].weight.shape == (256, 32 * maps**2)
    other = models.vgg11(input_size=side, width=1 / 16, variant="torchvision")
    assert other.classifier[0].weight.shape == (256, 32 * 49)
    for model in (paper, other):
        assert shape_of(model, 1, 3, side, side) == shape_of(model, 1, 3, 160, 192) == (1, 1000)


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_initialisation(variant):
    model = models.vgg11_bn(input_size=32, width=1 / 4, variant=variant)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_out, fan_in = (np.prod(layer.weight.shape) / layer.weight.shape[axis] for axis in (1, 0))
            std = np.sqrt(2 / fan_in)
            if variant == "torchvision":
                std = 0.01 if isinstance(layer, nn.Linear) else np.sqrt(2 / fan_out)
            assert abs(layer.weight.data.std() / std - 1) < 5 / np.sqrt(layer.weight.size), name
            assert not layer.bias.data.any()


def test_the_signal_survives_nineteen_layers():
    """What He's rule is for: with Glorot's, each ReLU halves the variance."""
    model = models.vgg19(num_classes=50, input_size=32, width=1 / 4).eval()
    x = Tensor(images(4, 3, 32, 32))
    assert model(x).data.std() > 0.2
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    assert model(x).data.std() < 0.01
