"""What boards take for keys and values, when codes are coarse: a learned correction of what the codes say.

Codes are fitted to rebuild keys and values with the least squared error. What attention makes of such a key is another
matter: of a token that is hardly known, a board should think less than of its own ones. So rebuilt keys and values pass
through an affine function per head, which training starts at the identity. When exported, it is folded into the
decoder's matrices and costs a board nothing.
"""

import torch
from torch import Tensor, nn


class Readout(nn.Module):
    """K|V [n, 2D] -> K|V [n, 2D], head by head."""

    def __init__(self, width: int, heads: int) -> None:
        """Of keys and values of `width` = 2D together; `heads` divides D."""
        super().__init__()
        size = width // (2 * heads)
        self.turn = nn.Parameter(torch.eye(size).repeat(2 * heads, 1, 1))  # [2H, D/H, D/H], keys' heads first
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, rebuilt: Tensor) -> Tensor:
        """See the class."""
        heads = rebuilt.view(len(rebuilt), len(self.turn), -1).transpose(0, 1)
        return (heads @ self.turn).transpose(0, 1).reshape(rebuilt.shape) + self.shift

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint of codecs holds: `readout` [2D, 2D], of which the heads are the diagonal blocks."""
        return {"readout": torch.block_diag(*self.turn.detach()), "readout_shift": self.shift.detach()}
