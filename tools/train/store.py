"""Files of a run: each is written beside its place and renamed, so that a full disk leaves the last whole one."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from pickle import PicklingError
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


class RunError(Exception):
    """A run cannot go on; the message is one line that names cause and remedy."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file and put it in the place of `path`; raises RunError when the disk refuses."""
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        fresh.replace(path)
    except (OSError, RuntimeError, PicklingError) as error:
        # torch reports a full disk as RuntimeError from its archive writer.
        fresh.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise RunError(f"cannot write {path}: {reason}; free some space and start the same command again") from error


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON document."""
    write_whole(path, lambda fresh: fresh.write_text(json.dumps(value, indent=1) + "\n"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    write_whole(path, lambda fresh: save_file(dict(tensors), fresh))


def write_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Write a torch archive of tensors and plain values."""
    write_whole(path, lambda fresh: torch.save(dict(state), fresh))


def read_checkpoint(
    path: Path, recipe: Mapping[str, object], *, free: Collection[str] = ()
) -> dict[str, Any] | None:  # Any: what torch.save was given
    """The checkpoint, or None when there is none; raises RunError for a damaged one or one of another recipe.

    Fields named in `free` may differ.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")  # Any: see above
        old = state["recipe"]
    except Exception as error:  # the archive reader raises many kinds for a damaged file
        raise RunError(f"{path} is no checkpoint of this program: remove it or choose another --run") from error
    changed = sorted(name for name in recipe if name not in free and old.get(name) != recipe[name])
    if changed:
        raise RunError(f"{path} was made with another {changed[0]}: repeat its parameters or choose another --run")
    return state
