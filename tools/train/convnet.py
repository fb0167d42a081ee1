"""The teacher: a small VGG-like convolutional network that learns CIFAR in a few epochs (after arXiv 2404.00498).

Its first layer whitens 2x2 patches of the training pictures and stays as it is; every other layer is learned.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

WHITENED = 24  # 12 directions of a 2x2 patch of 3 channels, with both signs


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvConfig:
    """Shape of the network."""

    channels: tuple[int, int, int] = (64, 128, 256)
    num_labels: int = 10


class ConvNet(nn.Module):
    """Normalised pictures f32 [n, 3, H, W] -> logits [n, C]; H and W divide by 8."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.config = config
        self.whiten = nn.Conv2d(3, WHITENED, 2)
        self.whiten.requires_grad_(False)
        sizes = (WHITENED, *config.channels)
        self.stages = nn.ModuleList(_stage(before, after) for before, after in pairwise(sizes))
        self.head = nn.Linear(config.channels[-1], config.num_labels)

    def fit_whitening(self, images: Tensor) -> None:
        """Set the first layer from normalised pictures [n, 3, H, W]: eigenvectors of 2x2 patches at unit variance."""
        patches = functional.unfold(images.float(), 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double().cpu())
        filters = (vectors / torch.sqrt(values + 5e-4)).T.reshape(-1, 3, 2, 2)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]))
            nn.init.zeros_(cast("Tensor", self.whiten.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, C]."""
        return self.with_maps(images)[0]

    def with_maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the feature map [n, channels, h, w] of every stage: 1/2, 1/4 and 1/8 of the picture's side."""
        x = functional.gelu(self.whiten(functional.pad(images, (0, 1, 0, 1))))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.head(x.amax(dim=(2, 3))) * self.head.in_features**-0.5, maps


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(after),
        nn.GELU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.GELU(),
    )
