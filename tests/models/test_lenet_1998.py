"""LeNet-5 as published: table I, subsampling, squashing, radial basis functions and the criterion, one by one."""

import numpy as np
import pytest

from minicnn import Tensor, data, gradcheck, manual_seed, models, no_grad, optim
from minicnn.models import lenet_1998 as L


@pytest.fixture
def model():
    return models.lenet5(variant="1998")


def test_table_1():
    """The paper's text: columns of three contiguous maps, four contiguous, four that are not, and all."""
    seen = [set(np.flatnonzero(column)) for column in L.C3_TABLE.T]
    assert seen[:6] == [{i, (i + 1) % 6, (i + 2) % 6} for i in range(6)]
    assert seen[6:12] == [{i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6} for i in range(6)]
    assert seen[12:] == [{0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}, set(range(6))]


def test_parameters_of_each_layer(model):
    counts = {name: sum(p.size for p in layer.parameters()) for name, layer in model.named_children()}
    assert {name: count for name, count in counts.items() if count} == {
        "c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164,
    }  # fmt: skip
    assert [name for name, _ in model.named_buffers()] == ["output.codes"]


def test_shapes_of_each_layer_and_values_by_hand(model, rng):
    """The whole network again, with plain NumPy."""
    model.to(dtype="float64")
    x = rng.standard_normal((2, 1, 32, 32))
    p = {name: parameter.data for name, parameter in model.named_parameters()}

    def squash(a):
        return 1.7159 * np.tanh(2 / 3 * a)

    def windows(maps, kernel):  # (N, H', W', C, k, k)
        return np.lib.stride_tricks.sliding_window_view(maps, (kernel, kernel), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)

    def subsample(maps, name):
        n, c, h, w = maps.shape
        sums = maps.reshape(n, c, h // 2, 2, w // 2, 2).sum((3, 5))
        return squash(sums * p[f"{name}.coefficient"][:, None, None] + p[f"{name}.bias"][:, None, None])

    c1 = squash(np.einsum("nhwckl,ockl->nohw", windows(x, 5), p["c1.weight"]) + p["c1.bias"][:, None, None])
    s2 = subsample(c1, "s2")
    c3 = np.zeros((2, 16, 10, 10))
    kernels = iter(p["c3.weight"])
    for out in range(16):  # C3, kernel by kernel: those of the first map, then those of the second …
        for source in range(6):
            if L.C3_TABLE[source, out]:
                c3[:, out] += np.einsum("nhwkl,kl->nhw", windows(s2, 5)[:, :, :, source], next(kernels))
        c3[:, out] += p["c3.bias"][out]
    assert next(kernels, None) is None
    s4 = subsample(squash(c3), "s4")
    assert [m.shape[1:] for m in (c1, s2, c3, s4)] == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]
    c5 = squash(np.einsum("nckl,ockl->no", s4, p["c5.weight"]) + p["c5.bias"])
    f6 = squash(c5 @ p["f6.weight"].T + p["f6.bias"])
    penalties = np.array([[((row - code) ** 2).sum() for code in model.output.codes.data] for row in f6])
    np.testing.assert_allclose(model(Tensor(x)).data, -penalties, rtol=1e-12)


def test_squashing_keeps_one_and_minus_one():
    np.testing.assert_allclose(L.Squash()(Tensor(np.array([-1.0, 0.0, 1.0]))).data, [-1, 0, 1], atol=1e-4)


def test_codes_are_bitmaps_of_seven_by_twelve_and_far_apart():
    codes = L.codes(10)
    assert codes.shape == (10, 84)
    assert set(codes.ravel()) == {-1.0, 1.0}
    distances = (codes[:, None] != codes).sum(2)[np.triu_indices(10, 1)]
    assert distances.min() >= 12
    one = codes[1].reshape(12, 7)
    assert one[:, 3].sum() > one[:, 0].sum() + 12, "a one is a stroke down the middle"
    more = L.codes(30)
    np.testing.assert_array_equal(more[:10], codes)
    np.testing.assert_array_equal(more, L.codes(30))
    assert (more[:, None] != more).sum(2)[np.triu_indices(30, 1)].min() >= 12
    assert L.codes(4).shape == (4, 84)


def test_weights_begin_within_2_4_over_the_number_of_inputs(model):
    bounds = {"c1": 25, "s2": 4, "s4": 4, "c5": 400, "f6": 120}
    for layer, fan_in in bounds.items():
        values = np.concatenate([p.data.ravel() for p in model.get_submodule(layer).parameters()])
        assert 0.6 * 2.4 / fan_in < np.abs(values).max() <= 2.4 / fan_in
    per_map = np.repeat(L.C3_TABLE.sum(0), L.C3_TABLE.sum(0))  # of each kernel, how many its map has
    largest = np.abs(model.c3.weight.data).max((1, 2))
    assert (largest <= 2.4 / (25 * per_map)).all()
    assert (largest > 0.6 * 2.4 / (25 * per_map)).all()


@pytest.mark.parametrize("j", [0.1, 3.0, 10.0])
def test_the_criterion_is_equation_9(rng, j):
    penalties, target = rng.uniform(0, 12, (5, 10)), rng.integers(0, 10, 5)
    expected = np.mean([y[d] + np.log(np.exp(-j) + np.exp(-y).sum()) for y, d in zip(penalties, target, strict=True)])
    assert models.lenet5_loss(Tensor(-penalties), target, j).item() == pytest.approx(expected, rel=1e-12)
    assert gradcheck(lambda scores: models.lenet5_loss(scores, target, j), -penalties)


def test_layers_have_the_right_gradients(rng):
    table = L.C3_TABLE[:3, [0, 4, 15]]
    assert gradcheck(L.TableConv2d(table, 2).to(dtype="float64"), rng.standard_normal((2, 3, 4, 3)))
    assert gradcheck(L.Subsample(3).to(dtype="float64"), rng.standard_normal((2, 3, 4, 6)))
    assert gradcheck(L.RadialBasis(3).to(dtype="float64"), rng.standard_normal((2, 84)))


def test_codes_are_not_trained_but_saved(model):
    models.lenet5_loss(model(Tensor(np.ones((2, 1, 32, 32), np.float32))), np.array([3, 4])).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.output.codes.grad is None
    assert "output.codes" in model.state_dict()


def test_width_is_fixed():
    with pytest.raises(ValueError, match="lenet5: width is 2, and must be 1 for variant 'paper'"):
        models.lenet5(variant="paper", width=2)


@pytest.mark.heavy
def test_learns_mnist():
    """The paper's pixels (−0.1 for the ground, 1.175 for the stroke), its border and its criterion; 200 steps."""

    def prepared(dataset, count):
        pixels = np.pad(dataset.images[:count] / np.float32(255), ((0, 0), (2, 2), (2, 2)))
        return (1.275 * pixels - 0.1)[:, None], dataset.labels[:count]

    manual_seed(1)
    model = models.lenet5(variant="1998")
    x, target = prepared(data.MNIST(train=True), 6400)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    for start in range(0, len(x), 32):
        loss = models.lenet5_loss(model(Tensor(x[start : start + 32])), target[start : start + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, target = prepared(data.MNIST(train=False), 1000)
    with no_grad():
        predicted = model.eval()(Tensor(x)).data.argmax(1)
    assert (predicted == target).mean() > 0.8
