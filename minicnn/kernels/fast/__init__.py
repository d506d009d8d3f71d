"""The CPU engine room: passes with the names and signatures of the array-neutral ones, for NumPy arrays.

An operation that is not here takes the array-neutral form.
"""

from .activation import (
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    tanh_backward,
    tanh_forward,
)
from .conv import ALGORITHMS, conv2d_backward, conv2d_forward, forced
from .elementwise import add_backward, add_forward
from .epilogue import Offer, offered
from .linear import linear_backward, linear_forward
from .norm import (
    batch_norm_eval_backward,
    batch_norm_eval_forward,
    batch_norm_train_backward,
    batch_norm_train_forward,
    local_response_norm_backward,
    local_response_norm_forward,
)
from .pool import (
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from .shape import cat_backward, cat_forward

__all__ = [
    "ALGORITHMS", "Offer", "adaptive_avg_pool2d_backward", "adaptive_avg_pool2d_forward", "add_backward", "add_forward",
    "avg_pool2d_backward", "avg_pool2d_forward", "batch_norm_eval_backward", "batch_norm_eval_forward",
    "batch_norm_train_backward", "batch_norm_train_forward", "cat_backward", "cat_forward", "conv2d_backward",
    "conv2d_forward", "forced", "leaky_relu_backward", "leaky_relu_forward", "linear_backward", "linear_forward",
    "local_response_norm_backward", "local_response_norm_forward", "max_pool2d_backward", "max_pool2d_forward",
    "offered", "relu_backward", "relu_forward", "sigmoid_backward", "sigmoid_forward", "tanh_backward", "tanh_forward",
]  # fmt: skip
