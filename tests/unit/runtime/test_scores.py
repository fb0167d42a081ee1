"""From logits to labels."""

import numpy as np
import pytest

from runtime.scores import likeliest, unpack


def test_the_likeliest_labels_come_first_and_equal_ones_by_index() -> None:
    logits = np.array([1.0, 3.0, 3.0, -1.0], dtype=np.float32)
    best = likeliest(logits, 3)
    assert [score.index for score in best] == [1, 2, 0]
    assert best[0].probability == best[1].probability
    everything = likeliest(logits, 10)
    assert len(everything) == 4
    assert sum(score.probability for score in everything) == pytest.approx(1.0)


def test_huge_logits_neither_overflow_nor_warn() -> None:
    best = likeliest(np.array([1e30, -1e30, 0.0], dtype=np.float32), 1)
    assert (best[0].index, best[0].probability) == (0, 1.0)


def test_logits_come_back_from_their_bytes() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 5), dtype=np.float32)
    np.testing.assert_array_equal(unpack(logits.tobytes(), 3), logits)
