"""Who this board is across restarts: a long-term key, the id that is its fingerprint, and a count of starts.

No wall clock: boards without one boot in the past. All of it lies in one small file for the owner's eyes, replaced
atomically. The file also holds a tag of the machine it was made on: a card image copied to a second board would make
two boards with one identity, so there the key is made anew.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from peer.protocol.types import PUBLIC_KEY_BYTES, REFUTATION_BITS, Incarnation, PeerId, peer_id
from peer.state_file import replace_private
from peer.zmq_transport import KeyPair, key_pair_of, new_key_pair

_log = logging.getLogger(__name__)
_FILE = "identity.json"
_MAX_BYTES = 4096
_MAX_STARTS = 1 << 40
MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One run of one board."""

    keys: KeyPair
    incarnation: Incarnation
    cloned: bool = False  # the state folder came from another machine, and a new key was made

    @property
    def peer(self) -> PeerId:
        return peer_id(self.keys.public)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Stored:
    secret: bytes
    machine: str
    starts: int


def next_identity(state_dir: Path, machine_id: Path = MACHINE_ID) -> Identity:
    """Read the identity, count this start and write it back; a new one where there is none or it is damaged.

    A state folder that cannot be written does not stop the board: it then serves under an identity of this run only.
    """
    path, machine = state_dir / _FILE, _machine_tag(machine_id)
    known = _read(path)
    cloned = known is not None and bool(known.machine) and bool(machine) and known.machine != machine
    if cloned:
        _log.warning("%s was made on another machine; this board takes a new identity", path)
        known = None
    stored = _Stored(secret=new_key_pair().secret, machine=machine, starts=1)
    if known is not None:
        stored = _Stored(secret=known.secret, machine=machine or known.machine, starts=known.starts + 1)
    try:
        _write(path, stored)
    except OSError as problem:
        if known is not None:
            # The stored count stays behind, so this run must not pass for the same board as the last one.
            stored = _Stored(secret=new_key_pair().secret, machine=machine, starts=1)
        _log.warning("the state folder %s cannot be written (%s); this board has no lasting id", state_dir, problem)
    return Identity(
        keys=key_pair_of(stored.secret), incarnation=Incarnation(stored.starts << REFUTATION_BITS), cloned=cloned
    )


def _machine_tag(path: Path) -> str:
    """A fingerprint of the machine-id, which is not to be passed on itself (machine-id(5)); empty without one."""
    try:
        with path.open("rb") as file:
            machine = file.read(_MAX_BYTES).strip()
    except OSError:
        return ""
    return hashlib.blake2b(machine, digest_size=16, person=b"tokenring-host").hexdigest() if machine else ""


def _read(path: Path) -> _Stored | None:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
        secret, machine, starts = bytes.fromhex(data["secret"]), data["machine"], data["starts"]
        if len(secret) != PUBLIC_KEY_BYTES or type(machine) is not str:
            raise ValueError("out of range")
        if type(starts) is not int or not 0 < starts < _MAX_STARTS:
            raise ValueError("out of range")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        _log.warning("%s is damaged (%s); this board takes a new id", path, problem)
        return None
    return _Stored(secret=secret, machine=machine, starts=starts)


def _write(path: Path, stored: _Stored) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entry = {"secret": stored.secret.hex(), "machine": stored.machine, "starts": stored.starts}
    replace_private(path, json.dumps(entry))
