"""Activations on which learned codecs are fitted: content-token vectors of the undivided network, block by block."""

from dataclasses import dataclass

import numpy as np

from tools.export.codec_entry import Source
from tools.export.reference import U8, Reference
from tools.export.weights import F32

BATCH_IMAGES = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Images on which learned codecs are fitted."""

    rows: U8  # [n, tokens, row_bytes] patch rows
    vectors: int = 60_000  # token vectors per block that a fit may use
    vectors_per_code: int = 8  # with fewer, a codebook shrinks to a smaller power of two
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Content-token vectors of one block."""

    kv: F32  # [n, 2D]
    input: F32  # [n, D]
    normed: F32  # [n, D]

    def of(self, source: Source) -> F32:
        """The vectors a codec of this source packs."""
        match source:
            case Source.KV:
                return self.kv
            case Source.INPUT:
                return self.input
            case Source.NORMED:
                return self.normed


def sample(reference: Reference, calibration: Calibration) -> list[Samples]:
    """Run the images through the undivided network and keep content-token vectors of every block."""
    rows, blocks = calibration.rows, reference.shape.blocks
    share = min(1.0, calibration.vectors / (len(rows) * reference.shape.tokens))
    rng = np.random.default_rng(calibration.seed)
    kept: list[list[tuple[F32, ...]]] = [[] for _ in range(blocks)]
    for start in range(0, len(rows), BATCH_IMAGES):
        trace = reference.forward(rows[start : start + BATCH_IMAGES])
        mask = rng.random((len(trace.logits), reference.shape.tokens)) < share
        for number, block in enumerate(trace.blocks):
            kept[number].append(tuple(part[:, 1:][mask] for part in (block.kv, block.x, block.h)))
    stacked = [tuple(np.concatenate(parts) for parts in zip(*block, strict=True)) for block in kept]
    return [Samples(kv=kv, input=x, normed=h) for kv, x, h in stacked]
