"""What a daemon reports over its control socket, and what a client may ask of it: one frozen record per thing.

Field names are the stable keys of `peerctl --json`. Ids are short hexadecimal texts; `_ms` milliseconds, `_s` seconds,
`_bytes` bytes; token ranges are [start, stop). Holds no behaviour.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_DEADLINE_S = 30.0  # for an answer, when the asker names none
MAX_REQUESTS = 1000  # that a client may mean to have under way at once


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """One daemon about itself."""

    id: str
    name: str
    endpoint: str
    version: str
    protocol: int
    pid: int
    ready: bool
    uptime_s: float
    epoch: int
    # This board included.
    boards_alive: int
    rss_bytes: int
    threads: int
    default_model: str | None
    # How many models it can serve, and why it is not ready; None when it is.
    models: int = 0
    not_ready: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberReport:
    """One board as the asked daemon sees it."""

    id: str
    name: str
    endpoint: str
    # alive, suspect, dead, left, incompatible or refused
    status: str
    reason: str
    incarnation: int
    models: tuple[str, ...]
    rtt_ms: float | None
    # Relative computing speed as the board measured it; None until it has.
    speed: float | None
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RingReport:
    """The order of the boards, and the tokens of `model` that each would hold."""

    epoch: int
    order: tuple[str, ...]
    self_: str
    names: Mapping[str, str]
    model: str | None
    tokens: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReport:
    """The cluster's token as text, and how many rotations lie before it."""

    token: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinQuery:
    """A cluster token as text; `everybody`: the boards of the present ring are to come along."""

    token: str
    everybody: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetQuery:
    """A board's id, the beginning of one, or a name; `revoke`: shut it out although it lives."""

    id: str
    revoke: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationReport:
    """What a change of the token, or of the list of boards, led to."""

    # Rotations so far; 0 where there is no token.
    generation: int
    # Other boards that were told; those that are away hear of it when they come back.
    told: int
    # Ids of boards that this one has taken off its list.
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingReport:
    """One thing that doctor looked at."""

    topic: str
    # ok, note or wrong
    level: str
    what: str
    # Empty where nothing needs to be done.
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminationReport:
    """What a daemon found in itself, and what a client needs to examine the machine around it."""

    findings: tuple[FindingReport, ...]
    pid: int
    host: str
    port: int
    model_bytes: int
    # Addresses of the other boards that are alive.
    boards: tuple[str, ...]
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecErrorReport:
    """How far a codec's output was from its input when it was made; `kind` says in which measure."""

    kind: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecReport:
    """One codec of a model."""

    name: str
    kind: str
    source: str
    # Mean over the blocks of the bits that one token's code takes.
    bits_per_token: float
    bits_per_block: tuple[float, ...]
    # Bits of one token of the model's width as f32, over the bits of its code.
    compression: float
    error: CodecErrorReport
    # Percentage points of accuracy by the number of boards; empty where nobody measured it.
    points_lost: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model that this board, or another board of the ring, has."""

    name: str
    model_id: str
    bytes: int
    task: str
    # How many labels the head tells apart.
    labels: int
    tokens: int
    width: int
    blocks: int
    default: bool
    default_codec: str
    boards: tuple[str, ...]
    provenance: Mapping[str, str]
    codecs: tuple[CodecReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """A model's folder after every file of it was hashed again and found right."""

    model: str
    model_id: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """A model on its way from other boards, or here (`done`: it serves)."""

    model: str
    # None until it is here.
    model_id: str | None
    done: bool
    done_bytes: int
    total_bytes: int
    # What came over the network this time, and what an interrupted fetch had left here.
    received_bytes: int
    resumed_bytes: int
    # Boards that gave something.
    boards: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InferQuery:
    """What a client asks of `infer`, beside the images; None means "choose". All inputs form one batch."""

    # One name per image, to speak of it in the result and in errors.
    inputs: tuple[str, ...]
    model: str | None = None
    boards: int | None = None
    # One weight per board, in ring order.
    shares: tuple[float, ...] | None = None
    codec: str | None = None
    # Percentage points of accuracy that codes may cost: any codec that is measured to lose no more will do.
    within: float | None = None
    exchange: str | None = None
    mode: str = "auto"
    top: int = 5
    logits: bool = False
    deadline_s: float | None = None
    allow_degraded: bool = False
    # How many like it the client means to have under way at once, this one included; others are counted in any case.
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuery:
    """What a plan is asked for; None means the default model, its default codec, the usual exchange."""

    model: str | None = None
    codec: str | None = None
    # As in `InferQuery`.
    within: float | None = None
    exchange: str | None = None
    batch: int = 1
    # Size of the compressed picture where one is meant; None: rows of pixels are sent.
    input_bytes: int | None = None
    # Requests at once, this one included.
    requests: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBoardReport:
    """A board as the planner sees it."""

    id: str
    name: str
    # False: it has not told its times, and this board's are taken instead.
    measured: bool
    # The undivided model on it alone, its input and answer included where it is not the asked one.
    alone_ms: float | None
    # How many times longer than its quiet measurement it takes at present.
    slower: float | None
    link_mbit: float | None
    rtt_ms: float | None
    # Why it is not counted on; empty where it is.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRowReport:
    """One way to run a request."""

    boards: int
    # "single": undivided on one board; "sequence": the tokens are split
    mode: str
    names: tuple[str, ...]
    tokens: tuple[int, ...]
    # None for one board alone
    codec: str | None
    exchange: str | None
    predicted_ms: float
    # Such requests per second that the boards of this way can do, when many are asked for at once.
    per_s: float
    # False: the codec or a board was not measured yet, something similar stands in for it.
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """Every way worth trying, and the one that would be taken."""

    model: str
    model_id: str
    default_codec: str
    choice: PlanRowReport
    reason: str
    settings: tuple[PlanRowReport, ...]
    boards: tuple[PlanBoardReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """One of the likeliest labels."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareReport:
    """A board that took part, and its content tokens."""

    id: str
    name: str
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingReport:
    """Where the slowest board's time went."""

    prepare_ms: float
    compute_ms: float
    wait_ms: float
    gather_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardCostReport:
    """What one request cost one board."""

    id: str
    name: str
    tokens: tuple[int, int]
    prepare_ms: float
    compute_ms: float
    wait_ms: float
    encode_ms: float
    decode_ms: float
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainReport:
    """Why the request ran the way it did, and what it cost each board."""

    reason: str
    boards: tuple[BoardCostReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferReport:
    """The result for one input."""

    input: str
    request: str
    model: str
    # sha256 of the manifest, hexadecimal
    model_id: str
    top: tuple[LabelReport, ...]
    # "single": one board had all tokens; "sequence": the tokens were split over boards.
    mode: str
    codec: str | None
    exchange: str | None
    boards: tuple[ShareReport, ...]
    latency_ms: float
    # What it was to take; None where nothing had been measured yet.
    predicted_ms: float | None
    rounds: int
    attempts: int
    degraded: bool
    lost: tuple[str, ...]
    # Packed codes sent by all boards; everything handed to the sockets; image data sent to boards.
    payload_bytes: int
    wire_bytes: int
    input_bytes: int
    timing: TimingReport
    explain: ExplainReport | None = None
    logits: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardActivityReport:
    """One board as the asked one saw it of late."""

    id: str
    name: str
    status: str
    # None for the asked board itself, and until a ping was answered.
    rtt_ms: float | None
    speed: float | None
    # Of the tokens of the answers of the last minute, 0 to 1.
    share: float
    # Mean per answer; None when it took part in none.
    compute_ms: float | None
    wait_ms: float | None
    # Between the asked board and this one, over the last ten seconds.
    sent_bytes_per_s: float
    received_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityReport:
    """What a board did of late: requests that were asked of it, and shards it computed for others."""

    id: str
    name: str
    not_ready: str | None
    # How far back percentiles, shares and means reach.
    window_s: float
    # Since the daemon started; shards since its compute process did.
    answered: int
    degraded: int
    failed: int
    shards: int
    # Over the last ten seconds.
    answers_per_s: float
    # None when nothing was answered in the window.
    p50_ms: float | None
    p95_ms: float | None
    running: int
    waiting: int
    # Of the asked board; None and nothing where it tells nothing.
    hottest_c: float | None
    throttled: tuple[str, ...]
    boards: tuple[BoardActivityReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanReport:
    """One thing that a board did for a request; times from the trace's first moment, by the asked board's clock."""

    # queued, prepare, encode, sent, query, came, decode, attend, whole or head
    kind: str
    attempt: int
    block: int
    # Id of the board whose shard it is about; None for an undivided model.
    origin: str | None
    start_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedBoardReport:
    """One board's part of a traced request."""

    id: str
    name: str
    # In the last attempt; None when it was not part of that.
    tokens: tuple[int, int] | None
    # It did not answer, or not in time: nothing is known of what it did.
    missing: bool
    # Its times may be wrong by so much against the asked board's; 0 for that one.
    clock_error_ms: float
    # Of the question for its spans; None for the asked board and for one that is missing.
    rtt_ms: float | None
    spans: tuple[SpanReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReport:
    """One request on all its boards; the board that collected it comes first."""

    request: str
    model: str
    mode: str
    codec: str | None
    exchange: str | None
    # The last attempt's number, and how many there were; 0: the undivided model.
    attempt: int
    attempts: int
    # Id of the board that was asked.
    asked: str
    boards: tuple[TracedBoardReport, ...]
