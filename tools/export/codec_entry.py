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
    encode: tuple[str, ...] | None = None  # graph files, one per block
    decode: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:  # Any: the values of a JSON document
        """The manifest's object; fields that do not belong to the kind are absent."""
        entry: dict[str, Any] = {  # Any: the values of a JSON document
            "name": self.name,
            "kind": self.kind,
            "source": self.source.value,
            "yields": self.yields,
            "width": self.width,
        }
        for field in ("group", "groups", "codes", "bits", "encode", "decode"):
            value = getattr(self, field)
            if value is not None:
                entry[field] = value
        entry["error"] = {"kind": self.error_kind, "value": self.error}
        return entry


PLAIN = ("f32", "f16", "int8", "int4", "f32-input")


def plain_codec(name: str, width: int) -> CodecEntry:
    """A codec of PLAIN for a network of the given width D; raises KeyError for another name."""
    match name:
        case "f32":
            return _exact(name, Source.KV, 2 * width)
        case "f32-input":  # the exact exchange of block inputs (Voltage): half the bytes, projections recomputed
            return _exact(name, Source.INPUT, width)
        case "f16":
            return CodecEntry(
                name=name,
                kind="f16",
                source=Source.KV,
                yields="kv",
                width=2 * width,
                error_kind="relative",
                error=2.0**-11,
            )
        case "int8" | "int4":
            return CodecEntry(
                name=name,
                kind=name,
                source=Source.KV,
                yields="kv",
                width=2 * width,
                group=_values_per_scale(2 * width, 64 if name == "int8" else 32),
                error_kind="step",  # in units of a group's scale; rounding of the f16 scale included
                error=0.57 if name == "int8" else 0.51,
            )
    raise KeyError(name)


def _exact(name: str, source: Source, width: int) -> CodecEntry:
    yields = "input" if source is Source.INPUT else "kv"
    return CodecEntry(name=name, kind="f32", source=source, yields=yields, width=width, error_kind="exact", error=0.0)


def _values_per_scale(width: int, most: int) -> int:
    return max(size for size in range(1, most + 1) if width % size == 0)
