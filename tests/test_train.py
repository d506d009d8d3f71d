"""The training loop, what is measured about a network, and what is kept of a run."""

import json
import math
import sys

import numpy as np
import pytest

from minicnn import Tensor, backend, models, nn, optim, report, threads, train, weights
from minicnn import functional as F
from minicnn.backend import to_host
from minicnn.data import MNIST, ArrayDataset, DataLoader

QUICK = train.Recipe(epochs=2, images=192)  # three steps an epoch


@pytest.fixture
def small(monkeypatch):
    """MNIST of 500 training and 300 test images, so that a run takes a moment."""

    class Small(MNIST):
        def __init__(self, train=True):
            super().__init__(train=train)
            count = 500 if train else 300
            self.images, self.labels = self.images[:count], self.labels[:count]

    monkeypatch.setitem(train.SETS, "mnist", Small)


def network():
    return nn.Sequential(
        ("conv", nn.Conv2d(1, 4, 2)), ("tanh", nn.Tanh()), ("flat", nn.Flatten()), ("drop", nn.Dropout(0.2)),
        ("fc", nn.Linear(36, 3)),
    )  # fmt: skip


def copied(model):
    return {name: np.array(to_host(array)) for name, array in model.state_dict().items()}


def same(a, b):
    return all(np.array_equal(to_host(a[name]), to_host(b[name])) for name in a | b)


# ------------------------------------------------------------------------------------------------------- the loop

def test_fit_learns_and_reports(dots):
    model = network()
    loader = DataLoader(dots, 8, shuffle=True, seed=1)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    progress, entries = [], []
    history = train.fit(
        model, loader, DataLoader(dots, 20), optimizer, epochs=6, on_step=progress.append, on_epoch=entries.append
    )
    assert history["epochs"] == entries
    assert [e["epoch"] for e in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[-1]["test_accuracy"] == 1 and entries[-1]["test_loss"] < 0.2 < entries[0]["loss"]
    assert json.loads(json.dumps(history)) == history
    assert len(history["steps"]["loss"]) == len(history["steps"]["lr"]) == len(progress) == 6 * 7
    assert [(p.epoch, p.step) for p in progress] == [(e, s) for e in range(1, 7) for s in range(1, 8)]
    assert all((p.epochs, p.steps) == (6, 7) for p in progress)
    assert progress[-1].seconds_left == 0 < progress[0].seconds_left
    # The epoch's loss is that of the mean image: the last batch of two counts for less than a batch of eight.
    first = history["steps"]["loss"][:7]
    assert entries[0]["loss"] == pytest.approx((8 * sum(first[:6]) + 2 * first[6]) / 50)
    assert model.training


def test_fit_steps_as_one_would_by_hand(dots):
    """Each step starts from no gradient, in training mode, and goes down the gradient of its batch alone."""
    model, by_hand = network(), network()
    model.get_submodule("drop").p = by_hand.get_submodule("drop").p = 0.0
    by_hand.load_state_dict(model.state_dict())
    modes = []
    model.eval().register_forward_hook(lambda module, *_: modes.append(module.training))
    optimizer = optim.SGD(model.parameters(), lr=0.25)
    history = train.fit(model, DataLoader(dots, 20), None, optimizer, epochs=2)
    losses = []
    for images, labels in [*DataLoader(dots, 20), *DataLoader(dots, 20)]:
        loss = F.cross_entropy(by_hand(Tensor(images)), labels)
        loss.backward()
        losses.append(loss.item())
        for parameter in by_hand.parameters():
            parameter.data -= np.float32(0.25) * parameter.grad
            parameter.grad = None
    np.testing.assert_allclose(history["steps"]["loss"], losses, rtol=1e-6)
    for name, array in by_hand.state_dict().items():
        np.testing.assert_allclose(to_host(model.state_dict()[name]), to_host(array), rtol=1e-5, atol=1e-6)
    assert modes == [True] * 6


@pytest.mark.parametrize("test_images", [False, True])
def test_fit_trains_googlenet_with_its_auxiliary_classifiers(rng, test_images):
    """By the paper's loss, which weighs them by 0.3; answers are read from the network's own scores."""
    images = rng.standard_normal((12, 3, 33, 33)).astype(np.float32)
    dataset = ArrayDataset(images, np.arange(12) % 3)
    backend.manual_seed(5)
    model = models.googlenet(num_classes=3, input_size=33, width=1 / 16)
    for layer in model.modules():
        layer.p = 0.0  # of dropout
    outputs = model(Tensor(images))
    parts = [F.cross_entropy(scores, dataset.labels).item() for scores in outputs]
    accuracy = (outputs.logits.data.argmax(1) == dataset.labels).mean()
    loader = DataLoader(dataset, 12)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    history = train.fit(model, loader, loader if test_images else None, optimizer, epochs=15)
    assert history["steps"]["loss"][0] == pytest.approx(parts[0] + 0.3 * (parts[1] + parts[2]), rel=1e-5)
    assert history["epochs"][0]["accuracy"] == accuracy
    assert history["steps"]["loss"][-1] < 0.9 * history["steps"]["loss"][0]
    if test_images:
        after = train.evaluate(model, loader)
        scores = model.eval()(Tensor(images))  # one output, and so one loss
        assert history["epochs"][-1]["test_loss"] == after.loss == pytest.approx(
            F.cross_entropy(scores, dataset.labels).item(), rel=1e-5
        )  # fmt: skip
        np.testing.assert_array_equal(after.predictions, scores.data.argmax(1))


def test_fit_trains_lenet5_of_1998_by_its_own_criterion(rng):
    dataset = ArrayDataset(rng.standard_normal((10, 1, 32, 32)).astype(np.float32), np.arange(10))
    model = models.lenet5(variant="1998")
    expected = models.lenet5_loss(model(Tensor(dataset.images)), dataset.labels).item()
    loader = DataLoader(dataset, 5)
    assert train.evaluate(model, loader).loss == pytest.approx(expected, rel=1e-5)
    history = train.fit(model, loader, loader, optim.Adam(model.parameters(), lr=3e-3), epochs=20)
    assert history["epochs"][-1]["test_loss"] < 0.5 * expected
    assert history["epochs"][-1]["test_accuracy"] == 1


def test_fit_and_evaluate_take_another_criterion(dots):
    calls = []

    def criterion(outputs, labels):
        calls.append(outputs.requires_grad)
        return F.cross_entropy(outputs, labels, label_smoothing=0.5)

    model = network()
    loaders = DataLoader(dots, 25), DataLoader(dots, 20)
    history = train.fit(model, *loaders, optim.SGD(model.parameters(), lr=0.1), criterion=criterion)
    assert calls == [True, True, False, False, False]
    scores = model.eval()(Tensor(dots.batch(np.arange(50))[0]))
    smoothed = F.cross_entropy(scores, dots.labels, label_smoothing=0.5).item()
    assert history["epochs"][0]["test_loss"] == pytest.approx(smoothed, rel=1e-5)


def test_top_5_errors(rng):
    """Of a network that gives each image's pixels as scores: in training over the batches, and in evaluation."""
    scores = rng.standard_normal((50, 1, 2, 4)).astype(np.float32)
    labels = rng.integers(0, 8, 50)
    ranks = (scores.reshape(50, 8) > scores.reshape(50, 8)[np.arange(50), labels][:, None]).sum(1)
    expected = (ranks >= 5).mean()
    assert 0 < expected < 1

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(np.ones((), np.float32))

        def forward(self, images):
            return F.flatten(images, 1) * self.gain

    model, dataset = Pixels(), ArrayDataset(scores, labels)
    assert train.evaluate(model, DataLoader(dataset, 8)).top5_error == pytest.approx(expected, abs=1e-12)
    optimizer = optim.SGD(model.parameters(), lr=1e-6)
    history = train.fit(model, DataLoader(dataset, 8), DataLoader(dataset, 7), optimizer)
    assert history["epochs"][0]["top5_error"] == pytest.approx(expected, abs=1e-12)
    assert history["epochs"][0]["test_top5_error"] == pytest.approx(expected, abs=1e-12)
    assert json.loads(json.dumps(history)) == history


def test_with_five_classes_there_is_no_top_5_error(rng):
    dataset = ArrayDataset(rng.standard_normal((6, 1, 1, 5)).astype(np.float32), np.arange(6) % 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 5))
    loader = DataLoader(dataset, 3)
    assert train.evaluate(model, loader).top5_error is None
    history = train.fit(model, loader, loader, optim.SGD(model.parameters(), lr=0.1))
    assert not {"top5_error", "test_top5_error"} & set(history["epochs"][0])


def test_fit_without_test_images(dots):
    model = network()
    history = train.fit(model, DataLoader(dots, 25), None, optim.SGD(model.parameters(), lr=0.1), epochs=1)
    assert set(history["epochs"][0]) == {"epoch", "loss", "accuracy", "images_per_second"}


def test_schedule_moves_each_step_or_each_epoch(dots):
    for each, expected in (("step", [1, 1 / 2, 1 / 4, 1 / 8]), ("epoch", [1, 1, 1 / 2, 1 / 2])):
        model = network()
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        history = train.fit(model, DataLoader(dots, 25), None, optimizer, schedule, epochs=2, schedule_each=each)
        np.testing.assert_allclose(history["steps"]["lr"], 0.01 * np.array(expected))


def test_looking_at_the_test_images_changes_nothing(dots):
    def trained(test_loader):
        backend.manual_seed(3)
        model = network()
        loader = DataLoader(dots, 8, shuffle=True, seed=0)
        train.fit(model, loader, test_loader, optim.Adam(model.parameters()), epochs=3)
        return copied(model)

    assert same(trained(None), trained(DataLoader(dots, 7)))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(dots):
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    optimizer = optim.SGD(model.parameters(), lr=1e30)
    seen = []
    with pytest.raises(train.NonFiniteLoss, match=r"at step \d of epoch 1, with learning rate 1e\+30.*smaller"):
        train.fit(model, DataLoader(dots, 8), None, optimizer, on_step=lambda _: seen.append(copied(model)))
    assert 0 < len(seen) < 7
    for name, array in copied(model).items():
        np.testing.assert_array_equal(array, seen[-1][name])


@pytest.mark.parametrize(("epochs", "items"), [(0, 50), (1, 0)])
def test_nothing_to_train_on(dots, epochs, items):
    model = network()
    dots.images, dots.labels = dots.images[:items], dots.labels[:items]
    with pytest.raises(ValueError, match="at least one epoch of at least one batch"):
        train.fit(model, DataLoader(dots, 8), None, optim.SGD(model.parameters()), epochs=epochs)


# ------------------------------------------------------------------------------------------------------ measuring

def test_evaluate_is_the_mean_over_images(dots):
    model = network().eval()
    images, labels = dots.batch(np.arange(50))
    scores = model(Tensor(images)).numpy().astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    model.train()
    result = train.evaluate(model, DataLoader(dots, 8))
    assert result.loss == pytest.approx(-np.log(p[np.arange(50), labels]).mean(), rel=1e-5)
    assert result.accuracy == (scores.argmax(1) == labels).mean()
    np.testing.assert_array_equal(result.predictions, scores.argmax(1))
    np.testing.assert_array_equal(result.labels, labels)
    assert model.training and model.get_submodule("drop").training


def test_evaluate_records_no_graph_and_restores_the_mode(dots):
    model = network()
    outputs = []
    with model.register_forward_hook(lambda module, _, output: outputs.append((output.requires_grad, module.training))):
        train.evaluate(model, DataLoader(dots, 25))
    assert outputs == [(False, False)] * 2
    with pytest.raises(ValueError, match="input"):
        train.evaluate(model, [(np.zeros((2, 7, 4, 4), np.float32), np.zeros(2, int))])
    assert model.training
    with pytest.raises(ValueError, match="no batch"):
        train.evaluate(model, [])


def test_confusions(rng):
    labels, predictions = rng.integers(0, 4, (2, 200))
    labels[:3], predictions[:3] = 1, 2  # makes sure of a most frequent one
    predictions[labels == 0] = 0
    matrix = train.confusion_matrix(labels, predictions, 4)
    pairs = list(zip(labels.tolist(), predictions.tolist(), strict=True))
    assert matrix.tolist() == [[pairs.count((t, p)) for p in range(4)] for t in range(4)]
    top = train.top_confusions(matrix, 4)
    wrong = sorted((pairs.count((t, p)) for t in range(4) for p in range(4) if t != p), reverse=True)
    assert [count for _, _, count in top] == wrong[:4]
    assert all(pairs.count((t, p)) == count and t != p for t, p, count in top)
    assert train.top_confusions(np.diag([3, 4, 5])) == []


def test_gradient_sizes(dots):
    model = network()
    images, labels = dots.batch(np.arange(50))
    sizes = train.gradient_sizes(model, images, labels)
    assert list(sizes) == ["conv", "tanh", "flat", "fc"]  # dropout does nothing in evaluation mode
    model.eval()
    scores = model(Tensor(images))
    p = np.exp(scores.numpy()) / np.exp(scores.numpy()).sum(1, keepdims=True)
    at_scores = (p - np.eye(3)[labels]) / 50
    assert sizes["fc"] == pytest.approx(np.sqrt((at_scores**2).mean()), rel=1e-5)
    at_flat = at_scores @ model.get_submodule("fc").weight.numpy()
    assert sizes["flat"] == pytest.approx(np.sqrt((at_flat**2).mean()), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.train()
    train.gradient_sizes(model, images, labels)
    assert model.training


# ------------------------------------------------------------------------------------------------------ whole runs

@pytest.mark.heavy
def test_one_seed_one_result_on_any_number_of_threads(small, monkeypatch):
    def run(recipe, count):
        monkeypatch.setattr(threads, "_requested", count)
        return train.run(recipe)

    first, again, other = run(QUICK, 1), run(QUICK, 2), run(train.Recipe(epochs=2, images=192, seed=1), 1)
    assert same(first.model.state_dict(), again.model.state_dict())
    assert first.history["steps"] == again.history["steps"]
    assert first.result.loss == again.result.loss and first.result.accuracy == again.result.accuracy
    assert not same(first.model.state_dict(), other.model.state_dict())


def test_run_follows_the_recipe(small):
    recipe = train.Recipe(epochs=2, images=100, batch_size=30, lr=0.01, optimizer="sgd")
    run = train.run(recipe)
    cosine = [0.005 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    np.testing.assert_allclose(run.history["steps"]["lr"], cosine)
    assert run.train_images == 100 and len(run.result.labels) == 300
    layers = [name for name, _ in models.lenet5().named_children()]
    assert list(run.gradients["before training"]) == list(run.gradients["after"]) == layers
    assert run.gradients["before training"] != run.gradients["after"]


@pytest.mark.parametrize("optimizer", train.OPTIMIZERS)
def test_every_optimizer_starts_from_its_usual_rate(small, optimizer):
    run = train.run(train.Recipe(epochs=1, images=128, optimizer=optimizer))
    assert run.history["steps"]["lr"][0] == train.OPTIMIZERS[optimizer][1]


def test_hold_back_never_opens_the_test_images(monkeypatch):
    def only_training_images(train):
        assert train
        data = MNIST()
        data.images, data.labels = data.images[:500], data.labels[:500]
        return data

    only_training_images.MEAN, only_training_images.STD = MNIST.MEAN, MNIST.STD
    monkeypatch.setitem(train.SETS, "mnist", only_training_images)
    run = train.run(train.Recipe(epochs=1, hold_back=120))
    assert run.train_images == 380
    np.testing.assert_array_equal(run.result.labels, MNIST().labels[380:500])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "lenet"}, "unknown model 'lenet'. Did you mean 'lenet5'"),
        ({"optimizer": "ADAM"}, "unknown optimizer 'ADAM'. Did you mean 'adam'"),
        ({"optimizer": "zzz"}, r"unknown optimizer 'zzz'. There are adam, "),
        ({"images": 501}, "images is 501: it must be from 1 to 500"),
        ({"images": 0}, "images is 0"),
        ({"images": 450, "hold_back": 100}, "images is 450: it must be from 1 to 400"),
        ({"hold_back": 500}, "hold_back is 500: some of 500 images must be left"),
        ({"hold_back": -1}, "hold_back is -1"),
    ],
)
def test_recipes_that_make_no_sense(small, changed, message):
    with pytest.raises(ValueError, match=message):
        train.run(train.Recipe(**changed))


# ------------------------------------------------------------------------------------------------------ what is kept

def test_save(small, tmp_path):
    run = train.run(QUICK)
    files = train.save(run, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["weights.npz", "history.json"]
    fresh = models.lenet5()
    weights.load(fresh, files[0])
    assert same(fresh.state_dict(), run.model.state_dict())
    kept = json.loads(files[1].read_text())
    assert kept["history"] == run.history and kept["accuracy"] == run.result.accuracy
    assert train.Recipe(**kept["recipe"]) == QUICK
    assert kept["judged_by"] == "test images" and kept["top5_error"] == run.result.top5_error
    assert {entry["test_top5_error"] for entry in kept["history"]["epochs"]} >= {kept["top5_error"]}
    assert {path.name for path in files[0].parent.iterdir()} == {"weights.npz", "history.json"}


def test_a_write_that_fails_keeps_what_was_there(small, tmp_path, monkeypatch):
    run = train.run(QUICK)
    train.save(run, tmp_path)
    before = (tmp_path / "weights.npz").read_bytes()

    def disk_full(file, *_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(weights.WRITERS, ".npz", disk_full)
    with pytest.raises(OSError, match="No space left"):
        train.save(run, tmp_path)
    assert (tmp_path / "weights.npz").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"weights.npz", "history.json"}


def test_draw(small, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    run = train.run(QUICK)
    train.draw(run, tmp_path / "page.png")
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]
    with image.open(tmp_path / "page.png") as page:
        page.load()
        assert page.format == "PNG" and page.width > page.height > 1000
        assert len(set(page.convert("L").reduce(20).get_flattened_data())) > 50  # something is on it, everywhere
    perfect = run._replace(result=run.result._replace(predictions=run.result.labels))
    train.draw(perfect, tmp_path / "perfect.png")
    assert (tmp_path / "perfect.png").read_bytes() != (tmp_path / "page.png").read_bytes()


def test_draw_without_matplotlib(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "'.[viz]'" in report.missing()
    with pytest.raises(ImportError, match=r"pip install -e '\.\[viz\]'"):
        train.draw(train.run(QUICK), tmp_path / "page.png")
    assert not list(tmp_path.iterdir())
