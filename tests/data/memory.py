"""How much memory a call takes at most, as far as Python and NumPy allocate it."""

import tracemalloc


def peak_of(function, *arguments, **options) -> int:
    """Bytes beyond what was there before; tracing is on during the call alone, as it slows everything else down."""
    tracemalloc.start()
    try:
        function(*arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
