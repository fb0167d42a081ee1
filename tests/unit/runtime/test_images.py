"""Pictures of every common kind become the same rows; hostile ones become one line."""

import struct
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.arrays import U8
from runtime.errors import ImageError
from runtime.images import decode_rows
from runtime.plan import Geometry, ImageSpec, Interpolation

GEOMETRY = Geometry(tokens=16, patch=4, row_bytes=48, width=32, heads=2, blocks=3)


def spec(resize: int = 16, interpolation: Interpolation = Interpolation.BICUBIC) -> ImageSpec:
    half = (0.5, 0.5, 0.5)
    return ImageSpec(height=16, width=16, resize=resize, interpolation=interpolation, mean=half, std=half)


def rows(data: bytes, resize: int = 16) -> U8:
    found = decode_rows(data, spec(resize), GEOMETRY)
    assert found.shape == (16, 48)
    assert found.dtype == np.uint8
    return found


def pixels(found: U8) -> U8:
    """Rows back to u8 [16, 16, 3]."""
    return found.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 3)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 16, width: int = 16, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> U8:
    """Red grows to the right, green downwards: orientation and centre can be told."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x // (width - 1), 255 * y // (height - 1), np.full_like(x, 90)], axis=2).astype(np.uint8)


def refusal(data: bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            decode_rows(data, spec(), GEOMETRY)
    text = str(caught.value)
    assert "\n" not in text
    assert ": " in text  # cause: remedy
    return text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_picture_of_the_models_size_passes_unchanged_patch_by_patch(kind: str) -> None:
    picture = noise()
    found = rows(saved(Image.fromarray(picture), kind))
    np.testing.assert_array_equal(pixels(found), picture)
    np.testing.assert_array_equal(found[6].reshape(4, 4, 3), picture[4:8, 8:12])  # token 6: second row, third column


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})])
def test_lossy_formats_come_close(kind: str, options: dict[str, int]) -> None:
    picture = smooth(64, 64)
    expected = pixels(rows(saved(Image.fromarray(picture), "PNG"))).astype(int)
    found = pixels(rows(saved(Image.fromarray(picture), kind, **options))).astype(int)
    assert np.abs(found - expected).mean() < 6


def test_the_shorter_side_is_scaled_and_the_centre_cut_out() -> None:
    wide = smooth(64, 256)
    found = pixels(rows(saved(Image.fromarray(wide), "PNG"))).astype(int)
    square = Image.fromarray(wide[:, 96:160]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(found - np.asarray(square).astype(int))[1:-1, 1:-1].max() <= 2
    cut = pixels(rows(saved(Image.fromarray(smooth(64, 64)), "PNG"), resize=32)).astype(int)
    assert 55 < cut[..., 0].min() < 75  # the middle half only
    assert 180 < cut[..., 0].max() < 200


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_honoured(kind: str, orientation: int) -> None:
    upright = Image.fromarray(smooth(48, 64))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(rows(saved(stored, kind, exif=exif))).astype(int)
    expected = pixels(rows(saved(upright, "PNG"))).astype(int)
    assert np.abs(found - expected).mean() < 4


def test_grey_palette_cmyk_and_one_bit_pictures_are_read() -> None:
    picture = Image.fromarray(smooth(32, 32))
    expected = pixels(rows(saved(picture, "PNG"))).astype(int)
    palette = pixels(rows(saved(picture.quantize(256), "PNG"))).astype(int)
    assert np.abs(palette - expected).mean() < 8
    cmyk = pixels(rows(saved(picture.convert("CMYK"), "JPEG", quality=95))).astype(int)
    assert np.abs(cmyk - expected).mean() < 8
    grey = pixels(rows(saved(picture.convert("L"), "PNG")))
    assert (grey[..., 0] == grey[..., 2]).all()
    bits = pixels(rows(saved(Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)).convert("1"), "PNG")))
    assert (bits == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_upper_bits(kind: str) -> None:
    values = (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + 7
    found = pixels(rows(saved(Image.fromarray(values), kind)))
    assert np.abs(found[..., 1].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_transparency_becomes_white() -> None:
    clear = np.zeros((16, 16, 4), dtype=np.uint8)
    assert (rows(saved(Image.fromarray(clear), "PNG")) == 255).all()
    half = clear.copy()
    half[..., 3] = 128
    assert np.abs(rows(saved(Image.fromarray(half), "PNG")).astype(int) - 127).max() <= 1
    assert (rows(saved(Image.new("LA", (20, 20), (0, 0)), "PNG")) == 255).all()
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (rows(saved(palette, "PNG", transparency=0)) == 255).all()
    assert (rows(saved(palette, "PNG", transparency=b"\x00" * 256)) == 255).all()
    assert (rows(saved(Image.new("RGB", (16, 16), (9, 9, 9)), "PNG", transparency=(9, 9, 9))) == 255).all()


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "WEBP", "TIFF"):
        found = rows(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert found.reshape(-1, 3).mean(axis=0)[0] > 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_pictures_are_reduced_first_and_come_out_the_same(kind: str) -> None:
    picture = smooth(900, 1600)
    found = pixels(rows(saved(Image.fromarray(picture), kind))).astype(int)
    centre = Image.fromarray(picture[:, 350:1250]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(found - np.asarray(centre).astype(int)).mean() < 2


def test_damaged_metadata_does_not_spoil_a_sound_picture() -> None:
    picture = noise()
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + bytes(range(64))):
        np.testing.assert_array_equal(pixels(rows(saved(Image.fromarray(picture), "PNG", exif=exif))), picture)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"), [(50_000, 50_000), (10_000, 10_000), (8_001, 8_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header_alone(width: int, height: int) -> None:
    data = png_header(width, height)
    tracemalloc.start()
    start = time.perf_counter()
    assert "million pixels" in refusal(data)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_bomb_among_the_other_formats_is_refused_too() -> None:
    ppm = b"P6 60000 60000 255\n" + bytes(1000)
    gif = bytearray(saved(Image.new("P", (2, 2)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    bmp = bytearray(saved(Image.new("RGB", (2, 2)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    for data in (ppm, bytes(gif), bytes(bmp)):
        assert "million pixels" in refusal(data)


def test_what_is_no_picture_is_refused_in_one_line() -> None:
    jpeg = saved(Image.fromarray(noise(64, 64)), "JPEG")
    assert "empty" in refusal(b"")
    assert "known format" in refusal(b"This is a text that somebody named holiday.jpg\n" * 20)
    assert "known format" in refusal(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    assert "known format" in refusal(saved(Image.fromarray(noise()), "ICO"))  # readable, but not on the list
    assert "truncated" in refusal(jpeg[: len(jpeg) // 2])
    assert refusal(jpeg[:3])
    assert refusal(saved(Image.fromarray(noise(64, 64)), "PNG")[:200])
    assert refusal(png_header(100, 100))
    assert "floating-point" in refusal(saved(Image.fromarray(np.zeros((16, 16), dtype=np.float32)), "TIFF"))


def test_extremely_long_pictures_are_cut_without_being_blown_up() -> None:
    for size in ((20_000, 1), (1, 20_000), (1, 1)):
        assert (rows(saved(Image.new("RGB", size, (7, 8, 9)), "PNG")).reshape(-1, 3) == (7, 8, 9)).all()


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.1, 1),
)
def test_damaged_files_decode_or_are_refused(kind: str, damage: list[tuple[float, int]], kept: float) -> None:
    data = bytearray(saved(Image.fromarray(noise(24, 24)), kind))
    for place, byte in damage:
        data[int(place * (len(data) - 1))] = byte
    try:
        rows(bytes(data[: int(kept * len(data))]))
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some damage goes unnoticed


def test_threads_may_decode_at_once_and_leave_the_warning_filters_alone() -> None:
    data = saved(Image.fromarray(noise(200, 200)), "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(rows, [data] * 16))
    assert all((other == found[0]).all() for other in found)
    assert list(warnings.filters) == before
