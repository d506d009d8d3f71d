"""Dead units: counted again in NumPy, and the two properties that theory gives."""

import json
import math

import numpy as np
import pytest

from minicnn import backend
from minicnn.data import MNIST
from minicnn.lab import deep
from minicnn.lab.dead_units import dead_units

SMALL = dict(activations=("relu", "elu"), trials=2, steps=6, images=64, batch=16, width=20, every=3)


@pytest.fixture(scope="module")
def small(device):
    return dead_units(**SMALL, device=device)


def test_dead_at_the_start_is_what_numpy_counts():
    result = dead_units(
        activations=("relu",), scenarios=("negative biases",), trials=1, steps=1, images=128, width=30, depth=3
    )
    generator = np.random.default_rng([0, 0])
    mnist = MNIST(train=True)
    x = (mnist.images[:128].reshape(-1, 784) / 255 - mnist.MEAN) / mnist.STD
    expected = []
    for inputs in (784, 30, 30):
        weight = np.array(deep.linear(inputs, 30, "he", generator, dtype="float32").weight.data)
        h = x @ weight.T - 1.5
        expected.append(sum(h[:, unit].max() <= 0 for unit in range(30)) / 30)
        x = np.maximum(h, 0)
    assert [row["dead"] for row in result.where(step=0)] == pytest.approx(expected)
    assert max(expected) > 0.3


def test_a_dead_relu_of_the_first_layer_never_comes_back():
    """All images are looked at and trained on, so its gradient is 0 for good."""
    result = dead_units(activations=("relu",), scenarios=("large steps",), trials=2, steps=60, images=256, every=5)
    first, later = result.where(layer=1), result.where(layer=3)
    assert all(row["back"] == 0 and row["dead"] == row["ever_dead"] for row in first)
    assert max(row["dead"] for row in first) > 0.05
    assert max(row["back"] for row in later) > 0  # what they see changes
    assert "none ever came back" in str(result)


def test_too_large_steps_kill_units_and_moderate_ones_do_not():
    result = dead_units(activations=("relu",), scenarios=("moderate", "large steps"), trials=1, steps=40, images=256)
    ends = {
        scenario: np.mean([row["dead"] for row in result.where(scenario=scenario, step=40)])
        for scenario in result.settings["scenarios"]
    }
    assert ends["moderate"] < 0.02 and ends["large steps"] > 0.05


def test_negative_biases_end_relu_but_not_elu():
    result = dead_units(activations=("relu", "leaky_relu", "elu"), scenarios=("negative biases",), trials=1, steps=60)
    start, end = (
        {row["activation"]: row for row in result.where(step=step, layer=3)} for step in (0, 60)
    )  # fmt: skip
    assert start["relu"]["dead"] == end["relu"]["dead"] == 1 and end["relu"]["back"] == 0
    assert end["relu"]["loss"] > 2.2 and end["leaky_relu"]["loss"] > 2.2  # a slope of 0.01 is of little help so soon
    assert start["elu"]["dead"] > 0.2 and end["elu"]["dead"] < 0.1 and end["elu"]["loss"] < 1
    assert end["elu"]["back"] == pytest.approx(end["elu"]["ever_dead"] - end["elu"]["dead"])


def test_a_run_that_is_not_finite_ends():
    result = dead_units(activations=("elu",), scenarios=("large steps",), trials=1, steps=60)
    last = result.rows[-1]
    assert last["step"] < 60 and not math.isfinite(last["loss"]) and math.isnan(last["dead"])
    assert "elu ends in infinity or NaN" in str(result)
    result.plot().canvas.draw()


def test_shares_fit_together(small):
    assert len({tuple(row) for row in small.rows}) == 1
    assert len(small.rows) == 3 * 2 * 2 * 3 * 3
    for row in small.rows:
        assert 0 <= row["back"] <= row["ever_dead"] <= 1
        assert row["ever_dead"] == pytest.approx(row["dead"] + row["back"])
    json.dumps(small.to_dict(), allow_nan=False)


def test_the_same_seed_gives_the_same_numbers_and_moves_no_generator(small):
    before = backend.generator().bit_generator.state
    again, other = dead_units(**SMALL), dead_units(**SMALL, seed=1)
    assert backend.generator().bit_generator.state == before
    assert again.to_dict() == small.to_dict() and other.rows[0]["loss"] != small.rows[0]["loss"]


def test_it_draws_and_tells(small):
    pytest.importorskip("matplotlib")
    figure = small.plot()
    figure.canvas.draw()
    assert len(figure.axes) == 9 and figure.axes[0].get_ylabel() == "dead units, layer 1"
    ends = small.where(scenario="moderate", activation="elu", step=6)
    assert f"elu {100 * np.mean([row['dead'] for row in ends]):.1f} % dead" in str(small)


def test_progress_ends_at_one():
    shares = []
    dead_units(**SMALL, progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"activations": ("relu6",)}, "activations holds 'relu6'"),
        ({"scenarios": ("huge steps",)}, "scenarios holds 'huge steps': choose from moderate, large steps"),
        ({"every": 0}, "every is 0, and must be at least 1"),
        ({"images": 8}, "images is 8, and must be at least batch, 64"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        dead_units(**wrong)


@pytest.mark.long
def test_the_default_tells_relus_from_leaky_ones():
    result = dead_units()
    ends = result.where(scenario="negative biases", step=300, layer=1)
    losses = {a: [row["loss"] for row in ends if row["activation"] == a] for a in result.settings["activations"]}
    assert min(losses["relu"]) > 2.2 and max(losses["elu"]) < 0.1 and max(losses["leaky_relu_0.2"]) < 0.1
