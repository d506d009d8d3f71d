"""``minicnn classify``: pictures in, names and probabilities out, and one line for whatever goes wrong."""

import json
import re

import numpy as np
import pytest

import minicnn
from minicnn import weights
from minicnn.cli import main

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def files(tmp_path):
    """A small network's weights and two grey pictures."""
    minicnn.manual_seed(0)
    model = minicnn.models.lenet5(num_classes=7)
    weights.save(model, tmp_path / "w.npz", class_names=json.dumps([f"kind {i}" for i in range(7)]))
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def run(capsys, *argv):
    status = main([str(a) for a in argv])
    return status, *capsys.readouterr()


def test_the_most_probable_classes_of_each_picture(files, capsys):
    pictures = [files / "a.png", files / "b.png"]
    status, out, err = run(capsys, "classify", "lenet5", "--weights", files / "w.npz", *pictures)
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert len(lines) == 12 and lines[0] == str(pictures[0]) and lines[6] == str(pictures[1])
    shares = [float(re.fullmatch(r" +([\d.]+) %  kind [0-6]", line)[1]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 100
    status, out, _ = run(capsys, "classify", "lenet5", "--weights", files / "w.npz", "--top", 7, pictures[0])
    shares = [float(line.split()[0]) for line in out.splitlines()[1:]]
    assert len(shares) == 7 and sum(shares) == pytest.approx(100, abs=0.05)


def test_names_from_a_file_replace_the_weights_own(files, capsys):
    (files / "names.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix")
    options = ("--names", files / "names.txt", "--top", 7)
    status, out, _ = run(capsys, "classify", "lenet5", "--weights", files / "w.npz", *options, files / "a.png")
    assert status == 0 and {line.split()[-1] for line in out.splitlines()[1:]} >= {"zero", "six"}


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (("lenet", "--weights", "w.npz", "a.png"), 2, "Did you mean 'lenet5'"),
        (("lenet5", "a.png"), 2, "--weights"),
        (("lenet5", "--weights", "w.npz"), 2, "IMAGE"),
        (("lenet5", "--weights", "none.npz", "a.png"), 1, "none.npz"),
        (("lenet5", "--weights", "a.png", "a.png"), 1, "a.png"),
        (("lenet5", "--weights", "w.npz", "w.npz"), 1, "w.npz"),
        (("lenet5", "--weights", "w.npz", "--variant", "modem", "a.png"), 1, "Did you mean 'modern'"),
        (("resnet18", "--weights", "w.npz", "a.png"), 1, "w.npz"),
        (("lenet5", "--weights", "w.npz", "--names", "a.png", "a.png"), 1, "not a file of class names"),
        (("lenet5", "--weights", "w.npz", "--top", "0", "a.png"), 2, "--top"),
    ],
)
def test_what_goes_wrong_is_one_line(argv, status, message, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    got, out, err = run(capsys, "classify", *argv)
    assert got == status and out == "" and err.count("\n") == 1 and message in err


@pytest.mark.filterwarnings("default")  # as outside of tests
def test_what_a_silent_pth_is_taken_for_is_said(files, capsys, monkeypatch):
    """One for ResNet-50 fits both variants, which compute different things."""
    model = minicnn.models.resnet50(num_classes=3, variant="torchvision", input_size=32, width=0.05)
    stated = {"classes": "3", "input_size": "32", "options": '{"width": 0.05}'}
    monkeypatch.setattr(weights, "read", lambda path: (model.state_dict(), stated))
    command = ("classify", "resnet50", "--weights", "w.pth", files / "a.png")
    status, assumed, err = run(capsys, *command)
    assert status == 0 and err.startswith("minicnn: note: w.pth does not say which variant") and err.count("\n") == 1
    assert run(capsys, *command, "--variant", "torchvision") == (0, assumed, "")
    status, other, err = run(capsys, *command, "--variant", "paper")
    assert status == 0 and err == "" and other != assumed
