"""Write MODEL_CARD.md of a model folder from what was measured.

    python -m tools.export.card --model models_onnx/vit-cifar10 --run runs/vit-cifar10 --data FOLDER \\
        --evaluation runs/evaluation.json

Evaluations of the same images, of different codecs, make one table.
The card is the only file besides the manifest that the manifest does not cover: figures may be added to it without
giving the model a new identity.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.export.manifest import fingerprint

Json = dict[str, Any]  # Any: the values of a JSON document


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a card tells."""

    manifest: Json
    metrics: Json  # of the training run
    config: Json  # HF config.json
    evaluations: list[Json]  # one per set of test images
    archives: dict[str, Json]  # file name -> fingerprint
    size_bytes: int
    notes: tuple[str, ...] = ()  # further known limits, one paragraph each


def card(facts: Facts) -> str:
    """The card as Markdown."""
    manifest, geometry = facts.manifest, facts.manifest["geometry"]
    return "\n".join(
        [
            f"# {manifest['name']}",
            "",
            f"A plain pre-LayerNorm Vision Transformer: {geometry['blocks']} blocks of width {geometry['width']}, "
            f"{geometry['heads']} heads, MLP {facts.config['intermediate_size']}; pictures of "
            f"{manifest['image']['height']}x{manifest['image']['width']} pixels as {geometry['tokens']} tokens of "
            f"{geometry['patch']}x{geometry['patch']} pixels, and a class token. "
            f"{len(manifest['labels'])} labels: {', '.join(manifest['labels'])}. "
            f"{facts.size_bytes / 1e6:.1f} MB in all.",
            "",
            *_training(facts),
            "## Accuracy, undivided and divided",
            "",
            *(line for evaluation in facts.evaluations for line in _accuracy(facts, evaluation)),
            "## Limits",
            "",
            "Trained on 32x32 photographs of ten classes with each object filling the frame. A photograph of anything "
            "else gets one of the ten labels all the same, often with confidence; other photographs are far from the "
            "training data even when they show one of the ten classes. A demonstration, not a classifier to rely on.",
            "",
            *(line for note in facts.notes for line in (note, "")),
        ]
    )


def _training(facts: Facts) -> list[str]:
    metrics, recipe = facts.metrics, facts.metrics["recipe"]
    budget = f"{recipe['minutes']:g} minutes" if recipe["minutes"] else f"{recipe['epochs']:g} epochs"
    rows = [f"| {name} | {entry['bytes']} | {entry['sha256']} |" for name, entry in facts.archives.items()]
    return [
        "## Data and training",
        "",
        "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009), training images stored as "
        "WebP of quality 95, test images lossless. The publisher states no licence; no image is part of this folder.",
        "",
        "| archive | bytes | sha256 |",
        "|---|---|---|",
        *rows,
        "",
        f"From scratch, {metrics['epochs']:g} epochs ({metrics['steps']} steps of {recipe['batch']}; budget {budget}, "
        f"CPU threads: {recipe['threads']}), AdamW, peak rate {recipe['rate']:g}, weight decay {recipe['decay']:g}, "
        f"linear warm-up then cosine, label smoothing {recipe['smoothing']:g}, random crop and flip, "
        f"moving average of weights {recipe['average']:g}, "
        f"{'bf16 autocast' if recipe['bf16'] else 'f32'}, seed {recipe['seed']}, torch {metrics['torch']}. "
        f"Test accuracy in torch, {metrics['test_images']} images: {100 * metrics['accuracy']:.2f} %. "
        "The codecs are fitted on activations of training images; nothing was fine-tuned with them in the loop.",
        "",
        "Exported by",
        "",
        f"    {facts.manifest['provenance']['command']}",
        "",
        f"with {facts.manifest['provenance']['tools']}.",
        "",
    ]


def _accuracy(facts: Facts, evaluation: Json) -> list[str]:
    default = facts.manifest["default_codec"]
    counts = sorted({score["boards"] for score in evaluation["scores"]})
    lines = [
        f"{evaluation['images']} test images evenly spread over the classes, through the runtime that boards use, even "
        f"token ranges. Undivided: **{100 * evaluation['whole']:.2f} %**. In brackets: share of answers equal to the "
        "undivided network's. Bits are per content token and block, mean over blocks; the default codec is bold.",
        "",
        "| codec | bits | " + " | ".join(f"{count} boards" for count in counts) + " |",
        "|---|---|" + "---|" * len(counts),
    ]
    cells: dict[tuple[str, int], Json] = {(s["codec"], s["boards"]): s for s in evaluation["scores"]}
    for codec in dict.fromkeys(score["codec"] for score in evaluation["scores"]):
        row = [cells[codec, count] for count in counts]
        name = f"**{codec}**" if codec == default else codec
        texts = [f"{100 * s['accuracy']:.2f} % ({100 * s['agreement']:.1f})" for s in row]
        lines.append(f"| {name} | {row[0]['bits']} | " + " | ".join(texts) + " |")
    command = f"python -m tools.evaluate --model models_onnx/{evaluation['model']} --data FOLDER"
    scored = ",".join(dict.fromkeys(score["codec"] for score in evaluation["scores"]))
    return [*lines, "", f"    {command} --limit {evaluation['images']} --codecs {scored}", ""]


def merge(evaluations: Sequence[Json]) -> list[Json]:
    """Evaluations of the same images become one; raises ValueError when they are not of the same weights."""
    merged: dict[int, Json] = {}
    for each in evaluations:
        known = merged.setdefault(each["images"], {**each, "scores": []})
        if known["whole"] != each["whole"]:
            raise ValueError(f"evaluations of {each['images']} images are not of the same weights")
        known["scores"] += each["scores"]
    return [merged[images] for images in sorted(merged)]


def main() -> None:
    """Parse the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "run", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True)
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the limits; may be repeated")
    options = parser.parse_args()
    archives = sorted(options.data.glob("cifar10-*.tar.gz"))
    facts = Facts(
        manifest=json.loads((options.model / "manifest.json").read_text()),
        metrics=json.loads((options.run / "metrics.json").read_text()),
        config=json.loads((options.run / "config.json").read_text()),
        evaluations=merge([json.loads(path.read_text()) for path in options.evaluation]),
        archives={path.name: fingerprint(path) for path in archives},
        size_bytes=sum(path.stat().st_size for path in options.model.iterdir()),
        notes=tuple(options.note),
    )
    (options.model / "MODEL_CARD.md").write_text(card(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
