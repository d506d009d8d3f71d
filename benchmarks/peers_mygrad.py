"""MyGrad 2, with what it lacks put together from what it has.

Its windows must fit exactly and its pooling does not pad, so maps are framed with zeros or cut (after ReLU a zero is as
good as minus infinity). Average pooling is a mean over axes, evaluation-mode batch norm is arithmetic. It has no
optimisers: that step is NumPy. It has no grouped convolution and no response normalisation.
"""

from __future__ import annotations

import mygrad as mg
import numpy as np
from mygrad.nnet.activations import relu
from mygrad.nnet.layers import batchnorm, conv_nd, max_pool
from mygrad.nnet.losses import softmax_crossentropy
from peers import SGD, Peer, Unsupported, bins, window

mg.turn_memory_guarding_off()  # as its documentation advises where speed matters


def framed(x, kernel, stride, padding, ceil_mode=False):
    """`x` with a frame of zeros, grown or cut at its lower right so that the windows fit exactly."""
    sides = []
    for side, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True):
        steps = side + 2 * p - k
        sides.append((-(-steps // s) if ceil_mode else steps // s) * s + k)
    if tuple(sides) == x.shape[2:]:
        return x
    (height, width), (top, left) = sides, padding
    inside = x[:, :, : height - top, : width - left]
    frame = mg.zeros((*x.shape[:2], height, width), dtype=x.dtype)
    frame[:, :, top : top + inside.shape[2], left : left + inside.shape[3]] = inside
    return frame


def averaged(x, size):
    """Means of windows of `size` that lie side by side."""
    n, channels, height, width = x.shape
    rows, columns = height // size[0], width // size[1]
    x = x[:, :, : rows * size[0], : columns * size[1]]
    return x.reshape(n, channels, rows, size[0], columns, size[1]).mean(axis=(3, 5))


class MyGrad(Peer):
    library, package = "MyGrad", "mygrad"

    def __init__(self, *args):
        super().__init__(*args)
        self.generator = np.random.default_rng(0)
        self.velocities = [np.zeros_like(weight.data) for weight in self.weights]

    def parameter(self, x):
        return mg.tensor(np.ascontiguousarray(x.T) if x.ndim == 2 else x)  # linear weights as MyGrad's users have them

    def cross_entropy(self, scores, labels):
        return softmax_crossentropy(scores, labels)

    def update(self, loss):
        loss.backward()
        for weight, velocity in zip(self.weights, self.velocities, strict=True):
            gradient = weight.grad + SGD["weight_decay"] * weight.data
            velocity *= SGD["momentum"]
            velocity += gradient
            weight.data[...] -= SGD["lr"] * velocity
            weight.null_grad()

    def infer(self):
        with mg.no_autodiff:
            return self.evaluation.run(self.weights, mg.tensor(self.images))[0].data

    def step(self):
        images, self.images = self.images, mg.tensor(self.images, constant=True, copy=False)
        try:
            return super().step()
        finally:
            self.images = images

    def number(self, loss):
        return loss.item()

    def conv2d(self, x, weight, bias, *, stride, padding, dilation, groups):
        if groups != 1 or tuple(dilation) != (1, 1):
            raise Unsupported("it has no grouped convolution")
        sides = zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)
        if any((side + 2 * p - k) % s for side, p, k, s in sides):
            x, padding = framed(x, weight.shape[2:], stride, padding), (0, 0)
        y = conv_nd(x, weight, stride=tuple(stride), padding=tuple(padding))
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)

    def max_pool2d(self, x, *, kernel_size, stride, padding, dilation, ceil_mode):
        if tuple(dilation) != (1, 1):
            raise Unsupported("it has no dilated pooling")
        return max_pool(framed(x, kernel_size, stride, padding, ceil_mode), kernel_size, tuple(stride))

    def avg_pool2d(self, x, *, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
        if stride != kernel_size or any(padding) or ceil_mode or divisor_override:
            raise Unsupported("it has no average pooling; a mean over axes does where windows lie side by side")
        return averaged(x, kernel_size)

    def adaptive_avg_pool2d(self, x, *, output_size):
        size = window(x.shape, output_size)
        if size is None:  # two products with the matrices of the bins
            for count in output_size[::-1]:
                x = mg.swapaxes(mg.matmul(x, bins(x.shape[3], count)), 2, 3)
            return x
        return x if size == (1, 1) else averaged(x, size)

    def batch_norm(self, x, weight, bias, *, layer, eps):
        y = batchnorm(x, gamma=weight, beta=bias, eps=eps)
        count = x.size // x.shape[1]
        batch = y.creator.mean, y.creator.var * np.float32(count / max(count - 1, 1))
        for running, now in zip(self.statistics[id(layer)], batch, strict=True):
            running += np.float32(layer.momentum) * (now - running)
        return y

    def batch_norm_eval(self, x, weight, bias, *, layer, eps):
        mean, var = (a.reshape(1, -1, 1, 1) for a in self.statistics[id(layer)])
        scale = weight.reshape(1, -1, 1, 1) / np.sqrt(var + np.float32(eps))
        return (x - mean) * scale + bias.reshape(1, -1, 1, 1)

    def dropout(self, x, *_, layer):
        if not self.dropping:
            return x
        return x * (self.generator.random(x.shape, np.float32) >= layer.p).astype(x.dtype) / np.float32(1 - layer.p)

    def linear(self, x, weight, bias):
        y = mg.matmul(x, weight)
        return y if bias is None else y + bias

    def reshape(self, x, *, shape):
        return x.reshape(shape)

    def cat(self, *xs, dim):
        return mg.concatenate(xs, axis=dim)

    add = staticmethod(mg.add)
    relu = staticmethod(relu)
    tanh = staticmethod(mg.tanh)


CONTENDER = MyGrad
