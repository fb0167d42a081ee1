"""A board's profile as one bounded byte string, and back: what comes from another board is checked number by number."""

import math
import struct
from typing import Any

from peer.errors import BadFrame
from peer.protocol.profile import BoardProfile, CodecTimes, Line, Point, StageTimes
from peer.protocol.types import MODEL_ID_BYTES, ModelId

VERSION = 1
MAX_PROFILED = 4  # models in one profile
MAX_POINTS = 8
MAX_CODECS = 64
_HEAD = struct.Struct(">BdQB")  # version, rate (0: unknown), free bytes (0: unknown), models
_MODEL = struct.Struct(f">{MODEL_ID_BYTES}sffBB")  # id, whole, head, points, codecs
_POINT = struct.Struct(">I4f")
_CODEC = struct.Struct(">B4f")
MAX_PROFILE_BYTES = _HEAD.size + MAX_PROFILED * (_MODEL.size + MAX_POINTS * _POINT.size + MAX_CODECS * _CODEC.size)
_LONGEST_S = 3600.0
_MOST_TOKENS = 1 << 20
_FASTEST = 1e12  # bytes per second


def pack_profile(profile: BoardProfile) -> bytes:
    """At most MAX_PROFILE_BYTES; models, points and codecs over the bounds stay away."""
    models = profile.models[:MAX_PROFILED]
    parts = [_HEAD.pack(VERSION, profile.rate or 0.0, profile.free_bytes or 0, len(models))]
    for times in models:
        points, codecs = times.points[:MAX_POINTS], times.codecs[:MAX_CODECS]
        parts.append(_MODEL.pack(bytes.fromhex(times.model), times.whole_s, times.head_s, len(points), len(codecs)))
        parts += [_POINT.pack(p.tokens, p.begin_s, p.query_s, p.attend_s, p.last_s) for p in points]
        parts += [
            _CODEC.pack(c.codec, c.encode.fixed_s, c.encode.token_s, c.decode.fixed_s, c.decode.token_s) for c in codecs
        ]
    return b"".join(parts)


def unpack_profile(blob: bytes) -> BoardProfile:
    """Raises BadFrame for anything but a whole profile of this version with sound numbers."""
    reader = _Reader(blob)
    version, rate, free_bytes, models = reader.take(_HEAD)
    if version != VERSION:
        raise BadFrame(f"a profile of version {version} where {VERSION} is read")
    if not 0.0 <= rate <= _FASTEST or models > MAX_PROFILED:  # a NaN fails every comparison
        raise BadFrame("a profile's rate or number of models is out of range")
    profile = BoardProfile(
        rate=rate or None, free_bytes=free_bytes or None, models=tuple(_times(reader) for _ in range(models))
    )
    reader.end()
    if len({times.model for times in profile.models}) != models:
        raise BadFrame("a profile names one model twice")
    return profile


class _Reader:
    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def take(self, record: struct.Struct) -> tuple[Any, ...]:  # Any: numbers and bytes, as the record says
        if len(self._blob) - self._at < record.size:
            raise BadFrame("a profile is cut short")
        values = record.unpack_from(self._blob, self._at)
        self._at += record.size
        return values

    def end(self) -> None:
        if self._at != len(self._blob):
            raise BadFrame("a profile has bytes behind its end")


def _times(reader: _Reader) -> StageTimes:
    model, whole_s, head_s, points, codecs = reader.take(_MODEL)
    if not 1 <= points <= MAX_POINTS or codecs > MAX_CODECS:
        raise BadFrame("a profile has too many points or codecs, or no point")
    times = StageTimes(
        model=ModelId(model.hex()),
        points=tuple(_point(*reader.take(_POINT)) for _ in range(points)),
        whole_s=_seconds(whole_s),
        head_s=_seconds(head_s),
        codecs=tuple(_codec(*reader.take(_CODEC)) for _ in range(codecs)),
    )
    tokens = [point.tokens for point in times.points]
    if sorted(set(tokens)) != tokens or not 1 <= tokens[0] <= tokens[-1] <= _MOST_TOKENS:
        raise BadFrame("a profile's token counts do not ascend")
    if not times.whole_s or not all(point.query_s + point.attend_s for point in times.points):
        raise BadFrame("a profile says that something takes no time at all")
    if len({codec.codec for codec in times.codecs}) != codecs:
        raise BadFrame("a profile names one codec twice")
    return times


def _point(tokens: int, begin_s: float, query_s: float, attend_s: float, last_s: float) -> Point:
    return Point(
        tokens=tokens,
        begin_s=_seconds(begin_s),
        query_s=_seconds(query_s),
        attend_s=_seconds(attend_s),
        last_s=_seconds(last_s),
    )


def _codec(codec: int, *line: float) -> CodecTimes:
    fixed_s, token_s, back_s, back_token_s = map(_seconds, line)
    encode, decode = Line(fixed_s=fixed_s, token_s=token_s), Line(fixed_s=back_s, token_s=back_token_s)
    return CodecTimes(codec=codec, encode=encode, decode=decode)


def _seconds(value: float) -> float:
    if not math.isfinite(value) or not 0.0 <= value <= _LONGEST_S:
        raise BadFrame("a profile has a time out of range")
    return value
