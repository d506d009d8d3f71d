"""A GPU's memory, on CuPy itself: what a convolution takes of it, and how arrays come there."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn import backend
from minicnn.engine import Tensor
from minicnn.functional import conv2d

pytestmark = pytest.mark.gpu


def allocated_in(step) -> list[int]:
    """Bytes of each allocation that `step` asks CuPy's pool for."""
    from cupy.cuda import MemoryHook

    class Note(MemoryHook):
        def malloc_preprocess(self, *, device_id, size, mem_size):
            sizes.append(size)

    sizes: list[int] = []
    with Note():
        step()
    return sizes


@pytest.mark.parametrize("images_at_a_time", [1, 3, 8])
def test_a_convolution_keeps_to_the_workspace(images_at_a_time, rng, monkeypatch):
    an_image = 8 * 25 * 12 * 12 * 4  # bytes of an image's columns
    monkeypatch.setattr(backend, "_max_workspace_size", images_at_a_time * an_image)
    input = Tensor(rng.standard_normal((8, 8, 12, 12)).astype(np.float32), requires_grad=True).to("cuda")
    weight = Tensor(rng.standard_normal((4, 8, 5, 5)).astype(np.float32), requires_grad=True).to("cuda")
    sizes = allocated_in(lambda: conv2d(input, weight, padding=2).sum().backward())
    assert max(sizes) == (images_at_a_time if images_at_a_time != 3 else 8 // 3 + 1) * an_image


def test_what_comes_from_the_host_is_staged_through_pinned_memory(rng):
    """CuPy's own doing: a transfer from memory that can be paged out would have to wait for the device."""
    import cupy

    pool, sizes = cupy.get_default_pinned_memory_pool(), []

    def noted(size: int):
        sizes.append(size)
        return pool.malloc(size)

    cupy.cuda.set_pinned_memory_allocator(noted)
    try:
        images = rng.standard_normal((8, 1, 28, 28)).astype(np.float32)
        assert (backend.to_host(backend.to_device(images, "cuda")) == images).all()
        assert sizes == [images.nbytes]
    finally:
        cupy.cuda.set_pinned_memory_allocator(pool.malloc)
