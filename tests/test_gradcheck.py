"""`gradcheck` on what is right: what it measures, how, what it sets aside and says, and that it leaves no trace.

What it makes of wrong gradients is in test_gradcheck_tester.py.
"""

import json
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

import minicnn
from minicnn import Op, Parameter, Tensor, apply, backend, gradcheck, nn, no_grad
from minicnn import functional as F
from minicnn.gradcheck import GradcheckError, GradcheckReport


class Net(nn.Module):
    """Every kind of state: batch statistics, dropout, a frozen parameter, an array and a counter of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, 2)
        self.scale = Parameter(np.ones(1, np.float32), requires_grad=False)
        self.seen = np.zeros(1)
        self.calls = 0

    def forward(self, input):
        self.calls += 1
        self.seen += 1
        return self.head(F.flatten(self.drop(F.relu(self.norm(self.conv(input)))), 1)) * self.scale


def itself(tensor, name="data"):
    """The array in a tensor as it is; on a device ``tensor.data`` may give a test a copy on the host."""
    return getattr(Tensor, name).__get__(tensor)


def snapshot(module):
    """Everything in a module that could change, arrays as copies and as objects."""
    tensors = [*module.parameters(), *module.buffers()]
    return {
        "arrays": [id(itself(t)) for t in tensors],
        "values": [t.data.copy() for t in tensors],
        "grads": [id(itself(t, "grad")) for t in tensors],
        "attributes": [
            {k: v for k, v in vars(m).items() if isinstance(v, int | float | bool)} for m in module.modules()
        ],
        "generator": json.dumps(backend.generator().bit_generator.state),
    }


def assert_unchanged(module, before):
    after = snapshot(module)
    for a, b in zip(before.pop("values"), after.pop("values"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert after == before


# ------------------------------------------------------------------------------------------- what is measured

def test_function_of_inputs(rng):
    report = gradcheck(lambda a, b: a * b + a.exp(), rng.standard_normal((2, 3)), rng.standard_normal(3))
    assert report
    assert report.status == "right"
    assert report.method == "complex step"
    assert [(i.name, i.shape, i.entries) for i in report.inputs] == [("a", (2, 3), 6), ("b", (3,), 3)]
    assert len(report.worst) == 5
    assert all(entry.relative < 1e-13 for entry in report.worst)


def test_module_parameters_by_name(rng):
    report = gradcheck(nn.Sequential(("a", nn.Linear(3, 4)), ("b", nn.Linear(4, 2))), rng.standard_normal((5, 3)))
    assert report
    assert [i.name for i in report.inputs] == ["input", "a.weight", "a.bias", "b.weight", "b.bias"]


def test_only_what_requires_a_gradient(rng):
    model = nn.Linear(3, 2)
    model.bias.requires_grad = False
    constant = Tensor(rng.standard_normal((4, 3)))
    assert [i.name for i in gradcheck(model, constant).inputs] == ["weight"]
    wanted = Tensor(rng.standard_normal((4, 3)), requires_grad=True)
    assert [i.name for i in gradcheck(model, wanted).inputs] == ["input", "weight"]


def test_integers_and_other_arguments_pass_through(rng):
    report = gradcheck(F.cross_entropy, rng.standard_normal((4, 3)), np.array([0, 2, 1, 1]), None, -100, "sum")
    assert report
    assert [i.name for i in report.inputs] == ["input"]


def test_layer_of_duck_type(rng):
    class Scale:
        def __init__(self):
            self.weight = Parameter(np.full(3, 2.0, np.float32))

        def named_parameters(self):
            yield "weight", self.weight

        def __call__(self, x):
            return F.tanh(x * self.weight)

        forward = __call__

    layer = Scale()
    report = gradcheck(layer, rng.standard_normal((2, 3)))
    assert report
    assert report.title == "Scale"
    assert [i.name for i in report.inputs] == ["x", "weight"]
    assert layer.weight.dtype == np.float32


class Pair(NamedTuple):
    main: Tensor
    extra: Tensor


@pytest.mark.parametrize("pack", [Pair, lambda a, b: [a, (b, None, 3)], lambda a, b: {"a": a, "b": b}])
def test_several_outputs(rng, pack):
    assert gradcheck(lambda x: pack(x * x, F.sigmoid(x)), rng.standard_normal(4))


def test_every_output_counts(rng):
    """A mistake that only the second output shows."""

    def second_forgotten(x):
        return x * x, (x * 0.5).detach()

    assert not gradcheck(second_forgotten, rng.standard_normal(4))


def test_output_that_is_the_input(rng):
    report = gradcheck(lambda x: (x, x * x), rng.standard_normal(3))
    assert report
    assert gradcheck(lambda x: x, rng.standard_normal(3))


def test_number_as_input():
    assert gradcheck(lambda x: x * x, np.array(3.0))


def test_empty_input():
    assert gradcheck(lambda x, y: (x * 2).sum() + y, np.zeros((0, 3)), np.ones(()))


def test_transposed_and_strided_inputs(rng):
    assert gradcheck(lambda x: F.tanh(x) * x, rng.standard_normal((6, 4)).T[::2])


def test_same_array_twice(rng):
    x = rng.standard_normal(3)
    assert gradcheck(lambda a, b: a * b, x, x)


def test_shared_parameter(rng):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    report = gradcheck(model, rng.standard_normal((2, 3)))
    assert report
    assert [i.name for i in report.inputs] == ["input", "0.weight", "0.bias", "2.bias"]


def test_bound_method_and_partial(rng):
    layer = nn.Linear(3, 2)
    x = rng.standard_normal((4, 3))
    assert gradcheck(layer.forward, x)
    assert gradcheck(partial(lambda model, x: model(x), layer), x)
    assert layer.weight.dtype == np.float32


def test_layer_held_by_an_object(rng):
    class Pipeline:
        def __init__(self):
            self.layer = nn.Linear(3, 2)

        def run(self, x):
            return self.layer(x)

        __call__ = run

    pipeline = Pipeline()
    assert gradcheck(pipeline, rng.standard_normal((4, 3)))
    assert gradcheck(pipeline.run, rng.standard_normal((4, 3)))
    assert pipeline.layer.weight.dtype == np.float32


@pytest.mark.host
def test_array_in_a_closure_that_is_written_to(rng):
    mean, var = np.zeros(3), np.ones(3)
    assert gradcheck(lambda x: F.batch_norm(x, mean, var, training=True), rng.standard_normal((5, 3)))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(var, 1)


def test_float32_layer_in_a_closure(rng):
    layer = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    offset = Tensor(np.ones(2, np.float32))
    before = snapshot(layer)
    assert gradcheck(lambda x: layer(x) - offset, rng.standard_normal((4, 3)).astype(np.float32))
    assert_unchanged(layer, before)
    assert offset.dtype == np.float32


def test_sample_of_a_large_input(rng):
    large, small = rng.standard_normal((20, 30)), rng.standard_normal(30)
    report = gradcheck(lambda x, b: F.tanh(x) * b, large, small, max_entries=90)
    assert report
    large, small = report.inputs
    assert (small.entries, small.directions) == (30, 0)
    assert (large.entries, large.directions) == (60, 1)
    assert "60 of 600 entries and 1 random direction" in str(report)
    assert len({e.index for e in report.worst}) == 5


def test_directions_alone(rng):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    report = gradcheck(model, rng.standard_normal((2, 2, 6, 6)), directions=3)
    assert report
    [everything] = report.inputs
    assert (everything.shape, everything.entries, everything.directions) == (None, 0, 3)
    assert "all inputs at once, 3 random directions" in str(report)


def test_seed_decides_what_is_drawn(rng):
    x = rng.standard_normal((10, 10))
    reports = [gradcheck(F.tanh, x, max_entries=10, seed=seed).to_dict() for seed in (1, 1, 2)]
    assert reports[0] == reports[1]
    assert reports[0]["worst"] != reports[2]["worst"]


def test_cotangent_is_not_constant(rng):
    """With a constant one, the gradient of a softmax is zero, and any multiple of it right."""
    report = gradcheck(lambda x: F.softmax(x, 1), rng.standard_normal((3, 4)))
    assert report
    assert report.inputs[0].largest > 0.01


# -------------------------------------------------------------------------------------------------- the methods

def test_central_differences_where_an_operation_is_not_smooth(rng):
    report = gradcheck(lambda x: F.relu(F.tanh(x)), rng.standard_normal((3, 4)))
    assert report
    assert report.method == "central differences"
    assert "not marked smooth: relu" in report.notes[0]


@pytest.mark.host
def test_central_differences_where_complex_numbers_are_refused(rng):
    report = gradcheck(lambda x: F.tanh(x) if float(x.data.max()) > 9 else F.exp(x), rng.standard_normal(4))
    assert report
    assert report.method == "central differences"
    assert "does not take complex numbers (ComplexWarning" in report.notes[0]


def test_central_differences_where_the_imaginary_part_is_lost(rng):
    def real_only(x):
        return F.tanh(Tensor(x.data.real) if x.data.dtype.kind == "c" else x)

    report = gradcheck(real_only, rng.standard_normal(4))
    assert report
    assert "drops the imaginary part" in report.notes[0]


def test_central_differences_where_complex_values_differ(rng):
    report = gradcheck(lambda x: x * (2.0 if x.data.dtype.kind == "c" else 3.0), rng.standard_normal(4))
    assert report
    assert "other values for complex numbers" in report.notes[0]


def test_central_differences_where_an_operation_is_smooth_in_name_only(rng):
    """|x|² by NumPy's abs has the right value for complex numbers near the real line, and no complex derivative."""
    square = Op("square", lambda x: (np.abs(x) ** 2 + 0 * x, x), lambda g, x, needs: (2 * g * x,), smooth=True)
    report = gradcheck(lambda x: apply(square, x), rng.standard_normal(4))
    assert report
    assert report.method == "central differences"
    assert "the complex step contradicts them" in report.notes[0]


def test_eps_and_tolerances_are_the_users(rng):
    x = 1 + rng.random(4)
    assert not gradcheck(lambda x: F.relu(x).exp(), x, eps=100.0)
    assert gradcheck(lambda x: F.relu(x).exp(), x, eps=100.0, rtol=0.1)
    assert gradcheck(lambda x: F.relu(x).exp(), x, eps=100.0, atol=1.0)
    assert not gradcheck(F.tanh, x, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------- kinks and ties

@pytest.mark.parametrize(
    ("fn", "x", "kinks"),
    [
        (F.relu, [-1.0, 0.0, 2.0, 3.0], 1),
        (F.abs, [-1.0, 0.0, 2.0, 3.0], 1),
        (lambda x: F.clamp(x, -1.0, 2.0), [-1.0, 0.5, 1.7, 2.0, 4.0], 2),
        (F.leaky_relu, [-1.0, 0.0, 2.0, 3.0], 1),
        (lambda x: x.amax(), [1.0, 4.0, 4.0, 3.0, 0.0], 2),
    ],
    ids=["relu", "abs", "clamp", "leaky_relu", "amax"],
)
def test_kink_is_set_aside_and_said(fn, x, kinks):
    report = gradcheck(fn, np.array(x))
    assert report
    assert report.set_aside == kinks
    assert report.inputs[0].set_aside == kinks
    assert f"{kinks} set aside on a kink" in str(report)


def test_pooling_tie_is_set_aside(rng):
    x = rng.standard_normal((1, 1, 6, 6))
    x[0, 0, 0, :2] = 5.0
    report = gradcheck(lambda x: F.max_pool2d(x, 2), x)
    assert report
    assert report.set_aside == 2


def test_overlapping_windows_with_ties(rng):
    """Each window may choose another of its equals: the sum need not lie between the slopes of the whole."""
    x = rng.standard_normal((2, 2, 7, 7))
    x[:, :, 2:4, 2:5] = 3.0
    report = gradcheck(lambda x: F.max_pool2d(x, 3, stride=1, padding=1), x)
    assert report
    assert report.set_aside >= 10


def test_kink_beside_the_point_is_stepped_around():
    """Within the usual step of 1e-5, out of reach of a smaller one: not set aside, and the slope shown is right."""
    report = gradcheck(F.relu, np.array([3e-6, -3e-6, 1.0, -1.0]))
    assert report
    assert report.set_aside == 0
    assert all(entry.absolute < 1e-9 for entry in report.worst)


def test_sharp_curve_is_not_a_kink():
    report = gradcheck(lambda x: F.relu(x * x * 1e3), np.array([0.3, -0.2, 1.0]))
    assert report
    assert report.set_aside == 0


@pytest.mark.parametrize("distance", [3e-3, 1e-3, 5e-4, 1e-4])
def test_curve_too_sharp_for_the_step(distance):
    """Batch norm of two values close together is curved on the scale of their distance; no kink is near."""
    x = np.array([[0.5, -0.2], [0.5 + distance, -0.2 - distance]])
    report = gradcheck(lambda x: F.relu(F.batch_norm(x, None, None, training=True) + 3), x)
    assert report
    assert report.set_aside == 0


def test_kinks_inside_that_the_outputs_hide(rng):
    """At 0, relu(x) − relu(−x) has the slope 1, and backward passes that are all right answer 0."""
    x = np.array([0.5, 0.0, -2.0, 1.0])
    report = gradcheck(lambda x: F.relu(x) - F.relu(-x), x)
    assert report
    assert report.set_aside == 1
    assert "each of the 4 operations is right by itself" in report.notes


def test_too_many_kinks_are_inconclusive():
    report = gradcheck(F.relu, np.zeros(4))
    assert not report
    assert report.status == "inconclusive"
    assert report.kinds == {"kinks"}
    assert "4 of 4 entries lie on a kink, too many to judge" in str(report)


def test_image_with_an_empty_border_through_relu_and_pooling(rng):
    """Zero pixels under a convolution without bias are kinks throughout; that the weights are right is still seen."""
    image = np.zeros((1, 1, 12, 12))
    image[..., 4:8, 4:8] = rng.random((4, 4))
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(75, 2))
    report = gradcheck(model, image, max_entries=100)
    assert report.status == "inconclusive"
    assert [i.name for i in report.inputs if i.wrong] == []
    assert [d.input for d in report.diagnoses] == ["input"]
    assert gradcheck(model, Tensor(image), max_entries=100)


def test_vanishing_gradient_is_mentioned(rng):
    """A bias before a batch norm has no influence: what is measured is rounding, and is no error."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    report = gradcheck(model, rng.standard_normal((2, 2, 6, 6)))
    assert report
    assert any("the gradient is zero" in note and "0.bias" in note for note in report.notes)


# -------------------------------------------------------------------------------------------------- the state

@pytest.mark.parametrize("training", [True, False])
def test_module_is_left_as_it_was(rng, training):
    model = Net().train(training)
    model.head.eval()
    for parameter in model.parameters():
        parameter.grad = np.ones_like(parameter.data)
    before, seen = snapshot(model), model.seen
    report = gradcheck(model, rng.standard_normal((3, 2, 4, 4)))
    assert report, report
    assert_unchanged(model, before)
    assert model.seen is seen
    assert seen[0] == 0
    assert model.norm.running_mean.dtype == np.float32


def test_module_is_left_as_it_was_after_an_error(rng):
    class Fails(Net):
        def forward(self, input):
            output = super().forward(input)
            self.train(False)
            if self.conv.weight.data.max() > self.limit:
                raise RuntimeError("enough")
            return output

    model = Fails()
    model.limit = float(model.conv.weight.data.max())  # float64 entries are not above it, moved ones are
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="enough"):
        gradcheck(model, rng.standard_normal((3, 2, 4, 4)))
    assert_unchanged(model, before)
    assert model.training


def test_module_is_left_as_it_was_by_a_lambda(rng):
    model = Net()
    before = snapshot(model)
    assert gradcheck(lambda x: model(x), rng.standard_normal((3, 2, 4, 4)))
    assert_unchanged(model, before)


def test_inputs_are_left_as_they_were(rng):
    array = rng.standard_normal((3, 4)).astype(np.float32)
    tensor = Tensor(array, requires_grad=True)
    tensor.grad = np.ones_like(array)
    data, values = itself(tensor), array.copy()
    assert gradcheck(lambda a, b: a * b, array, tensor)
    assert itself(tensor) is data
    np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(tensor.data, values)
    np.testing.assert_array_equal(tensor.grad, 1)


def test_buffer_that_a_layer_replaces(rng):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", np.zeros(3, np.float32))

        def forward(self, x):
            self.mean = Tensor(self.mean.data + x.data.mean(0).real)
            return F.tanh(x) * x

    layer = Counts()
    mean = layer.mean
    assert gradcheck(layer, rng.standard_normal((4, 3)))
    assert layer.mean is mean
    np.testing.assert_array_equal(mean.data, 0)


def test_dropout_mask_is_held(rng):
    state = backend.generator().bit_generator.state
    assert gradcheck(nn.Dropout(0.5), rng.standard_normal((4, 5)))
    assert backend.generator().bit_generator.state == state


def test_inside_no_grad(rng):
    with no_grad():
        assert gradcheck(F.tanh, rng.standard_normal(3))


def test_current_kernels_are_checked(rng):
    with minicnn.use_kernels("naive"):
        report = gradcheck(nn.Conv2d(2, 2, 3), rng.standard_normal((1, 2, 4, 4)))
    assert report


# --------------------------------------------------------------------------------------- precision, odd numbers

def test_float32_is_checked_in_float64(rng):
    report = gradcheck(nn.Linear(3, 2), rng.standard_normal((4, 3)).astype(np.float32))
    assert report
    assert report.method == "complex step"


def test_float32_kept_is_too_coarse(rng):
    x = (1e3 + rng.standard_normal((50, 50))).astype(np.float32)
    report = gradcheck(lambda x: x.sum(), x, dtype=None, max_entries=20)
    assert not report
    assert report.kinds == {"float32"}
    assert "float32 is too coarse" in str(report)
    assert gradcheck(lambda x: x.sum(), x, max_entries=20)


def test_float32_on_the_way_is_named(rng):
    def narrow(x):
        return F.relu((x + 1e4).to(dtype="float32"))

    report = gradcheck(narrow, rng.standard_normal(4))
    assert report.kinds == {"float32"}
    assert "to_dtype computes in it" in str(report)


def test_rounding_of_large_outputs_is_too_coarse(rng):
    report = gradcheck(lambda x: F.relu(x) * 1e-6 + 1e8, np.abs(rng.standard_normal(4)) + 1)
    assert report.status == "inconclusive"
    assert report.kinds == {"coarse"}


@pytest.mark.parametrize(
    ("fn", "where"), [(lambda x: x.log(), "log"), (lambda x: F.relu((x * 1000).exp()), "exp")], ids=["NaN", "infinity"]
)
def test_forward_that_is_not_finite(fn, where):
    report = gradcheck(fn, np.array([-1.0, 1.0, 2.0]))
    assert report.kinds == {"non-finite"}
    assert f"{where} is the first to give NaN or infinity" in str(report)


def test_backward_that_is_not_finite():
    report = gradcheck(lambda x: x.sqrt().exp(), np.array([0.0, 1.0]))
    assert report.kinds == {"non-finite"}
    assert "backward of sqrt is the first to give it" in str(report)


def test_edge_of_the_domain():
    report = gradcheck(lambda x: F.relu(x.sqrt()), np.array([1e-7, 1.0]))
    assert report.kinds == {"non-finite"}
    assert "within a step of the input" in str(report)


def test_not_deterministic(rng):
    report = gradcheck(lambda x: x * rng.random(3), rng.standard_normal(3))
    assert report.status == "inconclusive"
    assert report.kinds == {"not deterministic"}


def test_forward_that_writes_into_its_input(rng):
    def double(x):
        x.data *= 2
        return x * x

    def replace(x):
        x.data = 2 * x.data
        return x * x

    x = rng.standard_normal(3)
    before = x.copy()
    for fn in (double, replace):
        report = gradcheck(fn, x)
        assert report.kinds == {"written to"}
        np.testing.assert_array_equal(x, before)


def test_weight_that_forward_writes_into_is_put_back(rng):
    class Decays(nn.Linear):
        def forward(self, x):
            self.weight.data *= 0.9
            return super().forward(x)

    layer = Decays(3, 2)
    before = snapshot(layer)
    assert gradcheck(layer, rng.standard_normal((4, 3))).kinds == {"written to"}
    assert_unchanged(layer, before)
    before = snapshot(layer)
    assert gradcheck(layer, rng.standard_normal((4, 3)).astype(np.float32), dtype=None).kinds == {"written to"}
    assert_unchanged(layer, before)


# -------------------------------------------------------------------------------------------------- the report

def test_report_as_dict_and_text(rng):
    report = gradcheck(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), rng.standard_normal((4, 3)), seed=5)
    assert isinstance(report, GradcheckReport)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.to_dict()["worst"][0].keys() == {
        "input", "index", "analytic", "numerical", "verdict", "absolute", "relative"
    }  # fmt: skip
    text = str(report)
    assert text.startswith("gradcheck of Sequential: right\n")
    for part in ("seed 5", "input (4, 3), all 12 entries", "0.weight (2, 3)", "worst", "analytic"):
        assert part in text


def test_raise_exception(rng):
    assert gradcheck(F.tanh, rng.standard_normal(3), raise_exception=True)
    with pytest.raises(GradcheckError, match="gradcheck of <lambda>: WRONG") as caught:
        gradcheck(lambda x: (x * 2).detach() + x, rng.standard_normal(3), raise_exception=True)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.status == "wrong"


def test_localize_on_request(rng):
    x = rng.standard_normal((2, 3))
    assert "each of the 2 operations is right by itself" in gradcheck(lambda x: F.tanh(x).exp(), x, localize=True).notes
    assert gradcheck(lambda x: F.tanh(x).exp(), x).notes == ()


def test_errors_of_use():
    with pytest.raises(ValueError, match="nothing to check: no input is floating-point and requires a gradient"):
        gradcheck(lambda x: x, Tensor(np.ones(3)))
    with pytest.raises(ValueError, match="nothing to check"):
        gradcheck(lambda x: x, np.arange(3))
    with pytest.raises(TypeError, match="it returned ndarray, and must return a minicnn.Tensor"):
        gradcheck(lambda x: x.numpy(), np.ones(3))


def test_module_and_function_share_a_name():
    """The function hides the module of its name, which can still be imported from."""
    from minicnn.gradcheck import gradcheck as same

    assert minicnn.gradcheck is same


def test_class_instead_of_a_layer():
    with pytest.raises(TypeError, match=r"Linear is a class; check a layer made from it, Linear\(...\)"):
        gradcheck(nn.Linear, np.ones((2, 3)))
