"""What the manifest says about a codec, and the codecs that need no graph of their own."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Source(StrEnum):
    """The tensor a codec packs, content tokens only."""

    KV = "kv"  # keys and values of the block, [B, T, 2D]
    INPUT = "input"  # block input, [B, T, D]
    NORMED = "normed"  # after LN1, [B, T, D]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecEntry:
    """One codec of a model folder."""

    name: str
    kind: str
    source: Source
    yields: str  # "kv", or "input" which goes through project.*
    width: int  # of the source
    error_kind: str
    error: float
    group: int | None = None  # int8, int4: values per scale
    groups: int | None = None  # codebook: sub-vectors per token
    codes: int | None = None  # codebook: entries of each
    bits: tuple[tuple[int, ...], ...] | None = None  # transform: per block, per component
    encode: tuple[str, ...] | None = None  # graph files, one per block that is not silent
    decode: tuple[str, ...] | None = None
    attend: tuple[str, ...] | None = None  # transform of K|V: blocks that take its indices as they are
    state: int | None = None  # values per token that predictive graphs pass on from block to block
    start: str | None = None  # predictive: graph file that turns places into the state before the first block
    absent: bool | None = None  # predictive: one index more stands for codes that stayed out

    def as_json(self) -> dict[str, Any]:  # Any: the values of a JSON document
        """The manifest's object; fields that do not belong to the kind are absent."""
        entry: dict[str, Any] = {  # Any: the values of a JSON document
            "name": self.name,
            "kind": self.kind,
            "source": self.source.value,
            "yields": self.yields,
            "width": self.width,
        }
        for field in ("group", "groups", "codes", "bits", "encode", "decode", "attend", "state", "start", "absent"):
            value = getattr(self, field)
            if value is not None:
                entry[field] = value
        entry["error"] = {"kind": self.error_kind, "value": self.error}
        return entry


PLAIN = ("f32", "f16", "int8", "int4", "f32-input")
UNFITTED = (*PLAIN, "f16-input", "int8-input", "int4-input")  # all that need no calibration


def plain_codec(name: str, width: int) -> CodecEntry:
    """A codec of UNFITTED for a network of the given width D; raises KeyError for another name.

    -input: the exchange of block inputs (Voltage), exact in f32: half the values, and projections recomputed.
    """
    kind, _, ending = name.partition("-")
    if name not in UNFITTED:
        raise KeyError(name)
    source, width = (Source.INPUT, width) if ending else (Source.KV, 2 * width)
    group: int | None = None
    match kind:
        case "f32":
            error_kind, error = "exact", 0.0
        case "f16":
            error_kind, error = "relative", 2.0**-11
        case _:  # in units of a group's scale; rounding of the f16 scale included
            group = _values_per_scale(width, 64 if kind == "int8" else 32)
            error_kind, error = "step", 0.57 if kind == "int8" else 0.51
    return CodecEntry(
        name=name,
        kind=kind,
        source=source,
        yields="input" if ending else "kv",
        width=width,
        group=group,
        error_kind=error_kind,
        error=error,
    )


def _values_per_scale(width: int, most: int) -> int:
    return max(size for size in range(1, most + 1) if width % size == 0)
