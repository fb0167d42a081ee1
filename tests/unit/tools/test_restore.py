"""A model folder gives back the network that it was exported from."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.unit.tools.hf_folders import write_folder
from tools.export.failure import BadInput, NoSuchModel, run
from tools.export.hf_folder import read_folder
from tools.export.restore import _run as restore_command
from tools.export.restore import restore
from tools.export.training_text import UNDIVIDED, history, training_of
from tools.import_vit import main


def called(monkeypatch: pytest.MonkeyPatch, command: object, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
    return run(command)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "quick_gelu", "relu"])
def test_exported_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    odd = {"hidden_act": kind, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "layer_norm_eps": 1e-5}
    source = read_folder(write_folder(tmp_path / "hf", config=odd))
    assert called(monkeypatch, main, tmp_path / "hf", "--out", tmp_path / "m", "--check", "numpy") == 0
    assert called(monkeypatch, restore_command, tmp_path / "m", "--out", tmp_path / "back") == 0
    back = read_folder(tmp_path / "back")
    assert (back.shape, back.labels) == (source.shape, source.labels)
    assert (back.image.mean, back.image.std) == (source.image.mean, source.image.std)
    token, position = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
    for name, tensor in source.tensors.items():
        if name == token:  # it comes back with its position added
            np.testing.assert_array_equal(back.tensors[name], tensor + source.tensors[position][:, :1])
        elif name == position:
            np.testing.assert_array_equal(back.tensors[name][:, 1:], tensor[:, 1:])
            assert not back.tensors[name][:, 0].any()
        else:
            np.testing.assert_allclose(back.tensors[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_restored_network_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "hf")
    assert called(monkeypatch, main, tmp_path / "hf", "--out", tmp_path / "m", "--check", "numpy") == 0
    assert called(monkeypatch, restore_command, tmp_path / "m", "--out", tmp_path / "back") == 0
    assert called(monkeypatch, main, tmp_path / "back", "--out", tmp_path / "again", "--check", "numpy") == 0
    first, second = (restore(tmp_path / name)[0] for name in ("m", "again"))
    for name, tensor in first.items():
        np.testing.assert_allclose(second[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)


def test_int8_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "hf")
    assert called(monkeypatch, main, tmp_path / "hf", "--out", tmp_path / "m", "--weights", "int8") == 0
    with pytest.raises(NoSuchModel, match="int8 weights only; take the folder with f32 weights"):
        restore(tmp_path / "m")
    assert called(monkeypatch, restore_command, tmp_path / "m", "--out", tmp_path / "back") == NoSuchModel.exit_code
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("missing", ["0.up.weight", "0.down.bias"])
def test_a_graph_that_lacks_a_tensor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    write_folder(tmp_path / "hf")
    assert called(monkeypatch, main, tmp_path / "hf", "--out", tmp_path / "m", "--check", "numpy") == 0
    graph = onnx.load(tmp_path / "m/whole.onnx", load_external_data=False)
    left = [each for each in graph.graph.initializer if each.name != missing]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(left)
    raw = graph.SerializeToString()
    (tmp_path / "m/whole.onnx").write_bytes(raw)
    manifest = json.loads((tmp_path / "m/manifest.json").read_text())
    manifest["files"]["whole.onnx"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (tmp_path / "m/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=f"lacks a tensor.*{missing}"):
        restore(tmp_path / "m")


CARD = f"""# toy

## Data and training

Source: pictures.

Training: from scratch.

Fine-tuning: 3 steps. {UNDIVIDED}

Exported by

    a command
"""


def test_a_restored_network_brings_the_training_that_its_card_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "hf")
    assert called(monkeypatch, main, tmp_path / "hf", "--out", tmp_path / "m", "--check", "numpy") == 0
    (tmp_path / "m" / "MODEL_CARD.md").write_text(CARD)
    assert called(monkeypatch, restore_command, tmp_path / "m", "--out", tmp_path / "back") == 0
    told = (tmp_path / "back" / "card.md").read_text()
    assert told.startswith("Training: from scratch.\n\nFine-tuning: 3 steps.\n\nWhat follows went on from")
    assert all(word not in told for word in ("pictures", UNDIVIDED, "command"))
    # The next card tells it in turn, and the one after that.
    assert told.strip() in training_of(f"# x\n\n## Data and training\n\nSource: y.\n\n{told}\nExported by\n")


def test_a_card_without_training_tells_nothing() -> None:
    for card in ("", "# toy", CARD.replace("Exported by", "Made by")):
        assert history(card) == ""
