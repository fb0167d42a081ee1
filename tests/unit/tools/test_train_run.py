"""Training runs: resumed ones, what they leave behind, and what they refuse."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tests.unit.tools.tiny_pictures import write_pictures
from tools.train import store
from tools.train.augmentation import generator, grained
from tools.train.dataset import DataError, Dataset, open_dataset
from tools.train.models import build, load_teacher, load_vit
from tools.train.muon import Muon, orthogonal
from tools.train.network import Vit, from_hf, hf_tensors
from tools.train.recipe import Recipe
from tools.train.store import RunError
from tools.train.trainer import Trainer

torch.set_num_threads(1)  # tiny products: more threads only wait for each other

TINY = Recipe(batch=8, epochs=3, width=16, blocks=2, heads=2, mlp=32, patch=8, holdout=4, jitter=0.1, erase=6, mix=0.2)
CONVNET = Recipe(kind="convnet", batch=8, epochs=2, channels=(8, 8, 16), holdout=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes."""
    base = tmp_path_factory.mktemp("pictures")
    return open_dataset(write_pictures(base / "set"), name="own", cache=base / "cache")


def trainer(recipe: Recipe, data: Dataset, run: Path, teacher: Path | None = None) -> Trainer:
    """A run as the command starts it."""
    guide = None if teacher is None else load_teacher(teacher, data)
    made = Trainer(recipe=recipe, network=build(recipe, data), teacher=guide, data=data, run=run, device=CPU)
    made.resume()
    return made


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run published."""
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("recipe", [TINY, replace(TINY, muon=False), CONVNET])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    recipe: Recipe, data: Dataset, tmp_path: Path
) -> None:
    trainer(recipe, data, tmp_path / "whole").fit(every=100)
    trainer(recipe, data, tmp_path / "cut").fit(every=100, stop=5)  # in the middle of the second epoch
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    trainer(recipe, data, tmp_path / "cut").fit(every=100)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_another_seed_ends_elsewhere(data: Dataset, tmp_path: Path) -> None:
    for seed in (1, 2):
        recipe = Recipe(batch=8, epochs=1, width=16, blocks=2, heads=2, mlp=32, patch=8, holdout=4, seed=seed)
        trainer(recipe, data, tmp_path / str(seed)).fit(every=100)
    assert any(
        not torch.equal(tensor, weights(tmp_path / "2")[name]) for name, tensor in weights(tmp_path / "1").items()
    )


def test_a_student_learns_with_a_teacher_and_is_read_back(data: Dataset, tmp_path: Path) -> None:
    trainer(CONVNET, data, tmp_path / "teacher").fit(every=100)
    recipe = Recipe(
        batch=8, epochs=12, width=16, blocks=3, heads=2, mlp=32, holdout=4, teacher="t", average=0.9, rate=5e-3
    )
    student = trainer(recipe, data, tmp_path / "student", tmp_path / "teacher")
    student.fit(every=100)
    assert json.loads((tmp_path / "student" / "metrics.json").read_text())["accuracy"] == 1.0
    again = load_vit(tmp_path / "student", data).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(images), student.average(images))


def test_hf_names_lead_back_to_the_same_network(data: Dataset) -> None:
    network = build(TINY, data)
    assert isinstance(network, Vit)
    state = network.state_dict()
    back = from_hf(hf_tensors(state, network.config), network.config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_full_disk_leaves_the_last_checkpoint(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(TINY, data, tmp_path / "run")
    run.fit(every=100, stop=2)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.torch, "save", full)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint\.pt: No space left on device; free some space"):
        run.fit(every=100, stop=4)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_other_parameters_is_refused(data: Dataset, tmp_path: Path) -> None:
    trainer(TINY, data, tmp_path / "run").fit(every=100, stop=1)
    with pytest.raises(RunError, match="made with another blocks: repeat its parameters"):
        trainer(CONVNET, data, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"no archive")
    with pytest.raises(RunError, match="is no checkpoint"):
        trainer(TINY, data, tmp_path / "run")


def test_a_run_is_cut_short_on_demand_and_says_so(data: Dataset, tmp_path: Path) -> None:
    trainer(TINY, data, tmp_path / "run").fit(every=100, stop=3)
    shorter = replace(TINY, epochs=2)
    with pytest.raises(RunError, match="made with another epochs"):
        trainer(shorter, data, tmp_path / "run")
    made = build(shorter, data)
    run = Trainer(recipe=shorter, network=made, teacher=None, data=data, run=tmp_path / "run", device=CPU)
    run.resume(reschedule=True)
    run.fit(every=100)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["schedules"]) == (2 * run.per_epoch, [[3, 3]])
    assert (
        "Up to step 3 the learning rate followed a schedule of 3 epochs" in (tmp_path / "run" / "card.md").read_text()
    )


def test_a_teacher_of_other_classes_is_refused(data: Dataset, tmp_path: Path) -> None:
    trainer(CONVNET, data, tmp_path / "teacher").fit(every=100)
    other = open_dataset(write_pictures(tmp_path / "two", classes=2), name="own", cache=tmp_path / "cache")
    with pytest.raises(RunError, match="knows other classes"):
        load_teacher(tmp_path / "teacher", other)
    with pytest.raises(RunError, match="holds no trained teacher"):
        load_teacher(tmp_path / "nowhere", data)
    with pytest.raises(RunError, match="a plain ViT is needed"):
        load_vit(tmp_path / "teacher", data)


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        open_dataset(tmp_path / "absent", name="own", cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data set"):
        open_dataset(tmp_path / "empty", name="own", cache=tmp_path)
    with pytest.raises(DataError, match="has 1 class"):
        open_dataset(write_pictures(tmp_path / "one", classes=1), name="own", cache=tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", per_class=2)
    whole = (folder / "green" / "1.png").read_bytes()
    (folder / "green" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"green/1\.png is no readable picture"):
        open_dataset(folder, name="own", cache=tmp_path / "cache")


def test_a_folder_with_both_splits_keeps_them(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", per_class=3)
    write_pictures(tmp_path / "test", per_class=2, side=48)
    found = open_dataset(tmp_path, name="own", cache=tmp_path / "cache")
    assert (len(found.train.labels), len(found.test.labels)) == (9, 6)
    assert found.test.images.shape[1:] == (32, 32, 3)
    assert found.classes == ("blue", "green", "red")
    assert np.abs(np.array(found.mean) - found.train.images.mean(axis=(0, 1, 2)) / 255).max() < 1e-3


def test_grain_is_chroma_within_blocks_and_nothing_else() -> None:
    std = torch.tensor((0.2, 0.25, 0.3))
    images = torch.randn(4, 3, 8, 8)
    added = (grained(images, Recipe(grain=0.05), std, generator(1, 1, CPU)) - images) * std[:, None, None]
    blocks = added.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-2, -1))
    assert blocks.abs().max() < 1e-5  # no block changes its colour
    luma = torch.einsum("nchw,c->nhw", added, torch.tensor((0.299, 0.587, 0.114)))
    assert luma.abs().max() < 2e-3 * added.abs().max()
    assert added.std() > 0.02
    assert torch.equal(grained(images, Recipe(grain=0.0), std, generator(1, 1, CPU)), images)


def test_muon_steps_are_orthogonal_and_of_the_size_asked_for() -> None:
    torch.manual_seed(0)
    made = orthogonal(torch.randn(2, 24, 8))
    sizes = torch.linalg.svdvals(made)
    assert float(sizes.min()) > 0.6
    assert float(sizes.max()) < 1.3
    parameter = torch.nn.Parameter(torch.zeros(24, 8))
    optimiser = Muon([parameter], lr=0.1)
    parameter.grad = torch.randn(24, 8) * 1000
    optimiser.step()
    # Root mean square of 0.2 per unit of learning rate, as AdamW's (arXiv 2502.16982).
    assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(0.02, rel=0.25)


def test_the_command_trains_and_refuses_in_one_line(tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        fixed = ["--cache", str(tmp_path / "cache"), "--set", "own", "--run", str(tmp_path / "run"), "--batch", "4"]
        shape = ["--width", "16", "--blocks", "2", "--heads", "2", "--mlp", "32", "--epochs", "1", "--holdout", "2"]
        return subprocess.run(
            [sys.executable, "-m", "tools.train", *fixed, *shape, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    refused = command("--data", str(write_pictures(tmp_path / "one", classes=1)))
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert "has 1 class" in refused.stderr
    assert not (tmp_path / "run").exists()
    trained = command("--data", str(write_pictures(tmp_path / "three")), "--device", "cpu")
    assert trained.returncode == 0, trained.stderr
    assert "from scratch, 1.0 epochs" in (tmp_path / "run" / "card.md").read_text()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "card.md",
        "checkpoint.pt",
        "config.json",
        "metrics.json",
        "model.safetensors",
    }
