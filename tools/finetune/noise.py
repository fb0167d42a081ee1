"""Noise-augmented quantisation (arXiv 2505.19342v2, sec. on NAVQ): in training, what is rebuilt gets the residual's own
noise, so that the network meets many more vectors than there are codes.
"""

import torch
from torch import Tensor, nn


class ResidualNoise(nn.Module):
    """Running mean and variance of v - v^ per element of the vector; independent Gaussian noise with both."""

    mean: Tensor
    square: Tensor
    seen: Tensor  # 0 before the first residual

    def __init__(self, width: int, *, decay: float = 0.98) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def observe(self, residual: Tensor) -> None:
        """Take in residuals [n, W]."""
        keep = self.decay if bool(self.seen > 0) else 0.0
        self.mean.lerp_(residual.mean(dim=0), 1 - keep)
        self.square.lerp_(residual.square().mean(dim=0), 1 - keep)
        self.seen.fill_(1.0)

    def sample(self, like: Tensor, strength: float, source: torch.Generator) -> Tensor:
        """Noise of the shape of `like` [..., W]."""
        spread = (self.square - self.mean.square()).clamp_min(0).sqrt()
        normal = torch.randn(like.shape, generator=source, device=like.device)
        return strength * (self.mean + spread * normal)
