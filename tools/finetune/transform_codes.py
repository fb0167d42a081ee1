"""Transform codes in the training loop: components of a rotation, each with its own scalar quantiser.

Gradients pass straight through the quantisers but only along the components that are sent: what the codes drop gets no
gradient. With `components` the rotation and its inverse are learned and levels are even: finite scalar quantisation
(arXiv 2309.15505) behind a learned bottleneck.
"""

import numpy as np
import torch
from torch import Tensor, nn

from tools.export.transform import fit_transform


class TransformCodes(nn.Module):
    """The codec of one block."""

    mean: Tensor  # [W]
    analysis: Tensor  # [W, N]
    synthesis: Tensor  # [N, W]
    levels: Tensor  # [N, 2**most bits], rising
    bits: Tensor  # i32 [N]

    def __init__(self, values: Tensor, *, bits: int, components: int) -> None:
        """Fitted to values [n, W]; `components` > 0 asks for that many, with even levels, all of it learned."""
        super().__init__()
        self.total_bits, self.components = bits, components
        self.learned = components > 0
        parts = _even(values, bits, components) if self.learned else _klt(values, bits)
        for name, tensor in parts.items():
            if self.learned and name in {"analysis", "synthesis", "mean"}:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def refit(self, values: Tensor) -> None:
        """Fit again on values [n, W]; learned codes stay."""
        if not self.learned:
            device = self.levels.device
            for name, tensor in _klt(values.cpu(), self.total_bits).items():
                self.register_buffer(name, tensor.to(device))

    def forward(self, values: Tensor) -> Tensor:
        """What is rebuilt from values [n, W]."""
        components = (values.float() - self.mean) @ self.analysis
        with torch.no_grad():
            middles = (self.levels[:, 1:] + self.levels[:, :-1]) / 2
            picked = torch.searchsorted(middles, components.T.contiguous())
            rebuilt = self.levels.gather(1, picked).T
        if self.learned:
            # Beyond the outer levels a component gets no gradient: it would only grow there.
            half = (self.levels[:, 1] - self.levels[:, 0]) / 2
            components = components.clamp(self.levels[:, 0] - half, self.levels[:, -1] + half)
        sent = components + (rebuilt - components).detach()
        return sent @ self.synthesis + self.mean

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint of codecs holds."""
        return {name: getattr(self, name).detach() for name in ("mean", "analysis", "synthesis", "levels", "bits")}


def _klt(values: Tensor, bits: int) -> dict[str, Tensor]:
    fit = fit_transform(np.ascontiguousarray(values.float().numpy()), bits)
    most = max(len(levels) for levels in fit.levels)
    # Padded with the last level: a threshold between equal levels is never passed from below.
    levels = np.stack([np.pad(own, (0, most - len(own)), mode="edge") for own in fit.levels])
    return {
        "mean": torch.from_numpy(fit.mean),
        "analysis": torch.from_numpy(fit.analysis),
        "synthesis": torch.from_numpy(fit.synthesis),
        "levels": torch.from_numpy(levels),
        "bits": torch.tensor(fit.bits, dtype=torch.int32),
    }


def _even(values: Tensor, bits: int, components: int) -> dict[str, Tensor]:
    """Principal components at unit variance and even levels of the step that suits a Gaussian."""
    mean = values.mean(dim=0)
    centred = (values - mean).double()
    spectrum, vectors = torch.linalg.eigh(centred.T @ centred / len(values))
    kept = torch.argsort(spectrum, descending=True)[:components]
    scale = spectrum[kept].clamp_min(1e-8).sqrt()
    each = bits // components
    # Steps of the uniform quantiser that is optimal for a unit Gaussian (Max 1960, table II).
    step = {1: 1.596, 2: 0.9957, 3: 0.5860, 4: 0.3352}.get(each, 8 / 2**each)
    row = (torch.arange(1 << each) - ((1 << each) - 1) / 2) * step
    return {
        "mean": mean.float(),
        "analysis": (vectors[:, kept] / scale).float().contiguous(),
        "synthesis": (vectors[:, kept] * scale).T.float().contiguous(),
        "levels": row.expand(components, -1).float().contiguous(),
        "bits": torch.full((components,), each, dtype=torch.int32),
    }
