"""Boards that a person shut out for good, on disk: without the list a restart would forget them.

A list that is damaged is no reason to stop serving: what can still be read of it counts, and the other members repeat
what they know.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from peer.protocol.decrees import MAX_REVOKED
from peer.protocol.types import PeerId
from peer.state_file import replace_private

_log = logging.getLogger(__name__)
_FILE = "revoked.json"
_MAX_BYTES = 1 << 16
_REMEDY = "revoke again what was revoked: peerctl forget ID --revoke"
_ID = re.compile(r"[0-9a-f]{16}")


def read_revoked(state_dir: Path) -> tuple[PeerId, ...]:
    """Ids that were revoked in earlier runs, the oldest first."""
    path = state_dir / _FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", errors="replace")
    except FileNotFoundError:
        return ()
    except OSError as problem:
        _log.warning("%s cannot be read (%s); %s", path, problem, _REMEDY)
        return ()
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as problem:
        _log.warning("%s is damaged (%s); %s", path, problem, _REMEDY)
        entries = re.findall(f'"({_ID.pattern})"', text)
    found = [PeerId(entry) for entry in entries if _is_id(entry)] if isinstance(entries, list) else []
    return tuple(found[-MAX_REVOKED:])


def write_revoked(state_dir: Path, peers: Iterable[PeerId]) -> None:
    """Replace the list. Where that fails it holds until the next start, and a line says so."""
    path = state_dir / _FILE
    try:
        replace_private(path, json.dumps(list(peers)))
    except OSError as problem:
        _log.warning("%s cannot be written (%s); what was revoked is refused until the next start", path, problem)


def _is_id(entry: object) -> bool:
    return isinstance(entry, str) and _ID.fullmatch(entry) is not None
