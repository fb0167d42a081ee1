"""A pretended model: its requests, its speed, and bytes that say which attempt, board and block they are of."""

import hashlib
from random import Random

from peer.protocol.events import Mode, Submission
from peer.protocol.messages import Assign
from peer.protocol.profile import BoardProfile, Point, StageTimes
from peer.protocol.types import CodecFacts, Exchange, ModelFacts, ModelId, RequestId

MODEL = ModelId("5a" * 32)
BLOCKS, TOKENS, ROW_BYTES, WIDTH = 3, 12, 8, 4
FACTS = ModelFacts(
    model=MODEL,
    name="sim",
    blocks=BLOCKS,
    tokens=TOKENS,
    row_bytes=ROW_BYTES,
    width=WIDTH,
    default_codec="a",
    codecs={
        "a": CodecFacts(name="a", bits_per_token=(64, 100, 72)),
        "b": CodecFacts(name="b", bits_per_token=(256, 64, 65)),
    },
    labels=4,
    size_bytes=1000,
)


def content(*what: object, length: int) -> bytes:
    """Bytes that say what they are."""
    return hashlib.blake2s(repr(what).encode(), digest_size=16).digest().ljust(length, b"\x5a")[:length]


def submission(
    request: int,
    *,
    deadline_at: float,
    boards: int | None = None,
    exchange: Exchange = Exchange.DIRECT,
    mode: Mode = Mode.SEQUENCE,
    codec: str = "a",
    batch: int = 1,
    file: bytes | None = None,
    shares: tuple[float, ...] | None = None,
    allow_degraded: bool = False,
) -> Submission:
    rows = b"".join(content("rows", request, i, length=16) for i in range(batch * TOKENS * ROW_BYTES // 16))
    return Submission(
        request=RequestId(request),
        model=MODEL,
        codec=codec,
        exchange=exchange,
        mode=mode,
        boards=boards,
        shares=shares,
        batch=batch,
        deadline_at=deadline_at,
        rows=rows,
        file=file,
        allow_degraded=allow_degraded,
    )


def codes_of(assign: Assign, origin: int, block: int) -> bytes:
    tokens = assign.shards[origin].tokens.count
    length = FACTS.codecs[assign.codec].payload_bytes(block=block, tokens=tokens, batch=assign.batch)
    return content("codes", assign.request, assign.attempt, assign.epoch, origin, block, length=length)


def feature_of(assign: Assign, me: int) -> bytes:
    length = 4 * WIDTH * assign.batch
    return content("feature", assign.request, assign.attempt, me, len(assign.shards), length=length)


def logits_of(request: RequestId, batch: int) -> bytes:
    """Small numbers, as float32: an answer that is not finite is refused."""
    return bytes(byte & 0x3F for byte in content("logits", request, length=4 * FACTS.labels * batch))


def any_profile(random: Random) -> BoardProfile | None:
    """What a board tells of itself: nothing, or times from far too slow to share to worth waiting for."""
    block_s = random.choice([None, 0.002, 0.01, 0.05])
    return None if block_s is None else board_profile(block_s, random.choice([None, 1e6]))


def board_profile(block_s: float, rate: float | None = 1e6) -> BoardProfile:
    """A board that takes so long for a block of all tokens."""
    points = tuple(
        Point(
            tokens=tokens,
            begin_s=block_s / 10,
            query_s=block_s * tokens / TOKENS / 10,
            attend_s=block_s * tokens / TOKENS,
            last_s=block_s / 10,
        )
        for tokens in (1, TOKENS // 2, TOKENS)
    )
    times = StageTimes(model=MODEL, points=points, whole_s=BLOCKS * block_s, head_s=0.0, codecs=())
    return BoardProfile(rate=rate, models=(times,))
