"""K-means in numpy: seeded, chunked, empty clusters restarted on random points."""

import numpy as np
import numpy.typing as npt

from tools.export.weights import F32

CHUNK = 8192  # rows whose scores against all centres are held at once


def k_means(points: F32, codes: int, *, rng: np.random.Generator, iterations: int = 8) -> F32:
    """points [n, w] -> centres [codes, w]; with fewer points than codes the rest are disturbed copies."""
    if len(points) < codes:
        picked = rng.integers(0, len(points), size=codes)
        noise = rng.standard_normal((codes, points.shape[1]), dtype=np.float32) * np.float32(0.01 * points.std() + 1e-6)
        return (points[picked] + noise).astype(np.float32)
    centres: F32 = points[rng.choice(len(points), size=codes, replace=False)].astype(np.float32)
    for _ in range(iterations):
        owner = nearest(points, centres)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=codes)
        filled = counts > 0
        starts = (np.cumsum(counts) - counts)[filled]
        centres[filled] = np.add.reduceat(points[order], starts, axis=0) / counts[filled, None]
        missing = int((~filled).sum())
        if missing:
            centres[~filled] = points[rng.choice(len(points), size=missing, replace=False)]
    return centres


def nearest(points: F32, centres: F32) -> npt.NDArray[np.int64]:
    """Index of the nearest centre in L2 for each point: the largest x·c - |c|²/2."""
    half = 0.5 * np.square(centres).sum(axis=1)
    return np.concatenate(
        [(points[start : start + CHUNK] @ centres.T - half).argmax(axis=1) for start in range(0, len(points), CHUNK)]
    )
