"""Whole networks, trained for a few steps beside the same network of PyTorch's: losses, weights, running statistics."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from minicnn import Tensor, models, nn, use_kernels
from minicnn import functional as F

from .oracle import DTYPES, TOLERANCE, close, torch

SETTINGS = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "LocalResponseNorm": ("size", "alpha", "beta", "k"),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation"),
    "AvgPool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "AdaptiveAvgPool2d": ("output_size",),
}


def twin(model: nn.Sequential, dtype: str) -> Any:
    """The same layers under the same names with the same weights, of PyTorch's."""
    layers = OrderedDict()
    for name, layer in model.named_children():
        kind = type(layer).__name__
        arguments = {key: getattr(layer, key) for key in SETTINGS.get(kind, ())}
        if kind in ("Conv2d", "Linear"):
            arguments["bias"] = layer.bias is not None
        layers[name] = getattr(torch.nn, kind)(**arguments)
    theirs = torch.nn.Sequential(layers).to(DTYPES[dtype])
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in model.state_dict().items()})
    return theirs


def everything() -> nn.Sequential:
    """Each kind of layer once or twice."""
    return nn.Sequential(
        ("conv1", nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)), ("bn1", nn.BatchNorm2d(8)), ("relu", nn.ReLU()),
        ("pool1", nn.MaxPool2d(3, 2, 1)), ("conv2", nn.Conv2d(8, 12, (3, 1), padding="same", groups=4, dilation=2)),
        ("lrn", nn.LocalResponseNorm(5, alpha=0.1)), ("elu", nn.ELU()), ("conv3", nn.Conv2d(12, 12, 3, groups=12)),
        ("bn2", nn.BatchNorm2d(12, momentum=None)), ("silu", nn.SiLU()), ("pool2", nn.AvgPool2d(2, 1, 1)),
        ("leaky", nn.LeakyReLU()), ("pool3", nn.AdaptiveAvgPool2d((2, 3))), ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(72, 16)), ("softplus", nn.Softplus()), ("fc2", nn.Linear(16, 8)), ("tanh", nn.Tanh()),
        ("fc3", nn.Linear(8, 5)), ("sigmoid", nn.Sigmoid()),
    )  # fmt: skip


@pytest.mark.parametrize("kernels", ["im2col", "fast"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("network", ["lenet5", "everything"])
def test_five_steps(network: str, dtype: str, kernels: str, rng: np.random.Generator):
    model, shape = (models.lenet5(), (1, 28, 28)) if network == "lenet5" else (everything(), (3, 24, 20))
    assert isinstance(model, nn.Sequential)
    theirs, tolerance = twin(model.to(dtype=dtype), dtype), 20 * TOLERANCE[dtype]
    with use_kernels(kernels):
        for _ in range(5):
            images, labels = rng.standard_normal((6, *shape)).astype(dtype), rng.integers(0, 5, 6)
            model.zero_grad()
            theirs.zero_grad()
            loss = F.cross_entropy(model(Tensor(images)), labels, label_smoothing=0.1)
            target = torch.from_numpy(labels)
            his = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(images)), target, label_smoothing=0.1)
            close("the loss", loss.data, his, tolerance)
            loss.backward()
            his.backward()
            for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
                close("a gradient", p.grad, q.grad, tolerance, floor=0.1)
                p.data -= 0.1 * p.grad
                q.data -= 0.1 * q.grad
        for (key, value), other in zip(model.state_dict().items(), theirs.state_dict().values(), strict=True):
            close(key, value, other, tolerance)
        images = rng.standard_normal((3, *shape)).astype(dtype)
        close("evaluation", model.eval()(Tensor(images)).data, theirs.eval()(torch.from_numpy(images)), tolerance)
