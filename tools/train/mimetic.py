"""Starting weights that imitate a trained attention (Trockman and Kolter, arXiv 2305.09828) and places on a grid.

Query and key weights multiply to something near the identity, so tokens first look at what resembles them; value and
output weights multiply to something near the negative identity. Learning from little data starts well ahead.
"""

import torch
from torch import Tensor

from tools.train.network import Vit

_NOISE_QK, _DIAGONAL_QK = 0.7, 0.7
_NOISE_VO, _DIAGONAL_VO = 0.4, 0.4


def start_mimetic(network: Vit) -> None:
    """Overwrite attention weights and position embeddings; draws from torch's global generator."""
    width = network.config.hidden_size
    head_width = width // network.config.num_attention_heads
    identity = torch.eye(width)
    with torch.no_grad():
        for block in network.layers:
            query, key, value = block.qkv.weight.view(3, width, width)
            for start in range(0, width, head_width):
                noise = torch.randn(width, width) * width**-0.5
                left, right = _factors(_NOISE_QK * noise + _DIAGONAL_QK * identity, head_width)
                query[start : start + head_width] = left.T
                key[start : start + head_width] = right.T
            noise = torch.randn(width, width) * width**-0.5
            left, right = _factors(_NOISE_VO * noise - _DIAGONAL_VO * identity, width)
            value.copy_(left.T)
            block.out.weight.copy_(right)
        side = network.config.image_size // network.config.patch_size
        network.pos[0, 1:] = grid_waves(side, width)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[D, D] -> two [D, rank] whose product a @ b.T is the best approximation of that rank."""
    left, size, right = torch.linalg.svd(product)
    root = size[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [side*side, width]; the first half of the width tells the row."""
    quarter = width // 4
    rate = 10_000.0 ** (-torch.arange(quarter) / quarter)
    place = torch.arange(side)[:, None] * rate
    wave = torch.cat([place.sin(), place.cos()], dim=1)  # [side, width/2]
    rows = wave[:, None].expand(side, side, -1)
    columns = wave[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, -1)
