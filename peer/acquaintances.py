"""Boards this one has met, on disk: their keys and doors, so that a restart needs neither multicast nor a seed.

One small file, replaced atomically; what is damaged in it is left out, and a folder that cannot be written is no
reason to stop serving.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from peer.protocol.types import (
    HIGHEST_PORT,
    PUBLIC_KEY_BYTES,
    REFUTATION_BITS,
    Endpoint,
    Incarnation,
    Member,
    Status,
    boot,
    peer_id,
)
from peer.state_file import replace_private

_log = logging.getLogger(__name__)
_FILE = "peers.json"
_MAX_BYTES = 1 << 20
_MAX_PEERS = 256


class Acquaintances:
    """The file of one daemon."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE
        self._written = ""
        self._complained = False

    def read(self) -> tuple[Member, ...]:
        """Boards of earlier runs: dead until they are heard."""
        try:
            with self._path.open("rb") as file:
                entries = json.loads(file.read(_MAX_BYTES))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as problem:
            _log.warning("%s is damaged (%s); boards have to be found again", self._path, problem)
            return ()
        found = [_member(entry) for entry in entries[:_MAX_PEERS]] if isinstance(entries, list) else []
        return tuple(member for member in found if member is not None)

    def write(self, members: Iterable[Member]) -> None:
        """Replace the file when something in it changed. Waits for the disk: not for the event loop's own thread."""
        entries = [
            {
                "name": member.name,
                "host": member.endpoint.host,
                "port": member.endpoint.port,
                "key": member.public_key.hex(),
                # Without its refutations, which change by the second on a busy LAN and mean nothing after a restart.
                "incarnation": boot(member.incarnation) << REFUTATION_BITS,
            }
            for member in members
            if any(member.public_key) and member.proven
        ]
        text = json.dumps(entries)
        if text == self._written:
            return
        try:
            replace_private(self._path, text)
        except OSError as problem:
            if not self._complained:
                _log.warning("%s cannot be written (%s); boards are found anew after a restart", self._path, problem)
            self._complained = True
            return
        self._written = text


def _member(entry: object) -> Member | None:
    """One entry as a member; None when anything in it is not what it should be."""
    if not isinstance(entry, dict):
        return None
    name, host, port = entry.get("name"), entry.get("host"), entry.get("port")
    key, incarnation = entry.get("key"), entry.get("incarnation")
    texts = type(name) is str and len(name) <= 64 and type(host) is str and 0 < len(host) <= 255 and type(key) is str
    numbers = type(port) is int and 0 < port <= HIGHEST_PORT and type(incarnation) is int and 0 <= incarnation < 1 << 63
    if not texts or not numbers:
        return None
    try:
        public_key = bytes.fromhex(str(key))
    except ValueError:
        return None
    if len(public_key) != PUBLIC_KEY_BYTES:
        return None
    return Member(
        peer=peer_id(public_key),
        name=str(name),
        endpoint=Endpoint(host=str(host), port=int(str(port))),
        public_key=public_key,
        incarnation=Incarnation(int(str(incarnation))),
        status=Status.DEAD,
        reason="known from an earlier run, not heard yet",
        proven=True,
    )
