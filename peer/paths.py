"""Where things lie on a machine: system paths for the service, XDG paths for a person.

Reads the environment it is given and looks whether files exist; never creates anything.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOCKET_NAME = "peerd.sock"
CONFIG_NAME = "peerd.toml"
SYSTEM_CONFIG = Path("/etc/tokenring") / CONFIG_NAME
SYSTEM_STATE = Path("/var/lib/tokenring")
SYSTEM_SOCKET = Path("/run/tokenring") / SOCKET_NAME
# Root's alone; the unit hands it to the service as a credential of that name.
SYSTEM_TOKEN = Path("/etc/tokenring/token")

# sun_path holds 108 bytes with the closing zero (unix(7)).
SOCKET_PATH_LIMIT_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The default places of one daemon."""

    config_file: Path
    state_dir: Path
    socket: Path
    # Where a token that somebody provided lies, if it does; it counts before the state folder's own.
    provided_token: Path | None = None


def places(environ: Mapping[str, str], *, uid: int, system_config: Path = SYSTEM_CONFIG) -> Places:
    """Choose the places: the service's under systemd or for root with a system configuration, else a person's.

    systemd names the directories it made in STATE_DIRECTORY and RUNTIME_DIRECTORY; several are separated by colons.
    """
    if "STATE_DIRECTORY" in environ or (uid == 0 and system_config.is_file()):
        runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        credentials = environ.get("CREDENTIALS_DIRECTORY", "")
        provided = Path(credentials) / SYSTEM_TOKEN.name if credentials else system_config.with_name(SYSTEM_TOKEN.name)
        return Places(
            config_file=system_config,
            state_dir=Path(environ.get("STATE_DIRECTORY", "").split(":")[0] or SYSTEM_STATE),
            socket=Path(runtime) / SOCKET_NAME if runtime else SYSTEM_SOCKET,
            provided_token=provided if credentials or uid == 0 else None,
        )
    state_dir = _xdg(environ, "XDG_STATE_HOME", ".local/state")
    runtime_dir = environ.get("XDG_RUNTIME_DIR", "")
    return Places(
        config_file=_xdg(environ, "XDG_CONFIG_HOME", ".config") / CONFIG_NAME,
        state_dir=state_dir,
        socket=(Path(runtime_dir) / "tokenring" if os.path.isabs(runtime_dir) else state_dir) / SOCKET_NAME,
    )


def control_socket(environ: Mapping[str, str], *, uid: int, system_socket: Path = SYSTEM_SOCKET) -> Path:
    """The socket that `peerctl` speaks to: TOKENRING_SOCKET, else the person's daemon, else the system's."""
    return control_sockets(environ, uid=uid, system_socket=system_socket)[0]


def control_sockets(environ: Mapping[str, str], *, uid: int, system_socket: Path = SYSTEM_SOCKET) -> tuple[Path, ...]:
    """`control_socket`, and behind it those of TOKENRING_OTHER_SOCKETS, for when that daemon dies; colons between."""
    named = environ.get("TOKENRING_SOCKET")
    if named:
        first = Path(named)
    else:
        own = places(environ, uid=uid).socket
        first = system_socket if not own.exists() and system_socket.exists() else own
    others = (Path(other) for other in environ.get("TOKENRING_OTHER_SOCKETS", "").split(":") if other)
    return (first, *(other for other in others if other != first))


def shipped_models() -> Path | None:
    """The models that came with the software: of a checkout, or of a release that was installed as a whole."""
    checkout = Path(__file__).resolve().parent.parent / "models_onnx"
    release = Path(sys.prefix) / "models"
    return next((folder for folder in (checkout, release) if folder.is_dir()), None)


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    """A person's base directory; the XDG specification says that a relative value must be ignored."""
    value = environ.get(variable, "")
    base = Path(value) if os.path.isabs(value) else Path(environ.get("HOME") or Path.home()) / fallback
    return base / "tokenring"
