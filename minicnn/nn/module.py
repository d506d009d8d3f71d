"""`Module`: parameters, buffers and layers under names, and a `forward` that uses them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from ..engine import Parameter, Tensor, entered, is_dry_run

_hook_keys = itertools.count()


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` found amiss (and, with ``strict=False``, passed over)."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class RemovableHandle:
    """Takes a hook off again: ``handle.remove()``, or the end of ``with handle:``."""

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self._hooks, self._key = hooks, next(_hook_keys)
        hooks[self._key] = hook

    def remove(self) -> None:
        self._hooks.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Module:
    """The base of every layer and network.

    Assigning a `Parameter` or a `Module` to an attribute registers it under that name; `register_buffer` does so for a
    tensor that belongs to the state but is not trained. Names join with dots: ``layer1.0.conv1.weight``.
    """

    training: bool

    def __init__(self) -> None:
        super().__setattr__("_parameters", {})
        super().__setattr__("_buffers", {})
        super().__setattr__("_modules", {})
        super().__setattr__("_temporary_buffers", set())
        super().__setattr__("_forward_hooks", {})
        super().__setattr__("training", True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; each subclass has its own."""
        raise TypeError(f"{type(self).__name__} defines no forward(): write one, then call the module itself")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with entered(self) as scope:  # noqa: F841 (who reads a traceback finds it)
            output = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, output)
            output = output if changed is None else changed
        return output

    # ------------------------------------------------------------------------------------------ registration

    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        registry = next((r for r in (self._parameters, self._buffers, self._modules) if name in r), None)
        if isinstance(value, Parameter):
            kind = self._parameters
        elif isinstance(value, Module):
            kind = self._modules
        elif registry is self._buffers and (value is None or isinstance(value, Tensor) or backend.is_array(value)):
            kind, value = self._buffers, value if value is None or isinstance(value, Tensor) else Tensor(value)
        elif value is None and registry is not None:
            kind = registry  # the slot stays, empty: ``layer.bias = None``
        elif isinstance(value, Tensor) and registry is self._parameters:
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter: assign a Parameter, or write to {name}.data[...]"
            )
        else:
            kind = None
        if registry is not None and registry is not kind:
            del registry[name]
        if kind is None:
            super().__setattr__(name, value)
        else:
            self.__dict__.pop(name, None)
            kind[name] = value

    def __getattr__(self, name: str) -> Any:  # asked only where normal look-up finds nothing
        own = self.__dict__
        for registry in ("_parameters", "_buffers", "_modules"):
            if registry in own and name in own[registry]:
                return own[registry][name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Register `parameter` under `name`; None keeps the name for one that is left out."""
        self._check_new(name)
        self._parameters[name] = parameter

    def register_buffer(self, name: str, tensor: Tensor | Array | None, persistent: bool = True) -> None:
        """Register a tensor that is part of the state but not trained; if not `persistent`, not of `state_dict`."""
        self._check_new(name)
        self._buffers[name] = tensor if tensor is None or isinstance(tensor, Tensor) else Tensor(tensor)
        if not persistent:
            self._temporary_buffers.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register `module` under `name`."""
        self._check_new(name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: {name!r} must be a Module, got {type(module).__name__}")
        self._modules[name] = module

    def _check_new(self, name: str) -> None:
        if "." in name or not name:
            raise ValueError(f"{type(self).__name__}: {name!r} cannot be a name: it must not be empty or hold a dot")
        if hasattr(self, name):
            raise ValueError(f"{type(self).__name__} has an attribute {name!r} already")

    # ------------------------------------------------------------------------------------------- what is in it

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Every module from this one down with its dotted name; one under two names once, unless told otherwise."""
        seen: set[int] = set()

        def walk(module: Module, name: str) -> Iterator[tuple[str, Module]]:
            if remove_duplicate and id(module) in seen:
                return
            seen.add(id(module))
            yield name, module
            for child_name, child in module._modules.items():
                if child is not None:
                    yield from walk(child, f"{name}.{child_name}" if name else child_name)

        return walk(self, prefix)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((name, module) for name, module in self._modules.items() if module is not None)

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def get_submodule(self, target: str) -> Module:
        """The module at the dotted path `target`."""
        module = self
        for part in target.split(".") if target else ():
            if part not in module._modules:
                raise AttributeError(
                    f"{type(self).__name__} has no module {target!r}: {type(module).__name__} has no {part!r}"
                )
            module = module._modules[part]
        return module

    def _named(self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else iter([(prefix, self)])
        for path, module in modules:
            for name, value in getattr(module, registry).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its dotted name; a shared one once, unless told otherwise."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its dotted name."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    # ------------------------------------------------------------------------------------------------ the state

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            kept = {n: b for n, b in module._buffers.items() if n not in module._temporary_buffers}
            for name, tensor in {**module._parameters, **kept}.items():
                if tensor is not None:
                    state[f"{path}.{name}" if path else name] = tensor
        return state

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers as a flat dict of arrays: the module's own arrays, not copies."""
        return {name: tensor.data for name, tensor in self._state().items()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays (or tensors) into the parameters and buffers, cast to their dtypes.

        Nothing is written unless everything fits; in a dry run nothing is written at all.

        Raises:
            ValueError: names that are missing or unexpected (unless not `strict`), shapes that differ; all at once.
        """
        own = self._state()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        given = {n: v.data if isinstance(v, Tensor) else v for n, v in state_dict.items() if n in own}
        given = {n: v if backend.is_array(v) else np.asarray(v) for n, v in given.items()}
        problems = [
            f"{name} has shape {tuple(value.shape)}, and must have {own[name].shape}"
            for name, value in given.items()
            if tuple(value.shape) != own[name].shape
        ]
        if strict:
            problems += [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in unexpected]
        if problems:
            raise ValueError(f"load_state_dict for {type(self).__name__}: " + "; ".join(problems))
        for name, value in () if is_dry_run() else given.items():
            backend.assign(own[name].data, value)
        return IncompatibleKeys(missing, unexpected)

    def to(self, device: Any = None, dtype: Any = None) -> Module:
        """Move parameters and buffers, in place: to a device, a floating-point dtype (not integer buffers), or both."""
        if device is not None and dtype is None and not backend.is_device(device):
            device, dtype = None, device  # ``model.to("float64")``
        dtype = None if dtype is None else backend.dtype_of(f"{type(self).__name__}.to", dtype)
        if dtype is not None and dtype.kind not in "fc":
            raise TypeError(f"{type(self).__name__}.to: dtype is {dtype}, and must be a floating-point one")

        def moved(array: Array) -> Array:
            if dtype is not None and array.dtype.kind in "fc":
                array = backend.cast(array, dtype)
            return array if device is None else backend.to_device(array, device)

        for module in self.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    tensor.data = moved(tensor.data)
                    tensor.grad = None if tensor.grad is None else moved(tensor.grad)
        return self

    # ------------------------------------------------------------------------------------------------- settings

    def train(self, mode: bool = True) -> Module:
        """Training mode: batch norm uses the batch's statistics, dropout drops."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Evaluation mode: batch norm uses the running statistics, dropout passes everything on."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (or, with ``set_to_none=False``, make them zeros)."""
        for parameter in self.parameters():
            gone = set_to_none or parameter.grad is None
            parameter.grad = None if gone else backend.zeros_like(parameter.grad)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Switch all parameters on or off for `backward`."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` on every module, children first."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after each forward; what it returns, if anything, replaces the output."""
        return RemovableHandle(self._forward_hooks, hook)

    def extra_repr(self) -> str:
        """The arguments, as `repr` shall show them."""
        return ""

    def __repr__(self) -> str:
        head = f"{type(self).__name__}({self.extra_repr()}"
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        return head + ("\n" + "\n".join(lines) + "\n)" if lines else ")")
