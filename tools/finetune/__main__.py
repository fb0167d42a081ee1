"""Fine-tune a trained ViT with codes in the loop, for any number of boards, any split, and one or several codecs.

    python -m tools.finetune --data FOLDER --set cifar10 --model runs/vit-cifar10 --codecs tc53,tc26,vq1x128 \\
        --steps 600 --run runs/vit-cifar10-tuned

The same command goes on where an interrupted run stopped. It leaves model.safetensors and config.json (HF ViT names),
codecs.safetensors and codecs.json (what tools.export turns into codecs of a model folder) in the run's folder.
"""

import argparse
import sys
from pathlib import Path

import torch

from tools.finetune.recipe import TuneRecipe
from tools.finetune.tuner import Tuner
from tools.train.card import read_training
from tools.train.command import add_flags, from_flags, pick_device
from tools.train.dataset import DataError, open_dataset
from tools.train.models import load_vit
from tools.train.store import RunError


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="cifar10", help="name of the archives")
    parser.add_argument("--model", type=Path, required=True, help="folder with model.safetensors and config.json")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded archives are kept")
    parser.add_argument("--every", type=int, default=100, help="steps between reports and checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    add_flags(parser, TuneRecipe)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        data = open_dataset(options.data, name=options.set, cache=options.cache)
        tuner = Tuner(
            recipe=from_flags(TuneRecipe, options),
            network=load_vit(options.model, data),
            data=data,
            run=options.run,
            device=pick_device(options.device),
        )
        tuner.history = read_training(options.model)
        tuner.resume()
        tuner.fit(every=options.every)
    except (DataError, RunError, ValueError) as error:
        sys.exit(f"tools.finetune: {error}")


if __name__ == "__main__":
    main()
