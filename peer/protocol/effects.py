"""What the request machine wants done. Names are imperative; the driver performs them in the order given."""

from dataclasses import dataclass

from peer.errors import RequestError
from peer.protocol.messages import Assign, DataMessage, Errand
from peer.protocol.types import AttemptKey, Exchange, ModelId, PeerId, RequestId, Shard, Timing, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    to: PeerId
    message: DataMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Embed the shard `me` of the assignment and encode it -> CodesReady(block 0)."""

    key: AttemptKey
    assign: Assign
    me: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Do the local work of the current block while codes travel -> QueryDone."""

    key: AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Packed codes of one other board's shard."""

    origin: int
    tokens: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend:
    """Finish the current block with everybody's codes, in ring order -> CodesReady of the next block, or ShardDone."""

    key: AttemptKey
    payloads: tuple[Payload, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWhole:
    """Run the undivided model -> LogitsReady or AnswerFailed."""

    request: RequestId
    model: ModelId
    batch: int
    rows: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunErrand:
    """Run the undivided model for another board -> ErrandDone or ComputeFailed."""

    key: AttemptKey
    errand: Errand


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """Average the boards' class tokens (ASTRA's distributed class tokens), classify -> LogitsReady or AnswerFailed."""

    request: RequestId
    model: ModelId
    batch: int
    features: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Drop what the compute holds for this attempt."""

    key: AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardReport:
    """What one board's part of a request was and cost."""

    shard: Shard
    timing: Timing
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished request. `logits` is float32 [batch, classes] in C order."""

    logits: bytes
    single: bool
    codec: str
    exchange: Exchange
    attempts: int
    rounds: int
    boards: tuple[BoardReport, ...]
    lost: tuple[PeerId, ...]  # left out of later attempts, or missing in this answer
    degraded: bool  # tokens of `lost` boards were not seen by the others from some round on
    slow: tuple[PeerId, ...]  # alive, and left out because the others are through sooner without them
    input_bytes: int
    gather_s: float  # from the asked board's own last block to the answer
    latency_s: float  # from submission to the answer
    predicted_s: float | None  # what it was to take, waiting for its turn included; None where nothing was known
    reason: str  # why it ran so
    queue_s: float = 0.0  # of that, behind other requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """The request has ended: with an answer, or with a typed error. Exactly once per request."""

    request: RequestId
    result: Answer | RequestError


Effect = Send | Begin | Query | Attend | RunWhole | RunErrand | RunHead | Forget | Deliver
