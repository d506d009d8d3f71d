"""The facts ledger: each verdict and number, recomputed here by hand from the papers' tables."""

import json
import sys

import pytest

from minicnn.inspect import facts, ilsvrc_chart
from minicnn.inspect.facts import CITED, DISPUTED, REPRODUCED, ROUNDED, judge

LEDGER = facts()

# -------------------------------------------------------------------- the papers' tables, with nothing but arithmetic

ALEXNET = (  # weights and biases, tower by tower
    (96 * 3 * 121 + 96) + (256 * 48 * 25 + 256) + (384 * 256 * 9 + 384) + (384 * 192 * 9 + 384) + (256 * 192 * 9 + 256)
    + (4096 * 9216 + 4096) + (4096 * 4096 + 4096) + (1000 * 4096 + 1000)
)  # fmt: skip
ALEXNET_NEURONS = 96 * 55**2 + 256 * 27**2 + 2 * 384 * 13**2 + 256 * 13**2 + 4096 + 4096 + 1000

DENSE = 25_088 * 4096 + 4096 * 4096 + 4096 * 1000  # VGG's weights in fully connected layers
VGG = {  # table 1: maps of each side, convolution by convolution
    11: [(224, 3, 64), (112, 64, 128), (56, 128, 256), (56, 256, 256), (28, 256, 512), (28, 512, 512)]
    + [(14, 512, 512)] * 2,
    13: [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (28, 256, 512)]
    + [(28, 512, 512)] + [(14, 512, 512)] * 2,
    16: [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256)] + [(56, 256, 256)] * 2
    + [(28, 256, 512)] + [(28, 512, 512)] * 2 + [(14, 512, 512)] * 3,
    19: [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256)] + [(56, 256, 256)] * 3
    + [(28, 256, 512)] + [(28, 512, 512)] * 3 + [(14, 512, 512)] * 4,
}  # fmt: skip


def vgg_parameters(depth):
    return sum(9 * a * b + b for _, a, b in VGG[depth]) + DENSE + 4096 + 4096 + 1000


def vgg_operations(depth, dense=DENSE):
    return sum(side**2 * 9 * a * b for side, a, b in VGG[depth]) + dense


VGG16_VALUES = (
    150_528 + 2 * 64 * 224**2 + 64 * 112**2 + 2 * 128 * 112**2 + 128 * 56**2 + 3 * 256 * 56**2 + 256 * 28**2
    + 3 * 512 * 28**2 + 512 * 14**2 + 3 * 512 * 14**2 + 512 * 7**2 + 4096 + 4096 + 1000
)  # fmt: skip

INCEPTION = [  # side, channels in; 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool proj
    (28, 192, 64, 96, 128, 16, 32, 32), (28, 256, 128, 128, 192, 32, 96, 64), (14, 480, 192, 96, 208, 16, 48, 64),
    (14, 512, 160, 112, 224, 24, 64, 64), (14, 512, 128, 128, 256, 24, 64, 64), (14, 512, 112, 144, 288, 32, 64, 64),
    (14, 528, 256, 160, 320, 32, 128, 128), (7, 832, 256, 160, 320, 32, 128, 128),
    (7, 832, 384, 192, 384, 48, 128, 128),
]  # fmt: skip
STEM = [(112, 49, 3, 64), (56, 1, 64, 64), (56, 9, 64, 192)]  # side, window, channels in and out


def googlenet():
    """Parameters and multiply-adds."""
    layers = list(STEM)
    for side, c, one, r3, three, r5, five, proj in INCEPTION:
        layers += [(side, 1, c, one), (side, 1, c, r3), (side, 9, r3, three), (side, 1, c, r5), (side, 25, r5, five)]
        layers += [(side, 1, c, proj)]
    return (
        sum(k * a * b + b for _, k, a, b in layers) + 1024 * 1000 + 1000,
        sum(side**2 * k * a * b for side, k, a, b in layers) + 1024 * 1000,
    )


def resnet_operations(depth):
    """Table 1, with projections where a stage begins with other shapes."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    total, before = 112**2 * 49 * 3 * 64, 64
    for side, c, count in zip((56, 28, 14, 7), (64, 128, 256, 512), blocks, strict=True):
        out = c if depth < 50 else 4 * c
        for i in range(count):
            if depth < 50:
                total += side**2 * 9 * (before * c + c * c)
            else:
                total += side**2 * (before * c + 9 * c * c + c * out)
            if i == 0 and before != out:
                total += side**2 * before * out
            before = out
    return total + before * 1000


def cifar_parameters(n):
    """Section 4.2: 3×3 convolutions without biases, batch norm's two each, a classifier of 10."""
    layers = [(3, 16), *[(16, 16)] * 2 * n, (16, 32), *[(32, 32)] * (2 * n - 1), (32, 64), *[(64, 64)] * (2 * n - 1)]
    return sum(9 * a * b + 2 * b for a, b in layers) + 64 * 10 + 10


LENET_CONNECTIONS = 122_304 + 5_880 + 151_600 + 2_000 + 48_120 + 10_164 + 840  # as section II.B gives them
NAIVE = 28**2 * 256 * (128 + 9 * 192 + 25 * 96)
REDUCED = 28**2 * (256 * (64 + 64 + 128 + 64) + 9 * 64 * 192 + 25 * 64 * 96)

# A part of each claim, what is claimed, what must come out, and the verdict.
EXPECTED = [
    ("lenet5", "60,000 trainable", 60_000, 156 + 12 + 1516 + 32 + 48_120 + 10_164, REPRODUCED),
    ("lenet5", "340,908", 340_908, LENET_CONNECTIONS, REPRODUCED),
    ("lenet5", "second pooling", 5, 2, DISPUTED),
    ("alexnet", "60 million", 60e6, ALEXNET, ROUNDED),
    ("alexnet", "650,000", 650_000, ALEXNET_NEURONS, ROUNDED),
    ("alexnet", "253,440", 253_440, 96 * 55 * 55, DISPUTED),
    ("alexnet", "186,624", 186_624, 256 * 27 * 27, REPRODUCED),
    ("alexnet", "224×224", 224, 54 * 4 + 11, DISPUTED),
    ("alexnet", "two GPUs", None, 4 * (256 * 13 * 13 + 256 * 6 * 6 + 4096 + 4096), REPRODUCED),
    ("vgg", "VGG-11", 133e6, vgg_parameters(11), ROUNDED),
    ("vgg", "VGG-13", 133e6, vgg_parameters(13), ROUNDED),
    ("vgg", "VGG-16", 138e6, vgg_parameters(16), ROUNDED),
    ("vgg", "VGG-19", 144e6, vgg_parameters(19), ROUNDED),
    ("vgg", "96 MB", 96e6, 4 * VGG16_VALUES, DISPUTED),
    ("vgg", "twice that", 2, 2, REPRODUCED),
    ("vgg", "fully connected layers", 102_760_448, 25_088 * 4096, REPRODUCED),
    ("vgg", "early convolutions", 3.2e6, 64 * 224 * 224, ROUNDED),
    ("vgg", "hold the operations", None, 99.2, REPRODUCED),
    ("vgg", "see as much", 7, 7, REPRODUCED),
    ("vgg", "27C²", 27, 3 * 9, REPRODUCED),
    ("vgg", "49C²", 49, 49, REPRODUCED),
    ("vgg", "81 %", 81, 100 * (49 / 27 - 1), ROUNDED),
    ("googlenet", "5 million", 5e6, googlenet()[0], DISPUTED),
    ("googlenet", "12 times", 12, ALEXNET / googlenet()[0], DISPUTED),
    ("googlenet", "1.5 billion", 1.5e9, googlenet()[1], ROUNDED),
    ("googlenet", "22 layers", 22, 3 + 9 * 2 + 1, REPRODUCED),
    ("googlenet", "average pooling", None, 49, REPRODUCED),
    ("googlenet", "854 million", 854e6, NAIVE, ROUNDED),
    ("googlenet", "358 million", 358e6, REDUCED, DISPUTED),
    *(
        ("resnet", f"for ResNet-{depth}", claimed * 1e9, resnet_operations(depth), ROUNDED)
        for depth, claimed in ((18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3))
    ),
    ("resnet", "152 layers", 152, 1 + 3 * (3 + 8 + 36 + 3) + 1, REPRODUCED),
    ("resnet", "8 times deeper", 8, 8, REPRODUCED),
    ("resnet", "18 % of VGG-19", 18, 100 * resnet_operations(34) / vgg_operations(19), ROUNDED),
    ("resnet", "VGG-16 takes", 15.3e9, vgg_operations(16), DISPUTED),
    ("resnet", "VGG-19 takes", 19.6e9, vgg_operations(19), ROUNDED),
    *(
        ("resnet", f"CIFAR network of {6 * n + 2} layers", claimed * 1e6, cifar_parameters(n), ROUNDED)
        for n, claimed in ((3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7))
    ),
    ("resnet", "batch normalisation", None, None, DISPUTED),
    *(
        ("ilsvrc", f"{year}: {name}", error, None, CITED)
        for year, name, error in (
            (2010, "NEC-UIUC", 28.2), (2011, "XRCE", 25.8), (2012, "AlexNet", 16.4), (2013, "Clarifai", 11.7),
            (2014, "GoogLeNet", 6.67), (2015, "ResNet", 3.57), (2016, "Trimps-Soushen", 2.99), (2017, "SENet", 2.25),
        )
    ),
    ("ilsvrc", "second: VGG", 7.3, None, CITED),
    ("ilsvrc", "human", 5.1, None, CITED),
]  # fmt: skip


def find(network, part):
    (fact,) = (fact for fact in LEDGER if fact.network == network and part in fact.claim)
    return fact


@pytest.mark.parametrize(("network", "part", "claimed", "computed", "verdict"), EXPECTED)
def test_each_fact(network, part, claimed, computed, verdict):
    fact = find(network, part)
    for found, expected in ((fact.claimed, claimed), (fact.computed, computed)):
        assert found == (None if expected is None else pytest.approx(expected, rel=1e-9))
    assert fact.verdict == verdict
    assert fact.source and (fact.unit or claimed is None)


def test_every_fact_is_pinned():
    assert len(LEDGER) == len(EXPECTED) == len({fact.claim for fact in LEDGER})


def test_verdicts_follow_from_the_numbers():
    assert judge(138e6, 138_357_544, 1e6) == ROUNDED  # rounded
    assert judge(1.7e6, 1_799_999, 1e5) == ROUNDED  # cut off
    assert judge(5e6, 6_998_552, 1e6) == DISPUTED
    assert judge(5e6, 4_000_000, 1e6) == DISPUTED
    assert judge(7, 7, 0) == REPRODUCED
    assert judge(7, 8, 0) == judge(7, 7.01, 0) == DISPUTED


def test_the_remarks_are_true():
    """Each number in a remark, by hand."""
    column = [2.7, 112, 159, 380, 364, 437, 463, 580, 840, 1072, 1388, 1000]  # table 1 of the paper, thousands
    assert "6.8 million" in find("googlenet", "5 million").remark and round(sum(column) / 1000, 1) == 6.8
    assert 28**2 * 9 * 64 * 192 + REDUCED == pytest.approx(358e6, abs=0.5e6)  # the 3×3 once more
    assert "3×3 convolution is counted twice" in find("googlenet", "358 million").remark
    neurons = 253_440 + 186_624 + 64_896 + 64_896 + 43_264 + 4096 + 4096 + 1000
    assert f"{neurons:,}" in find("alexnet", "650,000").remark
    assert "96 · 55 · 48" in find("alexnet", "253,440").remark and 96 * 55 * 48 == 253_440
    assert "54¼" in find("alexnet", "224×224").remark and (224 - 11) / 4 + 1 == 54.25
    share = 100 * (DENSE + 4096 + 4096 + 1000) / vgg_parameters(16)
    assert f"{share:.0f} %" in find("vgg", "fully connected").remark
    assert f"{100 - share:.0f} %" in find("vgg", "hold the operations").remark
    assert round(100 * vgg_operations(16, dense=0) / vgg_operations(16), 1) == 99.2
    early = [100 * n / VGG16_VALUES for n in (2 * 64 * 224**2, 2 * 64 * 224**2 + 2 * 128 * 112**2)]
    assert find("vgg", "early").remark == (
        f"the first two hold {early[0]:.0f} % of all values, the first four {early[1]:.0f} %"
    )
    ratios = [vgg_operations(depth) / resnet_operations(152) for depth in (16, 19)]
    assert find("resnet", "VGG-16 takes").remark == (
        f"{ratios[0]:.2f} times ResNet-152's; {vgg_operations(16, dense=0) / 1e9:.2f} · 10⁹ in its convolutions alone"
    )
    assert find("resnet", "VGG-19 takes").remark == f"{ratios[1]:.2f} times ResNet-152's"


def test_one_network_of_a_family():
    assert facts("vgg16_bn") == facts("vgg") == [fact for fact in LEDGER if fact.network == "vgg"]
    assert {fact.network for fact in facts("resnet50")} == {"resnet"}
    for name in ("lenet5", "LeNet-5", "lenet", "LENET 5"):
        assert facts(name) == facts("lenet5")
    assert facts("VGG-16-BN") == facts("VGG") == facts("vgg") and facts("GoogLeNet") and facts("ILSVRC")
    for name in ("", "16", "transformer"):
        with pytest.raises(ValueError, match=rf"facts: nothing on '{name}'\. There are lenet5, alexnet, vgg, "):
            facts(name)
    with pytest.raises(ValueError, match=r"nothing on 'goglenet'. Did you mean 'googlenet'\? There are lenet5, "):
        facts("goglenet")


def test_text_and_dict():
    fact = find("googlenet", "5 million")
    assert str(fact).splitlines()[0] == "DISPUTED    only 5 million parameters"
    assert "ours: 6,998,552 parameters = " in str(fact)
    assert "ours" not in str(find("ilsvrc", "human"))
    data = json.loads(json.dumps([fact.to_dict() for fact in LEDGER]))
    assert [entry["verdict"] for entry in data] == [fact.verdict for fact in LEDGER]


def test_the_chart():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert ilsvrc_chart(axes) is axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert heights == {2010: 28.2, 2011: 25.8, 2012: 16.4, 2013: 11.7, 2014: 6.67, 2015: 3.57, 2016: 2.99, 2017: 2.25}
    (human,) = axes.lines
    assert set(human.get_ydata()) == {5.1}
    ilsvrc_chart().figure.draw_without_rendering()


def test_the_chart_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[viz\]'"):
        ilsvrc_chart()
