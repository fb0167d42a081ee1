"""Who this board is across restarts: a random id, and an incarnation that grows with every start.

No wall clock: boards without one boot in the past. Both live in one small file, replaced atomically.
"""

import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from peer.protocol.types import PEER_ID_BYTES, Incarnation, PeerId

_log = logging.getLogger(__name__)
_FILE = "identity.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    peer: PeerId
    incarnation: Incarnation


def next_identity(state_dir: Path) -> Identity:
    """Read the identity, raise its incarnation and write it back; a new one where there is none or it is damaged.

    A state folder that cannot be written does not stop the board: it then serves under an identity of this run only.
    """
    path = state_dir / _FILE
    known = _read(path)
    if known is None:
        identity = Identity(peer=PeerId(secrets.token_hex(PEER_ID_BYTES)), incarnation=Incarnation(1))
    else:
        identity = Identity(peer=known.peer, incarnation=Incarnation(known.incarnation + 1))
    try:
        _write(path, identity)
    except OSError as problem:
        if known is not None:
            # The stored incarnation stays behind, so this run must not pass for the same board as the last one.
            identity = Identity(peer=PeerId(secrets.token_hex(PEER_ID_BYTES)), incarnation=Incarnation(1))
        _log.warning("the state folder %s cannot be written (%s); this board has no lasting id", state_dir, problem)
    return identity


def _read(path: Path) -> Identity | None:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
        peer, incarnation = bytes.fromhex(data["id"]), data["incarnation"]
        if len(peer) != PEER_ID_BYTES or type(incarnation) is not int or not 0 < incarnation < 2**63:
            raise ValueError("out of range")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        _log.warning("%s is damaged (%s); this board takes a new id", path, problem)
        return None
    return Identity(peer=PeerId(peer.hex()), incarnation=Incarnation(incarnation))


def _write(path: Path, identity: Identity) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        json.dump({"id": identity.peer, "incarnation": identity.incarnation}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
