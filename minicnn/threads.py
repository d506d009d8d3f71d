"""How many threads the arithmetic uses, and the helpers that share it.

The same seed shall give the same bits on any number of threads (design decision 11). So work is cut into parts that
depend on the work alone, threads take parts as they come free, and BLAS, whose thread count changes the bits of a
product, is held at one thread from the first operation on. That takes threadpoolctl (the extra ``fast``). Without it
the helpers rest: BLAS threads as it likes, and ``minicnn doctor`` says that the promise is withdrawn.
"""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from typing import Any, TypeVar

VARIABLE = "MINICNN_NUM_THREADS"
WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names of what it has for AVX-512

Part = TypeVar("Part")

_requested: int | None = None  # by set_num_threads
_blas_held: bool | None = None  # whether BLAS is held at one thread; None before the first operation
_all: list[_Helper] = []
_idle: list[_Helper] = []
_inside = threading.local()  # .busy in a thread that is working on a part: parts of parts run where they are


def cpu_count() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_num_threads() -> int:
    """The number of threads asked for: by `set_num_threads`, else by MINICNN_NUM_THREADS, else one per processor.

    Raises:
        ValueError: MINICNN_NUM_THREADS is not a whole number from 1 up.
    """
    if _requested is not None:
        return _requested
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return cpu_count()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{VARIABLE} is {text!r}: it must be a whole number from 1 up, or unset")
    return int(text)


def set_num_threads(n: int) -> None:
    """Compute with `n` threads from now on, in this process.

    Without threadpoolctl a RuntimeWarning says that BLAS keeps its own count.

    Raises:
        TypeError: `n` is not a whole number.
        ValueError: `n` is less than 1.
    """
    global _requested
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"set_num_threads: n must be a whole number, got {n!r}")
    if n < 1:
        raise ValueError(f"set_num_threads: n must be at least 1, got {n}")
    _requested = int(n)
    if not hold_blas():
        warnings.warn(
            f"set_num_threads({n}): BLAS keeps its own number of threads, because threadpoolctl is not installed. "
            "Add it with: pip install -e '.[fast]' (in minicnn's folder), or set OPENBLAS_NUM_THREADS or "
            "OMP_NUM_THREADS before Python starts",
            RuntimeWarning,
            stacklevel=2,
        )


def hold_blas() -> bool:
    """Hold BLAS at one thread; the engine calls it before every operation. False where threadpoolctl is missing."""
    global _blas_held
    if _blas_held is None:
        _blas_held = find_spec("threadpoolctl") is not None
        if _blas_held:
            import threadpoolctl

            threadpoolctl.threadpool_limits(1, user_api="blas")  # lasts: nothing restores it unless asked
    return _blas_held


def blas_libraries() -> list[dict[str, Any]] | None:
    """What threadpoolctl says of each BLAS in this process; None where it is not installed."""
    if find_spec("threadpoolctl") is None:
        return None
    import threadpoolctl

    return [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


@cache
def wide_blas() -> bool:
    """Whether BLAS multiplies 16 numbers at a time, twice as many as usual: an OpenBLAS on a processor with AVX-512."""
    return any(blas.get("architecture") in WIDE for blas in blas_libraries() or [])


class _Helper(threading.Thread):
    """A thread that sleeps until it is given work.

    Two locks do it. The standard library's pools keep queues and futures besides, and to hand them a task takes as
    long as many a task here: 100 µs.
    """

    def __init__(self) -> None:
        super().__init__(name="minicnn", daemon=True)
        self.given = threading.Lock()
        self.given.acquire()
        self.start()

    def begin(self, work: Callable[[], object]) -> None:
        self.finished, self.done = False, threading.Lock()
        self.done.acquire()
        self.work: Callable[[], object] | None = work
        self.given.release()

    def wait(self) -> None:
        """Until the work is done; if this is interrupted, wait again."""
        while not self.finished:
            self.done.acquire()

    def run(self) -> None:
        while True:
            self.given.acquire()
            assert self.work is not None
            self.work()
            self.work = None  # or its arrays would live on
            done = self.done  # who sees that it is finished may already give the next work
            self.finished = True
            done.release()


def run(work: Callable[[Part], Any], parts: Sequence[Part]) -> None:
    """Call ``work(part)`` for every part, on this thread and on helpers; return when all are done.

    The parts must not depend on each other. The first exception is raised here, after all threads have stopped.
    """
    alone_here = len(parts) < 2 or getattr(_inside, "busy", False)  # asked first: to count processors takes longer
    wanted = 0 if alone_here else min(get_num_threads(), len(parts)) - 1
    if wanted < 1 or not hold_blas():
        for part in parts:
            work(part)
        return
    ticket = itertools.count()  # next() on it is atomic
    errors: list[BaseException] = []

    def take_parts() -> None:
        try:
            with alone():
                while not errors and (i := next(ticket)) < len(parts):
                    work(parts[i])
        except BaseException as error:
            errors.append(error)

    helpers = _borrow(wanted)
    for helper in helpers:  # each in this thread's context, NumPy's error state included
        helper.begin(partial(copy_context().run, take_parts))
    take_parts()
    while not all(helper.finished for helper in helpers):
        try:
            for helper in helpers:
                helper.wait()
        except BaseException as error:  # Ctrl-C: not before nobody writes into the arrays any more
            errors.append(error)
    _idle.extend(helpers)
    if errors:
        first = errors[0]
        errors.clear()  # the error knows this frame, so the frame should not know the error
        try:
            raise first
        finally:
            del first


class alone:
    """Inside, if so, `run` keeps all parts on this thread: parts of parts, and what a helper would be late for."""

    def __init__(self, condition: bool = True):
        self.condition = condition

    def __enter__(self) -> None:
        self.before = getattr(_inside, "busy", False)
        _inside.busy = self.before or self.condition

    def __exit__(self, *_: object) -> None:
        _inside.busy = self.before


def _borrow(wanted: int) -> list[_Helper]:
    """Idle helpers, new ones if there are too few; fewer than `wanted` if others have them all."""
    helpers: list[_Helper] = []
    while len(helpers) < wanted:
        try:
            helpers.append(_idle.pop())  # atomic
        except IndexError:
            if len(_all) >= get_num_threads() - 1:
                break
            try:
                helpers.append(_Helper())
            except RuntimeError:  # no thread can be started here (a browser, a limit, the interpreter's end)
                break
            _all.append(helpers[-1])
    return helpers


@lru_cache(1024)
def pieces(total: int, most: int, even: bool = False) -> tuple[slice, ...]:
    """0 to `total` in slices of about the same length, none longer than `most` (or 1); if there are a few, an `even`
    number of them, so that two threads take as many each."""
    count = max(-(-total // max(most, 1)), 1)
    if even and 1 < count < min(total, 8):
        count += count % 2
    return tuple(slice(i * total // count, (i + 1) * total // count) for i in range(count))


def portions(items: list[Part], most: int) -> list[list[Part]]:
    """`items` in order, in at most so many lists of about the same length."""
    count = min(most, len(items))
    return [items[i * len(items) // count : (i + 1) * len(items) // count] for i in range(count)]


def each(work: Callable[[Part], object], items: Iterable[Part]) -> None:
    """Call ``work(item)`` for all of them, here and in order."""
    for item in items:
        work(item)


def _forget_helpers() -> None:
    """A forked child has the helpers' objects but none of their threads."""
    _idle.clear()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)
