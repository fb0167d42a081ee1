"""One mark of what a board did for a request, and when. Plain data."""

from enum import IntEnum
from typing import NamedTuple

MAX_SPANS = 4096  # of one request on one board; a round of four boards makes eight


class SpanKind(IntEnum):
    """What a board did, or what happened to it."""

    QUEUED = 0  # on the asked board, behind other requests
    PREPARE = 1  # the input decoded, the shard embedded
    ENCODE = 2  # own codes of a block
    SENT = 3  # a moment: own codes go out
    QUERY = 4  # the part of a block that needs nobody else
    CAME = 5  # a moment: the codes of shard `origin` were taken up
    DECODE = 6  # the others' codes
    ATTEND = 7  # the rest of the block, and the keys and values of the next one; decoding comes first and lies within
    WHOLE = 8  # the undivided model
    HEAD = 9  # class tokens to logits


class Span(NamedTuple):
    """What it was, the block, the shard it is about, and from when to when, seconds."""

    kind: SpanKind
    block: int
    origin: int  # index of the shard it is about: another board's, or this one's own
    start_s: float
    end_s: float
