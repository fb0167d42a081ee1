"""What each switch of fine-tuning gives: short runs that differ in one thing, measured on divided boards in torch.

    python -m tools.finetune.ablate --data FOLDER --set cifar10 --model runs/vit-cifar10 --steps 150 \\
        --seeds 1 --images 2000 --json runs/ablation.json

Writes one JSON object per variant and seed as soon as it is measured (a second call goes on with the variants that are
missing) and prints the table as Markdown. --only NAME,... picks variants. Figures on test pictures evenly spread over
the classes.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tools.finetune.measure import Case, answers
from tools.finetune.predictive_codes import PredictiveCodes
from tools.finetune.rates import Form
from tools.finetune.recipe import TuneRecipe
from tools.finetune.report import table
from tools.finetune.transform_codes import TransformCodes
from tools.finetune.tuner import Tuner
from tools.train.command import pick_device
from tools.train.dataset import DataError, Dataset, open_dataset
from tools.train.models import load_vit
from tools.train.store import RunError

CASES = (
    Case(boards=2),
    Case(boards=4),
    Case(boards=8),
    Case(boards=4, random=True),
    Case(boards=4, lost=True),
)
EQUAL_BITS = (
    "ptc48",
    "tc48",
    "tc48-normed",
    "vq8x64",
    "vq8x64-normed",
    "oq8x64",
    "rq4x64x2",
    "fs24x2",
    "vq16x8",
    "astra-g4",
    "vq4x4096",
)


def variants(codec: str) -> dict[str, TuneRecipe]:
    """Recipes by name: `codec` with everything on, then one change each; then codecs of equal rate."""
    base = TuneRecipe(codecs=(codec,))
    return {
        "untrained": replace(base, steps=0),
        "all": base,
        "noise": replace(base, noise=1.0),
        "one class token": replace(base, class_tokens=False),
        "even ranges only": replace(base, uneven=False),
        "four boards only": replace(base, boards=(1, 4), uneven=False),
        "no lost boards": replace(base, loss_rate=0.0),
        "no distillation": replace(base, soft=0.0, features=0.0),
        "logits only": replace(base, features=0.0),
        "no places": replace(base, places=False),
        "no readout": replace(base, readout=False),
        "no straight-through": replace(base, straight_through=False),
        "commitment 0": replace(base, commitment=0.0),
        "commitment 0.25": replace(base, commitment=0.25),
        **{f"untrained {name}": replace(base, codecs=(name,), steps=0) for name in EQUAL_BITS},
        **{f"trained {name}": replace(base, codecs=(name,)) for name in EQUAL_BITS},
    }


def measure(
    recipe: TuneRecipe, data: Dataset, model: Path, images: int, *, keep: Path | None, device: torch.device
) -> dict[str, Any]:  # Any: a JSON object
    """Fine-tune by one recipe and measure; accuracies in percent. `keep`: where to leave what it made."""
    network = load_vit(model, data)
    tuner = Tuner(recipe=recipe, network=network, data=data, run=keep or Path(), device=device)
    while tuner.step_number < recipe.steps:
        tuner.step()
    tuner.settle()
    if keep is not None:
        tuner.publish()
    every = max(1, len(data.test.labels) // images)
    pictures, labels = (part[::every].to(device) for part in tuner.pictures.test)
    whole = answers(tuner.average, tuner.pictures, pictures, CASES[0], None)
    row: dict[str, Any] = {"images": len(labels), "whole": _percent(whole, labels)}  # Any: see above
    for index, rate in enumerate(tuner.rates):
        if rate.form is Form.TRANSFORM:
            inner = [c.inner if isinstance(c, PredictiveCodes) else c for c in tuner.bank.of(index)]
            counts = [len(codes.bits) for codes in inner if isinstance(codes, TransformCodes)]
            row[f"{rate.name} components"] = round(sum(counts) / len(counts))
        for case in CASES:
            found = answers(tuner.average, tuner.pictures, pictures, case, tuner.bank.recoder(index))
            row[f"{rate.name} {case.name}"] = _percent(found, labels)
            row[f"{rate.name} {case.name} agree"] = _percent(found, whole)
    return row


def _percent(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return round(100 * float((found == wanted).float().mean()), 2)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="cifar10", help="name of the archives")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--codec", default="tc26")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path, default=Path("runs/ablation.json"))
    parser.add_argument("--keep", type=Path, help="leave every fine-tuned run in a folder of this one, for export")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        data = open_dataset(options.data, name=options.set, cache=options.cache)
        chosen = variants(options.codec)
        names = options.only.split(",") if options.only else list(chosen)
        if unknown := [name for name in names if name not in chosen]:
            raise ValueError(f"{unknown[0]} is no variant: {', '.join(chosen)}")
        for seed in options.seeds.split(","):
            for name in names:
                recipe = replace(chosen[name], seed=int(seed), steps=min(chosen[name].steps, options.steps))
                _one(name, recipe, data, options)
        rows = [row for row in json.loads(options.json.read_text()) if row["set"] == options.set]
        print(table(rows, CASES, width=load_vit(options.model, data).config.hidden_size))
    except (DataError, RunError, ValueError) as error:
        sys.exit(f"tools.finetune.ablate: {error}")


def _one(name: str, recipe: TuneRecipe, data: Dataset, options: argparse.Namespace) -> None:
    device = pick_device(options.device)
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    key = {"variant": name, "set": options.set, "recipe": json.loads(json.dumps(asdict(recipe)))}
    keep = options.keep and options.keep / f"{name.replace(' ', '-')}-{recipe.seed}"
    if not any(key.items() <= row.items() for row in rows):
        rows.append({**key, **measure(recipe, data, options.model, options.images, keep=keep, device=device)})
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    row = next(row for row in rows if key.items() <= row.items())
    shown = "  ".join(f"{name}: {value}" for name, value in row.items() if name.split()[0] in recipe.codecs)
    print(f"{name} (seed {recipe.seed}, {recipe.steps} steps): whole {row['whole']}  {shown}", flush=True)


if __name__ == "__main__":
    main()
