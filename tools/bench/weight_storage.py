"""Time of a block with f32 and with int8 weights, one thread, on this machine.

    python -m tools.bench.weight_storage

A block of the demo's width (128, 64 tokens) and one of ViT-Base (768, 196 tokens), random weights: all tokens on one
board, and a quarter of them with ready keys and values of the others. Whether int8 pays depends on the processor (VNNI
or the dot-product extension); measure on the board in question.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.settings import SessionSettings
from runtime.stage import Stage
from tools.export.calibration import stage_spec
from tools.export.graph import Graph
from tools.export.random_vit import TINY, VIT_BASE_16, random_tensors
from tools.export.stages import stage_graphs
from tools.export.tensor_file import TensorFile
from tools.export.weights import Storage, VitShape, arrange

SMALL = replace(TINY, image=32, width=128, heads=4, mlp=512, blocks=3)
LARGE = replace(VIT_BASE_16, blocks=2)
ROUNDS = 60
EVEN = (0.5, 0.5, 0.5)


def block_ms(folder: Path, graphs: dict[str, Graph], shape: VitShape, own: int) -> float:
    """Fastest query.0 + attend.0 (with the next block's keys and values) of `own` tokens, milliseconds."""
    settings = SessionSettings(threads=1, prepack=True)
    query, attend = (Stage(folder, stage_spec(graphs[name]), settings) for name in ("query.0", "attend.0"))
    rng = np.random.default_rng(1)
    x, h = (rng.standard_normal((1, 1 + own, shape.width), dtype=np.float32) for _ in range(2))
    kv = rng.standard_normal((1, 1 + own, 2 * shape.width), dtype=np.float32)
    remote = rng.standard_normal((1, shape.tokens - own, 2 * shape.width), dtype=np.float32)
    best = np.inf
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        attend.run(x, query.run(h)[0], kv, remote)
        best = min(best, time.perf_counter() - began_at)
    return 1000 * best


def main() -> None:
    """Print a line per network and share."""
    for shape in (SMALL, LARGE):
        times: dict[tuple[Storage, int], float] = {}
        for storage in Storage:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                store = TensorFile(folder / "weights.bin")
                weights = arrange(random_tensors(shape, seed=1), shape, mean=EVEN, std=EVEN, storage=storage)
                graphs = {graph.name: graph for graph in stage_graphs(weights, store)}
                store.close()
                for graph in graphs.values():
                    graph.write(folder)
                for own in (shape.tokens, shape.tokens // 4):
                    times[storage, own] = block_ms(folder, graphs, shape, own)
        for own in (shape.tokens, shape.tokens // 4):
            f32, int8 = times[Storage.F32, own], times[Storage.INT8, own]
            print(
                f"width {shape.width}, {own} of {shape.tokens} tokens: "
                f"f32 {f32:.2f} ms, int8 {int8:.2f} ms ({f32 / int8:.2f}x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
