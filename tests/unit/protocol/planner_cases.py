"""Boards with made-up times, for the tests of forecasts and plans."""

from collections.abc import Sequence

from protocol_cases import peer

from peer.protocol.forecast import Load, Party
from peer.protocol.profile import CodecTimes, Line, Point, StageTimes
from peer.protocol.types import CodecFacts, ModelFacts, ModelId

VIT = ModelFacts(
    model=ModelId("cd" * 32),
    name="vit",
    blocks=12,
    tokens=196,
    row_bytes=768,
    width=768,
    default_codec="tc53",
    codecs={
        "tc53": CodecFacts(name="tc53", bits_per_token=(53,) * 12),
        "f32": CodecFacts(name="f32", bits_per_token=(49_152,) * 12),
    },
    labels=1000,
    size_bytes=350 << 20,
)
COUNTS = (1, 24, 49, 98, 196)


def times(block_s: float = 0.25, fixed: float = 0.05, facts: ModelFacts = VIT) -> StageTimes:
    """A board that takes `block_s` for a block of all tokens, of which the share `fixed` is there without a token."""

    def part(tokens: int) -> float:
        return block_s * (fixed + (1 - fixed) * tokens / facts.tokens)

    points = tuple(
        Point(
            tokens=count,
            begin_s=part(count) / 20,
            query_s=part(count) / 10,
            attend_s=part(count) * 9 / 10,
            last_s=part(count) / 8,
        )
        for count in COUNTS
    )
    cheap = Line(fixed_s=block_s / 1000, token_s=block_s / 20 / facts.tokens)
    free = Line(fixed_s=0.0, token_s=0.0)
    return StageTimes(
        model=facts.model,
        points=points,
        whole_s=facts.blocks * block_s,
        head_s=block_s / 100,
        codecs=(CodecTimes(codec=0, encode=cheap, decode=cheap), CodecTimes(codec=1, encode=free, decode=free)),
    )


def party(
    index: int, *, block_s: float = 0.25, slower: float = 1.0, rate: float = 12.5e6, reach_s: float = 0.0
) -> Party:
    return Party(
        peer=peer(index),
        times=times(block_s),
        slower=slower,
        rate=rate,
        reach_s=0.0 if index == 0 else reach_s,
    )


def boards(blocks_s: Sequence[float], rate: float = 12.5e6, reach_s: float = 2e-4) -> tuple[Party, ...]:
    """One board per time of a block; the first one is asked."""
    return tuple(party(i, block_s=block_s, rate=rate, reach_s=reach_s) for i, block_s in enumerate(blocks_s))


def load(codec: str = "tc53", batch: int = 1, facts: ModelFacts = VIT) -> Load:
    return Load(facts=facts, codec=codec, batch=batch)
