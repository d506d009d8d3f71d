"""The figures of the papers and courses, recomputed.

Each `Fact` has the claim as it stands in its source, our computation from the networks' shapes, and a verdict that
follows from the two numbers: ``reproduced`` (equal), ``rounded`` (less than a unit of the last digit that the source
prints away: it rounded, or cut off), ``disputed`` (neither), or ``cited`` (shapes do not decide it). No claim's number
enters our computation.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .. import models, nn
from ..engine import Node, dry_run
from .memory import memory
from .storage import origin
from .trace import Trace, multiply_adds, receptive_fields, trace

REPRODUCED, ROUNDED, DISPUTED, CITED = "reproduced", "rounded", "disputed", "cited"


@dataclass(frozen=True)
class Fact:
    """One claim and what became of it.

    Attributes:
        network: what it is about: ``"lenet5"``, ``"alexnet"``, ``"vgg"``, ``"googlenet"``, ``"resnet"``, ``"ilsvrc"``.
        claim: as the source has it.
        source: paper or course, and the place in it.
        claimed: the claim's number, as printed, in `unit`; None where the claim is not a number.
        computation: how we compute it, in words and symbols.
        computed: our number, in `unit`; None where it is only cited.
        unit: of both.
        verdict: ``"reproduced"``, ``"rounded"``, ``"disputed"`` or ``"cited"``.
        remark: what explains a difference.
    """

    network: str
    claim: str
    source: str
    claimed: float | None
    computation: str
    computed: float | None
    unit: str
    verdict: str
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.verdict.upper():10}  {self.claim}", f"            {self.source}"]
        if self.computed is not None:
            lines.append(f"            ours: {_number(self.computed)} {self.unit} = {self.computation}")
        return "\n".join([*lines, *([f"            {self.remark}"] if self.remark else [])])


def _number(x: float) -> str:
    return f"{x:,}" if isinstance(x, int) else f"{x:,.4g}"


def judge(claimed: float, computed: float, step: float) -> str:
    """The verdict on a number that its source prints in steps of `step` (1e6 for "138 million", 0 for an exact one).

    Papers round and cut off, sometimes in one table, so anything less than a step away will do.
    """
    if claimed == computed:
        return REPRODUCED
    return ROUNDED if abs(claimed - computed) < step else DISPUTED


def _claim(
    network: str, claim: str, source: str, claimed: float, computed: float, unit: str, computation: str,
    step: float = 0, remark: str = "",
) -> Fact:  # fmt: skip
    verdict = judge(claimed, computed, step)
    return Fact(network, claim, source, claimed, computation, computed, unit, verdict, remark)


def _cited(network: str, claim: str, source: str, claimed: float, unit: str, remark: str = "") -> Fact:
    return Fact(network, claim, source, claimed, "", None, unit, CITED, remark)


# ------------------------------------------------------------------------------------------- counting in networks

def _traced(build: Callable[..., nn.Module], shape: tuple[int, ...], **options: Any) -> tuple[nn.Module, Trace]:
    """A network of shapes alone, in evaluation, and a pass through it."""
    with dry_run():
        model = build(**options).eval()
    return model, trace(model, shape)


def _parameters(module: nn.Module) -> int:
    return sum(p.data.size for p in module.parameters())


def _operations(traced: Trace) -> int:
    return sum(map(multiply_adds, traced.nodes))


def _depth(traced: Trace) -> int:
    """Layers with weights on the longest way from the input to the output."""
    depth: dict[Any, int] = {}
    for node in traced.nodes:
        before = max((depth.get(source, 0) for source in node.inputs if source is not None), default=0)
        depth[node] = before + (node.op.name in ("conv2d", "linear"))
    return max(depth.values())


def _named(traced: Trace, *names: str) -> list[Node]:
    return [node for node in traced.nodes if node.op.name in names]


def _values(nodes: list[Node]) -> int:
    return sum(math.prod(node.shape[1:]) for node in nodes)


# ------------------------------------------------------------------------------------------------------ LeNet-5

LECUN = "LeCun et al. 1998, Gradient-based learning applied to document recognition"


def _lenet5() -> Iterator[Fact]:
    model, traced = _traced(models.lenet5, (1, 1, 32, 32), variant="1998")
    trained = sum(p.data.size for p in model.parameters() if p.requires_grad)
    yield _claim(
        "lenet5", "60,000 trainable free parameters", f"{LECUN}, section II.B", 60_000, trained, "parameters",
        "156 + 12 + 1,516 + 32 + 48,120 + 10,164",
    )  # fmt: skip
    yield _claim(
        "lenet5", "340,908 connections", f"{LECUN}, section II.B", 340_908, _lenet5_connections(traced), "connections",
        "inputs and bias of every unit, the 84 centres of each output included",
    )  # fmt: skip
    pool = _named(traced, "avg_pool2d")[1].params["kernel_size"][0]
    yield _claim(
        "lenet5", "the second pooling is 5×5", "some courses' tables; the paper has 2×2, section II.B", 5, pool,
        "pixels a side", "the window that makes 5×5 maps of C3's 10×10",
        remark="5×5 is the size of S4's maps; its windows are 2×2",
    )  # fmt: skip


def _lenet5_connections(traced: Trace) -> int:
    """A unit's connections: its inputs and its bias (a subsampling unit: its window and its bias)."""
    table = models.lenet_1998.C3_TABLE
    total = 0
    for node in traced.nodes:
        if node.op.name == "conv2d":
            _, _, kh, kw = origin(node, 1).shape
            per_map = [kh * kw * int(n) for n in table.sum(axis=0)] if "c3" in node.path else None
            fan_in = per_map or [kh * kw * origin(node, 0).shape[1]] * node.shape[1]
            total += math.prod(node.shape[2:]) * sum(n + 1 for n in fan_in)
        elif node.op.name == "avg_pool2d":
            total += math.prod(node.shape) * (math.prod(node.params["kernel_size"]) + 1)
        elif node.op.name == "linear":
            total += math.prod(origin(node, 1).shape) + node.shape[1]
    outputs = traced.nodes[-1].shape[1]
    return total + 84 * outputs


# ------------------------------------------------------------------------------------------------------ AlexNet

KRIZHEVSKY = "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks"


def _alexnet() -> Iterator[Fact]:
    model, traced = _traced(models.alexnet, (1, 3, 227, 227))
    layers = _named(traced, "conv2d", "linear")
    yield _claim(
        "alexnet", "60 million parameters", f"{KRIZHEVSKY}, abstract", 60e6, _parameters(model), "parameters",
        "the sum over 5 convolutions (three in two groups) and 3 fully connected layers", step=1e6,
    )  # fmt: skip
    yield _claim(
        "alexnet", "650,000 neurons", f"{KRIZHEVSKY}, abstract", 650_000, _values(layers), "neurons",
        "outputs of the 8 layers with weights", step=10_000, remark="the layers' numbers in figure 2 add up to 622,312",
    )  # fmt: skip
    yield _claim(
        "alexnet", "253,440 neurons in the first layer", f"{KRIZHEVSKY}, figure 2", 253_440, _values(layers[:1]),
        "neurons", "96 · 55 · 55", remark="55 × 55 is what the same figure draws; 253,440 is 96 · 55 · 48",
    )  # fmt: skip
    yield _claim(
        "alexnet", "186,624 neurons in the second layer", f"{KRIZHEVSKY}, figure 2", 186_624, _values(layers[1:2]),
        "neurons", "256 · 27 · 27",
    )  # fmt: skip
    side = next(n for n in range(224, 240) if (n - 11) % 4 == 0 and (n - 11) // 4 + 1 == layers[0].shape[2])
    yield _claim(
        "alexnet", "the input is 224×224", f"{KRIZHEVSKY}, section 3.5", 224, side, "pixels a side",
        "the side from which 11×11 windows at stride 4 make 55 positions: 4·54 + 11",
        remark="from 224 they make 54¼",
    )  # fmt: skip
    crossing = _values([_named(traced, "max_pool2d")[i] for i in (1, 2)]) + _values(layers[5:7])
    yield Fact(
        "alexnet", "the two GPUs exchange values only before conv3 and in the fully connected layers",
        f"{KRIZHEVSKY}, section 3.5, figure 2", None,
        "each GPU sends half of the input of conv3, fc6, fc7, fc8: 43,264 + 9,216 + 4,096 + 4,096 values of 4 bytes",
        4 * crossing, "bytes an image forward, and as many backward",
        REPRODUCED if [n.params["groups"] for n in layers[:5]] == [1, 2, 1, 2, 2] else DISPUTED,
        remark="the paper describes the connections and prints no amount",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- VGG

SIMONYAN = "Simonyan and Zisserman 2015, Very deep convolutional networks for large-scale image recognition"
CS231N = "CS231n course notes, Convolutional networks, case studies (VGGNet in detail)"
CS231N_LECTURE = "CS231n 2017, lecture 9, CNN architectures"


def _vgg() -> Iterator[Fact]:
    networks = {name: _traced(getattr(models, f"vgg{name}"), (1, 3, 224, 224)) for name in (11, 13, 16, 19)}
    for letter, name, claimed in (("A", 11, 133), ("B", 13, 133), ("D", 16, 138), ("E", 19, 144)):
        yield _claim(
            "vgg", f"network {letter} (VGG-{name}) has {claimed} million parameters", f"{SIMONYAN}, table 2",
            claimed * 1e6, _parameters(networks[name][0]), "parameters", "convolutions and fully connected layers",
            step=1e6,
        )  # fmt: skip
    model, traced = networks[16]
    rows = _named(traced, "conv2d", "max_pool2d", "linear")
    image = math.prod(traced.inputs[0].shape)
    values = image + _values(rows)
    yield _claim(
        "vgg", "24 million values × 4 bytes ≈ 96 MB an image, forward", f"{CS231N_LECTURE}, slide on VGGNet", 96e6,
        4 * values, "bytes an image",
        f"4 · {values:,}, the sum of the slide's own rows: the image, and every convolution, pooling and dense layer",
        step=10e6, remark="the rows do not add up to the total under them; the course notes have these rows and 93 MB",
    )  # fmt: skip
    step = memory(model, (1, 3, 224, 224), "cs231n").parts
    yield _claim(
        "vgg", "about twice that with backward", f"{CS231N_LECTURE}, slide on VGGNet", 2,
        (step["activations"] + step["activation_gradients"]) / (4 * values), "times the forward memory",
        "each value has a gradient of its size",
    )  # fmt: skip
    dense, convolutions = _named(traced, "linear"), _named(traced, "conv2d")
    in_dense = sum(math.prod(origin(n, 1).shape) + n.shape[1] for n in dense)
    yield _claim(
        "vgg", "most parameters are in the fully connected layers: 102,760,448 in the first", CS231N, 102_760_448,
        math.prod(origin(dense[0], 1).shape), "weights in the first dense layer", "7 · 7 · 512 · 4096",
        remark=f"the three dense layers hold {100 * in_dense / _parameters(model):.0f} % of all parameters",
    )  # fmt: skip
    two, four = (_values(convolutions[:n]) / values for n in (2, 4))
    yield _claim(
        "vgg", "most memory is in the early convolutions: 3.2 million values each", CS231N, 3.2e6,
        _values(convolutions[:1]), "values", "64 · 224 · 224", step=0.1e6,
        remark=f"the first two hold {100 * two:.0f} % of all values, the first four {100 * four:.0f} %",
    )  # fmt: skip
    flops = sum(map(multiply_adds, convolutions)) / _operations(traced)
    yield Fact(
        "vgg", "convolutions hold the operations, dense layers the parameters", "most courses", None,
        "multiply-adds of VGG-16's convolutions, over all", round(100 * flops, 1), "% of the multiply-adds",
        REPRODUCED if flops > 0.5 and in_dense > _parameters(model) / 2 else DISPUTED,
        remark=f"and {100 - 100 * in_dense / _parameters(model):.0f} % of the parameters",
    )  # fmt: skip
    yield from _three_small_kernels()


def _three_small_kernels() -> Iterator[Fact]:
    """VGG's argument for 3×3, for C = 64 channels in and out."""
    channels = 64

    def stack(size: int, count: int) -> tuple[nn.Module, Trace]:
        layers = (nn.Conv2d(channels, channels, size, bias=False) for _ in range(count))
        return _traced(lambda: nn.Sequential(*layers), (1, channels, 32, 32))

    (three, through_three), (one, _) = stack(3, 3), stack(7, 1)
    field = receptive_fields(through_three)[through_three.nodes[-1]]
    assert field is not None
    yield _claim(
        "vgg", "three 3×3 convolutions see as much as one 7×7", f"{SIMONYAN}, section 2.3", 7, field.size[0],
        "pixels a side", "1 + 3 · (3 − 1)",
    )  # fmt: skip
    for claimed, network, text in ((27, three, "three 3×3: 3 · 3² C²"), (49, one, "one 7×7: 7² C²")):
        yield _claim(
            "vgg", f"{claimed}C² weights for {text.split(':')[0]}", f"{SIMONYAN}, section 2.3", claimed,
            _parameters(network) // channels**2, "C² weights", text.split(": ")[1],
        )  # fmt: skip
    yield _claim(
        "vgg", "one 7×7 takes 81 % more weights", f"{SIMONYAN}, section 2.3", 81,
        100 * (_parameters(one) / _parameters(three) - 1), "% more", "49/27 − 1", step=1,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- GoogLeNet

SZEGEDY = "Szegedy et al. 2015, Going deeper with convolutions"


def _googlenet() -> Iterator[Fact]:
    model, traced = _traced(models.googlenet, (1, 3, 224, 224), aux_logits=False)
    parameters = _parameters(model)
    alexnet = _parameters(_traced(models.alexnet, (1, 3, 227, 227))[0])
    yield _claim(
        "googlenet", "only 5 million parameters", f"{CS231N_LECTURE}, slide on GoogLeNet", 5e6, parameters,
        "parameters", "the paper's table 1: convolutions with biases and the classifier, without the auxiliary ones",
        step=1e6, remark="that table's own column adds up to 6.8 million; a twelfth of AlexNet's 60 million would be 5",
    )  # fmt: skip
    yield _claim(
        "googlenet", "12 times fewer parameters than AlexNet", f"{SZEGEDY}, section 1", 12, alexnet / parameters,
        "times", f"{alexnet:,} / {parameters:,}", step=1,
    )  # fmt: skip
    yield _claim(
        "googlenet", "1.5 billion multiply-adds at inference", f"{SZEGEDY}, section 1", 1.5e9, _operations(traced),
        "multiply-adds", "all convolutions and the classifier, at 224×224", step=0.1e9,
    )  # fmt: skip
    yield _claim(
        "googlenet", "22 layers deep", f"{SZEGEDY}, section 5", 22, _depth(traced), "layers",
        "convolutions and the classifier on the longest way from image to scores",
    )  # fmt: skip
    pooled = math.prod(origin(_named(traced, "adaptive_avg_pool2d")[0], 0).shape[1:])
    averaged = math.prod(origin(_named(traced, "linear")[0], 1).shape)
    yield Fact(
        "googlenet", "global average pooling removes expensive dense layers", f"{CS231N_LECTURE}, slide on GoogLeNet",
        None, f"7 · 7 · 1024 · 1000 weights for the classifier without it, {averaged:,} with it",
        1000 * pooled / averaged, "times fewer weights", REPRODUCED if 1000 * pooled > averaged else DISPUTED,
    )  # fmt: skip
    yield from _inception()


def _inception() -> Iterator[Fact]:
    """CS231n's example: 28×28×256 in; 128 filters of 1×1, 192 of 3×3, 96 of 5×5; reductions to 64."""
    source = f"{CS231N_LECTURE}, slides on the inception module"
    channels, shape = 256, (1, 256, 28, 28)

    def operations(*branches: tuple[tuple[int, int], ...]) -> int:
        total = 0
        for branch in branches:
            layers, before = [], channels
            for filters, size in branch:
                layers.append(nn.Conv2d(before, filters, size, padding=size // 2))
                before = filters
            total += _operations(_traced(lambda layers=layers: nn.Sequential(*layers), shape)[1])
        return total

    naive = operations(((128, 1),), ((192, 3),), ((96, 5),))
    reduced = operations(((128, 1),), ((64, 1), (192, 3)), ((64, 1), (96, 5)), ((64, 1),))
    yield _claim(
        "googlenet", "an inception module without reductions takes 854 million operations", source, 854e6, naive,
        "multiply-adds", "28² · 256 · (128 + 9 · 192 + 25 · 96)", step=1e6,
    )  # fmt: skip
    yield _claim(
        "googlenet", "with reductions to 64 channels it takes 358 million", source, 358e6, reduced, "multiply-adds",
        "28² · (256 · (128 + 64 + 64 + 64) + 64 · (9 · 192 + 25 · 96))", step=1e6,
        remark="358 is what comes out if the 3×3 convolution is counted twice",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- ResNet

HE = "He et al. 2016, Deep residual learning for image recognition"


def _resnet() -> Iterator[Fact]:
    operations, depths = {}, {}
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19"):
        _, traced = _traced(getattr(models, name), (1, 3, 224, 224))
        operations[name], depths[name] = _operations(traced), _depth(traced)
        if name == "vgg16":
            in_convolutions = sum(map(multiply_adds, _named(traced, "conv2d")))
    for depth, claimed in ((18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)):
        yield _claim(
            "resnet", f"{claimed} · 10⁹ multiply-adds for ResNet-{depth}", f"{HE}, table 1", claimed * 1e9,
            operations[f"resnet{depth}"], "multiply-adds", "convolutions, projections included, and the classifier",
            step=0.1e9,
        )  # fmt: skip
    yield _claim(
        "resnet", "152 layers", f"{HE}, abstract", 152, depths["resnet152"], "layers",
        "convolutions and the classifier on the longest way from image to scores",
    )  # fmt: skip
    yield _claim(
        "resnet", "8 times deeper than VGG nets", f"{HE}, abstract", 8, depths["resnet152"] / depths["vgg19"], "times",
        "152 / 19",
    )  # fmt: skip
    yield _claim(
        "resnet", "34 layers take 18 % of VGG-19's multiply-adds", f"{HE}, section 3.3", 18,
        100 * operations["resnet34"] / operations["vgg19"], "%",
        f"{operations['resnet34']:,} / {operations['vgg19']:,}", step=1,
    )  # fmt: skip
    for name, claimed, remark in (
        ("vgg16", 15.3, f"{in_convolutions / 1e9:.2f} · 10⁹ in its convolutions alone"),
        ("vgg19", 19.6, ""),
    ):
        yield _claim(
            "resnet", f"VGG-{name[3:]} takes {claimed} · 10⁹ multiply-adds, ResNet-152 fewer", f"{HE}, section 4.1",
            claimed * 1e9, operations[name], "multiply-adds", "convolutions and dense layers", step=0.1e9,
            remark="; ".join(
                filter(None, [f"{operations[name] / operations['resnet152']:.2f} times ResNet-152's", remark])
            ),
        )  # fmt: skip
    for depth, claimed in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)):
        with dry_run():
            model = getattr(models, f"resnet{depth}")()
        yield _claim(
            "resnet", f"{claimed} million parameters for the CIFAR network of {depth} layers", f"{HE}, table 6",
            claimed * 1e6, _parameters(model), "parameters", "with option A's shortcuts, which have none",
            step=1e5 if depth == 110 else 1e4,
        )  # fmt: skip
    yield Fact(
        "resnet", "ResNet was the first network with batch normalisation", "some courses", None, "", None, "", DISPUTED,
        remark="Ioffe and Szegedy 2015, Batch normalization, section 4.2, had it before, in an Inception network; "
        "He et al. cite them for it (section 3.4)",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- ILSVRC

RUSSAKOVSKY = "Russakovsky et al. 2015, ImageNet large scale visual recognition challenge"
SECTION = "section 5.1"  # the challenge's entries, year by year
TOP5_ERRORS = (  # year, team or network, top-5 error of the winner on the test images in percent, source
    (2010, "NEC-UIUC", 28.2, f"{RUSSAKOVSKY}, {SECTION}"),
    (2011, "XRCE", 25.8, f"{RUSSAKOVSKY}, {SECTION}"),
    (2012, "AlexNet", 16.4, f"{RUSSAKOVSKY}, {SECTION} (SuperVision)"),
    (2013, "Clarifai", 11.7, f"{RUSSAKOVSKY}, {SECTION}"),
    (2014, "GoogLeNet", 6.67, f"{SZEGEDY}, table 2"),
    (2015, "ResNet", 3.57, f"{HE}, table 5"),
    (2016, "Trimps-Soushen", 2.99, "image-net.org, results of ILSVRC 2016"),
    (2017, "SENet", 2.25, "Hu et al. 2018, Squeeze-and-excitation networks, abstract"),
)
HUMAN_TOP5_ERROR = 5.1


def _ilsvrc() -> Iterator[Fact]:
    remarks = {
        2010: "hand-made features and a support vector machine", 2011: "Fisher vectors and a support vector machine",
        2012: "15.3 % with more training images than the challenge's", 2013: "by an author of ZFNet",
        2015: "six networks together", 2016: "several networks together",
    }  # fmt: skip
    for year, name, error, source in TOP5_ERRORS:
        yield _cited("ilsvrc", f"{year}: {name}, {error} % top-5 error", source, error, "%", remarks.get(year, ""))
    yield _cited("ilsvrc", "2014, second: VGG, 7.3 % top-5 error", f"{SIMONYAN}, section 4.5", 7.3, "%")
    yield _cited(
        "ilsvrc", f"a trained human: {HUMAN_TOP5_ERROR} % top-5 error", f"{RUSSAKOVSKY}, section 6.4.1",
        HUMAN_TOP5_ERROR, "%", remark="one annotator, on 1,500 images; a second one made 12.0 % on 258",
    )  # fmt: skip


def ilsvrc_chart(ax: Any = None) -> Any:
    """Draw the winners' top-5 error by year, and the human's as a line.

    Args:
        ax: matplotlib's axes to draw on; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install -e '.[viz]' (in minicnn's folder)") from None
    if ax is None:
        ax = Figure(figsize=(8, 4.5), layout="constrained").add_subplot()
    # Okabe and Ito's colours, told apart by colour-blind eyes too; the hatching says the same without colour.
    for learned, colour, hatch, label in (
        (False, "#8C8C8C", "//", "hand-made features"), (True, "#0072B2", "", "convolutional networks")
    ):  # fmt: skip
        winners = [(year, error) for year, _, error, _ in TOP5_ERRORS if (year >= 2012) == learned]
        bars = ax.bar(*zip(*winners, strict=True), color=colour, hatch=hatch, edgecolor="white", label=label)
        ax.bar_label(bars, fmt="{:g}", padding=2)
    ax.axhline(HUMAN_TOP5_ERROR, color="#D55E00", linestyle="--", label=f"a trained human: {HUMAN_TOP5_ERROR} %")
    ax.set_xticks([year for year, *_ in TOP5_ERRORS], [f"{year}\n{name}" for year, name, *_ in TOP5_ERRORS], fontsize=8)
    ax.set_ylabel("top-5 error on the test images, %")
    ax.set_title("ImageNet challenge: the winners", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


_LEDGER = {
    "lenet5": _lenet5,
    "alexnet": _alexnet,
    "vgg": _vgg,
    "googlenet": _googlenet,
    "resnet": _resnet,
    "ilsvrc": _ilsvrc,
}


def facts(network: str | None = None) -> list[Fact]:
    """The ledger, of all networks or of one.

    Args:
        network: ``"lenet5"``, ``"alexnet"``, ``"vgg"``, ``"googlenet"``, ``"resnet"`` or ``"ilsvrc"``; a member of a
            family (``"vgg16"``, ``"ResNet-50"``) will do.

    Raises:
        ValueError: a network that the ledger does not know; the message names the nearest, if one is near.
    """
    if network is None:
        return [fact for entries in _LEDGER.values() for fact in entries()]
    families = {_family(name): name for name in _LEDGER}
    if _family(network) not in families:
        near = difflib.get_close_matches(_family(network), families, n=1)
        hint = f"Did you mean {families[near[0]]!r}? " if near else ""
        raise ValueError(f"facts: nothing on {network!r}. {hint}There are {', '.join(_LEDGER)}")
    return list(_LEDGER[families[_family(network)]]())


def _family(network: str) -> str:
    """``"ResNet-50"`` → ``"resnet"``, ``"vgg16_bn"`` → ``"vgg"``."""
    return re.sub("[^a-z]", "", network.lower()).removesuffix("bn")

