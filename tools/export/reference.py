"""A numpy forward pass straight from the HF-named tensors: the independent check of the graphs, and the source of
activations on which codecs are calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.export.weights import F32, Activation, VitShape

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTrace:
    """What a board could send before a block; content and class tokens, class token first."""

    x: F32  # [n, 1+T, D] block input
    h: F32  # [n, 1+T, D] after LN1
    q: F32  # [n, 1+T, D] queries, scaled
    kv: F32  # [n, 1+T, 2D] keys, then values


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One forward pass."""

    blocks: tuple[BlockTrace, ...]
    logits: F32  # [n, C]


class Reference:
    """The undivided network in numpy."""

    def __init__(
        self,
        tensors: Mapping[str, F32],
        shape: VitShape,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.tensors, self.shape = tensors, shape
        self.mean, self.std = np.float32(mean), np.float32(std)

    def forward(self, rows: U8) -> Trace:
        """Patch rows u8 [n, T, row_bytes] -> trace."""
        shape, n = self.shape, len(rows)
        pixels = rows.reshape(n, shape.tokens, shape.patch, shape.patch, 3).astype(np.float32) / 255
        pixels = (pixels - self.mean) / self.std
        kernel = self.tensors["vit.embeddings.patch_embeddings.projection.weight"]
        content = np.einsum("ntrcx,dxrc->ntd", pixels, kernel, optimize=True)
        content += self.tensors["vit.embeddings.patch_embeddings.projection.bias"]
        cls = np.broadcast_to(self.tensors["vit.embeddings.cls_token"], (n, 1, shape.width))
        x: F32 = np.concatenate([cls, content], axis=1) + self.tensors["vit.embeddings.position_embeddings"]
        blocks = []
        for number in range(shape.blocks):
            trace, x = self._block(number, x)
            blocks.append(trace)
        cls_out = self._norm("vit.layernorm", x[:, 0])
        return Trace(blocks=tuple(blocks), logits=self._linear("classifier", cls_out))

    def _block(self, number: int, x: F32) -> tuple[BlockTrace, F32]:
        layer, shape = f"vit.encoder.layer.{number}", self.shape
        n, tokens, width = x.shape
        h = self._norm(f"{layer}.layernorm_before", x)
        q, k, v = (self._linear(f"{layer}.attention.attention.{part}", h) for part in ("query", "key", "value"))
        q = q * np.float32((width // shape.heads) ** -0.5)

        def heads(value: F32) -> F32:
            return value.reshape(n, tokens, shape.heads, -1).transpose(0, 2, 1, 3)

        scores = heads(q) @ heads(k).transpose(0, 1, 3, 2)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ heads(v)).transpose(0, 2, 1, 3).reshape(n, tokens, width)
        y = x + self._linear(f"{layer}.attention.output.dense", mixed)
        inner = activate(
            shape.activation, self._linear(f"{layer}.intermediate.dense", self._norm(f"{layer}.layernorm_after", y))
        )
        y = y + self._linear(f"{layer}.output.dense", inner)
        return BlockTrace(x=x, h=h, q=q, kv=np.concatenate([k, v], axis=-1)), y

    def _linear(self, name: str, value: F32) -> F32:
        result: F32 = value @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return result

    def _norm(self, name: str, value: F32) -> F32:
        centred = value - value.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: F32 = centred / np.sqrt(variance + np.float32(self.shape.eps))
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def activate(kind: Activation, value: F32) -> F32:
    """The MLP's non-linearity."""
    match kind:
        case Activation.GELU:
            return gelu(value)
        case Activation.GELU_TANH:
            inner = np.float32((2 / np.pi) ** 0.5) * (value + np.float32(0.044715) * value**3)
            return (np.float32(0.5) * value * (1 + np.tanh(inner))).astype(np.float32)
        case Activation.QUICK_GELU:
            return (value / (1 + np.exp(np.float32(-1.702) * value))).astype(np.float32)
        case Activation.RELU:
            return np.maximum(value, np.float32(0))


def gelu(value: F32) -> F32:
    """Exact GELU through the error function by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7)."""
    z = np.abs(value) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series: npt.NDArray[Any] = t * 0.254829592  # Any: numpy's arithmetic loses the element type
    for power, factor in enumerate((-0.284496736, 1.421413741, -1.453152027, 1.061405429), start=2):
        series = series + np.float32(factor) * t**power
    erf = np.sign(value) * (1 - series * np.exp(-z * z))
    result: F32 = (0.5 * value * (1 + erf)).astype(np.float32)
    return result
