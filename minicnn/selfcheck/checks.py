"""The checks: each takes a `Place` and returns whether it passed, a line with its numbers, and all of them as facts."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import backend, cuda, weights
from ..engine import Tensor, use_kernels
from . import replay
from .cases import CASES, Case, arrays, operations
from .networks import LARGE, SMALL, Training, check_places, digits

DTYPES = ("float32", "float64")

# What a result may differ from NumPy's, relative to the largest value of its array. A few roundings in an operation.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
# In a network ten times as much: roundings go through twenty layers and back, and batch norm divides by the spread of
# few values, which enlarges them.
NETWORK_TOLERANCE = {"float32": 2e-4, "float64": 1e-11}
# Of a loss along 20 steps, each of which starts from the last one's roundings.
CURVE_TOLERANCE = 1e-3
CURVE_STEPS, CURVE_BATCH = 20, 32
WARM, LONG = 5, 25  # steps after which memory is compared


class Place(NamedTuple):
    """Where to check, and how thoroughly."""

    device: str  # "cuda:0"
    is_gpu: bool
    quick: bool


class Outcome(NamedTuple):
    """Of a check."""

    passed: bool
    line: str
    facts: dict[str, Any]


def difference(ours: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; infinite for another shape, dtype or NaN."""
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return float("inf")
    with np.errstate(all="ignore"):
        scale = float(np.max(np.abs(expected.astype(np.float64)), initial=0)) or 1.0
        worst = float(np.max(np.abs(ours.astype(np.float64) - expected), initial=0)) / scale
    return worst if worst < float("inf") else float("inf")


def _some(names: Iterable[str], count: int = 5) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


# ----------------------------------------------------------------------------------------------------- operations


def computed(case: Case, dtype: str, device: str) -> list[np.ndarray]:
    """The result of a case on `device`, and the gradient of each input for a random cotangent."""
    function, given = arrays(case, dtype)
    backend.manual_seed(0)
    with backend.device(device), use_kernels("im2col"):
        inputs = [Tensor(x, requires_grad=True) for x in given]
        output = function(*inputs)
        cotangent = np.asarray(np.random.default_rng(1).standard_normal(output.shape)).astype(output.dtype)
        output.backward(backend.to_device(cotangent, output.device))
    check_places({f"the gradient of input {i}": t.grad for i, t in enumerate(inputs)}, device)
    return [backend.to_host(x) for x in (output.data, *(t.grad for t in inputs))]


def operations_agree(place: Place) -> Outcome:
    """Every operation, forward and backward, against NumPy with the same arrays."""
    names = operations()
    wrong = [f"{name} has no case" for name in names if name not in CASES]
    facts: dict[str, Any] = {}
    said = []
    for dtype in DTYPES:
        errors: dict[str, float] = {}
        for name in (name for name in names if name in CASES):
            try:
                pairs = [
                    (ours, expected)
                    for case in CASES[name]
                    for ours, expected in zip(
                        computed(case, dtype, place.device), computed(case, dtype, "cpu"), strict=True
                    )
                ]
            except Exception as error:  # an operation that fails is one that differs
                errors[name] = float("inf")
                wrong.append(f"{name} in {dtype}: {describe(error)}")
                continue
            errors[name] = max(difference(*pair) for pair in pairs)
            if errors[name] > TOLERANCE[dtype]:
                wrong.append(f"{name} in {dtype} differs by {errors[name]:.2g}")
        worst = max(errors, key=errors.__getitem__)
        facts[dtype] = {"tolerance": TOLERANCE[dtype], "worst": worst, "differences": errors}
        said.append(f"{dtype} worst {errors[worst]:.2g} ({worst}; allowed {TOLERANCE[dtype]:g})")
    facts["wrong"] = wrong
    line = f"{len(names)} operations, forward and backward: {', '.join(said)}"
    return Outcome(not wrong, line + (f". WRONG: {_some(wrong)}" if wrong else ""), facts)


# ------------------------------------------------------------------------------------------------------- networks


def networks_agree(place: Place) -> Outcome:
    """One training step of each network: loss, every gradient, every parameter and running statistic after it."""
    facts: dict[str, Any] = {}
    wrong, said = [], []
    for dtype in DTYPES:
        allowed, top = NETWORK_TOLERANCE[dtype], (-1.0, "")
        facts[dtype] = {"tolerance": allowed}
        for name, size in SMALL.items():
            try:
                with use_kernels("im2col"):
                    expected = Training(name, size, "cpu", dtype).outcome()
                ours = Training(name, size, place.device, dtype).outcome()
            except Exception as error:
                facts[dtype][name] = {"error": describe(error)}
                wrong.append(f"{name} in {dtype}: {describe(error)}")
                continue
            differences = {key: difference(ours[key], expected[key]) for key in expected}
            worst = max(differences, key=differences.__getitem__)
            facts[dtype][name] = {
                "loss": float(ours["loss"]), "numpy_loss": float(expected["loss"]), "arrays": len(expected),
                "worst": worst, "difference": differences[worst],
            }  # fmt: skip
            top = max(top, (differences[worst], f"{name}, {worst}"))
            if differences[worst] > allowed:
                wrong.append(f"{name} in {dtype}: {worst} differs by {differences[worst]:.2g}")
        said.append(f"{dtype} worst {top[0]:.2g} ({top[1]}; allowed {allowed:g})")
    facts["wrong"] = wrong
    line = f"a step of {', '.join(SMALL)}: {', '.join(said)}"
    return Outcome(not wrong, line + (f". WRONG: {_some(wrong)}" if wrong else ""), facts)


def curve_agrees(place: Place) -> Outcome:
    """The losses of 20 steps of LeNet-5 on the digits, against NumPy's."""
    images, labels = digits(CURVE_STEPS * CURVE_BATCH)

    def losses(device: str) -> list[float]:
        training = Training("lenet5", SMALL["lenet5"], device)
        found = []
        for start in range(0, len(images), CURVE_BATCH):
            training.images = images[start : start + CURVE_BATCH]
            training.labels = labels[start : start + CURVE_BATCH]
            found.append(float(training.step().item()))
        return found

    ours, expected = losses(place.device), losses("cpu")
    worst = max(difference(np.asarray(a), np.asarray(b)) for a, b in zip(ours, expected, strict=True))
    line = (
        f"{CURVE_STEPS} steps of lenet5 on the digits: loss {ours[0]:.4f} → {ours[-1]:.4f}, NumPy's "
        f"{expected[-1]:.4f}; largest difference {worst:.2g} (allowed {CURVE_TOLERANCE:g})"
    )
    facts = {"tolerance": CURVE_TOLERANCE, "difference": worst, "device": ours, "numpy": expected}
    return Outcome(worst <= CURVE_TOLERANCE and expected[-1] < expected[0], line, facts)


# -------------------------------------------------------------------------------------- how a device behaves


def repeats(place: Place) -> Outcome:
    """The same seed twice on the device: the same bits."""

    def bits(name: str) -> list[bytes]:
        if name in SMALL:
            results = list(Training(name, SMALL[name], place.device).outcome().values())
        else:
            results = [x for case in CASES[name] for x in computed(case, "float32", place.device)]
        return [backend.to_host(x).tobytes() for x in results]

    names = [*(name for name in operations() if name in CASES), *SMALL]
    different, wrong = [], []
    for name in names:
        try:
            if bits(name) != bits(name):
                different.append(name)
        except Exception as error:
            wrong.append(f"{name}: {describe(error)}")
    line = f"the same seed twice, {len(names) - len(SMALL)} operations and {len(SMALL)} networks: "
    line += f"OTHER BITS in {_some(different)}" if different else "the same bits"
    line += f". WRONG: {_some(wrong)}" if wrong else ""
    return Outcome(not different and not wrong, line, {"different": different, "wrong": wrong})


def nothing_waits(place: Place) -> Outcome:
    """Forward, loss, backward and optimiser's step of each network, with synchronisation refused."""
    losses, wrong = {}, []
    for name, size in SMALL.items():
        training = Training(name, size, place.device)
        training.step()  # kernels are compiled, the optimiser's state is made
        try:
            with cuda.synchronization_refused():
                loss = training.step()
        except Exception as error:
            wrong.append(f"{name}: {describe(error)}")
            continue
        losses[name] = float(loss.item())
    line = f"forward, backward and SGD with synchronisation refused: {len(losses)} of {len(SMALL)} networks"
    line += f". IT WAITS: {_some(wrong)}" if wrong else ", losses " + ", ".join(f"{v:.4f}" for v in losses.values())
    return Outcome(not wrong, line, {"losses": losses, "wrong": wrong})


def memory_stays(place: Place) -> Outcome:
    """What arrays use after 5 steps and after 25 is equal; and what a step needs at its peak."""
    facts: dict[str, Any] = {}
    wrong = []
    for name, size in SMALL.items():
        training = Training(name, size, place.device)
        gc.collect()
        gc.disable()  # what only the collector would free is a leak here: a device fills sooner than it comes
        try:
            for _ in range(WARM):
                training.step()
            cuda.release_memory(place.device)
            early = cuda.used_memory(place.device)
            training.step()
            peak = cuda.held_memory(place.device)
            for _ in range(LONG - WARM - 1):
                training.step()
            late = cuda.used_memory(place.device)
        finally:
            gc.enable()
        facts[name] = {f"after_{WARM}": early, f"after_{LONG}": late, "peak": peak}
        if early != late:
            wrong.append(f"{name} from {early:,} to {late:,} bytes")
        if not early:
            wrong.append(f"{name}: CuPy's memory pool counts nothing, is it in use?")
    peaks = ", ".join(f"{name} {found['peak'] / 1e6:.1f}" for name, found in facts.items())
    line = f"used after {WARM} and {LONG} steps: " + (f"GROWS: {_some(wrong)}" if wrong else "equal")
    return Outcome(not wrong, f"{line}; peak of a step, MB: {peaks}", facts)


def files_cross(place: Place) -> Outcome:
    """Weights saved on the device load on the host, and the other way round, with the same bits."""
    formats = ["npz"] + ["safetensors"] * (find_spec("safetensors") is not None)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for format in formats:
            for saver, loader in ((place.device, "cpu"), ("cpu", place.device)):
                saved, loaded = (Training("resnet18", SMALL["resnet18"], device) for device in (saver, loader))
                saved.step()  # so that they differ
                file = Path(folder, f"weights-{backend.device(saver).type}.{format}")
                weights.save(saved.model, file)
                weights.load(loaded.model, file)
                theirs = loaded.model.state_dict()
                wrong += [
                    f"{name}, saved on {saver} as {format}"
                    for name, value in saved.model.state_dict().items()
                    if backend.to_host(value).tobytes() != backend.to_host(theirs[name]).tobytes()
                ]
    line = f"saved here, loaded there, {' and '.join(formats)}: "
    return Outcome(not wrong, line + (f"OTHER BITS: {_some(wrong)}" if wrong else "the same bits"), {"wrong": wrong})


# --------------------------------------------------------------------------------------------------------- timing


def timing(place: Place) -> Outcome:
    """Milliseconds a training step, beside NumPy's and PyTorch's on this processor. It never fails."""
    sizes = LARGE if place.is_gpu and not place.quick else SMALL
    rounds = 3 if place.quick else 5
    facts: dict[str, Any] = {}
    for name, size in sizes.items():
        there, here = Training(name, size, place.device), Training(name, size, "cpu")
        contenders: dict[str, Callable[[], float]] = {
            "device": partial(_milliseconds, there.step, rounds, partial(cuda.synchronize, place.device)),
            "numpy": partial(_milliseconds, here.step, rounds),
        }
        if find_spec("torch") is not None:
            contenders["torch_cpu"] = partial(_torch_milliseconds, here, rounds)
        facts[name] = {"size": str(size)}
        for contender, run in contenders.items():
            try:
                facts[name][f"{contender}_ms"] = run()
            except Exception as error:  # the other checks are there to fail
                facts[name][f"{contender}_error"] = describe(error)
    words = {"device_ms": "on the device", "numpy_ms": "NumPy", "torch_cpu_ms": "PyTorch on the CPU"}
    lines = ["median milliseconds of a training step; they inform, and never fail"]
    for name, found in facts.items():
        times = [f"{words[key]} {value:.3g}" for key, value in found.items() if key in words]
        times += [f"{key.removesuffix('_error')} {value}" for key, value in found.items() if key.endswith("_error")]
        lines.append(f"{name:10}{', '.join(times)} ({found['size']})")
    return Outcome(True, "\n".join(lines), facts)


def _milliseconds(step: Callable[[], object], rounds: int, wait: Callable[[], None] = lambda: None) -> float:
    step()
    step()
    taken = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        step()
        wait()
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def _torch_milliseconds(training: Training, rounds: int) -> float:
    return _milliseconds(replay.training_step(training), rounds)


# ------------------------------------------------------------------------------------------------- what went wrong

PACKAGE = Path(__file__).parents[1]
PLUMBING = {"backend.py", "cuda.py", "engine.py"}


def describe(error: BaseException) -> str:
    """The kind of an error, its first line, and where in minicnn it came from, beneath the engine and this check."""
    place = ""
    step = error.__traceback__
    while step is not None:
        file = Path(step.tb_frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE) and file.parent != Path(__file__).parent and file.name not in PLUMBING:
            place = f", in {file.relative_to(PACKAGE)} line {step.tb_lineno}"
        step = step.tb_next
    first = str(error).partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}{place}"


CHECKS: dict[str, Callable[[Place], Outcome]] = {
    "operations": operations_agree,
    "networks": networks_agree,
    "training": curve_agrees,
    "repeatability": repeats,
    "no waiting": nothing_waits,
    "memory": memory_stays,
    "files": files_cross,
    "timing": timing,
}
