"""The vanishing gradient: the measurement against NumPy, the measured against a recursion of the test's own."""

import json
import math

import numpy as np
import pytest

from minicnn import Tensor, backend
from minicnn.lab import deep
from minicnn.lab.vanishing import COMPARED, TOLERANCE, vanishing

SMALL = dict(
    activations=("relu", "sigmoid"), depths=(6,), initialisations=("he", "normal"), seeds=2, width=32, batch=8,
    compare_depth=5, compare_seeds=3, training_steps=2, training_depths=(2,), training_initialisations=("he",),
)  # fmt: skip
NOTHING = dict(depths=(), compare_seeds=0, training_steps=0)


@pytest.fixture(scope="module")
def small(device):
    return vanishing(**SMALL, device=device)


# -------------------------------------------------------------------------------------------- the measurement


def networks_gradients(weights, x, gradient, phi, slope, norm, residual):
    """Forward and backward by hand: ∂L/∂h of each layer, and the slopes of φ."""
    kept = []
    for w in weights:
        h = x @ w.T
        mean, deviation = h.mean(axis=0), np.sqrt(h.var(axis=0) + 1e-5)
        y = (h - mean) / deviation if norm else h
        kept.append((y, deviation))
        x = residual * x + phi(y)
    out = []
    for w, (y, deviation) in zip(reversed(weights), reversed(kept), strict=True):
        g = gradient * slope(y)
        if norm:
            g = (g - g.mean(axis=0) - y * (g * y).mean(axis=0)) / deviation
        out.append(g)
        gradient = residual * gradient + g @ w
    return out[::-1], [np.abs(slope(y)) for y, _ in kept]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    "name, phi, slope",
    [
        ("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        ("relu", lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    ],
)
def test_measured_is_what_numpy_finds(rng, name, phi, slope, norm, residual):
    layers = [deep.linear(9, 9, "lecun", rng, gain=2.5) for _ in range(4)]
    network = deep.blocks(layers, name, norm, residual)
    x, gradient = rng.normal(size=(2, 7, 9))
    found = deep.measure(network, lambda: network(Tensor(x)), gradient)
    weights = [np.array(layer.weight.data) for layer in layers]
    gradients, slopes = networks_gradients(weights, x, gradient, phi, slope, norm, residual)
    with np.errstate(divide="ignore"):  # a row of zeros
        logs = [np.log10((g**2).mean(axis=1)).mean() for g in gradients]
    assert found.gradient == pytest.approx([math.log10((g**2).mean()) for g in gradients], abs=1e-9)
    assert found.logs == pytest.approx(logs, abs=1e-9)
    assert found.saturated == pytest.approx([(s < 0.05).mean() for s in slopes])
    assert all(not block.activation._forward_hooks for block in network)


def test_a_shared_weight_has_a_gradient_at_each_use(rng):
    layer = deep.linear(6, 6, "orthogonal", rng, gain=2.0)
    network = deep.blocks([layer] * 4, "identity")
    found = deep.measure(network, lambda: network(Tensor(rng.normal(size=(3, 6)))), np.ones((3, 6)))
    assert found.gradient == pytest.approx([2 * back * math.log10(2) for back in (3, 2, 1, 0)])


def test_mean_squares_that_no_float_holds():
    rows = np.array([[3e-200, 4e-200], [0.0, 0.0], [1e200, 1e200], [np.inf, 1.0], [1.0, 1.0]])
    found = deep.log10_mean_square(rows)
    assert found[[0, 2, 4]] == pytest.approx([math.log10(12.5) - 400, 400, 0])
    assert found[1] == -math.inf and not math.isfinite(found[3])


def test_the_slope_and_its_error_by_hand():
    """Two seeds: each is left out once, and the error is half of the difference."""
    down, up = np.array([-3.0, -2.0, -1.0]), np.array([3.0, 2.0, 1.0])
    found = deep.profile([deep.Layers(y, y - 1, y) for y in (down, up)])
    assert found.mean_square == pytest.approx(np.log10((10**down + 10**up) / 2))
    assert found.error == pytest.approx([3, 2, 1])
    assert found.mean_of_logs == pytest.approx([-1, -1, -1])
    assert deep.slope_per_layer(down) == pytest.approx(-0.5) and deep.slope_per_layer(up) == pytest.approx(0.5)
    assert found.slope_error == pytest.approx(0.5)
    # Three seeds, one layer: (n − 1) / n times the sum of squares about the mean of the three that leave one out.
    three = deep.profile([deep.Layers(np.array([y]), np.array([y]), np.zeros(1)) for y in (0.0, 1.0, 2.0)])
    left = [math.log10((10 + 100) / 2), math.log10((1 + 100) / 2), math.log10((1 + 10) / 2)]
    assert three.error == pytest.approx([math.sqrt(2 / 3 * sum((y - sum(left) / 3) ** 2 for y in left))])
    single = deep.profile([deep.Layers(down, down, down)])
    assert single.slope == pytest.approx(-0.5) and math.isnan(single.slope_error)


@pytest.mark.parametrize("initialisation", deep.INITIALISATIONS)
def test_the_weights_have_the_variance_that_theory_is_told(rng, initialisation):
    weights = deep.linear(300, 300, initialisation, rng, gain=1.5).weight.data
    assert weights.dtype == np.float64
    assert 300 * weights.var() == pytest.approx(deep.weight_variance(initialisation, 300, 1.5), rel=0.03)


def test_own_random_numbers_leave_no_trace():
    backend.manual_seed(3)
    generator, before = backend.generator(), backend.generator().bit_generator.state
    with deep.own_random_numbers(7) as inside:
        drawn = inside.normal(size=3)
    assert drawn.tolist() == np.random.default_rng(7).normal(size=3).tolist()
    assert backend.generator() is generator and generator.bit_generator.state == before


# ------------------------------------------------------------------------------------------------ the theory


def own_recursion(name, gain, depth):
    """log10 of the mean square of ∂L/∂h, by Gauss–Hermite quadrature or in closed form."""
    z, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = weights / weights.sum()
    if name == "relu":
        return np.full(depth, math.log10(0.5))
    if name == "identity":
        return 2 * math.log10(gain) * np.arange(depth - 1, -1, -1)

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    phi = {"tanh": np.tanh, "sigmoid": sigma}[name]
    slope = {"tanh": lambda x: 1 - np.tanh(x) ** 2, "sigmoid": lambda x: sigma(x) * (1 - sigma(x))}[name]
    square, chi = 1.0, []
    for _ in range(depth):
        h = math.sqrt(square) * z
        square = weights @ phi(h) ** 2
        chi.append(weights @ slope(h) ** 2)
    return np.cumsum(np.log10(chi[::-1]))[::-1]


def check_comparison(result, depth):
    for name, initialisation, gain in COMPARED:
        rows = result.where(part="comparison", activation=name, initialisation=initialisation, gain=gain)
        assert [row["layer"] for row in rows] == list(range(1, depth + 1))
        expected = own_recursion(name, gain, depth)
        assert [row["theory"] for row in rows] == pytest.approx(expected, abs=1e-3)
        measured = np.array([row["log10_mean_square"] for row in rows])
        assert np.abs(measured - expected).max() <= TOLERANCE, name


def test_few_seeds_are_near_the_recursion():
    check_comparison(vanishing(**{**NOTHING, "compare_seeds": 5}), 30)


@pytest.mark.long
def test_gradients_follow_the_mean_field_recursion_through_thirty_layers():
    result = vanishing(**{**NOTHING, "compare_seeds": 40})
    settings = result.settings
    assert (settings["width"], settings["compare_depth"], settings["compare_seeds"]) == (256, 30, 40)
    check_comparison(result, 30)
    first = {row["activation"]: row for row in result.where(part="comparison", layer=1) if row["gain"] in (1, 1.1)}
    assert first["relu"]["slope"] == pytest.approx(0, abs=0.004)
    assert first["sigmoid"]["slope"] == pytest.approx(-0.6, abs=0.03)  # of the root mean square
    assert first["sigmoid"]["slope"] < math.log10(1 / 4) == pytest.approx(first["sigmoid"]["bound_slope"], abs=1e-4)
    assert first["identity"]["slope"] == pytest.approx(math.log10(1.1), abs=0.004)
    assert all(row["slope_error"] < 0.002 for row in first.values())
    # The typical network lies below the mean by half of the log's variance: 5/n a layer for ReLU, 2/n for linear ones.
    for name, variance in (("relu", 5), ("identity", 2)):
        drift = first[name]["mean_of_log10"] - first[name]["log10_mean_square"]
        assert drift == pytest.approx(-variance / 2 * 30 / 256 / math.log(10), abs=0.06)
        assert drift < -0.02


def test_batch_norm_lets_gradients_grow_on_their_way_back():
    result = vanishing(
        **{**NOTHING, "depths": (20,)}, activations=("relu",), initialisations=("he", "normal"), norms=(True,),
        residuals=(False,), seeds=1, batch=128,
    )  # fmt: skip
    for row in result.where(layer=1):
        assert row["slope"] == pytest.approx(math.log10(math.pi / (math.pi - 1)) / 2, abs=0.01)
        assert row["slope"] > 0


def test_shortcuts_keep_a_sigmoids_gradient():
    result = vanishing(
        **{**NOTHING, "depths": (30,)}, activations=("sigmoid",), initialisations=("glorot",), norms=(False,), seeds=1
    )
    slopes = {row["residual"]: row["slope"] for row in result.where(layer=1)}
    assert slopes[False] < -0.55 and abs(slopes[True]) < 0.05


def test_float64_holds_what_float32_cannot():
    result = vanishing(
        **{**NOTHING, "depths": (100,)}, activations=("sigmoid",), initialisations=("glorot", "normal"), norms=(False,),
        residuals=(False,), seeds=1, width=64,
    )  # fmt: skip
    for row in result.where(layer=1):
        root = row["log10_mean_square"] / 2
        assert math.isfinite(root) and root < math.log10(float(np.finfo(np.float32).smallest_subnormal))
    assert min(row["theory"] for row in result.rows) / 2 < -150


def test_large_weights_saturate_a_sigmoid(rng):
    shares = []
    for gain in (1.0, 30.0):
        network = deep.blocks([deep.linear(64, 64, "glorot", rng, gain)], "sigmoid")
        x = rng.normal(size=(50, 64))
        shares += list(deep.measure(network, lambda: network(Tensor(x)), np.ones((50, 64))).saturated)  # noqa: B023
    # σ' < 0.05 / 4 where |h| > 4.37, which is 4.37 deviations at first, then 0.146 of them
    assert shares[0] < 0.001 and shares[1] == pytest.approx(math.erfc(4.37 / 30 / math.sqrt(2)), abs=0.03)


# ---------------------------------------------------------------------------------------------- the experiment


def test_rows_are_tidy(small):
    assert len({tuple(row) for row in small.rows}) == 1
    parts = {part: len(small.where(part=part)) for part in ("comparison", "grid", "training")}
    assert parts == {"comparison": 5 * 5, "grid": 2 * 2 * 4 * 6, "training": 2 * 4 * 3 * 2}
    assert {row["step"] for row in small.where(part="training")} == {0, 1, 2}
    assert all(math.isfinite(row["loss"]) for row in small.where(part="training"))
    assert all(math.isfinite(row["theory"]) for row in small.rows if row["part"] != "training")
    assert len(small.to_csv().splitlines()) == len(small.rows) + 1
    json.dumps(small.to_dict(), allow_nan=False)


def test_every_combination_can_be_had():
    result = vanishing(**{**NOTHING, "depths": (3,)}, width=16, batch=8)
    first = result.where(layer=1)
    kinds = {tuple(row[k] for k in ("activation", "initialisation", "norm", "residual")) for row in first}
    assert len(kinds) == len(first) == 7 * 5 * 2 * 2
    assert all(math.isfinite(row["log10_mean_square"]) for row in result.rows)
    slopes = {(row["activation"], row["initialisation"]): row for row in first if not (row["norm"] or row["residual"])}
    assert slopes["relu", "he"]["he_slope"] == pytest.approx(0)
    assert slopes["tanh", "glorot"]["glorot_slope"] == pytest.approx(0)
    assert slopes["sigmoid", "lecun"]["bound_slope"] == pytest.approx(math.log10(1 / 4), abs=1e-4)
    assert math.isnan(slopes["tanh", "he"]["he_slope"])


def test_the_same_seed_gives_the_same_numbers_and_moves_no_generator(small):
    before = backend.generator().bit_generator.state
    again, other = vanishing(**SMALL), vanishing(**SMALL, seed=1)
    assert backend.generator().bit_generator.state == before
    assert again.to_dict() == small.to_dict()
    assert other.rows[0]["log10_mean_square"] != small.rows[0]["log10_mean_square"]


def test_training_changes_the_loss():
    result = vanishing(
        **{**NOTHING, "training_steps": 8}, activations=("relu",), residuals=(False,), norms=(True,), width=64,
        training_depths=(2,), training_initialisations=("he",), lr=0.02,
    )  # fmt: skip
    losses = {row["step"]: row["loss"] for row in result.where(layer=1)}
    assert list(losses) == [0, 4, 8] and losses[8] < losses[4] < losses[0]


def test_progress_ends_at_one():
    seen = []
    vanishing(**SMALL, progress=lambda share, text: seen.append((share, text)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and 0 < shares[0] and shares[-1] == pytest.approx(1) and all(t for _, t in seen)


def test_the_sentence_is_of_the_rows(small):
    worst = max(abs(row["log10_mean_square"] - row["theory"]) for row in small.where(part="comparison"))
    assert f"by at most {worst:.2f} (" in str(small)
    assert ("within" if worst <= TOLERANCE else "outside") + " the tolerance" in str(small)
    sigmoid = small.where(part="comparison", activation="sigmoid", layer=1)[0]
    assert f"sigmoid + glorot {sigmoid['slope']:+.3f} ± {sigmoid['slope_error']:.4f}" in str(small)
    for sentence in (small.sentence, *small.details):
        assert sentence.endswith(".") and "\n" not in sentence and not sentence[0].islower()
    assert len(small.sentence) < 250


@pytest.mark.parametrize("part", ["comparison", "grid", "training", "all"])
def test_it_draws(small, part):
    pytest.importorskip("matplotlib")
    left = {"comparison": "compare_seeds", "grid": "depths", "training": "training_steps"}
    arguments = SMALL if part == "all" else {**SMALL, **NOTHING, left[part]: SMALL[left[part]]}
    figure = (small if part == "all" else vanishing(**arguments)).plot()
    figure.canvas.draw()
    labels = {axes.get_xlabel() for axes in figure.axes}
    if part in ("comparison", "all"):
        assert "layer (the loss is at the right)" in labels
    if part in ("training", "all"):
        assert "cross entropy (nats)" in labels


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"activations": ("relu", "rleu")}, "activations holds 'rleu': choose from identity, sigmoid"),
        ({"initialisations": "xavier"}, "initialisations holds 'xavier'"),
        ({"depths": (0,)}, r"depths is \(0,\), and must be at least 1"),
        ({"batch": 1}, r"batch is \[1\], and must be at least 2"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        vanishing(**wrong)
