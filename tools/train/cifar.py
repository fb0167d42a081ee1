"""CIFAR archives (`CLASS/NNNNN.webp` in a gzip tar) decoded once into .npy files, and batched augmentation.

Owns the data a training or evaluation script sees; never writes next to the archives.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# Channel statistics of the original, lossless CIFAR-10 training images (RGB in 0..1): the values the literature uses.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of a data set, in the archive's order (sorted by class: shuffle before any cut)."""

    images: U8  # [n, 32, 32, 3], RGB
    labels: I64  # [n], index in `classes`
    classes: tuple[str, ...]


def load_split(*, data: Path, cache: Path, name: str, split: str) -> Split:
    """Read `NAME-SPLIT.tar.gz` of `data`; decoded arrays are kept in `cache` for the next call.

    Raises FileNotFoundError when neither the cache nor the archive is there.
    """
    images_at, labels_at, classes_at = (cache / f"{name}-{split}-{part}" for part in ("x.npy", "y.npy", "classes.txt"))
    if not classes_at.exists():
        decoded = _decode(data / f"{name}-{split}.tar.gz")
        cache.mkdir(parents=True, exist_ok=True)
        np.save(images_at, decoded.images)
        np.save(labels_at, decoded.labels)
        classes_at.write_text("\n".join(decoded.classes) + "\n")  # written last: its presence says the cache is whole
    classes = tuple(classes_at.read_text().split())
    return Split(images=np.load(images_at), labels=np.load(labels_at), classes=classes)


def _decode(archive: Path) -> Split:
    images: list[U8] = []
    names: list[str] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            images.append(np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"), dtype=np.uint8))
            names.append(member.name.split("/")[0])
    classes = tuple(sorted(set(names)))
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    return Split(images=np.stack(images), labels=labels, classes=classes)


def augment(images: U8, rng: np.random.Generator, *, pad: int = 4) -> U8:
    """Random crop after reflective padding and a random horizontal flip, all images of the batch at once."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    top = rng.integers(0, 2 * pad + 1, size=n)
    left = rng.integers(0, 2 * pad + 1, size=n)
    columns = np.arange(width)[None, :] + left[:, None]  # [n, W]
    flip = rng.random(n) < 0.5
    columns[flip] = columns[flip, ::-1]
    rows = np.arange(height)[None, :] + top[:, None]  # [n, H]
    cropped: U8 = padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[I64]:
    """Indices of one shuffled epoch in batches of `size`; the incomplete last batch is left out."""
    order = rng.permutation(count)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]
