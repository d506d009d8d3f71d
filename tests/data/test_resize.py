"""Resizing, against Pillow's, which shares no code with it, and against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicnn.data import Compose, RandomResizedCrop, Resize

sides = st.integers(1, 40)


def by_pillow(images, height, width):
    """Each map as a picture of floating-point numbers, bilinearly, without aliasing."""
    maps = images.reshape(-1, *images.shape[2:])
    out = [np.asarray(Image.fromarray(m).resize((width, height), Image.Resampling.BILINEAR)) for m in maps]
    return np.stack(out).reshape(*images.shape[:2], height, width)


@given(sides, sides, sides, sides)
def test_as_pillow_does_it(height, width, new_height, new_width):
    images = np.random.default_rng(0).standard_normal((2, 2, height, width)).astype(np.float32)
    before = images.copy()
    out = Resize((new_height, new_width))(images)
    assert out.shape == (2, 2, new_height, new_width) and out.dtype == np.float32
    np.testing.assert_allclose(out, by_pillow(images, new_height, new_width), atol=2e-5)
    assert np.array_equal(images, before)


def between(line, x):
    """`line` at the place `x`, which is between two pixels or beyond the last."""
    x = min(max(x, 0), len(line) - 1)
    low = min(int(x), max(len(line) - 2, 0))
    return line[low] * (1 - (x - low)) + line[min(low + 1, len(line) - 1)] * (x - low)


@given(sides, sides)
def test_without_antialias_a_pixel_lies_between_two(size, new):
    line = np.random.default_rng(0).standard_normal(size)
    by_hand = [between(line, (i + 0.5) * size / new - 0.5) for i in range(new)]
    for shape in ((1, 1, 1, size), (1, 1, size, 1)):
        target = (1, new) if shape[2] == 1 else (new, 1)
        out = Resize(target, antialias=False)(line.reshape(shape))
        assert out.dtype == np.float64
        np.testing.assert_allclose(out.ravel(), by_hand, atol=1e-12)


def test_bytes_are_rounded(rng):
    images = rng.integers(0, 256, (1, 1, 20, 30)).astype(np.uint8)
    out = Resize((7, 50))(images)
    assert out.dtype == np.uint8
    assert np.abs(out - by_pillow(images.astype(np.float32), 7, 50)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("shape, size, expected", [
    ((20, 40), 10, (10, 20)), ((40, 20), 10, (20, 10)), ((30, 47), 16, (16, 25)), ((5, 5), 5, (5, 5)),
    ((1, 9), 3, (3, 27)),
])  # fmt: skip
def test_one_number_is_the_shorter_side(rng, shape, size, expected):
    images = rng.random((1, 3, *shape))
    assert Resize(size)(images).shape == (1, 3, *expected)
    assert Resize(shape)(images) is images


@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(1, 50))
def test_boxes_lie_inside(seed, height, width):
    boxes = RandomResizedCrop(8).boxes((200, 3, height, width), np.random.default_rng(seed))
    assert boxes.shape == (200, 4)
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_boxes_have_the_areas_shapes_and_places_asked_for(rng):
    top, left, h, w = RandomResizedCrop(8, scale=(0.1, 0.4)).boxes((20_000, 3, 400, 400), rng).T
    area, ratio = h * w / 400**2, w / h
    assert 0.098 < area.min() < 0.103 and 0.395 < area.max() < 0.404
    assert abs(area.mean() - 0.25) < 0.003 and abs(np.log(ratio).mean()) < 0.006
    assert 0.745 < ratio.min() < 0.76 and 1.31 < ratio.max() < 1.345
    for place, free in ((top, 400 - h), (left, 400 - w)):
        assert place.min() == 0 and (place == free).any() and abs((place / free).mean() - 0.5) < 0.01


def test_where_no_shape_fits_the_middle_is_taken(rng):
    assert RandomResizedCrop(8, scale=(1, 1)).boxes((3, 1, 100, 1000), rng).tolist() == [[0, 433, 100, 133]] * 3
    assert RandomResizedCrop(8, scale=(1, 1)).boxes((3, 1, 1000, 100), rng).tolist() == [[433, 0, 133, 100]] * 3


def test_random_resized_crop_is_its_box_resized(rng):
    images = rng.random((6, 3, 30, 40)).astype(np.float32)
    transform = RandomResizedCrop((8, 9))
    out = transform(images, np.random.default_rng(3))
    assert out.shape == (6, 3, 8, 9) and out.dtype == np.float32
    boxes = transform.boxes(images.shape, np.random.default_rng(3))
    assert len({tuple(box) for box in boxes}) == 6
    for image, crop, (top, left, h, w) in zip(images, out, boxes, strict=True):
        np.testing.assert_allclose(crop, by_pillow(image[None, :, top : top + h, left : left + w], 8, 9)[0], atol=1e-5)
    assert Compose([transform]).random and transform(images[:0]).shape == (0, 3, 8, 9)
    own = RandomResizedCrop((8, 9), generator=np.random.default_rng(3))
    assert np.array_equal(own(images, np.random.default_rng(4)), out)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Resize(0), ValueError, "Resize: size must be"),
        (lambda: Resize((3, 4, 5)), ValueError, "Resize: size must be"),
        (lambda: RandomResizedCrop(3, scale=(0, 1)), ValueError, "scale and ratio must be"),
        (lambda: RandomResizedCrop(3, scale=(0.5, 0.4)), ValueError, "scale and ratio must be"),
        (lambda: RandomResizedCrop(3, ratio=(0, 1)), ValueError, "scale and ratio must be"),
        (lambda: Resize(3)(np.zeros((1, 1, 4, 4), int)), TypeError, "Resize: images are int64"),
        (lambda: RandomResizedCrop(3)(np.zeros((1, 1, 4, 4), int)), TypeError, "images are int64"),
        (lambda: Resize(3)(np.zeros((1, 4, 4))), ValueError, r"expected a batch \(B, C, H, W\)"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()
