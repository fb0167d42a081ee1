"""Messages by which a board collects the spans of one request from the others, over the data port."""

from dataclasses import dataclass

from peer.protocol.span import Span
from peer.protocol.types import PeerId, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class SpansRequest:
    """What did you do for `request`? `asked_us` is the asker's monotonic clock, and comes back."""

    sender: PeerId
    sequence: int
    request: RequestId
    asked_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The answer, with this board's clock when it received the question and when it sent this, microseconds.

    Four times of one round trip: from them the asker knows how far the two clocks are apart, to half of it.
    """

    sender: PeerId
    sequence: int
    request: RequestId
    asked_us: int
    received_us: int
    sent_us: int
    spans: tuple[tuple[int, Span], ...]  # each with the number of its attempt; times by this board's clock


TraceMessage = SpansRequest | Spans
