"""Data sets: `NAME-train.tar.gz` with `NAME-test.tar.gz`, or a folder of pictures in one folder per class.

A picture folder has `train/CLASS/FILE` and `test/CLASS/FILE`, or only `CLASS/FILE`: then a tenth, drawn with a fixed
seed, is the test split. Pictures are cut to their middle square and resized.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tools.train.cifar import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD, Split, load_split

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".gif"}
CANONICAL = {"cifar10": (CIFAR10_MEAN, CIFAR10_STD), "cifar100": (CIFAR100_MEAN, CIFAR100_STD)}


class DataError(Exception):
    """No usable data set; the message is one line that names cause and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Both splits, the classes in the order of their numbers, and the training pixels' statistics in 0..1."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def side(self) -> int:
        """Pixels of a picture's side."""
        return int(self.train.images.shape[1])


def open_dataset(data: Path, *, name: str, cache: Path, side: int = 32) -> Dataset:
    """Read a data set; `name` tells archives apart, `side` is the size of a folder's pictures. Raises DataError."""
    if (data / f"{name}-train.tar.gz").is_file() or (cache / f"{name}-test-classes.txt").is_file():
        train, test = (_archive(data, cache, name, split) for split in ("train", "test"))
    elif data.is_dir():
        train, test = _folders(data, side)
    else:
        raise DataError(f"{data} is no folder: name one with {name}-train.tar.gz or with a folder per class")
    if len(train.classes) < 2:
        raise DataError(f"{data} has {len(train.classes)} class: at least two are needed to tell apart")
    if train.classes != test.classes:
        raise DataError(f"{data}: the test split has other classes than the training split")
    mean, std = CANONICAL.get(name) or _statistics(train)
    return Dataset(train=train, test=test, classes=train.classes, mean=mean, std=std)


def _archive(data: Path, cache: Path, name: str, split: str) -> Split:
    try:
        return load_split(data=data, cache=cache, name=name, split=split)
    except FileNotFoundError as error:
        raise DataError(f"{data} lacks {name}-{split}.tar.gz: both splits are needed") from error
    except ValueError as error:
        raise DataError(f"{name}-{split}.tar.gz cannot be used: {error}; fetch it again") from error
    except OSError as error:
        raise DataError(f"{cache} cannot keep the decoded pictures: {error.strerror}; free some space") from error


def _folders(data: Path, side: int) -> tuple[Split, Split]:
    if (data / "train").is_dir() and (data / "test").is_dir():
        return _folder(data / "train", side), _folder(data / "test", side)
    whole = _folder(data, side)
    order = np.random.default_rng(0).permutation(len(whole.labels))
    cut = max(1, len(order) // 10)
    return tuple(  # type: ignore[return-value]
        Split(images=whole.images[part], labels=whole.labels[part], classes=whole.classes)
        for part in (order[cut:], order[:cut])
    )


def _folder(data: Path, side: int) -> Split:
    found = [
        (path, folder.name)
        for folder in sorted(data.iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(f"{data} holds no data set: expected archives, or a folder of pictures per class")
    classes = tuple(sorted({label for _, label in found}))
    index = {label: number for number, label in enumerate(classes)}
    images = np.stack([_picture(path, side) for path, _ in found])
    labels = np.array([index[label] for _, label in found], dtype=np.int64)
    return Split(images=images, labels=labels, classes=classes)


def _picture(path: Path, side: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            size = min(image.size)
            left, top = (image.width - size) // 2, (image.height - size) // 2
            square = image.convert("RGB").crop((left, top, left + size, top + size))
            return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no readable picture: repair or remove it") from error


def _statistics(train: Split) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    pixels = train.images.reshape(-1, 3) / 255
    return _three(pixels.mean(axis=0)), _three(pixels.std(axis=0) + 1e-4)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
