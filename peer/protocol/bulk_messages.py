"""Messages of the bulk port, by which boards get models from each other: a part of a file is asked for, and answered.

Files are numbers, never names or paths: 0 is the manifest, n is the n-th file that the manifest lists. The manifest's
SHA-256 is the model's id, so both sides mean the same files, and no name from the wire ever reaches a file system.
"""

from dataclasses import dataclass
from enum import IntEnum

from peer.protocol.types import ModelId, PeerId

CHUNK_BYTES = 256 * 1024  # 21 ms on a line of 100 Mbit/s: short enough to share it, long enough to fill it
MANIFEST = 0
MAX_FILES = 8192
MAX_FILE_BYTES = 1 << 36


class FetchRefusal(IntEnum):
    """Why a board does not give a part of a file."""

    NOT_HELD = 1  # it does not hold that model
    NO_SUCH_PART = 2  # the model has no such file, or the file no such part
    BUSY = 3  # too many parts are already waiting for the asker; ask again in a moment
    UNREADABLE = 4  # its disk does not give the file, or another one than it verified


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """Give me `length` bytes of `file` from `offset` on, or as many as there are. `request` comes back."""

    sender: PeerId
    request: int
    model: ModelId
    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchChunk:
    """A part of a file, and how long the whole file is on the sender's disk."""

    sender: PeerId
    request: int
    model: ModelId
    file: int
    offset: int
    size: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRefused:
    """The part will not come."""

    sender: PeerId
    request: int
    reason: FetchRefusal


BulkMessage = FetchRequest | FetchChunk | FetchRefused
