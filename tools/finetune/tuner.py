"""The loop of fine-tuning: one division and one codec per batch, distillation from the undivided model."""

import copy
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.finetune.bank import Bank, Recoder
from tools.finetune.divided import divided
from tools.finetune.files import publish_tuned
from tools.finetune.measure import right_answers
from tools.finetune.rates import parse_rate
from tools.finetune.recipe import TuneRecipe
from tools.finetune.samples import sample
from tools.finetune.split import Division, draw, even
from tools.train import augmentation
from tools.train.dataset import Dataset
from tools.train.guide import soft_loss
from tools.train.network import Vit
from tools.train.recipe import Recipe
from tools.train.store import read_checkpoint, write_checkpoint, write_json


class Tuner:
    """State of a run; everything random is drawn from the seed and the number of the step."""

    def __init__(self, *, recipe: TuneRecipe, network: Vit, data: Dataset, run: Path, device: torch.device) -> None:
        self.recipe, self.data, self.run, self.device = recipe, data, run, device
        self.network = network.to(device)
        self.exact = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.mean, self.std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(recipe.seed))
        held, used = order[: recipe.holdout], order[recipe.holdout :]
        images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        self.images, self.labels = images[used].to(device), labels[used].to(device)
        self.held = (images[held].to(device), labels[held].to(device))
        self.moves = Recipe(shift=recipe.shift, flip=recipe.flip)
        self.rates = tuple(parse_rate(name) for name in recipe.codecs)
        torch.manual_seed(recipe.seed)
        self.bank = Bank(self.rates, self.samples(self.exact), recipe).to(device)
        self.step_number, self.seconds = 0, 0.0
        matrices = [p for p in self.network.parameters() if p.dim() == 2]
        others = [p for p in self.network.parameters() if p.dim() != 2] + list(self.bank.parameters())
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        self.schedule = Recipe(warm_up=recipe.warm_up)

    def prepare(self, images: Tensor) -> Tensor:
        """u8 [n, H, W, 3] -> normalised f32 [n, 3, H, W]."""
        return augmentation.normalise(images, self.mean, self.std)

    def samples(self, network: Vit) -> list[dict[str, Tensor]]:
        """Vectors for fitting codes."""
        pictures = self.prepare(self.images[: self.recipe.calibration])
        return sample(network, pictures, most=40_000, seed=self.recipe.seed)

    def _drawn(self) -> tuple[Division, Recoder, torch.Generator]:
        recipe, config = self.recipe, self.network.config
        rng = np.random.default_rng((recipe.seed, self.step_number))
        division = draw(
            config.tokens,
            rng,
            boards=recipe.boards,
            uneven_share=0.5 if recipe.uneven else 0.0,
            loss_rate=recipe.loss_rate,
            blocks=config.num_hidden_layers,
            single_class=not recipe.class_tokens,
        )
        index = int(rng.integers(len(self.rates)))
        stages = int(rng.integers(self.rates[index].stages)) + 1
        source = augmentation.generator(recipe.seed, self.step_number, self.device)
        return division, Recoder(bank=self.bank, index=index, stages=stages, source=source), source

    def loss(self, images: Tensor, labels: Tensor, division: Division, recoder: Recoder) -> Tensor:
        """Loss of normalised pictures."""
        recipe, device = self.recipe, self.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.bf16):
            outcome = divided(self.network, images, division, recoder.rate.source, recoder)
            loss = functional.cross_entropy(outcome.logits.float(), labels, label_smoothing=recipe.smoothing)
            if recipe.soft > 0 or recipe.features > 0:
                with torch.no_grad():
                    wanted, tokens = self.exact.with_tokens(images, range(len(self.exact.blocks) - 1))
                loss = (1 - recipe.soft) * loss + recipe.soft * soft_loss(outcome.logits, wanted, recipe.temperature)
                errors = [_relative(own, other) for own, other in zip(outcome.tokens, tokens, strict=True)]
                loss = loss + recipe.features * torch.stack(errors).mean()
        return loss + recipe.commitment * recoder.commitment

    def step(self) -> Tensor:
        """One optimiser step; returns the loss."""
        recipe = self.recipe
        if recipe.refit and self.step_number and self.step_number % recipe.refit == 0:
            self.bank.refit(self.samples(self.network))
        division, recoder, source = self._drawn()
        picked = torch.randint(len(self.labels), (recipe.batch,), generator=source, device=self.device)
        images = self.prepare(augmentation.moved(self.images[picked], self.moves, source))
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate(recipe.rate, self.step_number / recipe.steps)
        loss = self.loss(images, self.labels[picked], division, recoder)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        keep = min(recipe.average, (1 + self.step_number) / (10 + self.step_number))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        self.step_number += 1
        return loss.detach()

    def settle(self) -> None:
        """Fit transforms and let codebooks follow the averaged weights, which are the ones that are saved."""
        self.bank.refit(self.samples(self.average))
        source = augmentation.generator(self.recipe.seed, self.recipe.steps, self.device)
        with torch.no_grad():
            for index, rate in enumerate(self.rates):
                if rate.form.value != "codebook":
                    continue
                recoder = Recoder(bank=self.bank, index=index, stages=None, source=source)
                for start in range(0, self.recipe.calibration, self.recipe.batch):
                    images = self.prepare(self.images[start : start + self.recipe.batch])
                    divided(
                        self.average, images, Division(cuts=even(self.average.config.tokens, 4)), rate.source, recoder
                    )

    def save(self) -> None:
        """Write the checkpoint; raises RunError."""
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "bank": self.bank.state_dict(),
            "optimiser": self.optimiser.state_dict(),
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
        self.bank.restore(state["bank"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_number, self.seconds = state["step"], state["seconds"]

    def accuracy(self, images: Tensor, labels: Tensor, *, index: int | None, boards: int = 4) -> float:
        """Share of right answers of the averaged weights, even ranges; index None: undivided."""
        division = Division(cuts=even(self.network.config.tokens, boards), single_class=not self.recipe.class_tokens)
        recoder = None if index is None else self.bank.recoder(index)
        return right_answers(self.average, images, labels, self.prepare, division=lambda _: division, recoder=recoder)

    def fit(self, *, every: int, stop: int | None = None) -> None:
        """Run to the last step (or to step `stop`), reporting and saving every `every` steps; then publish."""
        began, losses = time.monotonic(), []
        last = self.recipe.steps if stop is None else min(stop, self.recipe.steps)
        while self.step_number < last:
            losses.append(float(self.step()))
            if self.step_number % every == 0 or self.step_number == last:
                self.seconds += time.monotonic() - began
                self.save()
                speed = len(losses) * self.recipe.batch / (time.monotonic() - began)
                scores = [self.accuracy(*self.held, index=index) for index in (None, *range(len(self.rates)))]
                shown = " ".join(
                    f"{name} {score:.3f}" for name, score in zip(("whole", *self.recipe.codecs), scores, strict=True)
                )
                mean = sum(losses) / len(losses)
                print(
                    f"step {self.step_number}/{self.recipe.steps} loss {mean:.3f} held out: {shown} "
                    f"{speed:.0f} images/s",
                    flush=True,
                )
                began, losses = time.monotonic(), []
        if self.step_number == self.recipe.steps:
            self.settle()
            publish_tuned(self.run, self.average, self.bank, self.data)
            write_json(self.run / "metrics.json", {"recipe": asdict(self.recipe), "seconds": round(self.seconds, 1)})


def _relative(own: Tensor, wanted: Tensor) -> Tensor:
    """Squared error relative to the spread of what is wanted."""
    wanted = wanted.float()
    return (own.float() - wanted).square().mean() / wanted.var().clamp_min(1e-6)
