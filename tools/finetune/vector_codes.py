"""Grouped vector quantisation in the training loop: codes that follow their vectors, plain, rotated or in stages.

Codes are moving averages of the vectors that chose them (van den Oord et al. 2017, appendix A.1); a code that is hardly
chosen moves to a random vector. With several stages each quantises what the stages before left over.
"""

import numpy as np
import torch
from torch import Tensor, nn

from tools.export.kmeans import k_means


class VectorCodes(nn.Module):
    """Codebooks of one block: codes [S, G, K, w], W = G*w, S stages."""

    codes: Tensor
    usage: Tensor  # [S, G, K], vectors per batch
    sums: Tensor  # of the vectors that chose a code, shaped as the codes
    rotation: Tensor  # [W, W]

    def __init__(self, values: Tensor, *, groups: int, codes: int, stages: int, rotated: bool, seed: int) -> None:
        """K-means on values [n, W]; raises ValueError when the groups do not divide W."""
        super().__init__()
        width = values.shape[1]
        if width % groups:
            raise ValueError(f"{groups} groups do not divide a width of {width}")
        rotation = balanced_rotation(values, groups) if rotated else torch.eye(width)
        self.rotated = rotated
        self.register_buffer("rotation", rotation)
        rest = (values @ rotation).numpy()
        rng = np.random.default_rng(seed)
        books = []
        for _ in range(stages):
            book = np.stack([k_means(np.ascontiguousarray(p), codes, rng=rng) for p in np.split(rest, groups, axis=1)])
            books.append(torch.from_numpy(book))
            picked = nearest(torch.from_numpy(rest), books[-1])
            rest = rest - look_up(picked, books[-1]).numpy()
        self.register_buffer("codes", torch.stack(books))
        self.register_buffer("usage", torch.ones(stages, groups, codes))
        self.register_buffer("sums", self.codes.clone())

    @property
    def stages(self) -> int:
        """S."""
        return int(self.codes.shape[0])

    def forward(self, values: Tensor, *, stages: int | None = None) -> Tensor:
        """What is rebuilt from values [n, W] by the first `stages` stages; no gradient."""
        rest = values.detach().float() @ self.rotation
        total: Tensor = torch.zeros_like(rest)
        for stage in range(stages or self.stages):
            rebuilt = look_up(nearest(rest - total, self.codes[stage]), self.codes[stage])
            total = total + rebuilt
        return total @ self.rotation.T

    @torch.no_grad()
    def follow(self, values: Tensor, *, decay: float, revive: float, source: torch.Generator) -> None:
        """One step of the moving averages of all stages on values [n, W]."""
        rest = values.detach().float() @ self.rotation
        count, groups = self.codes.shape[2], self.codes.shape[1]
        offsets = torch.arange(groups, device=values.device) * count
        for stage in range(self.stages):
            picked = nearest(rest, self.codes[stage])
            rebuilt = look_up(picked, self.codes[stage])
            flat = (picked + offsets).reshape(-1)
            parts = rest.view(len(rest), groups, -1)
            used = torch.zeros(groups * count, device=values.device).index_add_(0, flat, torch.ones_like(flat).float())
            sums = torch.zeros(groups * count, parts.shape[2], device=values.device)
            sums.index_add_(0, flat, parts.reshape(-1, parts.shape[2]))
            self.usage[stage].lerp_(used.view(groups, count), 1 - decay)
            self.sums[stage].lerp_(sums.view_as(self.sums[stage]), 1 - decay)
            self.codes[stage] = self.sums[stage] / self.usage[stage].clamp_min(1e-5)[..., None]
            self._revive(stage, parts, revive * len(rest) / count, source)
            rest = rest - rebuilt

    def _revive(self, stage: int, parts: Tensor, least: float, source: torch.Generator) -> None:
        """Put codes with less usage than `least` vectors per batch on random vectors [n, G, w] of their group."""
        group, code = torch.nonzero(self.usage[stage] < least, as_tuple=True)
        if len(code):
            row = torch.randint(len(parts), (len(code),), generator=source, device=parts.device)
            fresh = parts[row, group]
            self.codes[stage, group, code] = fresh
            # As if used at twice the least rate: it lives on unless nothing chooses it.
            self.usage[stage, group, code] = 2 * max(least, 1e-5)
            self.sums[stage, group, code] = fresh * 2 * max(least, 1e-5)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint of codecs holds."""
        own = {"codes": self.codes}
        return {**own, "rotation": self.rotation} if self.rotated else own


def nearest(values: Tensor, codes: Tensor) -> Tensor:
    """values [n, G*w], codes [G, K, w] -> indices i64 [n, G] of the nearest codes in L2."""
    parts = values.view(len(values), codes.shape[0], -1).transpose(0, 1)
    half = -0.5 * codes.square().sum(dim=2)[:, None, :]
    return torch.baddbmm(half, parts, codes.transpose(1, 2)).argmax(dim=2).T


def look_up(indices: Tensor, codes: Tensor) -> Tensor:
    """indices [n, G], codes [G, K, w] -> [n, G*w]."""
    return codes[torch.arange(codes.shape[0], device=codes.device), indices].reshape(len(indices), -1)


def balanced_rotation(values: Tensor, groups: int) -> Tensor:
    """Principal axes dealt out to groups so that the products of their variances are alike (Ge et al. 2013, OPQ)."""
    centred = (values - values.mean(dim=0)).double()
    spectrum, vectors = torch.linalg.eigh(centred.T @ centred / len(values))
    size = values.shape[1] // groups
    held: list[list[int]] = [[] for _ in range(groups)]
    weight = [0.0] * groups
    for axis in torch.argsort(spectrum, descending=True).tolist():
        open_groups = [group for group in range(groups) if len(held[group]) < size]
        least = min(open_groups, key=lambda group: weight[group])
        held[least].append(axis)
        weight[least] += float(torch.log(spectrum[axis].clamp_min(1e-12) / spectrum.clamp_min(1e-12).min()))
    return vectors[:, [axis for group in held for axis in group]].float()
