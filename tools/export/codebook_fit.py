"""Codebooks without training: k-means on calibration vectors, per group and stage, after a rotation where asked for."""

import numpy as np

from tools.export.codebook import Codebook, Rotation
from tools.export.kmeans import k_means, nearest
from tools.export.weights import F32


def fit_codebook(
    values: F32, *, groups: int, codes: int, seed: int, stages: int = 1, rotated: bool = False
) -> Codebook:
    """K-means on values [n, W]; raises ValueError when G does not divide W."""
    if values.shape[1] % groups:
        raise ValueError(f"{groups} groups do not divide a width of {values.shape[1]}")
    rng = np.random.default_rng(seed)
    rotation = balanced_rotation(values, groups) if rotated else None
    left = values if rotation is None else (values - rotation.mean) @ rotation.basis
    found = []
    for _ in range(stages):
        parts = [np.ascontiguousarray(part) for part in np.split(left, groups, axis=1)]
        # As f16, which is what lies in the file: later stages fit what these rounded codes leave over.
        books = [k_means(part, codes, rng=rng).astype(np.float16) for part in parts]
        found.append(np.stack(books))
        wide = [book.astype(np.float32) for book in books]
        rebuilt = [book[nearest(part, book)] for part, book in zip(parts, wide, strict=True)]
        left = left - np.concatenate(rebuilt, axis=1)
    return Codebook(codes=np.stack(found), rotation=rotation)


def balanced_rotation(values: F32, groups: int) -> Rotation:
    """Principal components, dealt out so that every group holds the same product of variances.

    Eigenvalue allocation of optimised product quantisation (Ge et al., CVPR 2013, sec. 3.2.2), which is the optimum for
    a normal distribution: each component in order of falling variance goes to the group whose product is smallest.
    """
    mean = values.mean(axis=0)
    centred = values - mean
    spectrum, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(values))
    room, weights = values.shape[1] // groups, np.zeros(groups)
    held: list[list[int]] = [[] for _ in range(groups)]
    for component in np.argsort(spectrum)[::-1]:
        group = min((g for g in range(groups) if len(held[g]) < room), key=lambda g: weights[g])
        held[group].append(int(component))
        weights[group] += np.log(max(float(spectrum[component]), 1e-12))
    order = [component for group in held for component in group]
    return Rotation(mean=mean.astype(np.float32), basis=np.ascontiguousarray(vectors[:, order], dtype=np.float32))
