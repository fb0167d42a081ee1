"""The loss of a divided batch: labels, and the undivided network as it was before fine-tuning."""

import torch
from torch import Tensor
from torch.nn import functional

from tools.finetune.bank import Recoder
from tools.finetune.divided import divided
from tools.finetune.recipe import TuneRecipe
from tools.finetune.split import Division
from tools.train.guide import soft_loss
from tools.train.network import Vit


class Objective:
    """Task loss, distillation of logits and tokens, commitment to the codes."""

    def __init__(self, recipe: TuneRecipe, exact: Vit) -> None:
        """`exact`: the network before fine-tuning; it stays as it is."""
        self.recipe, self.exact = recipe, exact

    def __call__(self, network: Vit, images: Tensor, labels: Tensor, *, division: Division, recoder: Recoder) -> Tensor:
        """Loss of normalised pictures [n, 3, H, W] with labels i64 [n]."""
        recipe = self.recipe
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=recipe.bf16):
            outcome = divided(network, images, division, recoder.rate.source, recoder)
            loss = functional.cross_entropy(outcome.logits.float(), labels, label_smoothing=recipe.smoothing)
            if recipe.soft > 0 or recipe.features > 0:
                with torch.no_grad():
                    wanted, tokens = self.exact.with_tokens(images, range(len(self.exact.layers) - 1))
                loss = (1 - recipe.soft) * loss + recipe.soft * soft_loss(outcome.logits, wanted, recipe.temperature)
                errors = [_relative(own, other) for own, other in zip(outcome.tokens, tokens, strict=True)]
                loss = loss + recipe.features * torch.stack(errors).mean()
        return loss + recipe.commitment * recoder.commitment


def _relative(own: Tensor, wanted: Tensor) -> Tensor:
    """Squared error relative to the spread of what is wanted."""
    wanted = wanted.float()
    return (own.float() - wanted).square().mean() / wanted.var().clamp_min(1e-6)
