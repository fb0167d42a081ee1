"""Vectors that a codec may be asked to pack: content tokens of every block of the undivided network."""

import torch
from torch import Tensor

from tools.finetune.divided import project
from tools.train.network import Vit

BATCH = 250


@torch.no_grad()
def sample(network: Vit, images: Tensor, *, most: int, seed: int) -> list[dict[str, Tensor]]:
    """Per block: about `most` vectors [n, W] f32 on the CPU of "kv", "normed", "input"; pictures normalised.

    "place": the content token that each was, i64 [n].
    """
    share = min(1.0, most / (len(images) * network.config.tokens))
    source = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = [[] for _ in network.layers]
    places: list[Tensor] = []
    for start in range(0, len(images), BATCH):
        x = network.embed(images[start : start + BATCH])
        mask = torch.rand(x[:, 1:, 0].shape, generator=source) < share
        places.append(mask.nonzero()[:, 1])
        for number, block in enumerate(network.layers):
            kept[number].append(x[:, 1:][mask.to(x.device)].float())
            x = block(x, last=False)
    result = []
    for parts, block in zip(kept, network.layers, strict=True):
        value = torch.cat(parts)
        normed = block.norm1(value)
        named = {"kv": project(block, normed), "normed": normed, "input": value}
        result.append({name: tensor.cpu() for name, tensor in named.items()} | {"place": torch.cat(places)})
    return result
