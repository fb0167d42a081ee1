"""Activations on which learned codecs are fitted: content-token vectors of the undivided network, block by block.

They come from the exported stages themselves, run as one board that holds all tokens: what a codec is fitted on is
what it will meet. One block is held at a time, so a large network needs no more memory than its widest block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.plan import DType, StageSpec, TensorSpec
from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export.codec_entry import Source
from tools.export.graph import Graph, Port
from tools.export.weights import F32

U8 = npt.NDArray[np.uint8]
BATCH_IMAGES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Images on which learned codecs are fitted."""

    rows: U8  # [n, tokens, row_bytes] patch rows
    vectors: int = 60_000  # token vectors per block that a fit may use
    vectors_per_code: int = 8  # with fewer, a codebook shrinks to a smaller power of two
    seed: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Content-token vectors of one block."""

    kv: F32  # [n, 2D]
    input: F32  # [n, D]
    normed: F32  # [n, D]
    places: npt.NDArray[np.int64]  # [n], which token of its picture each was

    def of(self, source: Source) -> F32:
        """The vectors a codec of this source packs."""
        match source:
            case Source.KV:
                return self.kv
            case Source.INPUT:
                return self.input
            case Source.NORMED:
                return self.normed


def sample(folder: Path, graphs: Sequence[Graph], calibration: Calibration) -> Iterator[Samples]:
    """Run the images through the stages `graphs` that lie in `folder`; samples of block 0, 1, ... in turn."""
    by_name = {graph.name: graph for graph in graphs}

    def load(name: str) -> Stage:
        settings = SessionSettings(threads=calibration.threads, prepack=True)
        return Stage(folder, stage_spec(by_name[name]), settings)

    rows = calibration.rows
    share = min(1.0, calibration.vectors / (rows.shape[0] * rows.shape[1]))
    rng = np.random.default_rng(calibration.seed)
    masks = [rng.random((len(part), rows.shape[1])) < share for part in _batches(rows)]
    embed = load("embed")
    states = [embed.run(part, np.zeros(1, dtype=np.int64)) for part in _batches(rows)]  # [x, h, kv] of each batch
    blocks = sum(name.startswith("query.") for name in by_name)
    for number in range(blocks):
        x, h, kv = (
            np.concatenate([state[part][:, 1:][mask] for state, mask in zip(states, masks, strict=True)])
            for part in range(3)
        )
        places = np.concatenate([np.nonzero(mask)[1] for mask in masks])
        yield Samples(kv=kv, input=x, normed=h, places=places)
        if number + 1 < blocks:
            query, attend = load(f"query.{number}"), load(f"attend.{number}")
            for place, (x, h, kv) in enumerate(states):
                nothing = np.zeros((len(x), 0, kv.shape[2]), dtype=np.float32)
                states[place] = attend.run(x, query.run(h)[0], kv, nothing)


def stage_spec(graph: Graph) -> StageSpec:
    """What the runtime needs to know about a graph that was just written."""
    sides = [tuple(_tensor(port) for port in side) for side in (graph.inputs, graph.outputs)]
    return StageSpec(name=graph.name, file=graph.file, inputs=sides[0], outputs=sides[1])


def _tensor(port: Port) -> TensorSpec:
    return TensorSpec(name=port.name, dtype=DType(port.dtype), shape=port.shape)


def _batches(rows: U8) -> Iterator[U8]:
    for start in range(0, len(rows), BATCH_IMAGES):
        yield rows[start : start + BATCH_IMAGES]
