"""Test the tester: wrong gradients that `gradcheck` must catch, and what it must say about them."""

from dataclasses import replace

import numpy as np
import pytest

from minicnn import Op, Tensor, apply, backend, gradcheck, nn, no_grad
from minicnn import functional as F


def spoiled(op, change):
    """`op` with ``change(gradients, grad_output, saved)`` in the place of its gradients."""

    def forward(*arrays, **params):
        return op.forward(*arrays, **params)

    def backward(grad_output, saved, needs, **params):
        return change(list(op.backward(grad_output, saved, needs, **params)), grad_output, saved)

    forward.__wrapped__ = op.forward  # its arguments have names
    return replace(op, forward=forward, backward=backward)


def scaled(factor, which=None):
    """A change that multiplies the gradients, or that of input `which`, by `factor`."""

    def change(grads, grad_output, saved):
        return [g if g is None or which not in (None, i) else factor * g for i, g in enumerate(grads)]

    return change


def put(value, which):
    """A change that replaces the gradient of input `which` by what ``value(gradient, grad_output, saved)`` gives."""

    def change(grads, grad_output, saved):
        grads[which] = value(grads[which], grad_output, saved)
        return grads

    return change


def draw(*shapes):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape) for shape in shapes]


IMAGE, FILTERS, CLASSES = (2, 3, 6, 5), (4, 3, 3, 2), np.array([0, 2, 1, 2])
CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}

# family: the Op's name, a function that uses it, the shapes of its inputs
FAMILIES = {
    "elementwise": ("MUL", lambda a, b: a * b, [(3, 4), (3, 4)]),
    "broadcast": ("DIV", lambda a, b: a / (b * b + 1), [(3, 4), (4,)]),
    "activation": ("TANH", F.tanh, [(3, 4)]),
    "activation with a kink": ("RELU", F.relu, [(3, 4)]),
    "convolution": ("CONV2D", F.conv2d, [IMAGE, FILTERS, (4,)]),
    "pooling": ("MAX_POOL2D", lambda x: F.max_pool2d(x, 2), [IMAGE]),
    "average pooling": ("AVG_POOL2D", lambda x: F.avg_pool2d(x, 3, 2, 1), [IMAGE]),
    "normalisation": ("BATCH_NORM", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [IMAGE, (3,), (3,)]),
    "response normalisation": ("LOCAL_RESPONSE_NORM", lambda x: F.local_response_norm(x, 3, 0.5), [IMAGE]),
    "linear": ("LINEAR", F.linear, [(5, 4), (3, 4), (3,)]),
    "loss": ("CROSS_ENTROPY", lambda x: F.cross_entropy(x, CLASSES), [(4, 3)]),
    "shape": ("PERMUTE", lambda x: x.permute(2, 0, 1), [(2, 3, 4)]),
    "reduction": ("VAR", lambda x: x.var(dim=1), [(3, 5)]),
}  # fmt: skip
CASES = [(name, i) for name, (_, _, shapes) in FAMILIES.items() for i in range(len(shapes))]


@pytest.mark.parametrize("factor", [1.001, 0.999])
@pytest.mark.parametrize(("family", "which"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_error_of_a_thousandth_is_caught(monkeypatch, family, which, factor):
    """In the gradient of each input, alone: and the check is right without it."""
    name, fn, shapes = FAMILIES[family]
    inputs = draw(*shapes)
    assert gradcheck(fn, *inputs), "the case itself must be right"
    monkeypatch.setattr(F, name, spoiled(getattr(F, name), scaled(factor, which)))
    report = gradcheck(fn, *inputs)
    assert report.status == "wrong"
    assert report.set_aside == 0
    assert report.first_wrong.op == getattr(F, name).name
    assert "factor" in report.kinds
    assert "by 0.1 % throughout" in str(report)


@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_a_thousandth_is_caught_by_directions(monkeypatch, family):
    name, fn, shapes = FAMILIES[family]
    inputs = draw(*shapes)
    assert gradcheck(fn, *inputs, directions=3)
    monkeypatch.setattr(F, name, spoiled(getattr(F, name), scaled(1.001)))
    report = gradcheck(fn, *inputs, directions=3)
    assert report.status == "wrong"
    assert report.first_wrong.op == getattr(F, name).name
    assert report.inputs[0].name == "all inputs at once"
    assert report.inputs[0].wrong
    assert len(report.inputs) == 1 + len(inputs)  # and each by itself


def test_error_in_one_entry_is_caught():
    def one(grad, grad_output, saved):
        grad = grad.copy()
        grad[1, 2] *= 1.001
        return grad

    report = gradcheck(lambda x: apply(spoiled(F.TANH, put(one, 0)), x), *draw((3, 4)))
    assert report.inputs[0].wrong == 1
    assert report.worst[0].index == (1, 2)
    assert report.worst[0].relative == pytest.approx(1e-3, rel=2e-3)


def test_worst_five_in_order():
    op = spoiled(F.TANH, put(lambda grad, g, s: grad + backend.new(np.arange(8.0)), 0))
    report = gradcheck(lambda x: apply(op, x), *draw(8))
    assert [e.index for e in report.worst] == [(7,), (6,), (5,), (4,), (3,)]
    assert [e.absolute for e in report.worst] == pytest.approx([7, 6, 5, 4, 3])
    assert all(e.analytic - e.numerical > 0 for e in report.worst)


def test_error_is_found_in_a_sample():
    op = spoiled(F.TANH, scaled(1.001))
    report = gradcheck(lambda x: apply(op, x), *draw((40, 50)), max_entries=20)
    assert report.status == "wrong"
    assert report.inputs[0].wrong == 21


def test_error_with_half_of_the_loss_cut_off():
    """The gradient of a sum whose one term is a constant to backward."""
    report = gradcheck(lambda x: x * x + (x * 3).detach(), *draw(4))
    assert report.status == "wrong"
    assert report.first_wrong is None
    assert "each of the 2 operations is right by itself: the error lies outside" in report.notes


# ------------------------------------------------------------------------------------- kinks are no hiding place

def wrong_relu(at_zero, slope=1.0):
    return Op(
        "wrong_relu",
        lambda x: (np.maximum(x, 0), x),
        lambda g, x, needs: (np.where(x > 0, slope * g, np.where(x == 0, at_zero * g, 0)),),
    )


def test_wrong_slope_away_from_the_kink_is_not_set_aside():
    report = gradcheck(lambda x: apply(wrong_relu(0.0, 1.001), x), np.array([0.0, 1.0, -1.0, 2.0, 0.5]))
    assert report.status == "wrong"
    assert (report.inputs[0].wrong, report.set_aside) == (3, 1)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_any_slope_between_the_two_sides_is_set_aside_at_the_kink(slope):
    report = gradcheck(lambda x: apply(wrong_relu(slope), x), np.array([0.0, 1.0, -1.0]))
    assert report
    assert report.set_aside == 1


@pytest.mark.parametrize("slope", [-0.1, 1.1, 5.0])
def test_slope_beyond_the_two_sides_is_wrong_at_the_kink(slope):
    report = gradcheck(lambda x: apply(wrong_relu(slope), x), np.array([0.0, 1.0, -1.0]))
    assert report.status == "wrong"
    assert report.worst[0].index == (0,)


@pytest.mark.parametrize("distance", [3e-5, 3e-6, 2e-7])
def test_wrong_slope_beside_the_kink_is_wrong(distance):
    report = gradcheck(lambda x: apply(wrong_relu(0.0, 1.001), x), np.array([distance, 1.0, -1.0]))
    assert report.status == "wrong"
    assert report.inputs[0].wrong == 2


def test_wrong_slope_in_a_curve_is_not_a_kink():
    """A curve as sharp as this has different slopes a step to the right and a step to the left as well."""
    op = spoiled(F.EXP, scaled(1.001))
    report = gradcheck(lambda x: F.relu(apply(op, x * 300)), np.array([0.01, 0.02]))
    assert report.status == "wrong"
    assert report.set_aside == 0


@pytest.mark.parametrize("distance", [3e-3, 1e-3, 5e-4, 1e-4])
def test_wrong_slope_in_a_curve_too_sharp_for_the_step(monkeypatch, distance):
    monkeypatch.setattr(F, "BATCH_NORM", spoiled(F.BATCH_NORM, scaled(1.001)))
    x = np.array([[0.5, -0.2], [0.5 + distance, -0.2 - distance]])
    report = gradcheck(lambda x: F.relu(F.batch_norm(x, None, None, training=True) + 3), x)
    assert report.status == "wrong"
    assert report.set_aside == 0


def test_wrong_operation_before_hidden_kinks_is_found():
    op = spoiled(F.TANH, scaled(1.001))
    x = np.array([0.5, 0.0, -2.0, 1.0])

    def fn(x):
        y = apply(op, x)
        return F.relu(y) - F.relu(-y)

    report = gradcheck(fn, x)
    assert report.status == "wrong"
    assert report.first_wrong.op == "tanh"


def test_severed_graph_behind_kinks_is_not_set_aside():
    report = gradcheck(lambda x: F.relu(x).detach() + x * 0.5, np.array([0.0, 1.0, -1.0, 2.0]))
    assert report.status == "wrong"


# ------------------------------------------------------------------------------------------------ the diagnoses

def only(report, kind, input, text):
    """The report's diagnoses are of one kind; one is about `input` and says `text`."""
    assert report.status == "wrong"
    assert report.kinds == {kind}, str(report)
    every = [*report.diagnoses, *(report.first_wrong.diagnoses if report.first_wrong else ())]
    assert any(d.input == input and text in d.text for d in every), str(report)
    assert text in str(report)


def test_wrong_sign():
    op = spoiled(F.LINEAR, scaled(-1, 1))
    only(gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (3, 4))), "sign", "w", "wrong sign throughout")


def test_wrong_sign_and_factor():
    op = spoiled(F.LINEAR, scaled(-4, 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (3, 4)))
    only(report, "sign", "w", "wrong sign, and off by a constant factor of 4 (4 is the")


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (2, "off by a constant factor of 2 (2 is the batch size of x"),
        (1 / 2, "off by a constant factor of 1/2 (2 is the batch size of x"),
        (3, "off by a constant factor of 3 (3 is the number of channels of x"),
        (42, "off by a constant factor of 42 (42 is the number of spatial positions of x"),
        (1 / 20, "off by a constant factor of 1/20 (20 is the number of spatial positions of the output"),
        (np.pi, "off by a constant factor of 3.14159"),
        (1.02, "too large by 2 % throughout"),
        (0.98, "too small by 2 % throughout"),
    ],
)
def test_constant_factor(factor, text):
    op = spoiled(F.CONV2D, scaled(factor, 0))
    report = gradcheck(lambda x, w: apply(op, x, w, None, **CONV), *draw((2, 3, 7, 6), (5, 3, 4, 2)))
    only(report, "factor", "x", text)


def test_mean_that_forgets_to_divide():
    mean = Op("mean", lambda x: (x.mean(), x), lambda g, x, needs: (g * np.ones_like(x),))
    report = gradcheck(lambda x: apply(mean, x), *draw((3, 4)))
    only(report, "factor", "x", "off by a constant factor of 12 (12 is the number of entries of x)")


def test_factor_in_every_input_is_said_once():
    op = spoiled(F.MUL, scaled(7.5))
    report = gradcheck(lambda a, b: apply(op, a, b), *draw((3, 4), (3, 4)))
    assert [d.input for d in report.diagnoses] == ["every input"]


def test_factor_of_a_single_number_means_nothing():
    """One pair of numbers has always a factor: only a telling one is mentioned."""
    op = spoiled(F.TANH, scaled(1.37))
    assert gradcheck(lambda x: apply(op, x), np.array([0.3])).kinds == set()
    op = spoiled(F.TANH, scaled(-1))
    assert gradcheck(lambda x: apply(op, x), np.array([0.3])).kinds == {"sign"}


def test_transposed_square():
    op = spoiled(F.LINEAR, put(lambda grad, g, s: grad.T, 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (4, 4)))
    only(report, "transposed", "w", "transposed: right with axes 0 and 1 exchanged")


def test_transposed_and_reshaped():
    op = spoiled(F.LINEAR, put(lambda grad, g, s: grad.T.reshape(grad.shape), 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (3, 4)))
    only(report, "transposed", "w", "read with the axes in reverse order")


def test_transposed_shape():
    op = spoiled(F.LINEAR, put(lambda grad, g, s: grad.T, 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (3, 4)))
    only(report, "transposed", "weight", "the gradient has shape (4, 3), the input (3, 4): transposed")


def test_kernel_not_flipped():
    """The gradient of a convolution's input computed with the kernel as it is."""

    def unflipped(grads, grad_output, saved):
        image, weight = saved
        turned = weight[..., ::-1, ::-1].copy()
        return [F.CONV2D.backward(grad_output, (image, turned), (True, False, False), **CONV)[0], *grads[1:]]

    report = gradcheck(lambda x, w: apply(spoiled(F.CONV2D, unflipped), x, w, None, **CONV), *draw(IMAGE, (4, 3, 3, 3)))
    only(report, "flipped", "input", "kernel not flipped: right when weight is turned by 180°")


def test_weight_gradient_flipped():
    op = spoiled(F.CONV2D, put(lambda grad, g, s: grad[..., ::-1, ::-1], 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None, **CONV), *draw(IMAGE, FILTERS))
    only(report, "flipped", "w", "kernel not flipped: right when turned by 180°")


def test_weight_gradient_flipped_along_one_axis():
    op = spoiled(F.CONV2D, put(lambda grad, g, s: grad[..., ::-1], 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None, **CONV), *draw(IMAGE, FILTERS))
    only(report, "flipped", "w", "right when reversed along axis 3")


def test_not_summed_over_a_broadcast_by_shape():
    op = spoiled(F.ADD, put(lambda grad, g, s: g, 1))
    report = gradcheck(lambda x, b: apply(op, x, b), *draw((5, 4), (4,)))
    only(report, "broadcast", "other", "not summed over axes (0,), along which the input was broadcast")
    report = gradcheck(lambda x, b: apply(op, x, b), *draw((2, 5, 4), (5, 1)))
    only(report, "broadcast", "other", "not summed over axes (0, 2)")


@pytest.mark.parametrize("k", [0, 3, -1])
def test_not_summed_over_a_broadcast_by_value(k):
    op = spoiled(F.ADD, put(lambda grad, g, s: g[k], 1))
    report = gradcheck(lambda x, b: apply(op, x, b), *draw((5, 4), (4,)))
    only(report, "broadcast", "b", f"not summed over axis 0 of the output: it is what slice {k % 5} alone contributes")


def test_gradient_is_zero():
    op = spoiled(F.LINEAR, scaled(0, 1))
    report = gradcheck(lambda x, w: F.tanh(apply(op, x, w, None)), *draw((5, 4), (3, 4)))
    only(report, "missing", "w", "the gradient is zero: an operation between it and the output passes none on")
    assert report.first_wrong.diagnoses[0].text == "the gradient is zero throughout"
    assert report.first_wrong.op == "linear"


def test_gradient_is_none():
    op = spoiled(F.LINEAR, put(lambda grad, g, s: None, 1))
    report = gradcheck(lambda x, w: apply(op, x, w, None), *draw((5, 4), (3, 4)))
    only(report, "missing", "weight", "backward returned None for it")


def test_gradient_is_zero_in_places():
    def cut(grad, grad_output, saved):
        grad = grad.copy()
        grad[..., -1] = 0  # what a convolution with a stride leaves over
        return grad

    report = gradcheck(lambda x, w: apply(spoiled(F.CONV2D, put(cut, 0)), x, w, None, **CONV), *draw(IMAGE, FILTERS))
    only(report, "missing", "x", "zero at 36 entries where it is not; right at the others")


@pytest.mark.parametrize("cut", [lambda y: y.detach(), lambda y: Tensor(y.data), lambda y: y.numpy()])
def test_graph_severed(cut):
    report = gradcheck(lambda x, w: F.tanh(w * cut(x.exp())), *draw(4, 4))
    only(report, "missing", "x", "the graph is severed after exp, whose result was taken out by detach()")


def test_graph_severed_in_a_layer():
    class Cut(nn.Module):
        def forward(self, x):
            return F.sigmoid(x).detach() if x.data.dtype.kind == "f" else F.sigmoid(x)

    model = nn.Sequential(("first", nn.Linear(3, 3)), ("gate", Cut()), ("last", nn.Linear(3, 2)))
    report = gradcheck(model, *draw((4, 3)))
    only(report, "missing", "first.weight", "the graph is severed after sigmoid in gate")


def test_graph_severed_by_no_grad():
    def fn(x, w):
        with no_grad():
            y = x.exp()
        return y * w

    only(gradcheck(fn, *draw(4, 4)), "missing", "x", "no gradient arrives: exp ran inside no_grad()")


def test_input_used_outside_of_the_graph():
    report = gradcheck(lambda x, w: w * np.tanh(x.data), *draw(4, 4))
    only(report, "missing", "x", "no operation was given this tensor. Its .data or .numpy() was used")


def test_gradient_of_wrong_shape():
    op = spoiled(F.TANH, put(lambda grad, g, s: grad[:, :2], 0))
    report = gradcheck(lambda x: apply(op, x), *draw((3, 4)))
    only(report, "shape", "input", "the gradient has shape (3, 2), the input (3, 4)")


def test_too_few_gradients():
    op = spoiled(F.MUL, lambda grads, g, s: grads[:1])
    report = gradcheck(lambda a, b: apply(op, a, b), *draw(3, 3))
    only(report, "error", "", "returned 1 gradients for 2 inputs")


def test_backward_raises():
    op = spoiled(F.MUL, lambda grads, g, s: 1 / 0)
    report = gradcheck(lambda a, b: F.tanh(apply(op, a, b)), *draw(3, 3))
    only(report, "error", "", "backward raised ZeroDivisionError: division by zero")
    assert report.first_wrong.op == "mul"
    assert report.first_wrong.position == 2


def test_gradient_is_not_finite():
    op = spoiled(F.MUL, scaled(np.nan, 1))
    report = gradcheck(lambda a, b: F.tanh(apply(op, a, b)), *draw(3, 3))
    only(report, "non-finite", "b", "backward of mul is the first to give it")


def test_no_diagnosis_where_none_fits():
    op = spoiled(F.TANH, put(lambda grad, g, s: g * 0.3, 0))
    report = gradcheck(lambda x: apply(op, x), *draw((3, 4)))
    assert report.status == "wrong"
    assert report.kinds == set()


# ---------------------------------------------------------------------------------------------- the localisation

class Layer(nn.Module):
    """An operation as a layer."""

    def __init__(self, op):
        super().__init__()
        self.op = op

    def forward(self, x):
        return apply(self.op, x)


class Block(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.act = act

    def forward(self, x):
        return x + self.act(self.conv(x))


def model(*acts):
    stages = [nn.Sequential(("a", Block(acts[0])), ("b", Block(acts[1]))), nn.Sequential(("a", Block(acts[2])))]
    return nn.Sequential(
        ("stage1", stages[0]), ("stage2", stages[1]), ("pool", nn.MaxPool2d(2)), ("flat", nn.Flatten()),
        ("fc", nn.Linear(8, 3)),
    )  # fmt: skip


@pytest.mark.parametrize(("at", "path"), [(0, "stage1.a.act"), (1, "stage1.b.act"), (2, "stage2.a.act")])
def test_wrong_operation_is_named_by_its_layer(at, path):
    acts = [nn.Tanh(), nn.ReLU(), nn.Sigmoid()]
    acts[at] = Layer(spoiled(F.TANH, scaled(1.001)))
    report = gradcheck(model(*acts), *draw((2, 2, 4, 4)), max_entries=40)
    assert report.status == "wrong"
    assert (report.first_wrong.op, report.first_wrong.path) == ("tanh", path)
    assert report.first_wrong.label == f"tanh in {path}"
    assert [d.kind for d in report.first_wrong.diagnoses] == ["factor"]
    assert f"tanh in {path} (operation {report.first_wrong.position} of 12, counted from the output)" in str(report)


def test_first_of_two_wrong_operations_counts_from_the_output():
    wrong = spoiled(F.TANH, scaled(2))
    report = gradcheck(model(Layer(wrong), nn.Tanh(), Layer(wrong)), *draw((2, 2, 4, 4)), max_entries=40)
    assert report.first_wrong.path == "stage2.a.act"


def test_kernel_of_a_node_is_what_is_checked():
    """The same operation twice, and one node has been given another backward."""

    def fn(x):
        y = F.tanh(x)
        if y.node is not None:
            y.node.backward_kernel = spoiled(F.TANH, scaled(2)).backward
        return F.tanh(y)

    report = gradcheck(fn, *draw(4))
    assert report.status == "wrong"
    assert report.first_wrong.position == 2


def test_only_a_wrong_use_of_a_layer_is_named():
    """One operation in many places, and wrong in one."""
    spoiled_conv = spoiled(F.CONV2D, put(lambda grad, g, s: np.swapaxes(grad, 2, 3), 1))

    class Odd(nn.Conv2d):
        def forward(self, x):
            params = {**CONV, "padding": (1, 1)}
            return apply(spoiled_conv, x, self.weight, self.bias, **params)

    net = model(nn.Tanh(), nn.Tanh(), nn.Tanh())
    net.stage1.b.conv = Odd(2, 2, 3)
    report = gradcheck(net, *draw((2, 2, 4, 4)), max_entries=40)
    assert (report.first_wrong.op, report.first_wrong.path) == ("conv2d", "stage1.b.conv")
    assert [(d.kind, d.input) for d in report.first_wrong.diagnoses] == [("transposed", "weight")]


def test_wrong_operation_that_the_whole_does_not_show():
    """Two wrong signs make a right one: seen only when each operation is looked at."""
    op = spoiled(F.NEG, scaled(-1))
    x = draw(4)
    assert gradcheck(lambda x: apply(op, apply(op, x)), *x)
    report = gradcheck(lambda x: apply(op, apply(op, x)), *x, localize=True)
    assert report.status == "wrong"
    assert report.first_wrong.op == "neg"
    assert report.first_wrong.position == 1


def test_localize_can_be_left_out():
    op = spoiled(F.TANH, scaled(2))
    report = gradcheck(lambda x: apply(op, x).exp(), *draw(4), localize=False)
    assert report.status == "wrong"
    assert report.first_wrong is None
