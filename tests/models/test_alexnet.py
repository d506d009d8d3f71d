"""AlexNet: its two towers, its normalisation, its initialisation."""

import numpy as np
import pytest

from minicnn import Tensor, models
from minicnn import functional as F
from minicnn.models.alexnet import TowerNorm

from .helpers import fill, images

SIDE = 99


def towers(state, x, alpha):
    """The paper's network as it ran: two GPUs of half the maps each, which meet in conv3 and in the dense layers."""

    def halves(name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        half = len(bias) // 2
        return (weight[:half], bias[:half]), (weight[half:], bias[half:])

    def norm_pool(maps):
        return F.max_pool2d(F.local_response_norm(maps, 5, alpha, 0.75, 2.0), 3, 2)

    gpus = [F.relu(F.conv2d(x, w, b, stride=4)) for w, b in halves("features.0")]
    gpus = [norm_pool(maps) for maps in gpus]
    gpus = [F.relu(F.conv2d(maps, w, b, padding=2)) for maps, (w, b) in zip(gpus, halves("features.3"), strict=True)]
    both = F.cat([norm_pool(maps) for maps in gpus], dim=1)  # the first crossing
    gpus = [F.relu(F.conv2d(both, w, b, padding=1)) for w, b in halves("features.6")]
    for name in ("features.8", "features.10"):
        gpus = [F.relu(F.conv2d(maps, w, b, padding=1)) for maps, (w, b) in zip(gpus, halves(name), strict=True)]
    gpus = [F.flatten(F.max_pool2d(maps, 3, 2), 1) for maps in gpus]
    for name in ("classifier.1", "classifier.4"):
        both = F.cat(gpus, dim=1)  # the second crossing, and with every dense layer again
        gpus = [F.relu(F.linear(both, w, b)) for w, b in halves(name)]
    return F.linear(F.cat(gpus, dim=1), state["classifier.6.weight"], state["classifier.6.bias"])


@pytest.mark.parametrize(("lrn", "alpha"), [("code", 1e-4), ("text", 5e-4)])
def test_two_towers_with_two_crossings_equal_groups_of_two(lrn, alpha, rng):
    model = fill(models.alexnet(num_classes=6, input_size=SIDE, width=1 / 16, lrn=lrn)).eval().to(dtype="float64")
    x = 5 * images(2, 3, SIDE, SIDE).astype(np.float64)
    state = {name: Tensor(array, requires_grad=True) for name, array in model.state_dict().items()}
    found, expected = model(Tensor(x)), towers(state, Tensor(x), alpha)
    cotangent = rng.standard_normal(found.shape)
    found.backward(cotangent)
    expected.backward(cotangent)
    np.testing.assert_allclose(found.data, expected.data, rtol=0, atol=1e-12 * np.abs(expected.data).max())
    for name, parameter in model.named_parameters():
        largest = np.abs(state[name].grad).max()
        np.testing.assert_allclose(parameter.grad, state[name].grad, rtol=0, atol=1e-11 * largest, err_msg=name)


@pytest.mark.parametrize(("alpha", "name"), [(1e-4 / 5, "code"), (1e-4, "text")])
def test_normalisation_by_the_papers_formula(alpha, name, rng):
    """Section 3.3 as printed, with loops; within a tower of half the maps."""
    a = 40 * rng.standard_normal((1, 12, 2, 2))
    b = np.empty_like(a)
    for i in range(12):
        tower = range(6) if i < 6 else range(6, 12)
        window = [j for j in range(i - 2, i + 3) if j in tower]
        b[0, i] = a[0, i] / (2 + alpha * sum(a[0, j] ** 2 for j in window)) ** 0.75
    norm = models.alexnet(num_classes=2, width=1 / 32, lrn=name).features.norm1
    assert isinstance(norm, TowerNorm)
    np.testing.assert_allclose(norm(Tensor(a)).data, b, rtol=1e-12)


def test_initialisation_is_the_papers():
    model = models.alexnet(num_classes=50, input_size=SIDE, width=1 / 4)
    for name, parameter in model.named_parameters():
        layer, kind = name.rsplit(".", 1)
        if kind == "bias":
            ones = layer in ("features.3", "features.8", "features.10", "classifier.1", "classifier.4")
            assert (parameter.data == (1 if ones else 0)).all(), name
        else:
            deviation = 0.01 / np.sqrt(parameter.size)
            assert abs(parameter.data.mean()) < 5 * deviation, name
            assert abs(parameter.data.std() - 0.01) < 5 * deviation, name


def test_dropout_is_behind_the_first_two_dense_layers():
    names = list(models.alexnet(num_classes=2, width=1 / 32).classifier._modules.items())
    kinds = [type(layer).__name__ for _, layer in names]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]


def test_images_of_another_size_than_the_classifier_was_built_for():
    """The paper's misprint: 224 where 227 is needed."""
    model = models.alexnet(num_classes=2, width=1 / 32)
    message = "images of 224×224 end in maps of 5×5, and the classifier, built for input_size=227, is for 6×6. Resize"
    with pytest.raises(ValueError, match=message):
        model(Tensor(images(1, 3, 224, 224)))
    torchvisions = models.alexnet(num_classes=2, width=1 / 32, variant="torchvision")
    assert torchvisions(Tensor(images(1, 3, 227, 227))).shape == (1, 2)
