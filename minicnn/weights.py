"""Weights in files: safetensors and ``.npz`` in and out, PyTorch's ``.pth`` in.

    weights.save(model, "lenet5.safetensors", class_names=list("0123456789"))
    weights.load(model, "lenet5.safetensors")
    weights.load(alexnet(variant="torchvision"), "alexnet-owt-7be5be79.pth")  # the file is at URL, see PUBLISHED

The names in a file are those of `Module.state_dict`, which are torchvision's. What goes with them (architecture,
variant, the options it was built with, names of the classes) stands in the metadata, strings under names.

What holds for a file from anywhere: nothing in it is run, no size that it announces is believed before it has been
compared with the file's own, and `read` ends in arrays or in one `WeightsError`; `load` changes the whole network or
nothing. What does not hold: the *numbers* may be anything, infinite or chosen to make a network misjudge, and nobody
sees that in them; the digest in a file's name has 32 bits and tells damage, not malice; a file of n bytes may take
several times n in memory, and a small compressed ``.npz`` up to `MAX_BYTES`; safetensors is parsed by its own package,
whose bugs would be ours.

Files are written beside their place under another name and put there when they are complete, so that neither a full
disk nor a crash costs what was there before. (A process that is killed leaves a file ``.….part`` behind.)
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from . import backend, pth
from .nn import Conv2d, Linear, Module
from .nn.module import IncompatibleKeys

Arrays = dict[str, np.ndarray]
Metadata = dict[str, str]

MAX_BYTES = 1 << 31  # VGG-19, the largest, has 1.15 GB in float64
MAX_HEADER = 1 << 24
MAX_ENTRIES = 20_000  # in an archive; ResNet-152 has 932 tensors
MAX_NAME = 300

METADATA = "__metadata__"  # its name in both formats


class WeightsError(ValueError):
    """A file of weights that cannot be read, or does not fit the network; the message has the file and the reason."""


# What torchvision publishes (the models/*.py of its version 0.29), to be downloaded with any tool from URL + name. The
# digits in a name are the first of the file's SHA-256, and `read` checks them. After each name: what it is for, and how
# images are prepared where that is unusual.
URL = "https://download.pytorch.org/models/"
PUBLISHED: dict[str, Metadata] = {
    "alexnet-owt-7be5be79.pth": {"architecture": "alexnet"},
    "vgg11-8a719046.pth": {"architecture": "vgg11"},
    "vgg11_bn-6002323d.pth": {"architecture": "vgg11_bn"},
    "vgg13-19584684.pth": {"architecture": "vgg13"},
    "vgg13_bn-abd245e5.pth": {"architecture": "vgg13_bn"},
    "vgg16-397923af.pth": {"architecture": "vgg16"},
    "vgg16_bn-6c64b313.pth": {"architecture": "vgg16_bn"},
    "vgg19-dcbb9e9d.pth": {"architecture": "vgg19"},
    "vgg19_bn-c79401a0.pth": {"architecture": "vgg19_bn"},
    # trained elsewhere, on images scaled to -1 … 1 (torchvision's transform_input=True)
    "googlenet-1378be20.pth": {"architecture": "googlenet", "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"},
    "resnet18-f37072fd.pth": {"architecture": "resnet18"},
    "resnet34-b627a593.pth": {"architecture": "resnet34"},
    "resnet50-0676ba61.pth": {"architecture": "resnet50"},
    "resnet101-63fe2227.pth": {"architecture": "resnet101"},
    "resnet152-394f9c45.pth": {"architecture": "resnet152"},
    # "V2": longer training, and images resized to 232 before the crop
    "resnet50-11ad3fa6.pth": {"architecture": "resnet50", "resize": "232"},
    "resnet101-cd907fc2.pth": {"architecture": "resnet101", "resize": "232"},
    "resnet152-f82ba261.pth": {"architecture": "resnet152", "resize": "232"},
}

# Networks whose two variants compute the same from the same weights, and those in which the same weights fit both and
# compute different things.
ALIKE = re.compile(r"vgg\d+(_bn)?|resnet(18|34)")
MISTAKABLE = re.compile(r"resnet(50|101|152)")


# ------------------------------------------------------------------------------------------------------ saving


def save(model: Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write the parameters and buffers of `model` to `path`, which ends in ``.safetensors`` or ``.npz``.

    Args:
        metadata: what else the file shall say, strings or anything JSON can write: ``class_names=[...]``, the ``mean=``
            and ``std=`` of the training images. The architecture, its variant, the options that it was built with, the
            number of classes, the channels and side of its images, where `model` says them, and minicnn's version are
            added.

    Raises:
        WeightsError: another ending; an array of a type that the format does not have.
        ImportError: safetensors is missing; the message names the extra.
        OSError: the file cannot be written. What was at `path` is still there.
    """
    write = WRITERS.get(Path(path).suffix.lower())
    if write is None:
        raise WeightsError(f"{os.fspath(path)}: the name of a file of weights must end in {' or '.join(WRITERS)}")
    arrays = {}
    for name, array in model.state_dict().items():
        array = backend.to_host(array)
        if name == METADATA or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise WeightsError(f"{os.fspath(path)}: {name} of dtype {array.dtype} cannot be stored")
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    everything = {**describe(model), **metadata}
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in everything.items()}
    with replacing(path) as file:
        write(file, arrays, text)


def describe(model: Module) -> dict[str, Any]:
    """What `model` says of itself that a file of its weights should say; of layers put together, what can be seen."""
    layers = [layer for layer in model.modules() if layer._parameters or layer._buffers]
    first, last = (layers[0], layers[-1]) if layers else (None, None)
    facts = {
        "library": "minicnn",
        "version": sys.modules[__package__].__version__,
        "architecture": getattr(model, "architecture", type(model).__name__),
        "variant": getattr(model, "variant", None),
        "options": _options(model),
        "classes": _whole(model, "num_classes") or (last.out_features if isinstance(last, Linear) else None),
        "in_channels": _whole(model, "in_channels") or (first.in_channels if isinstance(first, Conv2d) else None),
        "input_size": getattr(model, "input_size", None),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _options(model: Module) -> dict[str, Any] | None:
    """What `minicnn.models` note as ``options``; another network may have an attribute of that name too."""
    options = getattr(model, "options", None)
    return options if _is_plain(options) else None


def _is_plain(options: Any) -> bool:
    return type(options) is dict and all(type(value) in (str, int, float, bool) for value in options.values())


def _whole(model: Module, name: str) -> int | None:
    value = getattr(model, name, None)
    return value if type(value) is int else None


def _write_safetensors(file: BinaryIO, arrays: Arrays, metadata: Metadata) -> None:
    _safetensors()
    from safetensors.numpy import save as to_bytes

    file.write(to_bytes(arrays, metadata))


def _write_npz(file: BinaryIO, arrays: Arrays, metadata: Metadata) -> None:
    """As `numpy.savez` does, but for the date, so that the same weights give the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {**arrays, METADATA: np.array(json.dumps(metadata))}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


WRITERS = {".safetensors": _write_safetensors, ".npz": _write_npz}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that takes the place of the one at `path` once it is complete and on the disk, and not before.

    It gets the permissions of the file that it replaces, a new one those of any new file. A link stays a link: what it
    points to is replaced.

    Raises:
        OSError: it cannot be written, or at `path` is something else than a file.
    """
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{os.fspath(path)} cannot be written: there is no folder {place.parent}")
    if place.exists() and not (place.is_file() and os.access(place, os.W_OK)):
        raise PermissionError(f"{os.fspath(path)} is no file that may be written, and is not replaced by one")
    unfinished = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(unfinished, "xb") as file:
            if place.exists():
                os.chmod(unfinished, stat.S_IMODE(place.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, place)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(unfinished)):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = f" ({shutil.disk_usage(place.parent).free / 1e6:.0f} MB are free there): make room" if full else ""
        raise OSError(
            error.errno,
            f"{os.fspath(path)} could not be written, and what was there is kept: {os.strerror(error.errno)}{cure}",
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------- loading


def load(model: Module, path: str | os.PathLike[str], strict: bool = True) -> IncompatibleKeys:
    """Copy the weights in the file at `path` into `model`, cast to its dtypes: all of them, or none.

    Args:
        strict: names must agree, and so must architecture, variant and options where the file states them. (A ``.pth``
            states none; for ResNet-50, 101 and 152 it is taken for torchvision's variant, see `stated_variant`.)

    Returns:
        The names that the file lacks and those that `model` lacks; none if `strict`.

    Raises:
        WeightsError: the file is damaged, hostile or no file of weights (see `read`), or does not fit.
        ImportError: safetensors is missing; the message names the extra.
        OSError: the file cannot be opened or read.
    """
    arrays, metadata = read(path)
    return assign(model, arrays, metadata, os.fspath(path), strict)


def assign(model: Module, arrays: Arrays, metadata: Metadata, source: str, strict: bool = True) -> IncompatibleKeys:
    """The second half of `load`: put what `read` gave into `model`; in a dry run, only check that it fits.

    Args:
        source: the file's name.
    """
    try:
        if strict:
            _check_kind(model, metadata, source)
        own = model.state_dict()
        cast = {name: _cast(name, array, own[name].dtype) for name, array in arrays.items() if name in own}
        return model.load_state_dict({**arrays, **cast}, strict)
    except ValueError as error:
        raise WeightsError(f"{source}: {textwrap.shorten(str(error), 1000, placeholder=' …')}") from None


def _check_kind(model: Module, metadata: Metadata, source: str) -> None:
    """Some networks have the same names and shapes, and compute different things."""
    architecture, variant = getattr(model, "architecture", None), getattr(model, "variant", None)
    stated = metadata.get("architecture"), stated_variant(str(architecture), metadata, source)
    cure = "Build the network that the file is for, or use load_state_dict to have it your way"
    if architecture and stated[0] and architecture != stated[0]:
        raise ValueError(f"has weights of {stated[0]!r}, and this network is {architecture!r}. {cure}")
    if variant and stated[1] and variant != stated[1] and not ALIKE.fullmatch(str(architecture)):
        assumed = "" if "variant" in metadata else " (PyTorch's files name none, and are taken for that)"
        raise ValueError(f"has weights for variant={stated[1]!r}{assumed}, and this network's is {variant!r}. {cure}")
    own = _options(model)
    if own is None:
        return
    for name, value in stated_options(metadata).items():
        if name != "width" and own.get(name) != value:  # width shows in the shapes
            raise ValueError(f"has weights for {name}={value!r}, and this network has {own.get(name)!r}. {cure}")


def stated_variant(architecture: str, metadata: Metadata, source: str | os.PathLike[str]) -> str | None:
    """The variant that the file `source` says its weights are for, if it does.

    PyTorch's files say nothing. For a network in which the same weights fit both variants and compute different things,
    ResNet-50, 101 and 152, they are taken for torchvision's.
    """
    from_pytorch = Path(source).suffix.lower() in (".pth", ".pt")
    return metadata.get("variant", "torchvision" if from_pytorch and MISTAKABLE.fullmatch(architecture) else None)


def stated_options(metadata: Metadata) -> dict[str, Any]:
    """The arguments, beside variant, classes, channels and side, that the network was built with, if the file says.

    Raises:
        ValueError: it says what makes no sense.
    """
    try:
        options = json.loads(metadata.get("options", "{}"))
    except (ValueError, RecursionError):
        options = None
    if not _is_plain(options):
        raise ValueError(f"its metadata has options that make no sense: {metadata['options'][:80]!r}")
    return options


def _cast(name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """`array` as `dtype`; here and not on the way into the network, so that a failure leaves that alone."""
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, casting="same_kind", copy=False)
    except TypeError:
        raise ValueError(f"{name} is {array.dtype}, and the network needs {dtype}") from None
    except FloatingPointError:
        raise ValueError(f"{name} has numbers too large for {dtype}") from None


def read(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> tuple[Arrays, Metadata]:
    """The arrays in a file of weights by name, and its metadata. Arrays may be read-only and share memory.

    The ending of the name says what it is: ``.safetensors``, ``.npz`` (of plain numbers; object arrays, which need
    pickle, are refused), ``.pth`` or ``.pt``. bfloat16 becomes float32. Where the name of a ``.pth`` ends in ``-`` and
    eight hexadecimal digits, as torchvision's do, they must be the first of the file's SHA-256; for those in
    `PUBLISHED` the metadata is known.

    Args:
        max_bytes: the most that the file, and the arrays in it, may take.

    Raises:
        WeightsError: another ending; cut off, too large, damaged or hostile.
        ImportError: safetensors is missing; the message names the extra.
        OSError: the file cannot be opened or read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"{path}: weights are read from files that end in {', '.join(READERS)}")
    try:
        content = _content(path, max_bytes)
        if named := re.fullmatch(r".*-([0-9a-f]{8})\.pth", path.name):
            _check_digest(content, named[1])
        arrays, metadata = reader(content, max_bytes)
        for name in (*arrays, *metadata):
            if len(name) > MAX_NAME or not name.isprintable():
                raise ValueError(f"has a name that no layer has: {name[:40]!r} …")
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    except MemoryError:
        raise WeightsError(f"{path}: there is not enough memory for it") from None
    if path.name in PUBLISHED:
        metadata = {"variant": "torchvision", "classes": "1000", "dataset": "ImageNet-1k", **PUBLISHED[path.name]}
    return arrays, metadata


def _content(path: Path, max_bytes: int) -> bytes:
    """All bytes, read once: what is checked is what is used."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever, a device never end
        raise ValueError("not a file")
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > max_bytes:
            raise ValueError(f"has {size} bytes, more than max_bytes={max_bytes}: weights.read takes another limit")
        return file.read(size)


def _check_digest(content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()[: len(expected)]
    if found != expected:
        raise ValueError(
            f"its SHA-256 starts with {found}, and its name says {expected}: it is damaged or incomplete, download it "
            "again. (If these digits are not meant as a digest, rename the file)"
        )


# -------------------------------------------------------------------------- the formats: bytes in, arrays out


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ImportError(
            "files that end in .safetensors need safetensors: pip install -e '.[data]' (in minicnn's folder)"
        ) from None
    return safetensors


# Their names in safetensors; BF16 is widened. It has others (8 bits and fewer), which none of these networks uses.
TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def _read_safetensors(content: bytes, max_bytes: int) -> tuple[Arrays, Metadata]:
    """Eight bytes with the length of the header, the header (JSON), the numbers; the package checks all of it."""
    library = _safetensors()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, MAX_HEADER):
        raise ValueError(f"cut off or no safetensors file: of {len(content)} bytes, its header would take {length}")
    try:
        entries = library.deserialize(content)
        header = json.loads(content[8 : 8 + length])
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust ends in
            raise
        raise ValueError(f"damaged or no safetensors file: {textwrap.shorten(str(error), 200)!r}") from None
    arrays = {}
    for name, entry in entries:
        code = entry["dtype"]
        if code not in TYPES:
            raise ValueError(f"{name[:MAX_NAME]!r} has the type {code}, known are {', '.join(TYPES)}")
        array = np.frombuffer(entry["data"], TYPES[code]).reshape(entry["shape"])
        arrays[name] = (array.astype(np.uint32) << 16).view(np.float32) if code == "BF16" else array
    return arrays, _metadata(header.get(METADATA, {}))


# The header of an array that NumPy writes is a Python literal. It is matched and not evaluated: hostile literals can
# exhaust Python's parser.
NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|](?:f[248]|[iu][1248]|b1|U\d{1,7}))', "
    rb"'fortran_order': (False|True), 'shape': \(([\d, ]*)\), \} *\n"
)


def _read_npz(content: bytes, max_bytes: int) -> tuple[Arrays, Metadata]:
    """A zip archive of ``.npy`` files, plain or compressed."""
    arrays = {}
    for name, entry in _unzip(content, max_bytes, {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}).items():
        if not name.endswith(".npy"):
            raise ValueError(f"has {name[:MAX_NAME]!r}, and an .npz file has .npy files only")
        arrays[name.removesuffix(".npy")] = _npy(name, entry)
    text = arrays.pop(METADATA, np.array("{}"))
    if strings := [name for name, array in arrays.items() if array.dtype.kind == "U"]:
        raise ValueError(f"{strings[0][:MAX_NAME]!r} is text, and weights are numbers")
    if text.shape != () or text.dtype.kind != "U":
        raise ValueError("its metadata is not a string")
    try:  # not by str(text), which believes that numbers are letters
        letters = text.tobytes().decode("utf-32-be" if text.dtype.str[0] == ">" else "utf-32-le")
        return arrays, _metadata(json.loads(letters.rstrip("\0")))
    except UnicodeDecodeError:
        raise ValueError("its metadata has letters that there are not") from None
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None


def _npy(name: str, content: memoryview) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file; described in numpy.lib.format."""
    size = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(bytes(content[:8]))
    if size is None:
        raise ValueError(f"{name[:MAX_NAME]!r} is not an .npy file of version 1 or 2")
    start = 8 + size + int.from_bytes(content[8 : 8 + size], "little")
    text = bytes(content[8 + size : start][:MAX_NAME])
    header = NPY_HEADER.fullmatch(text)
    if header is None:
        raise ValueError(f"{name[:MAX_NAME]!r} is not an array of plain numbers: {text[:80]!r}")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(n) for n in header[3].split(b",") if n.strip())
    if dtype.itemsize * math.prod(shape) != len(content) - start:
        raise ValueError(f"{name[:MAX_NAME]!r}: {len(content) - start} bytes are not an array {shape} of {dtype}")
    array = np.frombuffer(content, dtype, offset=start) if len(content) > start else np.empty(0, dtype)
    return array.reshape(shape[::-1]).T if header[2] == b"True" else array.reshape(shape)


def _metadata(entries: Any) -> Metadata:
    if type(entries) is not dict or not all(type(value) is str for value in entries.values()):
        raise ValueError("its metadata is not strings under names")
    return entries


def _read_pth(content: bytes, max_bytes: int) -> tuple[Arrays, Metadata]:
    if content[:4] != b"PK\x03\x04":
        return pth.read_stream(content, max_bytes), {}
    # PyTorch does not compress, so the whole is not larger than its parts.
    return pth.read_zip(_unzip(content, len(content), {zipfile.ZIP_STORED}), max_bytes), {}


def _unzip(content: bytes, max_bytes: int, methods: set[int]) -> dict[str, memoryview]:
    """The files in a zip archive by name, each checked against its checksum; those not compressed are not copied."""
    if content.count(b"PK\x01\x02") > MAX_ENTRIES:  # what each entry of the directory starts with
        raise ValueError(f"is an archive of more than {MAX_ENTRIES} files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("two of its files have one name")
            if any(entry.flag_bits & 1 or entry.compress_type not in methods for entry in entries):
                raise ValueError("is encrypted, or compressed in a way that is not used for weights")
            if (total := sum(entry.file_size for entry in entries)) > max_bytes:
                raise ValueError(f"its files would take {total} bytes, and may take {max_bytes}")
            return {
                entry.filename: _inflated(archive, entry) if entry.compress_type else _stored(content, entry)
                for entry in entries
            }
    except Exception as error:  # a dozen types: BadZipFile, zlib.error, NotImplementedError, EOFError, UnicodeError, …
        if type(error) in (ValueError, MemoryError):
            raise
        raise ValueError(f"cut off, damaged or no zip archive: {textwrap.shorten(str(error), 200)!r}") from None


def _inflated(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> memoryview:
    """What `ZipFile.read` gives, but that inflates all there is before it compares with the size announced."""
    with archive.open(entry) as file:
        return memoryview(file.read(entry.file_size))


def _stored(content: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """What `ZipFile.read` gives for an entry that is not compressed; before it: 30 bytes, its name, other facts."""
    header = content[entry.header_offset : entry.header_offset + 30]
    start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
    data = memoryview(content)[start : start + entry.file_size]
    if header[:4] != b"PK\x03\x04" or len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
        raise ValueError("one of its files is cut off or damaged: its checksum is wrong")
    return data


READERS = {".safetensors": _read_safetensors, ".npz": _read_npz, ".pth": _read_pth, ".pt": _read_pth}
