"""Picture files -> patch rows: a folder or a tar archive of pictures; for calibration also an .npy array.

Pictures go through the runtime's own decoder: codecs are fitted on, and accuracy is measured with, what `peerctl infer`
computes on.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from runtime.errors import ImageError, one_line
from runtime.images import decode_rows
from runtime.plan import Geometry, ImageSpec, Interpolation
from tools.export.failure import BadInput
from tools.export.manifest import ImageRule
from tools.export.weights import VitShape
from tools.train.patches import patch_rows

U8 = npt.NDArray[np.uint8]
T = TypeVar("T")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_REMEDY = "give a folder or a tar archive of pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Turns a picture file's bytes into patch rows, as a model's manifest says."""

    spec: ImageSpec
    geometry: Geometry

    @classmethod
    def of(cls, shape: VitShape, image: ImageRule) -> "Decoder":
        """For a network that is not exported yet."""
        spec = ImageSpec(
            height=shape.image,
            width=shape.image,
            resize=image.resize,
            interpolation=Interpolation(image.interpolation),
            mean=image.mean,
            std=image.std,
        )
        geometry = Geometry(
            tokens=shape.tokens,
            patch=shape.patch,
            row_bytes=shape.row_bytes,
            width=shape.width,
            heads=shape.heads,
            blocks=shape.blocks,
        )
        return cls(spec=spec, geometry=geometry)

    def rows(self, name: str, data: bytes) -> U8:
        """u8 [tokens, row_bytes]. Raises BadInput that names the picture."""
        try:
            return decode_rows(data, self.spec, self.geometry)
        except ImageError as exc:
            raise BadInput(f"picture {name}: {exc.cause}", "remove it, or replace it") from exc


def picture_files(source: Path, *, count: int = 0, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Paths inside `source` (sorted) and contents of its pictures; with `count` at most so many, drawn by the seed.

    Raises BadInput when there is none, or the archive is damaged.
    """
    rng = np.random.default_rng(seed)
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        for path in _drawn(_some(paths, source), count, rng):
            yield path.relative_to(source).as_posix(), path.read_bytes()
    elif source.is_file():
        yield from _from_tar(source, count, rng)
    else:
        raise BadInput(f"{source} holds no pictures", _REMEDY)


def calibration_rows(source: Path, shape: VitShape, image: ImageRule, *, count: int, seed: int) -> U8:
    """At most `count` pictures, drawn by `seed` -> u8 [n, tokens, row_bytes]. Raises BadInput."""
    if source.suffix == ".npy":
        return _from_array(source, shape, count, np.random.default_rng(seed))
    decoder = Decoder.of(shape, image)
    return np.stack([decoder.rows(name, data) for name, data in picture_files(source, count=count, seed=seed)])


def _from_array(source: Path, shape: VitShape, count: int, rng: np.random.Generator) -> U8:
    try:
        images = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as exc:
        raise BadInput(f"{source} is no readable array ({one_line(exc, 80)})", _REMEDY) from exc
    side = shape.image
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3) or not len(images):
        have = f"{images.dtype.name} {'x'.join(map(str, images.shape))}"
        raise BadInput(f"{source} holds {have}, not u8 pictures n x {side} x {side} x 3", _REMEDY)
    picked = np.sort(rng.permutation(len(images))[:count])
    return patch_rows(np.asarray(images[picked]), shape.patch)


def _from_tar(source: Path, count: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(source) as tar:
            members = [item for item in tar if item.isfile() and Path(item.name).suffix.lower() in SUFFIXES]
            for member in _drawn(_some(members, source), count, rng):
                stream = tar.extractfile(member)
                yield member.name, stream.read() if stream is not None else b""
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        raise BadInput(f"{source} is no sound tar archive ({one_line(exc, 80)})", _REMEDY) from exc


def _some(items: list[T], source: Path) -> list[T]:
    if not items:
        raise BadInput(f"{source} holds no pictures", _REMEDY)
    return items


def _drawn(items: list[T], count: int, rng: np.random.Generator) -> list[T]:
    """`count` of the items (0: all) in their own order, which is also the fast one to read."""
    return [items[place] for place in np.sort(rng.permutation(len(items))[: count or None])]
