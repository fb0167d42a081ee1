"""Whatever a manifest holds, the answer is a checked plan or one line that names the place."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import PlanError
from runtime.manifest import MAX_MANIFEST_BYTES, parse_manifest
from runtime.plan import CodecKind, ModelPlan

Document = dict[str, Any]  # Any: values of a JSON document
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def original(tiny_folder: Path) -> bytes:
    return (tiny_folder / "manifest.json").read_bytes()


@pytest.fixture
def document(original: bytes) -> Document:
    return json.loads(original)


def parse(document: object) -> ModelPlan:
    return parse_manifest(json.dumps(document).encode())


def refused(document: object) -> str:
    with pytest.raises(PlanError) as caught:
        parse(document)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


def test_a_plan_says_what_the_manifest_says(original: bytes, document: Document) -> None:
    plan = parse_manifest(original)
    assert plan.name == document["name"]
    assert list(plan.labels) == document["labels"]
    assert [stage.name for stage in plan.stages] == [stage["name"] for stage in document["stages"]]
    assert {file.name for file in plan.files} == set(document["files"])
    assert [codec.name for codec in plan.codecs] == [codec["name"] for codec in document["codecs"]]
    assert plan.stage("embed") is plan.stages[0]
    assert plan.stage("nothing") is None
    assert plan.codec("nothing") is None
    assert plan.size_bytes == sum(file["bytes"] for file in document["files"].values())
    assert parse_manifest(original + b"\n").model_id != plan.model_id


def test_payload_sizes_follow_from_the_codec_alone(original: bytes) -> None:
    plan = parse_manifest(original)
    width = 2 * plan.geometry.width
    sizes = {codec.name: codec.payload_bytes(0, 3, 2) for codec in plan.codecs}
    assert sizes["f32"] == 6 * 4 * width
    assert sizes["f16"] == 6 * 2 * width
    assert sizes["int8"] == 6 * (width + 2 * width // 64)
    assert sizes["int4"] == 6 * (width // 2 + 2 * width // 32)
    assert sizes["f32-input"] == 6 * 2 * width
    assert sizes["vq4x16"] == 6 * 4 * 4 // 8
    assert sizes["vq8x20"] == 6 * 8 * 5 // 8
    transform = next(codec for codec in plan.codecs if codec.kind is CodecKind.TRANSFORM)
    assert sizes[transform.name] == (6 * sum(transform.bits[0]) + 7) // 8


def change(*path: str | int, to: object) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return apply


def remove(*path: str | int) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return apply


REFUSALS = {
    "unknown format": (change("format", to=2), "format 2"),
    "format of another type": (change("format", to=True), "format"),
    "format that is no number": (change("format", to=[[[]]]), "format"),
    "unknown key": (change("extra", to=1), "extra"),
    "missing key": (remove("labels"), "labels"),
    "upper-case name": (change("name", to="Tiny"), "name"),
    "name with a separator": (change("name", to="../tiny"), "name"),
    "text of two lines": (change("provenance", "source", to="a\nb"), "source"),
    "lone surrogate": (change("labels", 0, to="\ud800"), "labels[0]"),
    "no labels": (change("labels", to=[]), "labels"),
    "label that is no text": (change("labels", 1, to=3), "labels[1]"),
    "true for a number": (change("geometry", "tokens", to=True), "tokens"),
    "float for a number": (change("geometry", "tokens", to=16.0), "tokens"),
    "tokens beyond the limit": (change("geometry", "tokens", to=65_537), "tokens"),
    "width beyond the limit": (change("geometry", "width", to=16_385), "width"),
    "blocks beyond the limit": (change("geometry", "blocks", to=257), "blocks"),
    "heads that do not divide": (change("geometry", "heads", to=3), "heads"),
    "row_bytes that do not follow": (change("geometry", "row_bytes", to=47), "row_bytes"),
    "more tokens than patches": (change("geometry", "tokens", to=17), "tokens"),
    "picture of broken patches": (change("image", "height", to=18), "image"),
    "resize below the crop": (change("image", "resize", to=15), "resize"),
    "unknown interpolation": (change("image", "interpolation", to="nearest"), "interpolation"),
    "infinite mean": (change("image", "mean", 0, to=1e400), "mean|Infinity"),
    "two means": (change("image", "mean", to=[0.5, 0.5]), "mean"),
    "zero deviation": (change("image", "std", 2, to=0), "std"),
    "missing stage": (remove("stages", 3), "query.1"),
    "stage out of order": (change("stages", 1, "name", to="query.1"), "query.0"),
    "missing undivided stage": (remove("stages", -1), "whole"),
    "missing projection": (remove("stages", -2), "project.2"),
    "unknown stage": (change("stages", -1, "name", to="other"), "other"),
    "wrong tensor name": (change("stages", 0, "inputs", 0, "name", to="row"), "rows"),
    "wrong tensor type": (change("stages", 0, "inputs", 0, "dtype", to="float32"), "uint8"),
    "unknown tensor type": (change("stages", 0, "inputs", 0, "dtype", to="float64"), "dtype"),
    "wrong rank": (change("stages", 0, "inputs", 0, "shape", to=["B", 48]), "3 dimensions"),
    "wrong fixed size": (change("stages", 0, "inputs", 0, "shape", 2, to=49), "48"),
    "fixed batch": (change("stages", 0, "inputs", 0, "shape", 0, to=1), "letter"),
    "stage file in another folder": (change("stages", 0, "file", to="../embed.onnx"), "file"),
    "stage file unlisted": (change("stages", 0, "file", to="other.onnx"), "other.onnx"),
    "codec graph unlisted": (change("codecs", 5, "encode", 0, to="other.onnx"), "other.onnx"),
    "codec graph missing": (remove("codecs", 5, "encode", 0), "encode"),
    "unknown codec kind": (change("codecs", 0, "kind", to="zip"), "kind"),
    "key of another codec kind": (change("codecs", 0, "group", to=4), "group"),
    "codec width off": (change("codecs", 0, "width", to=32), "width"),
    "group that does not divide": (change("codecs", 2, "group", to=7), "group"),
    "group of zero": (change("codecs", 2, "group", to=0), "group"),
    "codebook of one code": (change("codecs", 5, "codes", to=1), "codes"),
    "raw codec of normed values": (change("codecs", 0, "source", to="normed"), "normed"),
    "source that cannot yield": (change("codecs", 0, "yields", to="input"), "yield"),
    "component of 17 bits": (change("codecs", 9, "bits", 0, 0, to=17), "bits"),
    "component of no bits": (change("codecs", 9, "bits", 0, 0, to=0), "bits"),
    "bits of too few blocks": (remove("codecs", 9, "bits", 0), "bits"),
    "state of block inputs": (change("codecs", 8, "state", to=8), "state"),
    "state of no values": (change("codecs", 10, "state", to=0), "state"),
    "state of a codec without graphs": (change("codecs", 0, "state", to=8), "state"),
    "silent first block": (change("codecs", 12, "bits", 0, to=[]), "first block"),
    "start of a codec without a state": (change("codecs", 9, "start", to="embed.onnx"), "start"),
    "absence of a codec without a state": (change("codecs", 9, "absent", to=True), "absent"),
    "absence that is no flag": (change("codecs", 10, "absent", to=1), "absent"),
    "start graph unlisted": (change("codecs", 10, "start", to="other.onnx"), "other.onnx"),
    "points of no boards": (change("codecs", 0, "points_lost", to=[]), "points_lost"),
    "points without boards": (change("codecs", 0, "points_lost", to=[[0.5]]), "points_lost"),
    "points of falling boards": (change("codecs", 0, "points_lost", to=[[4, 0.5], [2, 0.1]]), "rise"),
    "points beyond a hundred": (change("codecs", 0, "points_lost", to=[[4, 101.0]]), "points_lost"),
    "silent block without a state": (change("codecs", 9, "bits", 1, to=[]), "bits"),
    "encoder of a silent block": (change("codecs", 12, "encode", to=["a.onnx"] * 3), "encode"),
    "negative error": (change("codecs", 0, "error", "value", to=-1), "error"),
    "two codecs of one name": (change("codecs", 1, "name", to="f32"), "same name"),
    "default codec missing": (change("default_codec", to="zip"), "zip"),
    "file with a path": (change("files", "../secret.bin", to={"sha256": "0" * 64, "bytes": 1}), "files"),
    "hidden file": (change("files", ".secret", to={"sha256": "0" * 64, "bytes": 1}), "files"),
    "manifest lists itself": (change("files", "manifest.json", to={"sha256": "0" * 64, "bytes": 1}), "manifest.json"),
    "short digest": (change("files", "weights.bin", "sha256", to="0" * 63), "sha256"),
    "upper-case digest": (change("files", "weights.bin", "sha256", to="A" * 64), "sha256"),
    "negative size": (change("files", "weights.bin", "bytes", to=-1), "bytes"),
    "files as a list": (change("files", to=[]), "files"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_format_1_does_not_allow_is_refused_by_name(document: Document, case: str) -> None:
    damage, named = REFUSALS[case]
    damage(document)
    message = refused(document)
    assert any(part in message for part in named.split("|")), message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        "{}".encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": ' + b"[" * 900 + b"]" * 900 + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=range(13),
)
def test_bytes_that_are_no_manifest_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PlanError) as caught:
        parse_manifest(data)
    assert "\n" not in str(caught.value)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["B", "embed", "../x", "f32", "codebook", "kv", "float32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a document, as the steps that lead there."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@relaxed
@given(data=st.data())
def test_no_change_of_a_manifest_raises_anything_but_a_plan_error(original: bytes, data: st.DataObject) -> None:
    document: Document = json.loads(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(document)[1:]))
        action = data.draw(st.sampled_from([change(*place, to=data.draw(JSON_VALUES)), remove(*place)]))
        action(document)
    try:
        plan = parse(copy.deepcopy(document))
    except PlanError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most changes are refused, some are harmless
    else:
        for codec in plan.codecs:
            assert codec.payload_bytes(plan.geometry.blocks - 1, 1, 1) > 0


@relaxed
@given(position=st.floats(0, 1), byte=st.integers(0, 255))
def test_no_flipped_byte_raises_anything_but_a_plan_error(original: bytes, position: float, byte: int) -> None:
    data = bytearray(original)
    data[int(position * (len(data) - 1))] = byte
    try:
        parse_manifest(bytes(data))
    except PlanError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a changed label is harmless
