"""Transforms on batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.data import Compose, Normalize, RandomShift, ToFloat


class Shifts:
    """A generator that gives the shifts it was made with: rows (down, right) for each image."""

    def __init__(self, shifts, pixels):
        self.values = np.asarray(shifts).T
        self.pixels = pixels

    def integers(self, low, high, size):
        assert (low, high, tuple(size)) == (0, 2 * self.pixels + 1, self.values.shape)
        return self.pixels - self.values  # moving down by one is cropping one row higher


def shift_by_hand(image, down, right, fill):
    """`image` (C, H, W) moved, pixel by pixel."""
    out = np.full_like(image, fill)
    channels, height, width = image.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                if 0 <= i + down < height and 0 <= j + right < width:
                    out[c, i + down, j + right] = image[c, i, j]
    return out


@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_random_shift_moves_each_image_by_what_was_drawn(seed, pixels, channels, height, width):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((4, channels, height, width)).astype(np.float32)
    shifts = rng.integers(-pixels, pixels + 1, (4, 2))
    moved = RandomShift(pixels, fill=7)(images, Shifts(shifts, pixels))
    assert moved.dtype == np.float32 and moved.flags.c_contiguous
    for image, (down, right), got in zip(images, shifts, moved, strict=True):
        assert np.array_equal(got, shift_by_hand(image, down, right, 7))


def test_random_shift_draws_every_shift_evenly(rng):
    images = np.zeros((9000, 1, 5, 5), np.uint8)
    images[:, :, 2, 2] = 1
    counts = RandomShift(1)(images, rng).sum(axis=(0, 1))
    assert counts[1:4, 1:4].sum() == 9000  # never further than one pixel
    assert (np.abs(counts[1:4, 1:4] - 1000.0) < 6 * np.sqrt(1000)).all()


def test_random_shift_keeps_its_input_and_its_type(rng):
    images = rng.integers(0, 256, (3, 1, 4, 4)).astype(np.uint8)
    before = images.copy()
    moved = RandomShift(2)(images)
    assert moved.dtype == np.uint8 and not np.shares_memory(moved, images)
    moved[...] = 0
    assert np.array_equal(images, before)


def test_random_shift_draws_from_its_own_generator_the_callers_or_minicnns(rng):
    images = rng.standard_normal((50, 1, 6, 6))
    expected = RandomShift(2)(images, np.random.default_rng(5))
    own = RandomShift(2, generator=np.random.default_rng(5))
    assert np.array_equal(own(images, np.random.default_rng(6)), expected)
    assert not np.array_equal(own(images), expected)  # the next draws
    backend.manual_seed(5)
    assert np.array_equal(RandomShift(2)(images), expected)


@pytest.mark.parametrize("pixels", [-1, 1.5, "1", None])
def test_random_shift_refuses(pixels):
    with pytest.raises(ValueError, match=f"RandomShift: pixels must be a whole number, 0 or more, got {pixels!r}"):
        RandomShift(pixels)


@pytest.mark.parametrize("transform", [RandomShift(1), Normalize(0, 1)])
@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (1, 2, 1, 28, 28)])
def test_a_batch_has_four_dimensions(transform, shape):
    with pytest.raises(ValueError, match=r"expected a batch \(B, C, H, W\)"):
        transform(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalize(rng, dtype):
    images = (3 + 2 * rng.standard_normal((5, 3, 4, 4))).astype(dtype)
    before = images.copy()
    mean, std = images.mean(axis=(0, 2, 3)), images.std(axis=(0, 2, 3))
    out = Normalize(mean.tolist(), std.tolist())(images)
    assert out.dtype == dtype and np.array_equal(images, before)
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(0, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(Normalize(0.5, 4)(images), (images - 0.5) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "mean, std, message",
    [(0, 0, "must be positive, got 0"), ([0, 0], [1, -1], "must be positive"), ([0, 0], [1], "of one length")],
)
def test_normalize_refuses(mean, std, message):
    with pytest.raises(ValueError, match=f"Normalize: .*{message}"):
        Normalize(mean, std)


def test_normalize_refuses_other_images():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 4\) have 1 channels, mean and std are given for 3"):
        Normalize([0, 0, 0], [1, 1, 1])(np.zeros((2, 1, 4, 4)))
    with pytest.raises(TypeError, match="uint8.*ToFloat"):
        Normalize(0, 1)(np.zeros((2, 1, 4, 4), np.uint8))


def test_to_float():
    every = np.arange(256, dtype=np.uint8)
    out = ToFloat()(every)
    assert out.dtype == np.float32
    assert np.array_equal(out, np.array([i / 255 for i in range(256)], np.float32))
    for dtype in (np.float32, np.float64):
        assert ToFloat()(every.astype(dtype)).dtype == dtype
    with pytest.raises(TypeError, match="int64"):
        ToFloat()(every.astype(np.int64))


def test_compose_applies_in_order_and_hands_the_generator_on(rng):
    images = rng.integers(0, 256, (20, 1, 6, 6)).astype(np.uint8)
    both = Compose([ToFloat(), RandomShift(1), lambda x: 2 * x])
    expected = 2 * RandomShift(1)(ToFloat()(images), np.random.default_rng(3))
    assert both.random and np.array_equal(both(images, np.random.default_rng(3)), expected)
    assert Compose([both]).random and np.array_equal(Compose([both])(images, np.random.default_rng(3)), expected)
    assert not Compose([ToFloat(), Normalize(0, 1)]).random
    assert Compose([])(images) is images
