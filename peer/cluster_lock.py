"""The cluster's token as this board keeps it: the file it was given, and a rotated one that came from another member.

The given file may be read-only (a credential), so a rotated token lies in the state folder, with a fingerprint of the
given one that it replaces: when a person puts another token into the given file, that one counts again.
"""

import hashlib
import json
import logging
from pathlib import Path

from peer.cluster_token import TOKEN_BYTES, read_token
from peer.config import PeerdConfig
from peer.errors import ConfigError, NotAdmitted
from peer.protocol.types import Lock
from peer.state_file import replace_private

_log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_FILE = "token.rotated"
_MAX_BYTES = 4096


def read_lock(config: PeerdConfig) -> Lock | None:
    """The token to start with; None on loopback without one. Raises NotAdmitted elsewhere, and ConfigError."""
    if config.token_file is None:
        if config.listen.host in LOOPBACK:
            return None
        raise NotAdmitted(
            f"listening on {config.listen} needs a cluster token, or anybody on the network could join; "
            "give this board the cluster's with peerctl join TOKEN, or name a file with --token-file"
        )
    given = read_token(config.token_file)
    return _read_rotated(config.state_dir / _FILE, given) or Lock(token=given, generation=0)


def write_lock(config: PeerdConfig, lock: Lock) -> None:
    """Keep a rotated token; where that fails the rotation holds until the next start, and a line says so."""
    path = config.state_dir / _FILE
    try:
        given = read_token(config.token_file) if config.token_file is not None else b""
        entry = {"replaces": _fingerprint(given), "token": lock.token.hex(), "generation": lock.generation}
        replace_private(path, json.dumps(entry))
    except (OSError, ConfigError) as problem:
        _log.warning("the new cluster token cannot be kept (%s); give it to this board again after a restart", problem)


def _read_rotated(path: Path, given: bytes) -> Lock | None:
    try:
        with path.open("rb") as file:
            entry = json.loads(file.read(_MAX_BYTES))
        token, generation, replaces = bytes.fromhex(entry["token"]), entry["generation"], entry["replaces"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        _log.warning("%s is damaged (%s); the token that was given counts", path, problem)
        return None
    usable = len(token) == TOKEN_BYTES and type(generation) is int and 0 < generation < 1 << 32
    return Lock(token=token, generation=generation) if usable and replaces == _fingerprint(given) else None


def _fingerprint(token: bytes) -> str:
    return hashlib.blake2b(token, digest_size=16, person=b"tokenring-given").hexdigest()
