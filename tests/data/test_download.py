"""Downloads from a server on this machine that is slow, cuts off, or gives other files."""

import builtins
import hashlib
import importlib
import io
import os
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data import DownloadError, download, home, transfer
from tests.data.server import BAD, CHUNKED, GOOD, serving

CONTENT = bytes(range(256)) * 40
OLD = b"what was there before"
REMOTE = download.Remote("some.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
SIZELESS = REMOTE._replace(size=None)
SLOWEST = {"slow chunk-size line", "endless trailers"}  # these take ten seconds in four tries
SLOW = {"slow", "silent", "slow headers"} | SLOWEST  # a second each, or more
LIMIT = 30  # seconds that no test here may take; most take less than one


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module, name, value in (
        (download, "ROUNDS", 2),
        (download, "PAUSE", 0),
        (transfer, "SILENCE", 0.6),
        (transfer, "GRACE", 1.0),
        (transfer, "MAX_BYTES", 1 << 20),
    ):
        monkeypatch.setattr(module, name, value)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")


def mirrors(server):
    return [f"{server.address}/a/", f"{server.address}/b/"]


def both(first, second=GOOD):
    """A server with two mirrors, and what they do request by request."""
    return serving({"/a/some.bin": CONTENT, "/b/some.bin": CONTENT}, {"/a/some.bin": first, "/b/some.bin": [second]})


def test_a_file_arrives(tmp_path):
    with both([GOOD]) as server:
        path = download.fetch(REMOTE, mirrors(server), tmp_path / "new" / "folder")
        assert path == tmp_path / "new" / "folder" / "some.bin" and path.read_bytes() == CONTENT
        assert download.fetch(REMOTE, mirrors(server), path.parent) == path
        assert server.requests == ["/a/some.bin"]  # the second time it was there


@pytest.mark.parametrize("remote", [REMOTE, SIZELESS])
def test_a_file_arrives_in_chunks(tmp_path, remote):
    with both([CHUNKED], "500") as server:
        assert download.fetch(remote, mirrors(server), tmp_path).read_bytes() == CONTENT
        assert server.served == [CHUNKED]


def test_a_wrong_file_in_the_cache_is_replaced(tmp_path):
    (tmp_path / "some.bin").write_bytes(OLD)
    with both([GOOD]) as server:
        assert download.fetch(REMOTE, mirrors(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "behaviour, remote", [*((bad, REMOTE) for bad in BAD), *((bad, SIZELESS) for bad in BAD if bad not in SLOW)]
)
def test_the_next_mirror_helps(tmp_path, behaviour, remote):
    began = time.monotonic()
    with both([behaviour]) as server:
        assert download.fetch(remote, mirrors(server), tmp_path).read_bytes() == CONTENT
        assert server.served[-1] == GOOD and set(server.served[:-1]) == {behaviour}
    assert [path.name for path in tmp_path.iterdir()] == ["some.bin"]
    assert time.monotonic() - began < LIMIT


@pytest.mark.parametrize("behaviour", sorted(set(BAD) - {"404"}))
def test_another_try_helps(tmp_path, behaviour):
    with serving({"/some.bin": CONTENT}, {"/some.bin": [behaviour, GOOD]}) as server:
        again = [f"{server.address}/"]
        if behaviour == "loop":  # urllib asks the same address a few times itself
            server.behaviours["/some.bin"] = [behaviour] * 3 + [GOOD]
        assert download.fetch(REMOTE, again, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "behaviour, there",
    [
        *(pytest.param(bad, OLD, marks=[pytest.mark.long] * (bad in SLOWEST)) for bad in BAD),
        *((bad, None) for bad in BAD if bad not in SLOW),
    ],
)
def test_where_nothing_helps_one_error_says_why_and_what_to_do(tmp_path, behaviour, there):
    if there is not None:
        (tmp_path / "some.bin").write_bytes(there)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with both([behaviour], behaviour) as server:
        with pytest.raises(DownloadError) as caught:
            download.fetch(REMOTE, mirrors(server), tmp_path)
        message = str(caught.value)
    for part in ("some.bin", *mirrors(server), str(tmp_path), REMOTE.sha256, "By hand: fetch", "with a browser"):
        assert part in message
    assert "\n" not in message
    reason = {
        "404": "HTTP 404", "500": "HTTP 500", "cut": "cut off, sent 5120 of 10240 bytes",
        "endless": "more than the 10240",
        "cut, unannounced": "cut off, sent 5120", "wrong": "gave another file", "longer": "more than the 10240",
        "slow": "too slow", "slow chunk-size line": "too slow, 5120 bytes", "endless trailers": "too slow, 10240 bytes",
        "silent": "silent for 0.6 seconds", "slow headers": "no answer within 1 seconds",
        "nonsense": "BadStatusLine", "loop": "HTTP 302",
    }.get(behaviour, "Error")  # fmt: skip
    assert message.count(reason) >= 2  # of both mirrors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_not_there_is_asked_for_once(tmp_path):
    with serving({}) as server:
        with pytest.raises(DownloadError, match="HTTP 404 Not Found"):
            download.fetch(REMOTE, mirrors(server), tmp_path)
        assert server.requests == ["/a/some.bin", "/b/some.bin"]


def test_no_server_at_all(tmp_path):
    with serving({}) as server:
        gone = mirrors(server)
    with pytest.raises(DownloadError, match="ConnectionRefusedError"):
        download.fetch(REMOTE, gone, tmp_path)


def check_any_sequence(folder, first, second):
    """The right file in the end, or one error; nothing else in the cache. Right if any answer was."""
    for path in folder.iterdir():
        path.unlink()
    with serving(
        {"/a/some.bin": CONTENT, "/b/some.bin": CONTENT}, {"/a/some.bin": first, "/b/some.bin": second}
    ) as server:
        try:
            path = download.fetch(REMOTE, mirrors(server), folder)
        except DownloadError:
            assert GOOD not in server.served
            assert list(folder.iterdir()) == []
        else:
            assert server.served.count(GOOD) == 1
            assert path.read_bytes() == CONTENT and list(folder.iterdir()) == [path]


QUICK = st.sampled_from(sorted({GOOD, *BAD} - SLOW))


@settings(max_examples=15)
@given(st.lists(QUICK, min_size=1, max_size=3), st.lists(QUICK, min_size=1, max_size=3))
def test_any_sequence_of_answers(tmp_path_factory, first, second):
    check_any_sequence(tmp_path_factory.mktemp("cache"), first, second)


@pytest.mark.long
@settings(max_examples=600)
@given(*[st.lists(QUICK, min_size=1, max_size=4)] * 2)
def test_any_sequence_of_answers_at_length(tmp_path_factory, first, second):
    check_any_sequence(tmp_path_factory.mktemp("cache"), first, second)


def test_many_at_once_leave_one_right_file(tmp_path):
    with both([GOOD]) as server:
        paths = []
        threads = [
            threading.Thread(target=lambda: paths.append(download.fetch(REMOTE, mirrors(server), tmp_path)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert paths == [tmp_path / "some.bin"] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["some.bin"] and paths[0].read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_servers(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with both([GOOD]) as server:
        with pytest.raises(OSError) as caught:
            download.fetch(REMOTE, mirrors(server), tmp_path / "file")
        assert not isinstance(caught.value, DownloadError) and server.requests == []


def test_a_full_disk_is_no_fault_of_the_servers(tmp_path, monkeypatch):
    real = builtins.open

    def full(path, mode="r", *rest, **more):
        if "w" in mode and str(path).startswith(str(tmp_path)):
            raise OSError(28, "No space left on device", str(path))
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", full)
    with both([GOOD]) as server, pytest.raises(OSError, match="No space left") as caught:
        download.fetch(REMOTE, mirrors(server), tmp_path)
    assert not isinstance(caught.value, DownloadError) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["pooch", "tqdm"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, missing):
    lacking(monkeypatch, missing)
    with pytest.raises(ImportError, match=rf"downloads need {missing}: pip install -e '\.\[data\]'"):
        download.fetch(REMOTE, ["http://127.0.0.1:9/"], tmp_path)


def lacking(monkeypatch, missing):
    real = importlib.import_module

    def import_module(name, package=None):
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_nothing_elsewhere(tmp_path, monkeypatch, terminal):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", Screen())
    with both([GOOD]) as server:
        download.fetch(REMOTE, mirrors(server), tmp_path)
    written = sys.stderr.getvalue()
    assert ("some.bin: 100%" in written and "10.2k" in written) if terminal else written == ""


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("MINICNN_HOME", "~/sets")
    assert home() == home().expanduser() and home().name == "sets"
    monkeypatch.delenv("MINICNN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home().name == "minicnn" and home().is_absolute()
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert home() == tmp_path / "minicnn"
    lacking(monkeypatch, "platformdirs")
    with pytest.raises(ImportError, match=r"need platformdirs: pip install -e '\.\[data\]'"):
        home()
