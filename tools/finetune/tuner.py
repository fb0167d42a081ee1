"""One fine-tuning run: one division and one codec per batch, and a loop that goes on to the step where it stopped."""

import copy
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.finetune.bank import Bank, Recoder
from tools.finetune.divided import divided
from tools.finetune.files import publish_tuned
from tools.finetune.measure import Case, accuracy
from tools.finetune.objective import Objective
from tools.finetune.rates import Form, parse_rate
from tools.finetune.recipe import TuneRecipe
from tools.finetune.samples import sample
from tools.finetune.split import Division, draw, even
from tools.train import augmentation
from tools.train.card import tuned, write_card
from tools.train.dataset import Dataset
from tools.train.network import Vit
from tools.train.pictures import Pictures
from tools.train.recipe import Recipe
from tools.train.store import read_checkpoint, write_checkpoint, write_json


class Tuner:
    """State of a run; everything random is drawn from the seed and the number of the step."""

    def __init__(self, *, recipe: TuneRecipe, network: Vit, data: Dataset, run: Path, device: torch.device) -> None:
        """Raises ValueError for an unknown codec or one that does not fit the network's width."""
        self.recipe, self.data, self.run, self.device = recipe, data, run, device
        self.pictures = Pictures(data, holdout=recipe.holdout, seed=recipe.seed, device=device)
        self.network = network.to(device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        exact = copy.deepcopy(self.average)
        self.objective = Objective(recipe, exact)
        self.rates = tuple(parse_rate(name) for name in recipe.codecs)
        torch.manual_seed(recipe.seed)
        self.bank = Bank(self.rates, self.samples(exact), recipe, network.config).to(device)
        matrices = [p for p in self.network.parameters() if p.dim() == 2]
        readouts = self.bank.readouts()
        others = [p for p in self.network.parameters() if p.dim() != 2]
        others += [p for p in self.bank.parameters() if not any(p is other for other in readouts)]
        groups = [
            {"params": matrices, "weight_decay": recipe.decay, "speed": 1.0},
            {"params": others, "weight_decay": 0.0, "speed": 1.0},
            {"params": readouts, "weight_decay": 0.0, "speed": recipe.readout_speed},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        # What fine-tuning shares with training: how pictures are moved, how the learning rate falls.
        self.shared = Recipe(shift=recipe.shift, flip=recipe.flip, grain=recipe.grain, warm_up=recipe.warm_up)
        self.step_number, self.seconds = 0, 0.0
        self.history = ""  # how the model that is fine-tuned was trained, for the card

    def samples(self, network: Vit) -> list[dict[str, Tensor]]:
        """Vectors for fitting codes."""
        pictures = self.pictures.prepare(self.pictures.images[: self.recipe.calibration])
        return sample(network, pictures, most=40_000, seed=self.recipe.seed)

    def _drawn(self, source: torch.Generator) -> tuple[Division, Recoder]:
        """Division and codec of this step."""
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
        chances = np.array([rate.token_bits**-recipe.favour for rate in self.rates])
        index = int(rng.choice(len(self.rates), p=chances / chances.sum()))
        stages = int(rng.integers(self.rates[index].stages)) + 1
        return division, Recoder(bank=self.bank, index=index, stages=stages, source=source)

    def step(self) -> Tensor:
        """One optimiser step; returns the loss."""
        recipe, pictures = self.recipe, self.pictures
        if recipe.refit and self.step_number and self.step_number % recipe.refit == 0:
            self.bank.refit(self.samples(self.network))
        source = augmentation.generator(recipe.seed, self.step_number, self.device)
        division, recoder = self._drawn(source)
        picked = pictures.batch(self.step_number, recipe.batch)
        images = pictures.prepare(augmentation.moved(pictures.images[picked], self.shared, source))
        images = augmentation.grained(images, self.shared, pictures.std, source)
        for group in self.optimiser.param_groups:
            group["lr"] = group["speed"] * self.shared.learning_rate(recipe.rate, self.step_number / recipe.steps)
        loss = self.objective(self.network, images, pictures.labels[picked], division=division, recoder=recoder)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        keep = min(recipe.average, (1 + self.step_number) / (10 + self.step_number))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        self.step_number += 1
        return loss.detach()

    @torch.no_grad()
    def settle(self) -> None:
        """Fit transforms and let codebooks follow the averaged weights, which are the ones that are saved."""
        recipe, pictures = self.recipe, self.pictures
        self.bank.refit(self.samples(self.average))
        source = augmentation.generator(recipe.seed, recipe.steps, self.device)
        division = Division(cuts=even(self.average.config.tokens, 4))
        for index in (index for index, rate in enumerate(self.rates) if rate.form is Form.CODEBOOK):
            recoder = Recoder(bank=self.bank, index=index, stages=None, source=source)
            for start in range(0, recipe.calibration, recipe.batch):
                images = pictures.prepare(pictures.images[start : start + recipe.batch])
                divided(self.average, images, division, recoder.rate.source, recoder)
        self.bank.refit(
            self.samples(self.average)
        )  # what predictions and summaries make of the codebooks as they are now

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

    def publish(self) -> None:
        """Write what the exporter reads; raises RunError."""
        metrics = {"recipe": asdict(self.recipe), "seconds": round(self.seconds, 1)}
        publish_tuned(self.run, self.average, self.bank, self.data)
        write_json(self.run / "metrics.json", metrics)
        write_card(self.run, self.history, tuned(metrics))

    def fit(self, *, every: int, stop: int | None = None) -> None:
        """Run to the last step (or to step `stop`), reporting and saving every `every` steps; then publish."""
        began, losses = time.monotonic(), []
        last = self.recipe.steps if stop is None else min(stop, self.recipe.steps)
        while self.step_number < last:
            losses.append(self.step())
            if self.step_number % every == 0 or self.step_number == last:
                self.seconds += time.monotonic() - began
                self.save()
                speed = len(losses) * self.recipe.batch / (time.monotonic() - began)
                loss = float(torch.stack(losses).mean())
                print(
                    f"step {self.step_number}/{self.recipe.steps} loss {loss:.3f} held out: {self._scores()} "
                    f"{speed:.0f} images/s",
                    flush=True,
                )
                began, losses = time.monotonic(), []
        if self.step_number == self.recipe.steps:
            self.settle()
            self.publish()
            print(f"done: step {self.step_number}, held out: {self._scores()}", flush=True)

    def _scores(self) -> str:
        """Accuracy on the pictures set aside, undivided and on four boards with each codec."""
        scores = {"whole": self.pictures.accuracy(self.average, *self.pictures.held)}
        for index, name in enumerate(self.recipe.codecs):
            scores[name] = accuracy(self.average, self.pictures, Case(boards=4), self.bank.recoder(index))
        return " ".join(f"{name} {score:.3f}" for name, score in scores.items())
