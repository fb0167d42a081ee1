"""Loading: verified first, wholly or not at all, ready at once, and only what is needed."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import model as model_module
from runtime.errors import CodecError, ImageError, ModelDigestMismatch, PlanError, StageError, one_line
from runtime.memory import free_bytes
from runtime.model import Model
from runtime.settings import SessionSettings


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def test_a_damaged_model_does_not_load(folder: Path) -> None:
    data = bytearray((folder / "weights.bin").read_bytes())
    data[100] ^= 4
    (folder / "weights.bin").write_bytes(data)
    with pytest.raises(ModelDigestMismatch):
        Model.load(folder, SessionSettings())


def test_packing_is_chosen_by_free_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    for free, packed in ((None, True), (10 * size, True), (2 * size, False)):
        monkeypatch.setattr(model_module, "free_bytes", lambda free=free: free)
        assert Model.load(folder, SessionSettings()).settings.prepack is packed
    assert Model.load(folder, SessionSettings(prepack=True)).settings.prepack is True


def test_packed_and_mapped_weights_give_the_same_answer(tiny: Model, folder: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 256, (2, 16, 48), dtype=np.uint8)
    mapped = Model.load(folder, SessionSettings(prepack=False, threads=2))
    np.testing.assert_allclose(mapped.whole(rows), tiny.whole(rows), atol=1e-5)


def test_a_codec_is_loaded_once_and_an_unknown_one_is_refused_by_name(tiny: Model) -> None:
    assert tiny.codec("vq4x16") is tiny.codec("vq4x16")
    with pytest.raises(PlanError, match=r"zip.*f32") as caught:
        tiny.codec("zip")
    assert "\n" not in str(caught.value)


def test_a_codec_is_not_loaded_from_files_that_changed_since_they_were_verified(folder: Path) -> None:
    model = Model.load(folder, SessionSettings())
    path = folder / "vq4x16.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(PlanError, match="changed"):
        model.codec("vq4x16")


def test_rows_and_class_tokens_of_other_shapes_are_refused(tiny: Model) -> None:
    rows = np.zeros((1, 16, 48), dtype=np.uint8)
    for bad in (rows[0], rows[:, 1:], rows[:, :, 1:], rows.astype(np.float32)):
        with pytest.raises(StageError, match="whole"):
            tiny.whole(bad)
    for cls in (np.zeros(32, dtype=np.float32), np.zeros((1, 31), dtype=np.float32), np.zeros((1, 32))):
        with pytest.raises(StageError, match="head"):
            tiny.head(cls)


def test_free_memory_is_the_lesser_of_machine_and_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    7 kB\n")
    assert free_bytes(meminfo, tmp_path) == 7 * 1024
    meminfo.write_text("MemTotal: 9 kB\n")
    assert free_bytes(meminfo, tmp_path) is None
    assert free_bytes(tmp_path / "none", tmp_path) is None
    free = free_bytes()
    assert free is None or free > 0


def test_the_package_and_its_plans_import_nothing_heavy() -> None:
    code = (
        "import sys, runtime, runtime.integrity, runtime.manifest, runtime.plan, runtime.errors, runtime.memory\n"
        "print(sorted({'numpy', 'onnxruntime', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.strip() == "[]"


def test_errors_are_one_line_and_cross_process_boundaries() -> None:
    errors = [
        PlanError("a\nb", "do\tthis"),
        ModelDigestMismatch("f", "1", "2"),
        CodecError("int8", "bad\r\nvalue"),
        StageError("embed", "bad", "try again"),
        ImageError("x" * 1000, "y"),
    ]
    for error in errors:
        assert str(error).isprintable()
        assert len(str(error)) < 650
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
    assert one_line("a\x1b[31m  b\n\ud800") == "a [31m b"
