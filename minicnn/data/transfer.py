"""The bytes at an address, as they arrive.

No server may make a download hang, swell or end halfway: each has a time and a size that it may not exceed.
"""

from __future__ import annotations

import http.client
import io
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SILENCE = 20.0  # seconds without a byte after which a server is given up
GRACE = 30.0  # seconds that a download may take at any speed, and its beginning at most
SLOWEST = 4096  # bytes a second that it must reach beyond that, on average
MAX_BYTES = 4 << 30  # of a file whose size is not known
CHUNK = 1 << 16


class Refused(Exception):
    """A server did not give the file. `for_good`: nor will it if asked again."""

    def __init__(self, reason: str, for_good: bool = False):
        super().__init__(" ".join(reason.split())[:200])  # a server may have written it
        self.for_good = for_good


def chunks(url: str, size: int | None) -> Iterator[bytes]:
    """The content at `url`, as it arrives, as long as it keeps to size and time.

    Args:
        size: in bytes, where it is known.

    Raises:
        Refused: it does not, or is not there.
    """
    began, received = time.monotonic(), 0

    def check_time() -> None:
        took = time.monotonic() - began
        if took > GRACE + received / SLOWEST:
            raise Refused(f"too slow, {received} bytes in {took:.0f} seconds")

    with _open(url) as response:
        response.fp = io.BufferedReader(_Watched(response.fp, check_time))
        while True:
            with _network():
                chunk = response.read1(CHUNK)
            if not chunk:
                break
            received += len(chunk)
            if received > (MAX_BYTES if size is None else size):
                raise Refused(f"sends more than the {MAX_BYTES if size is None else size} bytes expected")
            check_time()
            yield chunk
    if size is not None and received < size:
        raise Refused(f"cut off, sent {received} of {size} bytes")


class _Watched(io.RawIOBase):
    """`stream`, with a `check` before each wait for more.

    A chunked answer has lines that are no content (sizes, trailers). While they come, `read1` does not return.
    """

    def __init__(self, stream: Any, check: Callable[[], None]):
        self._stream, self._check = stream, check

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._check()
        return self._stream.readinto1(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _open(url: str) -> Any:
    """The server's answer. In a thread, as headers may come byte by byte, and no time limit of sockets stops that."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "minicnn"})
            response = urllib.request.urlopen(request, timeout=SILENCE)
        except Exception as error:
            answers.put(error)
        else:
            answers.put(response)
            if given_up.is_set():
                response.close()

    threading.Thread(target=ask, daemon=True, name="minicnn-download").start()
    with _network():
        try:
            answer = answers.get(timeout=GRACE)
        except queue.Empty:
            given_up.set()
            raise TimeoutError(f"no answer within {GRACE:g} seconds") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def _network() -> Iterator[None]:
    """What goes wrong inside is the server's fault or the network's, not the disk's."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise Refused(f"HTTP {error.code} {error.reason}", for_good=400 <= error.code < 500) from None
    except TimeoutError as error:
        raise Refused(str(error) if "answer" in str(error) else f"silent for {SILENCE:g} seconds") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Refused(f"{type(reason).__name__}: {reason}") from None
