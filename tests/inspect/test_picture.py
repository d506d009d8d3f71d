"""Heat maps: the colours, and a PNG that another program reads."""

import base64
import io
import re

import numpy as np
import pytest

from minicnn.inspect import picture


def decoded(html):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1)))))


def test_colours_are_blue_white_and_orange():
    blue, white, orange = picture.colours(np.array([-2.0, 0.0, 2.0]), 2.0).tolist()
    assert blue == [8, 52, 105] and white == [247, 247, 247] and orange == [115, 17, 0]
    halfway = picture.colours(np.array([0.25]), 1.0)[0]
    np.testing.assert_allclose(halfway, [(247 + 232) / 2, (247 + 119) / 2, (247 + 46) / 2], atol=0.5)


def test_beyond_the_bound_and_no_number():
    values = np.array([-9.0, 9.0, np.nan, np.inf, -np.inf])
    assert picture.colours(values, 1.0).tolist() == [[8, 52, 105], [115, 17, 0], *[[0, 0, 0]] * 3]


def test_the_two_halves_are_of_equal_lightness():
    """So that a small negative number does not look larger than a small positive one."""
    steps = np.linspace(0, 1, 21)
    light = [picture.colours(sign * steps, 1.0) @ [0.299, 0.587, 0.114] for sign in (-1, 1)]
    assert np.abs(light[0] - light[1]).max() < 3
    assert all((np.diff(half) < 0).all() for half in light)


def test_largest():
    assert picture.largest(np.array([1.0, -3.0, np.nan, np.inf])) == 3
    assert picture.largest(np.zeros(3)) == picture.largest(np.zeros(0)) == 1


def test_png(rng):
    image = pytest.importorskip("PIL.Image")
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    with image.open(io.BytesIO(picture.png(rgba))) as read:
        assert read.format == "PNG" and read.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(read), rgba)


def test_a_heat_map_is_maps_side_by_side(rng):
    maps = rng.normal(size=(1, 3, 4, 5))
    pixels = decoded(picture.heat_map(maps))
    assert pixels.shape == (4, 3 * 5 + 2, 4)
    for i in range(3):
        part = pixels[:, 6 * i : 6 * i + 5]
        np.testing.assert_array_equal(part[..., :3], picture.colours(maps[0, i], np.abs(maps).max()))
        assert (part[..., 3] == 255).all()
    assert (pixels[:, 5::6, 3] == 0).all()


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((), (1, 1, 1)), ((7,), (1, 1, 7)), ((3, 4), (1, 3, 4)), ((6, 4, 5), (6, 4, 5)), ((2, 3, 4, 5), (2, 4, 5)),
        ((1, 30, 4, 5), (8, 4, 5)), ((300, 500), (1, 100, 125)), ((1, 2, 3, 4, 5), (6, 4, 5)),
    ],
)  # fmt: skip
def test_tiles(shape, shown):
    assert picture.tiles(np.zeros(shape)).shape == shown


def test_nothing_to_show():
    assert picture.heat_map(np.zeros((0, 3))) == ""
