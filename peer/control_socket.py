"""The control socket as a file: made with the right permissions, replaced when stale, removed by its owner only."""

import contextlib
import os
import socket
import stat
from pathlib import Path

from peer.errors import ConfigError

_SOCKET_MODE = 0o660
_FOLDER_MODE = 0o700
_PROBE_DEADLINE_S = 1.0
# Clients that may wait to be accepted; the kernel holds them, not this process.
_BACKLOG = 128


def listen(path: Path) -> socket.socket:
    """Bind a control socket at `path`, replacing one that nobody answers on; ConfigError otherwise."""
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            # Nobody can connect before listen(), so there is no moment with looser permissions.
            path.chmod(_SOCKET_MODE)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(f"cannot listen on {path}: {exc.strerror or exc}; name another with --socket") from exc
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is no socket; remove it or name another with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_DEADLINE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (BlockingIOError, TimeoutError):
            pass  # Its queue of clients is full: somebody is there.
    raise ConfigError(f"another daemon answers on {path}; stop it or name another with --socket")


def inode(path: Path) -> int:
    """The number by which `remove` recognises its own socket."""
    return path.lstat().st_ino


def remove(path: Path, own_inode: int) -> None:
    """Remove the socket file, unless another daemon has made the path its own since."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_ino == own_inode:
            path.unlink()
