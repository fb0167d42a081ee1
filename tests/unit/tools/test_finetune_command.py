"""The commands of fine-tuning: what they leave behind, what they measure, what they refuse in one line."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.unit.tools.tiny_pictures import write_pictures
from tools.finetune.measure import Case
from tools.finetune.report import table
from tools.train.card import read_training
from tools.train.dataset import open_dataset
from tools.train.models import build, publish
from tools.train.recipe import Recipe

SMALL = ["--calibration", "20", "--holdout", "4", "--batch", "4", "--boards", "2,4", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set`, a data set, and `model`, a ViT for it."""
    base = tmp_path_factory.mktemp("tune")
    data = open_dataset(write_pictures(base / "set"), name="own", cache=base / "cache")
    publish(base / "model", build(Recipe(patch=8, width=16, blocks=2, heads=2, mlp=32), data), data)
    return base


def command(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts on the data set of `folder`."""
    fixed = ["--data", str(folder / "set"), "--set", "own", "--cache", str(folder / "cache")]
    return subprocess.run(
        [sys.executable, "-m", module, *fixed, *arguments], capture_output=True, text=True, check=False
    )


def test_a_run_leaves_the_network_and_its_codes(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command(
        "tools.finetune", folder, "--model", str(folder / "model"), "--run", str(run), "--steps", "2", *SMALL,
        "--codecs", "tc12,rq2x4x2-normed",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = json.loads((run / "codecs.json").read_text())["codecs"]
    assert entries == [
        {"name": "tc12", "kind": "transform", "source": "kv", "stages": 1},
        {"name": "rq2x4x2-normed", "kind": "codebook", "source": "normed", "stages": 2},
    ]
    codes = load_file(run / "codecs.safetensors")
    assert codes["rq2x4x2-normed.1.codes"].shape == (2, 2, 4, 8)
    bits = codes["tc12.0.bits"]
    assert int(bits.sum()) == 12
    assert codes["tc12.0.levels"].shape == (len(bits), 1 << int(bits.max()))
    assert bool((codes["tc12.0.levels"].diff(dim=1) >= 0).all())
    tuned, before = (load_file(where / "model.safetensors") for where in (run, folder / "model"))
    assert tuned.keys() == before.keys()
    assert any(not torch.equal(tuned[name], before[name]) for name in tuned)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "absent"], "absent holds no trained ViT"),
        (["--codecs", "int8"], "int8 is no codec to fine-tune"),
        (["--codecs", "vq5x4"], "5 groups do not divide a width of 32"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    folder: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    given = ["--model", str(folder / "model"), "--run", str(tmp_path / "run"), *SMALL, *arguments]
    refused = command("tools.finetune", folder, *given)
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert reason in refused.stderr
    assert not (tmp_path / "run").exists()


def test_ablation_rows_are_measured_once(folder: Path, tmp_path: Path) -> None:
    given = ["--model", str(folder / "model"), "--codec", "tc12", "--steps", "1", "--images", "3"]
    given += ["--only", "untrained,noise", "--json", str(tmp_path / "rows.json"), "--keep", str(tmp_path / "kept")]
    first = command("tools.finetune.ablate", folder, *given)
    assert first.returncode == 0, first.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["variant"] for row in rows] == ["untrained", "noise"]
    assert [row["recipe"]["steps"] for row in rows] == [0, 1]
    assert all(0 <= row[f"tc12 {case}"] <= 100 for row in rows for case in ("N=4", "N=4 random", "N=4 one lost"))
    assert (tmp_path / "kept" / "noise-1" / "codecs.safetensors").is_file()
    card = (tmp_path / "kept" / "noise-1" / "card.md").read_text()
    assert "1 steps of 64" in card
    assert "in proportion to their bits to the power of -0.5" in card
    assert "predict" not in card  # tc12 does not
    rows[0]["whole"] = 12.34
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert "whole 12.34" in command("tools.finetune.ablate", folder, *given).stdout


def test_the_table_brings_seeds_together() -> None:
    def row(seed: int, codec: str, score: float) -> dict[str, object]:
        recipe = {"codecs": [codec], "steps": 9, "seed": seed}
        return {
            "variant": "all",
            "images": 5,
            "recipe": recipe,
            "whole": 80.0,
            f"{codec} N=4": score,
            "tc53 components": 20,
        }

    rows = [row(1, "tc53", 70.0), row(2, "tc53", 71.0), row(1, "astra-g32", 60.0), row(1, "vq8x64-normed", 50.0)]
    lines = table(rows, [Case(boards=4)], width=128).splitlines()
    assert lines[2] == "| all | tc53 | 53 | 77.3x | 9 | 2 | 80.00 ± 0.00 | 70.50 ± 0.71 | 5120 | 5120 |"
    assert lines[3] == "| all | astra-g32 | 320 | 12.8x | 9 | 1 | 80.00 | 60.00 | 131072 | 32768 |"
    assert lines[4].endswith("| 50.00 | 8192 | 0 |")


def test_cases_are_the_same_for_every_network() -> None:
    case = Case(boards=4, random=True, lost=True)
    drawn = [case.division(number, tokens=16, blocks=3, single_class=False) for number in range(8)]
    assert drawn == [case.division(number, tokens=16, blocks=3, single_class=False) for number in range(8)]
    assert len({division.cuts for division in drawn}) > 4
    assert len({division.lost for division in drawn}) > 1


def test_a_restored_network_tells_its_history_and_a_trained_one_its_own(tmp_path: Path) -> None:
    assert read_training(tmp_path) == ""
    (tmp_path / "card.md").write_text("Training: from scratch.\n")
    assert read_training(tmp_path) == "Training: from scratch."
    metrics = {"recipe": {"seed": 7}, "epochs": 1, "steps": 2, "torch": "x", "device": "cpu", "accuracy": 0.5}
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "test_images": 10}))
    assert "seed 7" in read_training(tmp_path)
