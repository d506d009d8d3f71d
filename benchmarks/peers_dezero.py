"""DeZero 0.0.13, the library of "Deep Learning from Scratch 3", on a NumPy that is younger than it.

It has no grouped convolution, no response normalisation, no concatenation, and rounds sizes of maps down. Max pooling
pads with zeros, which here comes after ReLU and so makes no difference.
"""

from __future__ import annotations

import numpy as np

np.int = int  # noqa: NPY001  DeZero asks for it; NumPy 1.24 took the name away

import dezero  # noqa: E402 - needs np.int
import dezero.functions as F  # noqa: E402 - needs np.int
from dezero.core import add  # noqa: E402 - needs np.int
from dezero.functions_conv import average_pooling, conv2d, pooling  # noqa: E402 - needs np.int
from peers import SGD, Peer, Unsupported, window  # noqa: E402 - needs np.int


class DeZero(Peer):
    library, package = "DeZero", "dezero"

    def __init__(self, model, images, labels):
        # A softmax minus labels of more than 16 bits is float64 in DeZero, and so would be all that follows.
        super().__init__(model, images, labels.astype(np.int16))
        self.optimizer = dezero.optimizers.MomentumSGD(SGD["lr"], SGD["momentum"]).setup(self)
        self.optimizer.add_hook(dezero.optimizers.WeightDecay(SGD["weight_decay"]))

    def params(self):
        """What DeZero's optimisers ask their target for."""
        return self.weights

    def parameter(self, x):
        return dezero.Parameter(np.ascontiguousarray(x.T) if x.ndim == 2 else x)  # linear weights are (in, out)

    def cross_entropy(self, scores, labels):
        return F.softmax_cross_entropy(scores, labels)

    def update(self, loss):
        for weight in self.weights:
            weight.cleargrad()
        loss.backward()
        self.optimizer.update()

    def infer(self):
        with dezero.no_grad(), dezero.test_mode():
            return self.evaluation.run(self.weights, dezero.as_variable(self.images))[0].data

    def number(self, loss):
        return float(loss.data)

    def conv2d(self, x, weight, bias, *, stride, padding, dilation, groups):
        if groups != 1 or tuple(dilation) != (1, 1):
            raise Unsupported("it has no grouped convolution")
        return conv2d(x, weight, bias, stride, padding)

    def max_pool2d(self, x, *, kernel_size, stride, padding, dilation, ceil_mode):
        if tuple(dilation) != (1, 1):
            raise Unsupported("it has no dilated pooling")
        return pooling(x, kernel_size, stride, padding)  # ceil_mode shows in the output's shape

    def avg_pool2d(self, x, *, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
        if divisor_override or (not count_include_pad and any(padding)):
            raise Unsupported("its average pooling divides by the whole window")
        return average_pooling(x, kernel_size, stride, padding)

    def adaptive_avg_pool2d(self, x, *, output_size):
        size = window(x.shape, output_size)
        if size is None:
            raise Unsupported("it has no adaptive average pooling; an even one does where the windows are equal")
        return x if size == (1, 1) else average_pooling(x, size, size)

    def batch_norm(self, x, weight, bias, *, layer, eps):
        return F.batch_nrom(x, weight, bias, *self.statistics[id(layer)], 1 - layer.momentum, eps)

    batch_norm_eval = batch_norm  # test_mode tells them apart

    def dropout(self, x, *_, layer):
        return F.dropout(x, layer.p) if self.dropping else x

    add = staticmethod(add)
    linear = staticmethod(F.linear)
    relu = staticmethod(F.relu)
    reshape = staticmethod(F.reshape)
    tanh = staticmethod(F.tanh)


CONTENDER = DeZero
