"""Cutting, padding and mirroring, against loops over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.data import CenterCrop, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip

DTYPES = [np.uint8, np.float32, np.float64]


def place(k, size, mode):
    """Which pixel of a line of `size` is shown at `k` in its border; None for the fill."""
    while not 0 <= k < size:
        if mode == "constant":
            return None
        if mode == "edge":
            return min(max(k, 0), size - 1)
        if size == 1:
            return 0
        k = (
            (-k if mode == "reflect" else -k - 1)
            if k < 0
            else (2 * size - 2 - k if mode == "reflect" else 2 * size - 1 - k)
        )
    return k


def padded_by_hand(images, left, top, right, bottom, fill, mode):
    batch, channels, height, width = images.shape
    out = np.empty((batch, channels, height + top + bottom, width + left + right), images.dtype)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            row, column = place(i - top, height, mode), place(j - left, width, mode)
            out[:, :, i, j] = fill if row is None or column is None else images[:, :, row, column]
    return out


widths = st.integers(0, 3)


@given(st.tuples(*[widths] * 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from(DTYPES),
       st.sampled_from(["constant", "edge", "reflect", "symmetric"]))  # fmt: skip
def test_pad(padding, height, width, dtype, mode):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, height, width)).astype(dtype)
    before = images.copy()
    out = Pad(padding, 7, mode)(images)
    assert out.dtype == dtype and np.array_equal(out, padded_by_hand(images, *padding, 7, mode))
    assert np.array_equal(images, before)


def test_pad_by_one_and_by_two_numbers(rng):
    images = rng.random((1, 1, 3, 4))
    assert np.array_equal(Pad(2)(images), padded_by_hand(images, 2, 2, 2, 2, 0, "constant"))
    assert np.array_equal(Pad([1, 2])(images), padded_by_hand(images, 1, 2, 1, 2, 0, "constant"))


@pytest.mark.parametrize(
    "height, width, top, left", [(2, 3, 2, 2), (6, 7, 0, 0), (3, 4, 2, 2), (1, 7, 2, 0), (5, 2, 0, 2)]
)
def test_center_crop(rng, height, width, top, left):
    images = rng.random((2, 3, 6, 7))
    out = CenterCrop((height, width))(images)
    assert np.array_equal(out, images[:, :, top : top + height, left : left + width])


def test_center_crop_pads_what_is_smaller(rng):
    images = rng.random((1, 2, 2, 5))
    out = CenterCrop(5)(images)
    assert out.shape == (1, 2, 5, 5) and np.array_equal(out[:, :, 1:3], images)
    assert not out[:, :, [0, 3, 4]].any()


@given(
    st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)
)
def test_random_crop_is_a_part_of_each_image(seed, height, width, more, wider, padding):
    """Each pixel tells where it was, so the crop tells where it was cut."""
    rows, columns = np.meshgrid(np.arange(height + more), np.arange(width + wider), indexing="ij")
    images = np.stack([np.stack([rows, columns, np.full_like(rows, b)]) for b in range(5)]) + 1.0
    padded = padded_by_hand(images, *[padding] * 4, 0, "constant")
    out = RandomCrop((height, width), padding or None)(images, np.random.default_rng(seed))
    assert out.shape == (5, 3, height, width) and out.flags.c_contiguous
    for b in range(5):
        places = [
            (top, left)
            for top in range(more + 2 * padding + 1)
            for left in range(wider + 2 * padding + 1)
            if np.array_equal(out[b], padded[b, :, top : top + height, left : left + width])
        ]
        assert places


def test_random_crop_draws_every_place_evenly(rng):
    images = np.arange(9.0).reshape(1, 1, 3, 3).repeat(9000, axis=0)
    counts = np.bincount(RandomCrop(1)(images, rng).ravel().astype(int), minlength=9)
    assert (np.abs(counts - 1000) < 6 * np.sqrt(1000)).all()


def test_random_crop_of_images_that_are_smaller(rng):
    images = rng.random((50, 1, 2, 5)) + 1
    with pytest.raises(
        ValueError, match="RandomCrop: images of 2×5 pixels, padded, are smaller than 4×4. pad_if_needed"
    ):
        RandomCrop(4)(images)
    out = RandomCrop(4, pad_if_needed=True, fill=-1)(images, rng)
    assert out.shape == (50, 1, 4, 4)
    for crop in out[:, 0]:
        rows = np.flatnonzero((crop > 0).any(axis=1))
        assert len(rows) == 2 and rows[1] == rows[0] + 1  # all of its rows, somewhere
        assert (np.delete(crop, rows, axis=0) == -1).all()


@pytest.mark.parametrize("flip, axis", [(RandomHorizontalFlip, 3), (RandomVerticalFlip, 2)])
def test_flips(rng, flip, axis):
    images = rng.random((4000, 1, 3, 4)).astype(np.float32)
    before = images.copy()
    out, turned = flip()(images, rng), np.flip(images, axis)
    was = (out == turned).all(axis=(1, 2, 3))
    assert np.array_equal(out[~was], images[~was]) and np.array_equal(images, before) and out.dtype == np.float32
    assert abs(was.sum() - 2000) < 6 * np.sqrt(1000)
    assert np.array_equal(flip(1)(images), turned) and np.array_equal(flip(0.0)(images), images)
    assert abs((flip(0.2)(images, rng) == turned).all(axis=(1, 2, 3)).sum() - 800) < 6 * np.sqrt(640)
    assert flip.__doc__.startswith(("Left and right", "Top and bottom")) and "Args:" in flip.__doc__


@pytest.mark.parametrize("transform", [RandomCrop, lambda *_, **more: RandomHorizontalFlip(**more)])
def test_numbers_come_from_its_own_generator_the_callers_or_minicnns(rng, transform):
    images = rng.random((40, 1, 6, 6))
    expected = transform(3)(images, np.random.default_rng(5))
    own = transform(3, generator=np.random.default_rng(5))
    assert np.array_equal(own(images, np.random.default_rng(6)), expected) and not np.array_equal(own(images), expected)
    backend.manual_seed(5)
    assert np.array_equal(transform(3)(images), expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Pad(-1), "Pad: padding must be one, two or four whole numbers, 0 or more, got -1"),
        (lambda: Pad((1, 2, 3)), r"Pad: padding must .* got \(1, 2, 3\)"),
        (lambda: Pad(1.5), "."),
        (lambda: Pad(1, padding_mode="wrap"), "padding_mode must be one of 'constant', .*got 'wrap'"),
        (lambda: CenterCrop(0), "CenterCrop: size must be one or two positive whole numbers"),
        (lambda: RandomCrop((1, 2, 3)), "RandomCrop: size must"),
        (lambda: RandomCrop((1.0, 2)), "RandomCrop: size must"),
        (lambda: RandomHorizontalFlip(1.5), "RandomHorizontalFlip: p must be from 0 to 1, got 1.5"),
    ],
)
def test_refuses(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    "transform", [Pad(1), CenterCrop(2), RandomCrop(2), RandomHorizontalFlip(), RandomVerticalFlip()]
)
def test_a_batch_has_four_dimensions_and_may_be_empty(transform):
    with pytest.raises(ValueError, match=r"expected a batch \(B, C, H, W\)"):
        transform(np.zeros((3, 4, 4)))
    assert len(transform(np.zeros((0, 3, 4, 4)))) == 0
    assert repr(transform).startswith(type(transform).__name__)
