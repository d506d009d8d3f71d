"""Threads that share work, and the promise that their number changes no bit."""

import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, threads
from minicnn import functional as F
from minicnn.kernels.fast import conv
from minicnn.kernels.fast import scratch as fast_scratch
from minicnn.kernels.fast.scratch import scratch


@pytest.fixture
def count():
    """Set the number of threads for one test."""
    before = threads._requested
    yield minicnn.set_num_threads
    threads._requested = before


def gradients(n, count):
    count(n)
    rng = np.random.default_rng(0)
    shapes = ((37, 6, 14, 14), (16, 3, 5, 5), (16,))
    x, w, b = (Tensor(rng.normal(size=shape).astype(np.float32), requires_grad=True) for shape in shapes)
    out = F.conv2d(x, w, b, padding=1, groups=2)
    out.backward(rng.normal(size=out.shape).astype(np.float32))
    return [out.data, x.grad, w.grad, b.grad]


def test_the_number_of_threads_changes_no_bit(count):
    one, two, five = (gradients(n, count) for n in (1, 2, 5))
    for a, b, c in zip(one, two, five, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


def test_every_part_is_done_once_by_more_than_one_thread(count):
    count(3)
    done, who, gate = [], set(), threading.Barrier(2, timeout=20)

    def work(part):
        if part in (0, 1):
            gate.wait()  # passes only if two threads are at work
        done.append(part)
        who.add(threading.get_ident())

    threads.run(work, range(50))
    assert sorted(done) == list(range(50)) and len(who) > 1


def test_parts_of_parts_run_where_they_are(count):
    count(2)
    seen = []

    def outer(part):
        threads.run(lambda inner: seen.append((part, inner, threading.get_ident())), range(4))

    threads.run(outer, range(4))
    assert sorted((a, b) for a, b, _ in seen) == [(a, b) for a in range(4) for b in range(4)]
    assert all(len({t for a, _, t in seen if a == part}) == 1 for part in range(4))


def test_who_works_alone_keeps_its_parts(count):
    count(2)

    def who():
        seen = set()
        threads.run(lambda part: (time.sleep(0.002), seen.add(threading.get_ident())), range(20))
        return seen

    with threads.alone():
        with threads.alone(False):  # changes nothing
            assert who() == {threading.get_ident()}
        assert who() == {threading.get_ident()}
    with pytest.raises(KeyError), threads.alone():
        raise KeyError
    with threads.alone(False):
        assert len(who()) == 2


@pytest.mark.parametrize("n", [1, 2])
def test_an_exception_in_any_part_arrives_and_the_helpers_live_on(n, count):
    count(n)

    def work(part):
        if part == 3:
            raise KeyError("part 3")

    with pytest.raises(KeyError, match="part 3"):
        threads.run(work, range(8))
    done = []
    threads.run(done.append, range(8))
    assert sorted(done) == list(range(8))


def test_who_is_interrupted_leaves_when_nobody_writes_any_more(count):
    """Ctrl-C reaches this thread alone, while the other is in the middle of a part."""
    count(2)
    main, busy, done = threading.get_ident(), threading.Event(), []

    def work(part):
        if threading.get_ident() == main:
            assert busy.wait(20)
            raise KeyboardInterrupt
        busy.set()
        time.sleep(0.2)
        done.append(part)

    with pytest.raises(KeyboardInterrupt):
        threads.run(work, range(2))
    assert len(done) == 1


def test_an_interruption_while_waiting_waits_on(count, monkeypatch):
    count(2)
    main, begun, done = threading.get_ident(), threading.Event(), []
    wait, interruptions = threads._Helper.wait, [KeyboardInterrupt, KeyboardInterrupt]

    def interrupted(helper):
        if interruptions:
            raise interruptions.pop()
        wait(helper)

    def work(part):
        if threading.get_ident() == main:
            assert begun.wait(20)
        else:
            begun.set()
            time.sleep(0.2)
            done.append(part)

    monkeypatch.setattr(threads._Helper, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(work, range(2))
    assert len(done) == 1 and not interruptions


def test_threads_of_the_users_own_share_the_helpers(count):
    """Whoever finds no helper idle works alone; nobody's parts get lost."""
    count(3)
    results = {}

    def use(name):
        for _ in range(50):
            done = []
            threads.run(done.append, range(7))
            results.setdefault(name, []).append(sorted(done) == list(range(7)))

    users = [threading.Thread(target=use, args=(name,)) for name in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert results == {name: [True] * 50 for name in range(4)}
    assert len(threads._idle) == len(threads._all)


def test_helpers_keep_nothing_of_the_work(count):
    count(2)
    array = np.ones(3)
    known = weakref.ref(array)

    def work(part, array=array):
        time.sleep(0.01)

    threads.run(work, range(8))
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda part, array=array: 1 / 0, range(8))
    del work, array
    assert known() is None


def test_without_threadpoolctl_the_helpers_rest(count, monkeypatch):
    count(2)
    monkeypatch.setattr(threads, "_blas_held", False)
    who = set()
    threads.run(lambda part: who.add(threading.get_ident()), range(20))
    assert who == {threading.get_ident()}
    with pytest.warns(RuntimeWarning, match=r"BLAS keeps its own.*\[fast\]"):
        minicnn.set_num_threads(2)


def test_where_no_thread_can_be_started_the_work_is_done_all_the_same(count, monkeypatch):
    count(2)

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._Helper, "start", start)
    monkeypatch.setattr(threads, "_all", [])
    monkeypatch.setattr(threads, "_idle", [])
    done = []
    threads.run(done.append, range(5))
    assert done == list(range(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_its_own_helpers():
    code = """
import os, sys, minicnn
from minicnn import threads
minicnn.set_num_threads(2)
threads.run(lambda part: None, range(4))
child = os.fork()
if child == 0:
    done = []
    threads.run(done.append, range(4))
    os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


def test_numbers_of_threads_that_cannot_be(count, monkeypatch):
    for n, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="set_num_threads"):
            count(n)
    monkeypatch.setattr(threads, "_requested", None)
    for text in ("0", "two", "-1"):
        monkeypatch.setenv("MINICNN_NUM_THREADS", text)
        with pytest.raises(ValueError, match=rf"MINICNN_NUM_THREADS is '{text}'"):
            threads.get_num_threads()
    monkeypatch.setenv("MINICNN_NUM_THREADS", "3")
    assert threads.get_num_threads() == 3
    monkeypatch.delenv("MINICNN_NUM_THREADS")
    assert threads.get_num_threads() == threads.cpu_count()


@pytest.mark.parametrize(("architecture", "wide"), [("SkylakeX", True), ("Haswell", False), (None, False)])
def test_blas_that_has_avx512_is_known_by_name_and_products_are_estimated_by_it(monkeypatch, architecture, wide):
    blas = {"internal_api": "openblas"} | ({"architecture": architecture} if architecture else {})
    monkeypatch.setattr(threads, "blas_libraries", lambda: [blas])
    threads.wide_blas.cache_clear()
    try:
        assert threads.wide_blas() is wide
        able = conv.algorithms((16, 64, 14, 14), (64, 64, 3, 3), np.dtype("f4"), (1, 1), (1, 1), (1, 1), 1)
        quickest = min(able, key=lambda name: able[name].cost())
        assert quickest == ("im2col" if wide else "winograd")  # where products cost half, the transforms do not pay
    finally:
        threads.wide_blas.cache_clear()


def test_blas_is_held_at_one_thread_from_the_first_operation():
    code = """
import threadpoolctl, minicnn
def count():
    return {b["num_threads"] for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"}
before = count()
minicnn.Tensor([1.0]) + 1.0
assert count() == {1}, count()
print(before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_large_scratch_arrays_are_not_kept():
    fast_scratch._kept.__dict__.clear()
    numbers = fast_scratch.LARGEST_KEPT // 4
    big = scratch("columns", (numbers + 1,), np.float32)
    assert big.size == numbers + 1 and not fast_scratch._kept.__dict__.get("arrays")
    first = scratch("columns", (4, 5), np.float32)
    assert np.shares_memory(first, scratch("columns", (3, 2), np.float32))
    assert not np.shares_memory(first, scratch("product", (3, 2), np.float32))
    assert not np.shares_memory(first, scratch("columns", (3, 2), np.float64))
