"""Accuracy of a network divided over emulated boards: quick figures; those that ship come from the runtime."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tools.finetune.bank import Recoder
from tools.finetune.divided import divided
from tools.finetune.split import Division, even, uneven
from tools.train.network import Vit
from tools.train.pictures import Pictures

BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the tokens lie and what goes wrong."""

    boards: int
    random: bool = False  # random contiguous ranges, new for every batch of pictures
    lost: bool = False  # a random board dies at a random round, new for every batch

    @property
    def name(self) -> str:
        """For tables."""
        return f"N={self.boards}{' random' if self.random else ''}{' one lost' if self.lost else ''}"

    def division(self, number: int, *, tokens: int, blocks: int, single_class: bool) -> Division:
        """The division of batch `number`: the same for every network that is measured."""
        rng = np.random.default_rng((self.boards, number))
        cuts = uneven(tokens, self.boards, rng) if self.random else even(tokens, self.boards)
        lost = int(rng.integers(1 if single_class else 0, self.boards)) if self.lost else -1
        return Division(cuts=cuts, lost=lost, lost_from=int(rng.integers(blocks)), single_class=single_class)


@torch.no_grad()
def answers(network: Vit, pictures: Pictures, images: Tensor, case: Case, recoder: Recoder | None) -> Tensor:
    """Predicted labels i64 [n] of u8 pictures [n, H, W, 3] from boards that exchange codes; no recoder: undivided."""
    parts = []
    for number, start in enumerate(range(0, len(images), BATCH)):
        part = pictures.prepare(images[start : start + BATCH])
        if recoder is None:
            parts.append(network(part))
            continue
        division = case.division(
            number,
            tokens=network.config.tokens,
            blocks=network.config.num_hidden_layers,
            single_class=not recoder.bank.recipe.class_tokens,
        )
        parts.append(divided(network, part, division, recoder.rate.source, recoder).logits)
    return torch.cat(parts).argmax(1)


def accuracy(network: Vit, pictures: Pictures, case: Case, recoder: Recoder) -> float:
    """Share of right answers on the training pictures set aside."""
    images, labels = pictures.held
    return float((answers(network, pictures, images, case, recoder) == labels).float().mean())
