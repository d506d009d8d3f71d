"""None, LRN and batch norm: gradients against scaling laws, training against one step by hand, the counts."""

import json
import math

import numpy as np
import pytest

from minicnn import backend
from minicnn.data import MNIST
from minicnn.lab.normalisation import NORMS, TITLES, _build, _findings, final_accuracies, normalisation

from .helpers import assert_legends_are_outside, assert_the_command_prints_and_draws

SMALL = dict(
    scales=(0.5, 2.0), learning_rates=(0.01, 0.1), seeds=1, steps=16, depth=3, channels=4, images=32, batch_size=8
)  # fmt: skip
START = SMALL | dict(learning_rates=(0.01,), images=64, batch_size=64)  # for what is measured before training


@pytest.fixture(scope="module")
def small(device):
    return normalisation(**SMALL, device=device)


def gradients(result, norm, scale):
    return np.array([row["value"] for row in result.where(quantity="gradient", norm=norm, scale=scale)])


# --------------------------------------------------------------------------------------------------- measured


def test_batch_norm_s_gradient_falls_as_its_weights_grow():
    """BN(s W x) = BN(W x), so that the gradient with respect to s W x is 1/s of that with respect to W x."""
    result = normalisation(**START | {"norms": ("batch norm",), "scales": (1.0, 4.0)})
    one, four = (gradients(result, "batch norm", scale) for scale in (1.0, 4.0))
    assert four == pytest.approx(one / 4, rel=0.01)  # but for batch norm's ε


def test_lrn_divides_by_the_power_of_its_constant():
    """Activations are too small for α: each LRN divides by 2^0.75 on the way back too, and the scores are about 0."""
    result = normalisation(**START | {"norms": ("none", "LRN"), "scales": (0.01,)})
    none, lrn = (gradients(result, norm, 0.01) for norm in ("none", "LRN"))
    passed = np.array([3, 2, 1])  # LRNs behind layer 1, 2 and 3
    assert lrn / none == pytest.approx(2 ** (-0.75 * passed), rel=1e-3)


def test_without_normalisation_small_weights_shrink_the_gradient_layer_by_layer():
    """ReLU passes a scale on: where the scores are about 0, a layer has a factor for each layer behind it."""
    result = normalisation(**START | {"norms": ("none",), "scales": (0.01, 0.02)})
    assert gradients(result, "none", 0.02) / gradients(result, "none", 0.01) == pytest.approx([4, 2, 1], rel=1e-3)


def by_hand(images, conv, head_weight, head_bias):
    """The network of one layer without normalisation: the maps before ReLU, the scores; float64."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.einsum("nhwij,cij->nchw", patches, conv[:, 0])
    return maps, np.maximum(maps, 0).mean(axis=(2, 3)) @ head_weight.T + head_bias


def test_a_network_of_one_layer_is_that_of_numpy():
    """Its gradient, its loss and its accuracy; the learning rate is so small that nothing moves."""
    options = dict(norms=("none",), scales=(1.0,), learning_rates=(1e-12,), seeds=1, steps=16, depth=1, channels=4)
    result = normalisation(**options, images=128, batch_size=8)
    weights = [np.array(p.data, float) for p in _build(0, "none", 1.0, 1, 4).parameters()]
    mnist = MNIST(train=True)
    pixels = (mnist.images[:128].reshape(128, 14, 2, 14, 2) / 255 - mnist.MEAN).mean(axis=(2, 4)) / mnist.STD
    maps, scores = by_hand(pixels, weights[0], *weights[2:])
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    labels = mnist.labels[:128]
    gradient = ((p - np.eye(10)[labels])[:64] / 64 @ weights[2])[:, :, None, None] / 14**2 * (maps[:64] > 0)
    found = result.where(quantity="gradient")
    assert [row["value"] for row in found] == pytest.approx([np.sqrt((gradient**2).mean())], rel=1e-4)
    loss = -np.log(p[np.arange(128), labels]).mean()
    right = (p.argmax(axis=1) == labels).mean()
    for quantity, whole in (("loss", loss), ("accuracy", right)):  # eight batches are half of the images
        one, other = (row["value"] for row in result.where(quantity=quantity))
        assert one != other and (one + other) / 2 == pytest.approx(whole, rel=1e-4)


def test_training_learns_and_what_is_not_finite_counts_as_wrong():
    options = SMALL | dict(norms=("none",), scales=(1.0,), depth=1)
    result = normalisation(**options | {"learning_rates": (0.1, 1e30)})
    for quantity, end in (("loss", math.inf), ("accuracy", 0)):
        fine, lost = (
            [r["value"] for r in result.where(quantity=quantity, learning_rate=rate)] for rate in (0.1, 1e30)
        )
        assert np.isfinite(fine).all() and lost[-1] == end
    assert result.where(quantity="loss", learning_rate=0.1, at=16)[0]["value"] < math.log(10)
    json.dumps(result.to_dict(), allow_nan=False)
    result.plot().canvas.draw()


# ---------------------------------------------------------------------------------------------- the experiment


def test_rows_are_tidy(small):
    assert len({tuple(row) for row in small.rows}) == 1
    assert len(small.where(quantity="gradient")) == 3 * 2 * 3
    assert len(small.where(quantity="loss")) == len(small.where(quantity="accuracy")) == 3 * 2 * 2 * 2
    assert all(0 <= row["value"] <= 1 for row in small.where(quantity="accuracy"))
    json.dumps(small.to_dict(), allow_nan=False)


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_numbers_moves_no_generator_and_tells_how_far_it_is(small):
    before, shares = backend.generator().bit_generator.state, []
    again = normalisation(**SMALL, progress=lambda share, text: shares.append(share))
    other = normalisation(**SMALL | {"norms": ("none",)}, seed=1)
    assert backend.generator().bit_generator.state == before
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert again.to_dict() == small.to_dict() and other.rows[0]["value"] != small.rows[0]["value"]


# ------------------------------------------------------------------------------------- the sentence, the picture

SETTINGS = {"norms": NORMS, "scales": (0.5, 2.0), "learning_rates": (0.1, 1.0), "steps": 24, "seeds": 2}


def rows(right, growth):
    """Of each norm the accuracies at the end, by scale and rate, and how the first layer's gradient changes."""
    made = []
    for norm in NORMS:
        for i, scale in enumerate(SETTINGS["scales"]):
            for seed in range(2):
                network = {"norm": norm, "scale": scale, "seed": seed}
                for at, value in ((1, growth[norm] ** i), (2, 1.0)):
                    made.append(
                        {**network, "learning_rate": None, "quantity": "gradient", "at": at, "value": value}
                    )  # fmt: skip
                for j, rate in enumerate(SETTINGS["learning_rates"]):
                    for at, value in ((8, 1.0), (16, right[norm][i][j] + 0.1), (24, right[norm][i][j] - 0.1)):
                        run = {**network, "learning_rate": rate, "at": at}
                        made.append({**run, "quantity": "accuracy", "value": value})
                        made.append({**run, "quantity": "loss", "value": 1.0})
    return made


@pytest.fixture
def made():
    right = {"none": [[0.2, 0.2], [0.5, 0.2]], "LRN": [[0.2, 0.2], [0.2, 0.2]], "batch norm": [[0.9, 0.4], [0.8, 0.7]]}
    return rows(right, {"none": 1234.0, "LRN": 100.0, "batch norm": 0.25})


def test_the_sentence_counts_what_trains(made):
    sentence, none, lrn, norm, rule = _findings(made, SETTINGS)
    assert sentence == (
        "Of 4 pairs of initial weights and a learning rate, 1 train without normalisation, 0 with LRN, 4 with batch "
        "norm."
    )
    assert none == (
        "Networks without normalisation train up to a rate of 0.1, at best to 50 % right; weights 4 times as large "
        "make the first layer's gradient 1,200 times as large."
    )
    assert lrn.startswith("Networks with LRN train at no rate, at best to 20 % right; weights 4 times")
    assert "up to a rate of 1, at best to 90 %" in norm and norm.endswith("4 times as small.")
    assert "30 %" in rule and "24 steps" in rule


def test_the_end_is_the_last_two_points(made):
    found = final_accuracies(made, SETTINGS, "batch norm")
    assert found == pytest.approx(np.array([[0.9, 0.4], [0.8, 0.7]]))


def test_one_scale_is_compared_with_none(made):
    one = [row for row in made if row["scale"] == 2.0]
    texts = _findings(one, SETTINGS | {"scales": (2.0,)})
    assert texts[0].startswith("Of 2 pairs") and not any("times as" in text for text in texts)


def test_it_draws(small):
    pytest.importorskip("matplotlib")
    figure = small.plot()
    figure.canvas.draw()
    assert len(figure.axes) == 3 * 3 and all(axes.get_xlabel() for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [
        "gradient at its output, rms", "initial weights, in He's", "cross entropy, nats",
    ]  # fmt: skip
    assert_legends_are_outside(figure, 2)


def test_the_command_prints_and_draws_it(small, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    assert_the_command_prints_and_draws(normalisation, small, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norms": ("layer norm",)}, "norms holds 'layer norm': choose from none, LRN, batch norm"),
        ({"scales": ()}, r"scales is \(\), and must have a length of at least 1"),
        ({"steps": 8}, "steps is 8, and must be at least 16"),
        ({"images": 8}, "images is 8, and must be at least 32"),
        ({"depth": 0}, "depth is 0, and must be at least 1"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        normalisation(**wrong)


@pytest.mark.long
def test_batch_norm_widens_what_trains():
    result = normalisation()
    ends = {norm: final_accuracies(result.rows, result.settings, norm) for norm in NORMS}
    trains = {norm: int((accuracies >= 0.3).sum()) for norm, accuracies in ends.items()}
    assert trains["batch norm"] >= 12 and max(trains["none"], trains["LRN"]) <= 4
    assert ends["batch norm"].max() > 0.7 > 0.6 > max(ends["none"].max(), ends["LRN"].max())
    assert f"{trains['batch norm']} {TITLES['batch norm']}" in result.sentence
    none, norm = ([gradients(result, kind, scale).reshape(2, 6)[:, 0] for scale in (0.5, 2.0)] for kind in NORMS[::2])
    assert (none[1] / none[0] > 100).all()
    assert norm[0] / norm[1] == pytest.approx([4, 4], rel=0.05)
