"""Recipes of papers, as far as they can be run here. Each says where it departs.

An entry of a preset can be changed: ``replace(PRESETS["resnet-cifar-2015"].recipe, model="resnet56")``, or on the
command line ``minicnn train resnet56 --preset resnet-cifar-2015``.
"""

from __future__ import annotations

from typing import NamedTuple

from .recipe import Recipe


class Preset(NamedTuple):
    """A recipe, where it comes from, and what is different here."""

    recipe: Recipe
    source: str
    departures: str


# He et al., section 4.2: weight decay 0.0001, momentum 0.9, batches of 128; the learning rate begins at 0.1 and is
# divided by 10 at 32,000 and 48,000 of 64,000 iterations; images are padded by 4 pixels on each side, and a part of
# 32×32 of them, or its mirror image, is drawn.
RESNET = Recipe(
    model="resnet20", data="cifar10", epochs=164, steps=64_000, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9,
    weight_decay=1e-4, decay_all=True, schedule="step", milestones=(0.5, 0.75), factors=(0.1, 0.01), augment="crop",
)  # fmt: skip
RESNET_SOURCE = 'He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", section 4.2'
RESNET_DEPARTURES = (
    "channels are normalised, where the paper subtracts the mean of each pixel; ResNet-110 began at a rate of 0.01 "
    "until its training error was below 80 %, after about 400 iterations: --warmup 400 comes near that"
)

PRESETS: dict[str, Preset] = {
    "lenet5-1998": Preset(
        # Section III.B: 20 passes over the training set, one pattern at a time; the global rate is 0.0005 for the first
        # two, 0.0002 for three, 0.0001 for three, 0.00005 for four, 0.00001 thereafter. Section II.B: 28×28 images in
        # a field of 32×32, background −0.1, foreground 1.175. The one rate was compared on the last 1,000 training
        # images, after 2 passes over the first 3,000: 0.001 gave 92.3 % right, 0.005 93.7 %, 0.016 9.4 %.
        Recipe(
            model="lenet5", options={"variant": "1998"}, data="mnist", pad=2, pixels=(-0.1, 1.175), augment="none",
            epochs=20, batch_size=1, optimizer="sgd", momentum=0.0, lr=0.005, schedule="step",
            milestones=(0.1, 0.25, 0.4, 0.6), factors=(0.4, 0.2, 0.1, 0.02),
        ),
        'LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", sections '
        "II.B and III.B, and appendix C",
        "one learning rate for all weights, 0.005 at first, where the paper's global one is divided by an estimate of "
        "each weight's second derivative (appendix C), which made it from 0.00007 to 0.016 (section III.B)",
    ),
    "alexnet-2012": Preset(
        # Section 5: batches of 128, momentum 0.9, weight decay 0.0005; the learning rate begins at 0.01 and is reduced
        # three times; about 90 cycles. Section 4.1: random patches and their reflections.
        Recipe(
            model="alexnet", data="imagenette", augment="photos", epochs=90, batch_size=128, optimizer="sgd", lr=0.01,
            momentum=0.9, weight_decay=5e-4, decay_all=True, schedule="step", milestones=(0.25, 0.5, 0.75),
            factors=(0.1, 0.01, 0.001),
        ),
        'Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural networks", '
        "sections 4.1 and 5",
        "ten classes of ImageNet (Imagenette) or a folder of yours; the rate falls at set times, where the paper's "
        "fell when the validation error stood still; patches of random size, and no noise in the colours",
    ),
    "resnet-cifar-2015": Preset(RESNET, RESNET_SOURCE, RESNET_DEPARTURES),
    "plain-cifar-2015": Preset(
        Recipe(**{**RESNET.__dict__, "options": {"shortcut": False}}),
        f"{RESNET_SOURCE} (the plain networks of figure 6, left)",
        RESNET_DEPARTURES,
    ),
}
