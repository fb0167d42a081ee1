"""Which parameters are updated how: Muon for the matrices inside the network, AdamW for everything else."""

from typing import Any

import torch
from torch import nn

from tools.train.muon import Muon
from tools.train.recipe import Recipe


class Optimisers:
    """The optimisers of a run under one schedule."""

    def __init__(self, recipe: Recipe, network: nn.Module, guide: nn.Module | None) -> None:
        """`guide`: learned with the network, without weight decay."""
        self.recipe = recipe
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            hidden = parameter.dim() in (2, 4) and not name.startswith(("head", "patch"))
            if parameter.requires_grad:
                (matrices if hidden else rest).append(parameter)
        if guide is not None:
            rest += list(guide.parameters())
        self.all: list[torch.optim.Optimizer]
        if recipe.muon:
            self.clipped = rest  # Muon's steps do not depend on the gradient's size
            self.all = [Muon(matrices, lr=recipe.rate, weight_decay=recipe.decay), _adam(rest, recipe.rate_rest)]
        else:
            self.clipped = rest + matrices
            self.all = [_adam(rest, recipe.rate), _adam(matrices, recipe.rate, recipe.decay)]
        self._peaks = [optimiser.param_groups[0]["lr"] for optimiser in self.all]

    def step(self, share: float) -> None:
        """Apply the gradients at the learning rates due when `share` of the run is done, and drop them."""
        for optimiser, peak in zip(self.all, self._peaks, strict=True):
            optimiser.param_groups[0]["lr"] = self.recipe.learning_rate(peak, share)
        nn.utils.clip_grad_norm_(self.clipped, self.recipe.clip)
        for optimiser in self.all:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:  # Any: torch's state
        """What a checkpoint holds."""
        return [optimiser.state_dict() for optimiser in self.all]

    def restore(self, states: list[dict[str, Any]]) -> None:  # Any: torch's state
        """Take up a checkpoint."""
        for optimiser, state in zip(self.all, states, strict=True):
            optimiser.load_state_dict(state)


def _adam(parameters: list[nn.Parameter], rate: float, decay: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
