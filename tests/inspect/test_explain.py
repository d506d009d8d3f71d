"""`explain` against the engine's backward passes, which it shares nothing with, and against sums done by hand."""

import importlib.util
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn
from minicnn import Tensor, apply, use_kernels
from minicnn import functional as F
from minicnn.backend import to_host
from minicnn.engine import Node, Op
from minicnn.inspect import record
from minicnn.inspect.explain import EXPLANATIONS, Explanation, Term, argument_names, explain


def load_cases():
    """The table of cases that has every operation: tests/test_op_gradients.py, loaded by its path."""
    path = Path(__file__).parents[1] / "test_op_gradients.py"
    spec = importlib.util.spec_from_file_location("op_gradient_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = load_cases()
ROOMS = [(name, i, room) for name, i in CASES.EVERY for room in (CASES.rooms(name) if name == "CONV2D" else ["fast"])]


def steps_of(function, *inputs, seed=3):
    """Run `function` forward and backward, from a random gradient: all steps, the last operation's first."""
    rng = np.random.default_rng(seed)
    with record():
        out = function(*inputs)
    return list(minicnn.backward_steps(out, rng.standard_normal(out.shape).astype(out.dtype)))


def trained(*arrays, dtype="float64"):
    return [Tensor(np.asarray(x, dtype=dtype), requires_grad=True) for x in arrays]


def forward_values(node):
    return [s.recorded if isinstance(s, Node) else None if s is None else s.data for s in node.inputs]


def explained(step, argument, index):
    node = step.node
    return explain(node, forward_values(node), node.recorded, step.grad_output, step.grad_inputs, argument, index)


def drawn(shape, count, rng):
    """Indices of `count` different entries of an array of `shape`, of all if there are fewer."""
    every = list(np.ndindex(*shape))
    return [every[i] for i in rng.permutation(len(every))[:count]]


def assert_explained(steps, count=20, tolerance=1e-10):
    """Hold `count` entries of each gradient of each step to the engine's. Returns the explanations."""
    rng = np.random.default_rng(17)
    found = []
    for step in steps:
        for number, grad in enumerate(step.grad_inputs):
            if grad is None:
                continue
            largest = float(abs(grad).max()) if grad.size else 0.0
            for index in drawn(grad.shape, count, rng):
                explanation = explained(step, number, index)
                assert explanation.value == float(grad[index])
                wrong = f"{explanation}\nthe largest entry: {largest}"
                assert abs(explanation.total - explanation.value) <= tolerance * largest, wrong
                assert explanation.total == math.fsum(term.value for term in explanation.terms)
                assert explanation.formula.startswith("∂")
                assert explanation.argument == argument_names(step.node)[number]
                assert explanation.index == index
                assert_named_truly(step, explanation)
                found.append(explanation)
    return found


# What the letters in the names stand for: the first input or the second or third.
LETTERS = {letter: number for number, letters in enumerate((("x", "a", "A"), "WbBtmn")) for letter in letters}
ENTRY = re.compile(r"(?P<minus>−?)(?P<letter>[A-Za-z]+)(?P<index>(\[[\d, ]+\])?)")


def assert_named_truly(step, explanation):
    """A factor that is called ``x[0, 1]`` is what stands there in `x`, and an output that is named is where `g` is."""
    arrays = {"g": step.grad_output, "y": step.node.recorded}
    inputs = forward_values(step.node)
    arrays |= {letter: inputs[number] for letter, number in LETTERS.items() if number < len(inputs)}
    if step.op.name == "clamp":
        arrays |= {"lo": inputs[1], "hi": inputs[2]}
    if "cross_entropy" in step.op.name:
        del arrays["y"]  # there it is what the target wants
    for term in explanation.terms:
        for name, number in term.factors:
            match = ENTRY.fullmatch(name)
            if match and match["letter"] in arrays:
                index = tuple(int(i) for i in match["index"].strip("[]").split(",") if i)
                assert number == (-1 if match["minus"] else 1) * arrays[match["letter"]][index].item(), (name, number)
        if term.where.startswith("output ["):
            assert term.where.replace("output ", "g") in dict(term.factors)


# ------------------------------------------------------------------------------------------- every operation


def test_every_operation_has_an_explanation_and_a_formula():
    ops = CASES.OPS.values()
    assert {op.name for op in ops} == set(EXPLANATIONS), "operations without an explanation, or the reverse"
    assert all(op.formula for op in ops)


@pytest.mark.parametrize(("name", "i", "room"), ROOMS)
def test_explanations_are_the_engines_gradients(name, i, room):
    function, inputs = CASES.case(name, i)
    with use_kernels(room):
        steps = steps_of(function, *trained(*inputs))
    assert CASES.OPS[name] in {step.op for step in steps}
    found = assert_explained(steps)
    assert found or all(grad is None or not grad.size for step in steps for grad in step.grad_inputs)
    for explanation in found:
        assert "central differences" not in explanation.note


def test_every_argument_that_takes_a_gradient_was_explained():
    """The cases leave none out: dropout's mask alone needs no gradient in them."""
    met, all_arguments = {("dropout", "mask")}, set()
    for name, i in CASES.EVERY:
        function, inputs = CASES.case(name, i)
        for step in steps_of(function, *trained(*inputs)):
            names = argument_names(step.node)
            all_arguments |= {(step.op.name, argument) for argument in names}
            pairs = zip(names, step.grad_inputs, strict=True)
            met |= {(step.op.name, argument) for argument, grad in pairs if grad is not None and grad.size}
    assert met == all_arguments


@pytest.mark.parametrize("name", CASES.CASES)
def test_float32(name):
    function, inputs = CASES.case(name, 0)
    if name == "BATCH_NORM_EVAL":  # the case's running statistics are float64, and layers refuse mixed dtypes
        mean, var = np.linspace(-1, 1, 3, dtype="float32"), np.linspace(0.5, 2, 3, dtype="float32")
        function = lambda x, w, b: F.batch_norm(x, mean, var, w, b)  # noqa: E731
    assert assert_explained(steps_of(function, *trained(*inputs, dtype="float32")), count=4, tolerance=2e-5)


@pytest.mark.parametrize("name", CASES.CASES)
def test_text_and_table_of_each(name):
    for explanation in assert_explained(steps_of(*shown_case(name)), count=1):
        text, page = str(explanation), explanation._repr_html_()
        assert explanation.formula in text
        assert explanation.op in text
        assert f"{explanation.value:.6g}" in text
        assert f"{explanation.total:.6g}" in text
        assert explanation.note in text
        shown = min(len(explanation.terms), 12) + (len(explanation.terms) > 12)
        assert cells(page)[0] == ["where", "factors", "in numbers", "product"]
        assert len(cells(page)) == shown + 2


def shown_case(name):
    function, inputs = CASES.case(name, 0)
    return function, *trained(*inputs)


def test_a_dropout_mask_has_a_gradient_too():
    x, mask = trained([[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 2.0]])
    steps = steps_of(lambda: apply(F.DROPOUT, x, mask))
    assert_explained(steps)
    assert explained(steps[0], "mask", (0, 1)).terms[0].factors[1] == ("x[0, 1]", 2.0)
    assert "kept" in explained(steps[0], "input", (0, 0)).note
    assert "dropped" in explained(steps[0], "input", (0, 1)).note


@pytest.mark.parametrize("kernels", use_kernels.rooms)
def test_a_whole_network(kernels):
    minicnn.manual_seed(4)
    model = minicnn.models.lenet5()
    images = np.random.default_rng(5).random((2, 1, 28, 28), dtype=np.float32)
    with use_kernels(kernels):
        steps = steps_of(lambda: F.cross_entropy(model(images), np.array([3, 7])))
    assert {step.path for step in steps} >= {name for name, _ in model.named_modules() if "conv" in name}
    assert len(assert_explained(steps, count=5, tolerance=2e-5)) > 50


# --------------------------------------------------------------------------------- windows, of every geometry


@st.composite
def geometry(draw):
    """Along one axis: the output's size, and the kernel, stride, padding, dilation and input that give it."""
    out, kernel, stride, dilation = (draw(st.integers(1, n)) for n in (4, 3, 3, 2))
    padding = draw(st.integers(0, kernel // 2))
    span = dilation * (kernel - 1) + 1
    size = (out - 1) * stride + span - 2 * padding + draw(st.integers(0, stride - 1))
    return max(size, span, 1), kernel, stride, padding, dilation


def geometries(draw):
    """For both axes: pairs of sizes, kernels, strides, paddings and dilations."""
    return list(zip(draw(geometry()), draw(geometry()), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions(data):
    size, kernel, stride, padding, dilation = geometries(data.draw)
    groups, per_group, filters, images = (data.draw(st.integers(1, n)) for n in (3, 2, 2, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = rng.standard_normal((images, groups * per_group, *size))
    weight = rng.standard_normal((groups * filters, per_group, *kernel))
    inputs = trained(x, weight, rng.standard_normal(groups * filters))
    assert_explained(steps_of(lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, groups), *inputs))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pools(data):
    size, kernel, stride, padding, dilation = geometries(data.draw)
    ceil_mode, count_include_pad = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # Few different numbers, so that windows have ties; minus infinity, which is the padding's number too.
    values = rng.choice([-np.inf, -1.0, 0.0, 2.0], (2, 2, *size))
    assert_explained(
        steps_of(lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode), *trained(values))
    )
    averaged = trained(rng.standard_normal((2, 2, *size)))
    assert_explained(
        steps_of(lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad), *averaged)
    )


# --------------------------------------------------------------------------------------------- done by hand


def only_step(function, gradient, *inputs):
    """The one step of `function`, from a given gradient."""
    with record():
        out = function(*inputs)
    (step,) = minicnn.backward_steps(out, np.asarray(gradient, dtype=out.dtype))
    return step


def factors(explanation):
    return [term.factors for term in explanation.terms]


def test_a_convolutions_weight_by_hand():
    x, w = trained(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    step = only_step(F.conv2d, [[[[1.0, 2.0], [3.0, 5.0]]]], x, w)
    # W[0, 1], upper right, met 1, 2 in the first row of windows and 4, 5 in the second.
    explanation = explained(step, "weight", (0, 0, 0, 1))
    assert explanation.terms == (
        Term("image 0, output (o=0, i=0, j=0)", (("x[0, 0, 0, 1]", 1.0), ("g[0, 0, 0, 0]", 1.0))),
        Term("image 0, output (o=0, i=0, j=1)", (("x[0, 0, 0, 2]", 2.0), ("g[0, 0, 0, 1]", 2.0))),
        Term("image 0, output (o=0, i=1, j=0)", (("x[0, 0, 1, 1]", 4.0), ("g[0, 0, 1, 0]", 3.0))),
        Term("image 0, output (o=0, i=1, j=1)", (("x[0, 0, 1, 2]", 5.0), ("g[0, 0, 1, 1]", 5.0))),
    )
    assert explanation.total == explanation.value == 1 * 1 + 2 * 2 + 4 * 3 + 5 * 5


def test_a_convolutions_input_by_hand():
    x, w = trained(np.zeros((1, 1, 3, 3)), [[[[1.0, 2.0], [3.0, 4.0]]]])
    step = only_step(F.conv2d, [[[[1.0, 10.0], [100.0, 1000.0]]]], x, w)
    middle = explained(step, "input", (0, 0, 1, 1))  # all four windows saw it, the first at the kernel's lower right
    assert [term.where for term in middle.terms] == [
        "output (o=0, i=0, j=0), kernel (k=1, l=1)",
        "output (o=0, i=0, j=1), kernel (k=1, l=0)",
        "output (o=0, i=1, j=0), kernel (k=0, l=1)",
        "output (o=0, i=1, j=1), kernel (k=0, l=0)",
    ]
    assert [term.value for term in middle.terms] == [4.0, 30.0, 200.0, 1000.0]
    assert factors(explained(step, "input", (0, 0, 0, 2))) == [(("W[0, 0, 0, 1]", 2.0), ("g[0, 0, 0, 1]", 10.0))]


def test_padding_and_groups_are_mentioned():
    x, w = trained(np.ones((1, 4, 3, 3)), np.ones((2, 2, 3, 3)))
    step = only_step(lambda x, w: F.conv2d(x, w, padding=1, groups=2), np.ones((1, 2, 3, 3)), x, w)
    explanation = explained(step, "weight", (1, 0, 0, 0))  # the corner: padding in 5 of 9 windows
    assert len(explanation.terms) == 4
    assert explanation.terms[0].factors[0][0] == "x[0, 2, 0, 0]"
    assert explanation.note == (
        "5 windows had padding there, which contributes nothing; filter 1 is in group 1, whose channels begin at 2"
    )
    assert "channel 3 is number 1 of group 1, which has the filters 1 to 1" in explained(step, 0, (0, 3, 0, 0)).note


def test_a_max_pool_by_hand():
    (x,) = trained([[[[1.0, 5.0, 2.0], [0.0, 3.0, 7.0]]]])
    step = only_step(lambda x: F.max_pool2d(x, 2, stride=1), [[[[10.0, 100.0]]]], x)
    five = explained(step, "input", (0, 0, 0, 1))  # won the left window, lost the right one to 7
    assert factors(five) == [
        (("g[0, 0, 0, 0]", 10.0), ("gate(it won)", 1.0)),
        (("g[0, 0, 0, 1]", 100.0), ("gate(it won)", 0.0)),
    ]
    assert [term.where for term in five.terms] == [
        "window (i=0, j=0), won by x[0, 0, 0, 1] = 5", "window (i=0, j=1), won by x[0, 0, 1, 2] = 7"
    ]  # fmt: skip
    assert "in 2 windows and won 1" in five.note
    seven = explained(step, "input", (0, 0, 1, 2))
    assert seven.total == 100.0
    assert seven.note == "the window's largest is at (1, 1), so the gradient goes there"
    assert "another entry" in explained(step, "input", (0, 0, 0, 0)).note


def test_a_batch_norms_three_terms_by_hand():
    # Channel 0 has the values 1 and 3: mean 2, variance 1; eps makes the standard deviation 2.
    x, w, b = trained([[1.0, 0.0], [3.0, 4.0]], [6.0, 1.0], [0.0, 0.0])
    step = only_step(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, eps=3.0), [[1.0, 1.0], [5.0, 2.0]], x, w, b
    )
    explanation = explained(step, "input", (1, 0))
    # γ/std = 3; mean(g) = 3; x̂ = −1/2 and 1/2, so mean(g x̂) = (−1/2 + 5/2) / 2 = 1.
    assert [term.where for term in explanation.terms] == ["direct", "through the mean", "through the variance"]
    assert factors(explanation) == [
        (("γ[0]/std", 3.0), ("g[1, 0]", 5.0)),
        (("γ[0]/std", 3.0), ("−mean(g)", -3.0)),
        (("γ[0]/std", 3.0), ("(x[1, 0] − mean)/std", 0.5), ("−mean(g·(x − mean)/std)", -1.0)),
    ]
    assert explanation.total == 15.0 - 9.0 - 1.5
    assert explained(step, "weight", 0).total == 1 * -0.5 + 5 * 0.5
    assert explained(step, "bias", 0).total == 6.0


def test_a_cross_entropy_by_hand():
    (x,) = trained([[0.0, math.log(3.0)], [1.0, 1.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    step = only_step(lambda x: F.cross_entropy(x, np.array([1, 0])), 8.0, x)
    explanation = explained(step, "input", (0, 1))
    (p, y) = factors(explanation)
    assert [name for name, _ in p] == ["g", "1/N", "p[0, 1]"]
    assert [number for _, number in p] == pytest.approx([8.0, 0.5, 0.75])
    assert y == (("g", 8.0), ("1/N", 0.5), ("−y[0, 1]", -1.0))
    assert explanation.total == pytest.approx(4 * (0.75 - 1))
    assert "the difference is -0.25" in explanation.note


def test_a_weighted_mean_divides_by_the_weights_that_count():
    (x,) = trained(np.log([[1.0, 3.0], [1.0, 1.0], [1.0, 1.0]]))
    target, weight = np.array([1, 0, -100]), np.array([0.5, 2.0])
    step = only_step(lambda x: F.cross_entropy(x, target, weight), 5.0, x)
    first, second = factors(explained(step, "input", (0, 0)))
    assert [name for name, _ in first] == ["g", "1/Σw", "p[0, 0]", "Σy"]
    assert [number for _, number in first] == pytest.approx([5.0, 1 / 2.5, 0.25, 2.0])
    assert second[-1] == ("−y[0, 0]", 0.0)
    ignored = explained(step, "input", (2, 0))
    assert (ignored.terms, ignored.total) == ((), 0.0)
    assert "ignore_index" in ignored.note
    assert_explained([step, only_step(lambda x: F.cross_entropy(x, target), 5.0, x)])


def test_a_mean_of_nothing():
    (x,) = trained([[1.0, 2.0], [3.0, 4.0]])
    step = only_step(lambda x: F.nll_loss(x, np.array([0, -100]), np.array([0.0, 1.0])), 1.0, x)
    assert math.isnan(explained(step, "input", (0, 0)).total)
    assert math.isnan(explained(step, "input", (0, 0)).value)
    assert explained(step, "input", (1, 0)).total == explained(step, "input", (1, 0)).value == 0


def test_large_scores():
    assert_explained([only_step(lambda x: F.cross_entropy(x, np.array([1])), 1.0, *trained([[1000.0, 999.0]]))])


def test_a_relus_gate():
    step = only_step(F.relu, [2.0, 3.0, 4.0], *trained([-1.0, 0.0, 5.0]))
    assert factors(explained(step, "input", 2)) == [(("g[2]", 4.0), ("gate(x[2] > 0)", 1.0))]
    assert "open" in explained(step, "input", 2).note
    for shut in (0, 1):
        assert explained(step, "input", shut).terms[0].factors[1][1] == 0.0
        assert "shut" in explained(step, "input", shut).note


def test_a_local_response_norms_neighbours():
    (x,) = trained(np.ones((1, 4, 1)))
    step = only_step(lambda x: F.local_response_norm(x, 3, 3.0, 1.0, 0.0), np.ones((1, 4, 1)), x)
    explanation = explained(step, "input", (0, 0, 0))  # d = 2 at the border, 3 inside
    assert [term.where for term in explanation.terms] == [
        "its own numerator", "the denominator of channel 0, its own", "the denominator of channel 1"
    ]  # fmt: skip
    assert [term.value for term in explanation.terms] == pytest.approx([1 / 2, -2 / 4, -2 / 9])


def test_an_even_window_of_a_local_response_norm_reaches_further_before():
    step = only_step(lambda x: F.local_response_norm(x, 4), np.ones((1, 5, 1)), *trained(np.ones((1, 5, 1))))
    where = [term.where for term in explained(step, "input", (0, 2, 0)).terms[1:]]
    assert where == [f"the denominator of channel {c}" + ", its own" * (c == 2) for c in (1, 2, 3, 4)]


def test_a_broadcast_entry_is_summed_over_the_places_it_went_to():
    a, b = trained([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [10.0, 20.0, 30.0])
    step = only_step(lambda a, b: a * b, [[1.0, 1.0, 2.0], [1.0, 1.0, 3.0]], a, b)
    explanation = explained(step, "other", 2)
    assert explanation.terms == (
        Term("output [0, 2]", (("g[0, 2]", 2.0), ("a[0, 2]", 3.0))),
        Term("output [1, 2]", (("g[1, 2]", 3.0), ("a[1, 2]", 6.0))),
    )
    assert explanation.formula == "∂b = Σ g · a over the places the entry went to"
    assert "2 places" in explanation.note
    assert_explained([step])
    assert factors(explained(step, "input", (1, 0))) == [(("g[1, 0]", 1.0), ("b[0]", 10.0))]


def test_a_concatenation_says_where_it_was_cut():
    a, b = trained(np.zeros((2, 3)), np.zeros((2, 2)))
    step = only_step(lambda a, b: F.cat([a, b], dim=1), np.arange(10.0).reshape(2, 5), a, b)
    explanation = explained(step, "inputs[1]", (1, 0))
    assert explanation.terms == (Term("output [1, 3]", (("g[1, 3]", 8.0),)),)
    assert "from 3 to 4" in explanation.note
    legacy = trained(np.zeros(0), np.zeros((2, 1)), np.zeros((2, 2)))  # PyTorch's cat skips what has shape (0,)
    assert_explained(steps_of(lambda a, b, c: F.cat([a, b, c], dim=1), *legacy))


def test_what_was_not_taken_or_was_cut_off_has_no_terms():
    taken = only_step(lambda x: x[np.array([0, 0])], [1.0, 2.0], *trained([5.0, 6.0]))
    assert [term.value for term in explained(taken, 0, 0).terms] == [1.0, 2.0]
    assert explained(taken, 0, 1).terms == ()
    assert "not taken" in explained(taken, 0, 1).note
    cut = only_step(lambda x: F.pad(x, (-1, 1)), [1.0, 2.0], *trained([5.0, 6.0]))
    assert "cut off" in explained(cut, 0, 0).note
    assert explained(cut, 0, 1).total == 1.0


def test_an_entry_that_no_window_saw():
    ones = np.ones((1, 1, 3, 3))
    for function in (
        lambda x: F.conv2d(x, np.ones((1, 1, 2, 2)), stride=2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2),
    ):
        explanation = explained(only_step(function, [[[[1.0]]]], *trained(ones)), "input", (0, 0, 2, 2))
        assert explanation.terms == ()
        assert explanation.note == "no window saw the entry: no gradient comes back"
        assert "nothing to add up" in str(explanation)


def test_ties_of_amax_share():
    step = only_step(lambda x: x.amax(), 6.0, *trained([3.0, 1.0, 3.0]))
    assert factors(explained(step, "input", 0)) == [(("g", 6.0), ("share", 0.5))]
    assert "2 times: the entry is one of them" in explained(step, "input", 0).note
    assert "which this entry is not" in explained(step, "input", 1).note
    assert_explained([step])


def test_kinks_and_limits():
    assert_explained([only_step(lambda x: x.abs(), [1.0, 2.0, 3.0], *trained([-1.0, 0.0, 1.0]))])
    bounds = trained([-2.0, -1.0, 0.0, 1.0, 2.0], [-1.0] * 5, [1.0] * 5)
    for low, high in ((bounds[1], bounds[2]), (bounds[1], bounds[1]), (bounds[2], bounds[1])):
        step = only_step(lambda x, lo, hi: x.clamp(lo, hi), [1.0, 2.0, 3.0, 4.0, 5.0], bounds[0], low, high)
        assert_explained([step])
    powers = trained([0.0, 0.0, 0.0, 2.0], [0.0, 1.0, 2.0, 0.0])
    assert_explained([only_step(lambda x, n: x**n, [1.0, 2.0, 3.0, 4.0], *powers)])


def test_linear_with_a_bias_that_adds_an_axis():
    x, w, b = trained([1.0, 2.0], [3.0, 4.0], [5.0])
    assert_explained([only_step(F.linear, [7.0], x, w, b)])


# ------------------------------------------------------------------------------------------------ what is shown


def many_terms():
    x, w = trained(np.arange(100.0).reshape(1, 1, 10, 10) - 50, np.ones((1, 1, 1, 1)))
    return explained(only_step(F.conv2d, np.ones((1, 1, 10, 10)), x, w), "weight", (0, 0, 0, 0))


def test_the_largest_terms_are_shown_and_the_others_added_up():
    explanation = many_terms()
    lines = str(explanation).splitlines()
    assert lines[:2] == ["conv2d, the gradient of weight[0, 0, 0, 0]", explanation.formula]
    assert lines[5] == "image 0, output (o=0, i=0, j=0)  x[0, 0, 0, 0] × g[0, 0, 0, 0]  -50 × 1         -50"
    shown = [float(line.split()[-1]) for line in lines[5:17]]
    assert shown == [-50, -49, 49, -48, 48, -47, 47, -46, 46, -45, 45, -44]
    assert lines[17].startswith("and 88 more that add up to")
    assert float(lines[17].split()[-1]) == sum(range(-50, 50)) - sum(shown)
    assert lines[19].split() == ["the", "sum", "of", "100", "terms", "-50"]
    assert lines[20] == "The engine's value: -50, a difference of 0"
    assert len(lines) == 21


def test_no_minus_before_a_zero():
    explanation = explained(only_step(F.relu, [-2.0], *trained([-1.0])), "input", 0)
    assert str(explanation).splitlines()[5].split()[-1] == "0"


def test_a_short_repr():
    assert repr(many_terms()) == "Explanation(conv2d, weight[0, 0, 0, 0]: 100 terms, total -50.0, value -50.0)"


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1] += data


def cells(page):
    parser = Cells()
    parser.feed(page)
    assert parser.tags == {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"} - (
        set() if "<td>" in page else {"td"}
    )
    return parser.rows


def test_everything_is_escaped():
    terms = (Term("<b>here</b>", (("x < y & z", 2.0),)),)
    explanation = Explanation("<script>", "<i>", (0,), "∂x = <u>", terms, 2.0, 2.0, "<img>")
    assert cells(explanation._repr_html_())[1] == ["<b>here</b>", "x < y & z", "2", "2"]


def test_numbers_that_are_none():
    """Infinities and their differences come out, and are shown first."""
    step = only_step(lambda x: x.log(), [1.0, 2.0], *trained([0.0, 1.0]))
    assert explained(step, "input", 0).total == math.inf
    a, b = trained([[math.inf, -math.inf, 1.0]], [1.0])
    step = only_step(lambda a, b: a * b, [[1.0, 2.0, math.nan]], a, b)
    explanation = explained(step, "other", 0)
    assert math.isnan(explanation.total)
    assert math.isnan(explanation.value)
    assert "nan" in str(explanation).splitlines()[5]
    step = only_step(lambda a, b: a * b, [[1.0, 2.0, 3.0]], a, b)
    assert math.isnan(explained(step, "other", 0).total)


# ---------------------------------------------------------------------------------------- operations of one's own


def mix_forward(x, scale, *others, power):
    output = scale * np.tanh(x) @ x[::-1] ** power
    return output + sum(others), (x, scale, others)


def mix_backward(grad_output, saved, needs, power):
    x, scale, others = saved
    t, reverse = np.tanh(x), x[::-1]
    grad_x = (1 - t**2) * reverse**power + (power * reverse ** (power - 1) * t)[::-1]
    return scale * grad_x * grad_output, (t @ reverse**power) * grad_output, *(grad_output for _ in others)


MIX = Op("mix <own>", mix_forward, mix_backward)


def test_an_operation_that_nobody_explained():
    x, scale, other = trained([0.3, -0.8, 1.4], 0.7, 2.0)
    (step,) = steps_of(lambda: apply(MIX, x, scale, other, power=2))
    assert argument_names(step.node) == ("x", "scale", "others[0]")
    for explanation in assert_explained([step], tolerance=1e-8):
        assert "central differences" in explanation.note
        assert explanation.formula
        assert cells(explanation._repr_html_())[1][0] == "the output"
    assert x.data.tolist() == [0.3, -0.8, 1.4], "the input was written to"


def test_slopes_leave_out_the_outputs_that_do_not_depend_on_the_entry():
    op = Op("cube", lambda x: (x**3, x), lambda g, x, needs: (3 * x**2 * g,))
    (step,) = steps_of(lambda x: apply(op, x), *trained([[1.0, 2.0], [3.0, -4.0]]))
    explanation = explained(step, "x", (1, 1))
    assert [term.where for term in explanation.terms] == ["output [1, 1]"]
    assert explanation.terms[0].factors[1] == ("∂y[1, 1]/∂x", pytest.approx(48.0))
    assert "3 outputs do not depend" in explanation.note
    assert_explained([step], tolerance=1e-8)


def test_an_own_operation_with_the_name_of_one_of_ours_is_taken_for_what_it_is():
    own = Op("relu", lambda input: (input**2, input), lambda g, input, needs: (2 * input * g,))
    (step,) = steps_of(lambda x: apply(own, x), *trained([-3.0, 2.0]))
    assert_explained([step], tolerance=1e-8)


def test_a_wrong_backward_shows():
    wrong = replace(F.RELU, backward=lambda g, output, needs: (-g,))
    step = only_step(lambda x: apply(wrong, x), [2.0], *trained([3.0]))
    explanation = explained(step, "input", 0)
    assert (explanation.total, explanation.value) == (2.0, -2.0)
    assert "The engine's value: -2, a difference of 4" in str(explanation)


def test_an_explanation_of_ones_own(monkeypatch):
    op = Op("twice", lambda x: (2 * x, None), lambda g, saved, needs: (2 * g,))
    monkeypatch.setitem(
        EXPLANATIONS, "twice", lambda e: ("∂x = 2g", [Term("here", (("2", 2.0), e.g(*e.index)))], "as it was written")
    )
    step = only_step(lambda x: apply(op, x), [5.0], *trained([3.0]))
    explanation = explained(step, "x", 0)
    assert (explanation.formula, explanation.total, explanation.note) == ("∂x = 2g", 10.0, "as it was written")


# --------------------------------------------------------------------------------------- arguments and errors


def test_argument_names():
    x, w, b = trained(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), [1.0])
    assert argument_names(steps_of(F.conv2d, x, w, b)[0].node) == ("input", "weight", "bias")
    assert argument_names(steps_of(lambda x: F.dropout(x), x)[0].node) == ("input", "mask")
    assert argument_names(steps_of(lambda x: F.cat([x, x, x]), x)[0].node) == ("inputs[0]", "inputs[1]", "inputs[2]")


def test_an_argument_by_its_number_and_an_index_from_the_end():
    a, b = trained([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])
    step = only_step(lambda a, b: a * b, [[1.0, 2.0], [3.0, 4.0]], a, b)
    assert explained(step, 0, (-1, 0)) == explained(step, "input", (1, 0))
    assert explained(step, -1, np.int64(-1)) == explained(step, "other", (1,))


def test_a_freed_graph_is_explained_from_what_was_kept():
    a, b = trained([1.0, 2.0], [3.0, 4.0])
    with record():
        out = a * b
    (step,) = minicnn.backward_steps(out, np.array([5.0, 6.0]))
    values, node = forward_values(step.node), step.node
    out.backward(np.array([5.0, 6.0]))
    assert node.freed
    explanation = explain(node, values, node.recorded, step.grad_output, step.grad_inputs, "other", 1)
    assert explanation.total == 12.0


def test_nothing_is_written_to():
    for name in CASES.CASES:
        steps = steps_of(*shown_case(name))
        kept = [[np.array(x) for x in present(step)] for step in steps]
        assert_explained(steps, count=2)
        for step, before in zip(steps, kept, strict=True):
            for x, old in zip(present(step), before, strict=True):
                np.testing.assert_array_equal(x, old)


def present(step):
    """All arrays of a step, on the host."""
    arrays = (*forward_values(step.node), *step.grad_inputs, step.node.recorded, step.grad_output)
    return [to_host(x) for x in arrays if x is not None]


@pytest.mark.parametrize(
    ("argument", "index", "error", "message"),
    [
        ("wight", 0, ValueError, r"linear has no argument 'wight': choose input, weight, bias, or its number, 0 to 2"),
        (3, 0, ValueError, r"linear has no argument 3: choose input, weight, bias, or its number, 0 to 2"),
        ("input", (0, 0), ValueError, r"input of linear got no gradient.*requires_grad=True"),
        ("bias", (0,), ValueError, r"bias of linear got no gradient"),
        ("weight", 1, IndexError, r"weight of linear has shape \(2, 3\), so an entry has 2 numbers .* 1 has 1"),
        ("weight", (0, 3), IndexError, r"weight of linear has shape \(2, 3\), .* beyond axis 1, which has 3 entries"),
        ("weight", (-3, 0), IndexError, r"beyond axis 0, which has 2 entries"),
        ("weight", (0, 1.5), TypeError, r"the index is \(0, 1.5\), and must be an int or a tuple of ints"),
        ("weight", (0, slice(2)), TypeError, r"must be an int or a tuple of ints"),
    ],
)
def test_errors(argument, index, error, message):
    (w,) = trained(np.ones((2, 3)))
    step = only_step(lambda w: F.linear(np.ones((4, 3)), w), np.ones((4, 2)), w)
    with pytest.raises(error, match=message):
        explained(step, argument, index)


def test_an_argument_is_a_name_or_a_number_and_one_number_needs_no_index():
    step = only_step(lambda x: -x, 2.0, *trained(1.0))
    assert explained(step, "input", ()).total == -2.0
    with pytest.raises(IndexError, match="an entry has 0 numbers in its index"):
        explained(step, "input", 0)
    with pytest.raises(ValueError, match="neg has no argument 'x': choose input, or 0"):
        explained(step, "x", ())
    with pytest.raises(ValueError, match="neg has no argument None"):
        explained(step, None, ())


def test_complex_numbers_are_refused():
    step = only_step(lambda x: -x, 2.0, *trained(1.0, dtype="complex128"))
    with pytest.raises(TypeError, match="neg computed with complex numbers, and only real ones are explained"):
        explained(step, "input", ())
