"""A model that is only half here, on the disk: parts are written where they belong, and found again after any end.

    TARGET/.partial-ID/model/manifest.json and the files it lists     becomes TARGET/NAME by one rename
    TARGET/.partial-ID/journal                                        one record per part: its place and a hash of it

A record counts only when the part on the disk has its hash. So nothing needs to reach the disk in order: after a kill
or a power cut at any byte, what is whole is kept and the rest is fetched again. Every file is hashed as a whole before
the rename, whatever the journal says.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from peer.errors import NotFetched
from peer.protocol.bulk_messages import CHUNK_BYTES
from runtime.plan import ModelPlan

_RECORD = struct.Struct(">II16s")  # file, chunk, hash
_PREFIX = ".partial-"
_MANIFEST = "manifest.json"
_ROOM_BYTES = 16 << 20  # that stay free on the disk for everything else
_READ_BYTES = 1 << 20


def kept_manifest(target: Path, model: str) -> bytes:
    """The manifest that an earlier run left, unverified; empty when there is none."""
    try:
        with (target / f"{_PREFIX}{model}" / "model" / _MANIFEST).open("rb") as file:
            return file.read(4 << 20)
    except OSError:
        return b""


def target_of(models: Path, state_dir: Path) -> Path:
    """Where fetched models go: the models folder, or the state folder's own where that one cannot be written."""
    return models if os.access(models, os.W_OK | os.X_OK) else state_dir / "models"


class PartialCopy:
    """One model in the making. Every method raises NotFetched with one line when the disk refuses."""

    def __init__(self, target: Path, manifest: bytes, plan: ModelPlan) -> None:
        """Make or find the folder, and make sure that the rest will fit."""
        self._target = target
        self._plan = plan
        self._place = target / f"{_PREFIX}{plan.model_id}"
        self._folder = self._place / "model"
        with self._refusals():
            self._remove_others()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write_new(self._folder / _MANIFEST, manifest)
            self._check_room()
            self._journal = os.open(self._place / "journal", _flags(os.O_RDWR | os.O_APPEND | os.O_CREAT), 0o600)

    def have(self) -> frozenset[tuple[int, int]]:
        """(file, chunk) of every part that is here as it was written."""
        with self._refusals():
            with open(self._place / "journal", "rb") as journal:
                data = journal.read()
            # What a torn write left at the end would shift every later record.
            os.ftruncate(self._journal, len(data) // _RECORD.size * _RECORD.size)
            records = {(f, c): h for f, c, h in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size])}
            found = frozenset(place for place, digest in records.items() if self._holds(*place, digest))
            for number, file in enumerate(self._plan.files, start=1):
                if file.size_bytes == 0:
                    os.close(self._open(number, os.O_WRONLY | os.O_CREAT))
        return found

    def write(self, file: int, chunk: int, data: bytes) -> None:
        """One part into its place, then into the journal."""
        with self._refusals():
            handle = self._open(file, os.O_WRONLY | os.O_CREAT)
            try:
                at, view = chunk * CHUNK_BYTES, memoryview(data)
                while view:
                    done = os.pwrite(handle, view, at)
                    at, view = at + done, view[done:]
            finally:
                os.close(handle)
            os.write(self._journal, _RECORD.pack(file, chunk, _digest(data)))

    def right(self, file: int) -> bool:
        """Whether the file has the size and the SHA-256 that the manifest gives."""
        wanted, digest = self._plan.files[file - 1], hashlib.sha256()
        try:
            handle = self._open(file, os.O_RDONLY)
        except OSError:
            return False
        with os.fdopen(handle, "rb", buffering=0) as content, self._refusals():
            if os.fstat(handle).st_size != wanted.size_bytes:
                return False
            while part := content.read(_READ_BYTES):
                digest.update(part)
        return digest.hexdigest() == wanted.sha256

    def drop(self, file: int) -> None:
        """Forget the content of a file; its records in the journal no longer match then."""
        with self._refusals(), contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / self._plan.files[file - 1].name)

    def install(self) -> Path:
        """Everything to the disk, then the folder into its place by one rename; returns the place."""
        with self._refusals():
            for name in (_MANIFEST, *(file.name for file in self._plan.files)):
                _sync(self._folder / name)
            _sync(self._folder)
            place = next(place for place in self._free_names() if not place.exists() and not place.is_symlink())
            self._folder.rename(place)
            _sync(self._target)
        self.close()
        shutil.rmtree(self._place, ignore_errors=True)
        return place

    def close(self) -> None:
        """Let go of the journal; what is here stays for the next time."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _free_names(self) -> Iterator[Path]:
        name = self._plan.name
        yield self._target / name
        yield self._target / f"{name}-{self._plan.model_id[:12]}"
        for number in range(2, 1000):
            yield self._target / f"{name}-{self._plan.model_id[:12]}-{number}"

    def _open(self, file: int, flags: int) -> int:
        return os.open(self._folder / self._plan.files[file - 1].name, _flags(flags), 0o644)

    def _holds(self, file: int, chunk: int, digest: bytes) -> bool:
        if not 1 <= file <= len(self._plan.files):
            return False
        length = min(CHUNK_BYTES, self._plan.files[file - 1].size_bytes - chunk * CHUNK_BYTES)
        try:
            handle = self._open(file, os.O_RDONLY)
        except OSError:
            return False
        try:
            data = os.pread(handle, max(0, length), chunk * CHUNK_BYTES)
        finally:
            os.close(handle)
        return length > 0 and len(data) == length and _digest(data) == digest

    def _remove_others(self) -> None:
        """Half copies of other models: one at a time is enough for a small disk."""
        self._target.mkdir(parents=True, exist_ok=True)
        for other in self._target.glob(f"{_PREFIX}*"):
            if other != self._place:
                shutil.rmtree(other, ignore_errors=True)

    def _check_room(self) -> None:
        here = sum(path.stat().st_blocks * 512 for path in self._folder.iterdir())
        missing = max(0, self._plan.size_bytes - here)
        disk = os.statvfs(self._target)
        free = disk.f_bavail * disk.f_frsize
        if free < missing + _ROOM_BYTES:
            raise NotFetched(
                f"model {self._plan.name} needs {missing / 1e6:.0f} MB, {self._target} has {free / 1e6:.0f} MB free, "
                f"of which {_ROOM_BYTES / 1e6:.0f} stay free; make room there, or name another folder with --models"
            )

    @staticmethod
    def _write_new(path: Path, data: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, _flags(os.O_WRONLY | os.O_CREAT | os.O_EXCL), 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "make room there" if full else "check the disk and its rights"
            raise NotFetched(
                f"model {self._plan.name} cannot be written to {self._target} ({problem.strerror}); {remedy}"
            ) from problem


def _flags(flags: int) -> int:
    return flags | os.O_NOFOLLOW | os.O_CLOEXEC


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16, person=b"tokenring-part").digest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
