"""The drawing of a network: what stands where, and what follows what."""

import numpy as np
import pytest

from minicnn import models, nn
from minicnn.engine import dry_run
from minicnn.inspect import draw_blocks, trace
from minicnn.inspect.blocks import columns, places


def placed(build, shape, **options):
    with dry_run():
        model = build(**options).eval()
    return columns(trace(model, shape).nodes)


def test_a_chain_stands_in_one_row():
    column, edges = placed(models.lenet5, (1, 1, 28, 28))
    assert [n.op.name for n in column] == ["conv2d", "avg_pool2d"] * 2 + ["linear"] * 3
    assert list(column.values()) == list(range(7))
    assert [(column[a], column[b]) for a, b in edges] == [(i, i + 1) for i in range(6)]


def test_inception_branches_stand_side_by_side_and_meet():
    column, edges = placed(models.googlenet, (1, 3, 64, 64), width=0.125, input_size=64)
    joints = [n for n in column if n.op.name == "cat"]
    assert len(joints) == 9 and sum(n.op.name == "conv2d" for n in column) == 3 + 9 * 6
    assert all(sum(b is joint for _, b in edges) == 4 for joint in joints)
    assert all(column[a] < column[b] for a, b in edges)


def test_shortcuts_skip_columns():
    column, edges = placed(models.resnet20, (1, 3, 32, 32))
    sums = [n for n in column if n.op.name == "add"]
    assert len(sums) == 9
    for joint in sums:
        assert sorted(column[joint] - column[a] for a, b in edges if b is joint) == [1, 3]
    column, edges = placed(models.resnet20, (1, 3, 32, 32), shortcut=False)
    assert all(n.op.name != "add" for n in column) and all(column[b] - column[a] == 1 for a, b in edges)


def test_a_bias_is_no_joint():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.shift = nn.Conv2d(3, 4, 3), nn.Parameter(np.ones(1, np.float32))

        def forward(self, x):
            return self.conv(x) + self.shift

    column, _ = placed(Shifted, (1, 3, 8, 8))
    assert [n.op.name for n in column] == ["conv2d"]


def test_the_picture_has_a_box_for_each_layer_and_heights_that_follow_the_maps(tmp_path):
    pytest.importorskip("matplotlib")
    with dry_run():
        model = models.resnet20()
    ax = draw_blocks(model, (1, 3, 32, 32))
    boxes = ax.patches
    assert len(boxes) == 19 + 2  # convolutions (option A's shortcuts have none), the average, the classifier
    heights = [b.get_height() for b in boxes[:-2]]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3
    ax.figure.savefig(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").stat().st_size > 1000


def rows(build, shape, **options):
    """Each drawn operation's row, and what follows what."""
    with dry_run():
        model = build(**options).eval()
    column, edges = columns(trace(model, shape).nodes)
    place = places(column, edges, dict.fromkeys(column, 1.0))
    return {node: place[node][1] for node in column}, edges


def test_a_branch_keeps_its_row():
    for build in (models.googlenet, models.resnet18, models.resnet50):
        row, edges = rows(build, (1, 3, 64, 64), width=0.125, input_size=64)
        branches = [a for a, b in edges]
        for a, b in edges:
            if branches.count(a) == 1 and b.op.name not in ("cat", "add"):
                assert row[a] == row[b]
    row, edges = rows(models.googlenet, (1, 3, 64, 64), width=0.125, input_size=64)
    for joint in (n for n in row if n.op.name == "cat"):
        assert len({row[a] for a, b in edges if b is joint}) == 4 and row[joint] == 0


def test_no_line_runs_behind_a_box_of_another_branch():
    """At the left and right edge of every box, and in its middle, the only lines are those of the box itself."""
    pytest.importorskip("matplotlib")
    for build in (models.googlenet, models.resnet18):
        with dry_run():
            model = build(width=0.125).eval()
        ax = draw_blocks(model, (1, 3, 224, 224))
        for box in ax.patches:
            (x, y), w, h = box.get_xy(), box.get_width(), box.get_height()
            middle = (x + w / 2, y + h / 2)
            for line in ax.lines:
                points = list(zip(*line.get_data(), strict=True))
                if len(points) == 1 or any(np.allclose(p, middle) for p in (points[0], points[-1])):
                    continue
                xs, ys = zip(*points, strict=True)
                for at in np.linspace(x, x + w, 5):
                    assert not (xs[0] < at < xs[-1] and y < np.interp(at, xs, ys) < y + h)
