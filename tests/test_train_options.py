"""What a training can be asked for: accumulation, clipping, schedules, divergence, callbacks, presets, pictures."""

import dataclasses
import itertools
import json
import math
import os
import sys
import warnings

import numpy as np
import pytest

from minicnn import Tensor, backend, cli, models, nn, optim, report, threads, train
from minicnn import functional as F
from minicnn import weights as minicnn_weights
from minicnn.data import ArrayDataset, DataLoader, Imagenette
from minicnn.train import runs, sources

pytestmark = pytest.mark.host


def network():
    backend.manual_seed(4)
    return nn.Sequential(
        ("conv", nn.Conv2d(1, 4, 2)), ("relu", nn.ReLU()), ("flat", nn.Flatten()), ("fc", nn.Linear(36, 3))
    )


def fit(model, dots, batch=10, **options):
    options.setdefault("optimizer", optim.SGD(model.parameters(), lr=0.1))
    return train.fit(model, DataLoader(dots, batch, seed=0), options.pop("test", None), **options)


def weights_of(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------------ the loop

@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulated_batches_make_one_step_of_all_their_images(dots, parts):
    """The last batch of two counts for two; a group at the end of an epoch may be short."""
    model, whole = network(), network()
    history = fit(model, dots, 8, accumulate=parts, epochs=2)
    sizes = [8] * 6 + [2]
    groups = [sum(sizes[i : i + parts]) for i in range(0, 7, parts)]
    starts = np.cumsum([0, *groups])
    expected = []
    for _ in range(2):
        for start, end in itertools.pairwise(starts):
            images, labels = dots.batch(np.arange(start, end))
            loss = F.cross_entropy(whole(Tensor(images)), labels)
            loss.backward()
            expected.append(loss.item())
            for p in whole.parameters():
                p.data -= np.float32(0.1) * p.grad
                p.grad = None
    np.testing.assert_allclose(history["steps"]["loss"], expected, rtol=1e-5)
    for name, array in whole.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-4, atol=1e-6)
    assert history["epochs"][0]["loss"] == pytest.approx(np.dot(expected[: len(groups)], groups) / 50, rel=1e-5)


def test_clipping(dots):
    model, free = network(), network()
    norms = []

    class Watch(train.Callback):
        def step(self, training, progress):
            clipped = math.sqrt(sum((p.grad**2).sum() for p in training.model.parameters()))
            norms.append((training.gradient_norm, clipped))

    fit(model, dots, 50, clip_norm=0.05, callbacks=[Watch()])
    before = weights_of(free)
    fit(free, dots, 50)
    [(whole, clipped)] = norms
    assert clipped == pytest.approx(0.05, rel=1e-4) and whole > 0.1
    for name, array in network().state_dict().items():
        step, free_step = model.state_dict()[name] - array, free.state_dict()[name] - before[name]
        np.testing.assert_allclose(step, free_step * 0.05 / whole, rtol=1e-3, atol=1e-6)
    tight = network()
    fit(tight, dots, 50, clip_value=0.001)
    change = max(abs(tight.state_dict()[name] - array).max() for name, array in network().state_dict().items())
    assert change == pytest.approx(0.1 * 0.001, rel=1e-3)


def test_evaluations_within_an_epoch_and_patience(dots):
    told = []

    class Watch(train.Callback):
        def evaluated(self, training, result, entry):
            told.append((training.updates, result.loss))

    model = network()
    judge = DataLoader(dots, 20)
    history = fit(model, dots, 10, test=judge, evaluate_every=2, epochs=2, callbacks=[Watch()])
    assert [entry["step"] for entry in history["evaluations"]] == [2, 4, 6, 8, 10]
    assert [step for step, _ in told] == [2, 4, 5, 6, 8, 10]  # that after 10 steps is the epoch's too
    assert history["evaluations"][-1]["test_loss"] == history["epochs"][-1]["test_loss"] == told[-1][1]
    assert history["evaluations"][0]["test_loss"] > history["evaluations"][-1]["test_loss"]
    worse = network()
    uphill = optim.SGD(worse.parameters(), lr=1e-3, maximize=True)
    history = fit(worse, dots, 10, test=judge, epochs=50, patience=3, optimizer=uphill)
    assert len(history["epochs"]) == 4  # the first is the best, and three are no better


def test_the_same_weights_are_judged_once(dots):
    """An evaluation that falls on an epoch's end counts once for `patience`, and so does an epoch of skipped steps."""
    judged = []

    class Watch(train.Callback):
        def evaluated(self, training, result, entry):
            judged.append(training.updates)

    def trained(data, **options):
        judged.clear()
        model = network()
        options = {"test": DataLoader(dots, 20), "patience": 2, "epochs": 9, "callbacks": [Watch()], **options}
        return fit(model, data, optimizer=optim.SGD(model.parameters(), lr=1e-3, maximize=True), **options)

    history = trained(dots, evaluate_every=5)  # the five steps of an epoch
    assert judged == [5, 10, 15] and [entry["step"] for entry in history["evaluations"]] == judged
    assert [entry["test_loss"] for entry in history["epochs"]] == [e["test_loss"] for e in history["evaluations"]]
    bad = ArrayDataset(np.full_like(dots.images, np.nan), dots.labels)
    history = trained(bad, non_finite="skip", epochs=4)
    assert judged == [0] and len(history["epochs"]) == 4


def test_a_test_loss_that_is_not_finite_is_never_the_best(dots):
    """Whether it comes first or later; it is no better than what was there, and JSON can write the history."""
    judge = DataLoader(ArrayDataset(dots.images.copy(), dots.labels), 20)
    good, seen = judge.dataset.images.copy(), []

    class Spoil(train.Callback):
        def __init__(self, epochs):
            self.epochs = epochs

        def safe(self, training):
            judge.dataset.images[:] = np.nan if training.epoch in self.epochs else good

        def evaluated(self, training, result, entry):
            seen.append((result.loss, training.best))

    def losses(spoilt, **options):
        seen.clear()
        judge.dataset.images[:] = np.nan if 1 in spoilt else good
        history = fit(network(), dots, test=judge, callbacks=[Spoil(spoilt)], **options)
        assert json.loads(json.dumps(history, allow_nan=False)) == history
        return [entry["test_loss"] for entry in history["epochs"]]

    first, second, third = losses({1}, epochs=3)
    assert first is None and third < second and math.isnan(seen[0][0])
    assert [best for _, best in seen] == [None, second, third]
    assert losses({2, 3}, epochs=9, patience=2)[1:] == [None, None] and seen[-1][1] == seen[0][0]
    assert losses({1, 2, 3, 4}, epochs=9, patience=3) == [None] * 3


def test_an_epoch_of_skipped_steps_has_no_loss(dots, capsys):
    bad = ArrayDataset(np.full_like(dots.images, np.nan), dots.labels)
    history = fit(network(), bad, epochs=2, non_finite="skip", test=DataLoader(dots, 50))
    assert [(entry["loss"], entry["accuracy"]) for entry in history["epochs"]] == [(None, None)] * 2
    assert history["epochs"][0]["test_loss"] > 0 and history["steps"]["loss"] == []
    cli.Display(train.Recipe(epochs=2)).epoch(history["epochs"][0])
    assert capsys.readouterr().out.startswith("epoch 1/2  all steps were skipped  0 images/s  test images: loss ")


def test_a_number_of_steps_and_callbacks_that_stop(dots):
    class Stop(train.Callback):
        def step(self, training, progress):
            if training.updates == 3:
                training.stop = "enough"

    for options in ({"max_steps": 3}, {"callbacks": [Stop()]}):
        history = fit(network(), dots, 10, epochs=4, test=DataLoader(dots, 50), **options)
        assert len(history["steps"]["loss"]) == 3 and len(history["epochs"]) == 1
        assert "test_loss" in history["epochs"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0, and must be at least 1"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"non_finite": "ignore"}, "non_finite is 'ignore', and must be 'stop' or 'skip'"),
        ({"patience": 1}, "patience= and evaluate_every= need a test_loader"),
    ],
)
def test_options_that_make_no_sense(dots, options, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), dots, **options)


# ------------------------------------------------------------------------------------------------------ divergence

def poisoned(dots, at=23):
    dots.images = dots.images.copy()
    dots.images[at, 2, 2] = np.inf
    return dots


def test_a_loss_that_is_not_finite_names_the_layer_and_what_helps(dots):
    model = network()
    with pytest.raises(train.NonFiniteLoss) as caught:
        fit(model, poisoned(dots))
    text = str(caught.value)
    assert "at step 3 of epoch 1, with learning rate 0.1. It began in conv: conv2d in conv made" in text
    assert "The images were not finite to begin with (1 of the step's 10, the first is number 4)" in text
    assert "No learning rate helps against that" in text and "smaller learning rate" not in text
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("clip_norm", [None, 1e6])
def test_weights_that_are_too_large_name_the_layer_and_what_helps(dots, clip_norm):
    """Clipping is no advice for those who have it."""
    model = network()
    model.get_submodule("conv").weight.data[...] = np.float32(3e38)
    with pytest.raises(train.NonFiniteLoss) as caught:
        fit(model, dots, clip_norm=clip_norm)
    text = str(caught.value)
    assert "at step 1 of epoch 1, with learning rate 0.1. It began in conv: conv2d in conv made" in text
    assert "on the way forward" in text and "A smaller learning rate usually helps" in text
    assert ("no gradient that could be clipped" in text) is ("--clip-norm" in text) is (clip_norm is None)
    assert "minicnn lab exploding" in text and "checkpoint" not in text


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_buffers_are_as_before_a_step_that_was_not_finite(dots, non_finite):
    """Running statistics of batch norm, whose forward pass changes them before the loss is known."""
    backend.manual_seed(1)
    model = nn.Sequential(
        ("conv", nn.Conv2d(1, 4, 2)), ("norm", nn.BatchNorm2d(4)), ("flat", nn.Flatten()), ("fc", nn.Linear(36, 3))
    )
    dots = ArrayDataset(dots.images.copy(), dots.labels)
    dots.images[-1] = np.nan
    seen = []

    class Watch(train.Callback):
        def step(self, training, progress):
            seen.append(weights_of(training.model))

    if non_finite == "stop":
        with pytest.raises(train.NonFiniteLoss):
            fit(model, dots, callbacks=[Watch()])
    else:
        fit(model, dots, callbacks=[Watch()], non_finite="skip")
    assert len(seen) == 4 and {"norm.running_mean", "norm.num_batches_tracked"} <= seen[-1].keys()
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, seen[-1][name])


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_buffer_that_is_not_finite_is_found_in_its_step(dots, non_finite):
    """The variance of what is very large overflows, and with it divides to 0: loss and gradients stay finite."""
    backend.manual_seed(1)
    model = nn.Sequential(("norm", nn.BatchNorm2d(1)), ("flat", nn.Flatten()), ("fc", nn.Linear(16, 3)))
    dots = ArrayDataset(dots.images.copy(), dots.labels)
    dots.images[-1] = 1e25
    skipped, seen = [], []

    class Watch(train.Callback):
        def step(self, training, progress):
            seen.append(weights_of(training.model))

        def skipped(self, training, reason):
            skipped.append(reason)

    if non_finite == "stop":
        with pytest.raises(train.NonFiniteWeights, match=r"norm\.running_var is not finite at step 5 of epoch 1"):
            fit(model, dots, callbacks=[Watch()])
    else:
        fit(model, dots, callbacks=[Watch()], non_finite="skip")
        assert len(skipped) == 1 and "and norm.running_var is not finite at step 5 of epoch 1" in skipped[0]
    assert len(seen) == 4
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, seen[-1][name])


def test_a_gradient_that_is_not_finite_names_the_layer_too(dots):
    """The root of 0 has the value 0 and an infinite derivative."""

    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt()

    backend.manual_seed(0)
    model = nn.Sequential(
        ("flat", nn.Flatten()), ("first", nn.Linear(16, 8)), ("root", Root()), ("fc", nn.Linear(8, 3))
    )
    before = weights_of(model)
    with pytest.raises(train.NonFiniteGradient) as caught:
        fit(model, dots)
    text = str(caught.value)
    assert "and the gradient of first.weight is not finite at step 1 of epoch 1" in text
    assert "It began in root: " in text and "on the way backward" in text and "--clip-norm" in text
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_can_be_skipped_as_if_its_batches_were_not_there(dots, accumulate):
    def build():
        backend.manual_seed(1)
        return nn.Sequential(
            ("conv", nn.Conv2d(1, 4, 2)), ("norm", nn.BatchNorm2d(4)), ("flat", nn.Flatten()), ("fc", nn.Linear(36, 3))
        )

    told = []

    class Watch(train.Callback):
        def skipped(self, training, reason):
            told.append(reason)

    model, without = build(), build()
    optimizer = optim.Adam(model.parameters())
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    history = fit(
        model, poisoned(dots), 5, optimizer=optimizer, scheduler=schedule, schedule_each="step", non_finite="skip",
        accumulate=accumulate, callbacks=[Watch()],
    )  # fmt: skip
    images = 5 * accumulate
    left = np.delete(np.arange(50), np.arange(23 // images * images, 23 // images * images + images))
    rest = ArrayDataset(dots.images[left], dots.labels[left])
    other = optim.Adam(without.parameters())
    halves = optim.lr_scheduler.StepLR(other, 1, gamma=0.5)
    expected = fit(
        without, rest, 5, optimizer=other, scheduler=halves, schedule_each="step", accumulate=accumulate
    )
    assert len(told) == 1 and "It began in conv" in told[0]
    assert history["steps"] == expected["steps"] and history["epochs"][0]["loss"] == expected["epochs"][0]["loss"]
    for name, array in without.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_skipping_everything_ends_too(dots):
    dots.images = np.full_like(dots.images, np.nan)
    with pytest.raises(train.NonFiniteLoss, match="25 steps in a row were skipped: that does not help"):
        fit(network(), dots, 5, epochs=9, non_finite="skip")


def test_the_last_good_checkpoint_is_kept(small, tmp_path):
    """A step makes the weights infinite: no checkpoint is written after it, and the one before can be read."""
    recipe = train.Recipe(epochs=3, images=192, optimizer="sgd", lr=1e38)
    folder = train.RunFolder(tmp_path / "run", every=1)
    with pytest.raises(train.NonFiniteLoss):
        train.run(recipe, folder=folder)
    path, arrays, _ = next(folder.checkpoints.load())
    assert path == folder.checkpoints.paths()[0]
    assert all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("model."))


@pytest.mark.parametrize("kind", [train.NonFiniteLoss, train.NonFiniteGradient, train.NonFiniteWeights])
def test_the_error_names_the_last_good_checkpoint(small, tmp_path, kind, monkeypatch):
    class Spoil(train.Callback):
        def step(self, training, progress):
            if training.updates == 2 and kind is train.NonFiniteWeights:
                next(iter(training.model.parameters())).data[...] = np.inf

    original = train.Training._problem

    def problem(self, *numbers):
        return ("something is not finite", kind) if self.updates == 2 else original(self, *numbers)

    monkeypatch.setattr(train.Training, "_problem", problem)
    folder = train.RunFolder(tmp_path / "run", every=1)
    recipe = train.Recipe(epochs=3, images=192, clip_norm=5.0)
    with pytest.raises(kind) as caught:
        train.run(recipe, folder=folder, callbacks=[Spoil()])
    [newest, *_] = folder.checkpoints.paths()
    assert type(caught.value) is kind and f"The last good checkpoint is {newest}: " in str(caught.value)
    assert "with --lr X at another learning rate" in str(caught.value) and "--clip-norm" not in str(caught.value)


def names(folder):
    return [path.name for path in train.RunFolder(folder).checkpoints.paths()]


def too_large(folder, lr="1e25"):
    """A run whose first step makes weights that are finite, and far too large for a second."""
    options = "--images 96 --batch-size 32 --hold-back 64 --epochs 1 --optimizer sgd --schedule constant"
    how = ["--option", "width=0.5", "--checkpoint-every", "1", "--lr", lr, "--output", str(folder)]
    return ["train", "resnet20", *options.split(), *how]


@pytest.mark.parametrize(("lr", "found"), [("1e25", "the loss is nan"), ("1e17", "bn1.running_var is not finite")])
def test_a_checkpoint_whose_next_step_diverges_is_set_aside(tmp_path, capsys, monkeypatch, lr, found):
    """Its weights are finite, and no learning rate helps against them."""
    monkeypatch.setattr(threads, "_requested", None)
    run = tmp_path / "run"
    assert cli.main(too_large(run, lr)) == 1
    err = capsys.readouterr().err
    assert found in err
    kept = run / "checkpoints"
    assert f"The checkpoint of step 1 led there at once and is now {kept / 'step-000000001.npz.bad'}. The last" in err
    assert f"The last good checkpoint is {kept / 'step-000000000.npz'}: 'minicnn resume {run}' goes on" in err
    assert err.count("\n") == 1 and names(run) == ["step-000000000.npz"]
    assert cli.main(["resume", str(run)]) == 1  # the same again, bit for bit
    assert capsys.readouterr().err == err and names(run) == ["step-000000000.npz"]
    assert [path.name for path in kept.glob("*.bad")] == ["step-000000001.npz.bad"]
    assert cli.main(["resume", str(run), "--lr", "0.001"]) == 0
    assert rates(run) == [0.001] * 3


def diverge(at, monkeypatch):
    """Let trainings have a loss that is not finite in the step after `at`."""
    original = train.Training._problem

    def found(training, *numbers):
        return ("the loss is nan", train.NonFiniteLoss) if training.updates == at else original(training, *numbers)

    monkeypatch.setattr(train.Training, "_problem", found)


def test_what_is_not_the_checkpoints_fault_leaves_it_there(small, tmp_path, monkeypatch):
    """It diverged later; it is the only one that is whole; the images are not finite."""
    recipe = train.Recipe(epochs=1, images=192)  # three steps
    with monkeypatch.context() as patch:
        diverge(2, patch)
        later = train.RunFolder(tmp_path / "later", every=10)
        with pytest.raises(train.NonFiniteLoss, match=r"The last good checkpoint is .*step-000000000\.npz: "):
            train.run(recipe, folder=later)
    with monkeypatch.context() as patch:
        diverge(0, patch)
        only = train.RunFolder(tmp_path / "only", every=1)
        with pytest.raises(train.NonFiniteLoss, match=r"The last good checkpoint is .*step-000000000\.npz: "):
            train.run(recipe, folder=only)
    assert names(tmp_path / "later") == names(tmp_path / "only") == ["step-000000000.npz"]

    original = train.Training._run_group

    def blackened(training, group):
        for images, _ in group if training.updates == 2 else ():
            images[0] = np.nan
        original(training, group)

    monkeypatch.setattr(train.Training, "_run_group", blackened)
    with pytest.raises(train.NonFiniteLoss, match=r"images were not finite .*last good checkpoint is .*-000000002\."):
        train.run(recipe, folder=train.RunFolder(tmp_path / "images", every=1))
    assert names(tmp_path / "images")[0] == "step-000000002.npz"


def test_a_damaged_checkpoint_is_not_called_the_last_good_one(small, tmp_path, monkeypatch):
    class Spoil(train.Callback):
        def safe(self, training):
            if training.updates == 1:
                (tmp_path / "run" / "checkpoints" / "step-000000000.npz").write_bytes(b"")

    diverge(1, monkeypatch)
    folder = train.RunFolder(tmp_path / "run", every=1)
    with pytest.raises(train.NonFiniteLoss, match=r"The last good checkpoint is .*step-000000001\.npz: "):
        train.run(train.Recipe(epochs=1, images=192), folder=folder, callbacks=[Spoil()])


def best_of(run):
    _, facts = minicnn_weights.read(run / "best.npz")
    return int(facts["step"]), float(facts["test_loss"])


def test_the_best_weights_are_not_of_a_branch_that_was_given_up(small, tmp_path, monkeypatch):
    """With another rate from a step before them they are gone, and the next evaluation writes the first of the new
    branch; without another rate they stay."""
    recipe = train.Recipe(epochs=2, images=192, lr=0.003, evaluate_every=1)  # six steps
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        diverge(2, patch)
        with pytest.raises(train.NonFiniteLoss):
            train.run(recipe, folder=train.RunFolder(run, every=10))
    assert best_of(run)[0] > 0 and names(run) == ["step-000000000.npz"]
    before = (run / "best.npz").read_bytes()

    class Stop(train.Callback):
        def step(self, training, progress):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train.resume(run, callbacks=[Stop()])
    assert (run / "best.npz").read_bytes() == before
    with pytest.raises(RuntimeError, match="stop"):
        train.resume(run, lr=1e-4, callbacks=[Stop()])
    assert not (run / "best.npz").exists()
    done = train.resume(run)
    judged = [(entry["test_loss"], entry["step"]) for entry in done.history["evaluations"]]
    assert best_of(run) == min(judged)[::-1] and rates(run)[0] == 1e-4


def test_the_best_weights_from_before_another_rate_stay(small, tmp_path, monkeypatch):
    recipe = train.Recipe(epochs=2, images=192, lr=0.003, evaluate_every=1)
    run = tmp_path / "run"

    class Stop(train.Callback):
        def step(self, training, progress):
            if training.updates == 4:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train.run(recipe, folder=train.RunFolder(run, every=1), callbacks=[Stop()])
    before, step = (run / "best.npz").read_bytes(), best_of(run)[0]
    assert 0 < step <= 3 and names(run)[0] == "step-000000003.npz"
    train.resume(run, lr=1e3)  # which learns nothing any more
    assert (run / "best.npz").read_bytes() == before


def rates(folder):
    return [line["lr"] for line in lines_of(folder) if line["event"] == "step"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("scheduled", [True, False])
def test_the_rate_can_be_set_again(dots, scheduled):
    """Each time to what it would have been at the start, not in proportion to the time before."""

    class Change(train.Callback):
        def step(self, training, progress):
            if training.updates == 2:
                training.set_rate(0.4)
            if training.updates == 3:
                training.set_rate(0.01)

    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)) if scheduled else None
    history = fit(
        model, dots, optimizer=optimizer, scheduler=schedule, schedule_each="step", callbacks=[Change()]
    )
    expected = [0.1 / 1, 0.1 / 2, 0.4 / 3, 0.01 / 4, 0.01 / 5] if scheduled else [0.1, 0.1, 0.4, 0.01, 0.01]
    np.testing.assert_allclose(history["steps"]["lr"], expected)


@pytest.mark.parametrize("schedule", [{}, {"warmup": 2}, {"schedule": "constant"}])
def test_going_on_from_the_last_good_checkpoint_with_a_smaller_rate(small, tmp_path, schedule, capsys, monkeypatch):
    """The schedule goes on from where it was, at a tenth; an interruption later keeps the change."""
    monkeypatch.setattr(threads, "_requested", None)
    recipe = train.Recipe(epochs=3, images=64, batch_size=16, optimizer="sgd", lr=0.2, weight_decay=0.01, **schedule)
    whole = train.run(recipe, folder=tmp_path / "whole").history["steps"]["lr"]

    class Crash(train.Callback):
        def step(self, training, progress):
            if training.updates == self.at:
                raise train.NonFiniteLoss("the loss is nan")

    crash, run = Crash(), tmp_path / "run"
    crash.at = 5
    with pytest.raises(train.NonFiniteLoss, match=r"the loss is nan\. The last good checkpoint is .*step-000000004"):
        train.run(recipe, folder=train.RunFolder(run, every=1), callbacks=[crash])
    crash.at = 6
    with pytest.raises(train.NonFiniteLoss):
        train.resume(train.RunFolder(run, every=100), lr=0.02, callbacks=[crash])
    done = train.resume(train.RunFolder(run))  # from the checkpoint that was written when the rate was changed
    np.testing.assert_allclose(done.history["steps"]["lr"], [*whole[:4], *(np.array(whole[4:]) / 10)])
    events = [(line["step"], line["lr"]) for line in lines_of(run) if line["event"] == "rate"]
    assert events == [(4, 0.02)] and rates(run) == done.history["steps"]["lr"]
    assert train.read_config(run / "config.json") == recipe
    with pytest.raises(ValueError, match="the run is over, and another learning rate has nothing to change"):
        train.resume(run, lr=0.1)
    with pytest.raises(ValueError, match="lr is 0, and must be a number above 0"):
        train.resume(run, lr=0)
    assert cli.main(["resume", str(run), "--lr", "0.1"]) == 1
    assert "the run is over" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- optimiser, schedule, losses

def test_weight_decay_leaves_biases_and_norms_alone():
    model = models.resnet20(width=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = runs.make_optimizer(train.Recipe(model="resnet20", optimizer="sgd", weight_decay=0.1), model)
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name, p in model.named_parameters() if "conv" in name or name == "fc.weight"}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    everything = runs.make_optimizer(
        train.Recipe(model="resnet20", optimizer="sgd", weight_decay=0.1, decay_all=True, momentum=0.5), model
    )
    [group] = everything.param_groups
    assert group["weight_decay"] == 0.1 and group["momentum"] == 0.5


def test_the_weight_decay_that_an_optimizer_has_by_itself_leaves_biases_and_norms_alone_too():
    model = models.resnet20(width=0.1)
    groups = runs.make_optimizer(train.Recipe(model="resnet20", optimizer="adamw"), model).param_groups
    assert [(group["weight_decay"], {p.ndim > 1 for p in group["params"]}) for group in groups] == [
        (0.01, {True}), (0.0, {False})
    ]  # fmt: skip
    recipe = train.Recipe(model="resnet20", optimizer="adamw", decay_all=True)
    recipe.check()
    [group] = runs.make_optimizer(recipe, model).param_groups
    assert group["weight_decay"] == 0.01 and len(group["params"]) == len(list(model.parameters()))
    for optimizer in ("adam", "sgd", "rmsprop"):
        [group] = runs.make_optimizer(train.Recipe(model="resnet20", optimizer=optimizer), model).param_groups
        assert group["weight_decay"] == 0
        with pytest.raises(ValueError, match=f"decay_all is true, and {optimizer} has no weight decay by itself: give"):
            train.Recipe(optimizer=optimizer, decay_all=True).check()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0, and must be a number above 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0, and must be a number above 0"),
        ({"clip_value": 0.0}, "clip_value is 0.0, and must be a number above 0"),
        ({"milestones": (0.3,)}, r"one factor for each milestone.*Give both \(--milestones 0.5,0.75 --factors"),
        ({"milestones": (0.3, 0.9)}, "for the schedule 'step', and this one is 'cosine': give schedule 'step' too"),
        ({"factors": (0.3, 0.2), "schedule": "constant"}, "for the schedule 'step', and this one is 'constant'"),
    ],
)
def test_entries_of_a_recipe_that_would_do_nothing(changed, message):
    recipe = train.Recipe(**changed)
    with pytest.raises(ValueError, match=message):
        recipe.check()
    with pytest.raises(ValueError, match=message):
        train.parse_config(recipe.to_json().encode())


def test_a_warmup_that_is_longer_than_the_training(small, tmp_path):
    recipe = train.Recipe(epochs=1, images=128, warmup=3)
    with pytest.raises(ValueError, match="warmup is 3 steps, and the training has 2: it would never reach its"):
        train.run(recipe, folder=tmp_path / "runs" / "1")
    assert not (tmp_path / "runs").exists()
    lr = train.run(dataclasses.replace(recipe, warmup=2)).history["steps"]["lr"]
    assert lr == [0.001, 0.002]


def test_options_of_the_command_line_that_would_do_nothing(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threads, "_requested", None)
    monkeypatch.chdir(tmp_path)
    for argv in (["--milestones", "0.5,0.75"], ["--factors", "0.1,0.01", "--schedule", "constant"]):
        assert cli.main(["train", "lenet5", *argv]) == 2
        assert "--milestones and --factors are for --schedule step, and this one is co" in capsys.readouterr().err
    argv = ["train", "resnet20", "--preset", "resnet-cifar-2015", "--images", "4", "--epochs", "1", "--batch-size", "4"]
    argv += ["--option", "width=0.1", "--output", "run"]
    assert cli.main([*argv, "--schedule", "cosine"]) == 0  # the preset's milestones are for its own schedule
    assert cli.main(["train", "lenet5", "--data", "mnits"]) == 1
    out, err = capsys.readouterr()
    assert "Did you mean 'mnist'" in err and "mnits" not in out
    assert cli.main(["train", "lenet5", "--hold-back", "999999"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert cli.main(["train", "--config", "nope.json"]) == 1
    assert "there is no file nope.json; a config is the config.json in the folder of a run" in capsys.readouterr().err


def test_numpy_has_nothing_to_say_of_a_rate_that_is_far_too_large(small):
    """Warnings are errors here; the loss and the sizes say it."""
    run = train.run(train.Recipe(epochs=1, images=128, lr=1e30))
    assert run.history["steps"]["loss"]


def test_numpy_has_nothing_to_say_of_weights_that_are_judged(dots):
    model = network()
    for p in model.parameters():
        p.data[...] = np.float32(3e38)
    assert not math.isfinite(train.evaluate(model, DataLoader(dots, 20)).loss)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"schedule": "constant"}, [1] * 8),
        ({"schedule": "constant", "warmup": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"schedule": "step", "milestones": (0.25, 0.75), "factors": (0.5, 0.1)}, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1]),
        ({}, [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]),
        ({"warmup": 2}, [0.5, 1, *((1 + math.cos(math.pi * t / 6)) / 2 for t in range(6))]),
    ],
)
def test_schedules(changed, expected):
    optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=0.2)
    schedule = runs.make_schedule(train.Recipe(**changed), optimizer, 8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, 0.2 * np.array(expected), atol=1e-12)


def test_label_smoothing_and_auxiliary_losses(rng):
    model = models.googlenet(num_classes=3, input_size=33, width=1 / 16)
    images, labels = rng.standard_normal((4, 3, 33, 33)).astype(np.float32), np.array([0, 1, 2, 0])
    outputs = model(Tensor(images))
    recipe = train.Recipe(model="googlenet", label_smoothing=0.2)
    parts = [F.cross_entropy(o, labels, label_smoothing=0.2).item() for o in outputs]
    loss = runs.make_criterion(recipe, model)(outputs, labels).item()
    assert loss == pytest.approx(parts[0] + 0.3 * (parts[1] + parts[2]), rel=1e-6)
    assert runs.make_criterion(train.Recipe(), model) is models.googlenet_loss
    outputs = outputs.logits
    loss = runs.make_criterion(recipe, model)(outputs, labels).item()
    assert loss == pytest.approx(parts[0], rel=1e-6)
    with pytest.raises(ValueError, match="LeNet-5 of 1998 has a loss of its own"):
        runs.make_criterion(recipe, models.lenet5(variant="1998"))


# --------------------------------------------------------------------------------------------------------- presets

@pytest.fixture
def small(monkeypatch):
    """Data sets of a few images."""

    def shrunk(kind):
        class Small(kind):
            def __init__(self, train=True):
                random, side = np.random.default_rng(train), 28 if "MNIST" in kind.__name__ else 32
                shape = (200, side, side) if side == 28 else (200, 3, side, side)
                images, labels = random.integers(0, 256, shape, np.uint8), random.integers(0, len(self.classes), 200)
                ArrayDataset.__init__(self, images, labels)

        return Small

    for name, kind in list(sources.SETS.items()):
        if name != "imagenette":
            monkeypatch.setitem(sources.SETS, name, shrunk(kind))


@pytest.mark.parametrize("name", train.PRESETS)
def test_presets_make_sense(name):
    preset = train.PRESETS[name]
    preset.recipe.check()
    assert train.parse_config(preset.recipe.to_json().encode()) == preset.recipe
    assert "section" in preset.source and preset.departures


@pytest.mark.parametrize("name", ["lenet5-1998", "resnet-cifar-2015", "plain-cifar-2015"])
def test_presets_run(small, name):
    recipe = train.PRESETS[name].recipe
    options = recipe.options if name.startswith("lenet") else {**recipe.options, "width": 0.25}
    batch = min(recipe.batch_size, 10)
    run = train.run(dataclasses.replace(recipe, images=20, epochs=1, batch_size=batch, options=options))
    assert run.model.input_size == 32 and len(run.history["steps"]["loss"]) == (20 if name.startswith("lenet") else 2)


def test_lenets_images_of_1998(small):
    """Section II.B: a background of −0.1 and a foreground of 1.175, 28×28 in a field of 32×32."""
    data = sources.load(dataclasses.replace(train.PRESETS["lenet5-1998"].recipe, images=10))
    images = data.transform(data.train.batch(np.arange(10))[0], np.random.default_rng(0))
    raw = data.train.dataset.images[:10] / 255
    np.testing.assert_allclose(images[:, 0, 2:30, 2:30], -0.1 + 1.275 * raw, atol=1e-6)
    border = images[:, 0].copy()
    border[:, 2:30, 2:30] = -0.1
    np.testing.assert_allclose(border, np.full((10, 32, 32), -0.1), atol=1e-6)


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("model", ["resnet20", "lenet5"])
def test_any_network_on_any_data(small, data, model):
    recipe = train.Recipe(model=model, data=data, epochs=1, images=16, batch_size=8, options={"width": 0.2})
    run = train.run(recipe)
    assert run.model.num_classes == (100 if data == "cifar100" else 10) and len(run.result.labels) == 200
    assert run.model.in_channels == (1 if "mnist" in data else 3)


def test_small_images_grow_for_a_network_that_needs_larger_ones(small):
    data = sources.load(train.Recipe(model="alexnet", data="mnist", images=5, input_size=70))
    assert data.judge_transform(data.train.batch(np.arange(2))[0]).shape == (2, 1, 70, 70)
    assert sources.load(train.Recipe(model="alexnet", data="mnist", images=5)).side == 227


def test_workers_change_nothing(small):
    recipe = train.Recipe(model="resnet20", data="cifar10", epochs=2, images=40, batch_size=8, options={"width": 0.2})
    first, other = train.run(recipe), train.run(recipe, workers=3)
    assert first.history["steps"] == other.history["steps"]


# -------------------------------------------------------------------------------------------------------- pictures

@pytest.fixture
def photographs(tmp_path, rng):
    """As a new user has them: sizes, colours and formats mixed, one file broken; red things and blue things."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "photographs"
    for name, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
        (root / name).mkdir(parents=True)
        for i in range(12):
            height, width = rng.integers(20, 90, 2)
            pixels = (rng.normal(0, 20, (height, width, 3)) + colour).clip(0, 255).astype(np.uint8)
            picture = image.fromarray(pixels)
            kind = {3: "L", 4: "CMYK", 5: "P"}.get(i)
            suffix = "png" if kind == "P" else "jpg"
            (picture.convert(kind) if kind else picture).save(root / name / f"{i:02}.{suffix}")
    whole = (root / "red" / "00.jpg").read_bytes()
    (root / "red" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("not a picture")
    return root


COMMAND = ["train", "resnet20", "--epochs", "1", "--option", "width=0.25", "--batch-size", "6"]


def test_train_on_a_folder_of_photographs(photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threads, "_requested", None)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([*COMMAND, "--data", "photographs", "--output", "run"]) == 0
        out, err = capsys.readouterr()
        monkeypatch.chdir("/")
        assert cli.main(["resume", str(tmp_path / "run")]) == 0
    assert out.startswith("training resnet20 on photographs with adam: epochs 1, ") and "held-back accuracy" in out
    assert "trained and tested in " in out
    assert err.count("\n") == 1 and "skipped 1 of 25 files: " in err and "broken.jpg" in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"] == str(photographs)  # the run goes on from wherever
    out = capsys.readouterr().out
    assert out.startswith("resuming resnet20 on photographs with adam: ")
    assert "\nnothing was left to train\ntested in " in out
    for name in ("weights.npz", "best.npz"):
        weights = str(tmp_path / "run" / name)
        assert cli.main(["classify", "resnet20", "--weights", weights, str(photographs / "blue" / "00.jpg")]) == 0
        assert {"blue", "red"} <= set(capsys.readouterr().out.split())
    known = [minicnn_weights.read(tmp_path / "run" / name)[1] for name in ("weights.npz", "best.npz")]
    assert known[0].items() <= known[1].items() and known[0].keys() >= {"class_names", "mean", "std", "resize"}


def test_a_broken_picture_can_be_refused(photographs, tmp_path, capsys):
    where = ["--data", str(photographs), "--output", str(tmp_path / "run")]
    assert cli.main([*COMMAND, *where, "--broken", "refuse"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"minicnn: error: broken pictures: {photographs / 'red' / 'broken.jpg'}: ")
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # one that was there stays
    assert cli.main([*COMMAND, *where, "--broken", "refuse"]) == 1
    assert not list((tmp_path / "run").iterdir())


def test_a_name_with_a_new_line_makes_no_new_line(photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threads, "_requested", None)
    (photographs / "red" / "broken.jpg").rename(photographs / "red" / "bro\nken\x1b[2J.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([*COMMAND, "--data", str(photographs), "--output", str(tmp_path / "run")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("minicnn: note: ") and err.count("\n") == 1 and "\x1b" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_classes_with_odd_names(photographs, tmp_path, capsys, monkeypatch):
    """Letters that are none of UTF-8, an escape and a new line: trained, shown and drawn; the weights have them as they
    are."""
    monkeypatch.setattr(threads, "_requested", None)
    odd = [os.fsdecode(b"caf\xe9"), "new\nline\x1b[2J"]
    for plain, name in zip(("blue", "red"), odd, strict=True):
        (photographs / plain).rename(photographs / name)
    root = photographs.rename(tmp_path / os.fsdecode(b"pictures\x1b\xe9"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([*COMMAND, "--data", str(root), "--lr", "1e-9", "--output", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("training resnet20 on pictures\ufffd\ufffd with adam")
    assert out.splitlines()[-1].startswith("held-back accuracy ") and out.encode()  # no lone surrogates
    assert "\x1b" not in out + err and ("caf\ufffd" in out or "new\ufffdline\ufffd[2J" in out)
    if report.missing() is None:
        assert (tmp_path / "run" / "page.png").read_bytes().startswith(b"\x89PNG")
    for name in ("weights.npz", "best.npz"):
        assert json.loads(minicnn_weights.read(tmp_path / "run" / name)[1]["class_names"]) == odd


def test_a_picture_that_could_not_be_resized_is_broken(photographs):
    """The scan sees pictures as the training does; this one is whole, but would be 36 × 36 million pixels."""
    from PIL import Image

    Image.new("L", (1, 1_000_000)).save(photographs / "red" / "thin.png")
    with pytest.warns(UserWarning, match=r"skipped 2 of 26 files: .*thin\.png: 1×1000000 pixels are too long and thin"):
        data = sources.load(train.Recipe(model="resnet20", data=str(photographs)))
    assert len(data.train) + len(data.judged_by) == 24


def test_so_many_photographs_and_no_more(photographs):
    recipe = train.Recipe(model="resnet20", data=str(photographs), images=7)
    with pytest.warns(UserWarning, match="skipped 1"):
        assert len(sources.load(recipe).train) == 7
    with (
        pytest.warns(UserWarning, match="skipped 1"),
        pytest.raises(ValueError, match="images is 21: it must be from 1 to 20, the images there are to train on"),
    ):
        sources.load(dataclasses.replace(recipe, images=21))
    with (  # the same numbers, however many are asked for
        pytest.warns(UserWarning, match="skipped 1"),
        pytest.raises(ValueError, match="images is 25: it must be from 1 to 20, the images there are to train on"),
    ):
        sources.load(dataclasses.replace(recipe, images=25))
    with (
        pytest.warns(UserWarning, match="skipped 1"),
        pytest.raises(ValueError, match="hold_back is 24: some of 24 images must be left to train on"),
    ):
        sources.load(dataclasses.replace(recipe, images=None, hold_back=24))


def test_a_recipe_for_small_images_is_not_for_photographs(photographs):
    recipe = dataclasses.replace(train.PRESETS["lenet5-1998"].recipe, data=str(photographs))
    with pytest.raises(ValueError, match=r"pad is 2 and pixels \[-0.1, 1.175\], .* not for photographs: choose"):
        sources.load(recipe)


def test_photographs_that_were_moved(photographs, tmp_path):
    """Said so, and the run goes on when the config has their new place."""
    with pytest.warns(UserWarning, match="skipped 1"):
        recipe = train.Recipe(model="resnet20", data=str(photographs), epochs=1, options={"width": 0.1})
        train.run(recipe, folder=tmp_path / "run")
    photographs.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match='photographs, which .* put a link to them there, or write .*"data"'):
        train.resume(tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(str(photographs), str(tmp_path / "moved")))
    with pytest.warns(UserWarning, match="skipped 1"):
        train.resume(tmp_path / "run")


def test_the_photographs_are_split_by_class_and_never_overlap(photographs):
    with pytest.warns(UserWarning, match="skipped 1"):
        data = sources.load(train.Recipe(model="resnet20", data=str(photographs)))
    train_part, held = set(data.train.indices.tolist()), set(data.judged_by.indices.tolist())
    assert not train_part & held and len(train_part | held) == 24
    labels = data.judged_by.dataset.labels[data.judged_by.indices]
    assert np.bincount(labels).tolist() == [2, 2]  # a fifth of twelve
    images, _ = data.train_augmented.batch(np.arange(3), np.random.default_rng(0))
    assert images.shape == (3, 3, 32, 32) and data.side == 32 and data.classes == ("blue", "red")
    np.testing.assert_array_equal(data.train.indices, data.train_augmented.indices)


def test_a_folder_that_has_parts(photographs):
    for part in ("train", "val"):
        (photographs / part).mkdir()
    for name in ("red", "blue"):
        (photographs / "val" / name).mkdir()
        for i in (1, 2):
            (photographs / name / f"{i:02}.jpg").rename(photographs / "val" / name / f"{i:02}.jpg")
        (photographs / name).rename(photographs / "train" / name)
    recipe = train.Recipe(model="resnet20", data=str(photographs))
    assert train.judges(recipe) == "test"
    with pytest.warns(UserWarning, match="skipped 1"):
        data = sources.load(recipe)
    assert (len(data.train), len(data.judged_by)) == (20, 4)
    held = dataclasses.replace(recipe, hold_back=5)
    assert train.judges(held) == "held-back"
    with pytest.warns(UserWarning, match="skipped 1"):
        data = sources.load(held)
    assert (len(data.train), len(data.judged_by)) == (15, 5)


def test_folders_that_cannot_be_trained_on(photographs, tmp_path):
    (tmp_path / "one" / "class").mkdir(parents=True)
    (photographs / "red" / "01.jpg").rename(tmp_path / "one" / "class" / "1.jpg")
    with pytest.raises(ValueError, match="has 1 folders, and needs two or more, one a class"):
        train.run(train.Recipe(model="resnet20", data=str(tmp_path / "one")))
    with pytest.raises(ValueError, match="unknown data set .and there is no such folder. 'nowhere'"):
        train.run(train.Recipe(data="nowhere"))
    with pytest.raises(FileNotFoundError, match="Imagenette"):
        train.run(train.Recipe(model="resnet20", data="imagenette"), root=tmp_path)
    assert Imagenette is sources.SETS["imagenette"]


def test_a_page_about_photographs(photographs, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="skipped 1"):
        run = train.run(train.Recipe(model="resnet20", data=str(photographs), epochs=1, options={"width": 0.2}))
    train.draw(run, tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert report.missing() is None
