"""One training run: network, moving average, optimisers, and a loop that goes on to the step where it stopped."""

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.train import augmentation
from tools.train.card import trained, write_card
from tools.train.convnet import ConvNet
from tools.train.dataset import Dataset
from tools.train.guide import Guide, soft_loss
from tools.train.models import publish
from tools.train.network import Vit
from tools.train.optimisers import Optimisers
from tools.train.pictures import Pictures
from tools.train.recipe import Recipe
from tools.train.store import read_checkpoint, write_checkpoint, write_json

Network = TypeVar("Network", bound=nn.Module)


class Trainer:
    """State of a run; everything random is drawn from the seed and the number of the step."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        network: Vit | ConvNet,
        teacher: ConvNet | None,
        data: Dataset,
        run: Path,
        device: torch.device,
    ) -> None:
        self.recipe, self.data, self.run, self.device = recipe, data, run, device
        self.pictures = Pictures(data, holdout=recipe.holdout, seed=recipe.seed, device=device)
        self.network = _placed(network, device)
        self.teacher = None if teacher is None else _placed(teacher, device).eval()
        self.guide: Guide | None = None
        if self.teacher is not None and recipe.guide > 0 and isinstance(network, Vit):
            self.guide = Guide(network, self.teacher).to(device)
        if isinstance(network, ConvNet) and not recipe.start:
            network.fit_whitening(self.pictures.prepare(self.pictures.images[:2000]))
        self.average = copy.deepcopy(self.network).eval()
        self.optimisers = Optimisers(recipe, self.network, self.guide)
        self.step_number, self.seconds = 0, 0.0
        self.schedules: list[tuple[int, float]] = []  # steps up to which the run had another length, and that length
        self.per_epoch = self.pictures.batches(recipe.batch)
        self.steps = max(1, round(recipe.epochs * self.per_epoch))

    def loss(self, images: Tensor, targets: Tensor, clean: Tensor) -> Tensor:
        """Loss of normalised pictures and target distributions [n, C]; the teacher looks at the `clean` pictures."""
        recipe = self.recipe
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=recipe.bf16):
            if self.teacher is None:
                logits = self.network(images)
                return functional.cross_entropy(logits.float(), targets, label_smoothing=recipe.smoothing)
            with torch.no_grad():
                wanted, maps = self.teacher.with_maps(clean)
            if self.guide is None or not isinstance(self.network, Vit):
                logits, features = self.network(images), torch.zeros((), device=self.device)
            else:
                logits, tokens = self.network.with_tokens(images, self.guide.blocks)
                features = self.guide.feature_loss(tokens, maps)
        hard = functional.cross_entropy(logits.float(), targets, label_smoothing=recipe.smoothing)
        soft = soft_loss(logits, wanted, recipe.temperature)
        return (1 - recipe.soft) * hard + recipe.soft * soft + recipe.guide * features

    def step(self) -> Tensor:
        """One optimiser step; returns the loss, a scalar on the device."""
        recipe, pictures = self.recipe, self.pictures
        picked = pictures.batch(self.step_number, recipe.batch)
        source = augmentation.generator(recipe.seed, self.step_number, self.device)
        images = pictures.prepare(augmentation.moved(pictures.images[picked], recipe, source))
        images = augmentation.coloured(images, recipe, source)
        targets = functional.one_hot(pictures.labels[picked], pictures.classes).float()
        clean, targets = augmentation.mixed(images, targets, recipe, source)
        images = augmentation.grained(clean, recipe, pictures.std, source)
        self.network.train()
        loss = self.loss(images, targets, clean)
        loss.backward()
        self.optimisers.step(self.step_number / self.steps)
        self._follow()
        self.step_number += 1
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average; it starts short so that the initial weights do not dominate it."""
        keep = min(self.recipe.average, (1 + self.step_number) / (10 + self.step_number))
        own, average = self.network.state_dict(), self.average.state_dict()
        names = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in names], [own[name] for name in names], 1 - keep)

    def save(self) -> None:
        """Write the checkpoint; raises RunError."""
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "guide": {} if self.guide is None else self.guide.state_dict(),
            "optimisers": self.optimisers.state(),
            "step": self.step_number,
            "seconds": self.seconds,
            "schedules": self.schedules,
        }
        write_checkpoint(self.run / "checkpoint.pt", state)

    def resume(self, *, reschedule: bool = False) -> None:
        """Take up the checkpoint of the run's folder when there is one; raises RunError.

        With `reschedule` it may be one of a run of another length: the learning rate goes on as if it had been this.
        """
        free = ("epochs",) if reschedule else ()
        state = read_checkpoint(self.run / "checkpoint.pt", asdict(self.recipe), free=free)
        if state is None:
            return
        self.schedules = [tuple(part) for part in state.get("schedules", [])]
        if state["recipe"]["epochs"] != self.recipe.epochs:
            self.schedules.append((state["step"], state["recipe"]["epochs"]))
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.guide is not None:
            self.guide.load_state_dict(state["guide"])
        self.optimisers.restore(state["optimisers"])
        self.step_number, self.seconds = state["step"], state["seconds"]

    def fit(self, *, every: int, stop: int | None = None) -> None:
        """Run to the last step (or to step `stop`), reporting and saving every `every` steps; then publish."""
        began, total, since = time.monotonic(), torch.zeros((), device=self.device), self.step_number
        last = self.steps if stop is None else min(stop, self.steps)
        while self.step_number < last:
            total += self.step()
            if self.step_number % every == 0 or self.step_number == last:
                taken = time.monotonic() - began
                count = self.step_number - since
                self.seconds += taken
                self.save()
                held = self.pictures.accuracy(self.average, *self.pictures.held)
                print(
                    f"step {self.step_number}/{self.steps} epoch {self.step_number / self.per_epoch:.2f} "
                    f"loss {float(total) / count:.3f} held-out accuracy {held:.4f} "
                    f"{count * self.recipe.batch / taken:.0f} images/s",
                    flush=True,
                )
                began, total, since = time.monotonic(), torch.zeros_like(total), self.step_number
        if self.step_number == self.steps:
            accuracy = self.pictures.accuracy(self.average, *self.pictures.test)
            publish(self.run, self.average, self.data)
            metrics = self._metrics(accuracy)
            write_json(self.run / "metrics.json", metrics)
            write_card(self.run, trained(metrics))
            print(f"done: step {self.step_number}, test accuracy {accuracy:.4f}", flush=True)

    def _metrics(self, accuracy: float) -> dict[str, object]:
        return {
            "accuracy": accuracy,
            "test_images": len(self.data.test.labels),
            "steps": self.step_number,
            "epochs": round(self.step_number / self.per_epoch, 2),
            "seconds": round(self.seconds, 1),
            "schedules": self.schedules,
            "device": self.device.type,
            "recipe": asdict(self.recipe),
            "torch": torch.__version__,
        }


def _placed(network: Network, device: torch.device) -> Network:
    """On the device, convolutions laid out for pictures whose channels lie last."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
