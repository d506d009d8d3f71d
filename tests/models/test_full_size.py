"""Every network at full size: parameters, names, shapes, output."""

import numpy as np
import pytest

from minicnn import models, nn

from .helpers import CIFAR, EACH, NETWORKS, build, channels, parameters, shape_of, torchvision_state

PARAMETERS = {
    "lenet5": {"modern": 61_706, "1998": 60_000},
    "alexnet": {"paper": 60_965_224, "torchvision": 61_100_840},
    "googlenet": {"paper": 13_378_280, "torchvision": 13_004_888},
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
DEFAULT_SIDE = {"lenet5": {"modern": 28, "1998": 32}, "alexnet": {"paper": 227, "torchvision": 224}}


def of_variant(table, network, variant, otherwise=None):
    entry = table.get(network, otherwise)
    return entry[variant] if isinstance(entry, dict) else entry


def test_no_network_is_left_out():
    assert set(PARAMETERS) == set(NETWORKS)


@pytest.mark.parametrize(("network", "variant"), EACH)
def test_parameters_names_and_output(network, variant, blank):
    model = build(network, variant)
    assert parameters(model) == of_variant(PARAMETERS, network, variant)

    side = of_variant(DEFAULT_SIDE, network, variant, 32 if network in CIFAR else 224)
    assert model.input_size == side
    scores = (2, 10 if network == "lenet5" or network in CIFAR else 1000)
    model.eval()
    assert shape_of(model, 2, channels(network), side, side) == scores
    model.train()
    outputs = 3 * (scores,) if network == "googlenet" else scores
    assert shape_of(model, 2, channels(network), side, side) == outputs

    # VGG and ResNet have one set of names in both variants.
    if variant == "torchvision" or (network.startswith(("vgg", "resnet")) and network not in CIFAR):
        state = {name: array.shape for name, array in model.state_dict().items()}
        assert list(state.items()) == list(torchvision_state(network).items())
        assert all(
            array.dtype == (np.int64 if name.endswith("num_batches_tracked") else np.float32)
            for name, array in model.state_dict().items()
        )


@pytest.mark.parametrize(("variant", "count"), [("paper", 6_998_552), ("torchvision", 6_624_904)])
def test_googlenet_without_auxiliary_classifiers(variant, count, blank):
    assert parameters(models.googlenet(variant=variant, aux_logits=False)) == count


def test_1998_and_paper_are_two_names_of_one_form():
    a, b = models.lenet5(variant="1998"), models.lenet5(variant="paper")
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}


def test_the_papers_alexnet_keeps_the_names_of_torchvisions(blank):
    assert list(models.alexnet().state_dict()) == list(torchvision_state("alexnet"))


def test_the_papers_googlenet_keeps_the_names_of_torchvisions(blank):
    """Its convolutions have biases instead of batch norm; the other names are the same, in the same order."""
    ours = [name for name in models.googlenet().state_dict() if not name.endswith("conv.bias")]
    assert ours == [name for name in torchvision_state("googlenet") if ".bn." not in name]


@pytest.mark.parametrize(
    ("network", "variant", "millions"),
    [("resnet20", "paper", "0.27"), ("resnet32", "paper", "0.46"), ("resnet44", "paper", "0.66"),
     ("resnet56", "paper", "0.85"), ("resnet110", "paper", "1.7")],
)  # fmt: skip
def test_cifar_networks_have_as_many_parameters_as_table_6_says(network, variant, millions):
    assert f"{PARAMETERS[network] / 1e6:.{len(millions) - 2}f}" == millions


@pytest.mark.parametrize(
    ("network", "depth"),
    [("lenet5", 5), ("alexnet", 8), ("googlenet", 22), ("vgg11", 11), ("vgg19", 19), ("resnet18", 18), ("resnet34", 34),
     ("resnet50", 50), ("resnet152", 152), ("resnet20", 20), ("resnet110", 110)],
)  # fmt: skip
def test_depth_is_the_papers(network, depth, blank):
    """Layers with weights on the longest way: of an inception module's branches two count, projections do not."""
    model = build(network, "modern" if network == "lenet5" else "paper")
    with_weights = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    beside = ("branch1", "branch3", "branch4", "downsample", "aux")
    assert len([name for name in with_weights if not any(part in name for part in beside)]) == depth
