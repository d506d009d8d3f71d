"""The benchmarks: every program runs, peers compute what minicnn does, reports say what was measured."""

import argparse
import importlib
import json
import math
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, cli, models
from minicnn import functional as F

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
MODULES = ("contest", "own", "peers", "report", "training", "worker", "run")


@pytest.fixture
def load(monkeypatch):
    """Import a file of benchmarks/, as its programs import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def program(name: str, *arguments: str) -> str:
    """What a program of benchmarks/ prints."""
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_every_section_runs_without_a_peer_and_is_reported(tmp_path):
    said = program("run.py", "--tiny", "--models", "lenet5", "--libraries", "--rounds", "1", "--out", str(tmp_path))
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in tmp_path.glob("*.json")}
    assert set(found) >= {"networks", "layers", "scaling"} and f"written to {tmp_path}" in said
    assert {row["task"] for row in found["networks"]["rows"]} == {"training", "inference"}
    assert {row["pass"] for row in found["layers"]["rows"]} == {"forward", "input gradient", "weight gradient"}
    assert {row["axis"] for row in found["scaling"]["rows"]} == {"batch", "depth", "side"}
    assert not found["networks"]["about"]["complete"]
    for row in found["networks"]["rows"]:
        assert row["network"] == "lenet5" and all(0 < seconds < 60 for seconds in row["minicnn"])
    for row in found["layers"]["rows"]:
        assert all(rate > 0 for rates in row["gflops"].values() for rate in rates)
    if sys.platform == "linux":
        assert found["memory"]["rows"][0]["bytes"]["minicnn, tracemalloc"] > 0
    tables = program("report.py", "--print", str(tmp_path))
    assert "## Networks" in tables and "| lenet5 (2) |" in tables and "batch 1 (resnet18" in tables


def test_import_time_runs():
    assert "ms beyond NumPy's own import" in program("import_time.py", "--rounds", "1")


def test_the_readme_shows_what_was_measured(load):
    report = load("report")
    readme = (ROOT / "README.md").read_text("utf-8")
    results = report.load(report.RESULTS)
    assert report.splice(readme, report.section(results), "bench") == readme, "run: python benchmarks/report.py"
    if results:
        assert (report.RESULTS / "README.md").read_text("utf-8") == report.everything(results)
        assert report.PICTURE.exists()
        assert all(result["about"]["complete"] for result in results.values()), "a part of a run was kept"


# ------------------------------------------------------------------------------------------------------ report


def made_up_results(machine):
    about = {"machine": machine, "minicnn": "0", "threads": 2, "rounds": 3, "complete": True}

    def match(network, task, contender, own, other):
        return {"network": network, "batch": 8, "task": task, "contender": contender, "seconds": other, "minicnn": own}

    networks = [
        match("a", "training", "PyTorch", [1.0, 3.0, 2.0], [4.0, 4.0, 9.0]),  # 2 / 4
        match("a", "inference", "PyTorch", [0.1], [0.4]),
        match("a", "training", "Chainer", [2.0], [7.0]),
        match("a", "inference", "Chainer", [2.0], [4.0]),
        match("b", "training", "PyTorch", [0.004], [0.002]),
        match("b", "inference", "PyTorch", [1.0], [1.0]),
        {"network": "b", "batch": 8, "contender": "Chainer", "reason": "it has no such thing"},
        match("b, paper", "training", "PyTorch", [9.0], [1.0]),  # not in the means
        match("b, paper", "inference", "PyTorch", [9.0], [1.0]),
    ]
    rates = {"minicnn": [100.0], "PyTorch": [50.0], "product": [300.0]}
    layers = [{"network": "a", "layer": "1→2", "batch": 8, "pass": "forward", "gflops": rates}]
    scaling = [
        {"network": "a", "batch": n, "side": 8, "axis": axis, "x": n, "seconds": {"minicnn": [n], "PyTorch": [2 * n]}}
        for axis in ("batch", "depth", "side")
        for n in (1, 2)
    ]
    memory = [{"network": "a", "batch": 8, "bytes": {"minicnn": 3_000_000, "PyTorch": 4_000_000}}]
    sections = {"networks": networks, "layers": layers, "scaling": scaling, "memory": memory}
    return {name: {"about": about, "rows": rows} for name, rows in sections.items()}


def test_a_report_has_ratios_means_and_reasons(load):
    report, contest = load("report"), load("contest")
    text = report.section(made_up_results(contest.machine()))
    assert "| a (8) | 2.00 s | 4.00 s | **0.50** | 100 ms | 400 ms | **0.25** | **0.75** |" in text
    assert "| b (8) | 4 ms | 2 ms | **2.00** | 1.00 s | 1.00 s | **1.00** | – |" in text
    assert "| geometric mean |  |  | **1.00** |  |  | **0.50** | **0.75** |" in text
    assert text.index("geometric mean") < text.index("b, paper")
    assert "| a (8) | 3.5× / 2.0× |" in text and "| b (8) | – (1) |" in text
    assert "(1) Chainer: it has no such thing" in text
    everything = report.everything(made_up_results(contest.machine()))
    assert "| a: 1→2 | 100 | 50 | – | – | – | – | 300 |" in everything and "| 1.00 s | 2.00 s | 0.50 |" in everything


def test_a_report_shows_what_was_held_back_apart(load):
    report, contest = load("report"), load("contest")
    results = made_up_results(contest.machine())
    without = report.section(results)
    assert "AVX-512" not in without
    held = made_up_results({**contest.machine(), "blas": "Haswell"})["networks"]
    text = report.section(results | {"avx2": held})
    assert "|  | geometric mean | a | b |" in text and "| training | **1.00** | **0.50** | **2.00** |" in text
    assert "BLAS for Haswell" in text and "BLAS for Haswell" not in report.about(results | {"avx2": held})
    assert "| training | **1.00** |" in report.everything(results | {"avx2": held})


def test_a_report_shows_other_machines_apart(load):
    report, contest = load("report"), load("contest")
    results = made_up_results(contest.machine())
    other = made_up_results({**contest.machine(), "processor": "Abacus"})["networks"]
    text = report.section(results | {"networks-abacus": other})
    assert "The ratios on another machine" in text and "Abacus (" in text and "AVX-512" not in text
    assert text.count("| training | **1.00** | **0.50** | **2.00** |") == 1
    assert "The times of Chainer over minicnn's: training 3.5 to 3.5, inference 2.0 to 2.0." in text
    assert "Abacus" not in report.about(results | {"networks-abacus": other})
    alone = report.everything({"networks-abacus": other, "networks-abax": other})
    assert alone.count("Abacus") == alone.count("| training | **1.00** |") == 2
    assert "peak memory" not in alone and "Measured" not in alone
    assert "Measured" not in report.section({"networks-abacus": other})


@pytest.mark.parametrize(("text", "processor"), [
    ("processor: 0\nmodel name\t: Abacus\ncpu family\t: 6\nmodel\t\t: 7\n\n", "Abacus, family 6, model 7"),
    ("model name: Abacus\ncpu family: 6\n", "Abacus"), ("flags\n", None), (None, None),
])  # fmt: skip
def test_the_processor_is_told_as_far_as_it_is_known(load, tmp_path, text, processor):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    known = load("contest").machine(str(tmp_path / "cpuinfo"))["processor"]
    assert known == (processor or platform.processor() or platform.machine())


def test_contenders_can_be_held_back_together(load, monkeypatch):
    contest = load("contest")
    kernels = []
    for held_back in ({}, {"OPENBLAS_CORETYPE": "Prescott"}):
        monkeypatch.setattr(contest.Worker, "held_back", held_back)
        with contest.Worker("minicnn", threads=1, timeout=60) as worker:
            kernels.append(worker.ask("hello")["blas"])
    if kernels[0] is None or platform.machine() != "x86_64":
        pytest.skip("BLAS is not OpenBLAS, or has no such kernels here")
    assert kernels[0] != kernels[1]


def test_a_report_says_where_sections_differ(load):
    report, contest = load("report"), load("contest")
    results = made_up_results(contest.machine())
    assert report.about(results).startswith(contest.machine()["date"][:4])
    results["memory"] = {**results["memory"], "about": {**results["memory"]["about"], "complete": False, "threads": 1}}
    results["layers"]["about"] = {**results["layers"]["about"], "busy": 3.5}
    assert "others kept 3.5 processors busy" in report.about(results)
    assert "memory: " in report.about(results) and "(a part, or a quick run)" in report.about(results)


def test_a_picture_is_drawn(load, tmp_path):
    report, contest = load("report"), load("contest")
    for results in ({}, made_up_results(contest.machine())):
        report.plot(results, tmp_path / "bench.svg")
        first = (tmp_path / "bench.svg").read_bytes()
        report.plot(results, tmp_path / "bench.svg")
        assert first == (tmp_path / "bench.svg").read_bytes() and b"</svg>" in first


def test_splice_wants_its_markers(load):
    report = load("report")
    wanted = "a <!-- bench -->\nnew\n<!-- /bench --> b"
    assert report.splice("a <!-- bench -->old<!-- /bench --> b", "new", "bench") == wanted
    with pytest.raises(ValueError, match="not once each"):
        report.splice("a <!-- bench --><!-- /bench -->", "new", "results")


# ----------------------------------------------------------------------------------------------------- trainings


def test_the_readme_shows_the_trainings_that_were_kept(load):
    training, report = load("training"), load("report")
    readme = (ROOT / "README.md").read_text("utf-8")
    kept = [training.load(path) for path in sorted(training.TABLES.glob("*.csv"))]
    assert kept and training.PICTURE.exists()
    assert report.splice(readme, training.section(kept), "results") == readme, "run: python benchmarks/training.py"


def test_a_run_is_kept_with_its_command_and_drawn(load, tmp_path, capsys):
    training = load("training")
    run = tmp_path / "a run"
    words = ["train", "lenet5", "--images", "64", "--epochs", "2", "--seed", "7", "--device", "cpu"]
    assert cli.main([*words, "--output", str(run)]) == 0
    facts = json.loads((run / "history.json").read_text("utf-8"))
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    environment["command"] = ["minicnn", *words[:4], "--threads", "2", *words[4:], f"--output={run}", "--keep", "9"]
    (run / "environment.json").write_text(json.dumps(environment), "utf-8")

    kept = training.load(training.keep(run, tmp_path / "tables"))
    assert kept.name == "a run" and kept.facts["command"] == "minicnn " + " ".join(words)
    assert kept.facts["seed"] == "7" and kept.facts["data"] == "mnist" and kept.facts["numpy"] == np.__version__
    epochs = facts["history"]["epochs"]
    assert [entry["epoch"] for entry in kept.epochs] == [1, 2]
    for column in ("loss", "test_accuracy"):
        assert [entry[column] for entry in kept.epochs] == pytest.approx([e[column] for e in epochs], rel=1e-5)
    assert f"**{100 * epochs[-1]['test_accuracy']:.2f} %**" in training.section([kept])

    others = [kept._replace(name=f"other {i}", facts={**kept.facts, "data": f"digits {i // 5}"}) for i in range(6)]
    training.plot([kept, *others], tmp_path / "curves.svg")
    first = (tmp_path / "curves.svg").read_bytes()
    training.plot([kept, *others], tmp_path / "curves.svg")
    assert first == (tmp_path / "curves.svg").read_bytes() and b"</svg>" in first
    assert all(f"{training.name}: ".encode() in first for training in [kept, *others]), "a curve is left out"

    # few classes have no top-5 error, and what is not finite is null
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    for entry in log:
        if entry["event"] == "epoch":
            entry.pop("test_top5_error")
            entry["test_loss"] = None if entry["epoch"] == 1 else entry["test_loss"]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, log)), "utf-8")
    some = training.load(training.keep(run, tmp_path / "tables"))
    assert math.isnan(some.epochs[0]["test_loss"]) and math.isnan(some.epochs[1]["test_top5_error"])
    assert some.epochs[1]["test_loss"] == kept.epochs[1]["test_loss"]
    assert training.section([some]) == training.section([kept])

    with pytest.raises(SystemExit, match="no run that has ended"):
        training.keep(tmp_path, tmp_path)
    for change, why in (({"event": "rate"}, "learning rate was changed"), (None, "before its first epoch")):
        lines = [entry for entry in log if entry["event"] != "epoch"] if change is None else [*log, change]
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
        before = (tmp_path / "tables" / "a run.csv").read_bytes()
        with pytest.raises(SystemExit, match=why):
            training.keep(run, tmp_path / "tables")
        assert (tmp_path / "tables" / "a run.csv").read_bytes() == before


# ----------------------------------------------------------------------------------------------------- contest


def test_contenders_take_turns_and_the_first_round_warms_up(load):
    contest = load("contest")
    order = []

    def contender(name, seconds):
        return lambda: order.append(name) or seconds

    runs = contest.take_turns({"a": contender("a", 1.0), "b": contender("b", 2.0)}, rounds=3, patience=4.0)
    assert order == ["a", "b", "a", "b", "a", "a"] and runs == {"a": [1.0] * 3, "b": [2.0]}
    assert contest.take_turns({"a": contender("a", 5.0)}, rounds=3, patience=4.0) == {"a": [5.0]}


@pytest.mark.parametrize(
    ("runs", "kept"), [([9, 1, 1.9], [1, 1.9]), ([9, 1, 2.1, 9, 3, 4], [1, 2.1, 3, 4])], ids=["even", "disturbed"]
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_contenders_take_their_turns_again_where_one_was_disturbed(load, name, runs, kept, capsys):
    contest, left = load("contest"), iter(runs)
    calm = {"a": lambda: 5.0, "b": lambda: 5.0}
    found = contest.calm_turns(calm | {name: lambda: next(left)}, rounds=2)
    assert found == {other: [5.0] * len(kept) for other in calm} | {name: kept} and not list(left)
    assert (f"{name}'s longest run took 2.10 times its shortest" in capsys.readouterr().out) == (len(kept) == 4)


def test_patience_is_asked_each_time(load):
    contest, left = load("contest"), iter([3, 1, 2.5, 9])
    assert contest.calm_turns({"a": lambda: next(left)}, rounds=5, patience=6.0) == {"a": [1, 2.5, 9]}


def test_networks_are_matched_with_calm_turns(load, capsys):
    bench, left = load("run"), iter([1.0, 1.0, 3.0, 1.0, 1.0, 1.0])

    class Worker:
        def __init__(self, run):
            self.turn = lambda task, least: run

    network, options = bench.NETWORKS[0], argparse.Namespace(least=0.0, rounds=2, libraries=[])
    workers = {"minicnn": Worker(lambda: next(left)), "PyTorch": Worker(lambda: 2.0)}
    (row,) = bench.Bench(options).match(network, "training", workers)
    assert row["minicnn"] == [1.0, 3.0, 1.0, 1.0] and row["seconds"] == [2.0] * 4


def test_how_busy_others_keep_the_processors(load, tmp_path, monkeypatch):
    contest, stat = load("contest"), tmp_path / "stat"
    fields = (100, 0, 50, 800, 20, 0, 10, 0, 100, 0)  # guests' ticks are users' ticks too
    later = (130, 0, 60, 830, 30, 0, 20, 10, 130, 0)  # 100 more, 40 of them idle

    def write(counts):
        stat.write_text(f"cpu  {' '.join(map(str, counts))}\ncpu0 1 2 3\n")

    monkeypatch.setattr(contest.time, "sleep", lambda _: write(later))
    monkeypatch.setattr(contest.os, "cpu_count", lambda: 4)
    write(fields)
    assert contest.busy(path=str(stat)) == 2.4
    stat.write_text("none\n")
    assert contest.busy(path=str(stat)) is None
    assert contest.busy(path=str(tmp_path / "none")) is None


def test_a_worker_that_refuses_or_takes_too_long(load):
    contest = load("contest")
    with contest.Worker("minicnn", threads=1, timeout=60) as worker:
        assert worker.ask("hello")["version"] == minicnn.__version__
        with pytest.raises(contest.Refused, match="unknown variant 'none'"):
            worker.ask("network", name="lenet5", variant="none", batch=1)
        assert worker.ask("network", name="lenet5", variant="modern", batch=1)["side"] == 28  # it goes on
        worker.timeout = 0.2
        with pytest.raises(contest.Refused, match="took more than 0 s"):
            worker.ask("turn", task="training", least=30)
    with contest.Worker("minicnn", threads=1, timeout=60) as worker:
        worker.process.kill()
        with pytest.raises(contest.Refused, match="the process ended"):
            worker.ask("hello")


def test_contenders_have_all_that_the_processor_has(load, monkeypatch):
    """What holds a library back in this environment is not passed on."""
    contest = load("contest")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    with contest.Worker("minicnn", threads=1, timeout=60) as worker:
        best = worker.ask("hello")["blas"]
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    with contest.Worker("minicnn", threads=1, timeout=60) as worker:
        assert worker.ask("hello")["blas"] == best != "Prescott"


# ------------------------------------------------------------------------------------------------------- peers


def echo(peers):
    """A peer whose library is minicnn's own functions: what the list of operations alone is tested with."""

    class Echo(peers.Peer):
        def parameter(self, x):
            return Tensor(x, requires_grad=True)

        cross_entropy = update = infer = None  # not asked for here
        array = staticmethod(Tensor)
        conv2d = staticmethod(F.conv2d)
        linear = staticmethod(F.linear)
        relu = staticmethod(F.relu)
        tanh = staticmethod(F.tanh)
        max_pool2d = staticmethod(F.max_pool2d)
        avg_pool2d = staticmethod(F.avg_pool2d)
        adaptive_avg_pool2d = staticmethod(F.adaptive_avg_pool2d)
        local_response_norm = staticmethod(F.local_response_norm)
        add = staticmethod(lambda a, b: a + b)
        cat = staticmethod(lambda *xs, dim: F.cat(xs, dim))
        reshape = staticmethod(lambda x, *, shape: x.reshape(shape))

        def dropout(self, x, *_, layer):
            return x

        def batch_norm(self, x, weight, bias, *, layer, eps, training=True):
            mean, var = (s.data for s in self.statistics[id(layer)])
            return F.batch_norm(x, mean, var, weight, bias, training, layer.momentum, eps)

        def batch_norm_eval(self, *args, **params):
            return self.batch_norm(*args, **params, training=False)

    return Echo


NETWORKS = {
    "lenet5": (12, "modern"), "alexnet": (67, "paper"), "vgg11": (32, "paper"), "googlenet": (47, "paper"),
    "resnet18": (33, "torchvision"), "resnet50": (33, "paper"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_does_what_the_network_does(load, name):
    peers = load("peers")
    side, variant = NETWORKS[name]
    minicnn.manual_seed(3)
    model = getattr(models, name)(variant=variant, width=0.125, input_size=side)
    for layer in model.modules():
        if isinstance(layer, minicnn.nn.Dropout):
            layer.p = 1e-12  # it is listed, and drops nothing
    images = np.random.default_rng(4).standard_normal((2, model.in_channels, side, side), dtype=np.float32)
    peer = echo(peers)(model, images, np.array([0, 1]))
    for recipe, mode in ((peer.training, model.train), (peer.evaluation, model.eval)):
        outputs = recipe.run(peer.weights, Tensor(images))
        expected = mode()(Tensor(images))
        expected = expected if isinstance(expected, tuple) else (expected,)
        assert len(outputs) == len(expected)
        for ours, theirs in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(theirs.data, ours.data, rtol=1e-5, atol=1e-6)


def test_a_recipe_lets_values_go_and_refuses_what_a_library_lacks(load):
    peers = load("peers")
    model, images, labels = models.lenet5(input_size=12), np.zeros((1, 1, 12, 12), np.float32), np.array([0])
    peer = echo(peers)(model, images, labels)
    let_go = [i for step in peer.training.instructions for i in step.finished]
    made = len(peer.training.instructions)
    assert len(let_go) == len(set(let_go)) == made - 1  # each once, and all but the scores

    class Watching(echo(peers)):
        def conv2d(self, *args, **params):
            output = F.conv2d(*args, **params)
            references.append(weakref.ref(output))
            return output

        def linear(self, *args):  # comes after the convolutions, whose outputs nobody needs by then
            assert all(reference() is None for reference in references)
            return F.linear(*args)

    references = []
    with minicnn.no_grad():
        Watching(model, images, labels).training.run(peer.weights, Tensor(images))
    assert len(references) == 2
    lacking = type("Lacking", (echo(peers),), {"tanh": None})
    with pytest.raises(peers.Unsupported, match="it has no tanh"):
        lacking(model, images, labels)
    other = type("Other", (echo(peers),), {"tanh": staticmethod(lambda x: x.reshape(-1))})
    with pytest.raises(peers.Unsupported, match="has shape"):
        other(model, images, labels).training.run(peer.weights, Tensor(images))


@pytest.mark.parametrize(("length", "count"), [(14, 4), (3, 4), (7, 1), (6, 6), (13, 6)])
def test_bins_average_as_adaptive_pooling_does(load, length, count):
    x = np.random.default_rng(5).standard_normal((2, 3, length, length), dtype=np.float32)
    matrix = load("peers").bins(length, count)
    found = np.einsum("nchw,hi,wj->ncij", x, matrix, matrix)
    np.testing.assert_allclose(found, F.adaptive_avg_pool2d(x, count).data, rtol=1e-5, atol=1e-6)


LIBRARIES = {"PyTorch": "torch", "DeZero": "dezero", "MyGrad": "mygrad", "Chainer": "chainer"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_peer_has_minicnns_losses(load, library):
    contest = load("contest")
    if contest.installed(LIBRARIES[library]) is None:
        pytest.skip(f"{library} is not installed")
    for network in (
        {"name": "lenet5", "variant": "modern", "batch": 3},
        {"name": "resnet18", "variant": "torchvision", "batch": 4, "input_size": 64, "width": 0.25},
    ):
        losses = []
        for contender in ("minicnn", library):
            with contest.Worker(contender, threads=1) as worker:
                worker.ask("network", **network)
                losses.append([worker.ask("loss")["loss"] for _ in range(3)])
        assert all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(*losses, strict=True)), losses
