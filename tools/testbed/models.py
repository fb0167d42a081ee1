"""Models of random weights for timing, made by a command and never committed.

    python -m tools.testbed.models vit-base-197 vit-base-197-int8 ... [--out runs/models] [--codecs LIST]

Names: vit-{tiny,small,base}-TOKENS, with the class token (197 is 224x224 pixels of ViT/16), and -int8 for weights of a
quarter of the size. Weights, codebooks and pictures are random: they are for timing only. Keys and values have spectra
as trained networks have, or transform codes would have far more components to count.
"""

import argparse
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.export.calibration import Calibration
from tools.export.codebook import Codebook
from tools.export.codec_entry import UNFITTED
from tools.export.codecs import Fit, Rule, Tuned, parse_name
from tools.export.predictive import Predictive, default_state, speaking_bits
from tools.export.random_vit import VIT_BASE_16, fade_keys_and_values, random_tensors
from tools.export.transform import Transform, fit_transform
from tools.export.vit import EVEN, export_model
from tools.export.weights import F32, Storage, VitShape, arrange

CODECS = (
    "f32,f16,int8,int4,tc53,tc160,tc320,ptc53,ptc53x2,ptc53x3,f32-input,f16-input,int8-input,int4-input,"
    "astra-g1,astra-g16,astra-g32"
)
_SIZES = {
    "tiny": replace(VIT_BASE_16, width=192, heads=3, mlp=768),
    "small": replace(VIT_BASE_16, width=384, heads=6, mlp=1536),
    "base": VIT_BASE_16,
}
_VECTORS = 4000
# On the trained vit-cifar10 a codec's bits go to about this share of the directions of K and V.
_HALVING = 4.5 / 768


def shape_of(name: str) -> tuple[VitShape, Storage]:
    """`vit-base-197-int8` taken apart. Raises ValueError."""
    try:
        _, size, tokens, *rest = name.split("-")
        side = math.isqrt(int(tokens) - 1)
        shape = replace(_SIZES[size], image=16 * side)
    except (KeyError, ValueError):
        raise ValueError(f"{name} is no vit-{{{','.join(_SIZES)}}}-TOKENS[-int8]") from None
    if side * side + 1 != int(tokens) or rest not in ([], ["int8"]):
        raise ValueError(f"{name}: tokens are a square and the class token, and -int8 is all that may follow")
    return shape, Storage.INT8 if rest else Storage.F32


def make(name: str, out: Path, codecs: tuple[str, ...]) -> Path:
    """Write the model folder `out`/`name`, unless it is there with these codecs; its path."""
    # As a trained model would have it: what the planner takes where nobody names a codec.
    default = next((codec for codec in codecs if codec.startswith("tc")), codecs[0])
    folder, marker = out / name, f"{','.join(codecs)} {default}"
    note = out / f"{name}.codecs"
    if folder.exists() and note.exists() and note.read_text() == marker:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shape, storage = shape_of(name)
    halving = max(1.0, _HALVING * shape.width)
    tensors = fade_keys_and_values(random_tensors(shape, seed=1), shape, halving=halving, seed=1)
    # Normed tokens are as good as random ones: codecs are fitted on their keys and values, once for all blocks.
    kv = arrange(tensors, shape, mean=EVEN, std=EVEN).blocks[0].kv
    rng = np.random.default_rng(1)
    values = rng.standard_normal((_VECTORS, shape.width), dtype=np.float32) @ kv.weight + kv.bias
    rules = [parse_name(codec) for codec in codecs if codec not in UNFITTED]
    rows = rng.integers(0, 256, (1, shape.tokens, shape.row_bytes), dtype=np.uint8)
    out.mkdir(parents=True, exist_ok=True)
    export_model(
        tensors,
        shape,
        name=name,
        labels=[f"class {index}" for index in range(shape.classes)],
        out=folder,
        codecs=[codec for codec in codecs if codec in UNFITTED],
        tuned=[_codec(rule, shape, values) for rule in rules],
        calibration=Calibration(rows=rows),
        default_codec=default,
        storage=storage,
    )
    note.write_text(marker)
    return folder


def _codec(rule: Rule, shape: VitShape, values: F32) -> Tuned:
    """Blocks that differ only in where their numbers stand: each has weights of its own to stream."""
    blocks: list[Fit] = []
    if rule.predictive and rule.groups:
        raise ValueError(f"{rule.name}: predictive codebooks are not made up for timing")
    if rule.predictive:
        return Tuned(
            name=rule.name, source=rule.source, blocks=_predictive(rule, shape, values), data=f"{rule.name}.bin"
        )
    if rule.groups:
        rng = np.random.default_rng(2)
        size = (1, rule.groups, rule.codes, shape.width // rule.groups)
        blocks += [Codebook(codes=rng.standard_normal(size).astype(np.float16)) for _ in range(shape.blocks)]
    else:
        fit = fit_transform(values, rule.bits)
        blocks += [_rolled(fit, block) for block in range(shape.blocks)]
    return Tuned(name=rule.name, source=rule.source, blocks=tuple(blocks), data=f"{rule.name}.bin")


def _predictive(rule: Rule, shape: VitShape, values: F32) -> tuple[Predictive, ...]:
    """Blocks that foretell next to nothing of each other, as their weights are random; the work is the same."""
    rng, width, state = np.random.default_rng(2), values.shape[1], default_state(values.shape[1], rule.bits)
    fits: dict[int, Transform] = {}
    blocks = []
    for number, bits in enumerate(speaking_bits(rule.bits, rule.every, shape.blocks)):
        if bits and bits not in fits:
            fits[bits] = fit_transform(values, bits)
        basis = np.linalg.qr(rng.standard_normal((width, state), dtype=np.float32))[0]
        blocks.append(
            Predictive(
                prediction=np.ascontiguousarray(0.1 * basis.T),
                ahead=np.zeros(width, dtype=np.float32),
                inner=_rolled(fits[bits], number) if bits else None,
                basis=basis,
                centre=values.mean(axis=0),
            )
        )
    return tuple(blocks)


def _rolled(fit: Transform, by: int) -> Transform:
    return replace(
        fit,
        mean=np.roll(fit.mean, by),
        analysis=np.roll(fit.analysis, by, axis=0),
        synthesis=np.roll(fit.synthesis, by, axis=1),
        offset=np.roll(fit.offset, by),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/models"))
    parser.add_argument("--codecs", default=CODECS)
    options = parser.parse_args(arguments)
    for name in options.names:
        print(make(name, options.out, tuple(options.codecs.split(","))), flush=True)


if __name__ == "__main__":
    main()
