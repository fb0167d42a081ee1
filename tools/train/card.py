"""How a model came about, in words: `card.md` of a run's folder, which the exporter copies into the model card."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.export.training_text import UNDIVIDED
from tools.train.recipe import Recipe
from tools.train.store import RunError, write_whole


def trained(metrics: Mapping[str, Any]) -> str:  # Any: a JSON object
    """One paragraph from a training run's metrics.json."""
    recipe = {**asdict(Recipe()), "grain": 0.0, **metrics["recipe"]}  # older runs had no grain
    rule = "Muon for matrices and AdamW for the rest" if recipe["muon"] else "AdamW"
    rates = f"{recipe['rate']} and {recipe['rate_rest']}" if recipe["muon"] else f"{recipe['rate']}"
    helped = ""
    if recipe["teacher"]:
        helped = (
            f" A convolutional teacher, {Path(recipe['teacher']).name}, saw the same pictures: soft labels at "
            f"temperature {recipe['temperature']} with weight {recipe['soft']}, and tokens drawn to its feature maps "
            f"with weight {recipe['guide']}."
        )
    start = f"started from {Path(recipe['start']).name}" if recipe.get("start") else "from scratch"
    changed = "".join(
        f" Up to step {step} the learning rate followed a schedule of {epochs} epochs."
        for step, epochs in metrics.get("schedules", [])
    )
    return (
        f"Training: {start}, {metrics['epochs']} epochs ({metrics['steps']} steps of {recipe['batch']}), {rule}, "
        f"peak learning rates {rates}, weight decay {recipe['decay']}, warm-up then cosine, label smoothing "
        f"{recipe['smoothing']}, shifts up to {recipe['shift']} pixels, mirror images, chroma detail "
        f"{recipe['grain']}, moving average of weights {recipe['average']}, seed {recipe['seed']}, "
        f"torch {metrics['torch']}, {metrics['device']}.{changed}{helped} Test accuracy in torch on "
        f"{metrics['test_images']} pictures: {100 * metrics['accuracy']:.2f} %."
    )


def tuned(metrics: Mapping[str, Any]) -> str:  # Any: a JSON object
    """One paragraph from a fine-tuning run's metrics.json."""
    recipe = metrics["recipe"]
    boards = ", ".join(str(count) for count in recipe["boards"])
    helps = {"places": "start from the places of tokens", "readout": "are read by each head in a way of its own"}
    learnt = " and ".join(words for key, words in helps.items() if recipe.get(key))
    predicting = any(name.startswith(("ptc", "pvq")) for name in recipe["codecs"])
    learnt = f"Codes that predict {learnt}. " if learnt and predicting else ""
    often = f" in proportion to their bits to the power of {-recipe['favour']:g}," if "favour" in recipe else ""
    return (
        f"Fine-tuning with codes in the loop (ASTRA, arXiv 2505.19342v2, and beyond): {recipe['steps']} steps of "
        f"{recipe['batch']}, AdamW, peak learning rate {recipe['rate']}, seed {recipe['seed']}; one checkpoint for the "
        f"codecs {', '.join(recipe['codecs'])}, drawn per batch{often} together with the number of boards ({boards}) "
        f"and, in {'half' if recipe['uneven'] else 'none'} of the batches, random contiguous ranges; one board dies in "
        f"{100 * recipe['loss_rate']:.0f} % of the batches. Distilled from the undivided model: logits with weight "
        f"{recipe['soft']}, tokens with {recipe['features']}. Noise of the residual: {recipe['noise']}; commitment: "
        f"{recipe['commitment']}. {learnt}{UNDIVIDED}"
    )


def write_card(run: Path, *paragraphs: str) -> None:
    """Write `card.md`; raises RunError."""
    write_whole(
        run / "card.md", lambda fresh: fresh.write_text("\n\n".join(part for part in paragraphs if part) + "\n")
    )


def read_training(model: Path) -> str:
    """What is known of a model's training: its metrics.json in words, or else its card.md, or nothing."""
    try:
        return trained(json.loads((model / "metrics.json").read_text()))
    except FileNotFoundError:
        told = model / "card.md"
        return told.read_text(encoding="utf-8").strip() if told.is_file() else ""
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{model / 'metrics.json'} is not of a training run: remove it or name another model") from error
