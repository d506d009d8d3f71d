"""Provenance: the parts of every gradient add up to it, and each part is what its name says."""

import csv
import io
import math
from collections import defaultdict

import numpy as np
import pytest

import minicnn
from minicnn import Parameter, Tensor, backward_steps, engine, models, nn
from minicnn import functional as F
from minicnn.backend import to_host
from minicnn.inspect import backward_parts, provenance
from minicnn.inspect.provenance import residual_joints


def googlenet_terms(rng, variant="paper"):
    minicnn.manual_seed(2)
    model = models.googlenet(num_classes=3, input_size=33, width=0.15, variant=variant).to(dtype="float64")
    main, aux2, aux1 = (F.cross_entropy(scores, np.array([0, 2])) for scores in model(rng.normal(size=(2, 3, 33, 33))))
    return model, {"main": main, "auxiliary 2": 0.3 * aux2, "auxiliary 1": 0.3 * aux1}


def resnet20_loss(rng, **options):
    minicnn.manual_seed(2)
    model = models.resnet20(num_classes=3, width=0.25, **options).to(dtype="float64")
    return model, F.cross_entropy(model(rng.normal(size=(3, 3, 16, 16))), np.array([0, 2, 1]))


def close(parts, whole):
    parts, whole = map(to_host, parts), to_host(whole)
    assert np.abs(sum(parts) - whole).max() <= 1e-10 * max(np.abs(whole).max(), 1e-300)


def check_sums(steps, total):
    """Against the engine's own walk from the sum: each operation's and each parameter's gradient."""
    whole = {step.node: step for step in backward_steps(total)}
    seen, parameters = set(), defaultdict(list)
    for step in steps:
        if step.node not in whole:  # weighting a term, before the sum
            continue
        seen.add(step.node)
        close(step.grad_output.values(), whole[step.node].grad_output)
        for source, parts, grad in zip(step.node.inputs, step.grad_inputs, whole[step.node].grad_inputs, strict=True):
            assert (grad is None) == (not parts)
            if grad is not None:
                close(parts.values(), grad)
            if isinstance(source, Parameter):
                parameters[source] += parts.values()
    assert len(seen) > 20
    total.backward()
    for parameter, parts in parameters.items():
        close(parts, parameter.grad)
    return set(parameters)


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_parts_by_loss_add_up(variant, rng):
    model, terms = googlenet_terms(rng, variant)
    steps = list(backward_parts(terms))
    assert check_sums(steps, sum(terms.values(), start=Tensor(np.float64(0)))) == set(model.parameters())


def test_each_loss_s_part_is_its_own_gradient(rng):
    model, terms = googlenet_terms(rng)
    weight = model.conv1.conv.weight
    parts = {}
    for step in backward_parts(terms):
        for source, grads in zip(step.node.inputs, step.grad_inputs, strict=True):
            if source is weight:
                parts = grads
    assert list(parts) and set(parts) == set(terms)
    for name, term in terms.items():
        weight.grad = None
        term.backward(retain_graph=True)
        np.testing.assert_allclose(to_host(parts[name]), weight.grad, rtol=1e-9, atol=1e-12 * np.abs(weight.grad).max())


@pytest.mark.parametrize("shortcut", [True, "A"])
def test_parts_by_branches_add_up(shortcut, rng):
    model, loss = resnet20_loss(rng, shortcut=shortcut)
    joints = {j.node: j for j in residual_joints(loss, model)}
    assert len(joints) == 9

    def relabel(node, i, label):
        return label + (node in joints and joints[node].branch == i)

    steps = list(backward_parts({0: loss}, relabel))
    assert check_sums(steps, loss) == set(model.parameters())


def test_the_number_of_branches_is_counted(rng):
    """Blocks y = x + a·x: the path through k branches weighs a^k, and there are (L over k) of them."""

    class Block(nn.Module):
        def forward(self, x):
            return (x * 0.5).exp().log() + x  # a branch longer than the shortcut, of slope 0.5

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Linear(1, 1, bias=False), nn.Sequential(*[Block() for _ in range(4)])

        def forward(self, x):
            return self.blocks(self.stem(x))

    model = Net().to(dtype="float64")
    found = provenance(model(np.array([[2.0]])).sum(), model, by="branches")
    shares = found.of("stem", "weight")
    expected = [math.comb(4, k) * 0.5**k / 1.5**4 for k in range(5)]
    np.testing.assert_allclose([shares[str(k)] for k in range(5)], expected, rtol=1e-9)
    assert list(shares) == list("01234")


def test_blocks_shortcut_and_branch(rng):
    """A block y = 3·log(exp(x)) + x: three quarters come through the branch."""

    class Block(nn.Module):
        def forward(self, x):
            return x.exp().log() * 3 + x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Linear(2, 2), Block()

        def forward(self, x):
            hidden = self.stem(x)
            return self.block(hidden) + self.block(hidden * 2).exp() * 0

    model = Net().to(dtype="float64")
    loss = model(rng.normal(size=(2, 2))).sum()
    shares = provenance(loss, model, by="blocks").of("block (sum 1)", "input")
    assert shares["branch"] / shares["shortcut"] == pytest.approx(3)


class TwoSums(nn.Module):
    """x + 3x, then that − 2 of itself, in one module: shares 1:3 and 1:−2."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(1, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x.exp().log() * 3 + x
        return x.exp().log() * -2 + x


def test_sums_of_one_module_are_told_apart_and_come_in_order():
    model = TwoSums().to(dtype="float64")
    loss = model(np.array([[0.1]])).sum()
    found = provenance(loss, model, by="blocks")
    first, second = (found.of(f"(sum {i})", "input") for i in (1, 2))
    assert first["branch"] / first["shortcut"] == pytest.approx(3)
    assert second["branch"] / second["shortcut"] == pytest.approx(-2)
    assert [p.path for p in found.parts[::2]] == ["(sum 1)", "(sum 2)"]
    last = provenance(loss, model, by="branches").of("")  # the last sum's output, which no branch comes after
    assert last == pytest.approx({"0": 1.0})


def test_calls_of_one_layer_for_different_losses_are_arrays_of_their_own():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, a, b):
            return self.layer(a), self.layer(b)

    model = Twins()
    first, second = model(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    found = provenance({"A": first.sum(), "B": second.sum()}, model)
    assert found.of("layer") == {"B": 1.0} and str(found).count("output of linear") == 2
    bars = found.plot(array="output")
    assert max(patch.get_y() + patch.get_height() for patch in bars.patches) == pytest.approx(1)


def test_gradients_whose_squares_are_no_numbers_have_shares():
    model = TwoSums().to(dtype="float64")
    for size in (1e-250, 1e250):
        found = provenance(model(np.array([[0.1]])).sum() * size, model, by="branches").of("stem", "weight")
        assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("losses", [{}, {"other": Tensor(np.ones(1), requires_grad=True).sum()}])
def test_losses_that_the_model_did_not_make(losses):
    with pytest.raises(ValueError, match="no operation of TwoSums is behind the losses: (other|there are none)"):
        provenance(losses, TwoSums())


def test_a_use_elsewhere_is_a_part_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(1, 1)

        def forward(self, x):
            hidden = self.stem(x)
            return (hidden * 2).exp().log() + hidden, hidden * 5

    model = Net().to(dtype="float64")
    out, other = model(np.array([[1.0]]))
    shares = provenance({"a": out.sum(), "b": other.sum()}, model, by="blocks").of("", "input")
    assert shares == pytest.approx({"shortcut": 1 / 8, "branch": 2 / 8, "elsewhere": 5 / 8})


def test_blocks_add_up_to_the_gradient_at_their_inputs(rng):
    model, loss = resnet20_loss(rng)
    found = provenance(loss, model, by="blocks")
    names = [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)]
    assert list(dict.fromkeys(part.path for part in found.parts)) == names
    starts = {j.name: j.start for j in residual_joints(loss, model)}
    norms = {step.node: np.linalg.norm(to_host(step.grad_output)) for step in backward_steps(loss)}
    for name in names:
        shares = found.of(name, "input")
        assert set(shares) == {"shortcut", "branch"} and sum(shares.values()) == pytest.approx(1, abs=1e-10)
        parts = {part.part: part.norm for part in found.parts if part.path == name}
        whole = norms[starts[name]]
        assert parts["branch"] + parts["shortcut"] >= whole * (1 - 1e-9)  # the triangle's inequality
        # |branch|² = |whole|² − 2⟨shortcut, whole⟩ + |shortcut|²
        square = whole**2 * (1 - 2 * shares["shortcut"]) + parts["shortcut"] ** 2
        assert parts["branch"] ** 2 == pytest.approx(square, rel=1e-9)


def test_shares_add_up_and_norms_are_those_of_the_parts(rng):
    model, terms = googlenet_terms(rng)
    found = provenance(terms, model)
    sums = defaultdict(list)
    for part in found.parts:
        sums[part.path, part.array, part.operation].append(part.share)
    assert {path for path, *_ in sums} >= {"conv1.conv", "inception5b.branch1.conv", "aux1.fc2"}
    for shares in sums.values():
        assert sum(shares) == pytest.approx(1, abs=1e-10) or all(map(math.isnan, shares))
    assert list(found.of("conv1.conv", "weight")) == ["main", "auxiliary 2", "auxiliary 1"]
    assert list(found.of("inception5b.branch1.conv", "weight")) == ["main"]
    assert list(found.of("inception4b.branch1.conv", "weight")) == ["main", "auxiliary 2"]
    weight = model.conv1.conv.weight
    (part,) = [p for p in found.parts if (p.path, p.array, p.part) == ("conv1.conv", "weight", "auxiliary 1")]
    terms["auxiliary 1"].backward()
    assert part.norm == pytest.approx(np.linalg.norm(weight.grad), rel=1e-9)


def test_nothing_is_changed(rng):
    model, loss = resnet20_loss(rng)
    for by in ("loss", "branches", "blocks"):
        provenance(loss, model, by)
    assert all(p.grad is None for p in model.parameters()) and engine._observers.get() == ()
    loss.backward()


def test_a_projection_is_a_shortcut_and_a_bias_is_no_joint(rng):
    model = models.resnet18(num_classes=2, width=0.1, input_size=32)
    loss = F.cross_entropy(model(rng.random((2, 3, 32, 32), dtype=np.float32)), np.array([0, 1]))
    joints = residual_joints(loss, model)
    assert [j.name for j in joints] == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    for joint in joints:
        assert joint.node.inputs[joint.branch].path.endswith(("bn2", "norm2"))
        assert joint.start.sequence < joint.node.sequence
    old = models.lenet5(variant="1998")
    assert residual_joints(old(rng.random((1, 1, 32, 32), dtype=np.float32)).sum(), old) == []


def test_data_and_tables(rng):
    model, terms = googlenet_terms(rng)
    found = provenance(terms, model)
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(lines) == len(found.parts) == len(found.to_dict()["parts"])
    assert float(lines[0]["share"]) == found.parts[0].share
    assert "auxiliary 2" in str(found).splitlines()[2] and "<td>conv1.conv</td>" in found._repr_html_()


def test_the_plot_stacks_the_shares(rng):
    pytest.importorskip("matplotlib")
    model, terms = googlenet_terms(rng)
    found = provenance(terms, model)
    ax = found.plot()
    first = [bars[0].get_height() for bars in ax.containers]
    assert first == pytest.approx(list(found.of("conv1.conv", "weight").values()))
    heights = np.sum([[bar.get_height() for bar in bars] for bars in ax.containers], axis=0)
    np.testing.assert_allclose(heights[~np.isclose(heights, 0)], 1)
    tops = [max(bar.get_y() + bar.get_height() for bars in ax.containers for bar in [bars[i]]) for i in range(3)]
    assert all(top >= 1 - 1e-9 for top in tops)


def test_what_cannot_be(rng):
    model, loss = resnet20_loss(rng, shortcut=False)
    with pytest.raises(ValueError, match="by is 'layer', and must be 'loss', 'branches' or 'blocks'"):
        provenance(loss, model, by="layer")
    with pytest.raises(ValueError, match="no sum of a branch and a shortcut"):
        provenance(loss, model, by="branches")
    with pytest.raises(ValueError, match="there is no output of 'conv9'"):
        provenance(loss, model).of("conv9")
    with pytest.raises(RuntimeError, match="'loss' must be one number"):
        provenance(model(rng.normal(size=(2, 3, 16, 16))), model)
    loss.backward()
    with pytest.raises(RuntimeError, match="freed by a backward pass"):
        provenance(loss, model)
