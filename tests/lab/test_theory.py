"""The mean-field recursion, against closed forms, Gauss–Hermite quadrature and networks of NumPy alone."""

import math

import numpy as np
import pytest

from minicnn import functional as F
from minicnn import nn
from minicnn.lab import theory

Q = (0.01, 0.3, 1.0, 4.0)


def gauss_hermite(f, q):
    """E[f(√q z)] for smooth f, z normal; to four digits where the poles of tanh are near, better elsewhere."""
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    return float(weights @ f(math.sqrt(q) * z)) / math.sqrt(2 * math.pi)


def below(x):
    """The normal distribution's probability below x."""
    return math.erfc(-x / math.sqrt(2)) / 2


def logistic(x):
    return 1 / (1 + np.exp(-x))


SMOOTH = {
    "sigmoid": (F.sigmoid, logistic, lambda x: logistic(x) * logistic(-x)),
    "tanh": (F.tanh, np.tanh, lambda x: np.cosh(x) ** -2),
    "silu": (F.silu, lambda x: x * logistic(x), lambda x: logistic(x) + x * logistic(x) * logistic(-x)),
    "softplus": (F.softplus, lambda x: np.logaddexp(0, x), logistic),
}


@pytest.mark.parametrize("q", Q)
@pytest.mark.parametrize("name", SMOOTH)
def test_moments_of_smooth_activations(name, q):
    activation, value, slope = SMOOTH[name]
    found = theory.moments(activation, q)
    expected = [gauss_hermite(f, q) for f in (value, lambda x: value(x) ** 2, lambda x: slope(x) ** 2)]
    assert [found.mean, found.square, found.slope_square] == pytest.approx(expected, rel=2e-4, abs=1e-9)
    assert found.variance == pytest.approx(expected[1] - expected[0] ** 2, rel=5e-4)


@pytest.mark.parametrize("q", Q)
def test_moments_of_rectifiers(q):
    relu, leaky = theory.moments(F.relu, q), theory.moments(nn.LeakyReLU(0.2), q)
    assert [relu.mean, relu.square, relu.slope_square] == pytest.approx(
        [math.sqrt(q / (2 * math.pi)), q / 2, 1 / 2], rel=1e-5
    )
    assert [leaky.square, leaky.slope_square] == pytest.approx([q * 1.04 / 2, 1.04 / 2], rel=1e-5)


@pytest.mark.parametrize("q", Q)
def test_the_slope_of_elu(q):
    """E[e^{2√q z}; z < 0] = e^{2q} P(z < −2√q)."""
    expected = 0.5 + math.exp(2 * q) * below(-2 * math.sqrt(q))
    assert theory.moments(F.elu, q).slope_square == pytest.approx(expected, rel=1e-5)


def test_he_keeps_a_rectifiers_gradient_and_glorot_a_linear_ones():
    relu = theory.mean_field(F.relu, 30, 2.0)
    assert relu.q == pytest.approx(np.full(30, 2.0), rel=1e-4)
    assert relu.chi == pytest.approx(np.ones(30))
    assert relu.gradient == pytest.approx(np.full(30, math.log10(0.5)))  # half of the units pass the gradient on
    assert theory.he_factor(2.0) == 1.0 and theory.he_factor(2.0, 0.2) == pytest.approx(1.04)
    linear = theory.mean_field(nn.Identity(), 30, 1.0)
    assert linear.gradient == pytest.approx(np.zeros(30), abs=1e-9)
    assert theory.glorot_factor(1.0) == 1.0


def test_a_linear_network_multiplies_by_its_gain():
    found = theory.mean_field(nn.Identity(), 12, 1.5**2)
    assert found.gradient == pytest.approx([2 * back * math.log10(1.5) for back in range(11, -1, -1)])
    assert found.q == pytest.approx([1.5 ** (2 * layer) for layer in range(1, 13)])


@pytest.mark.parametrize("name", SMOOTH)
def test_the_recursion_depends_on_the_depth(name):
    """q, then χ, layer by layer, written out again; tanh's q is still falling at layer 30."""
    activation, value, slope = SMOOTH[name]
    q, chi = [], []
    square = 1.7
    for _ in range(30):
        q.append(1.2 * square + 0.05)
        square = gauss_hermite(lambda x: value(x) ** 2, q[-1])
        chi.append(1.2 * gauss_hermite(lambda x: slope(x) ** 2, q[-1]))
    found = theory.mean_field(activation, 30, 1.2, bias_variance=0.05, input_square=1.7)
    assert found.q == pytest.approx(q, rel=1e-5) and found.chi == pytest.approx(chi, rel=1e-5)
    expected = [math.log10(math.prod(chi[layer:]) / 1.2) for layer in range(30)]
    assert found.gradient == pytest.approx(expected, abs=1e-4)


def test_the_sigmoids_slope_is_at_most_a_quarter():
    assert theory.steepest(F.sigmoid) == pytest.approx(0.25, abs=1e-5)
    assert theory.bound_factor(F.sigmoid, 1.0) == pytest.approx(1 / 16, rel=1e-4)
    assert (theory.mean_field(F.sigmoid, 20, 3.0).chi <= 3.0 / 16).all()


def test_batch_norm_makes_gradients_grow():
    found = theory.mean_field(F.relu, 5, 0.3, norm=True)
    assert found.chi[1:] == pytest.approx(np.full(4, math.pi / (math.pi - 1)), rel=1e-4)
    assert theory.mean_field(nn.Identity(), 5, 0.3, norm=True).chi == pytest.approx(np.ones(5))
    for activation in (F.sigmoid, F.tanh, F.elu, F.silu, F.softplus):
        assert (theory.mean_field(activation, 5, 7.0, norm=True).chi[1:] > 1).all()


@pytest.mark.parametrize("residual", [False, True])
def test_numpy_networks_whose_weights_are_drawn_afresh_for_the_way_back(residual):
    """What the recursion assumes, simulated: no alignment of the two ways, so chance alone limits the agreement.

    A network's mean squares deviate by √(e^(5·12/300) − 1) = 0.47, those of 30 by 0.037 decades, and three of them are
    0.11.
    """
    random = np.random.default_rng(5)
    width, depth, sizes, variances = 300, 12, [], []
    for _ in range(30):
        x = random.normal(size=(8, width))
        gates = []
        variances.append([])
        for _ in range(depth):
            h = x @ random.normal(0, math.sqrt(1.5 / width), (width, width))
            gates.append(h > 0)
            variances[-1].append((h**2).mean())
            x = residual * x + np.maximum(h, 0)
        gradient = random.normal(size=(8, width))
        squares = []
        for gate in reversed(gates):
            through = gradient * gate
            squares.append((through**2).mean())
            back = through @ random.normal(0, math.sqrt(1.5 / width), (width, width))
            gradient = residual * gradient + back
        sizes.append(squares[::-1])
    found = theory.mean_field(F.relu, depth, 1.5, residual=residual)
    assert np.log10(np.mean(sizes, axis=0)) == pytest.approx(found.gradient, abs=0.12)
    assert np.log10(np.mean(variances, axis=0)) == pytest.approx(np.log10(found.q), abs=0.12)


def test_tiny_gradients_do_not_underflow():
    found = theory.mean_field(F.sigmoid, 400, 1e-4)
    assert np.isfinite(found.gradient).all() and found.gradient[0] < -2000
