"""What a board measured of itself: how long each stage takes it against the number of tokens, and its fastest link.

A model's token count is fixed, so the time of a block depends on nothing but how many tokens are the board's own: it is
measured for a few counts, and lies on straight lines between them. Codecs are straight lines in the tokens they handle.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a member has a profile, and a profile is of models: the two modules name each other's types
    from peer.protocol.types import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Seconds with `tokens` tokens of one picture held here, and all others' keys and values ready."""

    tokens: int
    begin_s: float  # from rows to the first block: the embedding
    query_s: float  # of one block: what needs own tokens only
    attend_s: float  # of one block: the rest, without any codec
    last_s: float  # of the last block, which only the class token leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Seconds for n tokens: `fixed_s + n * token_s`; nothing costs nothing."""

    fixed_s: float
    token_s: float

    def at(self, tokens: float) -> float:
        return self.fixed_s + tokens * self.token_s if tokens > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecTimes:
    """One codec, by its place in the model's list: own tokens of a block to codes, and others' codes to values."""

    codec: int
    encode: Line
    decode: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """One model on one board. `points` are in ascending order of tokens, the last holds all of them."""

    model: "ModelId"
    points: tuple[Point, ...]
    whole_s: float  # the undivided model
    head_s: float
    codecs: tuple[CodecTimes, ...]

    def at(self, tokens: float) -> Point:
        """The times for any number of tokens, which is rounded down in the answer."""
        points = self.points
        if len(points) == 1:
            return points[0]
        right = 1
        while right < len(points) - 1 and points[right].tokens < tokens:
            right += 1
        one, other = points[right - 1], points[right]
        share = (tokens - one.tokens) / (other.tokens - one.tokens)
        return Point(
            tokens=int(tokens),
            begin_s=_between(one.begin_s, other.begin_s, share),
            query_s=_between(one.query_s, other.query_s, share),
            attend_s=_between(one.attend_s, other.attend_s, share),
            last_s=_between(one.last_s, other.last_s, share),
        )

    def codec(self, index: int) -> CodecTimes | None:
        """Times of the model's codec number `index`, None where it was not measured."""
        return next((times for times in self.codecs if times.codec == index), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardProfile:
    """All that a board tells the others of its abilities. Travels, so everything in it is bounded."""

    rate: float | None = None  # bytes per second of its fastest link so far
    free_bytes: int | None = None  # memory that it may still take
    models: tuple[StageTimes, ...] = ()

    def times(self, model: "ModelId") -> StageTimes | None:
        return next((times for times in self.models if times.model == model), None)


def line_through(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The value at `x` on the straight lines through at least two points, drawn on beyond both ends; never below 0."""
    right = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    left = right - 1
    return _between(ys[left], ys[right], (x - xs[left]) / (xs[right] - xs[left]))


def _between(one: float, other: float, share: float) -> float:
    value = one + share * (other - one)
    return value if value > 0.0 else 0.0


def line_between(few: float, few_s: float, many: float, many_s: float) -> Line:
    """The line through two measurements; noise never makes more tokens cheaper, or the fixed part negative."""
    if many <= few:
        return Line(fixed_s=0.0, token_s=many_s / many if many else 0.0)
    token_s = max(many_s - few_s, 0.0) / (many - few)
    return Line(fixed_s=max(many_s - many * token_s, 0.0), token_s=token_s)


def alike(one: BoardProfile, other: BoardProfile, within: float) -> bool:
    """Whether two profiles differ so little that nobody needs to be told: all times within a factor of 1 + `within`."""
    if (one.rate is None) != (other.rate is None) or not _near(one.rate or 1.0, other.rate or 1.0, 2 * within):
        return False
    if [m.model for m in one.models] != [m.model for m in other.models]:
        return False
    return all(_alike_times(a, b, within) for a, b in zip(one.models, other.models, strict=True))


def _alike_times(one: StageTimes, other: StageTimes, within: float) -> bool:
    if [c.codec for c in one.codecs] != [c.codec for c in other.codecs]:
        return False
    if [p.tokens for p in one.points] != [p.tokens for p in other.points]:
        return False
    pairs = [(one.whole_s, other.whole_s)]
    pairs += [(a.query_s + a.attend_s, b.query_s + b.attend_s) for a, b in zip(one.points, other.points, strict=True)]
    return all(_near(a, b, within) for a, b in pairs)


def _near(one: float, other: float, within: float) -> bool:
    return max(one, other) <= (1 + within) * min(one, other)
