"""`nn.through`: what a convolution's kernel does of the layers behind it gives the bits that the layers give."""

from __future__ import annotations

import re
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Tensor, engine, inspect, models, nn, no_grad, threads, use_kernels
from minicnn import functional as F
from minicnn.engine import backward_steps
from minicnn.inspect.storage import scratch
from minicnn.inspect.trace import trace
from minicnn.kernels.fast import conv, epilogue, im2col, layout, winograd
from minicnn.kernels.fast.by_rows import ByRows
from minicnn.kernels.fast.epilogue import Offer
from minicnn.kernels.fast.phased import Phased

pytestmark = pytest.mark.host

RNG = np.random.default_rng


def one_by_one(x, *steps):
    for step in steps:
        x = step(x)
    return x


def normed(channels, seed, dtype="float32", **options):
    """Batch norm in evaluation, as after training."""
    norm, rng = nn.BatchNorm2d(channels, **options).eval(), RNG(seed)
    for name, tensor in norm._buffers.items():
        if tensor is not None and name != "num_batches_tracked":
            tensor.data[...] = rng.normal(size=channels) if name == "running_mean" else rng.uniform(0.5, 2, channels)
    for tensor in norm.parameters():
        tensor.data[...] = rng.normal(size=channels)
    return norm.to(dtype)


def images(*shape, seed=0, dtype="float32"):
    return Tensor(RNG(seed).normal(size=shape).astype(dtype))


@pytest.fixture
def taken(monkeypatch):
    """How many layers the kernel of each convolution did."""
    counts, take = [], Offer.take

    def counting(self, shape, dtype):
        take(self, shape, dtype)
        counts.append(len(self.taken))

    monkeypatch.setattr(Offer, "take", counting)
    return counts


def same_bits(a, b):
    """The same numbers, which lie in memory alike, as sums over them depend on that."""
    assert a.shape == b.shape and a.dtype == b.dtype
    if a.size:
        assert [strides for strides, n in zip(a.data.strides, a.shape, strict=True) if n > 1] == [
            strides for strides, n in zip(b.data.strides, b.shape, strict=True) if n > 1
        ]
    np.testing.assert_array_equal(a.data, b.data)  # NaN where NaN is
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(a.data), np.signbit(b.data))


# --------------------------------------------------------------------------------------------------- the numbers


@st.composite
def chains(draw):
    """A convolution, its input, and some of what may follow."""
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    channels, filters = (groups * draw(st.integers(1, 12)) for _ in range(2))
    kernel, stride = draw(
        st.sampled_from([((3, 3), 1), ((3, 3), 1), ((5, 5), 1), ((1, 1), 1), ((3, 3), 2), ((2, 3), 1)])
    )
    padding, dilation = draw(st.integers(0, 2)), draw(st.sampled_from([1, 1, 2]))
    n, high, wide = draw(st.sampled_from([0, 1, 2, 3, 17])), draw(st.integers(9, 70)), draw(st.integers(9, 70))
    dtype, seed = draw(st.sampled_from(["float32", "float32", "float64"])), draw(st.integers(0, 1000))
    bias, affine = draw(st.booleans()), draw(st.booleans())
    layer = nn.Conv2d(channels, filters, kernel, stride, padding, dilation, groups, bias).to(dtype)
    x = images(n, channels, high, wide, seed=seed, dtype=dtype)
    out = layer(x).shape
    steps = {
        "norm": normed(filters, seed, dtype, affine=affine),
        "plus": nn.Plus(nn.Identity(), images(*out, seed=seed + 1, dtype=dtype)),
        "nothing": nn.Plus(None, x),
        "relu": nn.ReLU(),
        "tanh": nn.Tanh(),
    }
    return layer, x, [steps[name] for name in draw(st.lists(st.sampled_from(list(steps)), min_size=1, max_size=5))]


@given(chains(), st.sampled_from([None, "im2col", "winograd"]), st.booleans(), st.integers(1, 2))
def test_every_bit_is_that_of_the_layers(chain, algorithm, turned, workers):
    layer, x, steps = chain
    if turned:
        given, x = x, Tensor(layout.empty_maps(x.shape, x.dtype, images_last=True))
        x.data[...] = given.data
    with pytest.MonkeyPatch.context() as patch, no_grad(), use_kernels("fast", convolution=algorithm):
        patch.setattr(threads, "_requested", workers)
        offers, take = [], Offer.take
        patch.setattr(Offer, "take", lambda self, *kind: (take(self, *kind), offers.append(self)))
        expected = one_by_one(x, layer, *steps)
        same_bits(nn.through(x, layer, *steps), expected)
    assert [len(offer.taken) for offer in offers] == [len(steps)]


CUTS = {  # which algorithm, how it cuts its work, and a convolution of that kind with its images
    "a product for each image": (im2col.Im2col, (8, 64, 56, 56), (64, 64, 1, 1), {}),
    "strips": (im2col.Im2col, (4, 32, 64, 64), (32, 32, 3, 3), {"padding": (1, 1)}),
    "images together": (im2col.Im2col, (16, 64, 7, 7), (160, 64, 1, 1), {}),
    "shared blocks": (im2col.Im2col, (2, 512, 7, 7), (2048, 512, 1, 1), {}),
    "images last": (ByRows, (64, 1, 28, 28), (6, 1, 5, 5), {"padding": (2, 2)}),
    "groups": (im2col.Im2col, (4, 48, 27, 27), (64, 24, 5, 5), {"padding": (2, 2), "groups": 2}),
    "rows": (Phased, (2, 3, 224, 224), (64, 3, 7, 7), {"stride": (2, 2), "padding": (3, 3)}),
    "phases": (Phased, (8, 64, 56, 56), (96, 64, 3, 3), {"stride": (2, 2), "padding": (1, 1)}),
    "tiles": (winograd.Winograd, (4, 64, 56, 56), (64, 64, 3, 3), {"padding": (1, 1)}),
    "tiles in parts": (winograd.Winograd, (4, 64, 56, 56), (128, 64, 3, 3), {"padding": (1, 1)}),
    "tiles that stick out": (winograd.Winograd, (4, 64, 29, 31), (64, 64, 3, 3), {}),
    "shared tiles": (winograd.Winograd, (2, 256, 14, 14), (256, 256, 3, 3), {"padding": (1, 1)}),
    "tiles of groups": (winograd.Winograd, (4, 64, 13, 13), (96, 32, 5, 5), {"padding": (2, 2), "groups": 2}),
}
USUAL = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_however_the_work_is_cut(cut, bias, workers, monkeypatch, taken):
    monkeypatch.setattr(threads, "_requested", workers)
    kind, shape, weight, params = CUTS[cut]
    params = {**USUAL, **params}
    able = conv.algorithms(shape, weight, np.dtype("float32"), **params)
    name = "winograd" if kind is winograd.Winograd else "im2col"
    assert type(able[name]) is kind
    layer = nn.Conv2d(shape[1], weight[0], weight[2:], bias=bias, **params)
    x = images(*shape)
    with no_grad(), use_kernels("fast", convolution=name):
        shortcut = images(*layer(x).shape, seed=1)
        steps = normed(weight[0], 2), nn.Tanh(), nn.Plus(nn.Identity(), shortcut), nn.ReLU()
        same_bits(nn.through(x, layer, *steps), one_by_one(x, layer, *steps))
    assert taken == [4]


def test_numbers_that_are_none_pass_as_they_do_through_the_layers():
    x = images(2, 3, 12, 12)
    x.data[0, 0, 0, 0], x.data[0, 1, 5, 5], x.data[1, 2, 9, 9] = np.nan, np.inf, -np.inf
    layer, steps = nn.Conv2d(3, 4, 1), (normed(4, 0), nn.ReLU())
    with no_grad(), np.errstate(all="ignore"):
        made = nn.through(x, layer, *steps)
        same_bits(made, one_by_one(x, layer, *steps))
    assert np.isnan(made.data).any() and np.isinf(made.data).any()


RESIDUAL = [(name, {"shortcut": way}) for name in ("resnet18", "resnet50", "resnet20") for way in ("A", "B", False)]


@pytest.mark.parametrize(("name", "options"), [("vgg11_bn", {}), ("googlenet", {}), ("alexnet", {}), *RESIDUAL])
def test_networks(name, options, taken):
    """Each gives in inference the scores that it gives where a gradient is recorded."""
    side = {"resnet20": 32, "alexnet": 99}.get(name, 64)
    model = getattr(models, name)(**options, width=0.25, input_size=side).eval()
    for i, norm in enumerate(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.load_state_dict(normed(norm.num_features, i).state_dict())
    x = images(3, 3, side, side)
    expected = model(x)
    assert not taken
    with no_grad():
        same_bits(model(x), expected)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    resting = 2 if name == "googlenet" else 0  # those of its auxiliary heads
    assert len(taken) == len(convolutions) - resting and min(taken) >= 1


# --------------------------------------------------------------------------------- where layers are called themselves


class Counting(nn.ReLU):
    """A layer of the user's own."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, input):
        self.calls += 1
        return super().forward(input)


def test_a_layer_of_ones_own_is_called(taken):
    layer, own = nn.Conv2d(3, 4, 3), Counting()
    with no_grad():
        nn.through(images(2, 3, 8, 8), layer, normed(4, 0), own, nn.ReLU())
    assert own.calls == 1 and taken == [1]


def test_a_layer_derived_without_a_forward_of_its_own_is_done_by_the_kernel(taken):
    class Named(nn.ReLU):
        pass

    with no_grad():
        nn.through(images(2, 3, 8, 8), nn.Conv2d(3, 4, 3), Named())
    assert taken == [1]


def test_a_forward_that_somebody_put_in_is_called(monkeypatch, taken):
    x, layer, relu = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3), nn.ReLU()
    relu.forward = lambda input: input * 2
    with no_grad():
        same_bits(nn.through(x, layer, relu), layer(x) * 2)
        first, second = normed(4, 0), normed(4, 1)
        first.forward = second.forward
        same_bits(nn.through(x, layer, first), second(layer(x)))
        monkeypatch.setattr(nn.ReLU, "forward", lambda self, input: input * 3)
        same_bits(nn.through(x, layer, nn.ReLU()), layer(x) * 3)
    assert not sum(taken)


def test_a_call_of_its_own_is_made(monkeypatch, taken):
    class Doubled(nn.ReLU):
        def __call__(self, *args):
            return super().__call__(*args) * 2

    x, layer = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    called, call = [], nn.Module.__call__
    with no_grad():
        same_bits(nn.through(x, layer, Doubled()), layer(x).clamp(0) * 2)
        monkeypatch.setattr(nn.Module, "__call__", lambda self, *args: (called.append(self), call(self, *args))[1])
        nn.through(x, layer, nn.ReLU())
    assert len(called) == 2 and not sum(taken)


@pytest.mark.parametrize("which", range(3))
def test_a_hook_sees_its_layer(which, taken):
    steps = nn.Conv2d(3, 4, 3), normed(4, 0), nn.ReLU()
    seen = []
    x = images(2, 3, 8, 8)
    with no_grad():
        expected = one_by_one(x, *steps)
        outputs = [one_by_one(x, *steps[: i + 1]) for i in range(3)]
        with steps[which].register_forward_hook(lambda module, args, output: seen.append(output)):
            same_bits(nn.through(x, *steps), expected)
    assert len(seen) == 1
    same_bits(seen[0], outputs[which])
    assert sum(taken) == (0, 0, 1)[which]


def test_observers_see_every_operation(taken):
    """And its output, not what the next layer makes of it."""
    steps = nn.Conv2d(3, 4, 3), normed(4, 0), nn.ReLU()
    x = images(2, 3, 8, 8)
    seen = []

    class Observer:
        def forward(self, node, output):
            seen.append((node.op.name, output.copy()))

    with no_grad():
        outputs = [one_by_one(x, *steps[: i + 1]) for i in range(3)]
        with engine.observe(Observer()):
            nn.through(x, *steps)
    assert [name for name, _ in seen] == ["conv2d", "batch_norm_eval", "relu"]
    for (_, output), expected in zip(seen, outputs, strict=True):
        same_bits(Tensor(output), expected)


def test_where_a_gradient_is_recorded_all_layers_are_nodes(taken):
    steps = nn.Conv2d(3, 4, 3), normed(4, 0), nn.ReLU()
    x = images(2, 3, 8, 8)
    made = nn.through(x, *steps)
    names = [step.op.name for step in backward_steps(made.sum())]
    assert names == ["sum", "relu", "batch_norm_eval", "conv2d"] and not taken


@pytest.mark.parametrize("kernels", ["naive", "im2col"])
def test_other_kernels_know_no_epilogue(kernels, taken):
    steps = nn.Conv2d(3, 4, 3), normed(4, 0), nn.ReLU()
    x = images(2, 3, 8, 8)
    with no_grad(), use_kernels(kernels):
        same_bits(nn.through(x, *steps), one_by_one(x, *steps))
    assert not taken


def test_complex_numbers_take_the_layers(taken):
    """A complex-step check passes through here."""
    layer = nn.Conv2d(3, 4, 3).to("complex128")
    x = images(2, 3, 8, 8, dtype="complex128")
    steps = normed(4, 0, "complex128"), nn.Plus(lambda y: y, images(2, 4, 6, 6, dtype="complex128"))
    with no_grad():
        same_bits(nn.through(x, layer, *steps), one_by_one(x, layer, *steps))
    assert not taken


def test_batch_norm_in_training_takes_the_batch(taken):
    x, layer, norm = images(4, 3, 8, 8), nn.Conv2d(3, 4, 3), normed(4, 0)
    fixed = nn.BatchNorm2d(4, track_running_stats=False).eval()
    with no_grad():
        same_bits(nn.through(x, layer, fixed, nn.ReLU()), one_by_one(x, layer, fixed, nn.ReLU()))
        fixed.running_mean, fixed.running_var = Tensor(np.ones(4, np.float32)), Tensor(np.ones(4, np.float32))
        same_bits(nn.through(x, layer, fixed, nn.ReLU()), one_by_one(x, layer, fixed, nn.ReLU()))
        before = norm.running_mean.data.copy()
        nn.through(x, layer, norm.train(), nn.ReLU())
    assert (norm.running_mean.data != before).all() and norm.num_batches_tracked.item() == 1
    assert not sum(taken)


@pytest.mark.parametrize("affine", [False, True])
def test_a_mean_far_from_zero_keeps_its_digits(affine, taken):
    """There the mean is taken off first, as x·γ/std + (β − mean·γ/std) would be a difference of large numbers."""
    x, layer, norm = images(4, 3, 8, 8), nn.Conv2d(3, 4, 1), normed(4, 0, affine=affine)
    layer.bias.data[...] = norm.running_mean.data[...] = 1e4
    with no_grad():
        made = nn.through(x, layer, norm, nn.ReLU())
        same_bits(made, one_by_one(x, layer, norm, nn.ReLU()))
        exact = norm.to("float64")(layer(x).to(dtype="float64")).data.clip(0)
    assert taken == [2]
    np.testing.assert_allclose(made.data, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 4, 6, 6), "float32"), ((4, 1, 1), "float32"), ((2, 4, 6, 6), "float64")]
)
def test_a_shortcut_of_another_kind_is_broadcast_or_promoted(shape, dtype, taken):
    x, layer = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    steps = normed(4, 0), nn.Plus(nn.Identity(), images(*shape, dtype=dtype)), nn.ReLU()
    with no_grad():
        same_bits(nn.through(x, layer, *steps), one_by_one(x, layer, *steps))
    assert taken == [1]  # batch norm alone


def test_a_shortcut_that_lies_otherwise_in_memory(taken):
    """The sum lies as the convolution's output; pooling behind it adds up numbers in that order."""
    layer, norm, shortcut = nn.Conv2d(3, 8, 3, padding=1), normed(8, 0), nn.Conv2d(3, 8, 1)
    x = images(16, 3, 32, 32)
    with no_grad():
        assert layout.lie_last(layer(x).data) and not layout.lie_last(shortcut(x).data)
        steps = layer, norm, nn.Plus(shortcut, x), nn.ReLU()
        same_bits(nn.AvgPool2d(3)(nn.through(x, *steps)), nn.AvgPool2d(3)(one_by_one(x, *steps)))
    assert taken == [3]


@pytest.mark.parametrize(
    "norm", [lambda: normed(3, 0), lambda: normed(4, 0, "float64"), lambda: normed(4, 0, eps=-1e-5)]
)
def test_batch_norm_that_does_not_fit_says_so_itself(norm, taken):
    x, layer, norm = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3), norm()
    with no_grad():
        with pytest.raises((ValueError, TypeError), match="batch_norm") as expected:
            one_by_one(x, layer, norm)
        with pytest.raises(expected.type) as error:
            nn.through(x, layer, norm)
    assert str(error.value) == str(expected.value) and taken == [0]


def test_arrays_of_a_device_do_not_fit():
    class OnDevice:
        shape, dtype = (4,), np.dtype("float32")

    assert epilogue.addition(OnDevice())(OnDevice.shape, OnDevice.dtype) is None
    assert epilogue.batch_norm([OnDevice()] * 4, 1e-5)((2, 4, 6, 6), OnDevice.dtype) is None


def test_an_image_without_a_batch(taken):
    x, layer = images(3, 8, 8), nn.Conv2d(3, 4, 3)
    with no_grad():
        same_bits(nn.through(x, layer, nn.ReLU()), one_by_one(x, layer, nn.ReLU()))
        with pytest.raises(ValueError, match=r"must be \(N, C, H, W\)"):
            nn.through(x, layer, normed(4, 0))
        nodes = trace(nn.Sequential(layer, nn.ReLU()), (3, 8, 8)).nodes
    assert not taken and not any(node.in_place for node in nodes)


@pytest.mark.parametrize("given", [[[[[1.0, 2.0], [-3.0, 4.0]]]], None, [[1.0], [2.0]]])
def test_what_is_no_tensor_gives_what_the_convolution_gives(given):
    layer = nn.Conv2d(1, 2, 2)
    with no_grad():
        try:
            expected = F.relu(nn.Sequential(layer)(given))
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error), match=re.escape(str(error))):
                nn.Sequential(layer, nn.ReLU())(given)
        else:
            same_bits(nn.Sequential(layer, nn.ReLU())(given), expected)


@pytest.mark.parametrize("other", [1.5, 2, np.float32(3)])
def test_a_way_past_that_gives_a_number(other):
    x, layer = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    with no_grad():
        same_bits(nn.through(x, layer, nn.Plus(lambda t: other, x), nn.ReLU()), F.relu(layer(x) + other))


def test_batch_norm_without_its_statistics_says_so():
    x, layer, norm = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3), normed(4, 0)
    norm.running_mean = None
    with no_grad(), pytest.raises(ValueError, match="running_mean is missing"):
        nn.through(x, layer, norm)


def test_a_convolution_within_the_convolution_takes_nothing(taken):
    """As where a weight is made by another convolution, each time."""

    class Smooth(nn.Conv2d):
        kernels, weight = None, property(lambda self: F.conv2d(self.kernels, self.by, padding=1))

        def __init__(self, by):
            super().__init__(1, 1, 3)
            del self._parameters["weight"]
            self.kernels, self.by = images(1, 1, 3, 3), by

    x, layer = images(2, 1, 8, 8), Smooth(images(1, 1, 3, 3, seed=1))
    with no_grad():
        same_bits(nn.through(x, layer, nn.ReLU()), F.relu(layer(x)))
    assert taken == [1]


def test_any_callables_and_values(taken):
    """As `Sequential` passes on what is no tensor, too."""
    with no_grad(), engine.observe(object()):
        assert len(nn.through(images(2, 3, 8, 8), nn.Conv2d(3, 4, 3), lambda y: (y, y), len, lambda n: [n])) == 1
    with no_grad():
        assert nn.through([3, 1, 2], sorted, tuple) == (1, 2, 3)
        x, layer = images(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
        made = nn.through(x, layer, F.relu, nn.MaxPool2d(2), lambda y: (y, y))
    assert len(made) == 2 and not taken
    assert nn.through(x) is x


def test_an_epilogue_is_offered_to_its_convolution_alone(taken):
    """Not to one that runs inside another layer, or later."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    x, twice, layer = images(2, 3, 8, 8), Twice(), nn.Conv2d(3, 4, 3)
    with no_grad():
        same_bits(nn.through(x, twice, nn.ReLU()), F.relu(twice(x)))
        nn.through(x, layer, nn.ReLU())
        assert (layer(x).data < 0).any()
    assert taken == [1]


# -------------------------------------------------------------------------------------------------------- `Plus`


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("recording", [False, True])
def test_the_way_past_is_taken_once(recording, observed):
    x, layer, shortcut = images(2, 4, 8, 8), nn.Conv2d(4, 4, 1), Counting()
    with engine.observe(object()) if observed else no_grad(), engine._set(engine.recording, recording):
        made = nn.through(x, layer, nn.Plus(shortcut, x), nn.ReLU())
    assert shortcut.calls == 1
    same_bits(made, F.relu(layer(x) + F.relu(x)))


def test_a_way_past_can_be_taken_again():
    """With a gradient the second time, though there was none the first."""
    x, layer, shortcut = images(2, 4, 8, 8), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    plus = nn.Plus(shortcut, x)
    with no_grad():
        before = nn.through(x, layer, plus)
        shortcut.weight.data[...] *= 2
        after = nn.through(x, layer, plus)
    assert (before.data != after.data).any()
    nn.through(x, layer, plus).sum().backward()
    assert shortcut.weight.grad is not None


@pytest.mark.parametrize("observed", [False, True])
def test_the_maps_that_were_added_go(observed):
    """And are not kept to the end of all steps."""
    x, layer = images(2, 4, 8, 8), nn.Conv2d(4, 4, 1)
    kept = []

    def past(input):
        maps = input * 2
        kept.append(weakref.ref(maps.data))
        return maps

    def look(input):
        assert kept[0]() is None
        return input

    with no_grad(), engine.observe(object()) if observed else nullcontext():
        nn.through(x, layer, nn.Plus(past, x), look)
    assert len(kept) == 1


def test_a_recorded_sum_comes_where_it_stands():
    """In the order of the network: the shortcut after the layers that it passes."""
    x = images(2, 4, 8, 8)
    made = nn.through(x, nn.Conv2d(4, 4, 1), nn.Plus(nn.Conv2d(4, 4, 1), x))
    kinds = sorted((step.node.sequence, step.op.name) for step in backward_steps(made.sum()))
    assert [name for _, name in kinds] == ["conv2d", "conv2d", "add", "sum"]
    one, other = (step.node for step in backward_steps(made.sum()) if step.op.name == "conv2d")
    assert one.sequence > other.sequence
    assert nn.Plus(None, x)(made) is made


# ---------------------------------------------------------------------------------------------------- the ledger


def test_a_trace_tells_what_inference_does_in_place():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()
    with no_grad():
        nodes = trace(block, (2, 3, 8, 8)).nodes
    assert [(node.op.name, node.in_place) for node in nodes] == [
        ("conv2d", False), ("batch_norm_eval", True), ("relu", True), ("max_pool2d", False),
    ]  # fmt: skip
    assert not any(node.in_place for node in trace(block, (2, 3, 8, 8)).nodes)


def test_batch_norm_asks_for_no_scratch_arrays_where_a_convolution_does_it():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with no_grad():
        nodes = [*trace(block, (8, 3, 9, 9)).nodes, *trace(block[1], (8, 4, 9, 9)).nodes]
    done, itself = (scratch(node, backward=False) for node in nodes if node.op.name == "batch_norm_eval")
    assert done == ({}, 0) and itself[0]


def test_the_ledger_counts_one_array_for_a_convolution_and_what_follows():
    channels, side = 64, 64  # large enough that nothing is copied
    block = nn.Sequential(nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()).eval()
    apart = nn.Sequential(*block[:1], nn.Sequential(*block[1:]))
    a, b = (inspect.memory(model, (4, channels, side, side), training=False) for model in (block, apart))
    maps = 4 * 4 * channels * side * side
    assert a.parts["input"] == maps and maps <= a.parts["workspace"] < 1.5 * maps
    assert 3 * maps <= b.parts["workspace"] < 3.5 * maps  # who calls the inner layers holds what they are given
