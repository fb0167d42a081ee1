"""Any ViT folder becomes a model that answers like it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from runtime.integrity import open_model
from runtime.model import Model
from runtime.settings import SessionSettings
from tests.unit.tools.hf_folders import write_calibration, write_folder, write_safetensors
from tools.evaluate.boards import divided
from tools.export.failure import run
from tools.export.hf_folder import read_folder
from tools.export.random_vit import TINY, random_tensors
from tools.export.reference import Reference
from tools.import_vit import main

TENSORS = random_tensors(TINY, seed=2)
ROWS = np.random.default_rng(8).integers(0, 256, (3, TINY.tokens, TINY.row_bytes), dtype=np.uint8)


def imported(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command."""
    monkeypatch.setattr("sys.argv", ["import_vit", *map(str, arguments)])
    return run(main)


def logits(folder: Path) -> np.ndarray:
    return Model.load(folder, SessionSettings(threads=1, prepack=True)).whole(ROWS)


def reference(source: Path) -> np.ndarray:
    found = read_folder(source)
    return Reference(found.tensors, found.shape, mean=found.image.mean, std=found.image.std).forward(ROWS).logits


def test_folder_becomes_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, pictures = write_folder(tmp_path / "hf"), write_calibration(tmp_path / "c.npy")
    out = tmp_path / "models" / "tiny"
    assert imported(monkeypatch, source, "--out", out, "--calibration", pictures, "--check", "numpy") == 0
    plan = open_model(out)
    assert plan.name == "tiny"
    assert [codec.name for codec in plan.codecs][:5] == ["f32", "f16", "int8", "int4", "f32-input"]
    assert {codec.kind.value for codec in plan.codecs} == {"f32", "f16", "int8", "int4", "transform", "codebook"}
    np.testing.assert_allclose(logits(out), reference(source), atol=1e-4)
    assert "logits differ from numpy by" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "quick_gelu", "relu", "gelu_pytorch_tanh"])
def test_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source = write_folder(tmp_path / "hf", config={"hidden_act": kind})
    assert imported(monkeypatch, source, "--out", tmp_path / "m", "--check", "numpy") == 0
    found = logits(tmp_path / "m")
    np.testing.assert_allclose(found, reference(source), atol=1e-4)
    shards = divided(Model.load(tmp_path / "m", SessionSettings(threads=1, prepack=True)), "f32", ROWS, [0, 3, 16])
    np.testing.assert_allclose(shards, found, atol=1e-4)


def test_activations_differ(tmp_path: Path) -> None:
    found = [reference(write_folder(tmp_path / kind, config={"hidden_act": kind})) for kind in ("gelu", "quick_gelu")]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_network_without_biases_of_query_key_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = {name: array for name, array in TENSORS.items() if "attention.attention" not in name or "weight" in name}
    source = write_folder(tmp_path / "hf", tensors=bare, config={"qkv_bias": False})
    assert imported(monkeypatch, source, "--out", tmp_path / "m", "--check", "numpy") == 0
    zeros = {name: TENSORS[name] if name in bare else np.zeros_like(TENSORS[name]) for name in TENSORS}
    wanted = Reference(zeros, TINY, mean=(0.5,) * 3, std=(0.5,) * 3).forward(ROWS).logits
    np.testing.assert_allclose(logits(tmp_path / "m"), wanted, atol=1e-4)


def test_prefix_of_deit(tmp_path: Path) -> None:
    renamed = {name.replace("vit.", "deit.", 1): array for name, array in TENSORS.items()}
    found = read_folder(write_folder(tmp_path / "hf", tensors=renamed, config={"model_type": "deit"}))
    np.testing.assert_array_equal(found.tensors["vit.layernorm.weight"], TENSORS["vit.layernorm.weight"])


def test_half_precision_and_shards(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "hf")
    halves = {name: array.astype(np.float16) for name, array in TENSORS.items() if "embeddings" in name}
    others = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in TENSORS.items()}
    others = {name: array for name, array in others.items() if name not in halves}
    (source / "model.safetensors").unlink()
    write_safetensors(source / "model-00001-of-00002.safetensors", halves)
    write_safetensors(source / "model-00002-of-00002.safetensors", others)
    places = dict.fromkeys(halves, "model-00001-of-00002.safetensors")
    places |= dict.fromkeys(others, "model-00002-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = read_folder(source).tensors
    for name, array in TENSORS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize(
    ("processor", "mean", "resize", "interpolation"),
    [
        ({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3], "size": 16}, (0.4, 0.5, 0.6), 16, "bilinear"),
        ({"do_normalize": False, "size": {"height": 16, "width": 16}, "resample": 3}, (0.0, 0.0, 0.0), 16, "bicubic"),
        ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}, (0.5, 0.5, 0.5), 20, "bilinear"),
        ({"size": 24, "do_center_crop": False}, (0.5, 0.5, 0.5), 16, "bilinear"),
    ],
)
def test_preprocessor(
    tmp_path: Path, processor: dict[str, object], mean: tuple[float, ...], resize: int, interpolation: str
) -> None:
    source = write_folder(tmp_path / "hf")
    (source / "preprocessor_config.json").write_text(json.dumps(processor))
    rule = read_folder(source).image
    assert (rule.mean, rule.resize, rule.interpolation) == (mean, resize, interpolation)


def test_calibration_from_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for number in range(12):
        place = tmp_path / "pictures" / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(place / f"{number}.png")
    options = ("--calibration", tmp_path / "pictures", "--codecs", "f32,tc12", "--default-codec", "tc12")
    assert imported(monkeypatch, write_folder(tmp_path / "hf"), "--out", tmp_path / "m", *options) == 0
    assert open_model(tmp_path / "m").default_codec == "tc12"


def test_int8_weights_let_each_token_count_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "hf")
    for storage in ("f32", "int8"):
        options = ("--out", tmp_path / storage, "--weights", storage, "--check", "numpy")
        assert imported(monkeypatch, source, *options) == 0
    kinds = {
        node.op_type for node in onnx.load(tmp_path / "int8" / "attend.0.onnx", load_external_data=False).graph.node
    }
    assert "MatMulIntegerToFloat" in kinds
    exact, model = logits(tmp_path / "f32"), Model.load(tmp_path / "int8", SessionSettings(threads=1, prepack=True))
    whole = model.whole(ROWS)
    assert 1e-5 < np.abs(whole - exact).max() < 0.1 * np.abs(exact).max()
    # Neither other pictures of the batch nor the way tokens are divided may matter beyond a rounding here and there.
    single = np.concatenate([model.whole(ROWS[number : number + 1]) for number in range(len(ROWS))])
    np.testing.assert_allclose(single, whole, atol=2e-2 * np.abs(exact).max())
    shards = divided(model, "f32", ROWS, [0, 3, 16])
    np.testing.assert_allclose(shards, whole, atol=2e-2 * np.abs(exact).max())


def test_replace_keeps_the_old_model_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_folder(tmp_path / "hf"), tmp_path / "m"
    assert imported(monkeypatch, source, "--out", out, "--check", "numpy") == 0
    before = open_model(out).model_id
    assert imported(monkeypatch, source, "--out", out) == 2
    assert imported(monkeypatch, source, "--out", out, "--replace", "--most-megabytes", "0.001") == 1
    assert open_model(out).model_id == before
    assert imported(monkeypatch, source, "--out", out, "--replace", "--default-codec", "f16", "--check", "numpy") == 0
    assert open_model(out).model_id != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "m"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
        {"hidden_act": "quick_gelu", "qkv_bias": False},
        {"patch_size": 8, "image_size": 24, "num_attention_heads": 4},
    ],
)
def test_logits_equal_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: dict[str, object]
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    settings = transformers.ViTConfig(
        **{**sizes, "image_size": 16, "patch_size": 4, "initializer_range": 0.2, **config}
    )
    transformers.ViTForImageClassification(settings).save_pretrained(tmp_path / "hf")
    assert imported(monkeypatch, tmp_path / "hf", "--out", tmp_path / "m", "--check", "transformers") == 0
    assert "from transformers" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("teacher", ["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_distillation_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], teacher: str
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    settings = transformers.DeiTConfig(**sizes, image_size=16, patch_size=4)
    getattr(transformers, teacher)(settings).save_pretrained(tmp_path / "hf")
    capsys.readouterr()
    assert imported(monkeypatch, tmp_path / "hf", "--out", tmp_path / "m") == 4
    assert "distillation token" in capsys.readouterr().err
