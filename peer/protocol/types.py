"""The nouns of the protocol: identities, members, views, shards, rounds. Plain immutable data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple, NewType

from peer.protocol.profile import BoardProfile

PeerId = NewType("PeerId", str)  # 16 hexadecimal digits, 8 bytes on the wire
Incarnation = NewType("Incarnation", int)  # grows with every start of a board; higher wins
Epoch = NewType("Epoch", int)  # 32-bit digest of a ring; two boards with the same view compute the same one
RequestId = NewType("RequestId", int)  # 64 random bits chosen by the coordinator
ModelId = NewType("ModelId", str)  # sha256 of the manifest, 64 hexadecimal digits

PEER_ID_BYTES = 8
MODEL_ID_BYTES = 32
PUBLIC_KEY_BYTES = 32
REFUTATION_BITS = 16
HIGHEST_PORT = 65535 - 3  # of a door: the three ports above it are the board's too
MAX_BATCH = 64
MAX_BOARDS = 1024
MAX_ADDRESSES = 64  # of one Peers message
MAX_BODY_BYTES = 32 * 1024 * 1024  # of one message: float32 tensors, images


def peer_id(public_key: bytes) -> PeerId:
    """A board's id: the fingerprint of its long-term public key, so that nobody can take another's."""
    return PeerId(hashlib.blake2b(public_key, digest_size=PEER_ID_BYTES, person=b"tokenring-board").hexdigest())


def boot(incarnation: Incarnation) -> int:
    """Which start of the board an incarnation belongs to; the low bits count its refutations since."""
    return incarnation >> REFUTATION_BITS


class Status(StrEnum):
    """What this board believes of another (the contract's words)."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"
    INCOMPATIBLE = "incompatible"
    REFUSED = "refused"


class Exchange(IntEnum):
    """How the codes of a round travel."""

    DIRECT = 0  # one hop to everyone
    RING = 1  # from each board to its successor, N-1 hops


class InputKind(IntEnum):
    """The form in which a board receives its part of the image."""

    ROWS = 0  # the uint8 patch rows of its shard, and nothing else
    FILE = 1  # the compressed image file, where that is smaller
    PACKED = 2  # the rows, made smaller without loss, where the link is narrow


class FailureReason(IntEnum):
    """Why a board cannot finish its part of an attempt."""

    STAGE_FAILED = 1  # its compute raised
    ROUND_TIMEOUT = 2  # codes of the named boards did not come
    UNKNOWN_PEER = 3  # the assignment names a board that this one cannot reach
    UNKNOWN_MODEL = 4  # it does not hold that model, or not that codec
    BUSY = 5  # it takes part in as many requests as it allows
    BAD_PAYLOAD = 6  # a peer's codes were refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a board's door is said to be: a hint, never a fact about a member."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a board listens: its door, and above it in a row the ports of membership, tensors and model files."""

    host: str
    port: int

    @property
    def control_port(self) -> int:
        return self.port + 1

    @property
    def data_port(self) -> int:
        return self.port + 2

    @property
    def bulk_port(self) -> int:
        return self.port + 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Public record of one board, as this board sees it."""

    peer: PeerId
    name: str
    endpoint: Endpoint
    public_key: bytes
    incarnation: Incarnation
    status: Status
    reason: str = ""
    models: frozenset[ModelId] = frozenset()
    rtt_s: float | None = None
    speed: float | None = None  # content-token blocks per second of compute, measured by that board
    profile: BoardProfile | None = None  # what it told of its stages and its link
    since_s: float = 0.0  # local monotonic time of the last change of status
    proven: bool = False  # heard under its own key, now or in an earlier run; a door proves only the token


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything membership tells the rest of the daemon: an immutable snapshot, own board included."""

    self_id: PeerId
    members: Mapping[PeerId, Member] = field(default_factory=dict)

    def alive(self, model: ModelId | None = None) -> tuple[Member, ...]:
        """Boards that can take work now (and hold `model` when one is named), in order of id."""
        able = (m for m in self.members.values() if m.status is Status.ALIVE and (model is None or model in m.models))
        return tuple(sorted(able, key=lambda member: member.peer))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRange:
    """Content tokens [start, stop) held by one board."""

    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One board's part of an attempt."""

    peer: PeerId
    tokens: TokenRange


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFacts:
    """What the protocol needs to know of a codec: how long its payloads are, and what it costs in accuracy."""

    name: str
    bits_per_token: tuple[int, ...]  # one entry per block
    points_lost: tuple[tuple[int, float], ...] = ()  # (boards, percentage points), by rising boards; as measured
    family: str = ""  # codecs of one family have graphs of one build

    @property
    def rounds(self) -> int:
        """Exchanges of a request: blocks that are not silent, which the first never is."""
        return sum(1 for bits in self.bits_per_token if bits)

    def next_round(self, block: int) -> int:
        """The first block from `block` on whose codes travel; the number of blocks if none does."""
        blocks = len(self.bits_per_token)
        return next((each for each in range(block, blocks) if self.bits_per_token[each]), blocks)

    def like(self, other: "CodecFacts") -> bool:
        """Whether a round's work is as much as `other`'s: it only has fewer of them."""
        return self.family == other.family and self.rounds < other.rounds

    def loses(self, boards: int) -> float | None:
        """Points that so many boards lose: as measured on as many, or on the next larger number; None: unknown."""
        return next((points for count, points in self.points_lost if count >= boards), None)

    def payload_bytes(self, *, block: int, tokens: int, batch: int) -> int:
        return (tokens * batch * self.bits_per_token[block] + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the protocol needs to know of a model; the tensors themselves are the runtime's business."""

    model: ModelId
    name: str
    blocks: int
    tokens: int
    row_bytes: int
    width: int
    default_codec: str
    codecs: Mapping[str, CodecFacts]
    labels: int  # numbers in an answer, per picture
    size_bytes: int  # of its files: the upper bound of what its weights occupy

    def within(self, points: float) -> tuple[str, ...]:
        """Codecs that lose at most so many points on two boards, the default one first, then those of fewest bits."""
        fit = [c for c in self.codecs.values() if (lost := c.loses(2)) is not None and lost <= points]
        fit.sort(key=lambda codec: (codec.name != self.default_codec, sum(codec.bits_per_token), codec.name))
        return tuple(codec.name for codec in fit)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lock:
    """The cluster's token, 32 bytes, and how many rotations lie before it. Never printed."""

    token: bytes
    generation: int


class AttemptKey(NamedTuple):
    """One try of one request; every code message names it, so that an older try is never mixed in.

    A tuple, because it is looked up several times for every message of every round.
    """

    request: RequestId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where one board's time went during an attempt, microseconds."""

    prepare_us: int = 0
    compute_us: int = 0
    encode_us: int = 0
    decode_us: int = 0
    wait_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one board handed to its sockets during an attempt."""

    payload_bytes: int = 0  # packed codes
    wire_bytes: int = 0  # frames of all messages
    messages: int = 0
