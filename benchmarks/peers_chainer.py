"""Chainer 7.8, the last, on a NumPy that is younger than it."""

from __future__ import annotations

import numpy as np

# What Chainer asks NumPy for when it is imported; NumPy 2 took it away. So it is put back, and imports come after it.
np.sctypes = {  # noqa: NPY201 - it is set here, not used
    "int": [np.int8, np.int16, np.int32, np.int64],
    "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
    "float": [np.float16, np.float32, np.float64],
}

import chainer  # noqa: E402 - needs sctypes
import chainer.functions as F  # noqa: E402 - needs sctypes
from chainer import optimizers  # noqa: E402 - needs sctypes
from chainer.optimizer_hooks import WeightDecay  # noqa: E402 - needs sctypes
from peers import SGD, Peer, Unsupported, bins, window  # noqa: E402 - needs sctypes


class Chainer(Peer):
    library, package = "Chainer", "chainer"

    def __init__(self, model, images, labels):
        super().__init__(model, images, labels.astype(np.int32))
        link = chainer.Link()
        for i, weight in enumerate(self.weights):
            link._params.add(f"p{i}")
            link.__dict__[f"p{i}"] = weight
        self.optimizer = optimizers.MomentumSGD(SGD["lr"], SGD["momentum"]).setup(link)
        self.optimizer.add_hook(WeightDecay(SGD["weight_decay"]))

    def parameter(self, x):
        return chainer.Parameter(x)

    def cross_entropy(self, scores, labels):
        return F.softmax_cross_entropy(scores, labels)

    def update(self, loss):
        self.optimizer.target.cleargrads()
        loss.backward()
        self.optimizer.update()

    def infer(self):
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            return self.evaluation.run(self.weights, chainer.as_variable(self.images))[0].array

    def number(self, loss):
        return float(loss.array)

    def conv2d(self, x, weight, bias, *, stride, padding, dilation, groups):
        return F.convolution_2d(x, weight, bias, stride, padding, dilate=dilation, groups=groups)

    def max_pool2d(self, x, *, kernel_size, stride, padding, dilation, ceil_mode):
        if tuple(dilation) != (1, 1):
            raise Unsupported("it has no dilated pooling")
        return F.max_pooling_2d(x, kernel_size, stride, padding, cover_all=ceil_mode)

    def avg_pool2d(self, x, *, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
        if divisor_override or (not count_include_pad and any(padding)):
            raise Unsupported("its average pooling divides by the whole window")
        return F.average_pooling_2d(x, kernel_size, stride, padding)  # ceil_mode shows in the output's shape

    def adaptive_avg_pool2d(self, x, *, output_size):
        size = window(x.shape, output_size)
        if size is None:  # it has none: two products with the matrices of the bins
            for count in output_size[::-1]:
                x = F.swapaxes(F.linear(x, bins(x.shape[3], count).T, n_batch_axes=3), 2, 3)
            return x
        return x if size == (1, 1) else F.average_pooling_2d(x, size)

    def local_response_norm(self, x, *, size, alpha, beta, k):
        return F.local_response_normalization(x, n=size, k=k, alpha=alpha / size, beta=beta)

    def batch_norm(self, x, weight, bias, *, layer, eps):
        mean, var = self.statistics[id(layer)]
        decay = 1 - layer.momentum
        return F.batch_normalization(x, weight, bias, eps=eps, running_mean=mean, running_var=var, decay=decay)

    def batch_norm_eval(self, x, weight, bias, *, layer, eps):
        return F.fixed_batch_normalization(x, weight, bias, *self.statistics[id(layer)], eps=eps)

    def dropout(self, x, *_, layer):
        return F.dropout(x, layer.p) if self.dropping else x

    def cat(self, *xs, dim):
        return F.concat(xs, dim)

    add = staticmethod(F.add)
    linear = staticmethod(F.linear)
    relu = staticmethod(F.relu)
    reshape = staticmethod(F.reshape)
    tanh = staticmethod(F.tanh)


CONTENDER = Chainer
