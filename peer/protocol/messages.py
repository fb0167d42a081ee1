"""One frozen record per wire message. `body` fields are opaque bytes: tensors never pass through the decisions."""

from dataclasses import dataclass

from peer.protocol.bulk_messages import BulkMessage
from peer.protocol.profile import BoardProfile
from peer.protocol.trace_messages import TraceMessage
from peer.protocol.types import (
    Address,
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
    Status,
    Timing,
    Traffic,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who I am and what I hold; asks for the same in return unless it is itself an answer.

    The one message that comes through the door. Whoever says it there holds the cluster token; its public key then
    opens the control and the data socket.
    """

    sender: PeerId
    public_key: bytes  # the id is its fingerprint
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
    """The answer to a Ping. `stuck_ms`: how long the thread that does the work has been in its current step."""

    sender: PeerId
    incarnation: Incarnation
    sequence: int
    stuck_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PingRequest:
    """I do not hear `target`: please ping it for me (SWIM's indirect probe)."""

    sender: PeerId
    incarnation: Incarnation
    target: PeerId
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouch:
    """`target` has just answered me: the answer to a PingRequest of that sequence."""

    sender: PeerId
    incarnation: Incarnation
    target: PeerId
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rumour:
    """What I believe of `about` in its incarnation `about_incarnation`: alive, suspect or dead."""

    sender: PeerId
    incarnation: Incarnation
    about: PeerId
    about_incarnation: Incarnation
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """I leave on purpose."""

    sender: PeerId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Doors of other boards that I know: hints for who has just come."""

    sender: PeerId
    incarnation: Incarnation
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRotated:
    """The cluster has a new token; travels between admitted boards only."""

    sender: PeerId
    incarnation: Incarnation
    generation: int
    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A person took `about` off the list; `revoked`: its key is to be refused as well."""

    sender: PeerId
    incarnation: Incarnation
    about: PeerId
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What I measured of myself; replaces what I said before."""

    sender: PeerId
    incarnation: Incarnation
    profile: BoardProfile


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
    round_ms: int  # how long a board waits for the codes of a round
    degrade_ms: int  # with no more time left than this, codes that stay out are done without
    degrade_from: int  # the first block before whose round they are done without whatever time is left
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
    """A board's class token after the last block, float32 [batch, width], and what its part cost.

    Of an errand, the answer itself: float32 [batch, labels].
    """

    request: RequestId
    attempt: int
    epoch: Epoch
    origin: int
    lost: tuple[int, ...]  # shards that this board did without from some round on
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
class Errand:
    """Run the undivided model for me: answered with a Feature or Failed of origin 0."""

    request: RequestId
    attempt: int
    epoch: Epoch
    asker: PeerId
    model: ModelId
    batch: int
    deadline_ms: int
    input_kind: InputKind
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Answer at once: how long the way takes. `body` is ballast, by which its width is measured."""

    sender: PeerId
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """The answer to a Sound; `busy`: requests are under way here, so it says little about the link."""

    sender: PeerId
    sequence: int
    busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Nobody waits for this attempt any more."""

    request: RequestId
    attempt: int
    epoch: Epoch


ControlMessage = (
    Hello | Ping | Pong | PingRequest | Vouch | Rumour | Goodbye | Peers | TokenRotated | Removed | Profile | Stranger
)
RequestMessage = Assign | Codes | Feature | Failed | Cancel | Errand
DataMessage = RequestMessage | Sound | Echo
Message = ControlMessage | DataMessage | TraceMessage | BulkMessage
