"""Convolution by im2col: every window of the input becomes a column, and the convolution one matrix product.

With K = C/groups·kh·kw entries in a window and P = N·out_h·out_w windows in the batch::

    columns = im2col(x)      (K, P)      a copy of the input, kh·kw times its size at stride 1
    y       = W · columns    (O, P)      W is the weight, one filter a row
    ∂L/∂W   = ∂L/∂y · columnsᵀ           (O, K)
    ∂L/∂x   = col2im(Wᵀ · ∂L/∂y)         windows overlap, so what comes back to one entry is added up

Groups are independent convolutions side by side: a stack of such products. The columns are not kept for
backward but built again, because for VGG's second layer they are 116 MB an image.

im2col is Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing",
2006, section 3.1. What networks call convolution is cross-correlation: the kernel is not flipped.
"""

from __future__ import annotations

from ..backend import Array, array_module, sliding_windows
from .shape import pad2d


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def im2col(input: Array, size, stride, padding, dilation, groups: int) -> Array:
    """(N, C, H, W) → (groups, C/groups·kh·kw, N·out_h·out_w)."""
    windows = sliding_windows(pad2d(input, padding), size, stride, dilation)
    n, c, out_h, out_w, kh, kw = windows.shape
    columns = windows.transpose(1, 4, 5, 0, 2, 3)  # (C, kh, kw, N, out_h, out_w), still a view
    return columns.reshape(groups, c // groups * kh * kw, n * out_h * out_w)  # the copy


def col2im(columns: Array, input_shape, output_hw, size, stride, padding, dilation) -> Array:
    """The transpose of `im2col`: add every window's entries back where they were taken. → (N, C, H, W)."""
    (n, c, h, w), (out_h, out_w), (kh, kw) = input_shape, output_hw, size
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    columns = columns.reshape(c, kh, kw, n, out_h, out_w)
    image = array_module(columns).zeros((c, n, h + 2 * ph, w + 2 * pw), dtype=columns.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dh, j * dw
            image[:, :, top : top + sh * out_h : sh, left : left + sw * out_w : sw] += columns[:, i, j]
    return image[:, :, ph : ph + h, pw : pw + w].transpose(1, 0, 2, 3)  # (N, C, H, W)


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    """Input (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) or None → (N, O, out_h, out_w)."""
    n, _, h, w = input.shape
    out_channels, _, *size = weight.shape
    out_h, out_w = map(output_size, (h, w), size, stride, padding, dilation)
    columns = im2col(input, size, stride, padding, dilation, groups)  # (groups, K, P)
    filters = weight.reshape(groups, out_channels // groups, -1)  # (groups, O/groups, K)
    output = (filters @ columns).reshape(out_channels, n, out_h, out_w)
    if bias is not None:
        output = output + bias.reshape(-1, 1, 1, 1)
    return output.transpose(1, 0, 2, 3), (input, weight)  # (N, O, out_h, out_w), a view


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    out_channels, _, *size = weight.shape
    grad = grad_output.transpose(1, 0, 2, 3).reshape(groups, out_channels // groups, -1)  # (groups, O/groups, P)
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        filters = weight.reshape(groups, out_channels // groups, -1)  # (groups, O/groups, K)
        columns = filters.transpose(0, 2, 1) @ grad  # (groups, K, P)
        grad_input = col2im(columns, input.shape, grad_output.shape[2:], size, stride, padding, dilation)
    if needs[1]:
        columns = im2col(input, size, stride, padding, dilation, groups)  # (groups, K, P)
        grad_weight = (grad @ columns.transpose(0, 2, 1)).reshape(weight.shape)
    if needs[2]:
        grad_bias = grad.sum(axis=2).reshape(out_channels)
    return grad_input, grad_weight, grad_bias
