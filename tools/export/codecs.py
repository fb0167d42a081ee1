"""All codecs of a model folder: which names exist, what each is fitted on, and the graphs each leaves behind.

Names: f32 f16 int8 int4, all also -input (no graphs); tcBITS (transform), vqGxK (grouped codebooks), oqGxK (the same
after a rotation), rqGxKxS (S residual stages), each of K|V, with -normed after LN1 (decoded to K|V at once), or with
-input of the block input (decoded by the block's own projection); ptcBITS and pvqBITS (transform, and one codebook,
of what earlier blocks' codes do not foretell of K|V), ptcBITSxE (with one exchange for E blocks), all three from
`tools.export.predictive`; astra-gG (vqGx1024-input, the paper's way). A fine-tuned checkpoint brings further ones under
names of its own (`tools.export.tuned`).
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.export import codebook, predictive, transform
from tools.export.calibration import Calibration, sample
from tools.export.codebook import Codebook
from tools.export.codebook_fit import fit_codebook
from tools.export.codec_entry import UNFITTED, CodecEntry, Source, plain_codec
from tools.export.component_attention import component_attend_graph
from tools.export.graph import Graph
from tools.export.predictive import (
    MOST_BITS,
    MOST_BOOK,
    Predictive,
    default_state,
    fit_predictive,
    share_bits,
    speaking_bits,
)
from tools.export.tensor_file import TensorFile
from tools.export.transform import Transform
from tools.export.weights import F32, Affine, VitWeights

ASTRA_CODES = 1024
MOST_CODES = 65_536
_SUFFIXES = {None: Source.KV, "-normed": Source.NORMED, "-input": Source.INPUT}
_CHECKED_VECTORS = 4000

Fit = Codebook | Transform | Predictive  # one block of a learned codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A learned codec's name, taken apart."""

    name: str
    source: Source
    groups: int = 0  # 0: a transform
    codes: int = 0
    stages: int = 1
    rotated: bool = False
    bits: int = 0
    predictive: bool = False
    every: int = 1  # predictive transform: so many blocks share one exchange

    def fit(self, values: F32, state: F32 | None, *, vectors_per_code: int, block: tuple[int, int]) -> Fit:
        """Fit block number `block[0]` of `block[1]` on values [n, W]; a codebook shrinks when vectors are few.

        `state` is what the codes of the block before left behind, if they predict.
        """
        if not self.groups and not self.predictive:
            return transform.fit_transform(values, self.bits)
        if self.predictive and state is None:
            state = blank(len(values), default_state(values.shape[1], self.bits))
        if not self.groups and state is not None:
            bits = speaking_bits(self.bits, self.every, block[1])[block[0]]
            return fit_predictive(values, state, bits=bits)
        wanted = 1 << share_bits(self.bits, block[1])[block[0]] if self.predictive else self.codes
        codes = min(wanted, 1 << max(1, (len(values) // vectors_per_code).bit_length() - 1))
        if state is not None:
            return fit_predictive(values, state, codes=codes, seed=block[0])
        return fit_codebook(
            values, groups=self.groups, codes=codes, seed=block[0], stages=self.stages, rotated=self.rotated
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A codec that was trained together with the network; nothing is left to be fitted."""

    name: str
    source: Source
    blocks: tuple[Fit, ...]
    data: str  # name of its external data, which rates of one residual codebook share
    start: F32 | None = None  # of codes that predict: the state before the first block at every place, [T, M+Q]


@dataclass(slots=True, kw_only=True)
class _Shelf:
    """What has been written of one codec so far."""

    name: str
    source: Source
    store: TensorFile
    fits: list[Fit] = field(default_factory=list)
    encode: list[str] = field(default_factory=list)
    decode: list[str] = field(default_factory=list)
    attend: list[str] = field(default_factory=list)
    error: float = 0.0
    state: F32 | None = None  # of the calibration vectors, after the last block
    start: str | None = None

    def begin(self, folder: Path, start: F32, places: npt.NDArray[np.int64]) -> None:
        """Write what a token's place says of it; `places` [n] are those of the calibration vectors."""
        graph = predictive.start_graph(f"{self.name}.start", start, self.store)
        graph.write(folder)
        self.start, self.state = graph.file, start[places]

    def add(self, folder: Path, fit: Fit, values: F32, weights: VitWeights, network: TensorFile) -> None:
        """Write the graphs of the next block and measure its error on values [n, W]."""
        number = len(self.fits)
        self.fits.append(fit)
        block = weights.blocks[number]
        kv = block.kv if self.source is Source.NORMED else None
        names = (f"{self.name}.encode.{number}", f"{self.name}.decode.{number}")
        for graph in _graphs(fit, names, self.store, kv, block.kv):
            graph.write(folder)
        if not isinstance(fit, Codebook) and self.source is not Source.INPUT:
            whole = fit.projected(kv) if isinstance(fit, Transform) and kv is not None else fit
            graph = component_attend_graph(f"{self.name}.", whole, weights, number, (network, self.store))
            graph.write(folder)
            self.attend.append(graph.file)
        if not isinstance(fit, Predictive) or fit.inner is not None:
            self.encode.append(f"{names[0]}.onnx")
        self.decode.append(f"{names[1]}.onnx")
        part = values[:_CHECKED_VECTORS]
        wrong = np.square(self._rebuilt(fit, values)[: len(part)] - part).mean()
        self.error = max(self.error, float(np.sqrt(wrong / np.square(part - part.mean(axis=0)).mean())))

    def _rebuilt(self, fit: Fit, values: F32) -> F32:
        """What a receiver makes of the first vectors (of all, where the next block needs them)."""
        if not isinstance(fit, Predictive):
            part = values[:_CHECKED_VECTORS]
            return fit.rebuild(fit.nearest(part))
        before = blank(len(values), fit.state) if self.state is None else self.state
        self.state = fit.after(fit.nearest(values, before), before)
        return fit.rebuild(self.state)

    @property
    def _from_normed(self) -> bool:
        """Components of K|V are read off the normed tokens, of which K|V is an affine function."""
        return self.source is Source.KV and all(isinstance(fit, Transform | Predictive) for fit in self.fits)

    def entry(self) -> CodecEntry:
        """The manifest's entry, once all blocks are there."""
        first, from_normed = self.fits[0], self._from_normed
        book = first if isinstance(first, Codebook) else None
        return CodecEntry(
            name=self.name,
            kind="transform" if book is None else "codebook",
            source=Source.NORMED if from_normed else self.source,
            yields="input" if self.source is Source.INPUT else "kv",
            width=first.width // 2 if from_normed else first.width,
            groups=None if book is None else book.indices,
            codes=None if book is None else int(book.codes.shape[2]),
            bits=tuple(fit.bits for fit in self.fits if not isinstance(fit, Codebook)) or None,
            encode=tuple(self.encode),
            decode=tuple(self.decode),
            attend=tuple(self.attend) or None,
            state=first.state if isinstance(first, Predictive) else None,
            start=self.start,
            absent=True if isinstance(first, Predictive) else None,
            error_kind="relative-rms",
            error=round(self.error, 6),
        )


def parse_name(name: str) -> Rule:
    """Raises ValueError for a name that is no learned codec."""
    if found := re.fullmatch(r"astra-g(\d+)", name):
        return Rule(name=name, source=Source.INPUT, groups=int(found[1]), codes=ASTRA_CODES)
    if (found := re.fullmatch(r"ptc(\d+)(?:x([1-9]))?", name)) and 1 <= int(found[1]) <= MOST_BITS:
        return Rule(name=name, source=Source.KV, bits=int(found[1]), predictive=True, every=int(found[2] or 1))
    if (found := re.fullmatch(r"pvq(\d+)", name)) and 2 <= int(found[1]) <= MOST_BOOK:
        return Rule(name=name, source=Source.KV, groups=1, bits=int(found[1]), predictive=True)
    found = re.fullmatch(r"(tc|vq|oq|rq)(\d+)(?:x(\d+))?(?:x(\d+))?(-normed|-input)?", name)
    kind, numbers = (found[1], [int(found[i]) for i in (2, 3, 4) if found[i]]) if found else ("", [])
    source = _SUFFIXES[found[5]] if found else Source.KV
    if all(number > 0 for number in numbers):
        match kind, numbers:
            case "tc", [bits]:
                return Rule(name=name, source=source, bits=bits)
            case (("vq" | "oq"), [groups, codes]) if 2 <= codes <= MOST_CODES:
                return Rule(name=name, source=source, groups=groups, codes=codes, rotated=kind == "oq")
            case "rq", [groups, codes, stages] if 2 <= codes <= MOST_CODES:
                return Rule(name=name, source=source, groups=groups, codes=codes, stages=stages)
    raise ValueError(
        f"{name} is no codec: f32 f16 int8 int4 (all -input) tcBITS vqGxK oqGxK rqGxKxS (all -normed, -input) "
        "ptcBITS[xE] pvqBITS astra-gG"
    )


def write_codecs(
    folder: Path,
    *,
    names: Sequence[str],
    tuned: Sequence[Tuned] = (),
    weights: VitWeights,
    stages: Sequence[Graph],
    network: TensorFile,
    calibration: Calibration | None,
    say: Callable[[str], None] = lambda _: None,
) -> list[CodecEntry]:
    """Fit and write the named codecs, then the tuned ones; entries in that order. `network` is the file of `weights`.

    Raises ValueError for an unknown name, for a name that stands twice, and when calibration is needed and missing.
    """
    rules = [parse_name(name) for name in names if name not in UNFITTED]
    ready = {codec.name: codec for codec in tuned}
    if len({*names, *ready}) != len(names) + len(tuned):
        raise ValueError("two codecs have the same name")
    learned: dict[str, _Shelf] = {}
    if rules or tuned:
        if calibration is None:
            first = rules[0].name if rules else tuned[0].name
            raise ValueError(f"codec {first} is fitted on images: calibration is missing")
        with contextlib.ExitStack() as files:
            places = dict.fromkeys([f"{rule.name}.bin" for rule in rules] + [codec.data for codec in tuned])
            stores = {name: files.enter_context(contextlib.closing(TensorFile(folder / name))) for name in places}
            learned = {r.name: _Shelf(name=r.name, source=r.source, store=stores[f"{r.name}.bin"]) for r in rules}
            learned |= {t.name: _Shelf(name=t.name, source=t.source, store=stores[t.data]) for t in tuned}
            for number, samples in enumerate(sample(folder, stages, calibration)):
                for rule in rules:
                    values, state = samples.of(rule.source), learned[rule.name].state
                    place = (number, weights.shape.blocks)
                    fit = rule.fit(values, state, vectors_per_code=calibration.vectors_per_code, block=place)
                    learned[rule.name].add(folder, fit, values, weights, network)
                for codec in tuned:
                    if codec.start is not None and number == 0:
                        learned[codec.name].begin(folder, codec.start, samples.places)
                    learned[codec.name].add(folder, codec.blocks[number], samples.of(codec.source), weights, network)
                say(f"block {number + 1} of {weights.shape.blocks}: {len(learned)} codecs fitted")
    ordered = [*names, *ready]
    return [learned[n].entry() if n in learned else plain_codec(n, weights.shape.width) for n in ordered]


def blank(count: int, state: int) -> F32:
    """The state of `count` tokens before the first block, [count, state]."""
    return np.zeros((count, state), dtype=np.float32)


def _graphs(fit: Fit, names: tuple[str, str], store: TensorFile, kv: Affine | None, own: Affine) -> tuple[Graph, ...]:
    """Encoder and decoder of one block; its K|V is `own` of what LN1 leaves. `kv`: `own` for codes after LN1."""
    match fit:
        case Predictive() if fit.inner is None:
            return (predictive.decode_graph(names[1], fit, store),)
        case Predictive():
            return predictive.encode_graph(names[0], fit, store, own), predictive.decode_graph(names[1], fit, store)
        case Codebook():
            encode = codebook.encode_graph(names[0], fit, store)
            if kv is None:
                return encode, codebook.decode_graph(names[1], fit, store)
            return encode, codebook.table_decode_graph(names[1], fit, kv, store)
        case Transform():
            of = own if fit.width == len(own.bias) else None  # of K|V: components are read off what LN1 leaves
            encode = transform.encode_graph(names[0], fit, store, of)
            # A transform's synthesis is a product already: the projection after LN1 goes into it, at no cost.
            return encode, transform.decode_graph(names[1], fit if kv is None else fit.projected(kv), store)
