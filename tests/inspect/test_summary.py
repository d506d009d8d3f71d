"""The table of layers, in its four forms."""

import json
import re
import time
import tracemalloc

import numpy as np
import pytest

import minicnn
from minicnn import models, nn, summary
from minicnn.engine import Parameter, dry_run
from minicnn.inspect import memory
from minicnn.inspect.summary import COLUMNS


def built(name, **options):
    with dry_run():
        return getattr(models, name)(**options)


def rows_by_path(result):
    return {row.path: row for row in result.rows}


def test_lenet5_by_hand():
    result = summary(models.lenet5(), (4, 1, 28, 28))
    rows = rows_by_path(result)
    assert list(rows) == [
        "conv1", "tanh1", "pool1", "conv2", "tanh2", "pool2", "flatten", "fc1", "tanh3", "fc2", "tanh4", "fc3"
    ]  # fmt: skip
    conv2 = rows["conv2"]
    assert (conv2.kind, conv2.output_shape, conv2.parameters) == ("Conv2d", (4, 16, 10, 10), 16 * 6 * 25 + 16)
    assert conv2.multiply_adds == 4 * 16 * 100 * 6 * 25
    assert conv2.output_bytes == 4 * (4 * 16 * 100)
    assert conv2.kept_bytes == 4 * (4 * 6 * 14 * 14)  # its input, which the pooling did not keep
    assert conv2.receptive_field == (14, 14)
    assert (rows["flatten"].output_bytes, rows["flatten"].kept_bytes) == (0, 0)  # a view
    assert rows["fc1"].receptive_field is None
    assert rows["tanh3"].kept_bytes == 4 * 4 * 120 and rows["fc2"].kept_bytes == 0  # kept once, by the first
    assert result.parameters == 61_706 and result.unused_parameters == 0
    assert result.multiply_adds == 4 * 416_520


def test_totals_are_sums():
    result = summary(built("resnet50"), (2, 3, 64, 64))
    for name in ("multiply_adds", "output_bytes", "kept_bytes"):
        assert getattr(result, name) == sum(getattr(row, name) for row in result.rows)
    assert result.parameters == sum(row.parameters for row in result.rows) == 25_557_032


def test_vgg19_at_once_and_without_its_activations():
    model = built("vgg19")
    began = time.process_time()
    summary(model, (1, 3, 224, 224))
    assert time.process_time() - began < 1
    tracemalloc.start()
    result = summary(model, (64, 3, 224, 224))
    text, peak = str(result), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 < result.output_bytes and "143,667,240" in text


def test_parameters_take_no_memory_either():
    """30 GB of them, if there were any."""
    tracemalloc.start()
    result = summary(built("vgg16", input_size=2000), (1, 3, 2000, 2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6 < result.parameters * 4 / 6000
    assert memory(built("vgg16", input_size=2000), (1, 3, 2000, 2000)).parts["parameters"] == 4 * result.parameters


def test_googlenet_in_training_and_evaluation():
    model = built("googlenet")
    training = summary(model.train(), (1, 3, 224, 224))
    assert training.parameters == 13_378_280 and training.unused_parameters == 0
    evaluation = summary(model.eval(), (1, 3, 224, 224))
    assert evaluation.parameters == 13_378_280
    assert evaluation.unused_parameters == 13_378_280 - 6_998_552
    assert "6,379,728 of the parameters belong to layers that this pass does not run" in str(evaluation)
    assert "6,379,728" in evaluation.to_markdown() and "6,379,728" in evaluation._repr_html_()
    assert {row.path for row in training.rows} - {row.path for row in evaluation.rows} >= {"aux1.fc2", "aux2.fc2"}
    assert model.training is False  # as it was


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet5", {"variant": "1998"}, (1, 1, 32, 32)),
        ("resnet34", {"shortcut": False}, (1, 3, 64, 64)),
        ("resnet34", {"shortcut": "A"}, (1, 3, 64, 64)),
        ("resnet20", {}, (1, 3, 32, 32)),
        ("alexnet", {}, (1, 3, 227, 227)),
        ("vgg11_bn", {"input_size": 32}, (1, 3, 32, 32)),
        ("googlenet", {"variant": "torchvision"}, (1, 3, 96, 96)),
    ],
)
def test_every_kind_of_network(name, options, shape):
    model = built(name, **options)
    result = summary(model, shape)
    assert result.network == name
    assert sum(row.parameters for row in result.rows) == result.parameters == sum(p.size for p in model.parameters())
    assert len(str(result).splitlines()) == len(result.rows) + 6


class Twice(nn.Module):
    """A layer of the user's own: a parameter beside layers, one layer used twice, operations between."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.scale = Parameter([1.0] * 6)

    def forward(self, x):
        x = self.shared(x) * self.scale
        return self.shared(x)


def test_shared_layers_and_modules_of_ones_own():
    result = summary(Twice(), (3, 6))
    assert [(row.path, row.kind, row.parameters) for row in result.rows] == [
        ("shared", "Linear", 42), ("", "mul", 6), ("shared", "Linear", 0)
    ]  # fmt: skip
    assert result.parameters == 48
    assert result.multiply_adds == 2 * 3 * 36
    assert result.network == "Twice"
    assert "(network)" in str(result)


def test_one_layer_alone():
    (row,) = summary(nn.Conv2d(3, 4, 3), (2, 3, 8, 8)).rows
    assert (row.path, row.kind, row.output_shape, row.parameters) == ("", "Conv2d", (2, 4, 6, 6), 112)


def test_several_inputs():
    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    result = summary(Product(), [(2, 3, 4), (4, 5)])
    assert result.multiply_adds == 2 * 3 * 5 * 4
    assert str(result).splitlines()[0] == "Product, input 2×3×4, 4×5"


def test_dict_is_plain_data():
    result = summary(models.lenet5(), (1, 1, 28, 28))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["network"] == "lenet5" and data["input_shape"] == [1, 1, 28, 28]
    assert data["parameters"] == 61_706 and data["unused_parameters"] == 0
    assert data["rows"][0] == {
        "path": "conv1", "kind": "Conv2d", "output_shape": [1, 6, 28, 28], "parameters": 156, "multiply_adds": 117_600,
        "output_bytes": 18_816, "kept_bytes": 3136, "receptive_field": [5, 5],
    }  # fmt: skip


def test_text_columns_stand_below_each_other():
    lines = str(summary(models.lenet5(), (1, 1, 28, 28))).splitlines()
    header, conv2 = lines[2], next(line for line in lines if line.startswith("conv2"))
    for column, cell in zip(COLUMNS, ["conv2", "Conv2d", "1×16×10×10", "2,416", "240,000", "6.40 kB"], strict=False):
        words = column in ("layer", "kind", "output")
        assert (header.index(column) == conv2.index(cell)) if words else (
            header.index(column) + len(column) == conv2.index(cell) + len(cell)
        )  # fmt: skip


def test_markdown_and_html_have_every_cell():
    result = summary(models.lenet5(), (1, 1, 28, 28))
    markdown = result.to_markdown().splitlines()
    assert len(markdown) == len(result.rows) + 3
    assert {line.count("|") for line in markdown} == {len(COLUMNS) + 1}
    page = result._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") == len(result.rows) + 2
    cells = [cell.strip() for cell in markdown[2].strip("|").split("|")]
    assert re.findall("<td>(.*?)</td>", page)[: len(COLUMNS)] == cells


def test_html_is_escaped():
    network = nn.Sequential({"<b>": nn.ReLU()})
    page = summary(network, (1, 2))._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_errors_are_the_layers_own():
    with pytest.raises(ValueError, match=r"conv2d in conv1: input has 3 channels"):
        summary(models.lenet5(), (1, 3, 28, 28))


@pytest.mark.parametrize(
    "shape",
    [(1, (3, 4)), (1, 3, -5, 4), (1, 3, 32.5, 4), "a", b"abcd", 3, None, {1: 2}, (True, 3, 4, 4), [(1, 3, "4")]],
)
def test_what_is_no_shape(shape):
    message = f"input_shape is {shape!r}, and must be a shape of whole numbers"
    for function in (summary, memory):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(models.resnet20(), shape)


def test_shapes_of_numpys_numbers_and_of_no_images():
    result = summary(models.lenet5(), tuple(np.array([1, 1, 28, 28])))
    assert json.loads(json.dumps(result.to_dict()))["input_shape"] == [1, 1, 28, 28]
    assert summary(models.lenet5(), [0, 1, 28, 28]).output_bytes == 0


def test_it_is_minicnns_own_name():
    assert minicnn.summary is summary
