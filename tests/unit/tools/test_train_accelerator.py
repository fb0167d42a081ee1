"""Training and fine-tuning on an accelerator, where there is one."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


from pathlib import Path

import torch

from tests.unit.tools.tiny_pictures import write_pictures
from tools.finetune.recipe import TuneRecipe
from tools.finetune.tuner import Tuner
from tools.train.dataset import open_dataset
from tools.train.models import build, load_teacher, load_vit
from tools.train.recipe import Recipe
from tools.train.trainer import Trainer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_whole_chain_runs_on_the_device(tmp_path: Path) -> None:
    data = open_dataset(write_pictures(tmp_path / "set"), name="own", cache=tmp_path / "cache")
    device = torch.device("cuda")
    first = Recipe(kind="convnet", batch=8, epochs=4, channels=(8, 8, 16), holdout=4)
    Trainer(recipe=first, network=build(first, data), teacher=None, data=data, run=tmp_path / "t", device=device).fit(
        every=5
    )
    second = Recipe(
        batch=8, epochs=8, width=16, blocks=3, heads=2, mlp=32, holdout=4, teacher="t", jitter=0.1, erase=6, mix=0.2
    )
    for stop in (5, None):  # the second goes on from the checkpoint of the first
        student = Trainer(
            recipe=second,
            network=build(second, data),
            teacher=load_teacher(tmp_path / "t", data),
            data=data,
            run=tmp_path / "s",
            device=device,
        )
        student.resume()
        student.fit(every=5, stop=stop)
    recipe = TuneRecipe(
        steps=4, batch=8, boards=(1, 2, 4), codecs=("tc12", "rq2x8x2", "fs4x2"), calibration=20, refit=2, noise=1.0
    )
    tuner = Tuner(recipe=recipe, network=load_vit(tmp_path / "s", data), data=data, run=tmp_path / "f", device=device)
    tuner.fit(every=2)
    assert (tmp_path / "f" / "codecs.safetensors").is_file()
