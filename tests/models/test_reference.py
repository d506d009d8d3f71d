"""torchvision's outputs, losses and gradients for drawn weights, at full size.

``fixtures/torchvision.npz`` was made with torchvision 0.29.1 in float64. For each network it holds every eighth score
of two images (``logits``, and ``aux1``, ``aux2``), the largest score, the loss, and for each parameter its gradient's
norm and eight entries.
"""

import numpy as np
import pytest

from minicnn import Tensor, models, nn, no_grad

from .helpers import FIXTURES, build, fill, images, labels, loss_of, sampled

LONG = ["alexnet", "vgg16", "vgg16_bn", "vgg19", "googlenet", "resnet34", "resnet50", "resnet152"]
NETWORKS = [
    pytest.param("resnet18", marks=pytest.mark.heavy),
    *(pytest.param(network, marks=pytest.mark.long) for network in LONG),
]


def set_mode(model: nn.Module) -> None:
    """As the references were made."""
    model.train(model.architecture.startswith(("resnet", "googlenet")))
    if model.architecture == "googlenet":
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
                layer.eval()


def scores(output) -> dict[str, np.ndarray]:
    if isinstance(output, models.GoogLeNetOutputs):
        named = {"logits": output.logits, "aux1": output.aux_logits1, "aux2": output.aux_logits2}
    else:
        named = {"logits": output}
    return {name: tensor.data[:, ::8] for name, tensor in named.items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_equal_to_torchvision(network, blank):
    with np.load(FIXTURES / "torchvision.npz") as file:
        expected = {key.partition(":")[2]: file[key] for key in file.files if key.startswith(f"{network}:")}
    model = fill(build(network, "torchvision"))
    set_mode(model)
    side = 160 if network == "resnet152" else 224
    x, target = images(2, 3, side, side), labels(2, 1000)

    with no_grad():
        for name, found in scores(model(Tensor(x))).items():
            assert found.dtype == np.float32
            error = np.abs(found - expected[name]).max() / np.abs(expected[name]).max()
            assert error < (2e-3 if network == "resnet152" else 2e-4), name

    model.to(dtype="float64")
    output = model(Tensor(x.astype(np.float64)))
    for name, found in scores(output).items():
        assert found.dtype == np.float64
        assert np.abs(found - expected[name]).max() < 1e-9 * np.abs(expected[name]).max(), name
    loss = loss_of(model, output, target)
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-9)
    loss.backward()
    named = dict(model.named_parameters())
    assert len(named) == len(expected["gradients"])
    for (name, parameter), (norm, *entries) in zip(named.items(), expected["gradients"], strict=True):
        assert np.linalg.norm(parameter.grad) == pytest.approx(norm, rel=1e-8), name
        rms = norm / np.sqrt(parameter.size)
        assert np.abs(parameter.grad.reshape(-1)[sampled(name, parameter.size)] - entries).max() < 1e-6 * rms, name
