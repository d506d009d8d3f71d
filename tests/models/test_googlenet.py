"""GoogLeNet: what it returns, the weights of its losses, the size of its auxiliary classifiers, its branches."""

import numpy as np
import pytest

from minicnn import Tensor, models, nn
from minicnn import functional as F
from minicnn.backend import to_host
from minicnn.models.googlenet import GoogLeNetOutputs, Inception

from .helpers import fill, images


def small(**options):
    return models.googlenet(**{"num_classes": 5, "input_size": 64, "width": 1 / 16, **options})


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_training_returns_three_outputs_and_evaluation_one(variant):
    model, x = fill(small(variant=variant)), Tensor(images(2, 3, 64, 64))
    for layer in model.modules():
        layer.training = not isinstance(layer, nn.Dropout | nn.BatchNorm2d)
    outputs = model(x)
    assert isinstance(outputs, GoogLeNetOutputs)
    assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    scores = model.eval()(x)
    np.testing.assert_array_equal(scores.data, outputs.logits.data)
    assert len({output.data.tobytes() for output in outputs}) == 3
    assert isinstance(fill(small(variant=variant, aux_logits=False)).train()(x), Tensor)


def test_auxiliary_classifiers_sit_behind_4a_and_4d():
    model = fill(small())
    for layer in model.modules():
        layer.training = not isinstance(layer, nn.Dropout)
    maps = {}
    for module in (model.inception4a, model.inception4d):
        module.register_forward_hook(lambda module, _args, output: maps.update({module: output}))
    outputs = model(Tensor(images(2, 3, 64, 64)))
    np.testing.assert_array_equal(model.aux1(maps[model.inception4a]).data, outputs.aux_logits1.data)
    np.testing.assert_array_equal(model.aux2(maps[model.inception4d]).data, outputs.aux_logits2.data)


def test_auxiliary_losses_weigh_three_tenths(rng):
    outputs = GoogLeNetOutputs(*(Tensor(rng.standard_normal((4, 5)), requires_grad=True) for _ in range(3)))
    target = np.array([0, 1, 4, 4])

    def cross_entropy(scores):
        return np.mean([np.log(np.exp(row).sum()) - row[t] for row, t in zip(scores.data, target, strict=True)])

    loss = models.googlenet_loss(outputs, target)
    main, aux2, aux1 = map(cross_entropy, outputs)
    assert loss.item() == pytest.approx(main + 0.3 * aux1 + 0.3 * aux2, rel=1e-12)
    loss.backward()
    probabilities = np.exp(outputs.aux_logits1.data) / np.exp(outputs.aux_logits1.data).sum(1, keepdims=True)
    np.testing.assert_allclose(outputs.aux_logits1.grad, 0.3 * (probabilities - np.eye(5)[target]) / 4, rtol=1e-10)
    assert models.googlenet_loss(outputs, target, 0.0).item() == pytest.approx(main)
    assert models.googlenet_loss(outputs.logits, target).item() == pytest.approx(main)


@pytest.mark.parametrize(
    ("side", "maps", "pooled"), [(224, 14, 4), (299, 18, 5), (256, 16, 4), (223, 14, 4), (222, 13, 4), (96, 6, 4),
                                 (64, 4, 4), (48, 3, 3), (32, 2, 2), (31, 2, 2)],
)  # fmt: skip
def test_auxiliary_classifiers_average_to_at_most_4x4_where_the_map_is_smaller(side, maps, pooled, blank):
    model = small(input_size=side)
    assert model.aux1.fc1.weight.shape == model.aux2.fc1.weight.shape == (64, 8 * pooled**2)
    assert isinstance(model.aux1.pool, nn.AvgPool2d if maps >= 14 else nn.AdaptiveAvgPool2d)
    assert model.aux1.pool(Tensor(np.zeros((1, 1, maps, maps), np.float32))).shape == (1, 1, pooled, pooled)


def test_torchvisions_auxiliary_classifiers_are_the_same_for_all_sizes(blank):
    for side in (15, 64, 224, 299):
        assert small(variant="torchvision", input_size=side).aux1.fc1.weight.shape == (64, 8 * 16)


@pytest.mark.parametrize(("variant", "kernel"), [("paper", 5), ("torchvision", 3)])
def test_inception_module(variant, kernel):
    """Figure 2b, branch by branch."""
    module = fill(Inception(variant, 3, (2, 4, 5, 1, 3, 6))).to(dtype="float64").eval()
    x = images(2, 3, 6, 7).astype(np.float64)
    state = {name: to_host(array) for name, array in module.state_dict().items()}

    def unit(x, name):
        weight, bias = state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias")
        y = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2).data
        if variant == "torchvision":
            keys = ("running_mean", "running_var", "weight", "bias")
            mean, var, gamma, beta = (state[f"{name}.bn.{key}"][:, None, None] for key in keys)
            y = (y - mean) / np.sqrt(var + 0.001) * gamma + beta
        return np.maximum(y, 0)

    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    pooled = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).max((4, 5))
    branches = [
        unit(x, "branch1"),
        unit(unit(x, "branch2.0"), "branch2.1"),
        unit(unit(x, "branch3.0"), "branch3.1"),
        unit(pooled, "branch4.1"),
    ]
    assert state["branch3.1.conv.weight"].shape == (3, 1, kernel, kernel)
    np.testing.assert_allclose(module(Tensor(x)).data, np.concatenate(branches, axis=1), rtol=1e-12, atol=1e-12)


def test_order_of_the_papers_layers():
    """Response normalisation behind the first pooling and before the second; poolings that round up; dropout."""
    model, calls = small().eval(), []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda _m, _a, _o, name=name: calls.append(name))
    model(Tensor(images(1, 3, 64, 64)))
    assert calls == [
        "conv1", "maxpool1", "norm1", "conv2", "conv3", "norm2", "maxpool2", "inception3a", "inception3b", "maxpool3",
        "inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a",
        "inception5b", "avgpool", "dropout", "fc",
    ]  # fmt: skip
    assert isinstance(model.norm1, nn.LocalResponseNorm)
    assert isinstance(model.norm2, nn.LocalResponseNorm)
    assert (model.dropout.p, model.aux1.dropout.p, model.aux2.dropout.p) == (0.4, 0.7, 0.7)
    assert all(m.ceil_mode for name, m in model.named_children() if name.startswith("maxpool"))


def test_initialisation():
    for variant, expected in (("paper", None), ("torchvision", 0.01)):
        model = small(variant=variant, width=1 / 4)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = layer.weight.data
                std = expected or np.sqrt(2 / np.prod(weight.shape[1:]))
                assert abs(weight.std() / std - 1) < 5 / np.sqrt(weight.size), name
                if variant == "paper":
                    assert not layer.bias.data.any()
