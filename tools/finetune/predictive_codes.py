"""Codes of what earlier blocks' codes do not foretell, in the training loop: see `tools.export.predictive`.

Prediction and summary are fitted anew with every transform; a codebook follows the vectors that prediction leaves.
Gradients of a transform pass through what is sent and through the state, whose values are those that were sent before.
Of a token whose codes stay out the state goes on as if they had said what was foretold.
"""

import torch
from torch import Tensor, nn

from tools.export.predictive import predict, summarise
from tools.finetune.readout import Readout
from tools.finetune.transform_codes import TransformCodes
from tools.finetune.vector_codes import VectorCodes


class PredictiveCodes(nn.Module):
    """The codec of one block."""

    prediction: Tensor  # [M+Q, W]
    ahead: Tensor  # [W]
    basis: Tensor  # [W, M]
    centre: Tensor  # [W]

    def __init__(
        self, values: Tensor, state: Tensor, *, bits: int, codes: int, count: int, heads: int, seed: int
    ) -> None:
        """Fitted to values [n, W] after a `state` [n, M+Q]: a transform of `bits`, a book of `codes`, or silent.

        `count`: M, what is kept of codes; the rest of a state tells of the token's place and stays as it is.
        `heads`: of the network, each of which reads what is rebuilt in its own way; 0: all take it as it is.
        """
        super().__init__()
        width, self.transforms = values.shape[1], codes == 0
        self.readout = Readout(width, heads) if heads else None
        self.count = count
        for name, shape in (
            ("prediction", (state.shape[1], width)),
            ("ahead", (width,)),
            ("basis", (width, self.count)),
            ("centre", (width,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self._predict(values, state)
        left = values - self._ahead(state)
        self.inner: TransformCodes | VectorCodes | None = None  # a silent block
        if bits:
            self.inner = TransformCodes(left, bits=bits, components=0)
        elif codes:
            self.inner = VectorCodes(left, groups=1, codes=codes, stages=1, rotated=False, seed=seed)

    def forward(self, values: Tensor, state: Tensor, heard: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is rebuilt from values [n, W], before the readout, and the state [n, M+Q] that it leaves.

        `heard` bool [n]: of which values the codes arrive; None: of all.
        """
        ahead = self._ahead(state)
        if self.inner is None:
            return ahead, state
        said = self.inner(values - ahead)
        if heard is not None:
            silence = self.inner.mean if isinstance(self.inner, TransformCodes) else torch.zeros_like(self.ahead)
            said = torch.where(heard[:, None], said, silence)
        following = (ahead + said - self.centre) @ self.basis
        return following @ self.basis.T + self.centre, torch.cat([following, state[:, self.count :]], dim=1)

    @torch.no_grad()
    def refit(self, values: Tensor, state: Tensor) -> Tensor:
        """Fit again on values [n, W] and the state [n, M+Q] that the block before leaves; returns that of this one.

        A codebook stays as it is, apart from what prediction and summary make of it.
        """
        device = self.centre.device
        values = values.to(device)
        self._predict(values, state)
        ahead = self._ahead(state)
        if self.inner is None:
            return state
        if isinstance(self.inner, TransformCodes):
            self.inner.refit(values - ahead)
        rebuilt = ahead + self.inner(values - ahead)
        basis, centre = summarise(rebuilt.cpu().numpy(), self.count)
        self.basis.copy_(torch.from_numpy(basis))
        self.centre.copy_(torch.from_numpy(centre))
        following: Tensor = self(values, state)[1]
        return following

    @torch.no_grad()
    def follow(self, values: Tensor, state: Tensor, *, decay: float, revive: float, source: torch.Generator) -> None:
        """One step of a codebook's moving averages on values [n, W]; a transform has none."""
        if isinstance(self.inner, VectorCodes):
            self.inner.follow(values - self._ahead(state), decay=decay, revive=revive, source=source)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint of codecs holds."""
        own = {name: getattr(self, name).detach() for name in ("prediction", "ahead", "basis", "centre")}
        read = {} if self.readout is None else self.readout.tensors()
        return {**own, **read, **({} if self.inner is None else self.inner.tensors())}

    def _ahead(self, state: Tensor) -> Tensor:
        """What the state foretells, [n, W]."""
        return state @ self.prediction + self.ahead

    def _predict(self, values: Tensor, state: Tensor) -> None:
        prediction, ahead = predict(values.cpu().numpy(), state.cpu().numpy())
        self.prediction.copy_(torch.from_numpy(prediction))
        self.ahead.copy_(torch.from_numpy(ahead))
