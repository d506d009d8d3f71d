"""Drawings of graphs: what stands where in the SVG, that every link arrives, and what is said when things break."""

import itertools
import re
import time
import xml.etree.ElementTree as ET
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Op, Parameter, Tensor, apply, models, nn, no_grad
from minicnn import functional as F
from minicnn.engine import dry_run
from minicnn.inspect import Graph, graph, trace
from minicnn.inspect.hierarchy import Failure, Group, Lane, Operation, Source
from minicnn.models.googlenet import googlenet_loss

SVG = "{http://www.w3.org/2000/svg}"


def built(name, **options):
    with dry_run():
        return getattr(models, name)(**options)


# ------------------------------------------------------------------------------------------- reading a drawing


class Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other, room=0.0):
        across = self.left < other.right + room and other.left < self.right + room
        return across and self.top < other.bottom + room and other.top < self.bottom + room

    def holds(self, other):
        return self.left <= other.left and self.top <= other.top and other.right <= self.right <= 1e9 and (
            other.bottom <= self.bottom
        )  # fmt: skip


class Drawing:
    """What a browser makes of an SVG: rectangles and points along lines, read from its text alone."""

    def __init__(self, text):
        self.root = ET.fromstring(text)
        self.boxes, self.frames, self.around, self.lanes, self.links = {}, {}, {}, {}, []
        self.texts = {}
        self._read(self.root, ())

    def _read(self, element, around):
        for child in element:
            kinds, name = child.get("class", "").split(), child.get("data-id")
            if child.tag == f"{SVG}g" and "root" in kinds:
                self._read(child, around)
            elif child.tag == f"{SVG}g":
                rect = child.find(f"{SVG}rect")
                x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
                (self.boxes if "box" in kinds else self.frames)[name] = Rectangle(x, y, x + w, y + h)
                self.around[name] = around
                self.texts[name] = ["".join(t.itertext()) for t in child.findall(f"{SVG}text")]
                self._read(child, (*around, name))
            elif "lane" in kinds:
                self.lanes[name] = points(child.get("d"))
                self.around[name] = around
            elif "link" in kinds:
                self.links.append((child.get("data-from"), child.get("data-to"), points(child.get("d")), around))


def points(path):
    """Points along a path of M, V and C; never more than a few pixels apart."""
    tokens = re.findall(r"[MVC]|-?[\d.]+", path)
    x, y = float(tokens[1]), float(tokens[2])
    found, i = [(x, y)], 3
    while i < len(tokens):
        if tokens[i] == "V":
            end = float(tokens[i + 1])
            found += [(x, y + (end - y) * t) for t in np.linspace(0, 1, 2 + int(abs(end - y) / 3))]
            y, i = end, i + 2
        else:
            assert tokens[i] == "C"
            (x1, y1), (x2, y2), (x3, y3) = np.array(tokens[i + 1 : i + 7], float).reshape(3, 2)
            for t in np.linspace(0, 1, 60):
                a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
                found.append((a * x + b * x1 + c * x2 + d * x3, a * y + b * y1 + c * y2 + d * y3))
            x, y, i = x3, y3, i + 7
    return np.array(found)


NEAR = 0.11  # coordinates are written to a tenth of a pixel


def check_geometry(text):
    drawing = Drawing(text)
    boxes, frames = drawing.boxes, drawing.frames
    everything = {**boxes, **frames}
    width, height = (float(drawing.root.get(k)) for k in ("width", "height"))
    left, top, *_ = map(float, drawing.root.get("viewBox").split())
    page = Rectangle(left, top, left + width, top + height)
    for name, rectangle in everything.items():
        assert page.holds(rectangle)
        assert all(frames[outer].holds(rectangle) for outer in drawing.around[name])
    for a, b in itertools.combinations(everything, 2):
        if a not in drawing.around[b] and b not in drawing.around[a]:
            assert not everything[a].meets(everything[b], room=2), (drawing.texts[a], drawing.texts[b])

    def end(name, around, x, y, starts):
        if name in drawing.lanes:
            assert np.allclose((x, y), drawing.lanes[name][-1 if starts else 0], atol=NEAR)
            return
        rectangle = everything[name]
        assert rectangle.left - NEAR <= x <= rectangle.right + NEAR
        from_inside = name in around
        if from_inside and starts:  # out of the header
            assert rectangle.top + 10 < y < rectangle.top + 30
        else:
            edge = rectangle.bottom if starts or from_inside else rectangle.top
            assert abs(y - edge) < NEAR

    lines = [(ends, around, way) for *ends, way, around in drawing.links]
    lines += [([name], drawing.around[name], way) for name, way in drawing.lanes.items()]
    for ends, around, way in lines:
        if len(ends) == 2:
            end(ends[0], around, *way[0], starts=True)
            end(ends[1], around, *way[-1], starts=False)
            assert ends[0] != ends[1]
        assert (np.diff(way[:, 1]) >= -1e-9).all()  # downward
        for name, rectangle in everything.items():
            if name in around:
                continue
            x, y = way.T
            inside = (rectangle.left + NEAR < x) & (x < rectangle.right - NEAR)
            inside &= (rectangle.top + NEAR < y) & (y < rectangle.bottom - NEAR)
            assert not inside.any(), f"a line {ends} runs through {drawing.texts[name]}"
    return drawing


def check_structure(drawn):
    """Links lead to the next row only, and following them from each operation finds the operations that use it."""
    links = {}
    items = []

    def visit(group):
        row_of = {item: r for r, row in enumerate(group.rows) for item in row}
        standing = [item for item in row_of if not isinstance(item, Lane)]
        assert Counter(standing) == Counter(group.items)
        assert set(group.inputs.values()) <= set(group.rows[0]) and set(group.outputs.values()) <= set(group.rows[-1])
        for tail, head in group.links:
            assert row_of[group.holding(head)] == row_of[group.holding(tail)] + 1
            links.setdefault((group, tail), []).append(head)
        for item in row_of:
            assert item.parent is group
            items.append(item)
            if isinstance(item, Group):
                visit(item)

    visit(drawn.root)
    assert len({item.id for item in items}) == len(items)

    def arrivals(group, item):
        for head in links.get((group, item), []):
            if not isinstance(head, Lane):
                yield head
            elif head in group.outputs.values():
                yield from arrivals(group.parent, head)
            elif head.parent is not group:
                yield from arrivals(head.parent, head)
            else:
                yield from arrivals(group, head)

    found = Counter()
    for item in items:
        if isinstance(item, Operation | Source):
            found.update((item, user) for user in arrivals(item.parent, item))
    assert found == Counter(drawn.edges)
    return items


def check_edges(drawn, nodes):
    """Between operations there is what the engine's nodes say, once for each use."""
    expected = Counter(
        (source, node) for node in nodes for source in node.inputs if source is not None and source in set(nodes)
    )
    edges = [(a, b) for a, b in drawn.edges if isinstance(a, Operation) and isinstance(b, Operation)]
    assert Counter((a.node, b.node) for a, b in edges) == expected


def check(drawn):
    check_structure(drawn)
    check_dot(drawn)
    return check_geometry(drawn.svg)


def check_dot(drawn):
    """Quotes and braces close, and every box and every edge is there; read without Graphviz."""
    string = r'"(?:[^"\\]|\\.)*"'
    bare = re.sub(string, '""', drawn.dot, flags=re.S)
    assert bare.replace('""', "").count('"') == 0
    depth = 0
    for mark in re.findall(r"[{}]", bare):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0
    nodes = re.findall(r"^ *n(\d+) \[", bare, flags=re.M)
    assert sorted(nodes) == sorted(Drawing(drawn.svg).boxes)
    edges = Counter(re.findall(r"^ *n(\d+) -> n(\d+);", bare, flags=re.M))
    folded = any(isinstance(item, Group) and item.folded for item in walk(drawn.root))
    if not folded:
        assert edges == Counter((str(a.id), str(b.id)) for a, b in drawn.edges)
    assert {name for edge in edges for name in edge} <= set(nodes)


def walk(group):
    for row in group.rows:
        for item in row:
            yield item
            if isinstance(item, Group):
                yield from walk(item)


def operations(drawn):
    return [item for item in walk(drawn.root) if isinstance(item, Operation)]


def groups(drawn):
    return [item for item in walk(drawn.root) if isinstance(item, Group)]


def only(found):
    (one,) = found
    return one


# --------------------------------------------------------------------------------------------------- networks


def test_lenet():
    model = built("lenet5")
    drawn = graph(model)
    drawing = check(drawn)
    assert [text for name in sorted(drawing.boxes, key=int) for text in drawing.texts[name]][:5] == [
        "input", "1×28×28", "Conv2dconv1", "6×28×28", "weight 6×1×5×5, bias 6",
    ]  # fmt: skip
    assert only(groups(drawn)).title == "LeNet5"
    assert [(item.path, item.label, item.family) for item in operations(drawn)][:4] == [
        ("conv1", "Conv2d", "convolution"), ("tanh1", "Tanh", "activation"), ("pool1", "AvgPool2d", "pooling"),
        ("conv2", "Conv2d", "convolution"),
    ]  # fmt: skip
    assert all(len(row) == 1 for row in only(groups(drawn)).rows)
    middles = {(r.left + r.right) / 2 for r in drawing.boxes.values()}
    assert max(middles) - min(middles) < NEAR  # one straight column
    assert drawn.error is None


@pytest.mark.parametrize("name", ["googlenet", "resnet34"])
@pytest.mark.parametrize("training", [True, False])
def test_large_networks_are_drawn_quickly_and_without_a_box_or_line_over_another(name, training):
    model = built(name, input_size=64).train(training)
    began = time.process_time()
    drawn = graph(model, (2, 3, 64, 64))
    text = drawn.svg
    assert time.process_time() - began < 5
    drawing = check_geometry(text)
    check_structure(drawn)
    check_dot(drawn)
    nodes = trace(model, (2, 3, 64, 64)).nodes
    assert [item.node.op.name for item in sorted(operations(drawn), key=lambda i: i.node.sequence)] == [
        node.op.name for node in nodes
    ]
    assert len(drawing.boxes) == len(nodes) + 1
    check_edges(drawn, [item.node for item in operations(drawn)])


def test_inception_branches_are_columns_beside_each_other():
    drawn = graph(built("googlenet", input_size=64).train(), (2, 3, 64, 64))
    drawing = Drawing(drawn.svg)
    found = [g for g in groups(drawn) if g.kind == "Inception"]
    assert [g.title for g in found][:2] == ["inception3a (Inception)", "inception3b (Inception)"]
    assert len(found) == 9
    for inception in found:
        branches = [item for item in inception.items if isinstance(item, Group)]
        assert [b.name for b in branches] == ["branch1", "branch2", "branch3", "branch4"]
        frames = [drawing.frames[str(b.id)] for b in branches]
        assert len({f.top for f in frames}) == 1
        assert all(a.right < b.left for a, b in itertools.pairwise(frames))
        cat = only(item for item in inception.items if isinstance(item, Operation))
        assert sum(head == str(cat.id) for _, head, _, _ in drawing.links) == 4
    trunk = [str(item.id) for item in found[0].parent.items if getattr(item, "kind", "") != "AuxiliaryClassifier"]
    bends = [way[-1][0] - way[0][0] for tail, head, way, _ in drawing.links if {tail, head} <= set(trunk)]
    assert len(bends) == len(trunk) - 1 and max(map(abs, bends)) < 1  # straight past the auxiliary heads
    heads = [g for g in groups(drawn) if g.kind == "AuxiliaryClassifier"]
    assert sorted(h.path for h in heads) == ["aux1", "aux2"] and all(not h.outputs for h in heads)


def test_a_shortcut_passes_beside_its_branch():
    drawn = graph(built("resnet34", input_size=64).eval(), (1, 3, 64, 64))
    drawing = Drawing(drawn.svg)
    blocks = [g for g in groups(drawn) if g.kind == "BasicBlock"]
    assert len(blocks) == 16
    for block in blocks:
        lanes = [x for row in block.rows[1:-1] for x in row if isinstance(x, Lane)]
        assert lanes
        xs = {round(float(drawing.lanes[str(x.id)][0][0])) for x in lanes}
        assert len(xs) == 1  # straight
        if any(isinstance(item, Group) for item in block.items):
            continue
        branch = [drawing.boxes[str(item.id)] for item in block.items]
        assert len(lanes) == 5 and max(b.right for b in branch) < min(xs)
        middles = [(b.left + b.right) / 2 for b in branch]
        assert max(middles) - min(middles) < 1.5  # the trunk is straight


@pytest.mark.parametrize(("name", "shape"), [("lenet5", (2, 1, 32, 32)), ("resnet20", None), ("vgg11", None)])
def test_other_networks(name, shape):
    options = {"variant": "1998"} if name == "lenet5" else {}
    drawn = graph(built(name, **options), shape)
    check(drawn)
    assert drawn.error is None


def test_a_residual_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return F.relu(self.conv2(F.relu(self.conv1(x))) + x)

    drawn = graph(Block(), (2, 3, 8, 8))
    check(drawn)
    block = only(groups(drawn))
    kinds = [[type(item).__name__ for item in row] for row in block.rows]
    assert kinds == [["Lane"], *[["Operation", "Lane"]] * 3, ["Operation"], ["Operation"]]


# ---------------------------------------------------------------------------------------------- small graphs


def test_the_same_input_twice_is_two_lines():
    drawn = graph(lambda x: x + x, (2, 3))
    drawing = check(drawn)
    assert len(drawn.edges) == 2 and len(drawing.links) == 2
    (a, b) = (way[-1] for *_, way, _ in drawing.links)
    assert abs(a[0] - b[0]) > 8


def test_two_inputs_and_a_disconnected_part():
    def function(x, y):
        F.relu(y)  # leads nowhere
        return F.tanh(x)

    drawn = graph(function, [(2, 3), (2, 5)])
    drawing = check(drawn)
    assert len(drawing.boxes) == 4 and len(drawing.links) == 2
    sources = [item for item in walk(drawn.root) if isinstance(item, Source)]
    assert [(s.label, s.detail) for s in sources] == [("input", "3"), ("input", "5")]


def test_an_input_that_nothing_uses():
    drawn = graph(lambda x, y: F.relu(x), [(2, 3), (2, 5)])
    assert len(check(drawn).boxes) == 3


def test_a_module_that_does_nothing():
    drawn = graph(nn.Identity(), (2, 3))
    assert len(check(drawn).boxes) == 1


def test_constants_and_what_is_made_of_parameters_stand_above_what_they_are_for():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = Parameter(np.ones((3, 4), np.float32))

        def forward(self, x):
            for _ in range(3):
                x = F.relu(x)
            return (x * 0.5) @ self.weight.transpose(0, 1)

    drawn = graph(Scaled(), (2, 4))
    check(drawn)
    scaled = only(groups(drawn))
    row = {item: r for r, row in enumerate(scaled.rows) for item in row}
    constant = only(item for item in row if isinstance(item, Source))
    named = {item.label: item for item in row if isinstance(item, Operation)}
    assert (constant.label, constant.detail) == ("constant", "0.5")
    assert row[constant] == row[named["mul"]] - 1 and row[named["permute"]] == row[named["matmul"]] - 1
    assert named["permute"].detail == "4×3" and named["permute"].note == "weight 3×4"
    assert named["matmul"].detail == "3"


@pytest.mark.host
def test_an_array_that_is_wrapped_twice_is_one_input():
    x, layer = np.ones((2, 4), np.float32), nn.Linear(4, 4)
    drawn = graph(layer(x) * layer(x))
    check(drawn)
    assert sum(isinstance(item, Source) for item in walk(drawn.root)) == 1


def test_a_constant_stands_in_the_innermost_group_that_holds_all_who_use_it():
    constant = Tensor(np.ones((1, 3), np.float32))

    class Shift(nn.Module):
        def forward(self, x):
            return F.tanh(x + constant)

    one, two = nn.Sequential(Shift()), nn.Sequential(nn.Sequential(Shift(), Shift()), nn.ReLU())
    for model, kind, items in ((one, "Shift", 3), (two, "Sequential", 3)):
        drawn = graph(model, (2, 3))
        check(drawn)
        source = only(item for item in walk(drawn.root) if isinstance(item, Source) and item.label == "constant")
        assert (source.parent.kind, len(source.parent.items)) == (kind, items)
        assert source.detail == "1×3"


def test_dropout_has_no_mask_and_a_target_is_one():
    x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
    drawn = graph(F.mse_loss(F.dropout(x), np.zeros((2, 4), np.float32)))
    check(drawn)
    assert sorted(item.label for item in walk(drawn.root) if isinstance(item, Source)) == ["input", "target"]


def test_a_module_called_twice_is_two_groups():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
            self.act = nn.ReLU()

        def forward(self, x):
            x = self.act(self.shared(self.shared(x)))
            return self.act(x * x)

    model = Twice()
    x = np.ones((2, 4), np.float32)
    for drawn in (graph(model, (2, 4)), graph(model(x).sum())):
        check(drawn)
        twice = only(g for g in groups(drawn) if g.kind == "Twice")
        assert [(i.name if isinstance(i, Group) else i.label) for i in twice.items] == [
            "shared", "shared", "ReLU", "mul", "ReLU",
        ]  # fmt: skip
        assert [len(i.items) for i in twice.items if isinstance(i, Group)] == [2, 2]


def test_a_model_called_twice():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    a, b = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    drawn = graph(F.mse_loss(model(a), model(b)))
    check(drawn)
    assert [g.kind for g in groups(drawn)] == ["Sequential"] * 2


def test_a_network_applied_to_its_own_output_is_two_groups():
    """Nothing but the calls themselves tells them apart: the second works on the first one's output alone."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.second(F.tanh(self.first(x)))

    model = Net()
    drawn = graph(model(model(np.ones((2, 3), np.float32))).sum())
    check(drawn)
    assert [g.kind for g in groups(drawn)] == ["Net"] * 2
    assert [len(g.items) for g in groups(drawn)] == [3, 3]


def test_an_operation_of_ones_own_needs_no_shape_function():
    half = Op("half", lambda x: (x[:, ::2], x.shape), lambda g, shape, needs: (g.repeat(2, axis=1),))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(apply(half, x))

    drawn = graph(Net(), (1, 6))
    check(drawn)
    assert [(item.label, item.detail) for item in operations(drawn)] == [("half", "3"), ("Linear", "2")]


def test_an_index_beyond_the_end_ends_the_drawing():
    class Net(nn.Module):
        def forward(self, x):
            return F.relu(x)[:, 9]

    drawn = graph(Net(), (1, 6))
    assert isinstance(drawn.error, IndexError) and [item.label for item in operations(drawn)] == ["relu"]


def test_a_failure_in_the_second_call_of_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))

        def forward(self, x):
            return self.layer(self.layer(x))

    drawn = graph(Net(), (1, 3))
    net = only(g for g in groups(drawn) if g.kind == "Net")
    first, second = net.items
    assert [len(first.items), len(second.items)] == [2, 1] and isinstance(second.items[0], Failure)


def test_a_layer_of_several_operations_is_a_group():
    class Squash(nn.Module):
        def forward(self, x):
            return F.tanh(x).sqrt()

    drawn = graph(nn.Sequential(("a", Squash()), ("b", nn.ReLU())), (2, 3))
    check(drawn)
    assert [g.title for g in groups(drawn)] == ["Sequential", "a (Squash)"]
    assert [(item.label, item.path) for item in operations(drawn)] == [("tanh", "a"), ("sqrt", "a"), ("ReLU", "b")]


def test_frozen_weights_no_grad_and_double_precision_change_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    plain = graph(model, (2, 1, 8, 8)).svg
    with no_grad():
        assert graph(model, (2, 1, 8, 8)).svg == plain
    assert graph(model.requires_grad_(False).to(dtype="float64"), (2, 1, 8, 8)).svg == plain
    assert int(model.state_dict()["1.num_batches_tracked"]) == 0
    assert all(not module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------------ losses


def test_a_loss_of_three(rng):
    model = models.googlenet(width=0.1, num_classes=10, input_size=32)
    images = rng.random((2, 3, 32, 32), dtype=np.float32)
    loss = googlenet_loss(model(images), np.array([1, 2]))
    drawn = graph(loss)
    check(drawn)
    network = only(g for g in groups(drawn) if g.kind == "GoogLeNet")
    assert len(network.outputs) == 3 and len(network.inputs) == 1
    assert sum(item.label == "cross_entropy" for item in operations(drawn)) == 3
    # The same groups as of the model alone, although nobody said where each call ended.
    alone = [(g.path, g.kind, len(list(g.operations()))) for g in groups(graph(model.train(), (2, 3, 32, 32)))]
    assert [(g.path, g.kind, len(list(g.operations()))) for g in groups(drawn)] == alone
    nodes = [item.node for item in operations(drawn)]
    check_edges(drawn, nodes)
    loss.backward()
    with pytest.raises(RuntimeError, match=r"freed by a backward pass.*retain_graph"):
        graph(loss)


def test_a_computation_without_any_module():
    w, x = Parameter(np.array([1.0, 2.0], np.float32)), Tensor(np.array(3.0, np.float32), requires_grad=True)
    drawn = graph(((w * x) ** 2).sum())
    check(drawn)
    assert [item.label for item in operations(drawn)] == ["mul", "pow", "sum"]
    labels = sorted((item.label, item.detail) for item in walk(drawn.root) if isinstance(item, Source))
    assert labels == [("constant", "2"), ("input", "one number")]


def test_an_inner_part_that_was_freed():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    trunk = F.tanh(x)
    first, second = trunk.sum(), (trunk * trunk).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="what tanh was made from was freed"):
        graph(second)


# ----------------------------------------------------------------------------------------------------- folding


def test_depth():
    model = built("googlenet", input_size=64).eval()
    whole, one, none = (graph(model, depth=depth) for depth in (None, 1, 0))
    for drawn in (whole, one, none):
        check(drawn)
    drawing = Drawing(one.svg)
    assert len(drawing.frames) == 1 and len(drawing.boxes) == 1 + 3 + 9 + 4 + 2 + 3
    texts = list(drawing.texts.values())
    assert ["inception3a(Inception)", "256×8×8", "14 operations"] in texts
    assert list(Drawing(none.svg).texts.values()) == [["input", "3×64×64"], ["GoogLeNet", "1000", "141 operations"]]
    assert [g.path for g in groups(one)] == [g.path for g in groups(whole)]  # folded, not gone
    assert "inception3a (Inception)  256×8×8" in str(one) and "branch1" not in str(one)
    deep = graph(model, depth=9)
    assert deep.svg == whole.svg


# ------------------------------------------------------------------------------------------------------ errors


def test_a_shape_error_is_drawn_where_it_happened():
    model = nn.Sequential(("features", nn.Sequential(nn.Conv2d(3, 96, 5), nn.ReLU(), nn.Conv2d(48, 8, 3, groups=1))))
    drawn = graph(model, (2, 3, 16, 16))
    drawing = check(drawn)
    assert isinstance(drawn.error, ValueError) and "input has 96 channels" in str(drawn.error)
    failure = only(item for item in walk(drawn.root) if isinstance(item, Failure))
    assert failure.path == "features.2" and failure.parent.path == "features"
    maker = only(tail for tail, head in drawn.edges if head is failure)
    assert maker.label == "ReLU"
    lines = drawing.texts[str(failure.id)]
    assert lines[0] == "✗ conv2d in features.2" and lines[1].startswith("input has 96 channels") and len(lines) > 2
    assert str(drawn).endswith(f"✗ {drawn.error}")
    assert all(not module._forward_hooks for module in model.modules())


def test_an_operation_that_fails_is_joined_to_all_that_it_was_given():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(3, 6)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            self.c(x)
            return a + b

    drawn = graph(Split(), (2, 3))
    check(drawn)
    failure = only(item for item in walk(drawn.root) if isinstance(item, Failure))
    assert [tail.path for tail, head in drawn.edges if head is failure] == ["a", "b"]


def test_an_error_at_the_very_first_layer_and_one_of_the_users_own():
    drawn = graph(nn.Conv2d(3, 4, 3), (1, 1, 8, 8))
    check(drawn)
    assert [tail.label for tail, head in drawn.edges if isinstance(head, Failure)] == ["input"]

    class Refuses(nn.Module):
        def forward(self, x):
            F.relu(x)
            raise TypeError('not <this> "one" & a\\b\x00 — ' + "long " * 200)

    drawn = graph(Refuses(), (1, 3))
    drawing = check(drawn)
    failure = only(item for item in walk(drawn.root) if isinstance(item, Failure))
    assert [tail.label for tail, head in drawn.edges if head is failure] == ["relu"]
    lines = drawing.texts[str(failure.id)]
    assert lines[0] == "✗ TypeError" and lines[-1].endswith("…") and len(lines) <= 8
    assert str(drawn.error) in str(drawn)


def test_other_exceptions_pass():
    class Broken(nn.Module):
        def forward(self, x):
            return {}["missing"]

    model = Broken()
    with pytest.raises(KeyError, match="missing"):
        graph(model, (1, 3))
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.ReLU(),), ValueError, "input_shape is missing, and ReLU does not say"),
        ((nn.ReLU(), (2, "3")), ValueError, r"input_shape is \(2, '3'\), and must be"),
        ((nn.ReLU(), (2, 0)), ValueError, r"input_shape is \(2, 0\), and must be made of positive ints"),
        ((nn.ReLU(), (2, 3), -1), ValueError, "depth is -1"),
        ((nn.ReLU(), (2, 3), 1.5), ValueError, "depth is 1.5"),
        ((7,), TypeError, "got int, and draws a module or a tensor"),
        ((Tensor(1.0),), RuntimeError, "no operation is remembered that made this tensor"),
        ((Tensor(1.0), (1,)), ValueError, "input_shape is for a module"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        graph(*arguments)


# ------------------------------------------------------------------------------------------- text, files, colours


def test_names_are_escaped():
    name = 'a<b>&"c"{\\'
    drawn = graph(nn.Sequential((name, nn.ReLU()), ("d", nn.Sequential((name, nn.Tanh())))), (2, 3))
    drawing = check(drawn)
    assert f"ReLU{name}" in [text for texts in drawing.texts.values() for text in texts]
    paths = [g.get("data-path") for g in drawing.root.iter(f"{SVG}g")]
    assert f"d.{name}" in paths
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"', drawn.dot)
    written = [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], string) for string in strings]
    assert f"ReLU {name}\n3" in written


def test_tooltips_say_path_shapes_and_formula():
    root = ET.fromstring(graph(built("lenet5"), (4, 1, 28, 28)).svg)
    tip = only(g.find(f"{SVG}title").text for g in root.iter(f"{SVG}g") if g.get("data-path") == "conv2")
    assert tip.splitlines() == [
        "conv2: conv2d (Conv2d)", "4×6×14×14 → 4×16×10×10", "weight 16×6×5×5, bias 16", F.CONV2D.formula,
    ]  # fmt: skip


def test_the_outline():
    model = nn.Sequential(("conv", nn.Conv2d(1, 2, 3)), ("act", nn.ReLU()))
    assert str(graph(lambda x: model(x) + 1.0, (2, 1, 8, 8))).splitlines()[1:] == [
        "  input  1×8×8",
        "  constant  1",
        "  Sequential",
        "    conv (Conv2d)  2×6×6",
        "    act (ReLU)  2×6×6",
        "  add  2×6×6  ← act, constant",
    ]


def test_saving(tmp_path):
    drawn = graph(built("lenet5"))
    for name, text in (("a.svg", drawn.svg), ("a.dot", drawn.dot), ("a.GV", drawn.dot)):
        drawn.save(tmp_path / name)
        assert (tmp_path / name).read_text("utf-8") == text
    with pytest.raises(ValueError, match=r"suffix '.png', and must have .svg, .dot or .gv"):
        drawn.save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        drawn.save(tmp_path / "nowhere" / "a.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.GV", "a.dot", "a.svg"]


def test_in_a_notebook():
    drawn = graph(built("lenet5"))
    assert drawn._repr_svg_() == drawn.svg and not hasattr(drawn, "_repr_html_")  # which would be shown instead
    assert repr(drawn) == str(drawn)
    assert isinstance(drawn, Graph) and graph(built("lenet5")).svg == drawn.svg  # the same ids each time


def test_text_is_readable_by_day_and_by_night():
    """Contrast of at least 4.5 (WCAG AA) of the fainter text on every box, from the colours in the style itself."""
    style = ET.fromstring(graph(built("lenet5")).svg).find(f"{SVG}style").text
    day, night = style.split("@media (prefers-color-scheme:dark)")
    families = re.findall(r"\.(\w+)>rect\{fill:(#\w{6});stroke", day)
    assert len(families) >= 8

    def rgb(code):
        return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255

    def luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    faint = float(re.search(r"\.rest\{fill-opacity:([.\d]+)", day)[1])
    for part in (day, night):
        ink = rgb(re.search(r"minicnn-graph\{color:(#\w+)", part)[1])
        paper = rgb(re.search(r"\.paper\{fill:(#\w+)", part)[1])
        tint = float(re.search(r"(?:box|operation)>rect\{fill-opacity:([.\d]+)", part)[1])
        for _, colour in families:
            behind = tint * rgb(colour) + (1 - tint) * paper
            text = faint * ink + (1 - faint) * behind
            light, dark = sorted((luminance(text), luminance(behind)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


# ------------------------------------------------------------------------------------------------ any computation


class Program(nn.Module):
    """Takes two values and returns two; each step makes one of those so far into another, or calls a program."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        for k, (what, _, _) in enumerate(steps):
            if not isinstance(what, str):
                self.add_module(f"part{k}", Program(what))

    def forward(self, x, y):
        values = [x, y]
        for k, (what, i, j) in enumerate(self.steps):
            a, b = values[i % len(values)], values[j % len(values)]
            if what == "add":
                values.append(a + b)
            elif what == "tanh":
                values.append(F.tanh(a))
            elif what == "scale":
                values.append(a * 2.0)
            else:
                values += self._modules[f"part{k}"](a, b)
        return values[-1], values[-2]


numbers = st.integers(0, 30)
programs = st.recursive(
    st.lists(st.tuples(st.sampled_from(["add", "tanh", "scale"]), numbers, numbers), max_size=5),
    lambda inner: st.lists(
        st.tuples(st.one_of(st.sampled_from(["add", "tanh", "scale"]), inner), numbers, numbers), max_size=6
    ),
    max_leaves=6,
)


@given(programs, st.sampled_from([None, None, 0, 1, 2]))
def test_any_computation(steps, depth):
    drawn = graph(Program(steps), [(2, 3), (2, 3)], depth=depth)
    check(drawn)
    nodes = [item.node for item in operations(drawn)]
    check_edges(drawn, nodes)
    assert drawn.error is None


@given(programs)
def test_any_loss(steps):
    x, y = (Tensor(np.ones((2, 3), np.float32), requires_grad=True) for _ in range(2))
    model = Program(steps)
    a, b = model(x, y)
    loss = (a + b).sum()
    drawn = graph(loss)
    check(drawn)
    check_edges(drawn, [item.node for item in operations(drawn)])


class Body(nn.Module):
    """Two layers, without operations of its own."""

    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.Tanh()

    def forward(self, x):
        return self.act(self.fc(x))


@pytest.mark.parametrize(
    "how", ["a block again", "a layer again", "a sequence again", "side by side", "own operations"]
)
def test_a_loss_has_the_calls_of_its_model(how):
    """Calls guessed from the operations are those that a model's layers reported, in the usual cases."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pair = Body(), nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x):
            if how == "a block again":
                return self.body(self.body(x))
            if how == "a layer again":
                return self.body.fc(self.body.fc(x))
            if how == "a sequence again":
                return self.pair(self.pair(self.pair(x)))
            if how == "side by side":
                return self.body(x) + self.body(x)
            return self.body(x * 2.0) * self.body(x)

    model = Net()
    x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)

    def told(drawn):
        return [(g.path, [i.label for i in g.operations()]) for g in groups(drawn)]

    assert told(graph(model(x).sum())) == told(graph(lambda x: model(x).sum(), (2, 4)))
    known = graph(model, (2, 4))
    guessed = graph(model(x))
    assert told(guessed) == told(known)
    assert len(told(known)) == {"a layer again": 1, "a sequence again": 4}.get(how, 3)
    check(guessed)
