"""Patch rows as the runtime cuts them, and augmentation."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


import io
import tarfile
from pathlib import Path

import numpy as np
import torch

from runtime.images import decode_rows
from runtime.plan import Geometry, ImageSpec, Interpolation
from tools.train.augmentation import generator, moved
from tools.train.cifar import load_split
from tools.train.dataset import DataError, Dataset, open_dataset
from tools.train.patches import patch_rows
from tools.train.pictures import Pictures
from tools.train.recipe import Recipe

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


def test_moved_pictures_are_shifted_or_mirrored_windows() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None], (64, 32, 32, 3))
    source = generator(1, 2, torch.device("cpu"))
    seen = moved(torch.from_numpy(ramp.copy()), Recipe(), source).numpy()
    assert seen.shape == ramp.shape
    steps = np.diff(seen[:, 0, 8:24, 0].astype(np.int16), axis=1)  # away from mirrored borders
    assert set(np.unique(steps)) == {-1, 1}
    assert len(np.unique(seen[:, 0, 16, 0])) > 4


def archive(path: Path, files: dict[str, bytes]) -> None:
    """A gzip tar of `files`."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def picture(shade: int) -> bytes:
    """A grey picture."""
    return ppm(np.full((32, 32, 3), shade, dtype=np.uint8))


GOOD = {f"{name}/{number}.ppm": picture(number) for name in ("cat", "dog house") for number in range(30)}


def test_archives_are_decoded_once(tmp_path: Path) -> None:
    archive(tmp_path / "own-train.tar.gz", GOOD)
    first = load_split(data=tmp_path, cache=tmp_path / "cache", name="own", split="train")
    (tmp_path / "own-train.tar.gz").unlink()
    again = load_split(data=tmp_path, cache=tmp_path / "cache", name="own", split="train")
    assert again.classes == first.classes == ("cat", "dog house")
    np.testing.assert_array_equal(again.images, first.images)
    assert first.images[:, 0, 0, 0].tolist() == [*range(30), *range(30)]
    assert first.labels.tolist() == [0] * 30 + [1] * 30


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ({**GOOD, "cat/31.ppm": b"P6 32 32 255\n..."}, r"cat/31\.ppm in the archive is no readable picture"),
        ({name: data for name, data in GOOD.items() if name.startswith("cat")}, "has 1 class"),
        ({}, "holds no pictures"),
        (None, r"lacks own-test\.tar\.gz"),
    ],
)
def test_archives_that_are_no_data_set_are_refused(tmp_path: Path, train: dict[str, bytes] | None, reason: str) -> None:
    archive(tmp_path / "own-train.tar.gz", GOOD if train is None else train)
    if train is not None:
        archive(tmp_path / "own-test.tar.gz", train or GOOD)
    with pytest.raises(DataError, match=reason):
        open_dataset(tmp_path, name="own", cache=tmp_path / "cache")


def test_a_damaged_archive_is_refused_and_leaves_no_cache(tmp_path: Path) -> None:
    archive(tmp_path / "own-train.tar.gz", GOOD)
    whole = (tmp_path / "own-train.tar.gz").read_bytes()
    (tmp_path / "own-train.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        open_dataset(tmp_path, name="own", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """60 pictures of two classes, sorted by class; the test split is the same."""
    for split in ("train", "test"):
        archive(tmp_path / f"own-{split}.tar.gz", GOOD)
    data: Dataset = open_dataset(tmp_path, name="own", cache=tmp_path / "cache")
    return Pictures(data, holdout=1000, seed=1, device=torch.device("cpu"))


def test_batches_cover_an_epoch_once_and_every_epoch_differs(pictures: Pictures) -> None:
    assert pictures.batches(5) == 10
    epochs = [torch.cat([pictures.batch(10 * epoch + step, 5) for step in range(10)]).tolist() for epoch in (0, 1)]
    assert len(set(epochs[0])) == len(set(epochs[1])) == 50
    assert epochs[0] != epochs[1]
    assert pictures.batch(3, 5).tolist() == epochs[0][15:20]


def test_pictures_set_aside_come_from_all_classes_and_are_not_trained_on(pictures: Pictures) -> None:
    images, labels = pictures.held
    assert len(labels) == 6  # at most a tenth
    assert set(labels.tolist()) == {0, 1}
    both = torch.cat([images, pictures.images])[:, 0, 0, 0] + 100 * torch.cat([labels, pictures.labels])
    assert len(set(both.tolist())) == 60


def test_accuracy_is_the_share_of_right_answers(pictures: Pictures) -> None:
    right = pictures.accuracy(lambda images: torch.tensor([[0.0, 1.0]]).expand(len(images), 2), *pictures.test)
    assert right == 0.5
