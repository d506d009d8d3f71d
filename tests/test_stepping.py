"""`minicnn step`: the network, the picture and the loss, and the command."""

import numpy as np
import pytest

import minicnn
from minicnn import functional as F
from minicnn import models, stepping, weights
from minicnn.cli import main
from minicnn.data import MNIST


def test_a_digit_is_the_test_image_normalised():
    image, label = stepping.enlarged_digit(7)
    digits = MNIST(train=False)
    assert image.shape == (1, 1, 28, 28) and image.dtype == np.float32 and label == digits.labels[7]
    np.testing.assert_allclose(image[0, 0] * MNIST.STD + MNIST.MEAN, digits.images[7] / 255, atol=1e-6)


def test_a_digit_is_enlarged_by_repeating_pixels():
    small, (large, _) = stepping.enlarged_digit(3)[0], stepping.enlarged_digit(3, channels=3, side=56)
    assert large.shape == (1, 3, 56, 56)
    np.testing.assert_array_equal(large[0, 2], small[0, 0].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("number", [-1, 10_000])
def test_there_is_no_such_digit(number):
    with pytest.raises(ValueError, match=f"image is {number}, and the 10,000 test images are 0 to 9999"):
        stepping.enlarged_digit(number)


def test_the_loss_is_that_of_the_digit():
    specimen = stepping.prepare(models.lenet5, 5)
    assert specimen.description == f"test digit 5 (a {specimen.label})" and specimen.model.training
    expected = F.cross_entropy(specimen.model(specimen.image), np.array([MNIST(train=False).labels[5]]))
    assert specimen.loss().item() == expected.item()
    assert stepping.prepare(models.lenet5, 5, label=2).label == 2


def test_the_papers_losses():
    outputs = models.googlenet(num_classes=10, input_size=33, width=0.1)(np.zeros((1, 3, 33, 33), np.float32))
    target = np.array([3])
    loss = models.paper_loss(models.googlenet(num_classes=10, input_size=33, width=0.1))
    assert loss(outputs, target).item() == models.googlenet_loss(outputs, target).item()
    assert models.paper_loss(models.lenet5(variant="1998")) is models.lenet5_loss
    assert models.paper_loss(models.lenet5()) is F.cross_entropy


def test_weights_decide_what_the_network_is(tmp_path):
    minicnn.manual_seed(1)
    model = models.resnet20(num_classes=3, in_channels=1)
    weights.save(model, tmp_path / "w.npz")
    minicnn.manual_seed(2)
    specimen = stepping.prepare(models.resnet20, 0, weights_file=tmp_path / "w.npz")
    assert specimen.image.shape == (1, 1, 32, 32)
    for a, b in zip(specimen.model.parameters(), model.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert specimen.label == specimen.model.eval()(specimen.image).data.argmax()  # digit 0 is a 7: there is no class 7
    with pytest.raises(ValueError, match="num_classes: the weights decide"):
        stepping.prepare(models.resnet20, 0, weights_file=tmp_path / "w.npz", num_classes=3)


def test_a_picture(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("L", (40, 50), 200).save(tmp_path / "grey.png")
    specimen = stepping.prepare(models.lenet5, tmp_path / "grey.png")
    assert specimen.image.shape == (1, 1, 28, 28) and specimen.description.endswith("grey.png")
    np.testing.assert_allclose(specimen.image, (200 / 255 - MNIST.MEAN) / MNIST.STD, rtol=1e-5)
    assert specimen.label == specimen.model.eval()(specimen.image).data.argmax()


def test_no_such_label():
    with pytest.raises(ValueError, match="label is 10, and the network's 10 classes are 0 to 9"):
        stepping.prepare(models.lenet5, 0, label=10)


# ---------------------------------------------------------------------------------------------- the command

def run(capsys, *argv):
    status = main([str(a) for a in argv])
    return status, *capsys.readouterr()


def test_the_command_writes_a_page(tmp_path, capsys):
    page = tmp_path / "lenet.html"
    status, out, err = run(capsys, "step", "lenet5", "--image", 3, "--seed", 4, "-o", page)
    assert status == 0 and "weights are drawn anew" in err
    minicnn.manual_seed(4)
    loss = stepping.prepare(models.lenet5, 3).loss()
    assert out.startswith(f"loss {loss.item():.6g}, 13 operations forward and 13 backward\nwritten: {page} (")
    assert page.stat().st_size < 5e6 and "test digit 3" in page.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["lenet.html"]


def test_the_command_with_weights_is_quiet(tmp_path, capsys):
    weights.save(models.lenet5(), tmp_path / "w.npz")
    status, _, err = run(capsys, "step", "lenet5", "--weights", tmp_path / "w.npz", "-o", tmp_path / "p.html")
    assert status == 0 and err == ""


def test_training_mode_has_the_auxiliary_classifiers(tmp_path, capsys):
    command = ["step", "googlenet", "--input-size", 64, "--megabytes", 4, "-o", tmp_path / "p.html"]
    counts = [int(run(capsys, *command, *more)[1].split(", ")[1].split()[0]) for more in ([], ["--training"])]
    assert counts[1] > counts[0] + 15


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        ("step lenet5 --image 10000", 1, "image is 10000, and the 10,000 test images are 0 to 9999"),
        ("step lenet5 --image no.png", 1, "no.png"),
        ("step lenet5 --label 10", 1, "label is 10, and the network's 10 classes are 0 to 9"),
        ("step lenet5 -o page.pdf", 2, "must be the name of a file that ends in .html or .htm, got 'page.pdf'"),
        ("step lenet5 -o nowhere/page.html", 2, "nowhere must be a folder that you may write to"),
        ("step lenet6", 2, "Did you mean 'lenet5'"),
        ("step lenet5 --weights none.npz", 1, "none.npz"),
        ("step lenet5 --megabytes 0", 2, "must be a number above 0"),
        ("step lenet5 --megabytes 0.0001", 1, "megabytes"),
        ("step vgg16 --input-size 8", 1, "smallest"),
    ],
)
def test_what_goes_wrong_is_one_line(argv, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, *argv.split())
    assert found == status and out == "" and message in err.splitlines()[-1] and "Traceback" not in err
    assert not list(tmp_path.iterdir())
