"""GoogLeNet's heads: provenance against a plain backward pass of each loss, the verdicts, the sentence."""

import itertools
import json

import numpy as np
import pytest

from minicnn import backend, nn
from minicnn import functional as F
from minicnn.data import MNIST
from minicnn.lab.auxiliary_heads import _findings, _pair, auxiliary_heads, verdict

from .helpers import assert_legends_are_outside, assert_the_command_prints_and_draws

SMALL = dict(activations=("relu",), seeds=1, steps=2, images=8, classes=2, input_size=31, width=1 / 16, batch_size=4)
BOTH = SMALL | dict(activations=("relu", "sigmoid"), steps=1)
NAMES = ("main", "auxiliary_1", "auxiliary_2")


@pytest.fixture(scope="module")
def small(device):
    return auxiliary_heads(**SMALL, device=device)


@pytest.fixture(scope="module")
def both(device):
    return auxiliary_heads(**BOTH, device=device)


def pair(activation, norm):
    """The networks that the experiment begins with, in float64, and the images that it looks at."""
    mnist = MNIST(train=True)
    these = np.flatnonzero(mnist.labels[:200] < 2)[:8]
    pixels = (mnist.images[these].reshape(8, 28, 28) / 255 - mnist.MEAN) / mnist.STD
    places = [i * 28 // 31 for i in range(31)]
    models = [model.to("float64") for model in _pair(0, activation, norm, 2, 31, 1 / 16)]
    return models, pixels[:, None][:, :, places][:, :, :, places], mnist.labels[these]


KINDS = list(itertools.product(("relu", "sigmoid"), ("LRN", "batch norm")))


# --------------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize(("activation", "norm"), KINDS)
def test_parts_are_what_a_plain_backward_of_each_loss_gives(both, activation, norm):
    (heads, plain), images, labels = pair(activation, norm)
    gradients = {}
    for part, output, weight in zip(NAMES, ("logits", "aux_logits1", "aux_logits2"), (1, 0.3, 0.3), strict=True):
        heads.zero_grad()
        loss = F.cross_entropy(getattr(heads(images), output), labels)
        loss.backward()
        gradients[part] = weight * np.asarray(heads.conv1.conv.weight.grad).ravel()
        if part == "main":
            last, main_loss = np.linalg.norm(heads.fc.weight.grad), loss.item()
            accuracy = (heads(images).logits.data.argmax(axis=1) == labels).mean()
    whole = sum(gradients.values())
    (row,) = both.where(activation=activation, norm=norm, heads=True, step=0)
    assert row["stem"] == pytest.approx(np.linalg.norm(whole), rel=2e-3)
    assert row["last"] == pytest.approx(last, rel=2e-3) and row["loss"] == pytest.approx(main_loss, rel=1e-4)
    assert row["accuracy"] == pytest.approx(accuracy)
    for part, gradient in gradients.items():
        assert row[part] == pytest.approx(np.linalg.norm(gradient), rel=2e-3)
        assert row[f"share_{part}"] == pytest.approx(gradient @ whole / (whole @ whole), abs=2e-3)
    F.cross_entropy(plain(images), labels).backward()
    (alone,) = both.where(activation=activation, norm=norm, heads=False, step=0)
    assert alone["stem"] == pytest.approx(np.linalg.norm(plain.conv1.conv.weight.grad), rel=2e-3)


@pytest.mark.parametrize(("activation", "norm"), KINDS)
def test_a_network_without_heads_has_the_main_part_and_no_other(both, activation, norm):
    (heads,), (alone,) = (both.where(activation=activation, norm=norm, heads=h, step=0) for h in (True, False))
    assert alone["stem"] == alone["main"] == pytest.approx(heads["main"], rel=1e-4)
    assert alone["share_main"] == 1 and not any(alone[key] for name in NAMES[1:] for key in (name, f"share_{name}"))
    assert alone["loss"] == pytest.approx(heads["loss"], rel=1e-5) and alone["accuracy"] == heads["accuracy"]
    assert alone["last"] == pytest.approx(heads["last"], rel=1e-4)


def test_shares_add_up_to_the_whole(small, both):
    for row in (*small.rows, *both.rows):
        assert sum(row[f"share_{name}"] for name in NAMES) == pytest.approx(1, abs=1e-3)


def test_sigmoid_with_lrn_lives_from_its_heads_and_batch_norm_from_its_main_loss(both):
    starved, fed = both.where(activation="sigmoid", heads=True, step=0)
    assert starved["stem"] > 20 * starved["main"] and starved["share_auxiliary_1"] > 0.9
    assert fed["stem"] < 1.5 * fed["main"] and fed["stem"] > 1000 * starved["stem"]


def test_a_pair_is_one_network_but_for_the_heads():
    (heads, plain), _, _ = pair("sigmoid", "LRN")
    more, fewer = heads.state_dict(), plain.state_dict()
    assert all(np.array_equal(more[key], fewer[key]) for key in fewer)
    assert {key.split(".")[0] for key in set(more) - set(fewer)} == {"aux1", "aux2"}
    for model in (heads, plain):
        kinds = [type(module) for module in model.modules()]
        assert nn.Sigmoid in kinds and nn.ReLU not in kinds and nn.Dropout not in kinds


# ---------------------------------------------------------------------------------------------- the experiment


def test_rows_are_tidy(small):
    assert len({tuple(row) for row in small.rows}) == 1
    assert [(row["norm"], row["heads"], row["step"]) for row in small.rows] == list(
        itertools.product(("LRN", "batch norm"), (True, False), (0, 1, 2))
    )
    json.dumps(small.to_dict(), allow_nan=False)


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_numbers_moves_no_generator_and_tells_how_far_it_is(small):
    before, shares = backend.generator().bit_generator.state, []
    again = auxiliary_heads(**SMALL, progress=lambda share, text: shares.append(share))
    other = auxiliary_heads(**SMALL | {"norms": ("LRN",), "steps": 1}, seed=1)
    assert backend.generator().bit_generator.state == before
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert again.to_dict() == small.to_dict() and other.rows[0]["loss"] != small.rows[0]["loss"]


def test_training_is_that_by_hand():
    """Steps of one batch, which is all images: the three losses weighted, momentum written out."""
    options = dict(norms=("batch norm",), activations=("sigmoid",), steps=3, batch_size=8, learning_rate=0.1)
    result = auxiliary_heads(**SMALL | options)
    models, images, labels = pair("sigmoid", "batch norm")
    for model in models:
        speeds = dict.fromkeys(model.parameters(), 0)
        for row in result.where(heads=model.aux_logits):
            model.zero_grad()
            outputs = model(images) if model.aux_logits else (model(images),)
            main, *others = (F.cross_entropy(scores, labels) for scores in outputs)
            sum((0.3 * loss for loss in others), start=main).backward()
            assert row["loss"] == pytest.approx(main.item(), rel=1e-3)
            assert row["last"] == pytest.approx(np.linalg.norm(model.fc.weight.grad), rel=2e-3)
            for parameter, speed in speeds.items():
                speeds[parameter] = 0.9 * speed + parameter.grad
                parameter.data -= 0.1 * speeds[parameter]


# ------------------------------------------------------------------------------------- the sentence, the picture


@pytest.mark.parametrize(
    ("heads", "plain", "expected"),
    [
        ([0.9, 0.8, 0.85], [0.5, 0.4, 0.45], "heads help"),
        ([0.5, 0.4, 0.45], [0.9, 0.8, 0.85], "heads harm"),
        ([0.9, 0.8, 0.85], [0.85, 0.75, 0.8], "no clear difference"),  # it is small
        ([0.9, 0.8, 0.85], [0.4, 0.8, 0.85], "no clear difference"),  # one run makes it all
        ([0.8, 0.6, 0.6], [0.5, 0.5, 0.5], "no clear difference"),  # 0.17 ± 0.07
        ([0.9], [0.5], "no clear difference"),  # of one run nobody knows
        ([0.3, 0.25, 0.3], [0.25, 0.25, 0.25], "neither learns"),
    ],
)
def test_what_counts_as_clear(heads, plain, expected):
    assert verdict(np.array(heads), np.array(plain), classes=4) == expected


SETTINGS = {"classes": 4, "steps": 20, "seeds": 2, "width": 0.25}


def rows(kinds):
    """Of each kind: (activation, norm), the stem's gradient in the main part's, accuracies with and without heads."""
    made = []
    for (activation, norm), times, right in kinds:
        for heads, seed, step in itertools.product((True, False), range(2), (0, 8, 10, 20)):
            row = {"activation": activation, "norm": norm, "heads": heads, "seed": seed, "step": step}
            row |= {"accuracy": 0.25 if step == 0 else right[not heads] + 0.01 * (step - 15), "main": 2.0}
            row |= {"stem": 2.0 * times if heads else 2.0, "share_main": 0.5, "share_auxiliary_1": 0.504}
            made.append(row | {"share_auxiliary_2": -0.004})
    return made


def test_the_sentence_when_heads_do_not_help():
    made = rows([(("relu", "LRN"), 3.0, (0.5, 0.55)), (("sigmoid", "LRN"), 1234.0, (0.25, 0.25))])
    sentence, factors, parts, right, rule = _findings(made, SETTINGS)
    assert sentence == (
        "Before training the heads make the gradient of GoogLeNet's first layer 3.00 (relu, LRN) to 1,200 (sigmoid, "
        "LRN) times as large, but in 20 steps of training they clearly help none of 2 kinds of network."
    )
    assert "3.00 (relu, LRN), 1,200 (sigmoid, LRN)" in factors
    assert "50 + 50 + 0 (relu, LRN)" in parts
    assert "50 and 55 (relu, LRN: no clear difference), 25 and 25 (sigmoid, LRN: neither learns)" in right
    assert "10 percent" in rule and "0.25 times as wide" in rule


def test_the_sentence_when_heads_help_and_harm():
    made = rows([(("relu", "LRN"), 3.0, (0.9, 0.5)), (("tanh", "batch norm"), 0.5, (0.5, 0.9))])
    sentence, *details = _findings(made, SETTINGS)
    assert sentence.endswith(
        "0.50 (tanh, batch norm) to 3.00 (relu, LRN) times as large, and in 20 steps of training they clearly help 1 "
        "of 2 kinds of network and harm 1."
    )
    assert "90 and 50 (relu, LRN: heads help), 50 and 90 (tanh, batch norm: heads harm)" in details[2]


def test_the_sentence_of_one_kind():
    sentence = _findings(rows([(("relu", "LRN"), 3.0, (0.9, 0.5))]), SETTINGS)[0]
    assert "first layer 3.00 (relu, LRN) times as large, and" in sentence and "help 1 of 1 kinds" in sentence


def test_it_draws(both):
    pytest.importorskip("matplotlib")
    figure = both.plot()
    figure.canvas.draw()
    assert len(figure.axes) == 3 * 4
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [
        "stem's gradient, norm", "its shares, %", "main loss, nats",
    ]  # fmt: skip
    assert sum(axes.get_xlabel() == "step" for axes in figure.axes) == 4
    assert_legends_are_outside(figure, 3)


def test_the_command_prints_and_draws_it(both, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    assert_the_command_prints_and_draws(auxiliary_heads, both, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"activations": ("relu6",)}, "activations holds 'relu6': choose from"),
        ({"norms": ("layer norm",)}, "norms holds 'layer norm': choose from LRN, batch norm"),
        ({"norms": ()}, r"norms is \(\), and must have a length of at least 1"),
        ({"steps": 0}, "steps is 0, and must be at least 1"),
        ({"classes": 1}, "classes is 1, and must be at least 2"),
        ({"images": 8}, "images is 8, and must be at least 16"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        auxiliary_heads(**wrong)


@pytest.mark.long
def test_who_feeds_the_stem_at_full_size():
    result = auxiliary_heads()
    share = {
        kind: np.mean([row["share_main"] for row in result.where(activation=kind[0], norm=kind[1], heads=True, step=0)])
        for kind in KINDS
    }
    assert share["sigmoid", "LRN"] < 0.05 and share["relu", "LRN"] < 0.7
    assert share["relu", "batch norm"] > 0.8 and share["sigmoid", "batch norm"] > 0.8
    for row in result.where(activation="sigmoid", norm="LRN", heads=True, step=0):
        assert row["stem"] > 100 * row["main"]  # and yet
    ends = result.where(activation="sigmoid", norm="LRN", step=64)
    assert all(row["accuracy"] < 0.4 for row in ends) and "neither learns" in str(result)
    fine = result.where(activation="sigmoid", norm="batch norm", step=64)
    assert all(row["accuracy"] > 0.9 for row in fine)
