"""What a token's place alone says of its keys and values, as a few numbers per place that every board knows.

A good part of the variance of keys and values is the place in the picture: position embeddings, and what blocks make of
them. Both sides know it, so no bit should be spent on it. Codes that predict start from it, and keep it in sight.
"""

import torch
from torch import Tensor

FEATURES = 16


def place_features(samples: list[dict[str, Tensor]], tokens: int) -> Tensor:
    """[tokens, Q] of unit mean square: the leading left singular vectors of the mean K|V of every place, all blocks."""
    place = samples[0]["place"]
    counts = torch.bincount(place, minlength=tokens).clamp_min(1)[:, None]
    means = []
    for block in samples:
        total = torch.zeros(tokens, block["kv"].shape[1]).index_add_(0, place, block["kv"])
        means.append(total / counts - total.sum(dim=0) / len(place))
    left, _, _ = torch.linalg.svd(torch.cat(means, dim=1), full_matrices=False)
    return left[:, : min(FEATURES, tokens - 1)] * tokens**0.5
