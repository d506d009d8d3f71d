"""Convolution: its implementations against each other and against one by Fourier transform."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend, cuda
from minicnn.kernels import conv, cut

from .helpers import (
    Pair,
    assert_adjoint,
    assert_close,
    assert_same,
    drawn,
    dtypes,
    each_implementation,
    implementations,
    normal,
    run,
    seeds,
    windows,
)

each = each_implementation("conv2d")


@pytest.fixture(scope="module", autouse=True)
def small_workspace():
    """So that the form for a GPU does cut: one image at a time, or a few."""
    before = cuda.max_workspace_size()
    cuda.set_max_workspace_size(2000)
    yield
    cuda.set_max_workspace_size(before)


@st.composite
def convolutions(draw):
    """(input, weight, bias), params and the output's shape."""
    rows, columns = draw(windows()), draw(windows())
    batch, groups = draw(st.sampled_from([0, 1, 2, 5])), draw(st.integers(1, 3))
    channels, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2))  # of a group; one channel is depthwise
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    input = normal(rng, (batch, groups * channels, rows.size, columns.size), dtype)
    weight = normal(rng, (groups * filters, channels, rows.kernel, columns.kernel), dtype)
    bias = normal(rng, groups * filters, dtype) if draw(st.booleans()) else None
    params = {
        "stride": (rows.stride, columns.stride),
        "padding": (rows.padding, columns.padding),
        "dilation": (rows.dilation, columns.dilation),
        "groups": groups,
    }
    return (input, weight, bias), params, (batch, groups * filters, rows.out, columns.out)


def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The cross-correlation of one image and one kernel wherever the kernel fits, by the convolution theorem."""
    spectrum = np.fft.rfft2(image) * np.fft.rfft2(kernel, image.shape).conj()
    circular = np.fft.irfft2(spectrum, image.shape)
    return circular[: image.shape[0] - kernel.shape[0] + 1, : image.shape[1] - kernel.shape[1] + 1]


def convolve(input, weight, bias, stride, padding, dilation, groups) -> np.ndarray:
    """Convolution in float64: correlate with a kernel that has zeros in its gaps, then leave out rows and columns."""
    padded = np.pad(input.astype(np.float64), ((0, 0), (0, 0), *((p, p) for p in padding)))
    spread = np.zeros((*weight.shape[:2], *(d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True))))
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    channels = weight.shape[1]
    output = []
    for image in padded:
        for o, kernel in enumerate(spread):
            group = o * groups // len(spread)
            planes = zip(image[group * channels : (group + 1) * channels], kernel, strict=True)
            output.append(sum(correlate(*plane) for plane in planes)[:: stride[0], :: stride[1]])
    if not output:
        output = np.empty((0, *correlate(np.zeros(padded.shape[2:]), spread[0, 0])[:: stride[0], :: stride[1]].shape))
    output = np.reshape(output, (len(input), len(weight), *np.shape(output)[1:]))
    return output if bias is None else output + bias.reshape(-1, 1, 1)


@drawn
@given(convolutions())
def test_forward_is_a_correlation(case):
    arrays, params, shape = case
    expected = convolve(*arrays, **params).astype(arrays[0].dtype)
    for pair in implementations("conv2d").values():
        output, _ = pair.forward(*arrays, **params)
        assert output.shape == shape
        assert_close(output, expected)


@drawn
@given(convolutions(), st.tuples(st.booleans(), st.booleans(), st.booleans()), seeds)
def test_implementations_agree(case, needs, seed):
    arrays, params, _ = case
    needs = (*needs[:2], needs[2] and arrays[2] is not None)
    neutral, *others = (run(pair, arrays, needs, seed, **params) for pair in implementations("conv2d").values())
    for other in others:
        assert_same(other, neutral)


@drawn
@given(convolutions(), seeds)
def test_backward_is_the_transpose_of_the_correlation(case, seed):
    """Convolution is linear in the input and in the weight, and its backward is the transpose of either map."""
    (input, weight, bias), params, _ = case
    input, weight = input.astype(np.float64), weight.astype(np.float64)
    bias = None if bias is None else bias.astype(np.float64)
    rng = np.random.default_rng([seed, 2])
    for pair in implementations("conv2d").values():
        result = run(pair, (input, weight, bias), seed=seed, **params)
        assert_adjoint(lambda d: convolve(d, weight, None, **params), result.grad_output, result.grads[0], rng)
        assert_adjoint(lambda d: convolve(input, d, None, **params), result.grad_output, result.grads[1], rng)
        if bias is not None:
            assert_close(result.grads[2], result.grad_output.sum((0, 2, 3)))


@each
def test_an_edge_detector(pair):
    """Sobel's kernel on a step: worked out by hand, kernel not flipped."""
    image = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.float32)[None, None]
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float32)[None, None]
    params = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    output, saved = pair.forward(image, sobel, None, **params)
    np.testing.assert_array_equal(output, [[[[4, 4]]]])
    grad_output = np.array([[[[1, 10]]]], dtype=np.float32)
    grad_image, grad_weight, _ = pair.backward(grad_output, saved, (True, True, False), **params)
    np.testing.assert_array_equal(grad_image, [[[[-1, -10, 1, 10], [-2, -20, 2, 20], [-1, -10, 1, 10]]]])
    np.testing.assert_array_equal(grad_weight, [[[[0, 10, 11]] * 3]])


@each
def test_groups_are_convolutions_side_by_side(pair, rng):
    input, weight, bias = normal(rng, (2, 6, 5, 4)), normal(rng, (4, 3, 2, 3)), normal(rng, 4)
    params = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1)}
    whole = run(pair, (input, weight, bias), **params, groups=2)
    for half in (0, 1):
        channels, filters = slice(3 * half, 3 * half + 3), slice(2 * half, 2 * half + 2)
        output, saved = pair.forward(input[:, channels], weight[filters], bias[filters], **params, groups=1)
        grads = pair.backward(whole.grad_output[:, filters], saved, (True, True, True), **params, groups=1)
        assert_close(output, whole.output[:, filters])
        parts = whole.grads[0][:, channels], whole.grads[1][filters], whole.grads[2][filters]
        for grad, expected in zip(grads, parts, strict=True):
            assert_close(grad, expected)


@pytest.mark.parametrize(("size", "out"), [(7, 4), (8, 4), (9, 5)])
def test_output_size_floors(size, out):
    assert conv.output_size(size, kernel=3, stride=2, padding=1, dilation=1) == out


# ------------------------------------------------------------------------------------------- the GPU's workspace

VGG_LIKE = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


@pytest.mark.parametrize(("images_at_a_time", "blocks"), [(0.5, 7), (1, 7), (2.5, 4), (6, 2), (7, 1), (1000, 1)])
def test_columns_stay_within_the_workspace(images_at_a_time, blocks, rng, monkeypatch):
    """Seven images, forward and backward: what im2col and the product of backward's input gradient make."""
    an_image = 3 * 3 * 3 * 8 * 8 * 4  # bytes of columns
    monkeypatch.setattr(backend, "_max_workspace_size", int(images_at_a_time * an_image))
    made: list[int] = []

    def noted(*args):
        made.append((columns := im2col(*args)).nbytes)
        return columns

    def noted_back(columns, *args):
        made.append(columns.nbytes)
        return col2im(columns, *args)

    im2col, col2im = conv.im2col, conv.col2im
    monkeypatch.setattr(conv, "im2col", noted)
    monkeypatch.setattr(conv, "col2im", noted_back)
    arrays = normal(rng, (7, 3, 8, 8), np.float32), normal(rng, (4, 3, 3, 3), np.float32), normal(rng, 4, np.float32)
    run(Pair(cut.conv2d_forward, cut.conv2d_backward), arrays, **VGG_LIKE)
    assert len(made) == 3 * blocks
    assert max(made) <= max(images_at_a_time, 1) * an_image
    assert sum(made) == 3 * 7 * an_image


@pytest.mark.host
def test_a_block_s_columns_are_gone_before_the_next_are_made(rng, monkeypatch):
    """tracemalloc's peak: one image's columns and what else is there (8 % of it for so many windows of a small map)."""
    monkeypatch.setattr(backend, "_max_workspace_size", 1)
    input, weight = normal(rng, (6, 2, 40, 40)), normal(rng, (2, 2, 9, 9))
    params = VGG_LIKE | {"padding": (4, 4)}
    output, saved = cut.conv2d_forward(input, weight, None, **params)
    grad_output, needs = normal(rng, output.shape), (True, True, False)
    an_image = 2 * 9 * 9 * 40 * 40 * 8
    for step in (
        lambda: cut.conv2d_forward(input, weight, None, **params),
        lambda: cut.conv2d_backward(grad_output, saved, needs, **params),
    ):
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert an_image < peak < 1.5 * an_image


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_the_workspace_must_be_a_number_of_bytes(size, error):
    before = cuda.max_workspace_size()
    with pytest.raises(error, match="set_max_workspace_size: size is"):
        cuda.set_max_workspace_size(size)
    assert cuda.max_workspace_size() == before
