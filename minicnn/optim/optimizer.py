"""What every optimiser shares: parameter groups, the walk over the parameters, saving and loading.

A rule (`SGD`, `Adam`, `AdamW`, `RMSprop`) adds its options, their checks, and `update`: the paper's algorithm for
one parameter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from .. import backend, threads
from ..backend import Array
from ..engine import Tensor, enable_grad

BLOCK = 1 << 18  # numbers: in float32 a megabyte; smaller ones have threads wait for Python's lock


class Optimizer:
    """The base of all optimisers.

    `step` writes into ``p.data`` in place (a parameter owns its array) and only reads ``p.grad``; a parameter whose
    ``.grad`` is None is left alone. Call it after `backward`, and move a model to its device and dtype before the
    first step: what an optimiser remembers is made beside the parameter, and stays there. Where a model moves later,
    ``optimizer.load_state_dict(optimizer.state_dict())`` brings it over.

    Args:
        params: tensors, (name, tensor) pairs, or dicts ``{"params": ..., option: value}``, each a group with options
            of its own.
        defaults: the options that a group does not set itself.

    Attributes:
        param_groups: one dict per group: ``"params"`` and every option. Change ``group["lr"]`` at will.
        state: what is remembered for each parameter, by name.

    Raises:
        TypeError, ValueError: `params` is empty, no list, or holds something other than real leaf tensors; a parameter
            is there twice; an option is out of its range.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        self.defaults = dict(defaults)
        self.check(self.defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.stepped = False  # a schedule that moves on before the first step warns
        if isinstance(params, Tensor | dict) or hasattr(params, "parameters") or not isinstance(params, Iterable):
            raise TypeError(
                f"{self.name}: params is a {type(params).__name__}, and must be a list of tensors or of groups: pass "
                "model.parameters(), [tensor] or [{'params': ...}]"
            )
        groups = params if isinstance(params, set | frozenset) else list(params)
        if not groups:
            raise ValueError(
                f"{self.name}: params is an empty list. A generator such as model.parameters() can be walked only "
                "once: if something has walked it already, call model.parameters() again"
            )
        for group in groups if isinstance(next(iter(groups)), dict) else [{"params": groups}]:
            self.add_param_group(group)

    @property
    def name(self) -> str:
        return type(self).__name__

    # ------------------------------------------------------------------------------------- what a rule provides

    def check(self, options: dict[str, Any]) -> None:
        """Check `options` of a group and turn them into plain Python numbers, in place."""
        raise NotImplementedError

    def update(self, weights: Array, gradient: Array, state: dict[str, Any], *_: Any, **options: Any) -> None:
        """Change `weights` in place, given their `gradient` (not to be changed) and the `state` (to be kept up)."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------------- training

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, once.

        Args:
            closure: computes the loss anew, gradients included; called first.

        Returns:
            What `closure` returned, None without one.

        Raises:
            TypeError, ValueError: a gradient is no array, or has another shape or device than its parameter, or what
                is remembered of one is on another device; nothing has been updated then.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        ready = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for params in ready:
            for p in params:
                self._check(p, p.grad)
        for group, params in zip(self.param_groups, ready, strict=True):
            options = {option: _plain(group[option]) for option in self.defaults}
            for p in params:
                with backend.beside(p.data):
                    self.update(p.data, p.grad, self.state[p], **options)
        self.stepped = True
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: ``.grad`` becomes None, or a fresh array of zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = None if set_to_none else backend.zeros_like(p.grad)

    def _check(self, p: Tensor, gradient: Array) -> None:
        backend.common_module(f"{self.name}.step", p.data, gradient)
        place = backend.device_of(gradient)
        for entry, value in self.state.get(p, {}).items():
            if backend.is_array(value) and (other := backend.device_of(value)) != place:
                raise TypeError(
                    f"{self.name}.step: {self._label(p)} is on {place}, its {entry} on {other}: the model was moved "
                    "after the first step. Bring what the optimiser remembers to it, with "
                    "optimizer.load_state_dict(optimizer.state_dict())"
                )
        if gradient.shape != p.shape:
            raise ValueError(
                f"{self.name}.step: {self._label(p)} of shape {p.shape} has a gradient of shape {gradient.shape}: a "
                "gradient has the shape of its parameter. Was .grad or .data assigned by hand?"
            )

    # ----------------------------------------------------------------------------------------------------- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimise some more parameters, for instance those of a layer that was frozen until now.

        Args:
            param_group: ``{"params": ..., option: value}``; options left out have their defaults. The dict is copied.

        Raises:
            TypeError, ValueError: as for the class; the groups are unchanged then.
        """
        where = f"{self.name}: group {len(self.param_groups)}"
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f"{where} must be a dict with the key 'params', got {_short(param_group)}")
        given = param_group["params"]
        if isinstance(given, set | frozenset):
            raise TypeError(
                f"{where}: params is a set, whose order changes from run to run, and saved state is kept by position: "
                "pass a list"
            )
        entries = [given] if isinstance(given, Tensor) else list(given)
        if not entries and isinstance(given, Iterator):
            raise ValueError(f"{where}: params is an empty list: a generator that was walked already. Make it anew")
        names = [entry[0] for entry in entries if isinstance(entry, tuple)]
        params = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        if names and len(names) < len(params):
            raise ValueError(f"{where}: {len(names)} of {len(params)} params have names: name all or none")

        seen = {id(p) for group in self.param_groups for p in group["params"]}
        for i, p in enumerate(params):
            what = f"{where}: params[{i}]" + (f" ({names[i]})" if names else "")
            if not isinstance(p, Tensor):
                raise TypeError(f"{what} is {_short(p)}, and only tensors can be optimised")
            if p.node is not None:
                raise ValueError(
                    f"{what} was computed, by {p.node.label}: only leaf tensors can be optimised. Pass the parameters "
                    "that it was computed from"
                )
            if p.dtype.kind != "f":
                raise TypeError(f"{what} is {p.dtype}, and only real floating-point tensors can be optimised")
            if id(p) in seen:
                raise ValueError(
                    f"{what}, of shape {p.shape}, was given before, here or in another group: it would be updated "
                    "twice in each step. Give each parameter once"
                )
            seen.add(id(p))

        group = {**self.defaults, **param_group, "params": params}
        if names:
            group["param_names"] = names
        self.check(group)
        self.param_groups.append(group)

    def _label(self, p: Tensor) -> str:
        """A parameter's name or else its place, for messages."""
        for n, group in enumerate(self.param_groups):
            for i, other in enumerate(group["params"]):
                if other is p:
                    return group["param_names"][i] if "param_names" in group else f"parameter {i} of group {n}"
        raise AssertionError("not one of this optimiser's")

    # ----------------------------------------------------------------------------------------- saving and loading

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on later, as a snapshot that further steps do not change.

        Returns:
            PyTorch's layout, with NumPy arrays: ``{"state": {index: {name: array or number}}, "param_groups":
            [{option: value, "params": [index, ...]}]}``. Parameters are counted through all groups; one that has
            never been updated has no entry in ``"state"``.
        """
        index = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [
            {**deepcopy({k: v for k, v in g.items() if k != "params"}), "params": [index[p] for p in g["params"]]}
            for g in self.param_groups
        ]
        state = {
            index[p]: {
                name: np.array(backend.to_host(value)) if backend.is_array(value) else value
                for name, value in entries.items()
            }
            for p, entries in self.state.items()
            if entries
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` (or PyTorch's optimiser of this name) gave.

        Parameters are matched by position. Arrays are copied, in the dtype and on the device of their parameter.

        Raises:
            ValueError: the groups differ in number, size or options, or an array has another shape than its
                parameter; nothing has been changed then.
        """
        where = f"{self.name}.load_state_dict"
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError(f"{where}: expected a dict with 'state' and 'param_groups', got {_short(state_dict)}")
        saved_groups = state_dict["param_groups"]
        sizes, saved_sizes = ([len(g["params"]) for g in groups] for groups in (self.param_groups, saved_groups))
        if sizes != saved_sizes:
            raise ValueError(
                f"{where}: the saved groups have {saved_sizes} parameters, this optimiser's {sizes}: they must be "
                "equal. Make the optimiser as it was made when it was saved"
            )

        groups: list[dict[str, Any]] = []
        by_index: dict[Any, Tensor] = {}
        for n, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if missing := [option for option in self.defaults if option not in saved]:
                raise ValueError(
                    f"{where}: saved group {n} has no {', '.join(missing)}. Was it saved by another optimiser "
                    f"than {self.name}?"
                )
            by_index.update(zip(saved["params"], group["params"], strict=True))
            names = {"param_names": group["param_names"]} if "param_names" in group else {}
            groups.append({**names, **deepcopy(saved), "params": group["params"]})

        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for i, entries in state_dict["state"].items():
            if i not in by_index:
                raise ValueError(f"{where}: 'state' has an entry for parameter {i!r}, which is in no saved group")
            p = by_index[i]
            for name, value in entries.items():
                if name == "step":
                    state[p][name] = int(value)
                elif value is not None:  # PyTorch's way to say that there is no momentum yet
                    state[p][name] = self._beside(p, value, f"{where}: {name} of {self._label(p)}")
        self.param_groups, self.state = groups, state

    def _beside(self, p: Tensor, value: Any, what: str) -> Array:
        """A copy of the array `value` with the dtype and on the device of `p`."""
        host = (backend.to_host(value) if backend.is_array(value) else np.asarray(value)).astype(p.dtype)
        if host.shape != p.shape:
            raise ValueError(f"{what} has shape {host.shape}, the parameter {p.shape}: they must be equal")
        return backend.to_device(host, p.device)

    def __repr__(self) -> str:
        groups = []
        for group in self.param_groups:
            options = (f"{k}={v}" for k, v in group.items() if k not in ("params", "param_names"))
            groups.append(f"{len(group['params'])} parameters: {', '.join(options)}")
        return f"{self.name}({'; '.join(groups)})"


# ------------------------------------------------------------------------------------------------ for the rules

def number(where: str, options: dict[str, Any], option: str, least: float = -math.inf, below: float = math.inf) -> None:
    """Check that an option (or each in a tuple of them) is a number in [least, below), and make it a Python float."""
    value = options[option]
    try:
        if isinstance(value, str | bool):
            raise TypeError
        plain = _plain(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where}: {option} must be a number, got {_short(value)}") from None
    for x in plain if isinstance(plain, tuple) else (plain,):
        if not least <= x < below:
            low = "" if least == -math.inf else f"at least {least:g} and "
            high = "finite" if below == math.inf else f"less than {below:g}"
            raise ValueError(f"{where}: {option} is {value}, and must be {low}{high}")
    options[option] = plain


def buffer(state: dict[str, Any], name: str, weights: Array) -> Array:
    """The array of that name in `state`, begun with zeros like the weights."""
    if name not in state:
        state[name] = backend.array_module(weights).zeros_like(weights)
    return state[name]


def in_blocks(rule: Callable[..., None], *arrays: Array | None) -> None:
    """``rule(*arrays)`` on arrays of one shape, in views small enough for the processor's cache; None stays None.

    An update goes through its arrays a dozen times. Where they are large that is two to three times as fast in blocks,
    which threads share, and no temporary is the size of a layer of 100 million weights. The numbers are the same to
    the bit.
    """
    given = [x for x in arrays if x is not None]
    size = given[0].size
    if size <= BLOCK or not all(isinstance(x, np.ndarray) and x.flags.c_contiguous for x in given):  # host: caches
        rule(*arrays)
        return
    flat = [None if x is None else x.reshape(-1) for x in arrays]

    def work(start: int) -> None:
        rule(*(None if x is None else x[start : start + BLOCK] for x in flat))

    threads.run(work, range(0, size, BLOCK))


def _plain(value: Any) -> Any:
    """A number as Python's own: one of NumPy's is a float64 that would widen float32 arrays."""
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple | list):
        return tuple(float(v) for v in value)
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
