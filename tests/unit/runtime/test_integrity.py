"""A model folder is used only if every file is exactly the one its manifest lists."""

import os
import shutil
from pathlib import Path

import pytest

from runtime.errors import ModelDigestMismatch, PlanError, RuntimeFailure
from runtime.integrity import mark_files, open_model, read_plan


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def refusal(folder: Path) -> RuntimeFailure:
    with pytest.raises((PlanError, ModelDigestMismatch)) as caught:
        open_model(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert ": " in text  # cause: remedy
    return caught.value


def test_an_untouched_folder_opens_with_and_without_its_card(folder: Path) -> None:
    plan = open_model(folder)
    (folder / "MODEL_CARD.md").write_text("# tiny\n")
    assert open_model(folder) == plan == read_plan(folder)


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", ["weights.bin", "embed.onnx", "vq4x16.bin"])
def test_one_flipped_bit_is_found_and_the_file_named(folder: Path, name: str, place: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)
    error = refusal(folder)
    assert isinstance(error, ModelDigestMismatch)
    assert error.file == name
    assert error.expected != error.found


def test_a_changed_size_is_found_without_reading_the_file(folder: Path) -> None:
    with (folder / "weights.bin").open("ab") as file:
        file.write(b"x")
    error = refusal(folder)
    assert isinstance(error, ModelDigestMismatch)
    assert "bytes" in error.found


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "attend.1.onnx").unlink()
    assert "attend.1.onnx is missing" in str(refusal(folder))


def test_a_symbolic_link_is_refused_even_if_its_target_is_right(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "weights.bin", tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert "symbolic link" in str(refusal(folder))


def test_a_linked_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "manifest.json", tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    assert "symbolic link" in str(refusal(folder))


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_plain_file_is_refused_without_waiting(folder: Path, kind: str) -> None:
    path = folder / "head.onnx"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert "not a plain file" in str(refusal(folder))


def test_a_file_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    (folder / "more.bin").write_bytes(b"x")
    assert "more.bin" in str(refusal(folder))


def test_an_oversized_or_missing_manifest_and_a_missing_folder_are_refused(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(5 << 20)
    assert "5242880 bytes" in str(refusal(folder))
    (folder / "manifest.json").unlink()
    assert "manifest.json is missing" in str(refusal(folder))
    assert "cannot be opened" in str(refusal(folder / "nowhere"))


def test_an_unknown_format_is_refused_with_a_remedy(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 7'))
    error = refusal(folder)
    assert "format 7" in error.cause
    assert "install" in error.remedy


def test_a_replaced_file_has_another_mark(folder: Path) -> None:
    plan = read_plan(folder)
    before = mark_files(folder, plan)
    assert mark_files(folder, plan) == before
    data = (folder / "head.onnx").read_bytes()
    (folder / "head.onnx.new").write_bytes(data)
    (folder / "head.onnx.new").replace(folder / "head.onnx")
    assert mark_files(folder, plan) != before
