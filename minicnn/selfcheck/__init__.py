"""`minicnn selfcheck`: whether this CUDA device computes what NumPy does, for its owner to run.

`run` makes all checks (`checks.CHECKS`), whatever the first of them finds, and returns a `Report`. What
`Report.to_dict` gives, and the command prints with ``--json``::

    {"schema": 1,
     "minicnn": "0.1.0", "numpy": "2.4.6", "date": "2025-01-31", "quick": false,
     "device": {"device": "cuda:0", "name": …, "is_gpu": …, "memory": bytes, "driver": …, "cuda": …, "cupy": …},
     "passed": whether every check did,
     "checks": [{"name": …, "passed": …, "line": the words that are printed, "seconds": …, "facts": {…}}, …]}

Where there is no usable device: ``{"schema": 1, "minicnn", "numpy", "date", "device": {"device": "cuda:0"}, "passed":
false, "checks": [], "error": why}``, and the command's exit status is 2.

``facts`` are the numbers behind the words; those of a check that broke off have its ``"error"`` alone::

    operations     {dtype: {"tolerance", "worst": name, "differences": {name: …}}, "wrong": [texts]}
    networks       {dtype: {"tolerance", network: {"loss", "numpy_loss", "arrays", "worst", "difference"}}, "wrong"}
    training       {"tolerance", "difference", "device": [20 losses], "numpy": [20 losses]}
    repeatability  {"different": [names], "wrong"}
    no waiting     {"losses": {network: …}, "wrong"}
    memory         {network: {"after_5", "after_25", "peak"}}, in bytes
    files          {"wrong"}
    timing         {network: {"size", "device_ms", "numpy_ms", "torch_cpu_ms" where PyTorch is}}, or "…_error" of one

Differences are relative to the largest magnitude of the array; an infinite one (another shape, NaN) is the text
``"inf"``, for JSON has none.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any

from .. import backend, cuda
from .checks import CHECKS, Outcome, Place, describe

__all__ = ["Check", "NoDevice", "Report", "no_device", "run"]


class NoDevice(RuntimeError):
    """There is no usable device of that name; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check that was made."""

    name: str
    passed: bool
    line: str  # with its numbers; further lines where there are several
    seconds: float
    facts: dict[str, Any]

    def __str__(self) -> str:
        first, *more = self.line.split("\n")
        return "\n".join([f"{'ok' if self.passed else 'FAILED':8}{self.name:15}{first}", *(23 * " " + m for m in more)])


@dataclass(frozen=True)
class Report:
    """What `run` found."""

    device: str
    properties: cuda.Properties
    quick: bool
    date: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values that JSON has; the schema is above."""
        return _plain({
            **_versions(self.date),
            "quick": self.quick,
            "device": {"device": self.device, **self.properties._asdict()},
            "passed": self.passed,
            "checks": [vars(check) for check in self.checks],
        })

    def row(self) -> str | None:
        """The row for README's table "last verified on"; None for what is no GPU."""
        if not self.properties.is_gpu:
            return None
        p, good = self.properties, sum(check.passed for check in self.checks)
        result = f"{'passed' if self.passed else 'FAILED'}, {good} of {len(self.checks)} checks"
        cells = (p.name, p.driver, p.cuda, p.cupy, version("numpy"), self.date, result + ", quick" * self.quick)
        return f"| {' | '.join(cells)} |"


def no_device(device: str, reason: str) -> dict[str, Any]:
    """What stands in for `Report.to_dict` where there is no usable device."""
    place = {"device": str(backend.device(device))}
    return {**_versions(_today()), "device": place, "passed": False, "checks": [], "error": reason}


def _versions(date: str) -> dict[str, Any]:
    return {"schema": 1, "minicnn": sys.modules["minicnn"].__version__, "numpy": version("numpy"), "date": date}


def _today() -> str:
    return date.today().isoformat()


def introduction(device: str, properties: cuda.Properties) -> str:
    """The device in a line, and whether it is a GPU."""
    p = properties
    emulated = "this is no GPU: an emulated device"
    unknown = "its name is none of a GPU's that is known here, so it is not taken for one"
    kind = "a real GPU" if p.is_gpu else emulated if "no GPU" in p.name else unknown
    return (
        f"{device}: {p.name}, {p.memory / 2**30:.1f} GiB, driver {p.driver}, CUDA {p.cuda}, CuPy {p.cupy}, NumPy "
        f"{version('numpy')}; {kind}"
    )


def run(
    device: str = "cuda",
    quick: bool = False,
    on_begin: Callable[[str], None] | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> Report:
    """Check a CUDA device against NumPy. It starts minicnn's random numbers afresh.

    Args:
        device: ``"cuda"`` or ``"cuda:N"``.
        quick: time small networks only, and fewer steps of each.
        on_begin: called with the name of each check before it is made.
        on_check: called with each check after it was made.

    Raises:
        ValueError: `device` is no CUDA device: the CPU is what the checks compare with.
        NoDevice: it does not work here.
    """
    place = backend.device(device)
    if place.type != "cuda":
        raise ValueError(
            f"a selfcheck compares a CUDA device with NumPy on the CPU, and {str(place)!r} is the CPU: give 'cuda' or "
            "'cuda:N'. The tests check the CPU"
        )
    if problem := backend.cuda_problem():
        raise NoDevice(f"{place} does not work here: {problem}")
    if place.index not in range(cuda.device_count()):
        raise NoDevice(f"{place} is not there: devices are counted from 0, and there are {cuda.device_count()}")
    properties = cuda.properties(place)
    checks = []
    where = Place(str(place), properties.is_gpu, quick)
    known = Outcome(True, introduction(place, properties), properties._asdict())
    for name, check in {"device": lambda _: known, **CHECKS}.items():
        if on_begin is not None:
            on_begin(name)
        began = time.perf_counter()
        try:
            outcome = check(where)
        except Exception as error:  # the next check is made all the same
            outcome = Outcome(False, f"broke off: {describe(error)}", {"error": describe(error)})
        checks.append(Check(name, *outcome[:2], time.perf_counter() - began, outcome.facts))
        if on_check is not None:
            on_check(checks[-1])
    return Report(str(place), properties, quick, _today(), tuple(checks))


def _plain(value: Any) -> Any:
    """`value` with what JSON lacks as text."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
