"""Who holds which tokens: contiguous ranges that cover all tokens, as even or uneven as the weights say."""

import math
from collections.abc import Sequence

from peer.protocol.types import TokenRange


def partition(tokens: int, weights: Sequence[float]) -> tuple[TokenRange, ...]:
    """Split `tokens` in proportion to `weights` (one positive number per board), every board at least one token.

    Largest remainders win the tokens that are left over, earlier boards first: deterministic. Raises ValueError when
    there are more boards than tokens or a weight is not positive.
    """
    boards = len(weights)
    if not 1 <= boards <= tokens:
        raise ValueError(f"{tokens} tokens cannot be split over {boards} boards")
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError("every board's share must be a positive number")
    largest = max(weights)  # the sum of very large weights would not be a number any more
    total = math.fsum(weight / largest for weight in weights)
    exact = [tokens * (weight / largest) / total for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(boards), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: max(0, tokens - sum(counts))]:
        counts[index] += 1
    while sum(counts) > tokens:  # tiny weights were lifted to one token: the largest shares pay for it
        counts[max(range(boards), key=lambda i: (counts[i], -i))] -= 1
    ranges, at = [], 0
    for count in counts:
        ranges.append(TokenRange(start=at, stop=at + count))
        at += count
    return tuple(ranges)
