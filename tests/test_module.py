"""`Module`, `Sequential`, and what the layers hold."""

import gc
import re
import tracemalloc
import weakref

import numpy as np
import pytest

from minicnn import Parameter, Tensor, engine, nn
from minicnn import functional as F
from minicnn.backend import to_host


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 5 * 5, 2))
        self.scale = Parameter(np.ones(1, np.float32))
        self.plain = 3

    def forward(self, x):
        return self.head(F.relu(self.bn1(self.conv1(x)))) * self.scale


NAMES = [
    "scale", "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
    "head.2.weight", "head.2.bias",
]  # fmt: skip


def images(n=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, 5, 5)).astype(np.float32)


def test_names_follow_the_attributes():
    block = Block()
    assert list(block.state_dict()) == NAMES
    assert [n for n, _ in block.named_modules()] == ["", "conv1", "bn1", "head", "head.0", "head.1", "head.2"]
    assert [n for n, _ in block.named_buffers()] == NAMES[4:7]
    assert sum(1 for _ in block.parameters()) == 6 and len(list(block.children())) == 3
    assert block.get_submodule("head.2").out_features == 2
    with pytest.raises(AttributeError, match="head.7"):
        block.get_submodule("head.7")


def test_a_shared_module_is_listed_once_and_stored_under_both_names():
    shared = nn.Linear(3, 3)
    both = nn.Sequential({"a": shared, "b": shared})
    assert len(list(both.parameters())) == 2
    assert list(both.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert [n for n, _ in both.named_modules(remove_duplicate=False)] == ["", "a", "b"]


def test_sequential_takes_numbers_dicts_and_pairs_and_can_be_cut():
    for given in ([{"x": nn.ReLU(), "y": nn.Tanh()}], [("x", nn.ReLU()), ("y", nn.Tanh())]):
        assert [n for n, _ in nn.Sequential(*given).named_children()] == ["x", "y"]
    three = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    assert len(three) == 3 and isinstance(three[-1], nn.Sigmoid) and len(three[:2]) == 2
    assert [n for n, _ in three.append(nn.ReLU()).named_children()] == ["0", "1", "2", "3"]


def test_assigning_moves_a_name_between_the_registries():
    block = Block()
    block.scale = None
    assert "scale" not in block.state_dict() and block.scale is None
    with pytest.raises(TypeError, match=r"conv1|weight is a parameter"):
        block.conv1.weight = Tensor([1.0])
    block.conv1 = nn.Identity()
    assert "conv1.weight" not in block.state_dict()
    block.bn1.running_mean = np.zeros(4)
    assert isinstance(block.bn1.running_mean, Tensor)
    del block.head
    assert not hasattr(block, "head")


def test_forgetting_super_init_is_explained():
    class Wrong(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Wrong()
    with pytest.raises(TypeError, match=r"defines no forward"):
        nn.Module()(1)


@pytest.mark.parametrize("name", ["", "a.b", "conv1"])
def test_names_that_cannot_be(name):
    with pytest.raises(ValueError, match="empty or hold a dot|already"):
        Block().add_module(name, nn.ReLU())


def test_state_goes_round_and_is_cast():
    a, b = Block(), Block()
    for p in a.parameters():
        p.data[...] = np.random.default_rng(1).normal(size=p.shape)
    wide = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in a.state_dict().items()}
    kept = b.conv1.weight
    b.load_state_dict(wide)
    assert b.conv1.weight is kept and kept.dtype == np.float32
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(to_host(b.state_dict()[name]), to_host(value))


def test_a_state_that_does_not_fit_is_reported_whole_and_nothing_is_written():
    block = Block()
    before = {n: v.copy() for n, v in block.state_dict().items()}
    state = {n: v + 1 for n, v in block.state_dict().items()}
    state["head.2.bias"] = np.zeros(7)
    state["more"] = np.zeros(1)
    del state["bn1.weight"]
    with pytest.raises(ValueError, match=r"bias has shape \(7,\).*\(2,\).*bn1.weight is missing.*more is unexp"):
        block.load_state_dict(state)
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(to_host(value), to_host(before[name]))
    del state["head.2.bias"]
    report = block.load_state_dict(state, strict=False)
    assert report.missing_keys == ["bn1.weight", "head.2.bias"] and report.unexpected_keys == ["more"]
    np.testing.assert_array_equal(block.scale.data, to_host(before["scale"]) + 1)


def test_in_a_dry_run_layers_take_no_memory_and_states_are_compared_only():
    tracemalloc.start()
    with engine.dry_run():
        model = nn.Sequential(nn.Conv2d(3000, 5000, 9), nn.BatchNorm2d(10**9), nn.Linear(10**6, 10**6))
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert [p.shape for p in model.parameters()][::2] == [(5000, 3000, 9, 9), (10**9,), (10**6, 10**6)]
    small = nn.Linear(2, 3)
    before = small.weight.data.copy()
    state = {"weight": np.ones((3, 2)), "bias": np.ones(3)}
    with engine.dry_run():
        assert small.load_state_dict(state) == ([], [])
        with pytest.raises(ValueError, match="bias has shape"):
            small.load_state_dict({**state, "bias": np.ones(4)})
    np.testing.assert_array_equal(small.weight.data, before)
    small.load_state_dict(state)
    np.testing.assert_array_equal(small.weight.data, 1)


@pytest.mark.host
def test_modes_dtypes_and_gradients():
    block = Block()
    assert not block.eval().head[1].training and block.train().bn1.training
    block(images()).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.to(dtype="float64")
    assert block.conv1.weight.dtype == block.conv1.weight.grad.dtype == block.bn1.running_var.dtype == np.float64
    assert block.bn1.num_batches_tracked.dtype == np.int64
    assert block.to("float32").scale.dtype == np.float32 and block.to("cpu") is block
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())
    block.requires_grad_(False)
    assert not block.eval()(images()).requires_grad
    with pytest.raises(TypeError, match="int32"):
        block.to(dtype="int32")


def test_hooks_see_and_may_replace_the_output_and_come_off():
    layer, seen = nn.ReLU(), []
    x = Tensor([-1.0, 2.0])
    with layer.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out.data.tolist()))):
        layer(x)
    layer(x)
    assert len(seen) == 1 and seen[0][0] is layer and seen[0][1] is x and seen[0][2] == [0, 2]
    handle = layer.register_forward_hook(lambda m, args, out: out * 10.0)
    assert layer(x).data.tolist() == [0, 20]
    handle.remove()
    handle.remove()
    assert layer(x).data.tolist() == [0, 2]


def test_errors_and_nodes_name_the_layer_by_its_path():
    net = nn.Sequential({"features": nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)), "top": nn.Linear(5, 2)})
    with pytest.raises(ValueError, match=re.escape("conv2d in features.1: input has 2 channels, weight (4, 3, 3, 3)")):
        net(np.ones((1, 2, 5, 5), np.float32))
    with pytest.raises(ValueError, match=r"linear in top: input has shape \(1, 4, 3, 3\), weight \(2, 5\)"):
        net(images(1))
    out = Block()(images())
    assert [s.path for s in engine.backward_steps(out.sum())][:3] == ["", "", "head.2"]


def test_a_block_called_past_its_container_still_has_its_path():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.ReLU())

        def forward(self, x):
            return self.stages[0][0](x)

    assert Past()(np.ones((1, 3), np.float32)).node.path == "stages.0.0"


def test_batch_norm_counts_batches_and_averages_them_all_without_momentum():
    layer = nn.BatchNorm2d(3, momentum=None)
    batches = [images(4, seed) for seed in range(5)]
    for batch in batches:
        layer(batch)
    assert layer.num_batches_tracked.item() == 5
    expected = np.mean([b.mean(axis=(0, 2, 3)) for b in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean.data, expected, rtol=1e-4, atol=1e-6)
    expected = np.mean([b.var(axis=(0, 2, 3), ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(layer.running_var.data, expected, rtol=1e-4)
    before = layer.running_mean.data.copy()
    layer.eval()(batches[0])
    with engine.dry_run():
        layer.train()(batches[0])
    assert layer.num_batches_tracked.item() == 5
    np.testing.assert_array_equal(layer.running_mean.data, before)


def test_weights_start_within_pytorchs_bound_and_from_the_seed():
    from minicnn import manual_seed

    manual_seed(3)
    a = nn.Conv2d(4, 8, 3, groups=2)
    manual_seed(3)
    b = nn.Conv2d(4, 8, 3, groups=2)
    np.testing.assert_array_equal(a.weight.data, b.weight.data)
    bound = 1 / np.sqrt(2 * 9)
    assert 0.9 * bound < np.abs(a.weight.data).max() <= bound and a.weight.dtype == np.float32
    assert np.abs(a.bias.data).max() <= bound


def test_a_network_dies_with_its_last_reference_and_not_only_at_the_next_collection():
    gc.collect()
    gc.disable()
    try:
        block = Block()
        out = block(images())
        alive = weakref.ref(block)
        del block, out
        assert alive() is None
    finally:
        gc.enable()


def test_repr_shows_the_tree():
    text = repr(Block())
    assert "(conv1): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)" in text
    assert "    (2): Linear(100, 2)" in text
