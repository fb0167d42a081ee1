"""Which files `peerctl infer` sends, and how it reads them without being hurt by odd ones.

Only regular files are read; nothing here waits on a FIFO, wakes a device, or loads a file without an end.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from peer.control_protocol import MAX_BLOB_BYTES
from peer.errors import BadInput

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def gather(named: Sequence[Path]) -> tuple[list[Path], list[BadInput]]:
    """The files to classify, in order: each file named, and the images directly in each folder named, sorted."""
    found: list[Path] = []
    failures: list[BadInput] = []
    for path in named:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            images = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as exc:
            failures.append(BadInput(f"{path}: cannot list the folder: {exc.strerror}; check its permissions"))
            continue
        if not images:
            failures.append(BadInput(f"{path}: no images in this folder; name files or another folder"))
        found.extend(images)
    return found, failures


def read_image(path: Path) -> bytes:
    """A file's bytes; BadInput when it is no regular file, empty, too large or unreadable."""
    try:
        # Looked at before it is opened: opening alone sets some devices going.
        _check(path, path.stat())
        # O_NONBLOCK: between the look and the opening a FIFO may have taken the name; opening it must not wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            _check(path, os.fstat(descriptor))
            data = file.read(MAX_BLOB_BYTES + 1)
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror or exc}; check its name and permissions") from exc
    except ValueError as exc:  # a NUL in the name
        raise BadInput(f"{path}: not a file name") from exc
    if not data:
        raise BadInput(f"{path}: the file is empty; give an image")
    if len(data) > MAX_BLOB_BYTES:
        raise _too_large(path)
    return data


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{path}: {_kind(status.st_mode)}, not a regular file; give an image file or a folder of them")
    if status.st_size > MAX_BLOB_BYTES:
        raise _too_large(path)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "a device"


def _too_large(path: Path) -> BadInput:
    return BadInput(f"{path}: larger than {MAX_BLOB_BYTES >> 20} MiB; make the image smaller")
