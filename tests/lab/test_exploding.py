"""Exploding gradients: chains against powers, runs against training by hand in NumPy."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from minicnn import backend
from minicnn.data import MNIST
from minicnn.lab import deep
from minicnn.lab.exploding import MAX_NORM, MAX_VALUE, RUNS, exploding, outcome

SMALL = dict(
    chain_length=8, chain_width=16, chain_seeds=2, runs=("rate", "overflow"), trials=1, steps=6, width=24, batch=16
)  # fmt: skip
CHAINS = dict(trials=0, runs=(), remedies=())


@pytest.fixture(scope="module")
def small(device):
    return exploding(**SMALL, device=device)


# ----------------------------------------------------------------------------------------------------- chains


@pytest.fixture(scope="module")
def chains(device):
    return exploding(**CHAINS, chain_seeds=6, device=device)


def ends(result, weights, gain, shared):
    (row,) = result.where(part="chain", weights=weights, gain=gain, shared=shared, back=0)
    return row


def test_own_weights_multiply_by_the_gain(chains):
    for weights, gain in (("normal", 1.3), ("normal", 0.7), ("symmetric", 0.7), ("orthogonal", 1.0)):
        row = ends(chains, weights, gain, shared=False)
        assert row["slope"] == pytest.approx(math.log10(gain), abs=0.01)
        assert row["theory_slope"] == pytest.approx(math.log10(gain))


def test_a_shared_symmetric_weight_explodes_where_own_ones_vanish(chains):
    """Wigner: the eigenvalues of a symmetric matrix reach to twice the deviation of an entry, times √n."""
    alone, shared = (ends(chains, "symmetric", 0.7, shared) for shared in (False, True))
    assert alone["slope"] < -0.1 and shared["slope"] > 0.1
    assert shared["spectral_radius"] == pytest.approx(1.4, abs=0.06)
    assert shared["slope"] == pytest.approx(math.log10(1.4), abs=0.03)


def test_the_singular_value_bounds_one_step_and_the_spectral_radius_the_long_run(chains):
    """Ginibre: ρ is the gain, the largest singular value twice that; at 0.7 the gradient vanishes though 1.4 > 1."""
    row = ends(chains, "normal", 0.7, shared=True)
    assert row["spectral_radius"] == pytest.approx(0.7, abs=0.08)
    assert row["singular_value"] == pytest.approx(1.4, abs=0.06)
    assert -0.17 < row["slope"] < -0.1


def test_a_chain_is_a_power_of_its_matrix():
    """The rows of a shared symmetric chain, from the eigenvalues: the mean square is that of λ^k over the spectrum."""
    result = exploding(**CHAINS, chain_length=6, chain_width=400, chain_seeds=2)
    for row in result.where(weights="symmetric", shared=True):
        catalan = math.comb(2 * row["back"], row["back"]) // (row["back"] + 1)  # the semicircle's moments
        assert row["log10_mean_square"] == pytest.approx(math.log10(catalan * 0.7 ** (2 * row["back"])), abs=0.08)


def test_orthogonal_weights_of_gain_one_keep_every_gradient(chains):
    rows = chains.where(weights="orthogonal", back=49)
    assert [row["log10_mean_square"] for row in rows] == pytest.approx(
        [row["log10_mean_square"] for row in chains.where(weights="orthogonal", back=0)], abs=1e-9
    )


# ------------------------------------------------------------------------------------------------------- runs


def trained_by_hand(remedy, steps, width, batch):
    """The run "rate", its losses, the gradient's norms and the largest weights, in float64."""
    generator, run = np.random.default_rng([0, 0]), RUNS["rate"]
    sizes = [784, *[width] * run.depth]
    weights = [
        np.array(deep.linear(a, b, run.initialisation, generator, run.gain, "float32").weight.data, float)
        for a, b in pairwise(sizes)
    ]
    weights.append(np.array(deep.linear(width, 10, "glorot", generator, dtype="float32").weight.data, float))
    biases = [np.zeros(len(w)) for w in weights]
    mnist = MNIST(train=True)
    images = (mnist.images[: 8 * batch].reshape(-1, 784) / 255 - mnist.MEAN) / mnist.STD
    road = []
    for step in range(steps):
        those = slice(step % 8 * batch, (step % 8 + 1) * batch)
        x, y = [images[those]], mnist.labels[those]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            x.append(np.maximum(x[-1] @ w.T + b, 0))
        scores = x[-1] @ weights[-1].T + biases[-1]
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        loss = (np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(batch), y]).mean()
        g = (p - np.eye(10)[y]) / batch
        gradients = []
        for i in range(len(weights) - 1, -1, -1):
            gradients.append((i, g.T @ x[i], g.sum(axis=0)))
            g = g @ weights[i] * (x[i] > 0)
        norm = math.sqrt(sum((dw**2).sum() + (db**2).sum() for _, dw, db in gradients))
        for i, dw, db in gradients:
            for value, change in ((weights[i], dw), (biases[i], db)):
                if remedy == "clip_norm":
                    change = change * min(1, MAX_NORM / norm)
                elif remedy == "clip_value":
                    change = np.clip(change, -MAX_VALUE, MAX_VALUE)
                value -= run.lr / (100 if remedy == "smaller_steps" else 1) * change
        road.append((loss, norm, max(np.abs(v).max() for v in (*weights, *biases))))
    return road


@pytest.mark.parametrize("remedy", ["none", "clip_norm", "clip_value", "smaller_steps"])
def test_the_road_is_that_of_training_by_hand(remedy):
    result = exploding(chain_seeds=0, runs=("rate",), remedies=(remedy,), trials=1, steps=3, width=24, batch=16)
    rows = result.where(part="training")
    found = [(row["loss"], row["gradient_norm"], row["largest_weight"]) for row in rows]
    for row, expected in zip(found, trained_by_hand(remedy, 3, 24, 16), strict=True):
        assert row == pytest.approx(expected, rel=2e-3)


def test_a_rate_too_high_goes_to_infinity_and_every_remedy_keeps_it_finite():
    result = exploding(chain_seeds=0, runs=("rate",), trials=1, steps=30)
    roads = {remedy: result.where(part="training", remedy=remedy) for remedy in result.settings["remedies"]}
    none = roads.pop("none")
    norms = [row["gradient_norm"] for row in none if math.isfinite(row["gradient_norm"])]
    assert norms == sorted(norms) and norms[-1] > 1e6 * norms[0]
    assert none[0]["outcome"] == "not finite" and not none[0]["saved"] and math.isnan(none[0]["end"])
    assert len(none) < 15
    assert none[0]["first_non_finite"].startswith(f"step {none[-1]['step']}, forward, linear in layers.")
    for remedy, rows in roads.items():
        assert len(rows) == 30 and math.isfinite(rows[0]["end"]) and not rows[0]["first_non_finite"], remedy
    for remedy in ("batch_norm", "smaller_steps"):
        assert roads[remedy][0]["saved"] and roads[remedy][0]["outcome"] == "learnt"


def test_clipping_does_not_save_what_overflows_on_the_way_forward(small):
    for remedy in ("none", "clip_norm", "clip_value", "smaller_steps"):
        (row,) = small.where(run="overflow", remedy=remedy)
        assert row["outcome"] == "not finite"
        assert row["first_non_finite"].startswith("step 0, forward, linear in layers.")
    assert small.where(run="overflow", remedy="batch_norm", step=0)[0]["outcome"] != "not finite"


def test_finite_is_not_learnt():
    """A gain of 1.5 over 20 layers: clipped, the loss falls from thousands and stays far above that of guessing."""
    result = exploding(
        chain_seeds=0, runs=("deep",), remedies=("none", "clip_norm", "batch_norm"), trials=1, steps=10, width=48
    )
    outcomes = {remedy: result.where(remedy=remedy, step=0)[0] for remedy in result.settings["remedies"]}
    assert outcomes["none"]["outcome"] == "not finite"
    assert outcomes["clip_norm"]["outcome"] == "lower" and outcomes["clip_norm"]["end"] > 2 * math.log(10)
    assert outcomes["batch_norm"]["end"] < outcomes["clip_norm"]["end"]
    assert "Clipping makes some of deep finite that learn nothing" in str(result)


@pytest.mark.parametrize(
    "start, end, expected",
    [
        (2.5, math.nan, "not finite"),
        (2.5, math.inf, "not finite"),
        (2.5, 2.6, "not lower"),
        (1.0, 1.5, "not lower"),
        (2.5, 2.25, "lower"),  # guessing has 2.30
        (7000.0, 100.0, "lower"),
        (2.5, 2.19, "learnt"),
    ],
)
def test_outcomes(start, end, expected):
    assert outcome(start, end) == expected


def test_outcomes_follow_from_the_losses(small):
    for row in small.where(part="training"):
        assert row["outcome"] == outcome(row["start"], row["end"])
        assert row["saved"] is (row["outcome"] in ("lower", "learnt"))


# ---------------------------------------------------------------------------------------------- the experiment


def test_rows_are_tidy(small):
    assert len({tuple(row) for row in small.rows}) == 1
    assert len(small.where(part="chain")) == 4 * 2 * 8
    json.dumps(small.to_dict(), allow_nan=False)


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_numbers_and_moves_no_generator(small):
    before = backend.generator().bit_generator.state
    again, other = exploding(**SMALL), exploding(**SMALL, seed=1)
    assert backend.generator().bit_generator.state == before
    assert again.to_dict() == small.to_dict()
    assert other.rows[0]["log10_mean_square"] != small.rows[0]["log10_mean_square"]


def test_progress_ends_at_one():
    shares = []
    exploding(**SMALL, progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_the_sentence_counts_the_rows(small):
    saved = sum(row["saved"] for row in small.where(remedy="batch_norm", step=0))
    learnt = sum(row["outcome"] == "learnt" for row in small.where(remedy="batch_norm", step=0))
    assert f"batch norm: {saved} ({learnt})" in str(small) and small.sentence.startswith("Of 2 runs")
    assert "Clipping does not save every run of overflow" in str(small) and small.sentence.endswith(".")


@pytest.mark.parametrize("part", ["both", "chains", "runs"])
def test_it_draws(small, part):
    pytest.importorskip("matplotlib")
    left = {"chains": {**CHAINS, "chain_seeds": 2}, "runs": {**SMALL, "chain_seeds": 0}}
    figure = (small if part == "both" else exploding(**left[part])).plot()
    figure.canvas.draw()
    assert len(figure.axes) == {"both": 3, "chains": 1, "runs": 2}[part]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"runs": ("fast",)}, "runs holds 'fast': choose from rate, deep"),
        ({"remedies": ("prayer",)}, "remedies holds 'prayer'"),
        ({"steps": 0}, "steps is 0, and must be at least 1"),
        ({"chain_length": 3}, "chain_length is 3, and must be at least 4"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        exploding(**wrong)


@pytest.mark.long
def test_the_full_table():
    """Every remedy but batch norm fails somewhere, and batch norm keeps every run finite."""
    result = exploding()
    saved = {
        remedy: {
            run: sum(row["saved"] for row in result.where(run=run, remedy=remedy, step=0))
            for run in result.settings["runs"]
        }
        for remedy in result.settings["remedies"]
    }
    assert all(count == 3 for count in saved["batch_norm"].values())
    assert saved["none"]["rate"] == saved["none"]["deep"] == saved["none"]["recurrent"] == 0
    assert saved["smaller_steps"]["rate"] == 3 and saved["smaller_steps"]["deep"] == 0
    for remedy in ("clip_norm", "clip_value"):
        assert saved[remedy]["rate"] > 0 and saved[remedy]["overflow"] == 0
