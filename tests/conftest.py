"""What all tests share: random numbers from a fixed seed, and a check that no test leaves the process changed."""

import itertools
import os
import re

# The tests run in several processes already: a BLAS with threads of its own in each of them only slows them down.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(variable, "1")

from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from minicnn import backend, cuda, engine, threads
from minicnn.data import ArrayDataset

# Without deadlines, because a busy machine is not a bug; in CI with the same examples every time.
settings.register_profile(
    "minicnn",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("minicnn")

TESTS = Path(__file__).parent
CONTEXT = {name: variable for name, variable in vars(engine).items() if isinstance(variable, ContextVar)}


# ---------------------------------------------------------------------------------------------------- devices

# The tests that also run on a device: `--device double` is tests/device/double.py in CuPy's place, `--device cuda` is
# CuPy itself. A test that is about the host (threads, files, memory that is shared with an array of NumPy's, ...) is
# marked `host`.
#
# The double has two devices, and they run on its second, while the first is current, as in a program that has never
# heard of current devices: what computes there instead is caught. `--device cuda:1` does the same with CuPy.
ON_DEVICES = (
    "device", "inspect", "kernels", "lab", "models", "test_clip.py", "test_engine.py", "test_functional.py",
    "test_gradcheck.py", "test_gradcheck_tester.py", "test_init.py", "test_lr_scheduler.py", "test_metrics.py",
    "test_module.py", "test_op_gradients.py", "test_optim.py", "test_train.py", "test_weights.py",
)  # fmt: skip


def pytest_addoption(parser):
    group = parser.getgroup("minicnn")
    places = ("cpu", "double", "cuda", "cuda:1")
    group.addoption("--device", choices=places, help="where tensors are made; -m gpu means cuda")
    group.addoption("--at-least", type=int, default=0, help="fail if fewer tests pass")


def pytest_configure(config):
    option = config.option
    option.device = option.device or ("cuda" if means_gpu(option.markexpr) else "cpu")
    if not hasattr(option, "place"):  # a process of xdist's is given it
        option.place = {"double": "cuda:1", "cuda": "cuda:0"}.get(option.device, option.device)
    option.device = option.device.partition(":")[0]
    problem = backend.cuda_problem() if option.device == "cuda" else None
    if not problem and option.place == "cuda:1" and option.device == "cuda" and backend.device_count() < 2:
        problem = "there is no second device"
    if problem and os.environ.get("MINICNN_REQUIRE_GPU"):
        raise pytest.UsageError(f"MINICNN_REQUIRE_GPU is set, and no CUDA device works: {problem}")
    if option.device != "cpu":
        from tests.device import places

        places.install(option.device)
    config.stash[PROBLEM] = problem
    if option.device == "cuda" and not problem:  # a test may compute where it likes: minicnn may not
        config.addinivalue_line("filterwarnings", r"ignore:The device where the array resides::(.*\.)?(test_|helpers)")


PROBLEM = pytest.StashKey[str | None]()  # why no CUDA device works


# What MINICNN_REQUIRE_GPU lets be skipped: the machine lacks it, or it is no GPU's matter.
MAY_BE_SKIPPED = (
    "needs two CUDA devices", "a device has no longer floats", "on a GPU it is up to chance",
    "could not import 'torch'", "an optional check: it needs torch",
)  # fmt: skip


def _refuse_to_skip(config, report):
    """Where MINICNN_REQUIRE_GPU is set, a test that is skipped has failed."""
    if not report.skipped or hasattr(report, "wasxfail") or config.option.device != "cuda":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if os.environ.get("MINICNN_REQUIRE_GPU") and not any(text in reason for text in MAY_BE_SKIPPED):
        report.outcome, report.longrepr = "failed", f"MINICNN_REQUIRE_GPU is set, and this is skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    _refuse_to_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _refuse_to_skip(collector.config, report)
    return report


def means_gpu(expression: str) -> bool:
    """Whether `-m expression` selects nothing but tests that are marked gpu."""
    names = sorted(set(re.findall(r"\w+", expression)) - {"and", "or", "not", "gpu"})
    marks = (dict(zip(names, values, strict=True)) for values in itertools.product([True, False], repeat=len(names)))
    try:
        return bool(expression) and not any(eval(expression, {"gpu": False}, given) for given in marks)
    except (SyntaxError, TypeError):  # a mark with arguments, or something that pytest will refuse
        return False


def exercised(config) -> str:
    """What the tests run on, and whether that is a GPU."""
    place = config.option.place
    if config.stash[PROBLEM]:
        return f"device: none, every test is skipped: no CUDA device works: {config.stash[PROBLEM]}"
    if place == "cpu":
        return "device: cpu; no GPU was exercised"
    found = cuda.properties(place)
    kind = "a GPU" if found.is_gpu else "NO GPU"
    heavy = ", heavy" * ("not heavy" in config.option.markexpr)
    left_out = f"what is marked host{heavy}, long or page"
    return f"device: {place}, {found.name}: {kind}, CuPy {found.cupy}. Not run on it: {left_out}"


def pytest_report_header(config):
    return exercised(config)


def pytest_ignore_collect(collection_path, config):
    """On a device only what can run there."""
    if config.option.device == "cpu" or TESTS not in collection_path.parents:
        return None
    return None if collection_path.relative_to(TESTS).parts[0] in ON_DEVICES else True


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(config, items):
    problem = config.stash[PROBLEM]
    for item in items if config.option.device == "cuda" else ():
        item.add_marker(pytest.mark.gpu)
        if problem:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA device works: {problem}"))
    if config.option.device != "cpu":
        left_out = [item for item in items if any(map(item.get_closest_marker, ("host", "long", "page")))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter, config):
    passed = len(terminalreporter.stats.get("passed", []))
    terminalreporter.write_line(f"{exercised(config)}; {passed} tests passed")  # -q has no header


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    least = session.config.getoption("at_least")
    if reporter is not None and not exitstatus and len(reporter.stats.get("passed", [])) < least:
        reporter.write_line(f"fewer than {least} tests passed", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def place(request):
    """Tensors of a test are made on the device that the tests run on."""
    if request.config.option.place == "cpu" or request.config.stash[PROBLEM]:
        yield
    else:
        with backend.device(request.config.option.place):
            yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator for the test's own data, the same numbers in every run."""
    return np.random.default_rng(20_240_229)


@pytest.fixture
def dots(rng):
    """50 images of 4×4, so that batches of 8 leave 2 over; their class, of three, is where the bright pixel is."""
    labels = rng.integers(0, 3, 50)
    images = rng.normal(0, 0.1, (50, 4, 4)).astype(np.float32)
    images[np.arange(50), 0, labels] += 1
    return ArrayDataset(images, labels)


def process_state() -> dict[str, Any]:
    """What a test must leave as it found it."""
    return {
        **{f"engine.{name}": variable.get() for name, variable in CONTEXT.items()},
        "where new tensors go": backend._new_tensors_go_to.get(),
        "the number of threads": threads._requested,
        "the workspace on a device": backend.max_workspace_size(),
        "np.geterr()": np.geterr(),
        "np.getbufsize()": np.getbufsize(),
        "np.get_printoptions()": np.get_printoptions(),
        "the working directory": os.getcwd(),
        "the environment": {name: value for name, value in os.environ.items() if name.startswith("MINICNN_")},
    }


def restore(state: dict[str, Any]) -> None:
    """Put back what would make the tests that follow fail too."""
    for name, variable in CONTEXT.items():
        variable.set(state[f"engine.{name}"])
    backend._new_tensors_go_to.set(state["where new tensors go"])
    threads._requested = state["the number of threads"]
    backend.set_max_workspace_size(state["the workspace on a device"])
    np.seterr(**state["np.geterr()"])
    np.setbufsize(state["np.getbufsize()"])
    np.set_printoptions(**state["np.get_printoptions()"])
    os.chdir(state["the working directory"])


@pytest.fixture(autouse=True)
def no_leaks():
    """Start each test from the same random numbers, and fail it if it leaves global state changed."""
    backend.manual_seed(0)
    before = process_state()
    yield
    after = process_state()
    changed = [f"{name}: {value!r} -> {after[name]!r}" for name, value in before.items() if after[name] != value]
    if changed:
        restore(before)
        pytest.fail("this test left global state changed:\n" + "\n".join(changed), pytrace=False)
