"""CIFAR archives (`CLASS/NNNNN.webp` in a gzip tar), decoded once into .npy files.

Owns the data a training or evaluation script sees; never writes next to the archives.
"""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# Channel statistics of the original, lossless training images (RGB in 0..1): the values the literature uses.
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

    Raises FileNotFoundError when neither the cache nor the archive is there, ValueError for an archive that is no
    data set or holds a broken picture, OSError when the cache cannot be written.
    """
    images_at, labels_at, classes_at = (cache / f"{name}-{split}-{part}" for part in ("x.npy", "y.npy", "classes.txt"))
    if not classes_at.exists():
        decoded = _decode(data / f"{name}-{split}.tar.gz")
        cache.mkdir(parents=True, exist_ok=True)
        np.save(images_at, decoded.images)
        np.save(labels_at, decoded.labels)
        fresh = classes_at.with_suffix(".new")
        fresh.write_text("\n".join(decoded.classes) + "\n")
        fresh.replace(classes_at)  # last: its presence says the cache is whole
    classes = tuple(classes_at.read_text().splitlines())
    return Split(images=np.load(images_at), labels=np.load(labels_at), classes=classes)


def _decode(archive: Path) -> Split:
    images: list[U8] = []
    names: list[str] = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    images.append(_picture(stream.read(), member.name))
                    names.append(member.name.split("/")[0])
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive.name} is damaged or no tar archive") from error
    if not images:
        raise ValueError(f"{archive.name} holds no pictures")
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"{archive.name} holds pictures of several sizes")
    classes = tuple(sorted(set(names)))
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    return Split(images=np.stack(images), labels=labels, classes=classes)


def _picture(data: bytes, name: str) -> U8:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} in the archive is no readable picture") from error
