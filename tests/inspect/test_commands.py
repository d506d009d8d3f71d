"""``minicnn summary``, ``memory`` and ``facts``."""

import json

import pytest

from minicnn import cli, models, summary
from minicnn.engine import dry_run
from minicnn.inspect import facts, memory


def run(capsys, *argv):
    """What the command prints; it must succeed, and say nothing on stderr."""
    assert cli.main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def fails(capsys, *argv, status=1):
    """The one line that the command ends in."""
    assert cli.main(list(argv)) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_summary(capsys):
    expected = summary(models.lenet5(), (1, 1, 28, 28))
    assert run(capsys, "summary", "lenet5") == f"{expected}\n"
    assert run(capsys, "summary", "lenet5", "--markdown") == f"{expected.to_markdown()}\n"
    assert json.loads(run(capsys, "summary", "lenet5", "--json")) == json.loads(json.dumps(expected.to_dict()))


def test_summary_options(capsys):
    options = ["--input-size", "96", "--batch-size", "8", "--num-classes", "7", "--in-channels", "1"]
    data = json.loads(run(capsys, "summary", "googlenet", "--variant", "torchvision", "--training", "--json", *options))
    assert data["input_shape"] == [8, 1, 96, 96]
    assert data["rows"][0]["path"] == "conv1.conv" and data["rows"][1]["kind"] == "BatchNorm2d"
    assert data["rows"][-1]["path"] == "aux1.fc2" and data["rows"][-1]["output_shape"] == [8, 7]
    assert data["unused_parameters"] == 0
    assert json.loads(run(capsys, "summary", "googlenet", "--json"))["unused_parameters"] == 6_379_728


@pytest.mark.parametrize("name", cli.NETWORKS)
def test_every_network_has_a_summary(name, capsys):
    assert run(capsys, "summary", name).startswith(f"{name}, input 1×")


def test_memory(capsys):
    with dry_run():
        model = models.vgg11()
    expected = memory(model, (4, 3, 224, 224), "cs231n", "adam")
    argv = ["memory", "vgg11", "--batch-size", "4", "--convention", "cs231n", "--optimizer", "adam"]
    assert run(capsys, *argv) == f"{expected}\n"
    assert json.loads(run(capsys, *argv, "--json")) == json.loads(json.dumps(expected.to_dict()))
    listed = run(capsys, *argv, "--layers")
    assert listed.startswith(f"{expected}\n\nlayer  ")
    header, *rows = listed.splitlines()[len(str(expected).splitlines()) + 1 :]
    assert header.split("  ")[0] == "layer" and header.endswith("  parameters, bytes  activations, bytes")
    assert {len(row) for row in rows} == {len(header)} and len(rows) == len(expected.by_layer())
    assert listed.splitlines()[-1].split() == ["classifier.6", f"{4 * 4_097_000:,}", f"{4 * 4 * 1000:,}"]
    assert "evaluation, convention 'actual'" in run(capsys, "memory", "lenet5", "--evaluation")


def test_facts(capsys):
    out = run(capsys, "facts", "googlenet")
    assert out == "\n\n".join(map(str, facts("googlenet"))) + "\n\n7 claims: 3 disputed, 2 rounded, 2 reproduced\n"
    for name in ("VGG", "vgg16", "VGG-16", "vgg"):
        assert run(capsys, "facts", name).startswith(f"{facts('vgg')[0]}\n\n")
    everything = json.loads(run(capsys, "facts", "--json"))
    assert everything == [fact.to_dict() for fact in facts()]


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["summary"], 2, "MODEL"),
        (["summary", "googlnet"], 2, "unknown model 'googlnet'. Did you mean 'googlenet'?"),
        (["summary", "vgg16", "--variant", "papier"], 1, "vgg16: unknown variant 'papier'. Did you mean 'paper'?"),
        (["summary", "vgg16", "--input-size", "31"], 1, "The smallest is 32"),
        (["summary", "lenet5", "--batch-size", "0"], 2, "must be a whole number, 1 or more, got '0'"),
        (["memory", "lenet5", "--convention", "actuel"], 2, "Did you mean 'actual'?"),
        (["memory", "lenet5", "--optimiser", "adam"], 2, "Did you mean '--optimizer'?"),
        (["summary", "lenet5", "--json", "--markdown"], 2, "--markdown and --json are two ways to print one table"),
        (["facts", ""], 1, "facts: nothing on ''. There are lenet5, alexnet"),
        (["facts", "alexnt"], 1, "facts: nothing on 'alexnt'. Did you mean 'alexnet'?"),
    ],
)
def test_what_goes_wrong_ends_in_one_line(argv, status, message, capsys):
    assert message in fails(capsys, *argv, status=status)
