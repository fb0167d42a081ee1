"""Codecs that were fine-tuned together with their network: `codecs/NAME.safetensors` beside model.safetensors.

One file is one codec, or the several rates of one residual codebook. Its metadata say `source` (kv, input, normed) and
`kind`; block b's tensors are called `b.…`:

- codebook: codes [S, G, K, M/G] (or [G, K, M/G]); with a rotation also mean [W] and rotation [W, M]. Metadata `stages`,
  for instance "1,2,4", makes a codec NAME-s1, NAME-s2, NAME-s4 of the first so many stages.
- transform: mean [W], analysis [W, N], synthesis [N, W], bits [N], levels [N, 2^max(bits)]; optionally thresholds
  [N, 2^max(bits) - 1] on the components (default: halfway between levels) and offset [W] (default: mean).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from runtime.fields import NAME
from tools.export.codebook import Codebook, Rotation
from tools.export.codec_entry import Source
from tools.export.codecs import Fit, Tuned
from tools.export.failure import BadInput
from tools.export.safetensors_file import Tensor, read_safetensors
from tools.export.transform import MOST_BITS, Transform, middles
from tools.export.weights import F32, VitShape

_AGAIN = "write it again with the fine-tuning script"


def read_tuned(folder: Path, shape: VitShape) -> tuple[Tuned, ...]:
    """All codecs of a checkpoint folder, in the order of their names; none is no error. Raises BadInput."""
    found: list[Tuned] = []
    for path in sorted((folder / "codecs").glob("*.safetensors")):
        found += _read(path, shape)
    return tuple(found)


def _read(path: Path, shape: VitShape) -> list[Tuned]:
    name = path.name.removesuffix(".safetensors")
    if NAME.fullmatch(name) is None or name == "weights":  # weights.bin is the network's own
        raise BadInput(f"codecs/{path.name} is no codec's name", "use a-z 0-9 . _ - only")
    content = read_safetensors(path)
    try:
        source = Source(content.metadata.get("source", ""))
    except ValueError as exc:
        raise BadInput(f"codecs/{path.name} has no source among kv, input, normed", _AGAIN) from exc
    width = shape.width * (2 if source is Source.KV else 1)
    parse = _KINDS.get(content.metadata.get("kind", ""))
    if parse is None:
        raise BadInput(f"codecs/{path.name} has no kind among {', '.join(_KINDS)}", _AGAIN)
    try:
        blocks = tuple(parse(_Block(content.tensors, number), width) for number in range(shape.blocks))
        stages = [int(part) for part in content.metadata.get("stages", "0").split(",")]
    except (KeyError, ValueError) as exc:
        raise BadInput(f"codecs/{path.name}: {exc.args[0] if exc.args else exc}", _AGAIN) from exc
    if len({_form(block) for block in blocks}) != 1:
        raise BadInput(f"codecs/{path.name}: blocks differ in their groups or codes", _AGAIN)
    if stages == [0]:
        return [Tuned(name=name, source=source, blocks=blocks, data=f"{name}.bin")]
    return [_cut(name, source, blocks, count) for count in stages]


class _Block:
    """The tensors of one block, by their short names."""

    def __init__(self, tensors: Mapping[str, Tensor], number: int) -> None:
        self._tensors, self._number = tensors, number

    def get(self, name: str, *sizes: int | None) -> Tensor:
        """A tensor of this shape (None: any size). Raises KeyError or ValueError with a readable text."""
        full = f"{self._number}.{name}"
        if full not in self._tensors:
            raise KeyError(f"the tensor {full} is missing")
        found = self._tensors[full]
        fits = found.ndim == len(sizes) and all(want in (None, have) for have, want in zip(found.shape, sizes))  # noqa: B905
        if not fits or 0 in found.shape:
            raise ValueError(f"the tensor {full} has the shape {'x'.join(map(str, found.shape))}")
        return found

    def has(self, name: str) -> bool:
        """Whether the block brings this tensor."""
        return f"{self._number}.{name}" in self._tensors

    def rank(self, name: str) -> int:
        """Number of dimensions; 0 when missing."""
        found = self._tensors.get(f"{self._number}.{name}")
        return 0 if found is None else found.ndim


def _codebook(block: _Block, width: int) -> Codebook:
    codes = block.get("codes", None, None, None)[None] if block.rank("codes") == 3 else block.get("codes", *[None] * 4)
    inner, rotation = width, None
    if block.has("rotation"):
        rotation = Rotation(mean=_f32(block.get("mean", width)), basis=_f32(block.get("rotation", width, None)))
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


_KINDS: dict[str, Callable[[_Block, int], Fit]] = {"codebook": _codebook, "transform": _transform}


def _form(fit: Fit) -> tuple[int, ...]:
    return fit.codes.shape[:3] if isinstance(fit, Codebook) else ()


def _cut(name: str, source: Source, blocks: tuple[Fit, ...], stages: int) -> Tuned:
    """The first stages of a residual codebook as a codec of their own; the stored codes are common to all."""
    shorter = []
    for block in blocks:
        if not isinstance(block, Codebook) or not 1 <= stages <= len(block.codes):
            raise BadInput(f"codecs/{name}.safetensors does not have {stages} stages", _AGAIN)
        shorter.append(Codebook(codes=block.codes[:stages], rotation=block.rotation))
    return Tuned(name=f"{name}-s{stages}", source=source, blocks=tuple(shorter), data=f"{name}.bin")


def _f32(tensor: Tensor) -> F32:
    return np.ascontiguousarray(tensor, dtype=np.float32)
