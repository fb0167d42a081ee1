"""N boards emulated in one forward pass by masks (arXiv 2505.19342v2, sec. on training).

Rows are the N class tokens, one per board, then all T content tokens. Every content token has its exact keys and values
and those that other boards rebuild from its codes; a mask picks which of the two a row sees, under one softmax.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tools.export.codec_entry import Source
from tools.finetune.split import Division
from tools.train.network import Block, Vit


class Recode(Protocol):
    """What other boards rebuild from a board's codes."""

    @property
    def foretells(self) -> bool:
        """Whether tokens whose codes stay out are rebuilt from earlier ones."""

    def __call__(self, values: Tensor, block: int, heard: Tensor | None) -> Tensor:
        """values [B, T, W] of a block's content tokens -> as rebuilt.

        `heard` bool [T]: whose codes arrive; None: all.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a divided pass yields."""

    logits: Tensor  # [B, C]
    tokens: tuple[Tensor, ...]  # content tokens after every block but the last, [B, T, D] each


def divided(network: Vit, images: Tensor, division: Division, source: Source, recode: Recode) -> Outcome:
    """Logits of normalised pictures [B, 3, H, W] from `division.boards` boards that exchange codes of `source`."""
    x, boards = network.embed(images), division.boards
    x = torch.cat([x[:, :1].expand(-1, boards, -1), x[:, 1:]], dim=1)
    kept = []
    for number, block in enumerate(network.layers):
        last = number + 1 == len(network.layers)
        normed = block.norm1(x)
        query, own = block.qkv(normed).split((x.shape[2], 2 * x.shape[2]), dim=2)
        match source:
            case _ if boards == 1:
                remote = own[:, :0]
            case Source.KV:
                remote = recode(own[:, boards:], number, division.heard(number))
            case Source.NORMED:
                remote = project(block, recode(normed[:, boards:], number, division.heard(number)))
            case Source.INPUT:
                remote = project(block, block.norm1(recode(x[:, boards:], number, division.heard(number))))
        keys = torch.cat([own, remote.to(own.dtype)], dim=1)
        rows = boards if last else x.shape[1]  # nothing reads the content tokens after the last block
        allowed = division.masks(number, foretold=recode.foretells)[:rows, : keys.shape[1]].to(x.device)
        x = _attend(block, x[:, :rows], query[:, :rows], keys, allowed)
        if not last:
            kept.append(x[:, boards:])
    speakers = torch.tensor(division.speakers, device=x.device)
    cls = network.norm(x[:, speakers]).mean(dim=1)
    return Outcome(logits=network.head(cls), tokens=tuple(kept))


def _attend(block: Block, x: Tensor, query: Tensor, kv: Tensor, allowed: Tensor) -> Tensor:
    """The rest of a block: x and query [B, R, D], kv [B, S, 2D], allowed bool [R, S] -> [B, R, D]."""
    batch, rows, width = x.shape
    key, value = kv.split(width, dim=2)
    query, key, value = (
        part.reshape(batch, -1, block.heads, width // block.heads).transpose(1, 2) for part in (query, key, value)
    )
    with torch.autocast(x.device.type, enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        mixed = scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ value
    x = x + block.out(mixed.transpose(1, 2).reshape(batch, rows, width))
    return x + block.down(functional.gelu(block.up(block.norm2(x))))


def project(block: Block, normed: Tensor) -> Tensor:
    """K|V [B, T, 2D] of normalised block inputs [B, T, D]."""
    width = normed.shape[-1]
    return functional.linear(normed, block.qkv.weight[width:], block.qkv.bias[width:])
