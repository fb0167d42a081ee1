"""Patch rows as the runtime cuts them, and augmentation."""

import numpy as np
import pytest

from runtime.images import decode_rows
from runtime.plan import Geometry, ImageSpec, Interpolation
from tools.train.cifar import augment, batches
from tools.train.patches import patch_rows

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def ppm(image: np.ndarray) -> bytes:
    """A lossless picture file."""
    return b"P6 32 32 255\n" + image.tobytes()


def test_patch_rows_are_raster_order_row_column_channel() -> None:
    rows = patch_rows(IMAGES, 4)
    assert rows.shape == (2, 64, 48)
    np.testing.assert_array_equal(rows[1, 9].reshape(4, 4, 3), IMAGES[1, 4:8, 4:8])


@pytest.mark.parametrize("patch", [4, 8])
def test_training_and_runtime_cut_pictures_alike(patch: int) -> None:
    side = 32 // patch
    geometry = Geometry(tokens=side * side, patch=patch, row_bytes=3 * patch * patch, width=8, heads=1, blocks=1)
    spec = ImageSpec(
        height=32,
        width=32,
        resize=32,
        interpolation=Interpolation.BICUBIC,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    np.testing.assert_array_equal(decode_rows(ppm(IMAGES[0]), spec, geometry), patch_rows(IMAGES, patch)[0])


def test_augmented_pictures_are_shifted_or_mirrored_windows() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None], (64, 32, 32, 3))
    seen = augment(np.ascontiguousarray(ramp), np.random.default_rng(2))
    assert seen.shape == ramp.shape
    steps = np.diff(seen[:, 0, 8:24, 0].astype(np.int16), axis=1)  # away from reflected borders
    assert set(np.unique(steps)) == {-1, 1}
    assert len(np.unique(seen[:, 0, 16, 0])) > 4


def test_batches_cover_an_epoch_once() -> None:
    picked = np.concatenate(list(batches(23, 5, np.random.default_rng(0))))
    assert len(picked) == 20
    assert len(set(picked.tolist())) == 20
