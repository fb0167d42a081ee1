"""How long the stages of a model take on this machine, measured in steps of one block, or one undivided run of seconds.

A generator, so that whoever owns the thread can do other work between two steps. A pass walks through several blocks,
as requests do: one block run again and again would find its weights in the processor's cache.
"""

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from runtime.codec.base import Codec
from runtime.codec.indexed import IndexedCodec
from runtime.model import Model
from runtime.plan import Yields
from runtime.shard import Shard

Timed = Callable[[Callable[[], object]], float]
_PASSES = 3  # the shortest counts: what else the machine does only adds time
_BLOCKS = 4  # of a pass
_WHOLE_LIMIT_S = 3.0  # an undivided run that takes longer is estimated from its blocks; requests will tell
_WHOLE_SHORT_S = 0.5  # one that takes longer is run once, not several times


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTimes:
    """Seconds with `tokens` own tokens and everybody else's keys and values, one picture, codecs left out."""

    tokens: int
    begin_s: float
    query_s: float  # one block
    attend_s: float  # one block
    last_s: float  # the last block, both parts


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCost:
    """Seconds of one block for `few` and for `many` tokens of one picture."""

    few: int
    many: int
    encode_s: tuple[float, float]
    decode_s: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTimes:
    """The stages of one model; `whole_measured`: the undivided one was run, not estimated."""

    points: tuple[PointTimes, ...]
    whole_s: float
    whole_measured: bool
    head_s: float


def timed(step: Callable[[], object]) -> float:
    """Run a step; the seconds it took."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def counts(tokens: int) -> tuple[int, ...]:
    """Numbers of own tokens that are measured: few, the shares of eight, four and two boards, all."""
    return tuple(sorted({1, max(1, tokens // 8), max(1, tokens // 4), max(1, tokens // 2), tokens}))


def measure(model: Model, codec: Codec, clock: Timed = timed) -> Generator[None, None, ModelTimes]:
    """Yields after every step; returns the times. Raises RuntimeFailure when a stage fails."""
    tokens, blocks = model.plan.geometry.tokens, model.plan.geometry.blocks
    points = []
    for count in counts(tokens):
        points.append((yield from _point(model, codec, count, clock)))
    cls = np.zeros((1, model.plan.geometry.width), dtype=np.float32)
    head_s = min(clock(lambda: model.head(cls)) for _ in range(_PASSES))
    yield
    full = points[-1]
    whole_s = full.begin_s + (blocks - 1) * (full.query_s + full.attend_s) + full.last_s + head_s
    short = whole_s <= _WHOLE_LIMIT_S
    if short:
        rows = np.zeros((1, tokens, model.plan.geometry.row_bytes), dtype=np.uint8)
        runs = []
        for _ in range(_PASSES if whole_s <= _WHOLE_SHORT_S else 1):
            runs.append(clock(lambda: model.whole(rows)))
            yield
        whole_s = min(runs)
    return ModelTimes(points=tuple(points), whole_s=whole_s, whole_measured=short, head_s=head_s)


def measure_codec(model: Model, codec: Codec, clock: Timed = timed) -> Generator[None, None, CodecCost]:
    """What one block costs to encode and to decode (projecting included, where a codec needs it), as `measure`."""
    tokens, middle = model.plan.geometry.tokens, model.plan.geometry.blocks // 2
    block = next(block for block in range(middle, -1, -1) if not codec.spec.silent(block))
    few = max(1, tokens // 8)
    many = max(few, tokens - few)
    encode: dict[int, list[float]] = {few: [], many: []}
    decode: dict[int, list[float]] = {few: [], many: []}
    for count in (few, many):
        values = np.zeros((1, count, codec.spec.width), dtype=np.float32)
        part = _payload(codec, count, block)
        for _ in range(_PASSES):
            encode[count].append(clock(lambda: codec.encode(values, block)))  # noqa: B023 - run before the loop goes on
            decode[count].append(clock(lambda: _decode(model, codec, part, block)))  # noqa: B023
            yield
    return CodecCost(
        few=few,
        many=many,
        encode_s=(min(encode[few]), min(encode[many])),
        decode_s=(min(decode[few]), min(decode[many])),
    )


def _point(model: Model, codec: Codec, own: int, clock: Timed) -> Generator[None, None, PointTimes]:
    geometry = model.plan.geometry
    rows = np.zeros((1, own, geometry.row_bytes), dtype=np.uint8)
    others = geometry.tokens - own
    speaking = [block for block in range(geometry.blocks) if not codec.spec.silent(block)]
    final = speaking[-1]  # of the last round; silent blocks follow at once
    begin, query, attend, ends = [], [], [], []
    for _ in range(_PASSES):
        shard = Shard(model, codec)
        begin.append(clock(lambda: shard.embed(rows, 0)))  # noqa: B023 - run before the loop goes on
        yield
        for block in speaking[: min(_BLOCKS, len(speaking) - 1)]:
            query.append(clock(shard.query))
            spent_s = query[-1] + _attend_s(model, codec, shard, _payload(codec, others, block), clock)
            attend.append(max(spent_s / (shard.block - block) - query[-1], 0.0))
            yield
        shard.block = final
        spent_s = clock(shard.query)
        ends.append(spent_s + _attend_s(model, codec, shard, _payload(codec, others, final), clock))
        yield
    follow = geometry.blocks - 1 - final
    # A model of one round has only a last one: an equal part of it is what a block takes.
    query_s, attend_s = (_typical(query), _typical(attend)) if query else (0.0, min(ends) / (1 + follow))
    last_s = max(min(ends) - follow * (query_s + attend_s), 0.0)
    return PointTimes(tokens=own, begin_s=min(begin), query_s=query_s, attend_s=attend_s, last_s=last_s)


def _attend_s(model: Model, codec: Codec, shard: Shard, parts: list[tuple[int, bytes]], clock: Timed) -> float:
    """Seconds of the block's second half, without those that decoding takes."""
    block = shard.block
    decode_s = clock(lambda: _decode(model, codec, parts, block)) if parts else 0.0
    return max(clock(lambda: shard.attend(parts)) - decode_s, 0.0)


def _decode(model: Model, codec: Codec, parts: list[tuple[int, bytes]], block: int) -> None:
    if model.own_attend(codec) and isinstance(codec, IndexedCodec):
        codec.indices(parts, block=block, batch=1)  # as requests do: these blocks take indices as they travel
        return
    values = codec.decode(parts, block=block, batch=1)
    if codec.spec.yields is Yields.INPUT:
        model.project(values, block)


def _payload(codec: Codec, tokens: int, block: int) -> list[tuple[int, bytes]]:
    if not tokens:
        return []
    values = np.zeros((1, tokens, codec.spec.width), dtype=np.float32)
    return [(tokens, bytes(codec.encode(values, block)))]


def _typical(times: Iterable[float]) -> float:
    """The lower quartile: what else the machine does only adds time, and one lucky run is not what requests meet."""
    ordered = sorted(times)
    return ordered[len(ordered) // 4]
