"""Files out of archives, good ones made by Python's tarfile, and hostile ones made by hand."""

import gzip
import io
import struct
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data.archive import BLOCK, extract, regular_files
from tests.data.memory import peak_of

FILES = {"top/a.txt": b"first", "top/deep/er/b.bin": bytes(range(256)) * 5, "top/empty": b"", "readme": b"read me"}
LIMIT = 1 << 20  # bytes that archives here may take


def tar(files=None, extra=(), **options) -> bytes:
    """An archive of `files` and of what `extra` says: (TarInfo, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in (FILES if files is None else files).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in extra:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(name, kind, target="", content=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def contents(path, max_bytes=LIMIT):
    return {name: read() for name, _, read in regular_files(path, max_bytes)}


@pytest.fixture
def archive(tmp_path):
    def write(data: bytes):
        path = tmp_path / "archive.tgz"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_wrote(archive, form, compress):
    long = {f"top/{'long' * 20}/{'name' * 20}": b"long", **FILES}
    if form != tarfile.USTAR_FORMAT:
        long |= {f"top/{'x' * 200}": b"longer", "top/Ünïcode": b"u"}
    path = archive(compress(tar(long, format=form)))
    assert contents(path) == long
    assert [size for _, size, _ in regular_files(path, LIMIT)] == [len(content) for content in long.values()]


def test_files_may_be_left_unread_and_are_read_once(archive):
    path = archive(tar())
    assert [name for name, _, _ in regular_files(path, LIMIT)] == list(FILES)
    for name, _, read in regular_files(path, LIMIT):
        assert read() == FILES[name] and read() == b""


def test_links_devices_and_folders_are_passed_over(archive):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    path = archive(tar(extra=[special(f"top/{i}", kind, "/etc/passwd") for i, kind in enumerate(kinds)]))
    assert contents(path) == FILES


GOOD = tar()
PACKED = gzip.compress(GOOD)


def changed(data, position, value):
    return data[:position] + bytes([value]) + data[position + 1 :]


def signed(header):
    """`header` with the checksum that it needs."""
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


HUGE_PAX = signed(
    changed(GOOD[:BLOCK], 156, ord("x"))[:124] + b"77777777777\0" + changed(GOOD[:BLOCK], 156, ord("x"))[136:]
)
BAD = {
    "empty": (b"", "cut off"),
    "a web page": (b"<!DOCTYPE html>".ljust(2000), "no archive of tar's"),
    "cut in a header": (GOOD[:300], "cut off"),
    "cut in a file": (GOOD[: BLOCK + 3], "cut off"),
    "cut between files": (GOOD[: 2 * BLOCK], "cut off"),
    "one bit in a header": (changed(GOOD, 3, GOOD[3] ^ 1), "checksum of a header is wrong"),
    "gzip cut": (PACKED[:-20], "cut off or damaged, gzip says"),
    "gzip checksum": (changed(PACKED, len(PACKED) - 6, PACKED[-6] ^ 1), "gzip says"),
    "gzip content": (changed(PACKED, 30, PACKED[30] ^ 8), "gzip says|no archive|cut off"),
    "a bomb": (gzip.compress(GOOD[:-BLOCK] + bytes(50 << 20)), "larger than it may be"),
    "a file too large": (gzip.compress(tar({"a": bytes(2 << 20)})), "larger than it may be"),
    "a huge extended header": (HUGE_PAX, "has a header of 8589934591 bytes"),
    "a negative size": (signed(GOOD[:124] + b"-0000000001\0" + GOOD[136:BLOCK]) + GOOD[BLOCK:], "is no number"),
    "a size in binary": (signed(GOOD[:124] + b"\x80" + b"\xff" * 11 + GOOD[136:BLOCK]) + GOOD[BLOCK:], "is no number"),
    "sparse": (signed(changed(GOOD[:BLOCK], 156, ord("S"))) + GOOD[BLOCK:], "sparse"),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD)
def test_bad_archives(archive, tmp_path, data, message):
    path = archive(data)

    def use_both():
        for use in (contents, lambda path: extract(path, tmp_path / "to", "top", LIMIT)):
            with pytest.raises(ValueError, match=message) as caught:
                use(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    assert peak_of(use_both) < 4 * LIMIT  # of a megabyte each
    assert not (tmp_path / "to").exists() or list((tmp_path / "to").iterdir()) == []


def test_extract(archive, tmp_path):
    path = archive(tar({**FILES, "top/._a.txt": b"from macOS", "./top/dot": b"."}))
    folder = extract(path, tmp_path / "to", "top", LIMIT)
    assert folder == tmp_path / "to" / "top"
    found = {f"top/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {name: content for name, content in FILES.items() if name != "readme"} | {"top/dot": b"."}
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["top"]
    (folder / "old").write_bytes(b"")
    extract(path, tmp_path / "to", "top", LIMIT)
    assert not (folder / "old").exists()


@pytest.mark.parametrize(
    "name", ["../out", "top/../../out", "/out", "top/..", "top\\..\\out", "C:out", "top/a\nb", "top/" + "x" * 300]
)
def test_no_name_leads_out(archive, tmp_path, name):
    path = archive(tar({"top/a": b"good", name: b"bad"}, format=tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match="leads out of the folder or makes no sense"):
        extract(path, tmp_path / "to", "top", LIMIT)
    assert list((tmp_path / "to").iterdir()) == [] and sorted(tmp_path.iterdir()) == [path, tmp_path / "to"]


def test_no_link_leads_out(archive, tmp_path):
    link = special("top/link", tarfile.SYMTYPE, str(tmp_path / "outside"))
    path = archive(tar({}, [link, special("top/link/file", tarfile.REGTYPE, content=b"bad")]))
    (tmp_path / "outside").mkdir()
    extract(path, tmp_path / "to", "top", LIMIT)
    assert list((tmp_path / "outside").iterdir()) == []
    assert (tmp_path / "to" / "top" / "link" / "file").read_bytes() == b"bad"


@pytest.mark.parametrize("second", ["top/a", "top/a/b", "./top//a"])
def test_a_name_twice(archive, tmp_path, second):
    path = archive(tar({"top/a": b"1"}, [special(second, tarfile.REGTYPE, content=b"2")]))
    with pytest.raises(ValueError, match="is in it twice"):
        extract(path, tmp_path / "to", "top", LIMIT)
    assert list((tmp_path / "to").iterdir()) == []


def test_extract_wants_something(archive, tmp_path):
    with pytest.raises(ValueError, match="has no files below other"):
        extract(archive(GOOD), tmp_path, "other", LIMIT)


# With extended headers and without.
BASES = [tar(format=tarfile.GNU_FORMAT), tar(format=tarfile.PAX_FORMAT), tar({"top/" + "x" * 150: b"long", **FILES})]


@st.composite
def hostile(draw) -> bytes:
    """An archive changed at some places, within compression and without, with headers signed anew, and cut."""
    data = bytearray(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(0, 4))):
        block = draw(st.integers(0, 7)) * BLOCK
        field, size = draw(st.sampled_from([(0, 100), (124, 12), (148, 8), (156, 1), (257, 8), (345, 155), (0, 512)]))
        at = block + field + draw(st.integers(0, size - 1))
        data[at] = draw(st.one_of(st.sampled_from(b"\0 01789LxgS/.\x80\xff"), st.integers(0, 255)))
        if draw(st.booleans()):
            data[block : block + BLOCK] = signed(bytes(data[block : block + BLOCK]))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.booleans()):
        data = bytearray(gzip.compress(bytes(data), 1))
        for _ in range(draw(st.integers(0, 2))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def unpack_or_explain(data: bytes, folder) -> None:
    path = folder / "hostile.tgz"
    path.write_bytes(data)
    try:
        assert sum(map(len, contents(path).values())) <= LIMIT
    except ValueError as error:
        assert str(path) in str(error)  # ours
        if len(data) % 8:  # unpacking meets the same error, and takes longer to
            return
    try:
        extract(path, folder / "to" / "here", "top", LIMIT)
    except ValueError as error:
        assert str(path) in str(error)
    assert {p.name for p in folder.iterdir()} <= {"hostile.tgz", "to"}
    assert {p.name for p in (folder / "to").iterdir()} <= {"here"}
    assert {p.name for p in (folder / "to" / "here").iterdir()} <= {"top"}


@given(hostile())
def test_hostile_archives_are_read_or_explained(tmp_path_factory, data):
    unpack_or_explain(data, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.long
def test_ten_thousand_hostile_archives(tmp_path_factory):
    folder, peaks = tmp_path_factory.mktemp("fuzz"), []

    @settings(max_examples=10_000)
    @given(hostile())
    def check(data):
        peaks.append(peak_of(unpack_or_explain, data, folder))

    check()
    assert len(peaks) >= 10_000 and max(peaks) < 3 * LIMIT


def test_a_pax_header_decides_on_name_and_size(archive):
    """By hand: the header says 3 bytes, its extension 5."""
    body = b"9 size=5\n" + b"16 path=top/pax\n"
    assert len(b"16 path=top/pax\n") == 16 and len(b"9 size=5\n") == 9
    extension = bytearray(GOOD[:BLOCK])
    extension[156:157], extension[124:136] = b"x", b"%011o\0" % len(body)
    plain = bytearray(GOOD[:BLOCK])
    plain[124:136] = b"%011o\0" % 3
    data = signed(bytes(extension)) + body.ljust(BLOCK, b"\0") + signed(bytes(plain)) + b"12345".ljust(BLOCK, b"\0")
    assert contents(archive(data + bytes(2 * BLOCK))) == {"top/pax": b"12345"}


@pytest.mark.parametrize(
    "body", [b"9 size=5", b"0 size=5\n", b"x size=5\n", b"9 sizes5\n", b"\n" * 9, b"9999999999999999 a=b\n"]
)
def test_a_pax_header_that_makes_no_sense(archive, body):
    extension = bytearray(GOOD[:BLOCK])
    extension[156:157], extension[124:136] = b"x", b"%011o\0" % len(body)
    with pytest.raises(ValueError, match="no archive of tar's, or damaged"):
        contents(archive(signed(bytes(extension)) + body.ljust(BLOCK, b"\0") + GOOD))


def test_the_checksum_is_tars_own():
    assert struct.unpack("8s", GOOD[148:156])[0].rstrip(b"\0 ") == b"%06o" % (
        sum(GOOD[:148]) + 256 + sum(GOOD[156:512])
    )
