"""The arguments that all the networks take: sides, channels, classes, widths, and what is said of wrong ones."""

import inspect
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Tensor, models, nn

from .helpers import EACH, NETWORKS, build, channels, images, parameters, shape_of, without_drawing

SMALLEST = {
    ("lenet5", "modern"): 12,
    ("lenet5", "1998"): 16,
    ("alexnet", "paper"): 67,
    ("alexnet", "torchvision"): 63,
    ("googlenet", "paper"): 31,
    ("googlenet", "torchvision"): 15,
}
FAMILIES = ("lenet5", "alexnet", "vgg11", "vgg11_bn", "googlenet", "resnet18", "resnet50", "resnet20")
SHALLOW = [pair for pair in EACH if pair[0] in FAMILIES]
SIZED = [pair for pair in SHALLOW if pair[0] in ("alexnet", "vgg11", "vgg11_bn", "googlenet")]


def smallest(network: str, variant: str) -> int:
    return SMALLEST.get((network, variant), 32 if network.startswith("vgg") else 1)


@pytest.mark.parametrize(("network", "variant"), EACH)
def test_the_smallest_side_works_and_the_next_smaller_does_not(network, variant, blank):
    side = smallest(network, variant)
    model = build(network, variant, num_classes=7, input_size=side, width=1 / 32)
    shape = (2, channels(network), side, side)
    assert shape_of(model.eval(), *shape) == (2, 7)
    message = f"{network}: .*the smallest is {side}" if side > 1 else f"{network}: input_size is 0, .*positive"
    with pytest.raises(ValueError, match=f"(?i){message}"):
        build(network, variant, input_size=side - 1)


@pytest.mark.parametrize(("network", "variant"), SIZED)
def test_images_that_are_too_small(network, variant, blank):
    side = smallest(network, variant)
    model = build(network, variant, input_size=side, width=1 / 32).eval()
    with pytest.raises(ValueError, match=f"{network}: images of {side - 1}×{side} .* smallest are {side}×{side}"):
        shape_of(model, 2, 3, side - 1, side)
    model.smallest = 0  # without the check the layers themselves cannot do it: the number is not too high
    with pytest.raises(ValueError, match="does not fit|end in maps of 0×1,"):
        shape_of(model, 2, 3, side - 1, side)
    with pytest.raises(ValueError, match=rf"images have shape \(3, {side}, {side}\), and must be \(N, channels"):
        model(Tensor(np.zeros((3, side, side), np.float32)))


@pytest.mark.parametrize(("network", "variant"), SHALLOW)
@given(data=st.data())
def test_any_side(network, variant, data):
    """Classifiers and heads are sized for every side that the network allows; in training too."""
    least = smallest(network, variant)
    side = data.draw(st.integers(max(least, 2), least + 300), "input_size")
    with without_drawing():
        model = build(network, variant, num_classes=3, input_size=side, width=1 / 64)
    scores = (2, 3)
    expected = 3 * (scores,) if network == "googlenet" else scores
    assert shape_of(model, 2, channels(network), side, side) == expected


def test_numpys_integers_will_do():
    assert models.lenet5(num_classes=np.int64(3), input_size=np.int32(16))(Tensor(images(1, 1, 16, 16))).shape == (1, 3)


@pytest.mark.parametrize(("network", "variant"), EACH)
def test_channels_classes_and_width(network, variant, blank):
    side = {"lenet5": 32, "alexnet": 96}.get(network, 64)
    model = build(network, variant, num_classes=3, in_channels=2, input_size=side, width=1 / 8).eval()
    assert shape_of(model, 5, 2, side, side) == (5, 3)
    wider = build(network, variant, num_classes=3, in_channels=2, input_size=side, width=1 / 4)
    if variant != "1998":
        assert 2.5 < parameters(wider) / parameters(model) < 5


@pytest.mark.parametrize("network", NETWORKS)
def test_wrong_arguments(network, blank):
    function = getattr(models, network)
    assert function.__name__ == network
    assert function.__doc__
    with pytest.raises(ValueError, match=f"{network}: unknown variant 'papr'. Did you mean 'paper'"):
        function(variant="papr")
    for wrong in (0, -1, 2.5, True, "7"):
        for argument in ("num_classes", "in_channels", "input_size"):
            message = f"{network}: {argument} is {wrong!r}, and must be a positive int"
            with pytest.raises(ValueError, match=re.escape(message)):
                function(**{argument: wrong})
    for wrong in (0, -1.0, float("nan"), float("inf"), 1e308, "a", None, True, [1], np.complex64(1)):
        message = f"{network}: width is {wrong!r}, and must be a number above 0, at most 1000"
        with pytest.raises(ValueError, match=re.escape(message)):
            function(width=wrong)
    model = build(network, "1998" if network == "lenet5" else "paper", width=1 / 32)
    for wrong, kind in (([1, 2], "list"), (3, "int")):
        with pytest.raises(TypeError, match=rf"{network}: images are a {kind}, and must be .* \(N, channels, height"):
            model(wrong)


@pytest.mark.parametrize(("network", "variant"), EACH)
def test_a_network_notes_what_it_was_built_with(network, variant, blank):
    """All arguments of its builder but those of its initialisation, so that a file of its weights can say them."""
    side = np.int64(70)
    model = build(network, variant, num_classes=np.int64(3), in_channels=2, input_size=side, width=np.float32(1 / 32))
    assert (model.architecture, model.variant, model.num_classes, model.in_channels) == (network, variant, 3, 2)
    assert model.input_size == 70 and type(model.input_size) is type(model.num_classes) is int
    taken = set(inspect.signature(getattr(models, network)).parameters)
    noted = taken - {"num_classes", "variant", "in_channels", "input_size", "zero_init_residual"}
    if variant == "1998":
        noted.remove("width")
    if variant == "torchvision":
        noted.discard("lrn")
    assert set(model.options) == noted
    assert model.options.get("width", 1 / 32) == 1 / 32 and type(model.options.get("width", 1.0)) is float
    assert getattr(models, network)(variant=variant, **model.options).options == model.options


def test_options_are_noted_in_one_form():
    assert models.resnet20(shortcut=True).options == models.resnet20(shortcut="B").options
    assert models.resnet20(shortcut=0).options == {"width": 1.0, "shortcut": False}
    assert models.alexnet(width=0.02, lrn="text").options == {"width": 0.02, "lrn": "text"}
    assert models.googlenet(width=0.02, aux_logits=0).options == {"width": 0.02, "aux_logits": False}


# Sides of images, and the sides for which the network may be built: those that end in maps of the same side.
@pytest.mark.parametrize(
    ("network", "variant", "built", "shown", "maps", "expected"),
    [
        ("lenet5", "modern", 28, 32, 6, 5),
        ("lenet5", "1998", 32, 28, 4, 5),
        ("alexnet", "paper", 227, 224, 5, 6),
        ("googlenet", "paper", 224, 96, 1, 4),
        ("googlenet", "paper", 256, 288, 5, 4),
    ],
)
def test_images_of_another_side_than_the_network_was_built_for(network, variant, built, shown, maps, expected, blank):
    model = build(network, variant, num_classes=3, input_size=built, width=1 / 32)
    shape = (1, channels(network), shown, shown)
    message = (
        f"{network}: images of {shown}×{shown} end in maps of {maps}×{maps}, and .*, built for input_size={built}, "
        f"is for {expected}×{expected}. Resize .* to {built}×{built}, or build the network with input_size={shown}$"
    )
    with pytest.raises(ValueError, match=message):
        shape_of(model, *shape)
    shape_of(build(network, variant, num_classes=3, input_size=shown, width=1 / 32), *shape)  # as it says
    with pytest.raises(ValueError, match=rf"images of {shown}×{built} .* Resize the images to {built}×{built}$"):
        shape_of(model, *shape[:3], built)  # there is no network for these


@pytest.mark.parametrize(
    ("network", "variant", "sides"),
    [("lenet5", "modern", (28, 31)), ("lenet5", "1998", (32, 35)), ("alexnet", "paper", (227, 258)),
     ("googlenet", "paper", (223, 270))],
)  # fmt: skip
def test_other_sides_that_fit_all_the_same(network, variant, sides, blank):
    model = build(network, variant, num_classes=3, width=1 / 32)
    scores = 3 * ((2, 3),) if network == "googlenet" else (2, 3)
    for height, width in (sides, sides[::-1]):
        assert shape_of(model, 2, channels(network), height, width) == scores
    for side in (sides[0] - 1, sides[1] + 1):
        with pytest.raises(ValueError, match="end in maps of"):
            shape_of(model, 2, channels(network), side, side)


def test_googlenet_in_evaluation_takes_any_side(blank):
    model = build("googlenet", "paper", num_classes=3, width=1 / 32).eval()
    assert shape_of(model, 2, 3, 96, 64) == (2, 3)
    assert shape_of(build("googlenet", "torchvision", num_classes=3, width=1 / 32), 2, 3, 96, 64) == 3 * ((2, 3),)


def test_torchvision_is_suggested():
    with pytest.raises(ValueError, match="Did you mean 'torchvision'.*There are 'paper', 'torchvision'"):
        models.vgg16(variant="torch")


@pytest.mark.parametrize("network", ["resnet18", "resnet20"])
def test_wrong_shortcut(network):
    with pytest.raises(ValueError, match=f"{network}: shortcut is 'C', and must be 'B'.*'A'.*False"):
        getattr(models, network)(shortcut="C")


def test_wrong_lrn():
    with pytest.raises(ValueError, match="alexnet: lrn is 'paper', and must be 'code'.*'text'"):
        models.alexnet(lrn="paper")


@pytest.mark.parametrize(("network", "variant"), EACH)
def test_dropouts_and_norms_are_layers(network, variant, blank):
    """Nothing is dropped or normalised but by a layer that can be found, and switched off."""
    side = {"lenet5": 32, "alexnet": 67}.get(network, 32)
    model = build(network, variant, num_classes=3, input_size=side, width=1 / 32)
    kinds = [type(layer) for layer in model.modules()]
    dropouts = {"alexnet": 2, "googlenet": 3}.get(network, 2 if network.startswith("vgg") else 0)
    assert kinds.count(nn.Dropout) == dropouts
    normed = network.startswith("resnet") or network.endswith("_bn") or network + variant == "googlenettorchvision"
    assert (nn.BatchNorm2d in kinds) == normed
