"""What it costs a long sequence that freed memory goes back to the kernel, and what keeping it saves.

    python -m tools.bench.fresh_pages [--tokens 1024]

Two blocks of ViT-Base, random int8 weights, one thread: all tokens on one board, and a half and a quarter of them with
ready keys and values of the others. A process that gives memory back and one that keeps it, in turns; of the fastest
run: time, processor time that the kernel took of it, and pages that were taken anew.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.memory import keep_freed
from runtime.model import Model
from runtime.settings import SessionSettings
from tools.export.random_vit import VIT_BASE_16, random_tensors
from tools.export.vit import export_model
from tools.export.weights import Storage

_ROUNDS = 8
_WIDTH = VIT_BASE_16.width


def measure(folder: Path, tokens: int) -> dict[str, tuple[float, float, int]]:
    """Milliseconds, of them in the kernel, and new pages of the first block's second half, by share."""
    model = Model.load(folder, SessionSettings(threads=1, prepack=True))
    rng = np.random.default_rng(1)
    found = {}
    for name, own in (("all", tokens), ("half", tokens // 2), ("quarter", tokens // 4)):
        x = rng.standard_normal((1, 1 + own, _WIDTH), dtype=np.float32)
        kv = rng.standard_normal((1, 1 + own, 2 * _WIDTH), dtype=np.float32)
        remote = rng.standard_normal((1, tokens - own, 2 * _WIDTH), dtype=np.float32)
        (query,) = model.query[0].run(x)
        runs = []
        for _ in range(_ROUNDS):
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            model.attend[0].run(x, query, kv, remote)
            spent, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
            runs.append((1e3 * spent, 1e3 * (after.ru_stime - before.ru_stime), after.ru_minflt - before.ru_minflt))
        found[name] = min(runs[1:])
    return found


def main() -> None:
    """Print a line per share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="content tokens, a square")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        if given.keep:
            keep_freed()
        print(json.dumps(measure(given.folder, given.tokens)))
        return
    shape = replace(VIT_BASE_16, image=16 * math.isqrt(given.tokens), blocks=2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        labels = [str(index) for index in range(shape.classes)]
        tensors = random_tensors(shape, seed=1)
        export_model(tensors, shape, name="m", labels=labels, out=folder, codecs=["f32"], storage=Storage.INT8)
        command = [
            sys.executable,
            "-m",
            "tools.bench.fresh_pages",
            "--tokens",
            str(given.tokens),
            "--folder",
            str(folder),
        ]
        runs: dict[bool, list[dict[str, list[float]]]] = {False: [], True: []}
        for keep in (False, True, False, True):
            out = subprocess.run([*command, *(["--keep"] if keep else [])], capture_output=True, check=True, text=True)
            runs[keep].append(json.loads(out.stdout))
    for share in ("all", "half", "quarter"):
        given_back, kept = (min(run[share] for run in runs[keep]) for keep in (False, True))
        texts = [
            f"{ms:.1f} ms ({kernel:.1f} in the kernel, {pages:.0f} new pages)"
            for ms, kernel, pages in (given_back, kept)
        ]
        print(f"{share:8} of {given.tokens} tokens: given back {texts[0]}, kept {texts[1]}")


if __name__ == "__main__":
    main()
