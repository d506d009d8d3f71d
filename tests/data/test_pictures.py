"""Pictures of all kinds as arrays: what they become, and that broken ones are named."""

import io
import itertools
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minicnn.classify import open_picture
from minicnn.data import pictures, read_picture
from tests.data.test_download import lacking


@pytest.fixture
def colours(rng):
    return rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)  # (H, W, 3)


@pytest.fixture
def saved(tmp_path):
    def save(picture, name="a.png", **options):
        path = tmp_path / name
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        picture.save(path, **options)
        return path

    return save


def png(width, height, bits, kind, rows, palette=b"", transparent=b"") -> bytes:
    """A PNG by hand: Pillow cannot write them all."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")])


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_colours_come_back(saved, colours, name):
    path = saved(colours, name, **({"lossless": True} if name == "a.webp" else {}))
    for got in (read_picture(path), read_picture(str(path))):
        assert got.dtype == np.uint8 and got.flags.c_contiguous and np.array_equal(got, colours.transpose(2, 0, 1))


def test_jpeg_nearly_comes_back(saved):
    smooth = np.add.outer(np.arange(16), np.arange(16))[:, :, None] * np.array([4, 3, 2])
    path = saved(smooth.astype(np.uint8), "a.jpg", quality=95)
    assert np.abs(read_picture(path).astype(int) - smooth.transpose(2, 0, 1)).max() < 8


def test_grey(saved, colours):
    grey = colours[:, :, 0]
    path = saved(grey)
    assert np.array_equal(read_picture(path), np.stack([grey] * 3))
    assert np.array_equal(read_picture(path, channels=1), grey[None])
    got = read_picture(saved(colours), channels=1)
    assert got.shape == (1, 5, 7)
    np.testing.assert_allclose(got[0], colours @ [0.299, 0.587, 0.114], atol=1)


def test_one_bit(saved, rng):
    bits = rng.random((5, 7)) < 0.5
    assert np.array_equal(read_picture(saved(Image.fromarray(bits)), channels=1)[0], bits * 255)


def test_cmyk(saved, rng):
    inks = rng.integers(0, 256, (4, 6, 4)).astype(np.uint8)
    got = read_picture(saved(Image.fromarray(inks, "CMYK"), "a.tif")).transpose(1, 2, 0)
    by_hand = (255 - inks[:, :, :3].astype(float)) * (255 - inks[:, :, 3:]) / 255
    np.testing.assert_allclose(got, by_hand, atol=1)
    flat = np.full((8, 8, 4), (200, 10, 30, 5), np.uint8)
    for name in ("a.jpg", "b.tif"):
        red, green, blue = read_picture(saved(Image.fromarray(flat, "CMYK"), name)).mean(axis=(1, 2))
        assert red < 70 and green > 220 and blue > 200  # cyan, which an ink read the wrong way round would not be


def test_a_palette(tmp_path):
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
    (tmp_path / "a.png").write_bytes(png(3, 1, 8, 3, [[2, 0, 1]], palette))
    assert read_picture(tmp_path / "a.png").transpose(1, 2, 0).tolist() == [[[0, 0, 255], [255, 0, 0], [0, 255, 0]]]
    (tmp_path / "b.png").write_bytes(png(3, 1, 8, 3, [[2, 0, 1]], palette, transparent=bytes([0, 255, 255])))
    assert read_picture(tmp_path / "b.png").transpose(1, 2, 0).tolist() == [[[0, 0, 255], [255] * 3, [0, 255, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white_paper(saved, rng, mode):
    channels = len(mode)
    pixels = rng.integers(0, 256, (4, 6, channels)).astype(np.uint8)
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    colour, alpha = pixels[:, :, :-1].astype(float), pixels[:, :, -1:] / 255
    by_hand = np.broadcast_to(colour * alpha + 255 * (1 - alpha), (4, 6, 3))
    np.testing.assert_allclose(
        read_picture(saved(Image.fromarray(pixels, mode))).transpose(1, 2, 0), by_hand, atol=1.01
    )


def test_one_transparent_colour(tmp_path):
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 2, [[9, 8, 7, 1, 2, 3]], transparent=struct.pack(">HHH", 9, 8, 7)))
    assert read_picture(tmp_path / "a.png").transpose(1, 2, 0).tolist() == [[[255] * 3, [1, 2, 3]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits(saved, name):
    deep = np.array([[0, 128, 129, 257], [32768, 65279, 65407, 65535]], np.uint16)
    by_hand = [[0, 0, 1, 1], [128, 254, 255, 255]]  # divided by 257 and rounded
    assert read_picture(saved(deep, name), channels=1)[0].tolist() == by_hand
    assert read_picture(saved(deep, name))[2].tolist() == by_hand


def test_sixteen_bits_and_colours(tmp_path):
    row = struct.pack(">6H", 0, 65535, 32896, 257, 514, 771)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, [row]))
    assert np.abs(read_picture(tmp_path / "a.png")[:, 0].T.astype(int) - [[0, 255, 128], [1, 2, 3]]).max() <= 1


@pytest.mark.parametrize(
    "pixels, message",
    [
        (np.array([[70000, 1]], np.int32), "pixels of 32 bits, from 1 to 70000"),
        (np.ones((2, 2), np.float32), "floating"),
    ],
)
def test_ranges_that_nobody_knows(saved, pixels, message):
    path = saved(pixels, "a.tif")
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)


TURNS = {  # how a picture that was noted so is made upright, by hand
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
    9: lambda x: x,  # there is no such turn
}


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("noted", TURNS)
def test_a_turn_that_the_camera_noted_is_carried_out(saved, colours, noted, name):
    exif = Image.Exif()
    exif[274] = noted
    path = saved(colours, name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(read_picture(path), TURNS[noted](colours).transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # by Pillow
def test_a_note_in_jpeg_and_one_that_cannot_be_read(saved):
    half = np.zeros((16, 32, 3), np.uint8)
    half[:, :16] = 255  # white on the left
    exif = Image.Exif()
    exif[274] = 6
    got = read_picture(saved(half, "a.jpg", exif=exif))
    assert got.shape == (3, 32, 16) and got[:, :14].min() > 240 and got[:, 18:].max() < 15  # white on top
    got = read_picture(saved(half, "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense"))
    assert got.shape == (3, 16, 32)


def test_the_first_picture_of_an_animation(saved, colours):
    first, second = Image.fromarray(colours[:, :, 0]), Image.fromarray(255 - colours[:, :, 0])
    assert np.array_equal(
        read_picture(saved(first, "a.gif", save_all=True, append_images=[second]), channels=1)[0], colours[:, :, 0]
    )


@pytest.mark.parametrize(
    "size, expected", [((40, 20), (16, 8)), ((20, 40), (8, 16)), ((25, 10), (20, 8)), ((8, 9), (8, 9))]
)
def test_resize(saved, rng, size, expected):
    pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    got = read_picture(saved(pixels), resize=8)
    assert got.shape == (3, *expected)
    by_pillow = Image.fromarray(pixels).resize(expected[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(got, np.asarray(by_pillow).transpose(2, 0, 1))


def test_too_large(saved, colours, tmp_path):
    path = saved(colours)
    assert read_picture(path, max_pixels=35).shape == (3, 5, 7)
    with pytest.raises(ValueError, match=r"a\.png: 7×5 pixels are more than 34"):
        read_picture(path, max_pixels=34)
    with pytest.raises(ValueError, match="too long and thin"):
        read_picture(saved(np.zeros((1, 1000), np.uint8)), resize=100, max_pixels=10**6)
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, 8, 0, [[0]]))
    with pytest.raises(ValueError, match=r"bomb\.png: "):
        read_picture(tmp_path / "bomb.png")


NOISE = png(64, 64, 8, 0, np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))


@pytest.mark.parametrize(
    "content, message",
    [(b"", "not a picture"), (b"<html>", "not a picture"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
     (NOISE[:-900], "")],
    ids=["empty", "a web page", "a program", "cut off"],
)  # fmt: skip
def test_no_picture(tmp_path, content, message):
    """The formats that there are are told where another would help, and nowhere else."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.png: {message}") as caught:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(caught.value) and ("Known are JPEG" in str(caught.value)) is bool(message)


@contextmanager
def no_files(folder):
    """What would be waited for without end, or has none: pipe, socket and device."""
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket.png"))  # a whole path may be too long for one
        yield ("pipe.png", "device.png", "socket.png")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such files")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    with no_files(tmp_path) as names:
        for read, name in itertools.product((read_picture, open_picture), names):
            with pytest.raises(ValueError, match=rf"{name}: a pipe, a socket or a device") as caught:
                read(tmp_path / name)
            assert "Known are" not in str(caught.value)


def test_threads_wait_until_there_is_room(saved, rng, monkeypatch):
    """What is being read at one time never has more pixels than are allowed together; all are read in the end."""
    paths = [saved(rng.integers(0, 256, (h, 10)).astype(np.uint8), f"{h}.png") for h in (1, 3, 5, 6, 9, 10, 40)]
    monkeypatch.setattr(pictures, "_room", pictures._Room(100))
    lock, now, most, turned = threading.Lock(), [0], [0], pictures._turned

    def slowly(picture, image):
        with lock:
            now[0] += picture.width * picture.height
            most.append(now[0])
        time.sleep(0.002)
        with lock:
            now[0] -= picture.width * picture.height
        return turned(picture, image)

    monkeypatch.setattr(pictures, "_turned", slowly)
    with ThreadPoolExecutor(6) as pool:
        shapes = [read.shape[1] for read in pool.map(read_picture, paths * 5)]
    assert shapes == [1, 3, 5, 6, 9, 10, 40] * 5 and pictures._room.taken == 0
    assert sorted(set(most))[-1] == 400  # alone, as it is larger than the room
    assert max(pixels for pixels in most if pixels < 400) <= 100 and max(most) == 400


def test_a_picture_that_grows_takes_the_room_of_what_it_becomes(saved, monkeypatch):
    room, asked = pictures._Room(10**6), []
    monkeypatch.setattr(pictures, "_room", room)
    monkeypatch.setattr(room, "for_pixels", lambda count: asked.append(count) or pictures._Room(9).for_pixels(1))
    read_picture(saved(np.zeros((2, 30), np.uint8)), resize=20)
    read_picture(saved(np.zeros((20, 30), np.uint8)), resize=2)
    assert asked == [20 * 300, 600]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "CMYK"])
def test_the_memory_that_large_pictures_take(tmp_path, mode):
    """Four of the largest, noted to be turned, by as many threads, in a process of its own."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new(mode, (8900, 8900)).save(tmp_path / "a.tif", exif=exif, compression="tiff_adobe_deflate")
    code = f"""if True:
        import resource, sys
        from concurrent.futures import ThreadPoolExecutor
        from PIL import Image
        from minicnn.data import read_picture
        read_picture({str(tmp_path / "small.png")!r})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: read_picture(path, resize=64).shape, [{str(tmp_path / "a.tif")!r}] * 4))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"""
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < pictures.BYTES * pictures.MAX_PIXELS


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(OSError):
        read_picture(tmp_path)


def test_without_pillow(saved, colours, monkeypatch):
    path = saved(colours)
    lacking(monkeypatch, "PIL")
    with pytest.raises(ImportError, match=r"pictures need pillow: pip install -e '\.\[data\]'"):
        read_picture(path)


# ---------------------------------------------------------------------------------------------------- broken files


def samples() -> list[bytes]:
    """Small pictures of all formats and many kinds."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 10, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    kinds = [
        (colour, "JPEG", {"exif": exif}), (colour.convert("L"), "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}), (colour, "PNG", {"exif": exif}), (colour.convert("P"), "PNG", {}),
        (colour.convert("RGBA"), "PNG", {}), (colour, "GIF", {}), (colour, "BMP", {}), (colour, "TIFF", {"exif": exif}),
        (colour, "TIFF", {"compression": "tiff_lzw"}), (colour, "TIFF", {"compression": "jpeg"}),
        (colour.convert("CMYK"), "TIFF", {"compression": "tiff_deflate"}),
        (colour, "WEBP", {"exif": exif}), (colour, "WEBP", {"lossless": True}),
        (colour, "PPM", {}), (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG", {}),
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "TIFF", {}), (colour.convert("1"), "PPM", {}),
    ]  # fmt: skip
    found = []
    for picture, form, options in kinds:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


SAMPLES = samples()
MOST = 1 << 20  # pixels in a picture here
TOO_LARGE = png(6000, 6000, 8, 0, [b"\0" * 6000] * 6000)  # in a file of 35 kB


@st.composite
def damaged(draw, large: bool = False) -> bytes:
    """A picture with bytes changed, mostly in its header, a part doubled or left out, and perhaps cut; now and then a
    `large` one that may not be read."""
    data = bytearray(draw(st.just(TOO_LARGE) if large and draw(st.integers(0, 15)) == 0 else st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 6))):
        end = draw(st.sampled_from([min(64, len(data)), len(data)]))
        data[draw(st.integers(0, end - 1))] = draw(st.one_of(st.sampled_from(b"\0\1\x7f\x80\xff"), st.integers(0, 255)))
    if draw(st.booleans()):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 50))
        data[at:at] = data[at : at + size] if draw(st.booleans()) else bytes(size)
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    """A decoder may read as much as a file says that it has, or look through all of it for a beginning."""
    starts = {
        "a.webp": b"RIFF" + struct.pack("<I", 0x7FFFFFF0) + b"WEBPVP8 " + struct.pack("<I", 0x7FFFFF00),
        "a.png": png(4, 4, 8, 0, [b"\0" * 4] * 4)[:33] + struct.pack(">I", 0x7FFFFFFF) + b"IDAT",
        "a.jpg": b"\xff\xd8\xff\xe0",
    }
    for name, start in starts.items():
        path = tmp_path / name
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(8 << 30)  # sparse
        for read in (read_picture, open_picture):
            began = time.process_time()
            with pytest.raises(ValueError, match=rf"{name}: has 8,589,934,592 bytes, and a picture may have 1"):
                read(path)
            assert time.process_time() - began < 1


def test_a_file_as_large_as_may_be_takes_twice_its_size(tmp_path):
    code = """if True:
        import resource, sys
        from minicnn.data import read_picture
        read_picture(sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_picture(sys.argv[2])
        except ValueError as error:
            assert "may have" not in str(error)
        else:
            raise AssertionError
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"""
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    with open(tmp_path / "a.webp", "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 0x7FFFFFF0) + b"WEBPVP8 " + struct.pack("<I", 0x7FFFFF00))
        file.truncate(pictures.MAX_BYTES)
    paths = [str(tmp_path / "small.png"), str(tmp_path / "a.webp")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 2.1 * pictures.MAX_BYTES


def read_or_explain(data: bytes, path, **options) -> float:
    path.write_bytes(data)
    began = time.perf_counter()
    try:
        picture = read_picture(path, max_pixels=MOST, **options)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert picture.dtype == np.uint8 and picture.ndim == 3
    return time.perf_counter() - began


@pytest.mark.parametrize("read", [read_picture, open_picture])
def test_a_decoder_that_seeks_beyond_the_end_is_explained_with_the_name(tmp_path, read):
    """A BigTIFF whose directory is at 2⁴⁸: some file systems say EINVAL, without a name."""
    path = tmp_path / "a.tif"
    path.write_bytes(b"II+\0" + struct.pack("<HHQ", 8, 0, 1 << 48) + bytes(64))
    with pytest.raises(ValueError, match=r"a\.tif: "):
        read(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_the_samples_are_good(tmp_path, number):
    (tmp_path / "a").write_bytes(SAMPLES[number])
    assert read_picture(tmp_path / "a").shape[0] == 3


@pytest.mark.filterwarnings("ignore")  # as for those who use it: Pillow warns, and goes on
@given(damaged(), st.sampled_from([1, 3]), st.sampled_from([None, 5]))
def test_damaged_pictures_are_read_or_explained(tmp_path_factory, data, channels, resize):
    read_or_explain(data, tmp_path_factory.getbasetemp() / "damaged", channels=channels, resize=resize)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_damaged_pictures(tmp_path_factory):
    path, times = tmp_path_factory.getbasetemp() / "damaged", []

    @settings(max_examples=12_000)
    @given(damaged(large=True), st.sampled_from([1, 3]), st.sampled_from([None, 5]))
    def check(data, channels, resize):
        times.append(read_or_explain(data, path, channels=channels, resize=resize))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    assert len(times) >= 10_000 and max(times) < 10
    assert more * 1024 < 16 * MOST + (150 << 20)  # what pictures may take, and hypothesis
