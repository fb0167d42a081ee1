"""Accuracy of a network divided over emulated boards: quick figures; those that ship come from the runtime."""

from collections.abc import Callable

import torch
from torch import Tensor

from tools.finetune.bank import Recoder
from tools.finetune.divided import divided
from tools.finetune.split import Division
from tools.train.network import Vit

BATCH = 250


@torch.no_grad()
def right_answers(
    network: Vit,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    *,
    division: Callable[[int], Division],
    recoder: Recoder | None,
) -> float:
    """Share of right answers on u8 pictures [n, H, W, 3]; `division` names that of each batch, None: undivided."""
    right = 0
    for number, start in enumerate(range(0, len(labels), BATCH)):
        part = prepare(images[start : start + BATCH])
        if recoder is None:
            logits = network(part)
        else:
            logits = divided(network, part, division(number), recoder.rate.source, recoder).logits
        right += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return right / len(labels)
