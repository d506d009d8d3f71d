"""The debugger: its values are the engine's, it changes nothing, and it says what a step does."""

import numpy as np
import pytest

import minicnn
from minicnn import Op, Tensor, backward_steps, engine, models, nn, optim
from minicnn import functional as F
from minicnn.backend import to_host
from minicnn.inspect import debug
from minicnn.models.googlenet import googlenet_loss
from tests.device.places import on_a_device


def lenet_loss(rng):
    minicnn.manual_seed(3)
    model = models.lenet5()
    return model, F.cross_entropy(model(rng.random((2, 1, 28, 28), dtype=np.float32)), np.array([7, 1]))


def inception_loss(rng):
    """Three losses, branches that are concatenated, dropout."""
    minicnn.manual_seed(4)
    model = models.googlenet(num_classes=3, input_size=33, width=0.1)
    return model, googlenet_loss(model(rng.random((1, 3, 33, 33), dtype=np.float32)), np.array([2]))


class Residual(nn.Module):
    """A block with batch norm and a shortcut, called twice, so that its parameters have two gradients."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = self.relu(self.norm(self.block(x)) + x)
        return self.head(x.mean((2, 3)))


def residual_loss(rng):
    minicnn.manual_seed(5)
    model = Residual()
    return model, F.cross_entropy(model(rng.random((3, 2, 6, 6), dtype=np.float32)), np.array([0, 2, 1]))


NETWORKS = [lenet_loss, inception_loss, residual_loss]


class Copies:
    """An observer that keeps copies of all forward values, and nothing in the nodes."""

    def __init__(self):
        self.values = {}

    def forward(self, node, output):
        self.values[node] = output.copy()


def observed(build, rng):
    copies = Copies()
    with engine.observe(copies):
        model, loss = build(rng)
    return model, loss, copies.values


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ----------------------------------------------------------------------------------------------- the values

@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("room", ["fast", "im2col"])
def test_forward_values_are_the_engines_to_the_bit(build, room, rng):
    with minicnn.use_kernels(room):
        _, loss, values = observed(build, rng)
    walk = debug(loss).forward
    assert [s.node for s in walk] == sorted(values, key=lambda node: node.sequence)
    for step in walk:
        assert same_bits(step.output, values[step.node]), step.label
        for given, source in zip(step.inputs, (s for s in step.node.inputs if s is not None), strict=True):
            assert same_bits(given.value, source.data if isinstance(source, Tensor) else values[source])


@pytest.mark.parametrize("build", NETWORKS)
def test_backward_values_are_the_engines_to_the_bit(build, rng):
    model, loss = build(rng)
    walk = list(debug(loss))
    for step, plain in zip(walk, backward_steps(loss), strict=True):
        assert step.node is plain.node and same_bits(step.grad_output, plain.grad_output)
        made = [g for g in plain.grad_inputs if g is not None]
        for gradient, grad in zip(step.gradients, made, strict=True):
            assert same_bits(gradient.value, grad)
    loss.backward()
    totals = {}
    for step in walk:
        for gradient in step.gradients:
            if gradient.to.endswith(".grad"):
                totals[gradient.to] = totals.get(gradient.to, 0) + gradient.value
    assert set(totals) == {f"{name}.grad" for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert same_bits(totals[f"{name}.grad"], parameter.grad), name


@pytest.mark.parametrize("build", NETWORKS)
def test_stepping_changes_nothing(build, rng):
    """No gradient, no graph, no observer and nothing in a node, so that a later backward() is what it was."""
    model, loss = build(rng)
    expected = {}
    for step in backward_steps(loss):
        expected[step.node] = step
    before = {node: (node.saved, node.recorded, node.inputs) for node in expected}
    walk = debug(loss)
    walk.run()
    walk.forward.run()
    str(walk), str(walk.current), walk.current._repr_html_()
    assert all(p.grad is None for p in model.parameters())
    for node, (saved, recorded, inputs) in before.items():
        assert node.saved is saved and node.recorded is recorded and node.inputs is inputs and node.retained is None
    assert engine._observers.get() == ()
    loss.backward()
    stepped = {name: p.grad for name, p in model.named_parameters()}
    model, loss = build(np.random.default_rng(20_240_229))  # the same numbers, without a debugger
    loss.backward()
    for name, p in model.named_parameters():
        assert same_bits(stepped[name], p.grad), name


def test_a_recording_outlives_changed_weights(rng):
    x = Tensor([2.0], requires_grad=True)
    with minicnn.inspect.record():
        recorded = (x * x).exp()
    plain = (x * x).exp()
    x.data[:] = 1
    assert float(debug(recorded).forward[1].output[0]) == pytest.approx(np.exp(4), rel=1e-6)
    with pytest.raises(RuntimeError, match=r"exp was \[54.5981\] float32, and computed again it is \[2.71828\]"):
        debug(plain)


def test_a_walk_keeps_the_weights_of_its_moment(rng):
    """Through steps of training that write into the weights in place."""
    minicnn.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    x, y = rng.random((5, 3), dtype=np.float32), np.array([0, 1, 0, 1, 1])
    walks, weights = [], []
    for _ in range(3):
        loss = F.cross_entropy(model(x), y)
        walk = debug(loss)
        walk.run()
        walks.append(walk)
        weights.append(model[0].weight.data.copy())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not np.array_equal(weights[0], weights[2])
    for walk, weight in zip(walks, weights, strict=True):
        step = walk.goto("0")
        np.testing.assert_array_equal(to_host(step.input("weight")), weight)
        assert step.explain("weight", (1, 2)).total == pytest.approx(float(step.gradient("weight")[1, 2]), rel=1e-4)
        assert "weight, kept" not in str(step) and walk.forward.goto("0").output.shape == (5, 4)


def test_weights_that_change_during_a_walk_end_it(rng):
    model, loss = lenet_loss(rng)
    walk = debug(loss)
    walk.goto("fc2")
    before = walk.current.gradient("weight").copy()
    model.fc1.weight.data += 1
    with pytest.raises(RuntimeError, match="fc1.weight has changed since debug.. was called"):
        walk.run()
    assert walk.current.path == "fc2" and same_bits(walk.current.gradient("weight"), before)


# ------------------------------------------------------------------------------------- what ends it before its time

WRONG = Op("wrong", lambda a: (a * 2, None), lambda grad_output, saved, needs: (grad_output.sum(),))


def test_a_wrong_backward_pass_leaves_the_steps_before_it(rng):
    x = Tensor(rng.normal(size=3), requires_grad=True)
    walk = debug((minicnn.apply(WRONG, x * 2) ** 2).sum())
    assert [walk.next().op.name, walk.next().op.name] == ["sum", "pow"]
    for move in (walk.next, walk.run, lambda: walk.goto("mul"), lambda: list(walk), lambda: walk.until(bool)):
        with pytest.raises(RuntimeError, match=r"backward of wrong returned a gradient of shape \(\)"):
            walk.position = 1
            move()
        assert walk.position == 1 and walk.current.op.name == "pow" and walk.back().op.name == "sum"
    assert [s.op.name for s in walk.forward] == ["mul", "wrong", "pow", "sum"]
    assert str(walk).splitlines()[-1].startswith("  ✗ backward of wrong returned") and "more steps" not in str(walk)


def test_a_backward_pass_in_the_middle_of_a_walk(rng):
    _, loss = lenet_loss(rng)
    walk = debug(loss)
    walk.goto("fc3")
    loss.backward()
    with pytest.raises(RuntimeError, match="used up by an earlier backward"):
        walk.next()
    assert walk.current.path == "fc3" and walk.forward.goto("conv1").inputs[1].source == "conv1.weight"


def test_a_finished_walk_outlives_the_graph(rng, tmp_path):
    _, loss = lenet_loss(rng)
    walk = debug(loss)
    walk.run()
    loss.backward()
    assert walk.goto("conv1").explain("bias", (0,)).value and "conv2d in conv1" in str(walk.forward.run() and walk)
    walk.save(tmp_path / "walk.html")
    assert walk._repr_html_().startswith("<iframe")


# ------------------------------------------------------------------------------------------------- walking

@pytest.fixture
def walk(rng):
    return debug(lenet_loss(rng)[1])


def test_next_and_back(walk):
    assert walk.current is None and walk.position == -1 and len(walk) == 13
    assert [walk.next().op.name for _ in range(3)] == ["cross_entropy", "linear", "tanh"]
    assert walk.back().op.name == "linear" and walk.position == 1
    assert walk.back().op.name == "cross_entropy" and walk.back() is None and walk.back() is None
    assert walk.next().index == 0
    assert walk.run().path == "conv1" and walk.position == 12
    assert walk.next() is None and walk.position == 12 and walk.current.path == "conv1"


def test_goto(walk):
    assert walk.goto("conv2").label == "conv2d in conv2" and walk.position == 9
    assert walk.goto("conv2d").path == "conv2"  # the first in this walk, which goes backward
    assert walk.forward.goto("conv2d").path == "conv1"
    assert walk.goto("tanh in tanh3").path == "tanh3"
    assert walk.goto(0).op.name == "cross_entropy" and walk.goto(-1).path == "conv1"
    with pytest.raises(ValueError, match=r"no step is at 'conv3'\. There are .*conv2"):
        walk.goto("conv3")
    with pytest.raises(IndexError, match="the walk has 13 steps, 0 to 12"):
        walk.goto(13)
    assert walk.position == 12  # where it was
    assert walk.goto(np.int64(3)).index == 3 and walk.goto(np.argmin([s.grad_norm for s in walk])).index == 12
    with pytest.raises(TypeError, match="None is neither a step's number nor the name"):
        walk.goto(None)


def test_goto_a_module_finds_the_layers_inside(rng):
    walk = debug(inception_loss(rng)[1])
    assert walk.goto("inception4a").path == "inception4a"  # the concatenation
    assert walk.goto("inception4a.branch3").path.startswith("inception4a.branch3.1")


def test_until(walk):
    norms = [step.grad_norm for step in walk]
    wanted = next(i for i, norm in enumerate(norms) if norm < 0.3 * norms[0])
    assert 0 < wanted < 12
    step = walk.until(lambda step: step.grad_norm < 0.3 * norms[0])
    assert step.index == wanted == walk.position
    assert walk.until(lambda step: step.op.name == "conv2d").index > wanted
    assert walk.until(lambda step: False) is None and walk.position == 12


def test_it_is_a_sequence(walk):
    assert [s.index for s in walk] == list(range(13)) and walk[-1] is walk[12] and walk.position == -1
    assert [s.index for s in walk[2:4]] == [2, 3]


def test_steps_are_made_when_they_are_reached():
    calls = []

    def backward(grad_output, saved, needs):
        calls.append(saved)
        return (grad_output,)

    op = Op("pass", lambda x, tag: (x + 0, tag), lambda g, saved, needs, tag: backward(g, saved, needs))
    x = Tensor([1.0], requires_grad=True)
    for tag in "abc":
        x = minicnn.apply(op, x, tag=tag)
    walk = debug(x)
    assert calls == []
    walk.next()
    walk.next()
    walk.back()
    walk.next()
    assert calls == ["c", "b"]


# -------------------------------------------------------------------------------------------- what a step says

def test_grad_norm_of_tiny_gradients():
    """In float32 the square of 1e-30 is zero, and the norm would be too."""
    x = Tensor(np.full(4, 1e-30, np.float32), requires_grad=True)
    walk = debug(x * 1.0, np.full(4, 1e-30, np.float32))
    assert walk.next().grad_norm == pytest.approx(2e-30, rel=1e-6)


def test_written_or_added(rng):
    x = Tensor(rng.normal(size=3), requires_grad=True)
    y = x.exp()
    loss = (y * y).sum() + x.sum()
    walk = debug(loss, names={"x": x})
    flows = [(s.op.name, g.name, g.to, g.added) for s in walk for g in s.gradients]
    assert flows == [
        ("add", "input", "sum", False), ("add", "other", "sum", False),
        ("sum", "input", "x.grad", False),
        ("sum", "input", "mul", False),
        ("mul", "input", "exp", False), ("mul", "other", "exp", True),
        ("exp", "input", "x.grad", True),
    ]  # fmt: skip
    loss.backward(retain_graph=True)
    assert [g.added for s in debug(loss) for g in s.gradients if g.to.endswith(".grad")] == [True, True]


def test_saved(rng):
    walk = debug(residual_loss(rng)[1])
    assert walk.goto("block").saved == ("input", "weight")
    assert walk.goto("relu").saved == ("output",)
    assert walk.goto("add").saved == ()
    x = Tensor([np.nan, 1.0], requires_grad=True)
    assert debug(F.tanh(x), np.ones(2)).next().saved == ("output",)
    square = debug(x * x, np.ones(2)).next()
    assert square.saved == ("input", "other")
    hidden = x.exp()
    assert debug(hidden * hidden, np.ones(2)).next().saved == ("input", "other")
    normalised = "3×4×6×6 made for it" if on_a_device() else "input"  # the fast kernels keep what is there anyway
    assert walk.goto("norm").saved == ("4 made for it", normalised, "weight")


def test_sources_and_settings(rng):
    _, loss = lenet_loss(rng)
    conv = debug(loss).forward.goto("conv1")
    assert [(i.name, i.source, i.needs_gradient) for i in conv.inputs] == [
        ("input", "input", False), ("weight", "conv1.weight", True), ("bias", "conv1.bias", True)
    ]  # fmt: skip
    assert conv.settings == "stride=(1, 1), padding=(2, 2), dilation=(1, 1), groups=1"
    assert debug(loss).forward.goto("tanh1").inputs[0].source == "conv2d in conv1"
    assert "target=[7, 1] int64" in debug(loss).next().settings
    x = Tensor([1.0, 2.0], requires_grad=True)
    step = debug(F.dropout(x * 3.0, 0.5), np.ones(2)).forward
    assert [i.source for i in step[0].inputs] == ["input", "a constant"]
    assert [(i.name, i.source) for i in step[1].inputs] == [("input", "mul"), ("mask", "the mask drawn")]


def test_arrays_by_name(walk):
    step = walk.goto("conv2")
    assert step.input("weight") is step.inputs[1].value and step.gradient("weight") is step.grad_inputs[1]
    with pytest.raises(ValueError, match="conv2d in conv2 has no input 'w': there are input, weight, bias"):
        step.input("w")
    with pytest.raises(ValueError, match="conv2d in conv1 has no gradient 'input': there are weight, bias"):
        walk.goto("conv1").gradient("input")


def test_a_buffer_has_its_name(rng):
    model = models.lenet5(variant="1998")
    step = debug(model(rng.random((1, 1, 32, 32), dtype=np.float32)).sum()).goto("sub")
    assert [i.source for i in step.inputs][1] == "output.codes"


def test_print_a_step():
    x = Tensor([[3.0, -1.0]], requires_grad=True)
    step = debug(F.relu(x), np.array([[0.5, 0.25]]), names={"x": x}).next()
    assert str(step).splitlines() == [
        "backward step 1 of 1: relu",
        "    y = max(0, x);  ∂x = g where x > 0, else 0",
        "  in   input   [3, -1] float32  (from x)",
        "  out  output  [3, 0] float32  (kept for backward)",
        "  grad g       [0.5, 0.25] float32  (the gradient that arrived)",
        "  then ∂input  [0.5, 0] float32  (to x.grad)",
    ]
    assert repr(step) == str(step)


def test_print_a_walk(walk):
    assert str(walk) == "  … 13 more steps"
    walk.goto(3)
    lines = str(walk).splitlines()
    assert len(lines) == 5 and [line[0] for line in lines] == [" ", " ", " ", "▶", " "] and "9 more steps" in lines[-1]
    assert lines[0].endswith("█") and "|gradient| 1.000e+00" in lines[0]
    walk.forward.run()
    assert "|output|" in str(walk.forward) and "more" not in str(walk.forward)


def test_bars_are_logarithmic():
    from minicnn.inspect.walk import _bars

    assert _bars([1, 1e-7, 1e-3, 0, float("inf"), float("nan")]) == ["█", "▁", "▅", " ", " ", " "]
    assert _bars([]) == [] and _bars([5.0]) == ["█"]


def test_html_is_escaped_and_has_a_picture_for_each_array(rng):
    class Evil(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, "<script>", nn.Conv2d(1, 2, 3))

        def forward(self, x):
            return getattr(self, "<script>")(x)

    step = debug(Evil()(rng.random((1, 1, 5, 5), dtype=np.float32)).sum()).run()
    text = step._repr_html_()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert text.count("<img") == 7  # input, weight, bias, output, g, ∂weight, ∂bias


def test_a_walk_in_a_notebook_is_its_page_and_as_text_all_its_steps(walk):
    shown = walk.inline(megabytes=0.5, height=300)
    assert walk.position == -1 and repr(shown) == str(walk) and repr(shown).count("|gradient|") == 13
    content = shown._repr_html_()
    assert content.startswith("<iframe") and 'height="300"' in content and len(content) < 0.51e6
    assert content.endswith("</pre></details>") and "conv2d in conv1" in content.split("<pre>")[1]
    assert walk._repr_html_().startswith("<iframe")
    assert debug(Tensor([1.0], requires_grad=True))._repr_html_() is None


# ---------------------------------------------------------------------------------------------- explanations

@pytest.mark.parametrize("build", NETWORKS)
def test_explain_any_entry_of_any_gradient(build, rng):
    for step in debug(build(rng)[1]):
        for gradient in step.gradients:
            value = gradient.value
            index = tuple(int(rng.integers(n)) for n in value.shape)
            explanation = step.explain(gradient.name, index)
            assert explanation.value == float(value[index])
            size = sum(abs(term.value) for term in explanation.terms)  # they may cancel
            assert abs(explanation.total - explanation.value) <= 1e-5 * size, step.label


def test_explain_what_is_not_there(walk):
    step = walk.run()
    with pytest.raises(ValueError, match="input of conv2d in conv1 got no gradient"):
        step.explain("input", (0, 0, 0, 0))
    with pytest.raises(ValueError, match="no argument 'wieght'"):
        step.explain("wieght", (0, 0, 0, 0))


# --------------------------------------------------------------------------------------------------- errors

def test_what_cannot_be_debugged(rng):
    with pytest.raises(TypeError, match="debug: got float, and steps through what made a Tensor"):
        debug(5.0)
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        debug(Tensor([1.0]) * 2)
    with pytest.raises(RuntimeError, match="one number"):
        debug(Tensor([1.0, 2.0], requires_grad=True) * 2)
    with pytest.raises(ValueError, match=r"gradient has shape \(2,\)"):
        debug(x * 2, np.ones(2))
    y = x * 2
    y.backward()
    with pytest.raises(RuntimeError, match=r"mul was made from was freed .* backward\(retain_graph=True\)"):
        debug(y)


def test_a_leaf_has_no_steps():
    walk = debug(Tensor([1.0], requires_grad=True))
    assert len(walk) == 0 and walk.next() is None and list(walk.forward) == [] and str(walk) == ""
    for move in (walk.run, lambda: walk.goto(0)):
        with pytest.raises(ValueError, match="this walk has no steps"):
            move()
