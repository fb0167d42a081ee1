"""Pictures -> rows of pixels, the model's input: the only module that touches Pillow.

The bytes are hostile. Sizes are checked from the header before a pixel is decoded, only common formats are tried, and
whatever Pillow raises becomes one line. One picture is decoded at a time, which also bounds the memory it takes.
"""

import threading
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from runtime.arrays import U8
from runtime.errors import ImageError, one_line
from runtime.plan import Geometry, ImageSpec, Interpolation

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256 << 20
_RESAMPLE = {Interpolation.BICUBIC: Image.Resampling.BICUBIC, Interpolation.BILINEAR: Image.Resampling.BILINEAR}
_ORIENTATION_TAG = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCING_GAP = (
    3.0  # large pictures are averaged down to three times the target first: faster, and no visible difference
)
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_CONVERT = "convert it to JPEG or PNG"
_warning_filters = threading.Lock()  # Python's warning filters are one per process


def decode_rows(data: bytes, image: ImageSpec, geometry: Geometry) -> U8:
    """A picture file -> u8 [tokens, row_bytes]: one row per patch in raster order, its bytes (row, column, channel).

    The shorter side is scaled to `image.resize` and the centre is cut out. EXIF orientation is honoured, transparency
    becomes white, of animations the first frame counts. Raises ImageError.
    """
    if not data:
        raise ImageError("the picture file is empty", "check that it was copied completely")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"the picture file has {len(data)} bytes, more than {MAX_FILE_BYTES}", _CONVERT)
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and the like: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = _pixels(data, image)
    except ImageError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageError(f"this is no picture in a known format ({', '.join(FORMATS)})", _CONVERT) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _too_large() from exc
    except MemoryError as exc:
        raise ImageError("the picture does not fit into memory", "scale it down") from exc
    except Exception as exc:  # Pillow's decoders raise whatever a damaged file leads them to
        raise ImageError(f"the picture cannot be decoded ({one_line(exc, 120)})", "open it and save it again") from exc
    return _rows(pixels, geometry.patch)


def _pixels(data: bytes, image: ImageSpec) -> U8:
    """u8 [height, width, 3]."""
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise _too_large()
        if min(picture.size) < 1:
            raise ImageError("the picture has no pixels", "choose another picture")
        orientation = _orientation(picture)
        # JPEG can decode at 1/2, 1/4, 1/8 of its size; twice the target keeps what bicubic scaling can use.
        picture.draft(None, (2 * image.resize, 2 * image.resize))
        picture.load()
        size = (image.height, image.width) if orientation in _SIDEWAYS else (image.width, image.height)
        crop = _crop(picture.size, size, image.resize)
        resample = _RESAMPLE[image.interpolation]
        scaled = _scalable(picture).resize(size, resample, box=crop, reducing_gap=_REDUCING_GAP)
    if orientation in _TURNS:  # after scaling: the centre stays the centre, and there is less to turn
        scaled = scaled.transpose(_TURNS[orientation])
    return np.asarray(_opaque(scaled), dtype=np.uint8)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged metadata of a sound picture; Pillow raises what it meets
        return 1


def _crop(size: tuple[int, int], target: tuple[int, int], resize: int) -> tuple[float, float, float, float]:
    """The part of a picture of `size` that becomes `target` when the shorter side is scaled to `resize`."""
    scale = min(size) / resize
    width, height = target[0] * scale, target[1] * scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    # Rounding must not push the box outside by an ulp.
    return max(0.0, left), max(0.0, top), min(float(size[0]), left + width), min(float(size[1]), top + height)


def _scalable(picture: Image.Image) -> Image.Image:
    """The first frame in a mode that can be scaled; usual modes are not copied, as large pictures fill small boards."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture)
    if "transparency" in picture.info or picture.mode in ("P", "PA", "LA", "La", "RGBa"):
        return picture.convert("RGBA")
    return picture if picture.mode in ("RGB", "RGBA", "L", "CMYK") else picture.convert("RGB")


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """16-bit grey keeps its upper 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    if picture.mode == "F":
        raise ImageError("the picture has floating-point pixels", _CONVERT)
    grey = np.clip(np.asarray(picture), 0, 65_535) >> 8
    return Image.fromarray(grey.astype(np.uint8))


def _opaque(picture: Image.Image) -> Image.Image:
    """Any scaled picture as RGB, on white where it is transparent."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _rows(pixels: U8, patch: int) -> U8:
    """u8 [H, W, 3] -> [tokens, 3 patch²]."""
    height, width, _ = pixels.shape
    grid = pixels.reshape(height // patch, patch, width // patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid).reshape(-1, 3 * patch * patch)


def _too_large() -> ImageError:
    return ImageError(f"the picture has more than {MAX_PIXELS // 1_000_000} million pixels", "scale it down")
