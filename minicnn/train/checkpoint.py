"""Checkpoints: files that a training goes on from, which survive whatever happens while they are written.

A checkpoint is an ``.npz`` file: arrays, and one text (JSON) with everything else; reading it runs nothing in it. The
comment of the archive is the SHA-256 of all that comes before it, which reading verifies. A file is written beside
its place under another name, brought to the disk, and only then put there (`weights.replacing`); then the folder is
brought to the disk too. So a crash at any moment leaves the checkpoints of before, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import weights

FACTS = "__facts__"  # in the metadata
DIGITS = 64  # of a SHA-256
NAME = re.compile(r"step-(\d{9})\.npz")
BAD = ".bad"  # at the end of the name of one that was set aside
UNFINISHED = ".*.part"  # what `weights.replacing` writes to before it puts it in its place
MAX_BYTES = 1 << 33

Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message has the file and the reason."""


class _Digesting:
    """A stream that passes on what is written to it but the last `DIGITS` bytes, and digests it."""

    def __init__(self, file: Any):
        self.file, self.digest, self.held = file, hashlib.sha256(), b""

    def write(self, data: Any) -> int:
        data = bytes(data)
        joined = self.held + data
        passed, self.held = joined[:-DIGITS], joined[-DIGITS:]
        self.digest.update(passed)
        self.file.write(passed)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def write(path: str | os.PathLike[str], arrays: Arrays, facts: Facts) -> None:
    """Write a checkpoint, all of it or nothing.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    text = json.dumps({FACTS: json.dumps(facts)})
    with weights.replacing(path) as file:
        stream: Any = _Digesting(file)
        with zipfile.ZipFile(stream, "w") as archive:
            for name, array in {**arrays, weights.METADATA: np.array(text)}.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            archive.comment = b"0" * DIGITS
        file.write(stream.digest.hexdigest().encode())
    sync_folder(Path(path).parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # nor do all file systems
        pass
    finally:
        os.close(handle)


def read(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> tuple[Arrays, Facts]:
    """What was given to `write`. Arrays may be read-only.

    Raises:
        CheckpointError: damaged, cut off, or no checkpoint.
        OSError: the file cannot be opened or read.
    """
    verify(path)
    try:
        arrays, metadata = weights.read(path, max_bytes)
        facts = json.loads(metadata[FACTS])
    except (KeyError, RecursionError, weights.WeightsError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{os.fspath(path)}: no checkpoint: {str(error)[:300]}") from None
    if type(facts) is not dict:
        raise CheckpointError(f"{os.fspath(path)}: no checkpoint: what it says is no table")
    return arrays, facts


def verify(path: str | os.PathLike[str]) -> None:
    """Compare the digest at the end of a checkpoint with the rest of it.

    Raises:
        CheckpointError: they differ.
        OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - DIGITS
        digest = hashlib.sha256()
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        noted = file.read(DIGITS)
    if left != 0 or noted != digest.hexdigest().encode():
        raise CheckpointError(f"{os.fspath(path)}: damaged or cut off: its SHA-256 is not the one at its end")


def _reason(error: OSError) -> str:
    return str(error) if error.errno is None else os.strerror(error.errno)


class Checkpoints:
    """The checkpoints in a folder, of which the latest few are kept.

    Args:
        folder: made when the first is written.
        keep: how many.
    """

    def __init__(self, folder: Path, keep: int = 3):
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """The newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)

    def whole(self) -> list[Path]:
        """Those that are not damaged, the newest first."""

        def is_whole(path: Path) -> bool:
            try:
                verify(path)
            except (CheckpointError, OSError):
                return False
            return True

        return list(filter(is_whole, self.paths()))

    def path(self, number: int) -> Path:
        """Where the checkpoint of step `number` is, if there is one."""
        return self.folder / f"step-{number:09}.npz"

    def save(self, number: int, arrays: Arrays, facts: Facts) -> Path:
        """Write the checkpoint of step `number`, then remove the oldest.

        Raises:
            OSError: it cannot be written: the disk is full, say. Those of before are still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(number)
        try:
            write(path, arrays, facts)
        except OSError as error:
            kept = self.paths()
            last = f"the last one is {kept[0]}" if kept else "there is none from before"
            free = shutil.disk_usage(self.folder).free / 1e6
            raise OSError(
                error.errno,
                f"the checkpoint of step {number} could not be written ({_reason(error)}; {free:.0f} MB are free "
                f"there), {last}. With space, 'minicnn resume {self.folder.parent}' goes on",
            ) from error
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def set_aside(self, path: Path) -> Path | None:
        """Give a checkpoint that leads nowhere another name, so that the one before is taken; its new name.

        The only whole one stays, and None comes back. Of those set aside the latest is kept.

        Raises:
            OSError: it cannot be renamed.
        """
        if not [other for other in self.whole() if other != path]:
            return None
        for old in self.folder.glob(f"*{BAD}"):
            old.unlink(missing_ok=True)
        aside = path.with_name(path.name + BAD)
        os.replace(path, aside)
        sync_folder(self.folder)
        return aside

    def load(self) -> Iterator[tuple[Path, Arrays, Facts]]:
        """The newest checkpoint that is whole; asked again, the one before. Broken ones are told of in a warning."""
        paths = self.paths()
        for path in paths:
            try:
                arrays, facts = read(path)
            except (CheckpointError, OSError) as error:
                then = "It was the last of them" if path == paths[-1] else "The one before is taken"
                warnings.warn(f"{error}. {then}", stacklevel=2)
                continue
            yield path, arrays, facts

    def tidy(self) -> None:
        """Remove what writes that were cut off have left behind."""
        for folder in (self.folder, self.folder.parent):
            if folder.is_dir():
                for path in folder.glob(UNFINISHED):
                    path.unlink(missing_ok=True)
