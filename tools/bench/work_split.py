"""How much of a block's work one of four boards is left with: counted in the graphs, and measured.

    python -m tools.bench.work_split [--quick] [--json FILE]

ViT-Base/16 with random weights, 196 content tokens + class token, four boards of 49 content tokens. Counted: MACs of
all matrix products. Measured: one block through the runtime on one thread, encoding and decoding included, cases taken
in turn so that a disturbance hits all of them; caches are swept before each case, because in a whole pass a block's
weights have been evicted by the other blocks' when their turn comes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from runtime.model import Model
from runtime.plan import DType, StageSpec, TensorSpec
from runtime.settings import SessionSettings
from runtime.shard import Shard
from runtime.stage import Stage
from tools.bench.macs import count_macs
from tools.export.calibration import Calibration
from tools.export.codec_entry import UNFITTED
from tools.export.codecs import parse_name
from tools.export.random_vit import VIT_BASE_16, fade_keys_and_values, random_tensors
from tools.export.tensor_file import TensorFile
from tools.export.vit import EVEN, export_model
from tools.export.weights import arrange
from tools.export.whole import block_graph

BOARDS = 4
BLOCKS = VIT_BASE_16.blocks
# Two blocks stand for twelve: the first is like all but the last, the last computes its class token only.
SMALL = replace(VIT_BASE_16, blocks=2)
CODECS = (
    "f32,f16,int8,int4,tc53,ptc53,tc128,tc256,vq8x256,vq16x256,vq8x256-normed,f32-input,astra-g1,astra-g16,astra-g32"
)
SWEEP_BYTES = 96 << 20
SHARE_LIMIT = 0.08  # encoding may take this much of a shard's block


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the report."""

    codec: str
    bits: int  # per content token and block
    counted: float  # whole model's MACs over one board's
    median_ms: float  # one block of one board, encoding and decoding included
    p95_ms: float
    speedup: float  # median of the undivided block over median_ms
    encode_ms: float
    decode_ms: float  # projection included where the codec needs it
    encode_share: float


def build(folder: Path, codecs: Sequence[str]) -> tuple[Model, Stage]:
    """The two-block model with codecs fitted on random pictures, and the undivided block beside it."""
    # On the trained vit-cifar10, 256 bits are spread over about 60 components of K|V: so are they with this spectrum.
    tensors = fade_keys_and_values(random_tensors(SMALL, seed=1), SMALL, halving=4.5, seed=1)
    rows = np.random.default_rng(1).integers(0, 256, (12, SMALL.tokens, SMALL.row_bytes), dtype=np.uint8)
    labels = [f"class {index}" for index in range(SMALL.classes)]
    out = folder / "vit-base-2-blocks"
    calibration = Calibration(rows=rows, vectors_per_code=1)
    export_model(tensors, SMALL, name="vit-base", labels=labels, out=out, codecs=codecs, calibration=calibration)
    store = TensorFile(folder / "block.bin")
    graph = block_graph(arrange(tensors, SMALL, mean=EVEN, std=EVEN), store, 0)
    store.close()
    graph.write(folder)
    port = TensorSpec(name="x", dtype=DType.F32, shape=("B", "S", SMALL.width))
    spec = StageSpec(name="block", file=graph.file, inputs=(port,), outputs=(replace(port, name="y"),))
    settings = SessionSettings(threads=1, prepack=True)
    return Model.load(out, settings), Stage(folder, spec, settings)


def counted_ratio(folder: Path, model: Model, codec: str) -> float:
    """MACs of the whole network over those of one board, for all twelve blocks."""
    own = SMALL.tokens // BOARDS
    sizes = {"B": 1, "T": own, "1+T": 1 + own, "R": SMALL.tokens - own, "S": 1 + SMALL.tokens}
    spec = model.plan.codec(codec)
    assert spec is not None
    stages = folder / "vit-base-2-blocks"

    def macs(name: str) -> int:
        return count_macs(stages / f"{name}.onnx", sizes)

    whole = macs("whole") + (BLOCKS - 2) * count_macs(folder / "block.0.onnx", sizes)
    middle, last = (macs(f"query.{block}") + macs(f"attend.{block}") for block in (0, 1))
    board = macs("embed") + macs("head") + (BLOCKS - 1) * middle + last
    if spec.encode:
        board += BLOCKS * sum(count_macs(stages / file, sizes) for file in (spec.encode[0], spec.decode[0]))
    if spec.yields.value == "input":
        board += BLOCKS * macs("project.0")
    return whole / board


class Case:
    """One codec on the first of four boards, at block 0."""

    def __init__(self, model: Model, codec: str) -> None:
        self.model, self.name, self.codec = model, codec, model.codec(codec)
        rows = np.random.default_rng(2).integers(0, 256, (1, SMALL.tokens, SMALL.row_bytes), dtype=np.uint8)
        self.own = SMALL.tokens // BOARDS
        self.rows = rows[:, : self.own]
        self.remote = [(self.own, self._payload(rows, start)) for start in range(self.own, SMALL.tokens, self.own)]
        self.block_ms: list[float] = []
        self.encode_ms: list[float] = []
        self.decode_ms: list[float] = []

    def _payload(self, rows: np.ndarray, start: int) -> bytes:
        shard = Shard(self.model, self.codec)
        shard.embed(rows[:, start : start + self.own], start)
        return bytes(shard.encode())

    def run(self, sweep: Callable[[], None]) -> None:
        """Time encode, query and attend of one block."""
        shard = Shard(self.model, self.codec)
        shard.embed(self.rows, 0)
        sweep()
        began_at = time.perf_counter()
        shard.encode()
        encoded_at = time.perf_counter()
        shard.query()
        shard.attend(self.remote)
        ended_at = time.perf_counter()
        self.block_ms.append(1e3 * (ended_at - began_at))
        self.encode_ms.append(1e3 * (encoded_at - began_at))
        self.decode_ms.append(1e3 * shard.decode_s)


def measure(model: Model, block: Stage, codecs: Sequence[str], rounds: int) -> tuple[list[Case], list[float]]:
    """All cases in turn, `rounds` times after a warm-up; the undivided block's times beside them."""
    buffer = np.zeros(SWEEP_BYTES // 8)
    x = np.random.default_rng(3).standard_normal((1, 1 + SMALL.tokens, SMALL.width), dtype=np.float32)
    cases = [Case(model, codec) for codec in codecs]
    whole_ms: list[float] = []

    def sweep() -> None:
        buffer.__iadd__(1.0)

    for case in cases:
        case.run(sweep)
        case.block_ms, case.encode_ms, case.decode_ms = [], [], []
    block.run(x)
    for _ in range(rounds):
        sweep()
        began_at = time.perf_counter()
        block.run(x)
        whole_ms.append(1e3 * (time.perf_counter() - began_at))
        for case in cases:
            case.run(sweep)
    return cases, whole_ms


def line(case: Case, counted: float, whole_ms: float) -> Line:
    """Summarise a case."""
    median, encode = statistics.median(case.block_ms), statistics.median(case.encode_ms)
    return Line(
        codec=case.name,
        bits=case.codec.spec.bits_per_token(0),
        counted=round(counted, 2),
        median_ms=round(median, 2),
        p95_ms=round(float(np.percentile(case.block_ms, 95)), 2),
        speedup=round(whole_ms / median, 2),
        encode_ms=round(encode, 3),
        decode_ms=round(statistics.median(case.decode_ms), 3),
        encode_share=round(encode / median, 4),
    )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="7 rounds instead of 40")
    parser.add_argument("--codecs", default=CODECS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    codecs = options.codecs.split(",")
    learned = [parse_name(codec) for codec in codecs if codec not in UNFITTED]
    if silent := next((rule.name for rule in learned if rule.every > 1), None):
        parser.error(f"{silent} has one exchange for several blocks, and this compares single ones: see tools.testbed")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, block = build(folder, codecs)
        counted = {codec: counted_ratio(folder, model, codec) for codec in codecs}
        cases, whole_times = measure(model, block, codecs, 7 if options.quick else 40)
    whole_ms = statistics.median(whole_times)
    lines = [line(case, counted[case.name], whole_ms) for case in cases]
    whole_p95 = float(np.percentile(whole_times, 95))
    print(f"ViT-Base/16, {SMALL.tokens + 1} tokens, {BOARDS} boards, one thread, {len(whole_times)} rounds")
    print(f"one block undivided: median {whole_ms:.2f} ms, p95 {whole_p95:.2f} ms")
    print(
        f"{'codec':16}{'bits':>7}{'counted':>9}{'measured':>10}{'median ms':>11}{'p95':>8}{'encode':>9}{'share':>8}"
        f"{'decode':>9}"
    )
    for each in lines:
        mark = "" if each.encode_share <= SHARE_LIMIT else f"  encoding above {SHARE_LIMIT:.0%}"
        print(
            f"{each.codec:16}{each.bits:7}{each.counted:8.2f}x{each.speedup:9.2f}x{each.median_ms:11.2f}"
            f"{each.p95_ms:8.2f}{each.encode_ms:9.3f}{each.encode_share:8.1%}{each.decode_ms:9.3f}{mark}"
        )
    if options.json is not None:
        report = {"undivided_ms": whole_ms, "undivided_p95_ms": whole_p95, "codecs": [asdict(each) for each in lines]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
