"""A network learns as much on whichever kernels it is trained: they round differently, and nothing else."""

import numpy as np
import pytest

from minicnn import data, manual_seed, models, optim, train, use_kernels

KERNELS = {"im2col": ("im2col", None), "fast": ("fast", None), "Winograd": ("fast", "winograd")}
# Build, side of the digits, how many, epochs, the fewest percent right, and how far two trainings may be apart.
TRAININGS = {
    "lenet5": (models.lenet5, 28, 15_000, 2, 92, 0.75),
    "resnet20": (lambda: models.resnet20(in_channels=1, input_size=14), 14, 2_500, 3, 85, 3),
}


def digits(train: bool, count: int, side: int) -> data.ArrayDataset:
    """The first `count`, made smaller by averages."""
    whole, times = data.MNIST(train=train), 28 // side
    parts = whole.images[:count].reshape(count, side, times, side, times)
    return data.ArrayDataset((parts.mean((2, 4), dtype=np.float32) / 255)[:, None], whole.labels[:count])


@pytest.mark.long
@pytest.mark.host  # on a device there are no others to choose from
@pytest.mark.parametrize("network", TRAININGS)
def test_accuracy_does_not_depend_on_the_kernels(network):
    build, side, count, epochs, least, apart = TRAININGS[network]
    images, tests = digits(True, count, side), digits(False, 2_000, side)
    losses, right = {}, {}
    for name, choice in KERNELS.items():
        manual_seed(11)
        model, loader = build(), data.DataLoader(images, 64, shuffle=True, seed=5)
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
        with use_kernels(*choice):
            history = train.fit(model, loader, data.DataLoader(tests, 500), optimizer, schedule, epochs,
                                schedule_each="step")  # fmt: skip
        losses[name] = history["steps"]["loss"]
        right[name] = 100 * history["epochs"][-1]["test_accuracy"]
    print(right)
    for name in ("fast", "Winograd"):
        np.testing.assert_allclose(losses[name][:2], losses["im2col"][:2], rtol=1e-4)  # later, roundings have grown
        assert losses[name] != losses["im2col"], "the same kernels ran twice"
        assert abs(right[name] - right["im2col"]) <= apart
    assert min(right.values()) >= least
