"""The initialisers: distributions (fixed seeds, bounds from sampling theory), fans, reproducibility, errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.engine import Parameter, Tensor
from minicnn.nn import init

CONV = (64, 48, 5, 5)  # 76,800 weights, fan_in 1200, fan_out 1600
LINEAR = (200, 300)


def filled(shape, fill, dtype="float32"):
    tensor = Parameter(np.full(shape, np.nan, dtype))
    out = fill(tensor)
    assert out is tensor
    assert tensor.dtype == dtype
    return tensor.data.astype(np.float64).ravel()


def assert_mean(x, mean, variance):
    """The mean of n draws is within 5 of its standard deviations, σ/√n."""
    assert abs(x.mean() - mean) <= 5 * math.sqrt(variance / x.size)


def assert_variance(x, mean, variance, kurtosis):
    """The mean square deviation of n draws has the standard deviation σ²·√((kurtosis − 1) / n)."""
    assert abs(((x - mean) ** 2).mean() - variance) <= 5 * variance * math.sqrt((kurtosis - 1) / x.size)


def assert_distributed(x, cdf):
    """Kolmogorov-Smirnov: the largest gap between the shares is below 2.5/√n, but for 1 sample in 130,000."""
    x = np.sort(x)
    below = np.array([cdf(v) for v in x])
    n = x.size
    gap = max((np.arange(1, n + 1) / n - below).max(), (below - np.arange(n) / n).max())
    assert gap <= 2.5 / math.sqrt(n)


def assert_uniform(x, low, high):
    low32, high32 = np.float32(low), np.float32(high)  # rounding may lead up to, not across
    assert x.min() >= low32 and x.max() <= high32
    assert_mean(x, (low + high) / 2, (high - low) ** 2 / 12)
    assert_variance(x, (low + high) / 2, (high - low) ** 2 / 12, kurtosis=1.8)
    assert_distributed(x[:5000], lambda v: min(max((v - low) / (high - low), 0), 1))


def assert_normal(x, mean, std):
    assert_mean(x, mean, std**2)
    assert_variance(x, mean, std**2, kurtosis=3)
    assert_distributed(x[:5000], lambda v: 0.5 * (1 + math.erf((v - mean) / (std * math.sqrt(2)))))


# -------------------------------------------------------------------------------------------------- distributions

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform(dtype):
    assert_uniform(filled(CONV, init.uniform_, dtype), 0, 1)
    assert_uniform(filled(CONV, lambda t: init.uniform_(t, -3, 0.5), dtype), -3, 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal(dtype):
    assert_normal(filled(CONV, init.normal_, dtype), 0, 1)
    assert_normal(filled(CONV, lambda t: init.normal_(t, 2.0, 0.01), dtype), 2.0, 0.01)


@pytest.mark.parametrize("shape, fan_in, fan_out", [(CONV, 1200, 1600), (LINEAR, 300, 200)])
def test_scaled_by_the_fans(shape, fan_in, fan_out):
    """The variance that each paper asks for, and the family of distributions."""
    lecun = 1 / fan_in  # LeCun et al. 1998, equation 16
    glorot = 2 / (fan_in + fan_out)  # Glorot & Bengio 2010, equation 12
    he = 2 / fan_in  # He et al. 2015, equation 10
    he_backward = 2 / fan_out  # equation 14
    leaky = 2 / ((1 + 0.3**2) * fan_in)  # equation 15
    cases = [
        (init.lecun_uniform_, init.lecun_normal_, {}, lecun),
        (init.xavier_uniform_, init.xavier_normal_, {}, glorot),
        (init.xavier_uniform_, init.xavier_normal_, {"gain": 5 / 3}, glorot * 25 / 9),
        (init.kaiming_uniform_, init.kaiming_normal_, {}, he),
        (init.kaiming_uniform_, init.kaiming_normal_, {"mode": "fan_out", "nonlinearity": "relu"}, he_backward),
        (init.kaiming_uniform_, init.kaiming_normal_, {"a": 0.3}, leaky),
        (init.kaiming_uniform_, init.kaiming_normal_, {"nonlinearity": "linear"}, 1 / fan_in),
    ]
    for uniform, normal, options, variance in cases:
        bound = math.sqrt(3 * variance)
        assert_uniform(filled(shape, lambda t: uniform(t, **options)), -bound, bound)  # noqa: B023
        assert_normal(filled(shape, lambda t: normal(t, **options)), 0, math.sqrt(variance))  # noqa: B023


def test_glorots_equation_16():
    x = filled(LINEAR, init.xavier_uniform_)
    bound = math.sqrt(6) / math.sqrt(300 + 200)
    assert 0.999 * bound < np.abs(x).max() <= bound * (1 + 1e-7)


@pytest.mark.parametrize(
    "mean, std, a, b",
    [
        (0.0, 1.0, -2.0, 2.0),  # the default
        (0.5, 2.0, -1.0, 4.0),
        (0.0, 1.0, 1.0, 1.5),  # a slice of one side
        (0.0, 1.0, 6.0, 9.0),  # far out, where a normal number comes once in a thousand million
        (3.0, 0.5, -np.inf, 1.0),
        (0.0, 1.0, 2.0, 1e30),
        (0.0, 1.0, -0.1, 0.1),
        (0.0, 1.0, -np.inf, np.inf),
    ],
)
def test_trunc_normal(mean, std, a, b):
    x = filled((100, 100), lambda t: init.trunc_normal_(t, mean, std, a, b), "float64")
    assert x.min() >= a and x.max() <= b

    def tail(v):  # P(X > v), exact far out too
        return 0.5 * math.erfc((v - mean) / (std * math.sqrt(2)))

    if a >= mean:
        cdf = lambda v: (tail(a) - tail(v)) / (tail(a) - tail(b))  # noqa: E731
    else:
        cdf = lambda v: (tail(2 * mean - v) - tail(2 * mean - a)) / (tail(2 * mean - b) - tail(2 * mean - a))  # noqa: E731
    assert_distributed(x[:5000], cdf)
    assert np.unique(x).size > 0.999 * x.size


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5), (4, 3, 2, 2), (30, 3, 3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("gain", [1, 2.5])
def test_orthogonal(shape, gain):
    matrix = filled(shape, lambda t: init.orthogonal_(t, gain), "float64").reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, gain**2 * np.eye(len(product)), atol=1e-13)


def test_orthogonal_is_drawn_evenly():
    """Without the signs of R the first column always points the same way in its first entry (Mezzadri 2007)."""
    draws = np.array([filled((3, 3), init.orthogonal_, "float64") for _ in range(400)])
    assert (np.abs(draws.mean(axis=0)) <= 5 * math.sqrt(1 / 3 / 400)).all()  # each entry: mean 0, variance 1/3


def test_constants():
    assert (filled((2, 3), init.ones_) == 1).all()
    assert (filled((2, 3), init.zeros_) == 0).all()
    assert (filled((2, 3), lambda t: init.constant_(t, 0.25)) == 0.25).all()


def test_alexnet():
    """Krizhevsky et al. 2012, section 5: weights of standard deviation 0.01, and biases of one or zero."""
    weight, bias = Parameter(np.full(CONV, np.nan, np.float32)), Parameter(np.full(64, np.nan, np.float32))
    assert init.alexnet_(weight, bias, 1) == (weight, bias)
    assert_normal(weight.data.astype(np.float64).ravel(), 0, 0.01)
    assert (bias.data == 1).all()
    init.alexnet_(weight, bias, 0)
    assert (bias.data == 0).all()


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.integers(1, 7), max_size=3))
def test_fans(out, into, window):
    tensor = Tensor(np.zeros((out, into, *window), np.float32))
    places = 1
    for n in window:
        places *= n
    assert init.fan_in_and_fan_out(tensor) == (into * places, out * places)


def test_fan_in_of_a_grouped_convolution_is_one_groups():
    """(out, in / groups, kh, kw): an output sums over its own group's channels only."""
    assert init.fan_in_and_fan_out(Tensor(np.zeros((256, 48, 5, 5), np.float32))) == (48 * 25, 256 * 25)


def test_gains():
    assert init.calculate_gain("linear") == init.calculate_gain("conv2d") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("selu") == 0.75
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert init.calculate_gain("leaky_relu", 0.5) == math.sqrt(2 / 1.25)


# --------------------------------------------------------------------------------------------------- the mechanism

RANDOM = {
    "uniform_": init.uniform_,
    "normal_": init.normal_,
    "trunc_normal_": init.trunc_normal_,
    "lecun_uniform_": init.lecun_uniform_,
    "lecun_normal_": init.lecun_normal_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "orthogonal_": init.orthogonal_,
}
every_random = pytest.mark.parametrize("name", RANDOM)


@every_random
def test_the_same_seed_gives_the_same_bits(name):
    fill = RANDOM[name]
    backend.manual_seed(7)
    first, second = filled((4, 5), fill), filled((4, 5), fill)
    backend.manual_seed(7)
    assert np.array_equal(filled((4, 5), fill), first)
    assert not np.array_equal(first, second)


@every_random
def test_a_generator_of_ones_own(name):
    fill = RANDOM[name]
    before = backend.generator().bit_generator.state
    a = filled((4, 5), lambda t: fill(t, generator=np.random.default_rng(1)))
    b = filled((4, 5), lambda t: fill(t, generator=np.random.default_rng(1)))
    assert np.array_equal(a, b)
    assert backend.generator().bit_generator.state == before


@every_random
def test_float32_is_float64_rounded(name):
    wide = filled((4, 5), lambda t: RANDOM[name](t, generator=np.random.default_rng(1)), "float64")
    narrow = filled((4, 5), lambda t: RANDOM[name](t, generator=np.random.default_rng(1)), "float32")
    assert np.array_equal(wide.astype(np.float32), narrow)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "kaiming_normal_"])
def test_drawing_in_blocks_gives_the_same_numbers(name, monkeypatch):
    whole = filled((5, 7), lambda t: RANDOM[name](t, generator=np.random.default_rng(1)))
    monkeypatch.setattr(init, "BLOCK", 4)
    assert np.array_equal(filled((5, 7), lambda t: RANDOM[name](t, generator=np.random.default_rng(1))), whole)


@pytest.mark.host
@every_random
def test_in_place_whatever_the_layout(name):
    tensor = Parameter(np.zeros((4, 5), np.float32))
    array = tensor.data = np.asfortranarray(tensor.data)
    RANDOM[name](tensor, generator=np.random.default_rng(1))
    assert tensor.data is array
    want = filled((4, 5), lambda t: RANDOM[name](t, generator=np.random.default_rng(1)))
    assert np.array_equal(array.ravel(), want)


@every_random
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_tensors_are_left_as_they_are(name, shape):
    assert RANDOM[name](Parameter(np.zeros(shape, np.float32))).shape == shape


def test_vectors_where_no_fan_is_needed():
    for fill in (init.uniform_, init.normal_, init.trunc_normal_):
        assert np.isfinite(filled((), fill)).all()
        assert np.isfinite(filled((9,), fill)).all()


# ------------------------------------------------------------------------------------------------------------ errors

def weight():
    return Parameter(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: init.normal_(np.zeros(3)), TypeError, "normal_: fills a Tensor in place, got a ndarray"),
        (lambda: init.constant_([1.0], 2), TypeError, "constant_: fills a Tensor in place, got a list"),
        (lambda: init.xavier_normal_(np.zeros((3, 3))), TypeError, "fills a Tensor"),
        (lambda: init.orthogonal_(np.zeros((3, 3))), TypeError, "fills a Tensor"),
        (lambda: init.zeros_(Tensor(np.arange(3))), TypeError, "int64"),
        (lambda: init.normal_(Tensor(np.zeros(3, complex))), TypeError, "complex128"),
        (lambda: init.normal_(weight(), generator=3), TypeError, r"generator is a int.*default_rng\(seed\)"),
        (lambda: init.orthogonal_(weight(), generator=3), TypeError, "generator is a int"),
        (lambda: init.uniform_(weight(), 1, 0), ValueError, "a is 1 and b is 0"),
        (lambda: init.uniform_(weight(), math.nan, 0), ValueError, "a is nan"),
        (lambda: init.normal_(weight(), std=-1), ValueError, "std is -1"),
        (lambda: init.trunc_normal_(weight(), std=0), ValueError, "std is 0"),
        (lambda: init.trunc_normal_(weight(), a=2, b=2), ValueError, "a is 2, b is 2"),
        (lambda: init.kaiming_normal_(Parameter([1.0])), ValueError, r"shape \(1,\), .* a bias has no fan"),
        (lambda: init.lecun_normal_(Parameter([1.0])), ValueError, "a bias has no fan"),
        (lambda: init.orthogonal_(Parameter([1.0])), ValueError, "at least two dimensions"),
        (lambda: init.kaiming_uniform_(weight(), mode="fan"), ValueError, "kaiming_uniform_: mode is 'fan'"),
        (lambda: init.calculate_gain("rleu"), ValueError, "'rleu'. Did you mean 'relu'"),
        (lambda: init.calculate_gain("swish"), ValueError, "Choose one of linear"),
        (lambda: init.calculate_gain("leaky_relu", "steep"), ValueError, "param is 'steep'"),
        (lambda: init.calculate_gain("leaky_relu", True), ValueError, "param is True"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ------------------------------------------------------------------------------------------- PyTorch, where installed

@pytest.mark.parametrize("shape", [CONV, LINEAR])
@pytest.mark.parametrize(
    "name, options",
    [
        ("uniform_", {"a": -2.0, "b": 1.0}),
        ("normal_", {"mean": 1.0, "std": 0.3}),
        ("trunc_normal_", {"std": 0.7, "a": -1.0, "b": 0.5}),
        ("xavier_uniform_", {"gain": 1.5}),
        ("xavier_normal_", {}),
        ("kaiming_uniform_", {"a": math.sqrt(5)}),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
        ("orthogonal_", {"gain": 2.0}),
    ],
)
def test_distributed_as_pytorchs(name, options, shape):
    """Two samples of n have quantiles within 2.5·√(2/n) of each other's, in shares."""
    torch = pytest.importorskip("torch")
    ours = filled(shape, lambda t: RANDOM[name](t, **options))
    theirs = torch.empty(shape)
    getattr(torch.nn.init, name)(theirs, **options, generator=torch.Generator().manual_seed(3))
    sample = np.sort(theirs.numpy().astype(np.float64).ravel())
    shares = np.searchsorted(sample, np.sort(ours)) / sample.size
    assert np.abs(shares - np.arange(ours.size) / ours.size).max() <= 2.5 * math.sqrt(2 / ours.size)


def test_gains_and_fans_are_pytorchs():
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv1d", "conv2d", "conv3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    for shape in (CONV, LINEAR, (4, 3, 2)):
        want = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
        assert init.fan_in_and_fan_out(Tensor(np.zeros(shape, np.float32))) == want
