"""Networks that learn: small members of each family a batch by heart, the others one step."""

import numpy as np
import pytest

from minicnn import Tensor, backward_steps, manual_seed, nn, no_grad, optim
from minicnn import functional as F

from .helpers import EACH, build, channels, loss_of

# The shallow members, with a width, a side and a learning rate at which they are quick.
BY_HEART = {
    ("lenet5", "modern"): (1, 32, 3e-3),
    ("lenet5", "1998"): (1, 32, 3e-3),
    ("alexnet", "paper"): (1 / 8, 67, 1e-3),
    ("alexnet", "torchvision"): (1 / 8, 67, 3e-3),
    ("vgg11", "paper"): (1 / 8, 32, 1e-3),
    ("vgg11", "torchvision"): (1 / 8, 32, 1e-3),
    ("vgg11_bn", "paper"): (1 / 16, 32, 3e-3),
    ("vgg11_bn", "torchvision"): (1 / 16, 32, 3e-3),
    ("googlenet", "paper"): (1 / 16, 32, 3e-3),
    ("googlenet", "torchvision"): (1 / 16, 48, 1e-2),
    ("resnet18", "paper"): (1 / 16, 32, 3e-3),
    ("resnet18", "torchvision"): (1 / 16, 32, 3e-3),
    ("resnet50", "paper"): (1 / 16, 64, 3e-3),
    ("resnet50", "torchvision"): (1 / 16, 64, 3e-3),
    ("resnet20", "paper"): (1 / 4, 16, 3e-3),
}
OTHERS = [pair for pair in EACH if pair not in BY_HEART]
LIGHT = [("lenet5", "modern"), ("lenet5", "1998"), ("resnet18", "paper")]  # where all of it is emulated, too


def batch(network: str, side: int) -> tuple[Tensor, np.ndarray]:
    """Eight images of noise, two of each class."""
    noise = np.random.default_rng(3).standard_normal((8, channels(network), side, side))
    return Tensor(noise.astype(np.float32)), np.arange(8) % 4


def learns_by_heart(model: nn.Module, x: Tensor, target: np.ndarray, learning_rate: float, most: int) -> bool:
    """Whether `most` steps suffice for a loss under 0.05 in evaluation mode."""
    optimizer = optim.Adam(model.parameters(), lr=learning_rate)
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    for step in range(1, most + 1):
        model.train()
        loss = loss_of(model, model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 and loss.item() < 0.5:
            with no_grad():
                for _ in range(20 * normed):  # running statistics come to rest
                    model(x)
                if F.cross_entropy(model.eval()(x), target).item() < 0.05:
                    return True
    return False


@pytest.mark.parametrize(
    ("network", "variant"), [pytest.param(*pair, marks=() if pair in LIGHT else pytest.mark.heavy) for pair in BY_HEART]
)
def test_learns_one_batch_by_heart(network, variant):
    width, side, learning_rate = BY_HEART[network, variant]
    manual_seed(1)
    model = build(network, variant, num_classes=4, input_size=side, width=width)
    # AlexNet with its dropout takes 130 to 300 steps for five seeds, as roundings will have it; the others fewer.
    assert learns_by_heart(model, *batch(network, side), learning_rate, most=450)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("network", "shortcut"), [("resnet18", "A"), ("resnet18", False), ("resnet20", "B"), ("resnet20", False)]
)
def test_other_shortcuts_learn_too(network, shortcut):
    manual_seed(1)
    width, side = (1 / 8, 32) if network == "resnet18" else (1 / 4, 16)
    model = build(network, "paper", num_classes=4, width=width, shortcut=shortcut)
    assert learns_by_heart(model, *batch(network, side), 5e-3, most=150)


@pytest.mark.long
@pytest.mark.parametrize(("network", "variant"), OTHERS)
def test_one_step_lowers_the_loss(network, variant):
    manual_seed(1)
    side = 64 if "resnet" in network else 32
    model = build(network, variant, num_classes=4, input_size=side, width=1 / 8)
    x, target = batch(network, side)

    def loss() -> Tensor:
        manual_seed(2)  # the same dropout both times
        return loss_of(model, model(x), target)

    before = loss()
    before.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(np.isfinite(g).all() and g.any() for g in gradients)
    square = sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients)
    wanted = 0.01 * before.item()  # by how much, as far as the gradient tells
    for parameter in model.parameters():
        parameter.data -= np.float32(wanted / square) * parameter.grad
    fallen = before.item() - loss().item()
    assert 0.3 * wanted < fallen < 3 * wanted


@pytest.mark.parametrize("network", ["resnet50", "googlenet"])
def test_every_layer_has_a_path_of_its_own(network):
    """In a backward pass one can tell where one is."""
    model = build(network, "paper", num_classes=4, input_size=48, width=1 / 32)
    x, target = batch(network, 48)
    steps = list(backward_steps(loss_of(model, model(x), target)))
    convolutions = [step.path for step in steps if step.op.name == "conv2d"]
    assert len(convolutions) == len(set(convolutions)) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    rectifiers = [step.path for step in steps if step.op.name == "relu"]
    assert len(rectifiers) == len(set(rectifiers)) == sum(isinstance(m, nn.ReLU) for m in model.modules())
