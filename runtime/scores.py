"""From logits to labels: softmax and the likeliest few."""

from dataclasses import dataclass

import numpy as np

from runtime.arrays import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One label's probability; `index` is its place among the model's labels."""

    index: int
    probability: float


def unpack(logits: bytes, batch: int) -> F32:
    """float32 bytes in C order -> logits f32 [batch, C]."""
    return np.frombuffer(logits, dtype=np.float32).reshape(batch, -1)


def likeliest(logits: F32, top: int) -> tuple[Score, ...]:
    """The `top` likeliest labels of one picture, logits f32 [C], best first; equal ones in order of index."""
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Score(index=int(i), probability=float(probabilities[i])) for i in order)
