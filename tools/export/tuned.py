"""Codecs that were fine-tuned together with their network: codecs.json and codecs.safetensors beside the weights.

codecs.json is {"codecs": [{"name", "kind", "source", "stages"}, ...]}; codec NAME's tensors of block b are called
NAME.b.FIELD. W is the width of what the source (kv, input, normed) sends:

- kind codebook: codes [S, G, K, M/G] of S residual stages; with a rotation also rotation [W, M] and perhaps mean [W].
  With S above 1 the name ends in xS, and every smaller number of stages becomes a codec, too: rq4x64x3 brings
  rq4x64x1, rq4x64x2, rq4x64x3, over the same stored codes.
- kind transform: mean [W], analysis [W, N], synthesis [N, W], bits [N], levels [N, 2^max(bits)]; optionally thresholds
  [N, 2^max(bits) - 1] on the components (default: halfway between levels) and offset [W] (default: mean).
- kind predictive-transform or predictive-codebook (source kv; `tools.export.predictive`): the tensors of the transform
  or of a codebook [1, 1, K, W], and prediction [M, W], ahead [W], basis [W, M], centre [W]; optionally readout [W, W]
  and readout_shift [W]. A silent block of a transform, which the first cannot be, has these only; a codebook has a
  power of two of codes. Block 0 may have start [T, M+Q], the state before it of the tokens at all places; prediction
  then has M+Q rows in every block.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import one_line
from runtime.fields import NAME
from tools.export.codebook import Codebook, Rotation
from tools.export.codec_entry import UNFITTED, Source
from tools.export.codecs import Fit, Tuned
from tools.export.failure import BadInput
from tools.export.hf_folder import read_json
from tools.export.predictive import Predictive
from tools.export.safetensors_file import Tensor, read_safetensors
from tools.export.transform import MOST_BITS, Transform, middles
from tools.export.weights import F32, VitShape

_AGAIN = "fine-tune again, or remove codecs.json"
_TAKEN = {"weights", *UNFITTED}  # weights.bin is the network's own


def read_tuned(folder: Path, shape: VitShape) -> tuple[Tuned, ...]:
    """All codecs of a checkpoint folder in the order of its list; none is no error. Raises BadInput."""
    index, tensors = folder / "codecs.json", folder / "codecs.safetensors"
    if not index.is_file() and not tensors.is_file():
        return ()
    if not (index.is_file() and tensors.is_file()):
        raise BadInput("of codecs.json and codecs.safetensors one is missing", _AGAIN)
    entries = read_json(index).get("codecs")
    if not isinstance(entries, list):
        raise BadInput("codecs.json holds no list of codecs", _AGAIN)
    stored = read_safetensors(tensors).tensors
    found: list[Tuned] = []
    for entry in entries:
        found += _read(entry, stored, shape)
    return tuple(found)


def _read(entry: object, stored: Mapping[str, Tensor], shape: VitShape) -> list[Tuned]:
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}  # Any: the values of a JSON document
    name = str(fields.get("name"))
    if NAME.fullmatch(name) is None or name in _TAKEN:
        raise BadInput(f"codecs.json: {one_line(name, 80)} cannot be the name of a tuned codec", _AGAIN)
    try:
        source = Source(fields.get("source", ""))
        parse = _KINDS[fields.get("kind", "")]
    except (KeyError, ValueError) as exc:
        raise BadInput(f"codecs.json: {name} has a source or a kind that is unknown", _AGAIN) from exc
    width = shape.width * (2 if source is Source.KV else 1)
    try:
        blocks = tuple(parse(_Block(stored, name, number), width) for number in range(shape.blocks))
        if source is not Source.KV and any(isinstance(block, Predictive) for block in blocks):
            raise ValueError(f"{name} predicts, and does not code keys and values")
        for number, block in enumerate(blocks):
            _check_predictive(block, f"{name}.{number}", shape, first=number == 0)
    except (KeyError, ValueError) as exc:
        raise BadInput(f"codecs.safetensors: {exc.args[0]}", _AGAIN) from exc
    if len({_form(block) for block in blocks}) != 1:
        raise BadInput(f"codecs.safetensors: blocks of {name} differ in their groups or codes", _AGAIN)
    stages = max(len(block.codes) if isinstance(block, Codebook) else 1 for block in blocks)
    if stages == 1:
        first = _Block(stored, name, 0)
        try:
            start = _start(first, blocks, shape) if first.has("start") else None
        except ValueError as exc:
            raise BadInput(f"codecs.safetensors: {exc.args[0]}", _AGAIN) from exc
        return [Tuned(name=name, source=source, blocks=blocks, data=f"{name}.bin", start=start)]
    if not name.endswith(f"x{stages}"):
        raise BadInput(f"codecs.json: the name {name} does not end in x{stages}, its number of stages", _AGAIN)
    base = name.removesuffix(f"x{stages}")
    return [
        Tuned(name=f"{base}x{count}", source=source, blocks=_cut(blocks, count), data=f"{base}.bin")
        for count in range(1, stages + 1)
    ]


class _Block:
    """The tensors of one block, by their short names."""

    def __init__(self, tensors: Mapping[str, Tensor], codec: str, number: int) -> None:
        self._tensors, self._prefix = tensors, f"{codec}.{number}"

    def get(self, name: str, *sizes: int | None) -> Tensor:
        """A tensor of this shape (None: any size). Raises KeyError or ValueError with a readable text."""
        full = f"{self._prefix}.{name}"
        if full not in self._tensors:
            raise KeyError(f"the tensor {full} is missing")
        found = self._tensors[full]
        fits = found.ndim == len(sizes) and all(
            want in (None, have) for have, want in zip(found.shape, sizes, strict=True)
        )
        if not fits or 0 in found.shape:
            raise ValueError(f"the tensor {full} has the shape {'x'.join(map(str, found.shape))}")
        return found

    def has(self, name: str) -> bool:
        """Whether the block brings this tensor."""
        return f"{self._prefix}.{name}" in self._tensors

    def rank(self, name: str) -> int:
        """Number of dimensions; 0 when missing."""
        found = self._tensors.get(f"{self._prefix}.{name}")
        return 0 if found is None else found.ndim


def _codebook(block: _Block, width: int) -> Codebook:
    codes = block.get("codes", None, None, None)[None] if block.rank("codes") == 3 else block.get("codes", *[None] * 4)
    inner, rotation = width, None
    if block.has("rotation"):
        mean = _f32(block.get("mean", width)) if block.has("mean") else np.zeros(width, dtype=np.float32)
        rotation = Rotation(mean=mean, basis=_f32(block.get("rotation", width, None)))
        inner = rotation.basis.shape[1]
    if codes.shape[1] * codes.shape[3] != inner or not 2 <= codes.shape[2] <= 65_536:
        raise ValueError(f"codes of the shape {'x'.join(map(str, codes.shape))} do not make a width of {inner}")
    return Codebook(codes=codes.astype(np.float16), rotation=rotation)


def _transform(block: _Block, width: int) -> Transform:
    analysis = _f32(block.get("analysis", width, None))
    count = analysis.shape[1]
    bits = tuple(int(value) for value in block.get("bits", count))
    if not all(1 <= value <= MOST_BITS for value in bits):
        raise ValueError(f"bits of a component must be 1 to {MOST_BITS}")
    depth = 1 << max(bits)
    levels = [row[: 1 << own] for row, own in zip(_f32(block.get("levels", count, depth)), bits, strict=True)]
    if block.has("thresholds"):
        rows = _f32(block.get("thresholds", count, depth - 1))
        thresholds = [row[: (1 << own) - 1] for row, own in zip(rows, bits, strict=True)]
    else:
        thresholds = [middles(row).astype(np.float32) for row in levels]
    if any((np.diff(row) < 0).any() for row in thresholds):
        raise ValueError("thresholds of a component do not rise")
    mean = _f32(block.get("mean", width))
    return Transform(
        mean=mean,
        analysis=analysis,
        synthesis=_f32(block.get("synthesis", count, width)),
        bits=bits,
        levels=tuple(levels),
        thresholds=tuple(thresholds),
        offset=_f32(block.get("offset", width)) if block.has("offset") else mean,
    )


def _predictive_transform(block: _Block, width: int) -> Predictive:
    return _predictive(block, width, _transform(block, width) if block.has("analysis") else None)


def _start(first: _Block, blocks: tuple[Fit, ...], shape: VitShape) -> F32:
    if not isinstance(blocks[0], Predictive):
        raise ValueError("a codec that does not predict has a start")
    return _f32(first.get("start", shape.tokens, blocks[0].state))


def _predictive(block: _Block, width: int, inner: Transform | Codebook | None) -> Predictive:
    basis = _f32(block.get("basis", width, None))
    return Predictive(
        prediction=_f32(block.get("prediction", None, width)),
        ahead=_f32(block.get("ahead", width)),
        inner=inner,
        basis=basis,
        centre=_f32(block.get("centre", width)),
        readout=(_f32(block.get("readout", width, width)), _f32(block.get("readout_shift", width)))
        if block.has("readout")
        else None,
    )


def _predictive_codebook(block: _Block, width: int) -> Predictive:
    book = _codebook(block, width)
    if book.rotation is not None or book.codes.shape[:2] != (1, 1) or book.codes.shape[2].bit_count() != 1:
        raise ValueError("a predictive codebook has one group and one stage, no rotation, and a power of two of codes")
    return _predictive(block, width, book)


def _check_predictive(fit: Fit, where: str, shape: VitShape, *, first: bool) -> None:
    """What the runtime would refuse."""
    if not isinstance(fit, Predictive):
        return
    if first and fit.inner is None:
        raise ValueError(f"{where} is silent: the first block cannot be")
    if fit.places < 0 or fit.state > 2 * shape.width or len(fit.bits) > shape.width:
        raise ValueError(f"{where} has more state than keys and values, or more components than a token has values")


_KINDS: dict[str, Callable[[_Block, int], Fit]] = {
    "codebook": _codebook,
    "transform": _transform,
    "predictive-codebook": _predictive_codebook,
    "predictive-transform": _predictive_transform,
}


def _form(fit: Fit) -> tuple[int, ...]:
    """What must be alike in all blocks."""
    match fit:
        case Codebook():
            return fit.codes.shape[:3]
        case Predictive():
            return (fit.state, fit.places)  # a codebook may be larger in one block than in another
        case _:
            return ()


def _cut(blocks: tuple[Fit, ...], stages: int) -> tuple[Fit, ...]:
    """The first stages of a residual codebook."""
    books = (block for block in blocks if isinstance(block, Codebook))
    return tuple(Codebook(codes=book.codes[:stages], rotation=book.rotation) for book in books)


def _f32(tensor: Tensor) -> F32:
    return np.ascontiguousarray(tensor, dtype=np.float32)
