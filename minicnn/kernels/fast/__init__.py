"""The CPU engine room: passes with the names and signatures of the array-neutral ones, for NumPy arrays.

An operation that is not here takes the array-neutral form.
"""

from .conv import conv2d_backward, conv2d_forward

__all__ = ["conv2d_backward", "conv2d_forward"]
