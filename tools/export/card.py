"""Write MODEL_CARD.md of a model folder, and its plot, from what was measured.

    python -m tools.export.card --model models_onnx/vit-cifar10 --run runs/vit-cifar10 --rows runs/vit-cifar10.jsonl \\
        --plot docs/models/vit-cifar10.svg

--run is the folder that the model was imported from; its card.md (how it was trained, in words) and metrics.json go
into the card. --rows are files of tools.evaluate; rows of other graphs than the model's are left out. The card is the
only file besides the manifest that the manifest does not cover: figures may be added to it without giving the model a
new identity. The plot therefore lies outside the folder.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.integrity import read_plan
from runtime.plan import ModelPlan, Source, Yields
from tools.bench.macs import count_macs
from tools.evaluate.plot import plot
from tools.evaluate.rows import Row, identity, read_rows
from tools.evaluate.seeds import spread
from tools.evaluate.table import tables, undivided
from tools.export.failure import BadInput, run
from tools.export.hf_folder import read_json
from tools.export.training_text import END, HEADING

Json = dict[str, Any]  # Any: the values of a JSON document
_ANEW = (
    " Anew if early: as boards do it with --allow-degraded; who is lost in the first third of the blocks is not done "
    "without, the others begin anew."
)
_SENT = {
    Source.KV: "keys and values",
    Source.INPUT: "block input",
    Source.NORMED: "after LayerNorm 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a card tells."""

    plan: ModelPlan
    size_bytes: int
    rows: tuple[Row, ...]
    config: Json  # HF config.json of the run
    metrics: Json  # of the training run; empty for an imported network
    training: str  # Markdown
    costs: dict[str, dict[str, float]]  # see `codec_costs`
    plot: str  # address of the plot as seen from the card; may be empty
    seeds: tuple[tuple[Row, ...], ...] = ()  # rows of the same codecs fine-tuned with other seeds
    notes: tuple[str, ...] = ()  # further known limits, one paragraph each


def card(facts: Facts) -> str:
    """The card as Markdown."""
    return "\n".join(
        [
            f"# {facts.plan.name}",
            "",
            *_network(facts),
            HEADING,
            "",
            *_training(facts),
            "## Accuracy, undivided and divided",
            "",
            *_accuracy(facts),
            "## Codecs",
            "",
            *_codecs(facts),
            "## Limits",
            "",
            "Whatever a picture shows, it gets one of the labels, often with confidence. A demonstration, not a "
            "classifier to rely on.",
            "",
            *(line for note in facts.notes for line in (note, "")),
        ]
    )


def _network(facts: Facts) -> list[str]:
    plan, geometry = facts.plan, facts.plan.geometry
    few = len(plan.labels) <= 20
    return [
        f"A plain pre-LayerNorm Vision Transformer: {geometry.blocks} blocks of width {geometry.width}, "
        f"{geometry.heads} heads, MLP {facts.config['intermediate_size']}; pictures of "
        f"{plan.image.height}x{plan.image.width} pixels as {geometry.tokens} tokens of "
        f"{geometry.patch}x{geometry.patch} pixels, and a class token. "
        f"{len(plan.labels)} labels{': ' + ', '.join(plan.labels) if few else ''}. "
        f"{facts.size_bytes / 1e6:.1f} MB in all.",
        "",
    ]


def _training(facts: Facts) -> list[str]:
    plan = facts.plan
    lines = [f"Source: {plan.provenance.source}.", ""]
    if facts.training:
        lines += [facts.training.strip(), ""]
    elif facts.metrics:
        others = {key: value for key, value in facts.metrics.items() if key != "recipe"}
        known = {**facts.metrics.get("recipe", {}), **others}
        lines += ["As the training script recorded it:", ""]
        lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in known.items() if value not in ("", None)]
        lines += [""]
    return [*lines, END, "", f"    {plan.provenance.command}", "", f"with {plan.provenance.tools}.", ""]


def _accuracy(facts: Facts) -> list[str]:
    whole = undivided(facts.rows)
    if not whole:
        return ["Not measured.", ""]
    most = whole[max(whole)]
    part = f"all {most.images}" if most.images == most.all_images else f"{most.images} of {most.all_images}"
    anew = ",".join(str(count) for count in sorted({row.boards for row in facts.rows if row.anew}))
    single = [row for row in facts.rows if row.boards == 1 and row.codec and row.images == most.images]
    lines = [
        f"Undivided: **{most.accuracy:.2f} %** on {part} test pictures. Through the exported stages and the runtime "
        "that boards use. In brackets: points against the undivided network. Bits are payload bits per content "
        "token and block, keys and values both counted; compression is 32 x width / bits. The default codec is "
        "bold. One lost: a random board is lost from a random block on, and the others answer without it; codes that "
        f"predict foretell its tokens, unless it was lost before the first.{_ANEW if anew else ''}",
        "",
    ]
    if single:
        lines += [f"One board (all tokens in one shard, any codec): {single[-1].accuracy:.2f} %.", ""]
    lines += tables(facts.rows, default=facts.plan.default_codec)
    if facts.plot:
        lines += [f"![Accuracy against bits per token]({facts.plot})", ""]
    if facts.seeds:
        lines += spread([facts.rows, *facts.seeds])
    name = facts.plan.name
    return [
        *lines,
        f"    python -m tools.evaluate --model models_onnx/{name} --data FOLDER --out runs/{name}.jsonl"
        f"{f' --anew {anew}' if anew else ''}",
        "",
    ]


def _codecs(facts: Facts) -> list[str]:
    lines = ["| codec | sends | encoding | decoding | projecting again | relative error |", "|---|---|---|---|---|---|"]
    for codec in facts.plan.codecs:
        measured = f"{codec.error.value:.3f}" if codec.error.kind == "relative-rms" else codec.error.kind
        costs = (facts.costs[codec.name].get(part, 0.0) for part in ("encode", "decode", "project"))
        texts = [f"{100 * cost:.1f} %" if cost else "-" for cost in costs]
        lines.append(f"| {codec.name} | {_SENT[codec.source]} | {' | '.join(texts)} | {measured} |")
    return [
        *lines,
        "",
        "Compute is that of one of four boards, in per cent of the multiplications of its block; looking up and "
        "comparing count as nothing. The error of a learned codec is the RMS error of its worst block on the "
        "calibration pictures, relative to the spread of the values.",
        "",
    ]


def codec_costs(folder: Path, plan: ModelPlan, boards: int = 4) -> dict[str, dict[str, float]]:
    """Per codec: multiplications of a board's encoder, decoder and second projection, relative to its block's."""
    own = plan.geometry.tokens // boards
    sizes = {"B": 1, "T": own, "1+T": 1 + own, "R": plan.geometry.tokens - own}
    block = sum(count_macs(folder / f"{name}.0.onnx", sizes) for name in ("query", "attend"))
    costs: dict[str, dict[str, float]] = {}
    for codec in plan.codecs:
        files = {"encode": codec.encode, "decode": codec.decode} if codec.encode else {}
        if codec.yields is Yields.INPUT:
            files["project"] = tuple(f"project.{number}.onnx" for number in range(plan.geometry.blocks))
        work = {part: sum(count_macs(folder / file, sizes) for file in names) for part, names in files.items()}
        # Mean over the blocks: silent ones encode nothing, and codebooks need not be of one size.
        costs[codec.name] = {part: macs / plan.geometry.blocks / block for part, macs in work.items()}
    return costs


def matching(rows: Sequence[Row], plan: ModelPlan) -> tuple[Row, ...]:
    """Rows that were measured with this model's graphs and codecs."""
    present = {"": identity(plan, "")} | {codec.name: identity(plan, codec.name) for codec in plan.codecs}
    return tuple(row for row in rows if present.get(row.codec) == row.identity)


def main() -> None:
    """Parse the command line and write card and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="rows of models fine-tuned with other seeds")
    parser.add_argument("--plot", type=Path, help="where the SVG goes; none by default")
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the limits; may be repeated")
    given = parser.parse_args()
    plan = read_plan(given.model)
    rows = matching([row for path in given.rows for row in read_rows(path)], plan)
    if not rows:
        raise BadInput("the rows belong to other models", "evaluate this model first")
    training = given.run / "card.md"
    metrics = given.run / "metrics.json"
    facts = Facts(
        plan=plan,
        size_bytes=sum(path.stat().st_size for path in given.model.iterdir() if path.name != "MODEL_CARD.md"),
        rows=rows,
        config=read_json(given.run / "config.json"),
        metrics=read_json(metrics) if metrics.is_file() else {},
        training=training.read_text(encoding="utf-8") if training.is_file() else "",
        plot=Path(os.path.relpath(given.plot, given.model)).as_posix() if given.plot else "",
        costs=codec_costs(given.model, plan),
        seeds=tuple(tuple(read_rows(path)) for path in given.seeds),
        notes=tuple(given.note),
    )
    if given.plot:
        plot(rows, given.plot, title=f"{plan.name}: accuracy against rate")
    fresh = given.model / ".MODEL_CARD.md.new"
    fresh.write_text(card(facts), encoding="utf-8")
    fresh.replace(given.model / "MODEL_CARD.md")


if __name__ == "__main__":
    sys.exit(run(main))
