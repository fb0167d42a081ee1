"""Augmentation of whole batches where the data lies: shifts, mirror images, brightness, blanked squares, mixup."""

import numpy as np
import torch
from torch import Tensor

from tools.train.recipe import Recipe


def generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The source of randomness of one step: a resumed run draws what the uninterrupted one would have drawn."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """u8 [n, H, W, 3] -> f32 [n, 3, H, W] in channels-last memory; `mean` and `std` f32 [3] of values in 0..1."""
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def moved(images: Tensor, recipe: Recipe, source: torch.Generator) -> Tensor:
    """Shift by up to `recipe.shift` pixels with mirrored borders and mirror half of the pictures; u8 [n, H, W, 3]."""
    count, height, width, _ = images.shape
    device = images.device
    reach = 2 * recipe.shift + 1
    top, left = (torch.randint(reach, (count, 1), generator=source, device=device) - recipe.shift for _ in range(2))
    rows = _mirrored(torch.arange(height, device=device) + top, height)
    columns = _mirrored(torch.arange(width, device=device) + left, width)
    if recipe.flip:
        turned = torch.rand(count, 1, generator=source, device=device) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    return images[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Indices beyond the border reflected into 0..size-1."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def coloured(images: Tensor, recipe: Recipe, source: torch.Generator) -> Tensor:
    """Brightness, contrast and a blanked square on normalised pictures f32 [n, 3, H, W]."""
    count, _, height, width = images.shape
    device = images.device
    if recipe.jitter > 0:
        gain, offset = (
            recipe.jitter * (2 * torch.rand(count, 1, 1, 1, generator=source, device=device) - 1) for _ in range(2)
        )
        images = images * (1 + gain) + offset
    if recipe.erase > 0:
        y, x = (
            torch.randint(size, (count, 1), generator=source, device=device) - recipe.erase // 2
            for size in (height, width)
        )
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        blank = ((rows >= y) & (rows < y + recipe.erase))[:, :, None] & ((columns >= x) & (columns < x + recipe.erase))[
            :, None, :
        ]
        images = images.masked_fill(blank[:, None], 0.0)
    return images


def grained(images: Tensor, recipe: Recipe, std: Tensor, source: torch.Generator) -> Tensor:
    """Fine colour detail that chroma subsampling took from lossy pictures: normalised f32 [n, 3, H, W], H and W even.

    Within each 2x2 block the chroma gets a share of the luma's detail, another share for every picture, and white
    noise. Without it a network trained on lossy pictures trips over the colour detail of lossless ones.
    """
    if recipe.grain <= 0:
        return images
    count, _, height, width = images.shape
    device = images.device
    weights = torch.tensor((0.299, 0.587, 0.114), device=device) * std
    luma = _detail(torch.einsum("nchw,c->nhw", images, weights))
    share, level = (torch.randn(count, 2, 1, 1, generator=source, device=device) for _ in range(2))
    white = _detail(torch.randn(count, 2, height, width, generator=source, device=device))
    blue, red = (0.1 * share * luma[:, None] + recipe.grain * level * white).unbind(1)
    # Cb and Cr of JPEG and WebP as red, green, blue.
    shift = torch.stack([1.402 * red, -0.344 * blue - 0.714 * red, 1.772 * blue], dim=1)
    return images + shift / std[:, None, None]


def _detail(planes: Tensor) -> Tensor:
    """[..., H, W] less the mean of every 2x2 block."""
    height, width = planes.shape[-2:]
    blocks = planes.view(*planes.shape[:-2], height // 2, 2, width // 2, 2)
    return (blocks - blocks.mean(dim=(-3, -1), keepdim=True)).view(planes.shape)


def mixed(images: Tensor, targets: Tensor, recipe: Recipe, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412): pictures [n, ...] and target distributions f32 [n, C], each with its neighbour's."""
    if recipe.mix <= 0:
        return images, targets
    share = float(np.random.default_rng(source.initial_seed()).beta(recipe.mix, recipe.mix))
    return images.lerp(images.roll(1, 0), share), targets.lerp(targets.roll(1, 0), share)
