"""What the fetch of a model keeps account of: its phase and pace, how far it is, and the parts of each file."""

from dataclasses import dataclass, field
from enum import Enum

from peer.protocol.bulk_messages import CHUNK_BYTES
from peer.protocol.types import PeerId


class Phase(Enum):
    """See the table in `fetching`."""

    MANIFEST = "manifest"
    PREPARING = "preparing"
    FILES = "files"
    INSTALLING = "installing"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPace:
    """Timing, seconds, and the number of questions that are open at once."""

    window: int = 4  # 1 MiB under way: enough for 100 Mbit/s over any LAN's round trip
    patience_s: float = 3.0  # for one answer; doubles with each that does not come
    patience_longest_s: float = 24.0  # at 350 kbit/s a window of one still fits
    rest_s: float = 0.5  # after a failure, for that board; doubles
    busy_s: float = 0.1  # after a board said that it is busy
    give_up_s: float = 60.0  # without a single new part


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far it is, bytes; `resumed_bytes` lay there from an earlier run, `received_bytes` came over the network."""

    done_bytes: int
    total_bytes: int
    resumed_bytes: int
    received_bytes: int
    boards: int  # that gave something


@dataclass(slots=True)
class FileParts:
    """One file of the model, as far as it is here. A generation ends when what was received is thrown away."""

    size: int
    received: set[int] = field(default_factory=set)
    sources: set[PeerId | None] = field(default_factory=set)  # None: an earlier run, from whoever it was
    alone: PeerId | None = None  # the one board that is asked for it
    generation: int = 0
    right: bool = False

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK_BYTES)

    def length(self, chunk: int) -> int:
        return min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)

    def restart(self) -> None:
        self.received.clear()
        self.sources.clear()
        self.generation += 1
