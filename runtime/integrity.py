"""Nothing of a model folder is used before its size and SHA-256 were checked; the manifest's own hash is the model id.

onnxruntime is no validator (it loads most damaged graphs happily) and reads external data by path, so everything it
could open is checked here first: plain files directly in the folder, no link, nothing that the manifest does not list.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ModelDigestMismatch, PlanError, one_line
from runtime.manifest import MAX_MANIFEST_BYTES, UNLISTED, parse_manifest
from runtime.plan import FileSpec, ModelPlan

_CHUNK_BYTES = 1 << 20
# O_NONBLOCK: opening a named pipe must not hang; it is refused right after as no plain file.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COPY_AGAIN = "copy the model folder again from a board that verifies it"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMark:
    """Identity of a file when it was verified; another mark later means that somebody replaced or rewrote it."""

    name: str
    inode: tuple[int, int]
    size_bytes: int
    changed_ns: tuple[int, int]


def open_model(folder: Path) -> ModelPlan:
    """Read `folder`'s manifest, check every file it lists and return the plan.

    Raises PlanError (manifest or folder not allowed) or ModelDigestMismatch (content differs), each in one line.
    """
    with _directory(folder) as at:
        plan = parse_manifest(_read_small(at, "manifest.json", MAX_MANIFEST_BYTES))
        _refuse_unlisted(at, plan)
        for file in plan.files:
            _verify(at, file)
    return plan


def read_plan(folder: Path) -> ModelPlan:
    """The plan alone, without hashing the files: for listings. What it names must not be loaded on this ground."""
    with _directory(folder) as at:
        return parse_manifest(_read_small(at, "manifest.json", MAX_MANIFEST_BYTES))


def mark_files(folder: Path, plan: ModelPlan) -> tuple[FileMark, ...]:
    """The present identity of every listed file: taken before verifying, compared after loading from the same paths."""
    with _directory(folder) as at:
        return tuple(_mark(at, file.name) for file in plan.files)


@contextmanager
def _directory(folder: Path) -> Iterator[int]:
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise PlanError(
            f"the model folder {one_line(folder)} cannot be opened ({exc.strerror})",
            "check the models path and its rights",
        ) from exc
    try:
        yield at
    finally:
        os.close(at)


@contextmanager
def _file(at: int, name: str) -> Iterator[tuple[int, os.stat_result]]:
    try:
        handle = os.open(name, _OPEN_FILE, dir_fd=at)
    except FileNotFoundError as exc:
        raise PlanError(f"{name} is missing in the model folder", _COPY_AGAIN) from exc
    except OSError as exc:
        reason = "it is a symbolic link" if exc.errno == errno.ELOOP else str(exc.strerror)
        raise PlanError(f"{name} cannot be read ({reason})", "put a plain, readable file in its place") from exc
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise PlanError(f"{name} is not a plain file", "put a plain, readable file in its place")
        yield handle, found
    finally:
        os.close(handle)


def _read_small(at: int, name: str, limit: int) -> bytes:
    with _file(at, name) as (handle, found):
        if found.st_size > limit:
            raise PlanError(f"{name} has {found.st_size} bytes, more than {limit}", _COPY_AGAIN)
        data = bytearray()
        while chunk := _read(handle, name):
            data += chunk
            if len(data) > limit:
                raise PlanError(f"{name} grows beyond {limit} bytes", _COPY_AGAIN)
        return bytes(data)


def _refuse_unlisted(at: int, plan: ModelPlan) -> None:
    # A graph's external data may name any file beside it: an unlisted one would be read without having been verified.
    extra = sorted(set(os.listdir(at)) - {file.name for file in plan.files} - UNLISTED)
    if extra:
        raise PlanError(
            f"the model folder holds {one_line(extra[0], 80)}, which its manifest does not list", "remove it"
        )


def _verify(at: int, file: FileSpec) -> None:
    with _file(at, file.name) as (handle, found):
        if found.st_size != file.size_bytes:
            raise ModelDigestMismatch(file.name, f"{file.size_bytes} bytes", f"{found.st_size} bytes")
        digest = hashlib.sha256()
        while chunk := _read(handle, file.name):
            digest.update(chunk)
        if digest.hexdigest() != file.sha256:
            raise ModelDigestMismatch(file.name, f"sha256 {file.sha256[:16]}…", f"sha256 {digest.hexdigest()[:16]}…")


def _mark(at: int, name: str) -> FileMark:
    with _file(at, name) as (_, found):
        return FileMark(
            name=name,
            inode=(found.st_dev, found.st_ino),
            size_bytes=found.st_size,
            changed_ns=(found.st_mtime_ns, found.st_ctime_ns),
        )


def _read(handle: int, name: str) -> bytes:
    try:
        return os.read(handle, _CHUNK_BYTES)
    except OSError as exc:
        raise PlanError(f"{name} cannot be read ({exc.strerror})", "check the disk, then copy the model again") from exc
