"""Muon (Jordan 2024): momentum whose matrix is made orthogonal by a Newton-Schulz iteration before it is applied.

Steps are scaled to AdamW's root mean square (arXiv 2502.16982, sec. 2.2), so that both take similar learning rates.
Parameters of one shape are treated as one batch: a ViT has few shapes and many blocks.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic of the reference implementation, five iterations


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns] -> the same with singular values near 1."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    if x.is_cuda:
        x = x.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonal Nesterov momentum for parameters of two or more dimensions; convolutions count as [out, rest]."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update; `closure` is not supported."""
        if closure is not None:
            raise ValueError("this optimiser takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for same in by_shape.values():
                self._update(same, group)

    def _update(self, same: list[nn.Parameter], group: dict[str, Any]) -> None:  # Any: torch's parameter groups
        gradients = [parameter.grad for parameter in same if parameter.grad is not None]
        for parameter in same:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        memory = [self.state[parameter]["momentum"] for parameter in same]
        torch._foreach_lerp_(memory, gradients, 1 - group["momentum"])
        ahead = [own.lerp(past, group["momentum"]) for own, past in zip(gradients, memory, strict=True)]
        stacked = torch.stack([value.reshape(len(value), -1) for value in ahead])
        step = orthogonal(stacked) * (0.2 * max(stacked.shape[1:]) ** 0.5)
        weights: list[Tensor] = [*same]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, [s.view_as(p) for s, p in zip(step, same, strict=True)], alpha=-group["lr"])
