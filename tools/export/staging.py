"""A folder that appears complete or not at all: written beside its place, renamed at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.export.failure import WrongUsage


@contextmanager
def staged(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A fresh folder on the same file system; becomes `out` when the block ends well, vanishes when it does not.

    `out` must not exist or be empty unless `replace`; then the old folder stays until the new one is whole.
    Raises WrongUsage.
    """
    refuse_occupied(out, replace=replace)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp's 0700 would hide the model from the daemon's user
        for path in fresh.iterdir():
            with path.open("rb") as stream:  # what a rename publishes must have reached the disk
                os.fsync(stream.fileno())
        _publish(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def refuse_occupied(out: Path, *, replace: bool) -> None:
    """Raise WrongUsage if `out` is there and may not be replaced: asked before hours of work, and again after them."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise WrongUsage(f"{out} is no folder", "give another --out")
    if not replace and out.exists() and any(out.iterdir()):
        raise WrongUsage(f"{out} is not empty", "give another --out, or --replace")


def _publish(fresh: Path, out: Path) -> None:
    if not out.exists():
        fresh.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    try:
        out.rename(old)  # onto an empty folder, which a rename replaces
        fresh.rename(out)
    except OSError:
        if not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
