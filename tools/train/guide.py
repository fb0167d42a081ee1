"""Learning from a convolutional teacher that sees the same augmented pictures.

Logits: soft labels (arXiv 1503.02531). Feature maps: the teacher's map with as many places as the student has tokens
(or a multiple) pulls the tokens of a middle block, the next smaller map those of the last block but one, averaged over
its cells: locality guidance (arXiv 2207.10026), which gives a plain ViT the inductive bias that small data denies it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.train.convnet import ConvNet
from tools.train.network import Vit


class Guide(nn.Module):
    """Loss between a student and a frozen teacher; its projections are learned and are no part of the model."""

    def __init__(self, student: Vit, teacher: ConvNet) -> None:
        super().__init__()
        config = student.config
        side = config.image_size // config.patch_size
        sizes = {config.image_size >> (index + 1): index for index in range(len(teacher.stages))}
        finest = sizes.get(side, 1)
        last = config.num_hidden_layers - 2
        pairs = {(min(last, config.num_hidden_layers // 2), finest), (last, min(finest + 1, len(sizes) - 1))}
        self.pairs = tuple(sorted(pair for pair in pairs if pair[0] >= 0))  # (student block, teacher stage)
        channels = teacher.config.channels
        self.projections = nn.ModuleList(nn.Linear(config.hidden_size, channels[stage]) for _, stage in self.pairs)
        self.side = side

    @property
    def blocks(self) -> tuple[int, ...]:
        """Student blocks whose tokens are wanted, rising."""
        return tuple(sorted({block for block, _ in self.pairs}))

    def feature_loss(self, tokens: list[Tensor], maps: list[Tensor]) -> Tensor:
        """Mean squared error against the teacher's maps, every channel at unit variance over the batch."""
        losses, by_block = [], dict(zip(self.blocks, tokens, strict=True))
        for (block, stage), projection in zip(self.pairs, self.projections, strict=True):
            own = by_block[block]
            target = maps[stage].float()
            target = functional.adaptive_avg_pool2d(target, min(self.side, target.shape[-1]))
            target = target - target.mean(dim=(0, 2, 3), keepdim=True)
            target = target / (target.square().mean(dim=(0, 2, 3), keepdim=True).sqrt() + 1e-4)
            grid = own.transpose(1, 2).reshape(len(own), -1, self.side, self.side)
            pooled = functional.adaptive_avg_pool2d(grid, target.shape[-1]).permute(0, 2, 3, 1)
            losses.append(functional.mse_loss(projection(pooled).float(), target.permute(0, 2, 3, 1)))
        return torch.stack(losses).mean()


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross entropy between two sets of logits [n, C] at a temperature, on the scale of an ordinary cross entropy."""
    target = functional.softmax(teacher.float() / temperature, dim=1)
    loss = functional.cross_entropy(student.float() / temperature, target)
    return loss * temperature**2
