"""All codecs of a model folder: which names exist, what each is fitted on, and the graphs each leaves behind.

Names: f32 f16 int8 int4 f32-input (no graphs); vqGxK and tcBITS (of K|V); vqGxK-normed (after LN1, decoded by tables);
astra-gG (of the block input, decoded by the block's own projection: the paper's way).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.export import codebook, transform
from tools.export.calibration import Calibration, Samples, sample
from tools.export.codec_entry import PLAIN, CodecEntry, Source, plain_codec
from tools.export.graph import Graph
from tools.export.reference import Reference
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, VitWeights

ASTRA_CODES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A learned codec's name, taken apart."""

    name: str
    source: Source
    groups: int = 0  # 0: a transform
    codes: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where a codec's graphs go and what they may refer to."""

    folder: Path
    store: TensorFile  # the codec's own external data
    vectors_per_code: int
    weights: VitWeights


def parse_name(name: str) -> Rule:
    """Raises ValueError for a name that is no learned codec."""
    if found := re.fullmatch(r"vq(\d+)x(\d+)(-normed)?", name):
        source = Source.NORMED if found[3] else Source.KV
        return Rule(name=name, source=source, groups=int(found[1]), codes=int(found[2]))
    if found := re.fullmatch(r"astra-g(\d+)", name):
        return Rule(name=name, source=Source.INPUT, groups=int(found[1]), codes=ASTRA_CODES)
    if found := re.fullmatch(r"tc(\d+)", name):
        return Rule(name=name, source=Source.KV, bits=int(found[1]))
    raise ValueError(f"{name} is no codec: f32 f16 int8 int4 f32-input vqGxK vqGxK-normed astra-gG tcBITS")


def write_codecs(
    folder: Path,
    *,
    names: Sequence[str],
    weights: VitWeights,
    reference: Reference,
    calibration: Calibration | None,
) -> list[CodecEntry]:
    """Fit and write the named codecs; entries in the order of `names`."""
    rules = [parse_name(name) for name in names if name not in PLAIN]
    learned: dict[str, CodecEntry] = {}
    if rules:
        if calibration is None:
            raise ValueError(f"codec {rules[0].name} is fitted on images: calibration is missing")
        samples = sample(reference, calibration)
        for rule in rules:
            store = TensorFile(folder / f"{rule.name}.bin")
            per_code = calibration.vectors_per_code
            shelf = Shelf(folder=folder, store=store, weights=weights, vectors_per_code=per_code)
            learn = _learn_codebook if rule.groups else _learn_transform
            learned[rule.name] = learn(rule, samples, shelf)
            store.close()
    return [learned[name] if name in learned else plain_codec(name, weights.shape.width) for name in names]


def _learn_codebook(rule: Rule, samples: Sequence[Samples], shelf: Shelf) -> CodecEntry:
    values = [block.of(rule.source) for block in samples]
    codes = min(rule.codes, 1 << max(1, (len(values[0]) // shelf.vectors_per_code).bit_length() - 1))
    books = [codebook.fit_codebook(block, groups=rule.groups, codes=codes, seed=i) for i, block in enumerate(values)]

    def graphs(number: int) -> Iterator[Graph]:
        yield codebook.encode_graph(f"{rule.name}.encode.{number}", books[number], shelf.store)
        decode = f"{rule.name}.decode.{number}"
        if rule.source is Source.NORMED:
            yield codebook.table_decode_graph(decode, books[number], shelf.weights.blocks[number].kv, shelf.store)
        else:
            yield codebook.decode_graph(decode, books[number], shelf.store)

    encode, decode = _write(shelf.folder, graphs, len(books))
    return CodecEntry(
        name=rule.name,
        kind="codebook",
        source=rule.source,
        yields="input" if rule.source is Source.INPUT else "kv",
        width=values[0].shape[1],
        groups=rule.groups,
        codes=codes,
        encode=encode,
        decode=decode,
        error_kind="relative-rms",
        error=_worst(values, [lambda v, b=book: b.rebuild(b.nearest(v)) for book in books]),
    )


def _learn_transform(rule: Rule, samples: Sequence[Samples], shelf: Shelf) -> CodecEntry:
    values = [block.of(rule.source) for block in samples]
    fits = [transform.fit_transform(block, rule.bits) for block in values]

    def graphs(number: int) -> Iterator[Graph]:
        yield transform.encode_graph(f"{rule.name}.encode.{number}", fits[number], shelf.store)
        yield transform.decode_graph(f"{rule.name}.decode.{number}", fits[number], shelf.store)

    encode, decode = _write(shelf.folder, graphs, len(fits))
    return CodecEntry(
        name=rule.name,
        kind="transform",
        source=rule.source,
        yields="kv",
        width=values[0].shape[1],
        bits=tuple(fit.bits for fit in fits),
        encode=encode,
        decode=decode,
        error_kind="relative-rms",
        error=_worst(values, [lambda v, f=fit: f.rebuild(f.nearest(v)) for fit in fits]),
    )


def _write(
    folder: Path, graphs: Callable[[int], Iterator[Graph]], blocks: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write each block's encode and decode graph; returns the file names."""
    pairs = [tuple(graphs(number)) for number in range(blocks)]
    for pair in pairs:
        for graph in pair:
            graph.write(folder)
    return tuple(encode.file for encode, _ in pairs), tuple(decode.file for _, decode in pairs)


def _worst(values: Sequence[F32], rebuild: Sequence[Callable[[F32], npt.NDArray[np.float32]]]) -> float:
    """RMS error relative to the RMS deviation from the mean vector, first 4000 vectors, of the worst block."""
    ratios = []
    for block, restore in zip(values, rebuild, strict=True):
        part = block[:4000]
        wrong = np.square(restore(part) - part).mean()
        ratios.append(float(np.sqrt(wrong / np.square(part - part.mean(axis=0)).mean())))
    return round(max(ratios), 6)
