"""What can happen to the request machine. Names are past tense; times are the `now` given beside the event."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from peer.protocol.messages import DataMessage
from peer.protocol.types import (
    AttemptKey,
    Exchange,
    FailureReason,
    ModelFacts,
    ModelId,
    PeerId,
    RequestId,
    Timing,
    View,
)


class Mode(Enum):
    """Which way a request shall be computed."""

    AUTO = "auto"
    SINGLE = "single"  # the undivided model on this board
    SEQUENCE = "sequence"  # shards of the tokens, one per board


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request as the asker wants it. `rows` is uint8 [batch, tokens, row_bytes] in C order."""

    request: RequestId
    model: ModelId
    codec: str
    others: tuple[str, ...] = ()  # codecs that would do as well, if one of them is faster
    within: float | None = None  # percentage points of accuracy that codes may cost
    exchange: Exchange
    mode: Mode
    boards: int | None  # None: the planner's choice; in mode SEQUENCE every board that is alive and holds the model
    shares: tuple[float, ...] | None  # one weight per board in ring order; None: by measured speed
    batch: int
    deadline_at: float
    rows: bytes
    file: bytes | None  # the compressed image, when it could stand in for the rows
    requests: int = 1  # that the asker means to have under way at once, this one included
    allow_degraded: bool = False  # rather an answer without a lost board's tokens than the time of another run


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChanged:
    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsChanged:
    """The models of this board, all of them: one was fetched."""

    models: Mapping[ModelId, ModelFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    submission: Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    message: DataMessage
    sender: PeerId | None = None  # whose key it came under; None without encryption


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The link to a board broke, or a message to it could not be handed over."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesReady:
    """The board's tokens stand before `block`; `body` is their packed codes (empty when it works alone)."""

    key: AttemptKey
    block: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDone:
    """The local work of a block that needs no other board is done."""

    key: AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """The last block is done: `body` is the class token, float32 [batch, width]."""

    key: AttemptKey
    timing: Timing
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeFailed:
    """The board's compute refused or raised; `blamed` is the shard whose payload was refused, if it was that."""

    key: AttemptKey
    reason: FailureReason
    blamed: tuple[int, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsReady:
    """The answer of a request, float32 [batch, classes]; `timing` where the undivided model made it."""

    request: RequestId
    timing: Timing
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandDone:
    """The undivided model ran for another board: the answer, float32 [batch, labels]."""

    key: AttemptKey
    timing: Timing
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFailed:
    """The head, or the undivided model, raised on the asked board."""

    request: RequestId
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    pass


Event = (
    ViewChanged
    | ModelsChanged
    | Submitted
    | CancelRequested
    | MessageReceived
    | PeerLost
    | CodesReady
    | QueryDone
    | ShardDone
    | ComputeFailed
    | LogitsReady
    | ErrandDone
    | AnswerFailed
    | TimerDue
)
