"""Gradient flow: the numbers are those of the gradients that backward() leaves, and nothing is changed."""

import csv
import io
import json
import math

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, engine, models, nn, optim
from minicnn import functional as F
from minicnn.inspect import gradient_flow, track_gradients


@pytest.fixture
def net():
    minicnn.manual_seed(3)
    return nn.Sequential(
        ("conv", nn.Conv2d(1, 3, 3)), ("act", nn.ReLU()), ("flat", nn.Flatten()), ("fc", nn.Linear(3 * 16, 4))
    ).to(dtype="float64")


@pytest.fixture
def loss(net, rng):
    return F.cross_entropy(net(rng.normal(size=(5, 1, 6, 6))), np.array([0, 1, 2, 3, 0]))


def row(flow, path, array):
    (found,) = [r for r in flow.rows if (r.path, r.array) == (path, array)]
    return found


def test_parameters_are_measured_as_backward_leaves_them(net, loss):
    flow = gradient_flow(loss, net, lr=0.1)
    loss.backward()
    for name, parameter in net.named_parameters():
        path, _, array = name.rpartition(".")
        found, grad = row(flow, path, array), parameter.grad
        assert found.shape == grad.shape and found.zeros == (grad == 0).mean() and found.non_finite == 0
        assert found.norm == pytest.approx(math.sqrt(sum(g * g for g in grad.ravel().tolist())), rel=1e-12)
        assert found.rms == pytest.approx(found.norm / math.sqrt(grad.size), rel=1e-12)
        assert found.mean == pytest.approx(grad.mean(), rel=1e-9)
        weights = math.sqrt(sum(w * w for w in parameter.data.ravel().tolist()))
        assert found.ratio == pytest.approx(0.1 * found.norm / weights, rel=1e-12)


def test_outputs_are_measured_as_retained_gradients_are(net, rng):
    hidden = net.conv(rng.normal(size=(5, 1, 6, 6)))
    act = net.act(hidden)
    out = net.fc(net.flat(act))
    for tensor in (hidden, act, out):
        tensor.retain_grad()
    model = nn.Module()  # that did not run as a whole: its layers did
    loss = F.cross_entropy(out, np.array([0, 1, 2, 3, 0]))
    with pytest.raises(ValueError, match="no operation of it is behind the loss"):
        gradient_flow(loss, model)
    flows = {name: gradient_flow(loss, getattr(net, name)) for name in ("conv", "act", "fc")}
    loss.backward()
    for name, tensor in (("conv", hidden), ("act", act), ("fc", out)):
        (found,) = flows[name].of("output")
        assert found.norm == pytest.approx(np.linalg.norm(tensor.grad), rel=1e-12)
        assert found.zeros == (tensor.grad == 0).mean()


def test_depth_order_and_what_is_left_out(net, loss):
    flow = gradient_flow(loss, net)
    assert [(r.path, r.array) for r in flow.rows] == [
        ("conv", "weight"), ("conv", "bias"), ("conv", "output"), ("act", "output"),
        ("fc", "weight"), ("fc", "bias"), ("fc", "output"),
    ]  # fmt: skip
    assert [r.depth for r in flow.rows] == [0, 0, 0, 1, 3, 3, 3]  # flattening, at 2, only looks at the same memory


def test_nothing_is_changed(net, loss):
    gradient_flow(loss, net)
    assert all(p.grad is None for p in net.parameters()) and engine._observers.get() == ()
    assert not any(module._forward_hooks for module in net.modules())
    loss.backward()  # not freed


def test_a_parameter_used_twice_has_the_sum():
    shared = nn.Linear(2, 2, bias=False).to(dtype="float64")
    loss = shared(shared(Tensor(np.array([[1.0, 2.0]])))).sum()
    found = [r for r in gradient_flow(loss, shared).rows if r.array == "weight"]
    loss.backward()
    assert len(found) == 1 and found[0].norm == pytest.approx(np.linalg.norm(shared.weight.grad), rel=1e-12)


def test_zeros_and_what_is_not_finite():
    class Root(nn.Module):
        def forward(self, x):
            return (x * 1).sqrt()

    model = Root()
    x = Tensor(np.array([0.0, 0.0, 4.0, 4.0]), requires_grad=True)
    loss = (model(x) * np.array([1.0, 0.0, 1.0, 0.0])).sum()
    by_op = {r.operation: r for r in gradient_flow(loss, model).rows}
    assert by_op["sqrt"].zeros == 0.5 and by_op["sqrt"].non_finite == 0
    assert by_op["mul"].non_finite == 0.5 and by_op["mul"].zeros == 0.25  # 1/0 and 0/0


def test_the_histogram_counts_every_entry_that_is_a_number_and_not_zero():
    layer = nn.ReLU()
    x = Tensor(np.array([1.0, 1.0, 1.0, 1.0, 1.0]), requires_grad=True)
    grad = np.array([1.0, 1.5, -10.0, 0.0, 1e-3])
    loss = (layer(x) * grad).sum()
    (found,) = gradient_flow(loss, layer).rows
    assert found.histogram == {0: 2, 4: 1, -12: 1} and sum(found.histogram.values()) == 4


def test_a_weight_of_zeros_is_moved_infinitely_far(net, loss):
    net.fc.bias.data[:] = 0
    assert row(gradient_flow(loss, net), "fc", "bias").ratio == math.inf


def test_data(net, loss):
    flow = gradient_flow(loss, net)
    assert json.loads(json.dumps(flow.to_dict()))["rows"][0]["path"] == "conv"
    lines = list(csv.DictReader(io.StringIO(flow.to_csv())))
    assert len(lines) == len(flow.rows) and float(lines[0]["norm"]) == flow.rows[0].norm
    assert lines[0]["shape"] == "3×1×3×3" and lines[2]["ratio"] == ""
    assert "output of conv2d" in str(flow) and flow._repr_html_().count("<tr>") == len(flow.rows) + 2


@pytest.mark.parametrize("value", ["rms", "norm", "ratio"])
def test_the_plot_has_the_numbers(net, loss, value):
    pytest.importorskip("matplotlib")
    flow = gradient_flow(loss, net)
    ax = flow.plot(value=value)
    assert ax.get_yscale() == "log"
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    for array in ("weight", "bias"):
        assert drawn[array] == [[r.depth, getattr(r, value)] for r in flow.of(array)]
    assert ("output" in drawn) == (value != "ratio")
    assert flow.plot(ax, value=value) is ax
    assert [label.get_text() for label in ax.get_xticklabels()] == ["conv", "act", "fc"]


def test_plots_of_a_deep_network_have_room_for_their_labels():
    pytest.importorskip("matplotlib")
    minicnn.manual_seed(0)
    model = models.resnet56(num_classes=2, width=0.25)
    flow = gradient_flow(F.cross_entropy(model(np.ones((2, 3, 8, 8), np.float32)), np.array([0, 1])), model)
    assert 30 < len(flow.plot().get_xticks()) <= 60
    image = flow.plot_histograms(array="weight").images[0].get_array()
    np.testing.assert_allclose(image.sum(axis=0), [1 - r.zeros for r in flow.of("weight")])


def test_plots_that_cannot_be(net, loss):
    pytest.importorskip("matplotlib")
    flow = gradient_flow(loss, net)
    with pytest.raises(ValueError, match="value is 'size', and must be one of rms, norm, ratio"):
        flow.plot(value="size")
    with pytest.raises(ValueError, match="no gradient of 'gamma'"):
        flow.plot_histograms(array="gamma")


# ---------------------------------------------------------------------------------------------- over a run

def run(net, rng, steps, every=1):
    x, y = rng.normal(size=(5, 1, 6, 6)), np.array([0, 1, 2, 3, 0])
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    flows = []
    with track_gradients(net, every) as history:
        for _ in range(steps):
            loss = F.cross_entropy(net(x), y)
            with engine._set(engine._observers, ()):
                flows.append(gradient_flow(loss, net))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return history, flows


def test_history_is_the_flow_of_each_step(net, rng):
    history, flows = run(net, rng, 4)
    assert history.layers == ["conv (conv2d)", "act (relu)", "fc (linear)"] and history.passes == [0, 1, 2, 3]
    expected = np.array([[r.rms for r in flow.of("output")] for flow in flows]).T
    np.testing.assert_allclose(history.rms, expected, rtol=1e-12)
    assert len(np.unique(history.rms[0])) == 4 and engine._observers.get() == ()


def test_history_of_every_third_pass(net, rng):
    history, flows = run(net, rng, 7, every=3)
    assert history.passes == [0, 3, 6]
    np.testing.assert_allclose(history.rms[0], [flows[i].of("output")[0].rms for i in (0, 3, 6)], rtol=1e-12)


def test_a_layer_that_runs_twice_has_two_rows(rng):
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    with track_gradients(model) as history:
        model(rng.random((1, 2), dtype=np.float32)).sum().backward()
        model(rng.random((1, 2), dtype=np.float32)).sum().backward()
    assert len(history.layers) == 3 and history.rms.shape == (3, 2) and np.isfinite(history.rms).all()


def test_history_as_data_and_picture(net, rng):
    pytest.importorskip("matplotlib")
    history, _ = run(net, rng, 3)
    lines = list(csv.reader(io.StringIO(history.to_csv())))
    assert lines[0] == ["pass", "0 conv (conv2d)", "1 act (relu)", "2 fc (linear)"] and len(lines) == 4
    assert json.loads(json.dumps(history.to_dict()))["passes"] == [0, 1, 2]
    image = history.plot().images[0].get_array()
    np.testing.assert_allclose(image, np.log10(history.rms))


def test_history_that_cannot_be(net):
    with pytest.raises(ValueError, match="every is 0"), track_gradients(net, 0):
        pass
    with track_gradients(net) as history:
        pass
    assert history.layers == [] and history.rms.shape == (0, 0)
    with pytest.raises(ValueError, match="no backward pass"):
        history.plot()


def test_norms_whose_squares_are_no_numbers():
    for size in (1e-250, 1e250):
        model = nn.Sequential(nn.Linear(3, 3)).to(dtype="float64")
        flow = gradient_flow((model(np.ones((2, 3))) * size).sum(), model)
        (row,) = flow.of("output")
        assert row.rms == pytest.approx(size, rel=1e-12) and row.norm == pytest.approx(size * math.sqrt(6), rel=1e-12)


def test_passes_through_other_models_and_measurements_do_not_count():
    model, other = (nn.Sequential(("fc", nn.Linear(2, 1))) for _ in range(2))
    x = np.ones((1, 2), np.float32)
    with track_gradients(model) as history:
        losses = [model(x).sum() for _ in range(2)]
        other(x).sum().backward()
        gradient_flow(losses[0], model)
        losses[1].backward()  # in an order of their own
        losses[0].backward()
    assert history.passes == [0, 1] and history.layers == ["fc (linear)"]
