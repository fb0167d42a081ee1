"""One training run: network, moving average, optimisers, and a loop that goes on to the step where it stopped."""

import copy
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.train import augmentation
from tools.train.convnet import ConvNet
from tools.train.dataset import Dataset
from tools.train.guide import Guide, soft_loss
from tools.train.models import publish
from tools.train.muon import Muon
from tools.train.network import Vit
from tools.train.recipe import Recipe
from tools.train.store import read_checkpoint, write_checkpoint, write_json


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
        self.network = network.to(device, memory_format=torch.channels_last)
        self.teacher = None if teacher is None else teacher.to(device, memory_format=torch.channels_last).eval()
        guided = self.teacher is not None and recipe.guide > 0 and isinstance(network, Vit)
        self.guide = Guide(network, self.teacher).to(device) if guided else None
        self.average = copy.deepcopy(self.network).eval()
        self.mean = torch.tensor(data.mean, device=device)
        self.std = torch.tensor(data.std, device=device)
        # Members come sorted by class: what is set aside is drawn over all of them.
        order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(recipe.seed))
        held, used = order[: recipe.holdout], order[recipe.holdout :]
        images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        self.images, self.labels = images[used].to(device), labels[used].to(device)
        self.held = (images[held].to(device), labels[held].to(device))
        self.step_number, self.seconds = 0, 0.0
        self.per_epoch = max(1, len(self.labels) // recipe.batch)
        self.steps = max(1, round(recipe.epochs * self.per_epoch))
        self._prepare()

    def _prepare(self) -> None:
        if isinstance(self.network, ConvNet) and not self.recipe.start:
            self.network.fit_whitening(augmentation.normalise(self.images[:2000], self.mean, self.std))
            self.average.load_state_dict(self.network.state_dict())
        recipe, matrices, rest = self.recipe, [], []
        for name, parameter in self.network.named_parameters():
            hidden = parameter.dim() in (2, 4) and not name.startswith(("head", "patch"))
            if parameter.requires_grad:
                (matrices if hidden else rest).append(parameter)
        if self.guide is not None:
            rest += list(self.guide.parameters())
        self.rest = rest if recipe.muon else rest + matrices
        self.optimisers: list[torch.optim.Optimizer] = []
        if recipe.muon:
            self.optimisers.append(Muon(matrices, lr=recipe.rate, weight_decay=recipe.decay))
            self.optimisers.append(_adam(rest, recipe.rate_rest))
        else:
            self.optimisers.append(_adam(rest, recipe.rate))
            self.optimisers.append(_adam(matrices, recipe.rate, recipe.decay))
        self.peaks = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]

    def _pick(self) -> Tensor:
        """Indices of this step's images: a shuffled epoch cut into batches."""
        epoch, place = divmod(self.step_number, self.per_epoch)
        if place == 0 or not hasattr(self, "_order"):
            source = torch.Generator().manual_seed(self.recipe.seed * 7919 + epoch)
            self._order = torch.randperm(len(self.labels), generator=source).to(self.device)
        return self._order[place * self.recipe.batch : (place + 1) * self.recipe.batch]

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Loss of normalised pictures and target distributions [n, C]."""
        recipe = self.recipe
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=recipe.bf16):
            if self.teacher is None:
                logits = self.network(images)
                return functional.cross_entropy(logits.float(), targets, label_smoothing=recipe.smoothing)
            with torch.no_grad():
                wanted, maps = self.teacher.with_maps(images)
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
        recipe, picked = self.recipe, self._pick()
        rates = [recipe.learning_rate(peak, self.step_number / self.steps) for peak in self.peaks]
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        source = augmentation.generator(recipe.seed, self.step_number, self.device)
        images = augmentation.moved(self.images[picked], recipe, source)
        images = augmentation.coloured(augmentation.normalise(images, self.mean, self.std), recipe, source)
        targets = functional.one_hot(self.labels[picked], len(self.data.classes)).float()
        images, targets = augmentation.mixed(images, targets, recipe, source)
        self.network.train()
        loss = self.loss(images, targets)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.rest, recipe.clip)
        for optimiser in self.optimisers:
            optimiser.step()
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

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of right answers of the averaged weights."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, len(labels), 500):
            part = augmentation.normalise(images[start : start + 500].to(self.device), self.mean, self.std)
            right += (self.average(part).argmax(1) == labels[start : start + 500].to(self.device)).sum()
        return int(right) / len(labels)

    def save(self) -> None:
        """Write the checkpoint; raises RunError."""
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "guide": {} if self.guide is None else self.guide.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step_number,
            "seconds": self.seconds,
        }
        write_checkpoint(self.run / "checkpoint.pt", state)

    def resume(self) -> None:
        """Take up the checkpoint of the run's folder when there is one; raises RunError."""
        state = read_checkpoint(self.run / "checkpoint.pt", asdict(self.recipe))
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        if self.guide is not None:
            self.guide.load_state_dict(state["guide"])
        for optimiser, own in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(own)
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
                print(
                    f"step {self.step_number}/{self.steps} epoch {self.step_number / self.per_epoch:.2f} "
                    f"loss {float(total) / count:.3f} held-out accuracy {self.accuracy(*self.held):.4f} "
                    f"{count * self.recipe.batch / taken:.0f} images/s",
                    flush=True,
                )
                began, total, since = time.monotonic(), torch.zeros_like(total), self.step_number
        if self.step_number == self.steps:
            test = self.data.test
            accuracy = self.accuracy(torch.from_numpy(test.images), torch.from_numpy(test.labels))
            publish(self.run, self.average, self.data)
            write_json(self.run / "metrics.json", self._metrics(accuracy))
            print(f"done: step {self.step_number}, test accuracy {accuracy:.4f}", flush=True)

    def _metrics(self, accuracy: float) -> dict[str, object]:
        return {
            "accuracy": accuracy,
            "test_images": len(self.data.test.labels),
            "steps": self.step_number,
            "epochs": round(self.step_number / self.per_epoch, 2),
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "recipe": asdict(self.recipe),
            "torch": torch.__version__,
        }


def _adam(parameters: list[nn.Parameter], rate: float, decay: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
