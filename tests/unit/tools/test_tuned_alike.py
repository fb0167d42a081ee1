"""A fine-tuned network and its codes answer alike in torch, by masks, and exported, on the shards of the runtime."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


import numpy as np
import torch

from runtime.model import Model
from runtime.settings import SessionSettings
from tests.unit.tools.tiny_pictures import write_pictures
from tools.evaluate.boards import Loss
from tools.evaluate.boards import divided as on_shards
from tools.export.failure import run
from tools.finetune.divided import divided
from tools.finetune.recipe import TuneRecipe
from tools.finetune.split import Division
from tools.finetune.tuner import Tuner
from tools.import_vit import main
from tools.train.dataset import open_dataset
from tools.train.network import Vit, VitConfig

CODECS = ("tc12", "ptc12", "pvq3", "ptc6x2")
CUTS = (0, 5, 7, 16)
RECIPE = TuneRecipe(steps=2, batch=4, boards=(2,), codecs=CODECS, calibration=20, holdout=4, bf16=False)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuner, Model]:
    """A tiny network whose heads read codes in ways of their own, and the model folder it became."""
    torch.manual_seed(3)
    base = tmp_path_factory.mktemp("alike")
    data = open_dataset(write_pictures(base / "set"), name="own", cache=base / "cache")
    shape = {"patch_size": 8, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 3}
    network = Vit(VitConfig(**shape, intermediate_size=32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tuner = Tuner(recipe=RECIPE, network=network, data=data, run=base / "run", device=torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in tuner.bank.named_parameters():
            if "readout" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tuner.fit(every=100)
    arguments = [str(base / "run"), "--out", str(base / "m"), "--calibration", str(base / "set"), "--codecs", "f32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["import_vit", *arguments, "--check", "numpy", "--default-codec", "f32"])
        assert run(main) == 0
    return tuner, Model.load(base / "m", SessionSettings(threads=1))


@pytest.mark.parametrize("lost_from", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("codec", CODECS)
def test_both_answer_alike(tuned: tuple[Tuner, Model], codec: str, lost_from: int | None) -> None:
    tuner, model = tuned
    if codec.endswith("x2") and lost_from is not None:
        lost_from = min(lost_from + lost_from % 2, 2)  # only before a block that speaks can a board be missed
    index = CODECS.index(codec)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8))
    division = Division(cuts=CUTS) if lost_from is None else Division(cuts=CUTS, lost=1, lost_from=lost_from)
    recoder = tuner.bank.recoder(index)
    with torch.no_grad():
        wanted = divided(
            tuner.average, tuner.pictures.prepare(images), division, recoder.rate.source, recoder
        ).logits.numpy()
    rows = np.stack([image.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1) for image in images.numpy()])
    found = on_shards(model, codec, rows, CUTS, None if lost_from is None else Loss(board=1, block=lost_from))
    # A value on a threshold falls to either side, and a codebook's codes lie in a file as f16: most answers, not all.
    close = np.isclose(found, wanted, rtol=2e-2, atol=2e-2 * float(np.abs(wanted).max())).all(axis=1)
    assert close.mean() >= 0.7
