"""detect_anomaly: a NaN or an infinity is found where it is made, and the error says where that is."""

import inspect
import re

import numpy as np
import pytest

import minicnn
from minicnn import Op, Tensor, engine, models, nn
from minicnn import functional as F
from minicnn.inspect import AnomalyError


def leaf(*values):
    return Tensor(np.array(values, dtype=np.float32), requires_grad=True)


class Planted(nn.Module):
    """Does one thing that may go wrong, between two layers that are well."""

    def __init__(self, act):
        super().__init__()
        self.before, self.act, self.after = nn.Linear(2, 2, bias=False), act, nn.Linear(2, 2, bias=False)
        self.before.weight.data[:] = self.after.weight.data[:] = np.eye(2)

    def forward(self, x):
        return self.after(self.act(self.before(x)))


class Act(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)  # the line that is wanted


def bad_backward(grad_output, saved, needs):
    return (grad_output * np.float32(np.nan),)


BAD_BACKWARD = Op("bad", lambda x: (x * 1, None), bad_backward)

# What goes wrong, for the input (0, 2): the function, the operation and the direction that the error must name.
PLACES = {
    "log of 0": (lambda x: x.log(), "log", "forward"),
    "root of a negative": (lambda x: (x - 1).sqrt(), "sqrt", "forward"),
    "0 / 0": (lambda x: x / x, "div", "forward"),
    "exp of much": (lambda x: (x * 1000).exp(), "exp", "forward"),
    "a negative to a fraction": (lambda x: (x - 1) ** 0.5, "pow", "forward"),
    "a product that overflows": (lambda x: x * 1e30 * 1e30, "mul", "forward"),
    "a weight that is NaN": (lambda x: F.linear(x, np.full((2, 2), np.nan, np.float32)), "linear", "forward"),
    "the slope of a root at 0": (lambda x: x.sqrt(), "sqrt", "backward"),
    "the slope of a power at 0": (lambda x: x**0.5, "pow", "backward"),
    "an operation of one's own": (lambda x: minicnn.apply(BAD_BACKWARD, x), "bad", "backward"),
    "the slope of a quotient": (lambda x: 1 / (x + 1e-30), "div", "backward"),
    "the variance of equals": (lambda x: (x * 0).var(dim=1, keepdim=True).sqrt() + x, "sqrt", "backward"),
}


@pytest.mark.parametrize("place", PLACES)
def test_planted(place):
    function, op, direction = PLACES[place]
    model = Planted(Act(function))
    code, start = inspect.getsourcelines(function)
    with pytest.raises(AnomalyError) as caught, minicnn.detect_anomaly():
        loss = model(leaf([0.0, 2.0])).sum()
        assert direction == "backward"
        loss.backward()
    error = caught.value
    assert (error.node.op.name, error.node.path, error.direction) == (op, "act", direction)
    message = str(error)
    assert message.startswith(f"{op} in act made ")
    assert f"on the way {direction}" in message.splitlines()[0] and ("NaN" in message or "infinite" in message)
    assert error.line == f"test_anomaly.py, line {start}, in <lambda>: {code[0].strip()}" and error.line in message
    assert engine._observers.get() == ()


def test_the_statistics_of_what_went_in():
    with pytest.raises(AnomalyError) as caught, minicnn.detect_anomaly():
        _ = leaf(*[-1.0] * 3, *[0.0] * 2, *[1.0] * 15).log()
    lines = str(caught.value).splitlines()
    assert lines[0] == "log made 3 NaN and 2 infinite of 20 numbers on the way forward"
    assert lines[2] == "  input: 20 float32, norm 4.243, from -1 to 1, 10 % zeros"
    assert lines[3].startswith("  output: 20 float32, norm 0, from 0 to 0") or "3 NaN, 2 infinite" in lines[3]


def test_what_came_in_bad_is_said_to_be_so():
    because = r"^mul made 1 NaN of 2 numbers on the way forward, because its input held 1 NaN"
    with pytest.raises(AnomalyError, match=because), minicnn.detect_anomaly():
        _ = leaf(np.nan, 1.0) * 2


def test_a_bad_gradient_that_is_given():
    with minicnn.detect_anomaly():
        y = leaf(1.0, 2.0) * 2
        with pytest.raises(AnomalyError, match=r"^mul: the gradient that arrived holds 1 infinite of 2 numbers"):
            y.backward(np.array([np.inf, 1.0], np.float32))


def test_a_bad_gradient_that_is_given_to_an_operation_that_stops_it():
    """A shut ReLU hands none of it on."""
    with minicnn.detect_anomaly():
        y = F.relu(leaf(-1.0, 2.0))
        with pytest.raises(AnomalyError, match=r"^relu: the gradient that arrived holds 1 infinite"):
            y.backward(np.array([np.inf, 1.0], np.float32))


def test_gradients_whose_sum_overflows():
    x = leaf(1.0)
    with minicnn.detect_anomaly():
        y = x * 1
        z = F.cat([y * 3e38, y * 3e38])
        with pytest.raises(AnomalyError, match=r"^mul: the gradient that arrived holds 1 infinite"):
            z.backward(np.ones(2, np.float32))


def test_a_forward_pass_outside_is_said_to_have_been_so():
    y = leaf(0.0).sqrt()
    outside = r"^sqrt made .* backward, in ∂input\n  \(the forward pass ran outside"
    with pytest.raises(AnomalyError, match=outside), minicnn.detect_anomaly():
        y.backward()


def test_without_gradients_too():
    with pytest.raises(AnomalyError, match="log made"), minicnn.detect_anomaly(), minicnn.no_grad():
        _ = leaf(0.0).exp().log().log()


def test_a_layer_of_a_network_by_its_path(rng):
    model = models.googlenet(num_classes=3, input_size=33, width=0.1).eval()
    model.inception4b.branch3[1].conv.weight.data[0, 0, 0, 0] = np.inf
    with pytest.raises(AnomalyError) as caught, minicnn.detect_anomaly():
        model(rng.random((1, 3, 33, 33), dtype=np.float32))
    assert caught.value.node.path == "inception4b.branch3.1.conv"
    assert re.match(r"test_anomaly\.py, line \d+, in test_a_layer_of_a_network_by_its_path: model\(", caught.value.line)
    assert "its weight held 1 infinite" in str(caught.value)


def test_what_is_well_runs_as_without(rng):
    """Max pooling's border is minus infinity inside, which is no anomaly."""
    images, labels = rng.random((2, 3, 33, 33), dtype=np.float32), np.array([0, 2])

    def gradients(context):
        minicnn.manual_seed(3)
        model = models.googlenet(num_classes=3, input_size=33, width=0.1)
        with context:
            models.googlenet_loss(model(images), labels).backward()
        return [p.grad for p in model.parameters()]

    plain = gradients(minicnn.enable_grad())
    for a, b in zip(plain, gradients(minicnn.detect_anomaly()), strict=True):
        np.testing.assert_array_equal(a, b)
