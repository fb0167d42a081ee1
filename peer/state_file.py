"""A small private file of a state folder, replaced as a whole: after a power cut it is the old one or the new one."""

import contextlib
import os
from pathlib import Path


def replace_private(path: Path, text: str) -> None:
    """Put `text` (ASCII) in the place of `path`, mode 0600, and wait for the disk. OSError leaves the old file."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)  # on a full disk even half of it is in the way
        raise
    # The new name is as durable as the content once the folder is on disk too; not every file system can promise that.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
