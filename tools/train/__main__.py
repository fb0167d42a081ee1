"""Train a small Vision Transformer, or the convolutional teacher that helps it, on a CPU or a CUDA device.

    python -m tools.train --data FOLDER --kind convnet --epochs 6 --batch 256 --rate 0.01 --run runs/teacher
    python -m tools.train --data FOLDER --teacher runs/teacher --epochs 12 --run runs/vit-cifar10

FOLDER holds cifar10-train.tar.gz and cifar10-test.tar.gz (cifar100-... with --set cifar100), or train/CLASS/FILE and
test/CLASS/FILE, or CLASS/FILE. The same command goes on where an interrupted run stopped and ends with the same
weights. It leaves model.safetensors, config.json (a ViT under HF names) and metrics.json in the run's folder.
"""

import argparse
import sys
from pathlib import Path

import torch

from tools.train.command import add_flags, from_flags, pick_device
from tools.train.dataset import DataError, open_dataset
from tools.train.models import build, load_teacher
from tools.train.recipe import Recipe
from tools.train.store import RunError
from tools.train.trainer import Trainer


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="cifar10", help="name of the archives")
    parser.add_argument("--run", type=Path, default=Path("runs/vit-cifar10"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded archives are kept")
    parser.add_argument("--every", type=int, default=500, help="steps between reports and checkpoints")
    parser.add_argument("--stop", type=int, help="stop after this step; the same command without it goes on")
    parser.add_argument("--reschedule", action="store_true", help="go on from a checkpoint made with other --epochs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    add_flags(parser, Recipe)
    options = parser.parse_args()
    recipe = from_flags(Recipe, options)
    torch.set_num_threads(options.threads)
    try:
        data = open_dataset(options.data, name=options.set, cache=options.cache)
        teacher = load_teacher(Path(recipe.teacher), data) if recipe.teacher else None
        trainer = Trainer(
            recipe=recipe,
            network=build(recipe, data),
            teacher=teacher,
            data=data,
            run=options.run,
            device=pick_device(options.device),
        )
        trainer.resume(reschedule=options.reschedule)
        trainer.fit(every=options.every, stop=options.stop)
    except (DataError, RunError) as error:
        sys.exit(f"tools.train: {error}")


if __name__ == "__main__":
    main()
