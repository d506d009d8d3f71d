"""The layers. Each holds its parameters and calls the function of the same name in `minicnn.functional`.

Weights start as in PyTorch: uniform in ±1/√fan_in, which is He's rule with a = √5 (and LeCun's up to a factor √3;
LeCun et al. 1998, "Efficient BackProp", section 4.6). Networks that their papers start otherwise do so in `models`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from .. import functional as F
from ..engine import Parameter, Tensor, is_dry_run
from . import init
from .module import Module


def _filled(number: float, *shape: int) -> np.ndarray:
    """An array of one number; in a dry run one that takes no memory."""
    if is_dry_run():
        return np.broadcast_to(np.float32(number), shape)
    return np.full(shape, number, np.float32) if number else np.zeros(shape, np.float32)


def _uniform(shape: tuple[int, ...], fan_in: int) -> Parameter:
    parameter = Parameter(_filled(0, *shape))
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    init.uniform_(parameter, -bound, bound)
    return parameter


class Conv2d(Module):
    """`functional.conv2d` with a weight (out_channels, in_channels/groups, kh, kw) and a bias (out_channels,)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = F.pair("Conv2d", "kernel_size", kernel_size)
        self.stride, self.dilation = F.pair("Conv2d", "stride", stride), F.pair("Conv2d", "dilation", dilation)
        self.padding = padding if isinstance(padding, str) else F.pair("Conv2d", "padding", padding, least=0)
        fan_in = in_channels // groups * math.prod(self.kernel_size)
        self.weight = _uniform((out_channels, in_channels // groups, *self.kernel_size), fan_in)
        self.register_parameter("bias", _uniform((out_channels,), fan_in) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding!r}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + ("" if self.bias is not None else ", bias=False")


class Linear(Module):
    """`functional.linear` with a weight (out_features, in_features) and a bias (out_features,)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _uniform((out_features, in_features), in_features)
        self.register_parameter("bias", _uniform((out_features,), in_features) if bias else None)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class BatchNorm2d(Module):
    """`functional.batch_norm` of images (N, C, H, W): weight γ = 1 and bias β = 0 at first, and running statistics.

    `momentum` is how far the running statistics move towards each batch's; None averages all batches so far.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", Parameter(_filled(1, num_features)) if affine else None)
        self.register_parameter("bias", Parameter(_filled(0, num_features)) if affine else None)
        self.register_buffer("running_mean", Tensor(_filled(0, num_features)) if track_running_stats else None)
        self.register_buffer("running_var", Tensor(_filled(1, num_features)) if track_running_stats else None)
        self.register_buffer(
            "num_batches_tracked", Tensor(np.zeros((), dtype=np.int64)) if track_running_stats else None
        )

    def forward(self, input: Tensor) -> Tensor:
        if len(input.shape) != 4:
            raise ValueError(f"{F.located('BatchNorm2d')}: input has shape {input.shape}, and must be (N, C, H, W)")
        momentum: Any = self.momentum or 0.0
        training = self.training or not self.track_running_stats
        if self.training and self.track_running_stats and not is_dry_run():
            with backend.beside(self.num_batches_tracked.data):
                self.num_batches_tracked.data += 1
                if self.momentum is None:  # where the count is: to read it would make the host wait
                    momentum = (1 / self.num_batches_tracked.data).astype(self.running_mean.dtype)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(input, mean, var, self.weight, self.bias, training, momentum, self.eps)

    def extra_repr(self) -> str:
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        text += "" if self.affine else ", affine=False"
        return text + ("" if self.track_running_stats else ", track_running_stats=False")


class LocalResponseNorm(Module):
    """`functional.local_response_norm` over `size` neighbouring channels."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class MaxPool2d(Module):
    """`functional.max_pool2d`."""

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class AvgPool2d(Module):
    """`functional.avg_pool2d`."""

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """`functional.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"{self.output_size}"


class ReLU(Module):
    """`functional.relu`; `inplace` is accepted and ignored."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input)


class Sigmoid(Module):
    """`functional.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(Module):
    """`functional.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class LeakyReLU(Module):
    """`functional.leaky_relu`; `inplace` is accepted and ignored."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{self.negative_slope}"


class ELU(Module):
    """`functional.elu`; `inplace` is accepted and ignored."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"{self.alpha}"


class SiLU(Module):
    """`functional.silu`; `inplace` is accepted and ignored."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input)


class Softplus(Module):
    """`functional.softplus`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Dropout(Module):
    """`functional.dropout`, active in training mode; `inplace` is accepted and ignored."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is {p}, and must be a probability between 0 and 1")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """`functional.flatten`, of all axes but the batch's by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return F.flatten(input, self.start_dim, self.end_dim)


class Identity(Module):
    """Its input; arguments are accepted and ignored, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class CrossEntropyLoss(Module):
    """`functional.cross_entropy`."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class MSELoss(Module):
    """`functional.mse_loss`."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.mse_loss(input, target, self.reduction)
