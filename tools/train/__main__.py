"""Train a small Vision Transformer on CIFAR-10 on the CPU.

    python -m tools.train --data FOLDER --run runs/vit-cifar10 --minutes 60

FOLDER holds cifar10-train.tar.gz and cifar10-test.tar.gz. The learning rate follows the share of the budget that is
spent: epochs (repeatable to the step) or minutes (fits the time at hand; the number of steps depends on the machine).
A run that was interrupted goes on from its checkpoint. Ends with model.safetensors, config.json (HF ViT names) and
metrics.json in the run's folder.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tools.train.cifar import CIFAR10_MEAN, CIFAR10_STD, U8, Split, augment, batches, load_split
from tools.train.network import Vit, VitConfig, hf_tensors
from tools.train.patches import patch_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the result, apart from the network's shape."""

    seed: int = 1
    batch: int = 128
    epochs: float = 30.0
    minutes: float = 0.0  # 0: the budget is counted in epochs
    rate: float = 1.5e-3  # peak learning rate
    warm_up: float = 0.03  # share of the budget
    decay: float = 0.05  # AdamW weight decay, matrices only
    smoothing: float = 0.1
    average: float = 0.998  # decay of the weights' moving average; the average is what is saved
    bf16: bool = True
    threads: int = 1


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands; travels in the checkpoint."""

    step: int = 0
    seconds: float = 0.0

    def share(self, recipe: Recipe, images: int) -> float:
        """Share of the budget that is spent, 0..1."""
        if recipe.minutes > 0:
            return min(1.0, self.seconds / (60 * recipe.minutes))
        return min(1.0, self.step * recipe.batch / (recipe.epochs * images))


def learning_rate(recipe: Recipe, share: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if share < recipe.warm_up:
        return recipe.rate * max(share, 1e-4) / recipe.warm_up
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (share - recipe.warm_up) / (1 - recipe.warm_up)))


class Trainer:
    """One run: network, its moving average, optimiser and progress."""

    def __init__(self, *, recipe: Recipe, config: VitConfig, train: Split, test: Split, run: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.train, self.test, self.run = recipe, train, test, run
        self.network = Vit(config)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        matrices = [p for p in self.network.parameters() if p.dim() == 2]
        others = [p for p in self.network.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        self.progress = Progress()
        self.mean = torch.tensor(CIFAR10_MEAN * config.patch_size**2) * 255
        self.std = torch.tensor(CIFAR10_STD * config.patch_size**2) * 255

    def rows(self, images: U8) -> Tensor:
        """uint8 images [n, H, W, 3] -> normalised patch rows [n, T, p*p*3] f32."""
        cut = torch.from_numpy(patch_rows(images, self.network.config.patch_size))
        return (cut.float() - self.mean) / self.std

    def step(self, images: U8, labels: Tensor) -> float:
        """One optimiser step; returns the loss."""
        rate = learning_rate(self.recipe, self.progress.share(self.recipe, len(self.train.labels)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.bf16):
            logits = self.network(self.rows(images))
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        # The average starts short so that early checkpoints are not dominated by the initial weights.
        keep = min(self.recipe.average, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                self.average[name].lerp_(tensor, 1 - keep)
        self.progress.step += 1
        return float(loss.detach())

    def accuracy(self, limit: int) -> float:
        """Share of right answers of the averaged weights on `limit` test images, evenly spaced over the classes."""
        every = max(1, len(self.test.labels) // limit)
        images, labels = self.test.images[::every], self.test.labels[::every]
        copy = Vit(self.network.config)
        copy.load_state_dict(self.average)
        copy.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(labels), 500):
                logits = copy(self.rows(images[start : start + 500]))
                right += int((logits.argmax(1).numpy() == labels[start : start + 500]).sum())
        return right / len(labels)

    def save(self, *, accuracy: float, images: int) -> None:
        """Write checkpoint, HF-named weights, config.json and metrics.json."""
        self.run.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        fresh = self.run / "checkpoint.pt.new"
        torch.save(state, fresh)
        fresh.replace(self.run / "checkpoint.pt")
        save_file(hf_tensors(self.average, self.network.config), self.run / "model.safetensors")
        classes = self.train.classes
        labels = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
        config = {**self.network.config.as_json(), **labels, "image_mean": CIFAR10_MEAN, "image_std": CIFAR10_STD}
        (self.run / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        metrics = {
            "accuracy": accuracy,
            "test_images": images,
            "steps": self.progress.step,
            "epochs": round(self.progress.step * self.recipe.batch / len(self.train.labels), 2),
            "seconds": round(self.progress.seconds, 1),
            "recipe": asdict(self.recipe),
            "torch": torch.__version__,
        }
        (self.run / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")

    def resume(self) -> None:
        """Take up the checkpoint of the run's folder when there is one."""
        checkpoint = self.run / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average = state["average"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.progress = Progress(**state["progress"])

    def fit(self, *, every: int) -> None:
        """Spend the budget; report and save every `every` steps."""
        count, losses = len(self.train.labels), []
        while self.progress.share(self.recipe, count) < 1:
            # Seeded by the step: a resumed run does not repeat the images it has just seen.
            rng = np.random.default_rng((self.recipe.seed, self.progress.step))
            for picked in batches(count, self.recipe.batch, rng):
                began_at = time.monotonic()
                images = augment(self.train.images[picked], rng)
                losses.append(self.step(images, torch.from_numpy(self.train.labels[picked])))
                self.progress.seconds += time.monotonic() - began_at
                spent = self.progress.share(self.recipe, count)
                if self.progress.step % every == 0:
                    self._report(losses, spent)
                    losses = []
                if spent >= 1:
                    break
        accuracy = self.accuracy(len(self.test.labels))
        self.save(accuracy=accuracy, images=len(self.test.labels))
        print(f"done: step {self.progress.step}, test accuracy {accuracy:.4f}", flush=True)

    def _report(self, losses: list[float], spent: float) -> None:
        began_at = time.monotonic()
        accuracy = self.accuracy(1000)
        self.save(accuracy=accuracy, images=1000)
        self.progress.seconds += time.monotonic() - began_at
        epoch = self.progress.step * self.recipe.batch / len(self.train.labels)
        loss = sum(losses) / len(losses)
        speed = self.progress.step * self.recipe.batch / self.progress.seconds
        print(
            f"step {self.progress.step} epoch {epoch:.2f} spent {spent:.1%} loss {loss:.3f} "
            f"accuracy {accuracy:.3f} (1000 test images) {speed:.0f} images/s",
            flush=True,
        )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/vit-cifar10"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--every", type=int, default=500, help="steps between reports and checkpoints")
    for shape, default in (("width", 128), ("blocks", 6), ("heads", 4), ("mlp", 512)):
        parser.add_argument(f"--{shape}", type=int, default=default)
    for name, default in asdict(Recipe()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    options = parser.parse_args()
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    torch.set_num_threads(recipe.threads)
    config = VitConfig(
        hidden_size=options.width,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.heads,
        intermediate_size=options.mlp,
    )
    train, test = (
        load_split(data=options.data, cache=options.cache, name="cifar10", split=split) for split in ("train", "test")
    )
    trainer = Trainer(recipe=recipe, config=config, train=train, test=test, run=options.run)
    trainer.resume()
    trainer.fit(every=options.every)


if __name__ == "__main__":
    main()
