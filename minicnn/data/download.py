"""Files from the network: what lies in the cache under its name is the right file, whole.

pooch keeps the cache: a file arrives under another name, and gets its own once its SHA-256 is the one that was asked
for; one that is there already is checked too. A failed download starts again from nothing, at the next mirror.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .extra import need

VARIABLE = "MINICNN_HOME"

ROUNDS = 3  # how often all mirrors are asked
PAUSE = 1.0  # seconds before the second round, twice as many before the third


class Remote(NamedTuple):
    """A file that can be downloaded."""

    name: str
    sha256: str
    size: int | None = None  # bytes, where known


class DownloadError(OSError):
    """A file could not be downloaded; the message says why, and how to get it by hand."""


def home() -> Path:
    """The folder that data sets are kept in: MINICNN_HOME where that is set, else minicnn's in the user's cache folder.

    Raises:
        ImportError: MINICNN_HOME is not set, and platformdirs is missing; the message names the extra.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        return Path(named).expanduser()
    return Path(need("platformdirs", "a place for data sets").user_cache_dir("minicnn", appauthor=False))


def by_hand(remote: Remote, mirrors: Sequence[str], folder: Path) -> str:
    """How to get a file without minicnn's help, in a sentence."""
    return (
        f"By hand: fetch {mirrors[0]}{remote.name} on any machine, for instance with a browser, and put it into "
        f"{folder} (its SHA-256 is {remote.sha256})"
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file at `path`, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def archive_of(title: str, remote: Remote, mirrors: Sequence[str], root: Path, download: bool) -> Path:
    """The path of an archive whose digest is right: in the folder called `title` in `root`, or in `root` itself.

    Args:
        title: the class of the data set.
        download: get it where it is missing or damaged.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
        ValueError: what is there is damaged, or another file.
        DownloadError, ImportError, OSError: as `fetch`.
    """
    own = root / title
    for path in (own / remote.name, root / remote.name):
        if path.is_file():
            digest = sha256_of(path)
            if digest == remote.sha256:
                return path
            if not download:
                raise ValueError(
                    f"{path}: damaged or another file, its SHA-256 is {digest}, expected {remote.sha256}. "
                    f"{title}(download=True) gets it anew"
                )
    if download:
        return fetch(remote, mirrors, own)
    raise FileNotFoundError(
        f"{title}: {remote.name} is neither in {own} nor in {root}. {title}(download=True) gets it. "
        f"{by_hand(remote, mirrors, own)}"
    )


def fetch(remote: Remote, mirrors: Sequence[str], folder: Path, progress: bool = True) -> Path:
    """The path of `remote` in `folder`, downloaded unless it is there already and right.

    Args:
        mirrors: addresses to put its name after, the first to be asked first.
        progress: show a bar, if standard error is a terminal.

    Raises:
        DownloadError: no mirror gave the right file; what is in `folder` is as it was.
        ImportError: pooch or tqdm is missing; the message names the extra.
        OSError: `folder` cannot be written.
    """
    from .transfer import Refused, chunks  # imports much that those who download nothing do not need

    pooch = need("pooch", "downloads")
    bar = need("tqdm", "downloads").tqdm
    pooch.get_logger().setLevel("WARNING")  # its notes would go between the bars

    def download(url: str, target: str, _: Any) -> None:
        shown = bar(total=remote.size, desc=remote.name, unit="B", unit_scale=True, disable=None if progress else True)
        with shown, open(target, "wb") as file:
            for chunk in chunks(url, remote.size):
                file.write(chunk)
                shown.update(len(chunk))

    reasons: dict[str, str] = {}
    left = [mirror + remote.name for mirror in mirrors]
    for attempt in range(ROUNDS):
        time.sleep(PAUSE * attempt)
        for url in list(left):
            try:
                got = pooch.retrieve(url, f"sha256:{remote.sha256}", remote.name, folder, downloader=download)
            except Refused as refusal:
                reasons[url] = str(refusal)
                if refusal.for_good:
                    left.remove(url)
            except ValueError:  # pooch's for a digest
                reasons[url] = "gave another file: its SHA-256 is not the one expected"
            else:
                return Path(got)
        if not left:
            break
    said = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise DownloadError(f"{remote.name} could not be downloaded ({said}). {by_hand(remote, mirrors, folder)}")
