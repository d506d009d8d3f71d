"""`minicnn selfcheck` on the strict double: it passes, and each planted fault fails the check that is for it."""

import functools
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from minicnn import backend, cli, cuda, selfcheck, use_kernels
from minicnn import functional as F
from minicnn.engine import Tensor, observe
from minicnn.gradcheck import Trace
from minicnn.optim import SGD
from minicnn.selfcheck import cases, checks, networks, replay
from tests.device import double

pytestmark = pytest.mark.host  # these bring the double themselves

NAMES = ["device", *checks.CHECKS]
DIGITS = functools.cache(networks.digits)


@pytest.fixture
def pretended():
    """CuPy's strict double, while the test runs."""
    with double.installed():
        yield


@pytest.fixture
def few(pretended, monkeypatch):
    """Two networks instead of five, and fewer steps of them."""
    monkeypatch.setattr(checks, "SMALL", {name: networks.SMALL[name] for name in ("lenet5", "resnet18")})
    monkeypatch.setattr(checks, "LONG", 7)
    monkeypatch.setattr(checks, "digits", DIGITS)
    monkeypatch.setattr(checks, "_milliseconds", lambda step, *others: 0.0 * (step() is None))


def test_everything_passes(pretended):
    seen = []
    report = selfcheck.run("cuda", True, seen.append, lambda check: seen.append(check.passed))
    assert [(c.name, c.passed) for c in report.checks] == [(name, True) for name in NAMES]
    assert report.passed and seen == [x for name in NAMES for x in (name, True)]
    assert report.row() is None, "this is no GPU"
    told = report.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    facts = {check["name"]: check["facts"] for check in told["checks"]}
    assert "this is no GPU: an emulated device" in told["checks"][0]["line"]
    assert facts["device"] == {
        "name": "strict double (no GPU)", "is_gpu": False, "memory": 1 << 30, "driver": "for CUDA 12.9",
        "cuda": "12.8", "cupy": double.API["cupy"],
    }  # fmt: skip
    for dtype in ("float32", "float64"):
        assert facts["operations"][dtype]["differences"].keys() == cases.operations().keys()
        assert facts["networks"][dtype].keys() == {"tolerance", *networks.SMALL}
    assert len(facts["training"]["device"]) == len(facts["training"]["numpy"]) == 20
    assert all(0 < found["after_5"] == found["after_25"] <= found["peak"] for found in facts["memory"].values())
    assert facts["timing"].keys() == networks.SMALL.keys()


def test_the_second_device_while_the_first_is_current(few):
    report = selfcheck.run("cuda:1", True)
    assert [(c.name, c.passed) for c in report.checks] == [(name, True) for name in NAMES]
    assert report.device == "cuda:1" and double.CURRENT.id == 0


def test_every_operation_has_a_case_that_uses_it():
    assert cases.operations().keys() == cases.CASES.keys()
    for name, tried in cases.CASES.items():
        for case in tried:
            with observe(trace := Trace()):
                results = checks.computed(case, "float64", "cpu")
            assert cases.operations()[name] in {node.op for node in trace.values}, name
            assert all(np.isfinite(x).all() and np.abs(x).max() > 1e-4 for x in results), f"{name} measures nothing"


# ------------------------------------------------------------------------------------------------- planted faults


def on_the_device(change):
    """RELU with `change` made to what it gives on a device, and right on the host."""

    def forward(input):
        output, saved = F.A.relu_forward(input)
        return (output if isinstance(input, np.ndarray) else change(output)), saved

    return replace(F.RELU, forward=forward)


def a_wrong_forward(monkeypatch):
    monkeypatch.setattr(F, "RELU", on_the_device(lambda y: y * 1.001))


def a_wrong_backward(monkeypatch):
    def backward(grad_output, saved, needs):
        (grad,) = F.A.tanh_backward(grad_output, saved, needs)
        return (grad if isinstance(grad, np.ndarray) else grad * 1.0001,)

    monkeypatch.setattr(F, "TANH", replace(F.TANH, backward=backward))


def another_dtype(monkeypatch):
    monkeypatch.setattr(F, "RELU", on_the_device(lambda y: y.astype("float64")))


def an_operation_that_fails(monkeypatch):
    def fail(output):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(F, "SILU", replace(F.SILU, forward=on_the_device(fail).forward))


def an_operation_without_a_case(monkeypatch):
    monkeypatch.delitem(cases.CASES, "ELU")


def statistics_that_stand_still(monkeypatch):
    move = F._move_running_statistics

    def still(mean, *others):
        if isinstance(mean, np.ndarray):
            move(mean, *others)

    monkeypatch.setattr(F, "_move_running_statistics", still)


def momentum_that_is_lost(monkeypatch):
    """From the second step on: one step cannot show it."""
    update = SGD.update

    def forgetful(self, weights, gradient, state, **options):
        if not isinstance(weights, np.ndarray):
            state.clear()
        update(self, weights, gradient, state, **options)

    monkeypatch.setattr(SGD, "update", forgetful)


def other_bits_each_time(monkeypatch):
    """In float32 alone, and far below the tolerances."""
    factors = itertools.cycle([1.0, 1.0 + 2**-22, 1.0])

    def change(y):
        return y * next(factors) if y.dtype == np.float32 else y

    monkeypatch.setattr(F, "TANH", replace(F.TANH, forward=tanh_on_the_device(change)))


def tanh_on_the_device(change):
    def forward(input):
        output, saved = F.A.tanh_forward(input)
        return (output if isinstance(input, np.ndarray) else change(output)), saved

    return forward


def a_hidden_wait(monkeypatch):
    def change(y):
        return y if float(y.sum()) > -1 else -y

    monkeypatch.setattr(F, "RELU", on_the_device(change))


def a_copy_to_the_host(monkeypatch):
    monkeypatch.setattr(F, "RELU", on_the_device(lambda y: backend.to_device(y.get(), "cuda")))


def a_leak(monkeypatch):
    kept = []

    def change(y):
        kept.append(y)
        return y

    monkeypatch.setattr(F, "RELU", on_the_device(change))


def a_leak_in_a_circle(monkeypatch):
    """Which the garbage collector would free, some time."""

    def change(y):
        circle = [y]
        circle.append(circle)
        return y

    monkeypatch.setattr(F, "RELU", on_the_device(change))


def a_file_that_loses_a_bit(monkeypatch):
    load = checks.weights.load

    def lossy(model, file):
        load(model, file)
        next(model.parameters()).data *= 1 + 2**-20

    monkeypatch.setattr(checks.weights, "load", lossy)


FAULTS = {
    a_wrong_forward: ({"operations", "networks"}, "RELU in float32 differs by 0.001"),
    a_wrong_backward: ({"operations", "networks"}, "TANH in float64 differs by 0.0001"),
    another_dtype: ({"operations", "networks"}, "RELU in float32 differs by inf"),
    an_operation_that_fails: ({"operations"}, "SILU in float32: NotImplementedError: no such kernel"),
    an_operation_without_a_case: ({"operations"}, "ELU has no case"),
    statistics_that_stand_still: ({"networks"}, "resnet18 in float32: bn1.running_"),
    momentum_that_is_lost: ({"training"}, "largest difference"),
    other_bits_each_time: ({"repeatability"}, "OTHER BITS in TANH, lenet5"),
    a_hidden_wait: ({"no waiting"}, "IT WAITS: resnet18: DeviceSynchronized"),
    a_copy_to_the_host: ({"no waiting"}, "IT WAITS: resnet18: DeviceSynchronized"),
    a_leak: ({"memory"}, "GROWS: resnet18 from "),
    a_leak_in_a_circle: ({"memory"}, "GROWS: resnet18 from "),
    a_file_that_loses_a_bit: ({"files"}, "OTHER BITS: conv1.weight, saved on cuda:0 as npz"),
}


BREAKING = {another_dtype, an_operation_that_fails}  # what comes after cannot be done either
QUICK = {a_wrong_backward, a_hidden_wait, a_leak}  # each fault runs all checks, so the others are long


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[pytest.mark.long] * (f not in QUICK)) for f in FAULTS])
def test_a_planted_fault_fails_its_check(few, monkeypatch, capsys, fault):
    fault(monkeypatch)
    expected, words = FAULTS[fault]
    assert cli.main(["selfcheck", "--json", "--quick"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in report["checks"]] == NAMES, "every check is made"
    failed = {check["name"] for check in report["checks"] if not check["passed"]}
    if fault not in BREAKING:
        failed -= {"training"} if "operations" in expected else set()  # whose twenty steps may show it, too
        assert failed == expected
    assert failed >= expected and not report["passed"] and "timing" not in failed
    assert any(words in check["line"] for check in report["checks"] if not check["passed"])


def test_a_check_that_breaks_off_fails_and_the_next_is_made(few, monkeypatch):
    def broken(place):
        raise ZeroDivisionError("never mind")

    monkeypatch.setattr(selfcheck, "CHECKS", {"first": broken, "files": checks.files_cross})
    report = selfcheck.run()
    assert [(c.name, c.passed) for c in report.checks] == [("device", True), ("first", False), ("files", True)]
    assert report.checks[1].line.startswith("broke off: ZeroDivisionError: never mind")


# --------------------------------------------------------------------------------------------------- its words


@pytest.fixture
def two_checks(few, monkeypatch):
    """A quick selfcheck: files, and a check that says yes or no."""
    answer = checks.Outcome(True, "first line\nsecond line", {"x": float("inf")})
    monkeypatch.setattr(selfcheck, "CHECKS", {"asked": lambda place: answer, "files": checks.files_cross})


def test_the_command_prints_a_line_for_each_check(two_checks, capsys):
    assert cli.main(["selfcheck"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0].startswith("ok      device         cuda:0: strict double (no GPU), ")
    assert lines[1:3] == ["ok      asked          first line", 23 * " " + "second line"]
    assert lines[3].startswith("ok      files          saved here, loaded there, npz")
    assert lines[4:] == ["passed: 3 checks"], "and no row for the README: it is no GPU"


def test_the_command_prints_one_json_document(two_checks, capsys):
    assert cli.main(["selfcheck", "--json", "--device", "cuda:0"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == "" and report["schema"] == 1 and report["device"]["device"] == "cuda:0"
    assert report["checks"][1]["facts"] == {"x": "inf"}


def test_a_gpu_gets_a_row_for_the_readme(two_checks, monkeypatch, capsys):
    found = {"name": b"NVIDIA H100 80GB HBM3", "totalGlobalMem": 80 << 30}
    monkeypatch.setattr(double, "device_properties", lambda index: found)
    monkeypatch.setattr(cuda, "_linux_driver", lambda: "550.54.15")
    with double.installed():
        assert cli.main(["selfcheck", "--quick"]) == 0
    *_, words, row = capsys.readouterr().out.splitlines()
    assert words == "for the table in README.md, 'last verified on':"
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["NVIDIA H100 80GB HBM3", "550.54.15", "12.8", double.API["cupy"]]
    assert cells[4] == np.__version__ and cells[6] == "passed, 3 of 3 checks, quick"


@pytest.mark.parametrize(
    ("name", "is_gpu"),
    [
        ("NVIDIA GeForce RTX 4090", True), ("Tesla T4", True), ("NVIDIA H100 80GB HBM3", True), ("Quadro P4000", True),
        ("Orin", True), ("cupysim CPU (no GPU)", False), ("NVIDIA emulated (no GPU)", False),
        ("strict double (no GPU)", False), ("AMD Instinct MI300X", False), ("my NVIDIA", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_taken_for_a_gpu(monkeypatch, name, is_gpu):
    monkeypatch.setattr(double, "device_properties", lambda index: {"name": name.encode(), "totalGlobalMem": 1})
    with double.installed():
        found = cuda.properties("cuda")
    assert found.is_gpu == is_gpu
    told = selfcheck.introduction("cuda", found).rpartition("; ")[2]
    emulated = "this is no GPU: an emulated device"
    unknown = "its name is none of a GPU's that is known here, so it is not taken for one"
    assert told == ("a real GPU" if is_gpu else emulated if "no GPU" in name else unknown)


def test_the_drivers_version(tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert cuda._linux_driver(str(file)) == "550.54.15"
    file.write_text("something else")
    assert cuda._linux_driver(str(file)) is None
    assert cuda._linux_driver(str(tmp_path / "none")) is None


# ------------------------------------------------------------------------------------------------ no usable device


def test_no_usable_device(monkeypatch, capsys):
    monkeypatch.setattr(backend, "cuda_problem", lambda: "CUDARuntimeError: cudaErrorInsufficientDriver")
    monkeypatch.setattr(cli.doctor, "_driver", lambda: "12.4")
    monkeypatch.setattr(cli.doctor, "_version", lambda name: None)
    for more in ([], ["--json"]):
        assert cli.main(["selfcheck", *more]) == 2
        out, err = capsys.readouterr()
        if more:
            report = json.loads(out)
            assert report["schema"] == 1 and report["passed"] is False and report["checks"] == []
            assert report["device"] == {"device": "cuda:0"} and report["error"] in err
        assert bool(out) == bool(more) and err.count("\n") == 1
        assert "cuda:0 does not work here: CUDARuntimeError: cudaErrorInsufficientDriver" in err
        assert "Add with: pip install -e '.[cuda12]'" in err


def test_a_device_that_is_not_there(pretended, capsys):
    assert cli.main(["selfcheck", "--device", "cuda:7"]) == 2
    assert "cuda:7 is not there: devices are counted from 0, and there are 2" in capsys.readouterr().err


def test_the_cpu_is_what_a_device_is_compared_with(capsys):
    assert cli.main(["selfcheck", "--device", "cpu"]) == 2
    assert "must be cuda or cuda:N, got 'cpu': NumPy on the CPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'cpu' is the CPU: give 'cuda' or 'cuda:N'"):
        selfcheck.run("cpu")


# ---------------------------------------------------------------------------------------------------- its tools


def test_differences():
    a = np.array([1.0, -4.0])
    assert checks.difference(a, a) == 0
    assert checks.difference(np.array([1.0, -4.0 + 4e-6]), a) == pytest.approx(1e-6)
    assert checks.difference(np.zeros(2), np.zeros(2)) == 0
    assert checks.difference(np.array([0.0, 1e-3]), np.zeros(2)) == 1e-3
    for other in (a.astype(np.float32), a[:1], np.array([1.0, np.nan]), np.array([np.inf, -4.0])):
        assert checks.difference(other, a) == float("inf")


def test_waiting_is_refused_inside_and_allowed_after(pretended):
    x = Tensor([1.0, 2.0]).to("cuda")
    with pytest.raises(double.DeviceSynchronized), cuda.synchronization_refused():
        F.getitem(x, 0).to("cpu")
    assert F.getitem(x, 0).to("cpu").item() == 1


@pytest.mark.parametrize("name", networks.SMALL)
def test_pytorch_takes_the_same_step(name):
    torch = pytest.importorskip("torch", reason="an optional check: it needs torch")
    training = networks.Training(name, networks.SMALL[name], "cpu")
    step = replay.training_step(training)  # draws the dropout masks of this step
    backend.manual_seed(0)
    again = networks.Training(name, networks.SMALL[name], "cpu")
    with use_kernels("im2col"):
        expected = again.step().item()
    loss = step()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert isinstance(loss, torch.Tensor)


def test_a_pytorch_that_does_not_work_is_passed_over(few, monkeypatch):
    def broken(training):
        raise OSError("libtorch.so is missing")

    monkeypatch.setattr(checks, "find_spec", lambda name: True)
    monkeypatch.setattr(replay, "training_step", broken)
    outcome = checks.timing(checks.Place("cuda:0", False, True))
    assert outcome.passed and "torch_cpu OSError: libtorch.so is missing" in outcome.line
    assert outcome.facts["lenet5"]["torch_cpu_error"].startswith("OSError: libtorch.so is missing")
