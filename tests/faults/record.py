"""Runs of a fault, kept in a JSON file that is written after every run: a session that is cut loses one run at most.

Started again, what the file holds is not repeated, unless it was measured on other code of the product: then the file
is put aside as FILE.old. A run that failed is kept as well; nobody may draw until it fits.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PRODUCT = ("peer", "runtime", "models_onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the product promises of a figure; seconds, None where it only reports."""

    p95: float | None = None
    p50: float | None = None
    worst: float | None = None


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a row: what was measured, and what went wrong."""

    figures: dict[str, float] = field(default_factory=dict)
    problem: str = ""


class Record:
    """All runs of one file, by row and seed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = digest()
        self._runs: dict[str, dict[str, Run]] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["source"] == self._source:
                self._runs = {
                    row: {seed: Run(**run) for seed, run in runs.items()} for row, runs in stored["runs"].items()
                }
            else:
                path.replace(f"{path}.old")

    def has(self, row: str, seed: int) -> bool:
        return str(seed) in self._runs.get(row, {})

    def put(self, row: str, seed: int, run: Run) -> None:
        """Keep a run, on disk as well."""
        self._runs.setdefault(row, {})[str(seed)] = run
        runs = {row: {seed: asdict(run) for seed, run in seeds.items()} for row, seeds in self._runs.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        half = self._path.with_suffix(".half")
        half.write_text(json.dumps({"source": self._source, "machine": machine(), "runs": runs}, indent=1) + "\n")
        half.replace(self._path)

    def runs(self, row: str) -> list[Run]:
        return list(self._runs.get(row, {}).values())

    def report(self, promises: dict[str, Promise]) -> bool:
        """Print what there is; whether every promise was kept and no run failed."""
        values: dict[str, list[float]] = {}
        problems = []
        for row, seeds in self._runs.items():
            for seed, run in seeds.items():
                for figure, value in run.figures.items():
                    values.setdefault(figure, []).append(value)
                if run.problem:
                    problems.append(f"{row}, seed {seed}: {run.problem}\n    again: {again(row, int(seed))}")
        kept = not problems
        print(f"{'':48} {'n':>4} {'p50':>7} {'p95':>7} {'worst':>7}  promise")
        for figure, promise in promises.items():
            if figure not in values:
                continue
            ordered = sorted(values[figure])
            measured = {"p50": statistics.median(ordered), "p95": p95(ordered), "worst": ordered[-1]}
            missed = [n for n, v in measured.items() if (limit := getattr(promise, n)) is not None and v > limit]
            kept = kept and not missed
            words = [f"{name} <= {limit:g}" for name, limit in asdict(promise).items() if limit is not None]
            row = " ".join(f"{value:7.2f}" for value in measured.values())
            print(f"{figure:48} {len(ordered):4} {row}  {', '.join(words)}{'  MISSED' if missed else ''}")
        print("\n".join(problems) or "no run failed")
        return kept


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Options that say which seeds to run; see `seeds`."""
    parser.add_argument("--seeds", type=int, default=30, help="this many, from 0 on  [30]")
    parser.add_argument("--seed", type=int, help="only this one, to see again how it failed")


def seeds(options: argparse.Namespace) -> range:
    return range(options.seeds) if options.seed is None else range(options.seed, options.seed + 1)


def again(row: str, seed: int) -> str:
    """The command that runs one seed of a row once more."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (
        f"python -m {spec.name if spec else 'tests.faults.requests'} --rows {row} --seed {seed} --out runs/again.json"
    )


def p95(values: list[float]) -> float:
    """95th percentile by the nearest rank, of sorted values."""
    return values[min(len(values) - 1, int(0.95 * len(values)))]


def machine() -> str:
    """What it was measured on, in words."""
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, {platform.system()}"


def digest() -> str:
    """Of the product's files: figures of different code are not mixed."""
    hashed = hashlib.sha256()
    for folder in _PRODUCT:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".json", ".onnx", ".bin"):
                hashed.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return hashed.hexdigest()[:16]
