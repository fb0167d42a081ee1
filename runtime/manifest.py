"""manifest.json -> ModelPlan. The bytes are hostile until this module has checked them.

Format 1 is closed: an unknown key, a missing key, a number out of bounds or a stage that does not fit the geometry is
refused with one line that names the place. What a stage must look like follows from the geometry (`runtime.layout`).
"""

import hashlib
import re

from runtime import layout
from runtime.codec_entry import parse_codec
from runtime.errors import PlanError
from runtime.fields import Table, integer, load_json, name, refuse, text
from runtime.plan import (
    FORMAT,
    CodecSpec,
    DType,
    FileSpec,
    Geometry,
    ImageSpec,
    Interpolation,
    ModelPlan,
    Provenance,
    StageSpec,
    TensorSpec,
)

MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 36
UNLISTED = frozenset({"manifest.json", "MODEL_CARD.md"})  # the only files of a folder that the manifest does not list
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LETTER = re.compile(r"[A-Za-z0-9+*_-]{1,24}")  # a varying dimension: "B", "T", "1+T"
_TOP = frozenset(
    "format name task labels provenance image geometry stages codecs default_codec files".split()  # noqa: SIM905
)


def parse_manifest(data: bytes) -> ModelPlan:
    """Check a manifest's bytes wholly and return the plan they describe. Raises PlanError and nothing else."""
    if len(data) > MAX_MANIFEST_BYTES:
        refuse("size", f"more than {MAX_MANIFEST_BYTES} bytes")
    content = load_json(data)
    found = content.get("format") if type(content) is dict else FORMAT
    if type(found) is int and found != FORMAT:  # what is no number at all is refused below, with all other keys
        raise PlanError(
            f"manifest.json has format {found}, this tokenring reads format {FORMAT}",
            "install the tokenring that wrote it, or export the model again",
        )
    top = Table(content, "top level", _TOP)
    top.integer("format", FORMAT, FORMAT)
    geometry = _geometry(top.raw("geometry"))
    image = _image(top.raw("image"), geometry)
    labels = tuple(text(item, where, 256) for where, item in top.items("labels", 1, 100_000))
    stages = tuple(_stage(item, where) for where, item in top.items("stages", 1, 3 * geometry.blocks + 3))
    codecs = tuple(parse_codec(item, where, geometry) for where, item in top.items("codecs", 1, 64))
    files = _files(top.raw("files"))
    layout.check_stages(stages, geometry, len(labels), project=any(c.yields.value == "input" for c in codecs))
    _check_files(stages, codecs, files)
    default_codec = top.name("default_codec")
    if len({c.name for c in codecs}) != len(codecs):
        refuse("codecs", "two codecs have the same name")
    if default_codec not in {c.name for c in codecs}:
        refuse("default_codec", f"there is no codec {default_codec!r}")
    return ModelPlan(
        model_id=hashlib.sha256(data).hexdigest(),
        name=top.name("name"),
        task=top.name("task"),
        labels=labels,
        provenance=_provenance(top.raw("provenance")),
        image=image,
        geometry=geometry,
        stages=stages,
        codecs=codecs,
        default_codec=default_codec,
        files=files,
    )


def _geometry(value: object) -> Geometry:
    table = Table(value, "geometry", frozenset({"tokens", "patch", "row_bytes", "width", "heads", "blocks"}))
    geometry = Geometry(
        tokens=table.integer("tokens", 1, 65_536),
        patch=table.integer("patch", 1, 1024),
        row_bytes=table.integer("row_bytes", 3, 3 << 20),
        width=table.integer("width", 1, 16_384),
        heads=table.integer("heads", 1, 1024),
        blocks=table.integer("blocks", 1, 256),
    )
    if geometry.row_bytes != 3 * geometry.patch**2:
        refuse("geometry.row_bytes", f"3 * patch * patch = {3 * geometry.patch**2} is expected")
    if geometry.width % geometry.heads:
        refuse("geometry.heads", f"{geometry.heads} heads do not divide the width {geometry.width}")
    return geometry


def _image(value: object, geometry: Geometry) -> ImageSpec:
    table = Table(value, "image", frozenset({"height", "width", "resize", "interpolation", "mean", "std"}))
    image = ImageSpec(
        height=table.integer("height", 1, 8192),
        width=table.integer("width", 1, 8192),
        resize=table.integer("resize", 1, 8192),
        interpolation=table.choice("interpolation", Interpolation),
        mean=_three(table, "mean", -1e3),
        std=_three(table, "std", 1e-6),
    )
    if image.height % geometry.patch or image.width % geometry.patch:
        refuse("image", f"{image.height}x{image.width} is no whole number of {geometry.patch}-pixel patches")
    if (image.height // geometry.patch) * (image.width // geometry.patch) != geometry.tokens:
        refuse("geometry.tokens", "(height / patch) * (width / patch) is expected")
    if image.resize < max(image.height, image.width):
        refuse("image.resize", "the shorter side must not be scaled below the crop")
    return image


def _three(table: Table, key: str, low: float) -> tuple[float, float, float]:
    values = table.items(key, 3, 3)
    channel = [Table({"value": item}, where, frozenset({"value"})).number("value", low, 1e3) for where, item in values]
    return channel[0], channel[1], channel[2]


def _provenance(value: object) -> Provenance:
    table = Table(value, "provenance", frozenset({"weights", "command", "source", "tools"}))
    return Provenance(
        weights=table.text("weights", 64),
        command=table.text("command", 4096),
        source=table.text("source", 4096),
        tools=table.text("tools", 4096),
    )


def _stage(value: object, where: str) -> StageSpec:
    table = Table(value, where, frozenset({"name", "file", "inputs", "outputs"}))
    return StageSpec(
        name=table.name("name"),
        file=table.name("file"),
        inputs=tuple(_tensor(item, at) for at, item in table.items("inputs", 1, 8)),
        outputs=tuple(_tensor(item, at) for at, item in table.items("outputs", 1, 8)),
    )


def _tensor(value: object, where: str) -> TensorSpec:
    table = Table(value, where, frozenset({"name", "dtype", "shape"}))
    shape = tuple(_dimension(item, at) for at, item in table.items("shape", 1, 4))
    return TensorSpec(name=table.name("name"), dtype=table.choice("dtype", DType), shape=shape)


def _dimension(value: object, where: str) -> int | str:
    if type(value) is str and _LETTER.fullmatch(value):
        return value
    return integer(value, where, 0, 1 << 31)


def _files(value: object) -> tuple[FileSpec, ...]:
    if type(value) is not dict or not 1 <= len(value) <= 8192:
        refuse("files", "an object of 1 to 8192 files is expected")
    files = []
    for key in value:
        where = f"files.{name(key, 'files')}"
        table = Table(value[key], where, frozenset({"sha256", "bytes"}))
        digest = table.text("sha256", 64)
        if _SHA256.fullmatch(digest) is None:
            refuse(where, "64 lower-case hexadecimal digits are expected as sha256")
        if key in UNLISTED:
            refuse(where, "this file cannot be listed")
        files.append(FileSpec(name=key, sha256=digest, size_bytes=table.integer("bytes", 0, MAX_FILE_BYTES)))
    return tuple(files)


def _check_files(stages: tuple[StageSpec, ...], codecs: tuple[CodecSpec, ...], files: tuple[FileSpec, ...]) -> None:
    """Every graph that may be loaded is listed with its digest: nothing unverified reaches onnxruntime."""
    listed = {file.name for file in files}
    wanted = [stage.file for stage in stages] + [
        f
        for codec in codecs
        for f in codec.encode + codec.decode + codec.attend + ((codec.start,) if codec.start else ())
    ]
    for file in wanted:
        if file not in listed:
            refuse("files", f"{file} is used but not listed")
