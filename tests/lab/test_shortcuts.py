"""Plain and residual networks: gradients against plain backward, paths counted one by one, the sentence's verdicts."""

import itertools
import json

import numpy as np
import pytest

from minicnn import backend, models
from minicnn import functional as F
from minicnn.data import MNIST
from minicnn.lab.shortcuts import BUILDERS, _findings, binomial, compared, name, shortcuts

from .helpers import assert_legends_are_outside, assert_the_command_prints_and_draws

SMALL = dict(depths=(20, 32), seeds=2, epochs=1, images=32, input_size=7, width=0.125, batch_size=16)
ONE_BATCH = SMALL | dict(depths=(20,), seeds=1, batch_size=32)


@pytest.fixture(scope="module")
def small(device):
    return shortcuts(**SMALL, device=device)


def digits(count, side):
    mnist = MNIST(train=True)
    pixels = (mnist.images[:count].reshape(count, 28, 28) / 255 - mnist.MEAN) / mnist.STD
    step = 28 // side
    averaged = sum(pixels[:, i::step, j::step] for i in range(step) for j in range(step)) / step**2
    return averaged[:, None].astype(np.float32), mnist.labels[:count]


# --------------------------------------------------------------------------------------------------- measured


@pytest.fixture
def built(monkeypatch):
    """The networks that the experiment builds, as they are before training."""
    kept = []

    def build(*args, **options):
        model = models.resnet20(*args, **options)
        twin = models.resnet20(*args, **options)
        twin.load_state_dict(model.state_dict())
        kept.append((bool(options["shortcut"]), twin))
        return model

    monkeypatch.setitem(BUILDERS, 20, build)
    return kept


def test_gradients_errors_and_losses_are_those_of_a_plain_backward(built):
    result = shortcuts(**ONE_BATCH)
    images, labels = digits(32, 7)
    assert [residual for residual, _ in built] == [False, True]
    for residual, model in built:
        outputs = []
        for path, layer in model.named_modules():
            if path == "relu" or path.endswith(".relu2"):
                layer.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output))
        scores = model(images)
        loss = F.cross_entropy(scores, labels)
        for output in outputs:
            output.retain_grad()
        loss.backward()
        expected = [np.sqrt(np.mean(np.array(output.grad, float) ** 2)) for output in outputs]
        found = result.where(quantity="gradient", residual=residual)
        assert [row["at"] for row in found] == list(range(10))
        assert [row["value"] for row in found] == pytest.approx(expected, rel=1e-4)
        # An epoch of one batch: its loss and error are those before the first step.
        (error,), (told,) = (result.where(quantity=key, residual=residual) for key in ("error", "loss"))
        assert error["value"] == pytest.approx(np.mean(np.array(scores.data).argmax(axis=1) != labels))
        assert told["value"] == pytest.approx(loss.item(), rel=1e-4)


def test_training_is_that_by_hand(built):
    """Epochs of one batch, which is all images: momentum and weight decay written out."""
    result = shortcuts(**ONE_BATCH | {"epochs": 3, "learning_rate": 0.02})
    images, labels = digits(32, 7)
    for residual, model in built:
        speeds = dict.fromkeys(model.parameters(), 0)
        for row in result.where(quantity="loss", residual=residual):
            model.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            assert row["value"] == pytest.approx(loss.item(), rel=1e-3)
            for parameter, speed in speeds.items():
                speeds[parameter] = 0.9 * speed + parameter.grad + 1e-4 * parameter.data
                parameter.data -= 0.02 * speeds[parameter]


def test_a_pair_begins_with_the_same_weights(built):
    shortcuts(**ONE_BATCH)
    plain, residual = (model.state_dict() for _, model in built)
    assert list(plain) == list(residual)
    assert all(np.array_equal(plain[key], residual[key]) for key in plain)


def test_shares_add_up_to_the_whole(small):
    for depth, seed in itertools.product((20, 32), (0, 1)):
        shares = small.where(quantity="share", depth=depth, seed=seed)
        assert [row["at"] for row in shares] == list(range((depth - 2) // 2 + 1))
        assert sum(row["value"] for row in shares) == pytest.approx(1, abs=1e-4)
    assert not small.where(quantity="share", residual=False)


@pytest.mark.parametrize("blocks", [1, 4, 9])
def test_paths_counted_one_by_one(blocks):
    paths = [sum(path) for path in itertools.product((0, 1), repeat=blocks)]
    assert binomial(blocks) == pytest.approx(np.bincount(paths) / len(paths))


def test_many_paths_add_up():
    shares = binomial(54)
    assert sum(shares) == pytest.approx(1) and shares @ np.arange(55) == pytest.approx(27)


# ---------------------------------------------------------------------------------------------- the experiment


def test_rows_are_tidy(small):
    assert len({tuple(row) for row in small.rows}) == 1
    assert {row["network"] for row in small.rows} == {"plain-20", "plain-32", "ResNet-20", "ResNet-32"}
    assert len(small.where(quantity="error")) == len(small.where(quantity="loss")) == 2 * 2 * 2
    assert len(small.where(quantity="gradient")) == 2 * 2 * (10 + 16)
    json.dumps(small.to_dict(), allow_nan=False)


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_numbers_moves_no_generator_and_tells_how_far_it_is(small):
    before, shares = backend.generator().bit_generator.state, []
    again = shortcuts(**SMALL, progress=lambda share, text: shares.append(share))
    other = shortcuts(**SMALL | {"seeds": 1}, seed=1)
    assert backend.generator().bit_generator.state == before
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert again.to_dict() == small.to_dict()
    assert other.rows == small.where(seed=1) and other.rows[0]["value"] != small.rows[0]["value"]


# ------------------------------------------------------------------------------------- the sentence, the picture


@pytest.mark.parametrize(
    ("shallow", "deep", "expected"),
    [
        ([30, 32, 31], [60, 70, 65], 1),
        ([60, 70, 65], [30, 32, 31], -1),
        ([30, 32, 31], [31, 33, 32], 0),  # a percent is not much
        ([30, 32, 31], [90, 33, 32], 0),  # one run makes it all
        ([30, 32, 31], [60, 70, 30], 0),  # one run has it the other way round
        ([30, 30], [40, 48], 1), ([30, 30], [40, 52], 0),  # 14 ± 4 and 16 ± 6
        ([30], [60], 0),  # of one run nobody knows
    ],
)
def test_what_counts_as_clear(shallow, deep, expected):
    assert compared(np.array(shallow, float), np.array(deep, float)) == expected


def rows(errors, gradients=(8.0, 2.0), shares=(0.25, 0.5, 0.25)):
    """Of networks of three blocks, with these errors in percent by their names."""
    made = []
    for (residual, depth), values in zip(itertools.product((False, True), (20, 56)), errors, strict=True):
        for seed, value in enumerate(values):
            network = {"network": name(depth, residual), "depth": depth, "residual": residual, "seed": seed}
            for quantity, numbers in (
                ("gradient", gradients), ("share", shares if residual else ()), ("error", (0.9, value / 100)),
            ):  # fmt: skip
                made += [{**network, "quantity": quantity, "at": at, "value": x} for at, x in enumerate(numbers)]
    return made


SETTINGS = {"depths": (20, 56), "seeds": 2, "epochs": 2, "images": 100, "batch_size": 10}


def test_the_degradation_is_told():
    sentence, *details = _findings(rows([(20, 22), (60, 64), (20, 22), (8, 10)]), SETTINGS)
    assert sentence == (
        "In epoch 2 the training error is 62 % in plain-56, 21 % in plain-20, 9 % in ResNet-56, 21 % in ResNet-20: "
        "depth harms plain networks (the degradation) and helps those with shortcuts."
    )
    text = "\n".join(details)
    assert "plain-56 62.0 ± 2.0" in text and "These are 20 steps" in text
    assert "4 times (plain-56) and 4 times (ResNet-56) as large as at the last block: it vanishes in neither" in text
    assert "through 1.0 of 2 branches on average; the average path has 1" in text


def test_no_degradation_is_told():
    made = rows([(20, 22), (21, 23), (20, 22), (60, 64)], gradients=(1e-6, 2.0), shares=(0.5, 0.5, 0))
    sentence, *details = _findings(made, SETTINGS)
    assert sentence.endswith(
        "depth makes no clear difference to plain networks (no degradation at this size) and harms those with "
        "shortcuts."
    )
    text = "\n".join(details)
    assert "it vanishes in plain-56 and ResNet-56" in text and "through 0.5 of 2 branches" in text


def test_one_depth_is_compared_with_none():
    made = [row for row in rows([(20, 22), (60, 64), (20, 22), (8, 10)]) if row["depth"] == 20]
    sentence = _findings(made, SETTINGS | {"depths": (20,)})[0]
    assert sentence == "In epoch 2 the training error is 21 % in plain-20, 21 % in ResNet-20."


@pytest.mark.parametrize("options", [{}, {"depths": (20,), "seeds": 1}])
def test_it_draws(small, options):
    pytest.importorskip("matplotlib")
    result = shortcuts(**SMALL | options) if options else small
    figure = result.plot()
    figure.canvas.draw()
    assert len(figure.axes) == 2 + len(result.settings["depths"])
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert_legends_are_outside(figure, 2)


def test_the_command_prints_and_draws_it(small, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    assert_the_command_prints_and_draws(shortcuts, small, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (20, 50)}, "depths holds 50: choose from 20, 32"),
        ({"depths": ()}, r"depths is \(\), and must have a length of at least 1"),
        ({"epochs": 0}, "epochs is 0, and must be at least 1"),
        ({"images": 8}, "images is 8, and must be at least 32"),
        ({"input_size": 10}, "input_size is 10, and must divide 28"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        shortcuts(**wrong)


@pytest.mark.long
def test_the_degradation_at_full_size():
    result = shortcuts()
    last = {
        network: np.mean([row["value"] for row in result.where(network=network, quantity="error", at=7)])
        for network in ("plain-20", "plain-56", "ResNet-20", "ResNet-56")
    }
    assert last["plain-56"] > last["plain-20"] + 0.15 and last["plain-56"] > last["ResNet-56"] + 0.3
    assert last["plain-20"] > last["ResNet-20"] + 0.1
    assert "harms plain networks (the degradation)" in result.sentence
    first, end = (
        np.mean([np.log10(row["value"]) for row in result.where(network="plain-56", quantity="gradient", at=at)])
        for at in (0, 27)
    )
    assert first > end + 2  # it grows towards the input
    shares = np.reshape([row["value"] for row in result.where(quantity="share", depth=56)], (3, 28))
    assert (shares @ np.arange(28) < 13.5).all()  # the shorter paths weigh more
