"""Forward and backward passes on plain arrays: pure functions, no classes, no state.

Every operation is a pair, one beside the other::

    f_forward(*arrays, **params)                       -> output, saved
    f_backward(grad_output, saved, needs, **params)    -> one gradient per array, None where needs is False

`saved` is whatever the backward pass wants to remember; None will do where none can follow (`recording`). Inputs and
upstream gradients are never written to. The files here are array-neutral (NumPy or CuPy, real or complex: no casts, no
``abs`` of what should stay smooth). `naive` has the same passes as loops for reading and for testing, `fast` those of
the CPU engine room.
"""

from contextvars import ContextVar

# Whether a backward pass may follow (not in `minicnn.no_grad`): what takes long to save need not be made otherwise.
recording: ContextVar[bool] = ContextVar("recording", default=True)
