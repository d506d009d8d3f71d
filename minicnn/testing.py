"""Helpers for tests of your own layers, in pytest or anywhere else.

::

    def test_my_layer(rng):
        assert_gradients(MyLayer(3), rng.standard_normal((2, 3, 8, 8)))
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .engine import Tensor
from .gradcheck import GradcheckError, GradcheckReport, gradcheck

__all__ = ["assert_close", "assert_gradients", "check_file", "load_from_file"]


def assert_gradients(fn_or_module: Callable[..., Any], *inputs: Any, **options: Any) -> GradcheckReport:
    """Fail, with the report of `gradcheck` for a message, unless all gradients are right.

    Args:
        fn_or_module, inputs, options: as for `minicnn.gradcheck`.

    Raises:
        GradcheckError: an AssertionError; its ``.report`` is the report.
    """
    __tracebackhide__ = True
    report = gradcheck(fn_or_module, *inputs, **options)
    if not report:
        raise GradcheckError(report)
    return report


def assert_close(actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None) -> None:
    """Fail, and name the entry that differs most, unless all of ``|actual − expected| ≤ atol + rtol·|expected|``.

    Args:
        actual, expected: tensors or arrays of one shape. A NaN is close to nothing, an infinity to itself.
        rtol, atol: by default 1e-7 and 1e-7 where both are float64 (or exact), else 1.3e-6 and 1e-5.

    Raises:
        AssertionError: shapes or values that differ.
    """
    __tracebackhide__ = True
    a, b = (_host(x) for x in (actual, expected))
    if a.shape != b.shape:
        raise AssertionError(f"assert_close: actual has shape {a.shape}, expected {b.shape}")
    coarse = any(x.dtype.kind in "fc" and np.finfo(x.dtype).eps > 1e-10 for x in (a, b))
    rtol = (1.3e-6 if coarse else 1e-7) if rtol is None else rtol
    atol = (1e-5 if coarse else 1e-7) if atol is None else atol
    wide = complex if "c" in a.dtype.kind + b.dtype.kind else float
    a, b = a.astype(wide), b.astype(wide)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0, np.abs(a - b))  # inf − inf is NaN, and equal infinities are close
        excess = np.where(np.isnan(difference), np.inf, difference - atol - rtol * np.abs(b))
    wrong = int((excess > 0).sum())
    if wrong:
        worst = tuple(int(i) for i in np.unravel_index(excess.argmax(), excess.shape))
        size = f", relative {difference[worst] / abs(b[worst]):.3g}" if b[worst] else ""
        raise AssertionError(
            f"assert_close: {wrong} of {a.size} entries differ by more than {atol:g} + {rtol:g}·|expected|; the worst "
            f"is {list(worst)}: {a[worst]:.9g} instead of {b[worst]:.9g} (difference {difference[worst]:.3g}{size})"
        )


def _host(x: Any) -> np.ndarray:
    x = x.data if isinstance(x, Tensor) else x
    return backend.to_host(x) if backend.is_array(x) else np.asarray(x)


# ------------------------------------------------------------------------------------------ a class in a file

def check_file(
    spec: str, shapes: Sequence[tuple[int, ...]], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> GradcheckReport:  # fmt: skip
    """`gradcheck` of what `spec` names, on random inputs.

    Args:
        spec: ``"mylayers.py:MyLayer"``. A class is called with `args` and `kwargs`, and so is a function that takes
            these; any other callable is checked as it is.
        shapes: of the inputs, standard normal numbers.
        options: as for `minicnn.gradcheck`. Its `seed` draws the parameters and inputs too.

    Raises:
        FileNotFoundError, ValueError: as `load_from_file`.
        ValueError: the class cannot be built from these arguments.
    """
    target = load_from_file(spec)
    seed = options.get("seed", 0)
    backend.manual_seed(seed)
    if inspect.isclass(target) or (inspect.isfunction(target) and _takes(target, args, kwargs or {})):
        try:
            target = target(*args, **(kwargs or {}))
        except TypeError as error:
            raise ValueError(
                f"{spec} cannot be built: {error}. Give it arguments, or name a function that returns the layer"
            ) from error
    rng = np.random.default_rng(seed)
    return gradcheck(target, *(rng.standard_normal(shape) for shape in shapes), **options)


def _takes(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a function's parameters are filled by these arguments."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def load_from_file(spec: str) -> Any:
    """What ``"mylayers.py:MyLayer"`` names: run the file, return the class or function of that name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the text has another form, the file fails when it is run, or defines no such name.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"{spec!r} must be FILE.py:NAME, for instance mylayers.py:MyLayer")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.parent))  # so that it finds the files beside it
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        raise ValueError(f"{file} cannot be run: {where}{type(error).__name__}: {error}") from error
    finally:
        if str(path.parent) in sys.path:  # the file may have changed it too
            sys.path.remove(str(path.parent))
        if before is not None:
            sys.modules[path.stem] = before
    names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path.stem]
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it defines {', '.join(names) or 'nothing'}"
        raise ValueError(f"{file} defines no {name!r}: {hint}")
    if not callable(target := getattr(module, name)):
        raise ValueError(f"{spec} is {type(target).__name__}, and must be a class, a layer or a function")
    return target
