"""Tables and plots in docs/benchmarks from the measurements kept in runs/testbed.jsonl."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.testbed import compare, crowd, plots, records
from tools.testbed.models import shape_of
from tools.testbed.records import Measured
from tools.testbed.settings import ASTRA, OURS, PLANS, VOLTAGE

TITLES = {
    "base": "ViT-Base/16, 197 tokens, boards of one speed (S = 8)",
    "eight": "ViT-Base/16, 197 tokens, eight boards (S = 16)",
    "rounds": "One exchange for one, two (x2) and three blocks (x3) at the same bits, ViT-Base/16, 197 tokens (S = 8)",
    "rounds-eight": "The same on eight boards (S = 16)",
    "unequal": "ViT-Base/16, 197 tokens, boards of speed 1:1:2:4, against the fastest alone",
    "alternatives": "Alternatives on four boards, ViT-Base/16, 197 tokens (S = 8), int8 weights throughout",
    "small": "ViT-Small, 257 tokens (S = 8)",
    "long": "ViT-Base, 1025 tokens (S = 8), int8 weights",
    "shipped": "vit-cifar10, the shipped model (trained weights), 65 tokens (S = 8)",
    "boards": "Number of boards: ViT-Base/16, 197 tokens, S = 32",
    "tokens": "Number of tokens: ViT-Small, int8 weights, S = 8",
    "planner": "The planner's choice beside the settings it chose from (S = 8)",
}
PREFACE = """# Benchmarks on emulated boards

Written by `make bench`; do not edit. **Emulated**: real daemons, sockets, encryption and requests on one
machine; links are shaped, and each board takes S times its processor time, steps of onnxruntime S times what they
take at full speed (`tools/testbed/ledger.py`, `slow_core.py` and `learn.py` say how). **Weights of ViT-Base and
ViT-Small are random**: times only. Latency is end to end, from the file (a JPEG of 112 kB) to the answer, warm; the
settings of a table were taken in turns, one request after the other. One board is the faster one of float32 and int8
weights. `of the bound`: the median over the slowest board's own work plus what its link needs for the input and its
codes. What it assumes, and how far it was checked: [emulation.md](emulation.md).
"""
_HEAD = (
    "weights",
    "boards",
    "codec",
    "Mbit/s",
    "median ms",
    "largest ms",
    "n",
    "times one board",
    "of the bound",
    "code bytes",
    "input bytes",
)


def table(rows: Sequence[Measured], plan: str) -> Iterator[str]:
    """Lines of Markdown for one plan, in the plan's own order."""
    yield "| " + " | ".join(_HEAD) + " |"
    yield "|" + "---|" * len(_HEAD)
    known = {row.key: row for row in rows if row.plan == plan}
    for setting in PLANS[plan].settings:
        row = known.get(setting.key)
        if row is None:
            continue
        gain = compare.speed_up(rows, row)
        cells = (
            "int8" if row.model.endswith("-int8") else "f32",
            f"{row.boards}{'' if setting.boards else ' (chosen)'}",
            row.codec or "-",
            f"{row.mbit:g}",
            f"{row.median_ms:.0f}",
            f"{row.worst_ms:.0f}",
            str(len(row.times_ms)),
            "-" if gain is None else f"{gain:.2f}",
            "-" if row.boards == 1 else f"{row.median_ms / compare.bound_ms(row):.2f}",
            f"{row.payload_bytes:,}",
            f"{row.input_bytes:,}",
        )
        yield "| " + " | ".join(cells) + " |"


def tensor_parallel(rows: Sequence[Measured]) -> Iterator[str]:
    """The model's lines, at the rates and on the numbers of boards that were measured."""
    for row in (r for r in rows if r.plan == "base" and r.codec == OURS[0]):
        base, shape = compare.alone(rows, row), shape_of(row.model)[0]
        if base is None:
            continue
        round_ms = max(board.wait_ms for board in row.costs) / max(1, row.rounds)
        modelled = compare.tensor_parallel_ms(
            alone_ms=base.median_ms,
            boards=row.boards,
            blocks=shape.blocks,
            tokens=shape.tokens + 1,
            width=shape.width,
            mbit=row.mbit,
            round_ms=round_ms,
        )
        yield f"| {row.boards} | {row.mbit:g} | {modelled:.0f} | {base.median_ms / modelled:.2f} |"


def round_table(rows: Sequence[Measured]) -> Iterator[str]:
    """Shares of a round."""
    yield "| boards | codec | Mbit/s | round ms | compute | encode | decode | wait | rest |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        if row.plan in ("base", "eight", "rounds", "rounds-eight") and row.boards > 1:
            part = compare.shares(row)
            whole = row.median_ms
            figures = (part.compute_ms, part.encode_ms, part.decode_ms, part.wait_ms, part.rest_ms)
            told = " | ".join(f"{figure / whole:.1%}" for figure in figures)
            yield f"| {row.boards} | {row.codec} | {row.mbit:g} | {whole / max(1, row.rounds):.1f} | {told} |"


def planner_lines(rows: Sequence[Measured]) -> Iterator[str]:
    """How good forecasts and choices were."""
    own = [row for row in rows if row.plan == "planner"]
    errors = [error for row in own if (error := compare.prediction_error(row)) is not None]
    if errors:
        within = sum(abs(error) <= 0.15 for error in errors) / len(errors)
        yield f"Forecasts within 15 % of the measurement: {within:.0%} of {len(errors)} settings."
    for row in own:
        lost = compare.regret(rows, row) if " 0 -" in row.key else None
        if lost is not None:
            yield (
                f"At {row.mbit:g} Mbit/s it chose {row.boards} boards, {row.codec or 'undivided'}: "
                f"{row.median_ms:.0f} ms, {lost:+.1%} against the fastest setting."
            )


def draw(rows: Sequence[Measured], out: Path) -> Iterator[str]:
    """Write the plots there is something for; their names."""
    by_rate = {
        f"{n} boards, {codec}": [r for r in rows if r.plan in ("base", "eight") and r.boards == n and r.codec == codec]
        for n in (2, 4, 8)
        for codec in OURS
    } | {
        f"4 boards, {codec}": [r for r in rows if r.plan == "alternatives" and r.codec == codec]
        for codec in ("f32-input", "int8-input", *ASTRA)
    }
    lines = [(name, plots.speed_ups(rows, own, lambda r: r.mbit)) for name, own in by_rate.items() if own]
    if lines:
        name, title = "bandwidth.svg", "ViT-Base/16, 197 tokens, random weights, emulated boards"
        plots.curves(out / name, lines, logarithmic=True, title=title, xlabel="Mbit/s of every link")
        yield name
    own = [r for r in rows if r.plan == "boards"]
    if own:
        name, title = "boards.svg", "ViT-Base/16, 197 tokens, 100 Mbit/s, S = 32, emulated boards"
        points = plots.speed_ups(rows, own, lambda r: r.boards)
        plots.curves(out / name, [(own[-1].codec, points)], logarithmic=False, title=title, xlabel="boards")
        yield name
    own = [r for r in rows if r.plan == "tokens" and r.boards > 1]
    if own:
        name, title = "tokens.svg", "ViT-Small, 100 Mbit/s, S = 8, emulated boards"
        lines = [
            (f"{n} boards", plots.speed_ups(rows, [r for r in own if r.boards == n], lambda r: _tokens(r.model)))
            for n in (2, 4)
        ]
        plots.curves(out / name, lines, logarithmic=True, title=title, xlabel="tokens")
        yield name
    own = [r for r in rows if r.plan in ("base", "eight") and r.boards > 1 and r.codec in ("tc53", "ptc53x2")]
    own = [r for r in own if r.mbit in (10.0, 100.0)]
    if own:
        name = "rounds.svg"
        plots.rounds(out / name, own, title="Where a round's time goes, ViT-Base/16, emulated boards")
        yield name


def _tokens(model: str) -> float:
    return float(model.split("-")[2])


def document(rows: Sequence[Measured], pictures: Sequence[str], crowds: Sequence[crowd.Crowd] = ()) -> Iterator[str]:
    """The page."""
    yield PREFACE
    yield "Machine: " + "; ".join(dict.fromkeys(row.machine for row in rows)) + "."
    yield "Versions of the tree: " + ", ".join(dict.fromkeys(row.commit for row in rows)) + "."
    dropped = sum(row.dropped for row in rows)
    late = max((late for row in rows for late in row.late_ms), default=0.0)
    yield f"Requests that did not count, as a board was late by more than 2 % of them: {dropped};"
    yield f"of the others a board was late by {late:.1f} ms at most."
    for plan, title in TITLES.items():
        if any(row.plan == plan for row in rows):
            yield from ("", f"## {title}", "")
            yield from table(rows, plan)
            if plan == "alternatives":
                names = f"{', '.join(VOLTAGE)}: all-gather of block inputs, keys and values recomputed (Voltage in f32)"
                yield from ("", f"{names}; {', '.join(ASTRA)}: ASTRA as published, 1024 codes.")
            if plan == "planner":
                yield ""
                yield from planner_lines(rows)
    lines = list(tensor_parallel(rows))
    if lines:
        yield from ("", "## Tensor parallelism, modelled", "")
        yield "One board's time over N and two all-reduces per block at the link's rate each with a round's fixed time."
        yield from ("", "| boards | Mbit/s | ms | times one board |", "|---|---|---|---|", *lines)
    if crowds:
        yield from ("", f"## Many pictures at once, four boards, 100 Mbit/s, {crowds[0].model} (S = 8)", "")
        yield "A folder: from the start of `peerctl infer FOLDER` to its end. Clients ask the boards alike, one"
        yield "question after the other. Ways: how the requests were run."
        yield from ("", *crowd.table(crowds))
    yield from ("", "## Where a round's time goes", "")
    yield "Of the board that was busy longest; `rest` is the daemon: decoding the picture, Python, the answer."
    yield ""
    yield from round_table(rows)
    for picture in pictures:
        yield from ("", f"![{picture.removesuffix('.svg')}]({picture})")


def run(options: argparse.Namespace) -> int:
    """Write the page and its plots."""
    rows = list(records.read(options.measured))
    if not rows:
        print(f"{options.measured} holds no measurement; run python -m tools.testbed measure first")
        return 1
    try:
        pictures = list(draw(rows, options.out))
    except ImportError:
        print("no plots: matplotlib is missing; pip install -e '.[bench]'")
        pictures = []
    options.out.mkdir(parents=True, exist_ok=True)
    page = document(rows, pictures, list(crowd.read(options.crowds)))
    (options.out / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    print(options.out / "README.md")
    return 0


def add_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("report", help="docs/benchmarks from what was measured")
    parser.add_argument("--measured", type=Path, default=Path("runs/testbed.jsonl"))
    parser.add_argument("--crowds", type=Path, default=Path("runs/crowd.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.set_defaults(run=run)
