"""Argument forms and corner cases that PyTorch's own samples leave out, compared with PyTorch."""

import itertools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minicnn
from minicnn import Tensor
from minicnn import functional as F
from minicnn.kernels.pool import output_size

from .oracle import DTYPES, compare, cotangent, torch

INF, NAN = float("inf"), float("nan")
TF = torch.nn.functional

dtypes = pytest.mark.parametrize("dtype", DTYPES)


class Maker:
    """Random tensors of one dtype that want a gradient: ``new(2, 3)``; given ones: ``new.of([1.0, NAN])``."""

    def __init__(self, dtype: str):
        self.dtype, self._seeds = DTYPES[dtype], itertools.count()

    def __call__(self, *shape: int, grad: bool = True, positive: bool = False) -> Any:
        x = np.asarray(np.random.default_rng(next(self._seeds)).standard_normal(shape))
        return self.of(abs(x) + 0.1 if positive else x, grad)

    def of(self, values: Any, grad: bool = True) -> Any:
        return torch.as_tensor(values).to(self.dtype).requires_grad_(grad)


@pytest.fixture
def new(dtype: str) -> Maker:
    return Maker(dtype)


def check(name: str, *args: Any, floor: float = 0.0, **kwargs: Any) -> None:
    """The function of that name, with tensors that want no gradient as tensors and as plain arrays."""
    for plain in (False, True):
        what = f"{name}{[tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in args]}{kwargs}"
        compare(getattr(F, name), getattr(TF, name), *args, plain=plain, floor=floor, what=what, **kwargs)


def check_method(name: str, *args: Any, **kwargs: Any) -> None:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    what = f"{name}{[tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in args]}{kwargs}"
    compare(call, call, *args, what=what, **kwargs)


def check_operator(function: Callable[..., Any], *args: Any) -> None:
    compare(function, function, *args, what=f"{function} of {args}")


# ---------------------------------------------------------------------------------------------- convolution


@dtypes
def test_conv2d(new: Maker):
    check("conv2d", new(3, 7, 6), new(4, 3, 3, 2), new(4))  # one image
    check("conv2d", new(2, 6, 9, 8), new(4, 3, 3, 2), new(4), groups=2, dilation=(2, 3), padding=(1, 2), stride=(2, 1))
    check("conv2d", new(2, 8, 4, 4), new(16, 1, 3, 3), new(16), 2, 1, 1, 8)  # depthwise, two filters a channel
    check("conv2d", new(2, 3, 5, 5), new(4, 3, 1, 1), None, (2,), (1,), (1,))
    check("conv2d", new(1, 1, 1, 1), new(1, 1, 3, 3), None, 1, 1)
    check("conv2d", new(2, 3, 6, 6), new(4, 3, 2, 2), None, 4)  # windows that leave gaps
    check("conv2d", new(0, 3, 7, 6), new(4, 3, 2, 2), new(4))  # no images
    check("conv2d", new(0, 4, 7, 6), new(4, 2, 2, 2), new(4), groups=2, padding=1)
    strided = new(2, 3, 5, 6).detach().transpose(2, 3).requires_grad_()
    check("conv2d", strided, new(4, 3, 3, 2).detach().transpose(2, 3).requires_grad_(), None)
    check("conv2d", new(2, 3, 5, 5, grad=False), new(4, 3, 3, 3), new(4, grad=False))


@dtypes
@pytest.mark.parametrize("size", [(3, 3), (2, 4), (1, 2), (4, 3)])
def test_conv2d_named_padding(new: Maker, size: tuple[int, int]):
    for dilation in (1, 2, (3, 1)):
        check("conv2d", new(2, 4, 10, 9), new(6, 2, *size), new(6), padding="same", dilation=dilation, groups=2)
    check("conv2d", new(2, 3, 7, 6), new(4, 3, *size), new(4), padding="valid", stride=2)
    check("conv2d", new(3, 7, 6), new(4, 3, *size), padding="same")


# -------------------------------------------------------------------------------------------------- pooling


def sees_the_image(image: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> bool:
    """Whether every window has an entry of the image. PyTorch writes out of bounds where one has none."""

    def two(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else value

    stride = size if stride is None else stride
    for n, k, s, p, d in zip(image, *map(two, (size, stride, padding, dilation)), strict=True):
        for i in range(output_size(n, k, s, p, d, ceil_mode)):
            if not any(0 <= i * s - p + j * d < n for j in range(k)):
                return False
    return True


def geometries(images: Any, dilations: Any) -> list[Any]:
    sizes, strides, paddings = (1, 2, 3, (3, 2)), (None, 1, 2, (2, 3), 4), (0, 1, (1, 0))
    drawn = itertools.product(images, sizes, strides, paddings, dilations, (False, True))
    return [g for g in drawn if sees_the_image(*g)]


def refused(function: Callable[[], Any]) -> bool:
    try:
        function()
    except (RuntimeError, ValueError):
        return True
    return False


def test_max_pool2d_geometry():
    new, count = Maker("float64"), 0
    for image, size, stride, padding, dilation, ceil_mode in geometries([(5, 6), (4, 9), (3, 3)], [1, 2, (2, 1)]):
        x, args = new(2, 2, *image), (size, stride, padding, dilation, ceil_mode)
        if refused(lambda x=x, args=args: TF.max_pool2d(x, *args)):
            assert refused(lambda x=x, args=args: F.max_pool2d(x.detach().numpy(), *args)), (image, args)
            continue
        check("max_pool2d", x, *args)
        count += 1
    assert count > 500


@pytest.mark.parametrize("rule", [(True, None), (False, None), (True, 3), (False, -2)])
def test_avg_pool2d_geometry(rule: tuple[bool, int | None]):
    new, count = Maker("float64"), 0
    for image, size, stride, padding, _, ceil_mode in geometries([(5, 6), (4, 9), (3, 3), (10, 8)], [1]):
        x, args = new(2, 2, *image), (size, stride, padding, ceil_mode, *rule)
        if refused(lambda x=x, args=args: TF.avg_pool2d(x, *args)):
            assert refused(lambda x=x, args=args: F.avg_pool2d(x.detach().numpy(), *args)), (image, args)
            continue
        check("avg_pool2d", x, *args)
        count += 1
    assert count > 250


@dtypes
def test_pool_argument_forms(new: Maker):
    for name in ("max_pool2d", "avg_pool2d"):
        for shape in ((0, 3, 4, 4), (3, 4, 4), (2, 1, 4, 4)):
            check(name, new(*shape), 2)
            check(name, new(*shape), [2, 3], [1])
            check(name, new(*shape), (3,), (), (1,))
            check(name, new(*shape), 3, None, 1)


@dtypes
def test_max_pool2d_ties_and_infinities(new: Maker):
    """Of equal entries the first gets the gradient, but never the padding, even where all is −∞."""
    ties = new.of([[[[1.0, 1, 2, 2], [1, 1, 2, 2], [0, 0, 0, 0], [0, 3, 3, 0]]]])
    for args in ((2,), (3, 1, 1), (2, 1)):
        check("max_pool2d", ties, *args)
        check("max_pool2d", new.of(np.full((1, 2, 4, 4), -INF)), *args)
        check("max_pool2d", new.of([[[[NAN, 1, 2, 3], [3, 0, 1, 1], [0, 1, 2, 5], [0, 3, 3, NAN]]]]), *args)
    check("max_pool2d", new.of(np.full((1, 2, 5, 4), -INF)), 3, 2, 1, ceil_mode=True)
    check("max_pool2d", new.of(np.where(np.eye(6) > 0, 1.0, -INF)[None, None]), 3, 2, 1, dilation=2)


@dtypes
def test_adaptive_avg_pool2d(new: Maker):
    for size in (1, 2, 3, 7, (None, 3), (7, 1), (None, None), [2, 3], (5, None)):
        for shape in ((2, 3, 5, 6), (3, 4, 4), (0, 2, 3, 3), (1, 1, 1, 1)):
            check("adaptive_avg_pool2d", new(*shape), size)
    check("adaptive_avg_pool2d", new(2, 3, 4, 4, grad=False), (0, 2))  # PyTorch has no backward for it


# --------------------------------------------------------------------------------------------- normalisation


@dtypes
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2), (1, 3, 2), (0, 3, 2, 2)])
def test_batch_norm(new: Maker, shape: tuple[int, ...]):
    def statistics() -> tuple[Any, Any]:
        return new(3, grad=False), new(3, grad=False, positive=True)

    for training, (weight, bias) in itertools.product((True, False), itertools.product((new(3), None), repeat=2)):
        check("batch_norm", new(*shape), *statistics(), weight, bias, training, 0.3, 1e-3, floor=1.0)
        check("batch_norm", new(*shape, grad=False), *statistics(), weight, bias, training, floor=1.0)
        if training:
            check("batch_norm", new(*shape), None, None, weight, bias, True, floor=1.0)
    check("batch_norm", new.of(np.ones(shape)), *statistics(), new(3), new(3), True, floor=1.0)  # a variance of 0


@dtypes
@pytest.mark.parametrize("size", range(1, 9))
def test_local_response_norm(new: Maker, size: int):
    for shape in ((2, 5, 3), (2, 5, 2, 3), (1, 4, 2, 2, 2), (2, 1, 3)):
        check("local_response_norm", new(*shape), size, 0.5, 0.75, 2.0)
        check("local_response_norm", new(*shape), size, beta=0.5, alpha=1.0)


# ---------------------------------------------------------------------------------------------- activations


@dtypes
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "silu", "softplus", "sigmoid", "tanh"])
def test_activations_from_end_to_end(new: Maker, name: str):
    finite = [-1e4, -100.0, -30, -1, -0.0, 0.0, 1e-30, 1, 20, 30, 100, 1e4]
    check(name, new.of(finite))
    check(name, new.of([-INF, *finite, INF]))
    check(name, new.of(0.5))
    check(name, new(0, 3))
    check(name, new(3, 4).detach().T.requires_grad_())
    if name in ("leaky_relu", "elu"):
        for slope in (0.3, 0.0, 2.0):
            check(name, new.of(finite), slope)
    if name == "softplus":
        for args in ((2.0, 5.0), (0.5, 20), (-1.0, 20)):
            check(name, new.of(finite), *args)


@dtypes
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(new: Maker, name: str):
    for dim in (0, 1, -1, -2, 2):
        check(name, new(3, 4, 2), dim)
    for shape, dim in (((), 0), ((), -1), ((5,), 0), ((0, 3), 0), ((0, 3), 1), ((3, 0), 0), ((3, 0), 1)):
        check(name, new(*shape), dim)
    for values in ([[-INF, 0, 1], [2, -INF, -INF]], [[-INF, -INF], [2, -INF]], [[1e4, -1e4, 0]], [[INF, 1, 0]]):
        check(name, new.of(values), 1)
    for shape in ((), (3,), (2, 3), (2, 3, 2), (2, 3, 2, 2)):
        check(name, new(*shape))  # no dim: PyTorch's old rule
    for dtype in DTYPES.values():
        check(name, new(2, 3), 1, dtype=dtype)


# --------------------------------------------------------------------------------------------------- losses


@dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", ["no weights", "weights", "some 0", "all 0"])
def test_cross_entropy(new: Maker, reduction: str, weighted: str):
    weights = {"no weights": None, "weights": [0.5, 2.0, 1.25], "some 0": [0.0, 1.0, 0.0], "all 0": [0.0, 0.0, 0.0]}
    w = weights[weighted] and new.of(weights[weighted], grad=False)
    some, none = torch.tensor([0, 2, -100, 1]), torch.full((4,), -100)
    holes = new.of([[0.0, -INF, 1.0], [2.0, 3.0, -INF]])
    check("cross_entropy", new(3, 3), torch.tensor([2, 0, 1], dtype=torch.uint8), w, reduction=reduction)
    for smoothing in (0.0, 0.1, 1.0):
        k = {"reduction": reduction, "label_smoothing": smoothing}
        for target in (some, none, torch.tensor([1, 1, 1, 1])):
            check("cross_entropy", new(4, 3), target, w, **k)
        check("cross_entropy", new(4, 3), some.abs() % 3, w, ignore_index=2, **k)
        check("cross_entropy", new.of(200 * cotangent((4, 3), float)), some, w, **k)
        for target in (torch.tensor(1), torch.tensor(-100), new(3), new(3, grad=False)):
            check("cross_entropy", new(3), target, w, **k)  # one item
        check("cross_entropy", new(2, 3, 2, 2), torch.tensor([[[0, 1], [2, -100]], [[1, 1], [-100, 0]]]), w, **k)
        check("cross_entropy", new(2, 3, 2, 4), new(2, 3, 2, 4), w, **k)
        check("cross_entropy", new(4, 3, grad=False), new(4, 3), w, **k)
        for empty in (torch.zeros(0, dtype=torch.long), new(0, 3)):
            check("cross_entropy", new(0, 3), empty, w, **k)
        check("cross_entropy", new(2, 3, 0), torch.zeros(2, 0, dtype=torch.long), w, **k)
        for target in (torch.tensor([0, 1]), torch.tensor([1, 1]), new.of([[0.5, 0, 0.5], [0.1, 0.9, 0.0]])):
            check("cross_entropy", holes, target, w, **k)
        check("cross_entropy", new.of([[NAN, 1.0, 1.0], [2.0, 3.0, 1.0]]), torch.tensor([-100, 1]), w, **k)


@dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
def test_nll_loss(new: Maker, reduction: str, weights: list[float] | None):
    w, some = weights and new.of(weights, grad=False), torch.tensor([0, 2, -100, 1])
    for target in (some, torch.full((4,), -100)):
        check("nll_loss", new(4, 3), target, w, reduction=reduction)
    check("nll_loss", new(4, 3), some.abs() % 3, w, ignore_index=2, reduction=reduction)
    check("nll_loss", new(3), torch.tensor(1), w, reduction=reduction)
    check("nll_loss", new(2, 3, 2), torch.tensor([[0, 1], [2, -100]]), w, reduction=reduction)
    check("nll_loss", new(0, 3), torch.zeros(0, dtype=torch.long), w, reduction=reduction)
    check("nll_loss", new.of([[0.0, -INF, 1.0], [2.0, NAN, -INF]]), torch.tensor([1, 0]), w, reduction=reduction)


@dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(new: Maker, reduction: str):
    shapes = ((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((4,), (3, 4)), ((), ()), ((), (3,)), ((0, 3), (0, 3))
    for a, b in shapes:
        check("mse_loss", new(*a), new(*b), reduction=reduction)
        check("mse_loss", new(*a, grad=False), new(*b), reduction=reduction)
        check("mse_loss", new(*a), new(*b), reduction=reduction, weight=new(*a, positive=True), floor=1.0)
        check("mse_loss", new(*a), new(*b, grad=False), reduction=reduction, weight=new(*a, grad=False, positive=True))


# ------------------------------------------------------------------------------------ linear, shapes, indices


@dtypes
def test_linear(new: Maker):
    for x, w, b in [
        ((3,), (4, 3), (4,)), ((2, 5, 3), (4, 3), (4,)), ((3,), (3,), None), ((2, 3), (3,), None), ((3,), (3,), ()),
        ((0, 3), (4, 3), (4,)), ((2, 0), (4, 0), (4,)), ((2, 3), (0, 3), (0,)), ((2, 0, 3), (4, 3), (4,)),
    ]:  # fmt: skip
        check("linear", new(*x), new(*w), None if b is None else new(*b))


@dtypes
def test_pad(new: Maker):
    for widths in ((1, 2), (1, 2, 3, 4), (-1, 2), (-1, -1, 2, -1), (0, 0), (), [1, 0], (2, 0, 0, 0, 1, 1), (-2, -2)):
        check("pad", new(2, 3, 4), widths)
        check("pad", new(2, 3, 4), widths, value=1.5)
        check("pad", new(2, 3, 4), widths, "constant", -INF)
    for shape, widths in (((), ()), ((0, 3), (1, 1)), ((0, 3), (1, 1, 1, 1))):
        check("pad", new(*shape), widths)


@dtypes
def test_shapes(new: Maker):
    for shape in ((3, 2), (-1,), (3, -1), (1, 6, 1)):
        check_method("reshape", new(2, 3), shape)
        check_method("reshape", new(2, 3), *shape)
        check_method("reshape", new(3, 2).detach().T.requires_grad_(), list(shape))
    for before, after in (((1,), ()), ((), (1, 1)), ((2, 0), (0,)), ((2, 0), (-1,)), ((0, 3), (3, -1))):
        check_method("reshape", new(*before), after)
    for args in ((), (1,), (0, 1), (-2, -1), (1, 1)):
        check_method("flatten", new(2, 3, 4), *args)
    check_method("flatten", new(2, 0, 4), start_dim=1, end_dim=2)
    check_method("flatten", new())
    for args in ((0, -1), (1, 1), (-3, 2)):
        check_method("transpose", new(2, 3, 4), *args)
    check_method("transpose", new(), 0, -1)
    for args in ((2, 0, 1), ((2, 0, 1),), ([-1, 0, 1],)):
        check_method("permute", new(2, 3, 4), *args)
    check_method("permute", new(), ())
    for args in ((), (0,), ((0, -1),), (1,), ((),), ([0],)):
        check_method("squeeze", new(1, 2, 1), *args)
    check_method("squeeze", new(), 0)
    check_method("squeeze", new(1, 0))
    for shape, dim in (((2, 3), -1), ((2, 3), -3), ((), 0), ((), -1), ((2,), 1)):
        check_method("unsqueeze", new(*shape), dim=dim)


MASK = torch.tensor([True, False, True])
MASK_2D = torch.tensor([[True, False], [False, True], [True, True]])
INDICES = [
    0, -1, slice(None), slice(0, 2), slice(None, None, 2), slice(3, 3), ..., None, (), (0, 1), (slice(None), 1),
    (..., 0), (None, 0), [0, 2], [0, 0, 2], [], (slice(None), [1, 0, 1]), ([0, 2], [1, 1]), (0, [1, 1]), MASK,
    (MASK, 0), MASK_2D, (MASK, None, slice(None)), torch.tensor([2, 0, 0]), (torch.tensor([[0, 1], [2, 2]]), 1),
    (torch.tensor(1),), torch.tensor(0), (slice(None), None, [0, 1]), True, False, (True, 0), torch.tensor(True),
    np.int64(1), (slice(None), torch.tensor([0, -1])), torch.tensor([0, 1], dtype=torch.int32), [True, False, True],
    (slice(None), [True, False]), (MASK, [0, 1]),
]  # fmt: skip
# An integer takes its axis away before arrays index the others: NumPy would put the arrays' axis first.
MIXED = [
    (0, slice(None), [1, 2]), (slice(None), 0, slice(None), [1, 0]), ([0, 1], slice(None), [1, 2]), (0, ..., [1, 0]),
    (slice(None), [0, 1], slice(None), [1, 0]), (slice(None), [0, 1], [1, 2]), (MASK_2D, 1), (..., [0, 1, 1]),
    (slice(None), MASK[:2], 0), (slice(None), 1, None, torch.tensor([3, 0])), ([0, 2], None, 1, slice(None), [1, 1]),
    (MASK_2D, slice(None), 1), (0, 0, [1, 1], 0), (torch.tensor(0), slice(None), [1, 2]), (0, None, [0, 1]),
    (0, slice(None), torch.tensor(True), [1, 2]),
]  # fmt: skip


@dtypes
def test_indices(new: Maker):
    for index in INDICES:
        check_operator(operator.getitem, new(3, 2), index)
    for index in MIXED:
        check_operator(operator.getitem, new(3, 2, 4, 2), index)
    for index in ((), None, ..., torch.tensor(True)):
        check_operator(operator.getitem, new(), index)


@dtypes
def test_cat_and_stack(new: Maker):
    def check_join(name: str, tensors: Any, *args: Any, **kwargs: Any) -> None:
        compare(getattr(minicnn, name), getattr(torch, name), tensors, *args, what=name, **kwargs)

    check_join("cat", [new(2, 3), new(1, 3)])
    check_join("cat", (new(2, 3), new(2, 1)), -1)
    check_join("cat", [new(2, 3), new(2, 3, grad=False)], dim=1)
    check_join("cat", [new(0), new(2, 3)], 1)  # the legacy of (0,)
    check_join("cat", [new(2, 3), new(0)], -1)
    check_join("cat", [new(0), new(0)])
    check_join("cat", [new(2, 0), new(2, 3)], 1)
    check_join("cat", [new(3)])
    for tensors, dim in (([new(2), new(2)], -1), ([new(), new()], 0), ([new(0), new(0)], 1), ([new(2, 3)] * 3, 1)):
        check_join("stack", tensors, dim)


# ------------------------------------------------------------------------------------ reductions, arithmetic


@dtypes
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "var"])
def test_reductions(new: Maker, name: str):
    cases: list[Any] = [((2, 3, 4), dim) for dim in (None, 0, -1, (0, 2), (-1, 0), [1], (0, 1, 2))]
    cases += [((), dim) for dim in (None, 0, -1)] + [((1,), None), ((1,), 0), ((3, 0), 0)]
    if name != "amax":
        cases += [((3, 0), 1), ((0,), None)]  # nothing to reduce
    if name != "var":
        cases += [((2, 3), ()), ((2, 3), [])]  # PyTorch's backward of var takes () for no axes, its forward for all
    for (shape, dim), keepdim in itertools.product(cases, (False, True)):
        check_method(name, new(*shape), dim=dim, keepdim=keepdim)
    check_method(name, new(2, 3))
    check_method(name, new(2, 3), 1, keepdim=True)
    for values in ([[1.0, 1, 0], [2, 2, 2]], [[NAN, 1, 0], [2, 2, 2]], [[INF, INF], [-INF, -INF]]):
        check_method(name, new.of(values), 1)


@dtypes
def test_var_correction(new: Maker):
    for correction, dim in itertools.product((0, 1, 2, 3, 5, 1.5, -1, None), (None, 0, (0, 1))):
        check_method("var", new(3, 2), dim=dim, correction=correction)
    for args in ((True,), (False,), (0, True), (0, False), (0, False, True), ((0, 1), True, True)):
        check_method("var", new(3, 4), *args)
    check_method("var", new(3, 4), dim=1, unbiased=False, keepdim=True)


@dtypes
def test_clamp(new: Maker):
    for low, high in ((-0.5, 0.5), (None, 0.3), (0.3, None), (0.5, -0.5), (0, 0), (1, 2)):
        check_method("clamp", new(3, 4), low, high)
        check_method("clamp", new(), min=low, max=high)
    y = [[-1.0, 0, 0.5], [1, 2, NAN]]
    bounds = (
        (0, 1), ([0.0, 0, 0], [1.0, 1, 1]), ([0.0, 1, 2], [1.0, 0.5, 0]), ([0.0, 0, 0], None), (None, [0.5, 2, 1]),
        (0.0, 1.0), ([1.0, 0, 2], [1.0, 1, 2]), ([NAN, 0, 0], None), (None, [NAN, 0, 1]),
    )  # fmt: skip
    for low, high in bounds:
        for grad in (True, False):
            check_method("clamp", new.of(y), *(None if b is None else new.of(b, grad) for b in (low, high)))
    check_method("clamp", new(3, 1), new(1, 4), new(3, 4))
    check_method("clamp", new(4), new(3, 1), None)
    check_method("clamp", new(3, 4, grad=False), new(3, 4), None)


@dtypes
def test_pow(new: Maker):
    base = [-2.0, -1, 0, 1, 2, 3]
    for n in (0, 1, 2, 3, -1, -2, 0.5, 0.0, -0.5, 2.5):
        check_operator(operator.pow, new.of(base), n)
        check_operator(operator.pow, new.of(0.0), n)
        check_operator(operator.pow, new.of([INF, 0, NAN]), n)
        check_operator(operator.pow, new.of(base), new.of(n))  # an exponent of no dimensions
        check_operator(operator.pow, new.of(base), new.of(n, grad=False))
    for b in (0.0, 1.0, 2.0, 0.5, -1.0, -2, 0):
        check_operator(operator.pow, b, new.of(base))
    check_operator(operator.pow, new.of([-2.0, -1, 0, 0, 1, 2, 0]), new.of([2.0, 3, 0, 1, 2, -1, -1]))
    check_operator(operator.pow, new.of([NAN, 0.0, 1, INF]), new.of([0.0, NAN, NAN, 0]))
    check_operator(operator.pow, new.of(0.0), new.of([0.0, 1, 2, -1]))
    check_operator(operator.pow, new(3, 1, positive=True), new(1, 4))
    check_operator(operator.pow, new.of([2.0, 3]), torch.tensor([2, 3]))
    check_operator(operator.pow, new.of([2.0, 3, 0]), torch.tensor(2))


@dtypes
def test_elementwise_at_the_edges(new: Maker):
    for name in ("abs", "sqrt", "log", "exp"):
        check_method(name, new.of([-1.0, -0.0, 0, 1, INF, -INF, NAN]))
        check_method(name, new.of(2.0))
        check_method(name, new(0))
    check_operator(operator.matmul, new(2, 1, 3, 4), new(5, 4, 2))
    check_operator(operator.matmul, new(0, 3), new(3, 0))


ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("function", ARITHMETIC)
@pytest.mark.parametrize(("left", "right"), list(itertools.product(DTYPES, repeat=2)))
def test_promotion_of_tensors(function: Any, left: str, right: str):
    """A tensor of no dimensions never widens one that has some."""
    a, b = Maker(left), Maker(right)
    for x, y in itertools.product(((), (3,), (1,)), repeat=2):
        for grads in ((True, True), (True, False), (False, True)):
            check_operator(function, a(*x, grad=grads[0], positive=True), b(*y, grad=grads[1], positive=True))
    check_method("clamp", a(3), b(), b())
    compare(minicnn.cat, torch.cat, [a(2), b(3)])
    compare(minicnn.stack, torch.stack, [a(), b()])


@dtypes
@pytest.mark.parametrize("function", ARITHMETIC)
def test_numbers_never_widen(new: Maker, function: Any):
    for number, shape in itertools.product((2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(3)), ((), (3,))):
        x = number.item() if isinstance(number, np.generic) else number
        compare(lambda t, n=number: function(t, n), lambda t, n=x: function(t, n), new(*shape, positive=True))
        compare(lambda t, n=number: function(n, t), lambda t, n=x: function(n, t), new(*shape, positive=True))


# ----------------------------------------------------------------------------------------------- the graph


@dtypes
def test_shared_inputs_and_accumulated_gradients(new: Maker):
    """One tensor used several times, two backward passes into the same leaves, a gradient kept on the way."""
    image, kernel = new(2, 3, 6, 6), new(4, 3, 3, 3)
    ours, theirs = [Tensor(t.detach().numpy(), requires_grad=True) for t in (image, kernel)], [image, kernel]

    def network(library: Any, x: Any, w: Any) -> tuple[Any, Any]:
        hidden = library.relu(library.conv2d(x, w, padding=1))
        hidden.retain_grad()
        scale = library.adaptive_avg_pool2d(x, 3).mean()
        pooled = library.max_pool2d(hidden, 2) + library.avg_pool2d(hidden, 2) * scale
        return hidden, pooled * w.sum() + pooled[:, [0, 0, 1, 2]] * hidden[:, :, ::2, ::2]

    for seed in range(2):
        (hidden, out), (his_hidden, his_out) = network(F, *ours), network(TF, *theirs)
        gradient = cotangent((2, 4, 3, 3), hidden.dtype) + seed
        out.backward(gradient)
        his_out.backward(torch.from_numpy(gradient))
        tolerance = 1e-10 if hidden.dtype == np.float64 else 2e-5
        for a, b in zip([hidden, *ours], [his_hidden, *theirs], strict=True):
            wanted = b.grad.numpy()
            np.testing.assert_allclose(a.grad, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_dropout_keeps_the_mean_and_the_mask():
    """Random, so not comparable number by number: what PyTorch promises of it."""
    minicnn.manual_seed(3)
    x = Tensor(np.ones((200, 500), dtype=np.float32), requires_grad=True)
    y = F.dropout(x, 0.3)
    values = np.unique(y.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.unique(TF.dropout(torch.ones(200, 500), 0.3)).numpy()
    np.testing.assert_allclose(values, theirs, rtol=1e-6)
    assert abs(float((y.data == 0).mean()) - 0.3) < 0.005
    gradient = cotangent(y.shape, y.dtype)
    y.backward(gradient)
    np.testing.assert_allclose(x.grad, gradient * y.data, rtol=1e-6)
