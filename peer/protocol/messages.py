"""One frozen record per wire message. `body` fields are opaque bytes: tensors never pass through the decisions."""

from dataclasses import dataclass

from peer.protocol.types import (
    Endpoint,
    Epoch,
    Exchange,
    FailureReason,
    Incarnation,
    InputKind,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Timing,
    Traffic,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who I am and what I hold; asks for the same in return unless it is itself an answer."""

    sender: PeerId
    incarnation: Incarnation
    name: str
    endpoint: Endpoint
    models: tuple[ModelId, ...]
    answer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Are you there? `sequence` comes back in the Pong, so that a round trip can be measured."""

    sender: PeerId
    incarnation: Incarnation
    sequence: int
    speed: float  # 0.0 = not measured yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to a Ping."""

    sender: PeerId
    incarnation: Incarnation
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """I leave on purpose."""

    sender: PeerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A Hello of another protocol version: decoded just far enough to list its sender as incompatible."""

    sender: PeerId
    version: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """The coordinator gives a board its shard, and everything it needs to run it."""

    request: RequestId
    attempt: int
    epoch: Epoch
    model: ModelId
    codec: str
    exchange: Exchange
    batch: int
    coordinator: int  # index into shards
    shards: tuple[Shard, ...]  # in ring order
    deadline_ms: int  # time left: two boards' clocks are unrelated, durations are not
    input_kind: InputKind
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """The codes of one shard before one block: `origin` holds those tokens (in a ring others pass them on)."""

    request: RequestId
    attempt: int
    epoch: Epoch
    block: int
    origin: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A board's class token after the last block, float32 [batch, width], and what its part cost."""

    request: RequestId
    attempt: int
    epoch: Epoch
    origin: int
    timing: Timing
    traffic: Traffic
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A board cannot finish its part; `missing` names the shards whose codes did not come."""

    request: RequestId
    attempt: int
    epoch: Epoch
    origin: int
    reason: FailureReason
    missing: tuple[int, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Nobody waits for this attempt any more."""

    request: RequestId
    attempt: int
    epoch: Epoch


ControlMessage = Hello | Ping | Pong | Goodbye | Stranger
DataMessage = Assign | Codes | Feature | Failed | Cancel
Message = ControlMessage | DataMessage
