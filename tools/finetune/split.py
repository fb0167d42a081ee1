"""Which board holds which token, and which boards still speak: what changes from batch to batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Contiguous ranges of content tokens, and at most one board that dies."""

    cuts: tuple[int, ...]  # N+1 rising, from 0 to T
    lost: int = -1  # a board, or -1
    lost_from: int = 0  # the first block whose exchange it misses
    single_class: bool = False  # board 0 alone has a class token

    @property
    def boards(self) -> int:
        """N."""
        return len(self.cuts) - 1

    @property
    def speakers(self) -> tuple[int, ...]:
        """Boards whose class token counts at the end."""
        if self.single_class:
            return (0,)
        return tuple(board for board in range(self.boards) if board != self.lost)

    def owner(self) -> Tensor:
        """Board of every content token, i64 [T]."""
        sizes = torch.tensor(self.cuts).diff()
        return torch.repeat_interleave(torch.arange(self.boards), sizes)

    def heard(self, block: int) -> Tensor | None:
        """Content tokens whose codes of `block` arrive, bool [T]; None: all."""
        return self.owner() != self.lost if self.lost >= 0 and block >= self.lost_from else None

    def masks(self, block: int, *, foretold: bool = False) -> Tensor:
        """Which row may look at which key in `block`: bool [N+T, N+T+T], class tokens first.

        Keys are the N class tokens and T content tokens as they are, then the T content tokens as rebuilt from codes.
        A row sees its own board's exact keys and the codes of all other boards that still speak; with codes that
        predict (`foretold`) also what those of a lost board said before foretells.
        """
        content = self.owner()
        rows = torch.cat([torch.arange(self.boards), content])
        exact = rows[:, None] == rows[None, :]
        coded = rows[:, None] != content[None, :]
        if self.lost >= 0 and block >= self.lost_from and not (foretold and self.lost_from):
            coded &= content[None, :] != self.lost
        return torch.cat([exact, coded], dim=1)


def even(tokens: int, boards: int) -> tuple[int, ...]:
    """Cuts of ranges that differ by at most one token."""
    return tuple(tokens * board // boards for board in range(boards + 1))


def uneven(tokens: int, boards: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Cuts of random ranges, each of at least one token."""
    inner = np.sort(rng.choice(np.arange(1, tokens), size=boards - 1, replace=False))
    return (0, *(int(cut) for cut in inner), tokens)


def draw(
    tokens: int,
    rng: np.random.Generator,
    *,
    boards: tuple[int, ...],
    uneven_share: float,
    loss_rate: float,
    blocks: int,
    single_class: bool = False,
) -> Division:
    """The division of one batch."""
    count = int(rng.choice(boards))
    ranges = uneven(tokens, count, rng) if rng.random() < uneven_share else even(tokens, count)
    lost = int(rng.integers(count)) if rng.random() < loss_rate and count > 1 else -1
    if single_class and lost == 0:
        lost = -1  # the only class token cannot die
    return Division(cuts=ranges, lost=lost, lost_from=int(rng.integers(blocks)), single_class=single_class)
