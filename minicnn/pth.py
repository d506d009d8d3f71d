"""PyTorch's ``.pth`` files without PyTorch: a reader that can build tensors and nothing else.

A ``.pth`` is a *pickle*, a program for a small stack machine, beside the raw numbers of the tensors. Python's own
machine imports and calls whatever such a program names, so a file from a stranger can run anything. The machine below
knows 32 of the 68 instructions, imports nothing, and calls nothing but the few functions in this file: what a program
may name is the list `GLOBALS`, and a name that is not on it ends the reading. The program itself describes tensors only
(which storage, offset, shape, strides); they are made afterwards, by NumPy, out of bytes that are in the file.

Two formats: since PyTorch 1.6 a zip archive (`read_zip`), before that several pickles and then the numbers in one
stream (`read_stream`). The even older tar archives are not read; torchvision replaced its own in 2021.

Bounds: a program takes at most `MAX_STEPS` steps and `MAX_PICKLE` bytes, keys are strings (numbers could be chosen to
collide in a dict), a tensor has no more elements than its storage, all tensors together take at most `max_bytes`.
Each reader raises ValueError with the reason; `minicnn.weights` adds the file's name.

The format is described in PyTorch's torch/serialization.py, the instructions in Python's pickletools module.
"""

from __future__ import annotations

import math
import pickle  # for the names of its instructions
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MAX_STEPS = 200_000  # ResNet-152's 932 tensors take 40,000
MAX_PICKLE = 1 << 22
MAX_DIMENSIONS = 64  # NumPy's own limit

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
PROTOCOL = 1001  # the second

BFLOAT16 = "bfloat16"  # the upper half of a float32, a type that NumPy does not have
STORAGES = {
    "torch.DoubleStorage": "f8", "torch.FloatStorage": "f4", "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": BFLOAT16, "torch.LongStorage": "i8", "torch.IntStorage": "i4", "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1", "torch.ByteStorage": "u1", "torch.BoolStorage": "?",
}  # fmt: skip
DICT, PARAMETER = "collections.OrderedDict", "torch.nn.parameter.Parameter"
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
GLOBALS = {*STORAGES, DICT, PARAMETER, *TENSORS, REBUILD_PARAMETER}


@dataclass(frozen=True)
class Global:
    """A name from `GLOBALS`; it stands for itself, nothing is imported."""

    name: str


@dataclass
class Storage:
    """A run of `numel` numbers, whose bytes are found after the program has ended."""

    code: str
    numel: int
    data: memoryview | None = None

    @property
    def itemsize(self) -> int:
        return 2 if self.code == BFLOAT16 else np.dtype(self.code).itemsize


@dataclass(frozen=True)
class TensorView:
    """What a program says about a tensor: elements ``offset + i·stride₀ + j·stride₁ + …`` of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, byteorder: Literal["<", ">"]) -> np.ndarray:
        """The tensor as a (read-only) view of the file's bytes; bfloat16 is widened to float32, which is exact."""
        if self.storage.data is None:
            raise ValueError("the numbers of a tensor are missing: it is cut off")
        dtype = np.dtype("u2" if self.storage.code == BFLOAT16 else self.storage.code).newbyteorder(byteorder)
        if 0 in self.shape:
            array = np.empty(self.shape, dtype)
        else:  # NumPy checks once more that all elements are inside
            strides = [stride * dtype.itemsize for stride in self.strides]
            array = np.ndarray(self.shape, dtype, self.storage.data, self.offset * dtype.itemsize, strides)
        if self.storage.code == BFLOAT16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array


# -------------------------------------------------------------------------------------------- the stack machine


class Machine:
    """Runs the pickles in `content`, one for each call of `run`."""

    def __init__(self, content: bytes | memoryview, storage_fields: int):
        self.content = memoryview(content)
        self.at = 0
        self.storage_fields = storage_fields  # how many fields the name of a storage has
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self) -> Any:
        """What the next pickle builds: strings, ints, tuples, lists and dicts, `TensorView` among them."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.end = self.at + MAX_PICKLE
        while (opcode := self.take(1)) != pickle.STOP:
            self.spend(1)
            self.step(opcode)
        return self.pop()

    def step(self, opcode: bytes) -> None:
        """One instruction."""
        match opcode:
            case pickle.PROTO:
                if (protocol := self.take(1)[0]) != 2:
                    raise ValueError(f"its pickle has protocol {protocol}, and PyTorch writes 2 unless told otherwise")
            case pickle.NONE:
                self.stack.append(None)
            case pickle.NEWTRUE:
                self.stack.append(True)
            case pickle.NEWFALSE:
                self.stack.append(False)
            case pickle.BININT:
                self.stack.append(int.from_bytes(self.take(4), "little", signed=True))
            case pickle.BININT1:
                self.stack.append(self.number(1))
            case pickle.BININT2:
                self.stack.append(self.number(2))
            case pickle.LONG1:
                self.stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))
            case pickle.BINUNICODE:
                self.stack.append(self.text(self.number(4)))
            case pickle.SHORT_BINSTRING:  # a str of Python 2
                self.stack.append(self.text(self.number(1)))
            case pickle.EMPTY_TUPLE:
                self.stack.append(())
            case pickle.EMPTY_LIST:
                self.stack.append([])
            case pickle.EMPTY_DICT:
                self.stack.append({})
            case pickle.MARK:
                self.marks.append(len(self.stack))
            case pickle.TUPLE:
                self.stack.append(tuple(self.pop_to_mark()))
            case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                count = (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3).index(opcode) + 1
                self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))
            case pickle.APPEND:
                item = self.pop()
                self.top(list).append(item)
            case pickle.APPENDS:
                items = self.pop_to_mark()
                self.top(list).extend(items)
            case pickle.SETITEM:
                value, key = self.pop(), self.pop()
                self.fill(self.top(dict), [(key, value)])
            case pickle.SETITEMS:
                items = self.pop_to_mark()
                if len(items) % 2:
                    raise ValueError("its pickle has a key without a value")
                self.fill(self.top(dict), list(zip(items[::2], items[1::2], strict=True)))
            case pickle.BINPUT:
                self.memorise(self.number(1))
            case pickle.LONG_BINPUT:
                self.memorise(self.number(4))
            case pickle.BINGET:
                self.stack.append(self.recall(self.number(1)))
            case pickle.LONG_BINGET:
                self.stack.append(self.recall(self.number(4)))
            case pickle.GLOBAL:
                self.stack.append(self.named(f"{self.line()}.{self.line()}"))
            case pickle.BINPERSID:
                self.stack.append(self.storage(self.pop()))
            case pickle.REDUCE | pickle.NEWOBJ:
                arguments, what = self.pop(), self.pop()
                self.stack.append(self.build(opcode, what, arguments))
            case pickle.BUILD:  # attributes of a dict (`_metadata`) or of a Parameter: not needed
                self.pop()
                self.top(dict, TensorView)
            case _:
                raise ValueError(
                    f"its pickle has the instruction {_name(opcode)}, which weights do not need. Nothing was run"
                )

    # ---------------------------------------------------------------------------------- bytes, stack and memo

    def take(self, count: int) -> bytes:
        if self.at + count > min(self.end, len(self.content)):
            what = "is longer than a state dict's" if self.at + count > self.end else "is cut off"
            raise ValueError(f"its pickle {what}")
        self.at += count
        return bytes(self.content[self.at - count : self.at])

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise ValueError("its pickle has a string that is not UTF-8") from None

    def line(self) -> str:
        taken = bytearray()
        while (byte := self.take(1)) != b"\n":
            taken += byte
            if len(taken) > 200:
                raise ValueError("its pickle has a name of more than 200 letters")
        return taken.decode("latin-1")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise ValueError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes from an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its pickle lacks a mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, *types: type) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or type(self.stack[-1]) not in types:
            raise ValueError(f"its pickle changes something that is no {' or '.join(t.__name__ for t in types)}")
        return self.stack[-1]

    def memorise(self, place: int) -> None:
        if place > MAX_STEPS or not self.stack:
            raise ValueError(f"its pickle memorises nothing, or in place {place}")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> Any:
        if place not in self.memo:
            raise ValueError(f"its pickle recalls place {place}, which is empty")
        return self.memo[place]

    # ------------------------------------------------------------------------------------------ what it builds

    def named(self, name: str) -> Global:
        if name not in GLOBALS:
            raise ValueError(f"its pickle names {name!r}, which is no part of weights. Nothing was run")
        return Global(name)

    def build(self, opcode: bytes, what: Any, arguments: Any) -> Any:
        """What a call on the list makes of its arguments."""
        name = what.name if type(what) is Global else None
        match arguments:
            case () if name == DICT and opcode == pickle.REDUCE:
                return {}
            case (list(pairs),) if name == DICT and opcode == pickle.REDUCE:  # as Python 2 wrote it
                self.spend(len(pairs))
                if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                    raise ValueError("its pickle makes a dict of something that is not pairs")
                return self.fill({}, pairs)
            case (storage, offset, shape, strides, *others) if name in TENSORS and opcode == pickle.REDUCE:
                if len(others) > 2:  # beyond requires_grad and hooks: that the numbers are to be negated or conjugated
                    raise ValueError("its pickle has a tensor that is not stored plainly")
                return _tensor(storage, offset, shape, strides)
            case (TensorView() as tensor, *_) if name == (REBUILD_PARAMETER if opcode == pickle.REDUCE else PARAMETER):
                return tensor
        raise ValueError(f"its pickle calls {name or 'something'} in a way that PyTorch does not")

    def fill(self, target: dict[str, Any], pairs: Any) -> dict[str, Any]:
        for key, value in pairs:
            if type(key) is not str:
                raise ValueError(f"its pickle has a key of type {type(key).__name__}, and names are strings")
            target[key] = value
        return target

    def storage(self, fields: Any) -> Storage:
        """The storage of that name: ``("storage", type, key, device, numel)``, and None at the end in a stream."""
        if type(fields) is not tuple or len(fields) != self.storage_fields or fields[0] != "storage":
            raise ValueError("its pickle refers to something outside that is no storage")
        kind, key, _, numel = fields[1:5]
        if type(kind) is not Global or kind.name not in STORAGES or type(key) is not str or not _is_size(numel):
            raise ValueError("its pickle describes a storage as PyTorch does not")
        if fields[5:] not in ((), (None,)):
            raise ValueError("its pickle has a storage that is part of another, as PyTorch before 0.4 wrote them")
        found = self.storages.setdefault(key, Storage(STORAGES[kind.name], numel))
        if (found.code, found.numel) != (STORAGES[kind.name], numel):
            raise ValueError("its pickle describes one storage in two ways")
        return found


def _name(opcode: bytes) -> str:
    import pickletools

    return next((op.name for op in pickletools.opcodes if op.code.encode("latin-1") == opcode), f"0x{opcode.hex()}")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorView:
    """The description of a tensor, after every number in it has been checked."""
    numbers = (offset, *shape, *strides) if type(shape) is tuple is type(strides) else (None,)
    if type(storage) is not Storage or not all(map(_is_size, numbers)):
        raise ValueError("its pickle describes a tensor with something other than a storage and numbers from 0")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"its pickle describes a tensor of {len(shape)} dimensions with {len(strides)} strides")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= storage.numel or math.prod(shape) > storage.numel:
            raise ValueError(f"its pickle describes a tensor {shape} larger than its storage of {storage.numel}")
    # The stride of a dimension of 1 is never used, and may be anything.
    used = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    return TensorView(storage, offset, shape, used)


# ------------------------------------------------------------------------------------------------- the two formats


def read_zip(entries: Mapping[str, memoryview], max_bytes: int) -> dict[str, np.ndarray]:
    """The state dict in the zip format, from what is in the archive: ``NAME/data.pkl``, ``NAME/data/KEY`` and others.

    Raises:
        ValueError: with the reason.
    """
    folders = [name.partition("/")[0] for name in entries if name.partition("/")[2] == "data.pkl"]
    if len(folders) != 1:
        raise ValueError("not a file of PyTorch's: it must hold one folder with a data.pkl")
    folder = folders[0]
    if f"{folder}/constants.pkl" in entries:
        raise ValueError("a TorchScript program, not weights: save the model's state_dict() with torch.save")
    orders: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}
    if (order := bytes(entries.get(f"{folder}/byteorder", b"little"))) not in orders:
        raise ValueError("its byte order is neither little nor big")
    machine = Machine(entries[f"{folder}/data.pkl"], storage_fields=5)
    result = machine.run()
    for key, storage in machine.storages.items():
        storage.data = entries.get(f"{folder}/data/{key}")
        if storage.data is not None and len(storage.data) != storage.numel * storage.itemsize:
            raise ValueError(
                f"a storage of {storage.numel} numbers has {len(storage.data)} bytes, and must have "
                f"{storage.numel * storage.itemsize}"
            )
    return _state_dict(result, orders[order], max_bytes)


def read_stream(content: bytes, max_bytes: int) -> dict[str, np.ndarray]:
    """The state dict in the format before PyTorch 1.6: pickles (a magic number, a version, facts about the machine, the
    state dict, the keys of its storages), then for each key the number of elements and the elements.

    Raises:
        ValueError: with the reason.
    """
    machine = Machine(content, storage_fields=6)
    if content[257:262] == b"ustar":
        raise ValueError("a tar archive, as PyTorch wrote before 2017: load it with PyTorch and save it again")
    if bytes(content[:2]) != pickle.PROTO + b"\x02" or machine.run() != MAGIC:
        raise ValueError("not a file of PyTorch's: it starts neither as a zip archive nor with PyTorch's magic number")
    if machine.run() != PROTOCOL:
        raise ValueError(f"its version is unknown, PyTorch writes {PROTOCOL}")
    machine.run()  # sizes of C's types, not needed
    result, keys = machine.run(), machine.run()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(machine.storages):
        raise ValueError("its list of storages is not that of its tensors")
    rest, at = memoryview(content), machine.at
    for key in keys:
        storage = machine.storages[key]
        size = storage.numel * storage.itemsize
        if len(rest) < at + 8 + size:
            raise ValueError(f"cut off: {storage.numel} numbers need {8 + size} bytes, and {len(rest) - at} follow")
        if int.from_bytes(rest[at : at + 8], "little") != storage.numel:
            raise ValueError("a storage has another length than its tensors say")
        storage.data = rest[at + 8 : at + 8 + size]
        at += 8 + size
    if at != len(rest):
        raise ValueError(f"too long: {len(rest) - at} bytes follow its last storage")
    return _state_dict(result, "<", max_bytes)


def _state_dict(result: Any, byteorder: Literal["<", ">"], max_bytes: int) -> dict[str, np.ndarray]:
    if type(result) is not dict:
        raise ValueError(f"holds an object of type {type(result).__name__}, not a dict of names and tensors")
    for name, value in result.items():
        if type(value) is not TensorView:
            hint = "save that part alone with torch.save" if "state_dict" in result else "save the model's state_dict()"
            raise ValueError(f"{name[:80]!r} is of type {type(value).__name__}, and weights are tensors: {hint}")
    if sum(math.prod(view.shape) * max(view.storage.itemsize, 4) for view in result.values()) > max_bytes:
        raise ValueError(f"its tensors take more than max_bytes={max_bytes} bytes")
    arrays = {name: view.array(byteorder) for name, view in result.items()}
    # Batch norm counts its batches since PyTorch 0.4.1; PyTorch too starts at 0 where an older file has no counter.
    for name in list(arrays):
        if name.endswith(".running_mean"):
            arrays.setdefault(name.removesuffix("running_mean") + "num_batches_tracked", np.zeros((), np.int64))
    return arrays
