"""The page as it is written: what is in it, how large it is, what is cut, and that no name in it can do harm."""

import base64
import gc
import hashlib
import html
import json
import re
import time
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minicnn
from minicnn import Op, Tensor, apply, functional, nn
from minicnn.backend import to_host
from minicnn.data import MNIST
from minicnn.inspect import debug, page
from minicnn.inspect.page.arrays import Store, kept_shape
from minicnn.inspect.picture import colours
from minicnn.models import googlenet, lenet5, resnet18
from minicnn.models.googlenet import googlenet_loss


def digit():
    image, label = MNIST(train=False)[0]
    return np.asarray(image)[None], np.array([label])


def lenet():
    image, label = digit()
    return debug(functional.cross_entropy(lenet5()(image), label))


def written(debugger, tmp_path, **options):
    path = tmp_path / "step.html"
    debugger.save(path, **options)
    return path.read_text("utf-8")


def data_of(text):
    """What the page's scripts read, found as a browser finds it: up to the first end tag."""
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script")[0])


def values(entry):
    """An array as the page has it, its kept corner."""
    code = {"f4": "<f4", "f8": "<f8"}[entry["code"]]
    return np.frombuffer(base64.b64decode(entry["data"]), code).reshape(entry.get("kept", entry["shape"]))


# ---------------------------------------------------------------------------------------------------- contents


def test_all_numbers_of_lenet5_are_on_its_page(tmp_path):
    walk = lenet()
    text = written(walk, tmp_path)
    assert len(text.encode()) <= 5e6
    data = data_of(text)
    assert data["rule"] == f"Nothing is cut: all numbers of all {len(data['arrays'])} arrays are on this page."
    arrays = [values(entry) for entry in data["arrays"]]
    assert len(data["operations"]) == len(data["backward"]) == len(walk) == 13
    for step, told in zip(walk.forward, data["operations"], strict=True):
        assert (told["op"], told["path"], told["settings"]) == (step.op.name, step.path, step.settings)
        np.testing.assert_array_equal(arrays[told["output"]], to_host(step.output), strict=True)
        for given_, input in zip(told["inputs"], step.inputs, strict=True):
            assert (given_["name"], given_["source"]) == (input.name, input.source)
            np.testing.assert_array_equal(arrays[given_["array"]], to_host(input.value), strict=True)
    for step, told in zip(walk, data["backward"], strict=True):
        assert data["operations"][told["operation"]]["label"] == step.label
        np.testing.assert_array_equal(arrays[told["gradient"]], to_host(step.grad_output), strict=True)
        for made, gradient in zip(told["gradients"], step.gradients, strict=True):
            assert (made["name"], made["to"], made["added"]) == (gradient.name, gradient.to, gradient.added)
            np.testing.assert_array_equal(arrays[made["array"]], to_host(gradient.value), strict=True)


def test_an_array_that_is_used_twice_is_there_once(tmp_path):
    data = data_of(written(lenet(), tmp_path))
    first, second = data["operations"][:2]
    assert second["inputs"][0]["array"] == first["output"] and second["inputs"][0]["from"] == 0
    last, before = data["backward"][:2]
    assert last["gradients"][0]["array"] == before["gradient"]
    assert last["gradients"][0]["toOperation"] == before["operation"]
    contents = [(tuple(e["shape"]), e["data"]) for e in data["arrays"]]
    assert len(set(contents)) == len(contents)


def test_statistics_are_of_the_whole_array(tmp_path, rng):
    x = rng.standard_normal((1, 300, 400)).astype("float32")
    x[0, 299, 399], x[0, 299, 398], x[0, 0, 0] = np.nan, -np.inf, 0
    walk = debug((Tensor(x, requires_grad=True) * 2.0).sum())
    data = data_of(written(walk, tmp_path, megabytes=0.2))
    entry = data["arrays"][data["operations"][0]["inputs"][0]["array"]]
    assert entry["kept"] != entry["shape"] == [1, 300, 400]
    assert np.isfinite(values(entry)).all()
    finite = x[np.isfinite(x)].astype("float64")
    norm, *others = map(float, entry["statistics"])
    np.testing.assert_allclose(others, [finite.min(), finite.max(), finite.mean(), 1, 1, 1], rtol=1e-8)
    assert np.isnan(norm)  # and JSON has no word for that: it is text
    assert entry["statistics"][0] == "NaN"


def test_precision_is_kept(tmp_path, rng):
    x = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    data = data_of(written(debug((x * x).sum()), tmp_path))
    entry = data["arrays"][data["operations"][0]["inputs"][0]["array"]]
    assert (entry["dtype"], entry["code"]) == ("float64", "f8")
    np.testing.assert_array_equal(values(entry), x.data, strict=True)
    half = Tensor(rng.standard_normal((3, 4)).astype("float16"), requires_grad=True)
    data = data_of(written(debug((half * half).sum()), tmp_path))
    entry = data["arrays"][data["operations"][0]["inputs"][0]["array"]]
    assert (entry["dtype"], entry["code"]) == ("float16", "f4")
    np.testing.assert_array_equal(values(entry), half.data)


def test_the_colours_are_those_of_the_notebook(tmp_path):
    data = data_of(written(lenet(), tmp_path))
    palette = [tuple(bytes.fromhex(c[1:])) for c in data["palette"]]
    assert len(palette) == 255
    for i in (0, 40, 127, 200, 254):
        assert palette[i] == tuple(colours(np.array((i - 127) / 127), 1.0))
    assert palette[127] == (247, 247, 247)  # zero


def test_each_gradient_has_its_largest_entry_explained(tmp_path):
    walk = lenet()
    data = data_of(written(walk, tmp_path))
    for step, told in zip(walk, data["backward"], strict=True):
        for made, gradient in zip(told["gradients"], step.gradients, strict=True):
            index = tuple(made["example"]["index"])
            assert abs(gradient.value[index]) == abs(gradient.value).max()
            assert float(made["example"]["value"]) == pytest.approx(float(gradient.value[index]), rel=1e-8)
            rows, (count, others) = made["example"]["terms"], made["example"]["others"]
            explained = step.explain(gradient.name, index)
            assert len(rows) + count == len(explained.terms) and len(rows) <= 5
            total = sum(float(row[3]) for row in rows) + float(others)
            assert total == pytest.approx(explained.total, rel=1e-3, abs=1e-7)
            assert float(made["example"]["total"]) == pytest.approx(explained.total, rel=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_p_and_t_of_a_cross_entropy_give_its_gradient(tmp_path, rng, weighted, reduction, smoothing):
    scores = Tensor(rng.standard_normal((4, 5)), requires_grad=True)
    weight = rng.uniform(0.5, 2, 5) if weighted else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    targets = [np.array([1, 4, -100, 0]), rng.dirichlet(np.ones(5), 4)]
    for target in targets:
        walk = debug(functional.cross_entropy(scores, target, **options))
        data = data_of(written(walk, tmp_path))
        told = next(o["scores"] for o in data["operations"] if "scores" in o)
        p, t = (values(data["arrays"][told[name]]) for name in "pt")
        expected = next(step for step in walk if "cross_entropy" in step.op.name).grad_inputs[0]
        got = float(told["share"]) * (p * t.sum(axis=1, keepdims=True) - t)
        np.testing.assert_allclose(got, to_host(expected), rtol=1e-12, atol=1e-15)


def test_formulas_are_mathml_one_statement_each(tmp_path):
    data = data_of(written(lenet(), tmp_path))
    convolution = data["operations"][0]
    forward, backward = data["formulas"][convolution["formula"]]
    assert len(forward) == 1 and len(backward) == 3
    assert all(text.startswith("<math") and text.endswith("</math>") for text in [*forward, *backward])


def test_the_drawing_has_every_operation_once(tmp_path):
    images = np.zeros((1, 3, 64, 64), dtype="float32")
    model = googlenet(num_classes=10, input_size=64, width=0.125)
    data = data_of(written(debug(googlenet_loss(model(images), np.array([3]))), tmp_path))
    seen, ids = [], []

    def visit(item):
        ids.append(item["id"])
        if "operation" in item:
            seen.append(item["operation"])
        ends = {each["id"] for row in item.get("rows", []) for each in row}
        for row in item.get("rows", []):
            for each in row:
                visit(each)
                ends |= {*each.get("inputs", []), *each.get("outputs", [])}
        assert all(end in ends for link in item.get("links", []) for end in link)

    visit(data["drawing"])
    assert sorted(seen) == list(range(len(data["operations"]))) and len(set(ids)) == len(ids)


# ------------------------------------------------------------------------------------------------------ size


@given(st.lists(st.integers(1, 7), max_size=5), st.integers(1, 400))
def test_kept_shape(shape, limit):
    shape = tuple(shape)
    kept = kept_shape(shape, limit)
    size = int(np.prod(kept))
    assert len(kept) == len(shape) and all(1 <= k <= n for k, n in zip(kept, shape, strict=True))
    assert size <= limit and size <= np.prod(kept_shape(shape, limit + 1))
    if np.prod(shape) <= limit:
        assert kept == shape
    elif len(shape) >= 2 and shape[-2] * shape[-1] <= limit:
        assert kept[-2:] == shape[-2:]  # whole maps
        maps, lead = limit // (shape[-2] * shape[-1]), shape[:-2]
        assert size // (shape[-2] * shape[-1]) > maps // 2 or np.prod(lead) <= maps


def test_kept_shape_by_hand():
    assert kept_shape((2, 64, 8, 8), 64 * 10) == (1, 10, 8, 8)  # the first maps of the first image
    assert kept_shape((32, 6, 5, 5), 25 * 20) == (3, 6, 5, 5)  # three whole filters
    assert kept_shape((1, 3, 100, 50), 90) == (1, 1, 9, 10)  # a corner of one map
    assert kept_shape((3, 1000), 30) == (3, 10)
    assert kept_shape((1000,), 30) == (30,)
    assert kept_shape((), 1) == ()


@pytest.mark.parametrize("megabytes", [0.2, 0.5, 0.9])
def test_the_file_has_the_size_that_it_may_have_and_uses_it(tmp_path, megabytes):
    text = written(lenet(), tmp_path, megabytes=megabytes)
    data = data_of(text)
    limit = int(re.search(r"at most ([\d,]+) entries", data["rule"])[1].replace(",", ""))
    assert len(text.encode()) <= megabytes * 1e6
    room = megabytes * 1e6 - len(text.encode())
    sizes = [sum(np.prod(kept_shape(tuple(e["shape"]), n)) for e in data["arrays"]) for n in (limit, limit + 1)]
    next_one = (sizes[1] - sizes[0]) * 4 * 4 / 3  # letters, of four bytes a number, and some in which rules differ
    assert room < next_one + 8 * len(data["arrays"])
    for entry in data["arrays"]:
        kept = tuple(entry.get("kept", entry["shape"]))
        assert kept == kept_shape(tuple(entry["shape"]), limit)
    cut = sum("kept" in e for e in data["arrays"])
    assert f"{cut} of {len(data['arrays'])} arrays are cut" in data["rule"]


def test_what_is_cut_is_the_corner(tmp_path):
    walk = lenet()
    data = data_of(written(walk, tmp_path, megabytes=0.3))
    entry = data["arrays"][data["operations"][0]["output"]]
    whole = to_host(walk.forward[0].output)
    np.testing.assert_array_equal(values(entry), whole[tuple(slice(n) for n in entry["kept"])], strict=True)


def test_of_a_batch_the_first_image_is_kept_and_parameters_are_not_taken_for_a_batch(tmp_path, rng):
    images = rng.random((16, 1, 28, 28), dtype=np.float32)  # as many as conv2 has filters
    walk = debug(functional.cross_entropy(lenet5()(images), np.zeros(16, dtype=int)))
    data = data_of(written(walk, tmp_path, megabytes=1.2))
    assert "of the batch of 16 the first image" in data["rule"]
    assert data["arrays"][data["operations"][0]["output"]]["kept"] == [1, 6, 28, 28]
    weight = next(i for i in data["operations"][3]["inputs"] if i["name"] == "weight")
    made = next(g for b in data["backward"] for g in b["gradients"] if g["to"] == "conv2.weight.grad")
    for array in (weight["array"], made["array"]):
        assert data["arrays"][array]["shape"] == [16, 6, 5, 5] and "kept" not in data["arrays"][array]
    data = data_of(written(walk, tmp_path, megabytes=20))
    assert data["rule"].startswith("Nothing is cut")


def test_a_parameter_that_is_used_first_is_not_taken_for_the_images(tmp_path, rng):
    weight = nn.Parameter(rng.random((300, 400), dtype=np.float32))
    images = rng.random((4, 400), dtype=np.float32)
    walk = debug(functional.linear(images, weight * weight).sum())
    assert "of the batch of 4 the first image" in data_of(written(walk, tmp_path, megabytes=0.5))["rule"]


def test_resnet18_at_64_pixels(tmp_path, rng):
    images = rng.random((2, 3, 64, 64), dtype=np.float32)
    walk = debug(functional.cross_entropy(resnet18(num_classes=10)(images), np.array([3, 4])))
    start = time.perf_counter()
    text = written(walk, tmp_path)
    assert time.perf_counter() - start < 20
    assert 7e6 < len(text.encode()) <= 8e6


def test_googlenet_with_its_three_losses(tmp_path, rng):
    images = rng.random((1, 3, 64, 64), dtype=np.float32)
    model = googlenet(num_classes=10, input_size=64)
    text = written(debug(googlenet_loss(model(images), np.array([3]))), tmp_path)
    assert 7e6 < len(text.encode()) <= 8e6
    assert [o["op"] for o in data_of(text)["operations"]].count("cross_entropy") == 3


# ------------------------------------------------------------------------------------------------ safe and sound

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def hostile():
    model = nn.Sequential((HOSTILE.replace(".", ""), nn.Conv2d(1, 2, 3)), ("relu", nn.ReLU()))
    own = Op(
        HOSTILE, lambda x: (x * 2, None), lambda g, saved, needs: (g * 2,), lambda shape: shape, True,
        f"y = {HOSTILE};  ∂x = {HOSTILE}",
    )  # fmt: skip
    x = Tensor(np.ones((1, 1, 5, 5), dtype="float32"), requires_grad=True)
    return debug(apply(own, model(x)).sum(), names={HOSTILE: x})


def test_names_are_text_whatever_is_in_them(tmp_path):
    text = written(hostile(), tmp_path, title=HOSTILE)
    tags = Tags(text)
    assert tags.tags.count("script") == 2 and "img" not in tags.tags
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    data = data_of(text)
    assert data["title"] == HOSTILE and any(o["op"] == HOSTILE for o in data["operations"])
    assert not [t for formula in data["formulas"] for part in formula for t in Tags("".join(part)).tags if t == "img"]
    framed = page.inline(hostile(), title=HOSTILE)
    assert Tags(framed).tags == ["iframe"]
    assert Tags(dict(Tags(framed).attributes)["srcdoc"]).tags == tags.tags


def test_nothing_is_loaded_and_only_this_script_may_run(tmp_path):
    text = written(lenet(), tmp_path)
    attributes = dict(Tags(text).attributes)
    assert "src" not in attributes and attributes["href"] == "data:,"
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    policy = next(v for _, v in Tags(text).attributes if v and "default-src" in v)
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[0] == "default-src 'none'" and f"script-src 'sha256-{digest}'" in policy


def test_inline_is_the_same_page_in_a_frame(tmp_path):
    walk = lenet()
    framed = page.inline(walk, megabytes=3)
    inside = dict(Tags(framed).attributes)["srcdoc"]
    assert inside == written(walk, tmp_path)
    assert html.unescape(framed.split("srcdoc='")[1].removesuffix("'></iframe>")) == inside
    assert (
        len(page.inline(walk).encode()) <= 1e6 and "are cut" in data_of(html.unescape(page.inline(walk, 0.5)))["rule"]
    )
    assert walk._repr_html_().startswith(page.inline(walk))
    smallest = page.inline(walk, megabytes=0.01)  # a notebook gets a page in any case
    assert 1e4 < len(smallest) < 3e5


def test_saving_changes_nothing(tmp_path):
    image, label = digit()
    model = lenet5()
    loss = functional.cross_entropy(model(image), label)
    walk = debug(loss)
    walk.goto("conv2")
    walk.save(tmp_path / "step.htm")
    assert walk.current.path == "conv2" and walk.forward.position == -1
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_page_after_backward_is_the_page_before_it(tmp_path):
    image, label = digit()
    model = lenet5()
    loss = functional.cross_entropy(model(image), label)
    walk = debug(loss)
    before = written(walk, tmp_path)
    loss.backward()
    for parameter in model.parameters():
        parameter.data += 1
    assert written(walk, tmp_path) == before


def test_what_is_shown_is_not_kept_alive_by_the_steps():
    """A step knows its inputs' makers by number: one that is kept does not keep the graph behind it."""
    x = Tensor(np.ones((2, 3), dtype="float32"), requires_grad=True)
    hidden = x * 2.0
    maker = weakref.ref(hidden.node)
    loss = hidden.exp().sum()
    walk = debug(loss)
    step = walk.goto("exp")
    walk.run()
    assert step.inputs[0].made_by == 0 and walk.forward[0].inputs[0].made_by is None
    loss.backward()
    del walk, hidden, loss
    gc.collect()
    assert maker() is None and step.inputs[0].value[0, 0] == 2


def test_parameters_are_told_from_values(tmp_path):
    data = data_of(written(lenet(), tmp_path))
    for operation in data["operations"]:
        for given_ in operation["inputs"]:
            assert given_["isParameter"] == (given_["name"] in ("weight", "bias"))
    for step in data["backward"]:
        for made in step["gradients"]:
            assert made["isParameter"] == made["to"].endswith(".grad")


@pytest.mark.parametrize("megabytes", [float("nan"), 0, -1.5, -float("inf")])
def test_a_size_that_is_none(tmp_path, megabytes):
    walk = lenet()
    message = f"megabytes={megabytes:g}, and the size of a page must be more than 0 MB: give a positive number, or math"
    for write in (lambda: walk.save(tmp_path / "step.html", megabytes), lambda: page.inline(walk, megabytes)):
        with pytest.raises(ValueError, match=re.escape(message)):
            write()
    assert not list(tmp_path.iterdir())


def test_a_page_without_a_limit(tmp_path, rng):
    walk = debug((Tensor(rng.random((1500, 1000), dtype="float32"), requires_grad=True) * 2.0).sum())
    text = written(walk, tmp_path, megabytes=float("inf"))
    assert len(text) > 16e6 and data_of(text)["rule"].startswith("Nothing is cut")
    assert "are cut" in data_of(written(walk, tmp_path))["rule"]


def test_errors(tmp_path):
    walk = lenet()
    with pytest.raises(ValueError, match=r"'step.png', and its name must end in .html"):
        walk.save("step.png")
    with pytest.raises(ValueError, match=r"0.05 MB are too small for the 13 operations .* megabytes=0\.\d\d") as error:
        walk.save(tmp_path / "step.html", megabytes=0.05)
    assert not list(tmp_path.iterdir())
    smallest = float(str(error.value).rpartition("=")[2])
    walk.save(tmp_path / "step.html", megabytes=smallest)
    with pytest.raises(ValueError, match="too small"):
        walk.save(tmp_path / "step.html", megabytes=smallest - 0.01)
    assert len((tmp_path / "step.html").read_bytes()) <= smallest * 1e6  # what was there is still there
    with pytest.raises(FileNotFoundError):
        walk.save(tmp_path / "nowhere" / "step.html")
    with pytest.raises(ValueError, match="no operation to step through"):
        debug(Tensor(np.ones(()), requires_grad=True)).save(tmp_path / "leaf.html")
    with pytest.raises(TypeError, match="complex128"):
        Store().add(np.ones(3, dtype=complex))


def test_arrays_without_entries(tmp_path):
    x = Tensor(np.ones((0, 3), dtype="float32"), requires_grad=True)
    data = data_of(written(debug((x * 2.0).sum()), tmp_path))
    assert [0, 3] in [e["shape"] for e in data["arrays"]]
    assert None in [g["example"] for b in data["backward"] for g in b["gradients"]]


def test_the_same_page_for_the_same_walk(tmp_path):
    minicnn.manual_seed(3)
    one = written(lenet(), tmp_path)
    minicnn.manual_seed(3)
    assert written(lenet(), tmp_path) == one
