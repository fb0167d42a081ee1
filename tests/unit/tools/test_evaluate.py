"""Emulated boards, rows that are measured once, the choice of a default codec, and the card."""

import io
import itertools
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peer.protocol.time_left import early_blocks
from runtime.codec.base import Codec
from runtime.integrity import open_model, read_plan
from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.shard import Shard
from tools.evaluate.__main__ import cheapest, evaluate, main
from tools.evaluate.boards import Loss, divided
from tools.evaluate.measure import again, draw
from tools.evaluate.record import main as record
from tools.evaluate.record import points_lost
from tools.evaluate.rows import Condition, Row, Split, append_row, conditions, identity, read_rows
from tools.evaluate.table import tables
from tools.evaluate.test_set import read_test_set
from tools.export.calibration import Calibration
from tools.export.card import Facts, card, codec_costs, matching
from tools.export.failure import BadInput, run
from tools.export.manifest import set_default_codec, set_points_lost
from tools.export.random_vit import TINY, random_tensors
from tools.export.vit import export_model

ROWS = np.random.default_rng(1).integers(0, 256, (6, TINY.tokens, TINY.row_bytes), dtype=np.uint8)
LABELS = list("abcde")
CODECS = ("f32", "int8", "f32-input", "tc12", "vq4x8-normed", "astra-g2", "ptc12", "pvq4", "ptc6x2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    calibration = Calibration(rows=np.random.default_rng(4).integers(0, 256, (30, 16, 48), dtype=np.uint8))
    return export_model(
        random_tensors(TINY, seed=2), TINY, name="tiny", labels=LABELS, out=out, codecs=CODECS, calibration=calibration
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model.load(folder, SessionSettings(threads=1, prepack=True))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """60 random pictures in a folder per label."""
    rng = np.random.default_rng(6)
    path = tmp_path / "test.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(60):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
            entry = tarfile.TarInfo(f"{LABELS[number // 12]}/{number:05}.png")
            entry.size = stream.tell()
            tar.addfile(entry, io.BytesIO(stream.getvalue()))
    return path


def one_by_one(model: Model, codec: Codec, cuts: list[int], loss: Loss | None) -> np.ndarray:
    """What real boards do: every receiver decodes every payload itself."""
    shards = [Shard(model, codec) for _ in cuts[1:]]
    sizes = [stop - start for start, stop in itertools.pairwise(cuts)]
    for shard, start, size in zip(shards, cuts, sizes, strict=False):
        shard.embed(np.ascontiguousarray(ROWS[:, start : start + size]), start)
    alive = set(range(len(shards)))
    for block in range(TINY.blocks):
        if loss and loss.block == block:
            alive.discard(loss.board)
        if codec.spec.silent(block):
            continue  # done with the one before
        payloads = {board: (sizes[board], shards[board].encode()) for board in sorted(alive)}
        for board in alive:
            heard = {other: part for other, part in payloads.items() if other != board}
            shards[board].attend([*heard.values()], [*heard])
    return model.head(np.mean([shards[board].cls for board in sorted(alive)], axis=0, dtype=np.float32))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("loss", [None, Loss(board=1, block=0), Loss(board=0, block=2)])
def test_decoding_once_changes_nothing(model: Model, codec: str, loss: Loss | None) -> None:
    cuts = [0, 3, 4, 11, 16]
    wanted = one_by_one(model, model.codec(codec), cuts, loss)
    np.testing.assert_allclose(divided(model, codec, ROWS, cuts, loss), wanted, atol=1e-5)


def test_large_codebooks_are_searched_picture_by_picture_with_the_same_result(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = divided(model, "astra-g2", ROWS, [0, 4, 12, 16])
    monkeypatch.setattr("tools.evaluate.boards._SCORES_IN_CACHE", 1)
    np.testing.assert_allclose(divided(model, "astra-g2", ROWS, [0, 4, 12, 16]), wanted, atol=1e-5)


@pytest.mark.parametrize("boards", [1, 3, 8])
def test_exact_exchange_answers_like_the_whole_network(model: Model, boards: int) -> None:
    cuts = [16 * board // boards for board in range(boards + 1)]
    for codec in ("f32", "f32-input"):
        np.testing.assert_allclose(divided(model, codec, ROWS, cuts), model.whole(ROWS), atol=1e-4)


def test_a_lost_board_matters(model: Model) -> None:
    cuts = [0, 8, 16]
    whole = divided(model, "f32", ROWS, cuts)
    early, late = (divided(model, "f32", ROWS, cuts, Loss(board=1, block=block)) for block in (0, 2))
    assert np.abs(early - whole).max() > 1e-2
    assert np.abs(late - whole).mean() < np.abs(early - whole).mean()


def test_draws_are_repeatable_and_cover_every_token(model: Model) -> None:
    seen = set()
    for batch in range(50):
        condition = Condition(codec="f32", boards=4, split=Split.UNEVEN, lost=True)
        cuts, loss = draw(condition, model, (1, 4, batch))
        assert (cuts, loss) == draw(condition, model, (1, 4, batch))
        assert cuts[0] == 0
        assert cuts[-1] == TINY.tokens
        assert all(np.diff(cuts) >= 1)
        assert loss is not None
        seen.add((tuple(cuts), loss))
    assert len(seen) > 40


def test_where_a_board_is_lost_early_the_others_share_all_tokens_as_boards_do(model: Model) -> None:
    cuts = [0, 4, 8, 16]
    assert again(model, cuts, None) == (cuts, None)
    assert again(model, cuts, Loss(board=1, block=0)) == ([0, 8, 16], None)
    late = Loss(board=1, block=early_blocks(model.plan.geometry.blocks))
    assert again(model, cuts, late) == (cuts, late)


def test_rows_are_measured_once_and_survive_a_crash(
    model: Model, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    wanted = list(conditions(["f32", "tc12"], [1, 2, 3], list(Split), lost=[3], single="f32"))
    assert len(wanted) == 2 + 2 * (2 * 2 + 1)
    first = evaluate(model, archive, wanted[:5], out=out, limit=0, seed=1)
    out.write_text(out.read_text() + '{"cut off')
    rows = evaluate(model, archive, wanted, out=out, limit=0, seed=1)
    assert rows[:5] == first
    assert "7 of 12 rows to measure" in capsys.readouterr().out
    assert len(read_rows(out)) == len(wanted)
    assert [row.condition for row in rows] == wanted
    exact = [row for row in rows if row.codec == "f32" and not row.lost]
    assert {row.agreeing for row in exact} == {60}
    assert evaluate(model, archive, wanted, out=out, limit=0, seed=1) == rows


def test_a_subset_is_evenly_spread_and_says_so(model: Model, archive: Path, tmp_path: Path) -> None:
    test = read_test_set(archive, model.plan, limit=20, seed=1)
    assert np.bincount(test.labels).tolist() == [4] * 5
    assert not test.whole
    rows = evaluate(model, archive, [Condition(codec="", boards=1)], out=tmp_path / "r", limit=20, seed=1)
    assert (rows[0].images, rows[0].all_images) == (20, 60)


def test_one_class_or_a_broken_picture_is_refused(model: Model, archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (folder / "a" / "00000.png").write_bytes(b"broken")
    with pytest.raises(BadInput, match=r"a/00000\.png"):
        read_test_set(folder, model.plan, limit=0, seed=1)
    for name in "acde":
        shutil.rmtree(folder / name)
    with pytest.raises(BadInput, match="one class"):
        read_test_set(folder, model.plan, limit=0, seed=1)


def test_another_default_codec_is_another_model_with_the_same_rows(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before = read_plan(copy)
    set_default_codec(copy, "int8")
    after = open_model(copy)
    assert after.default_codec == "int8"
    assert after.model_id != before.model_id
    for codec in ("", *CODECS):
        assert identity(after, codec) == identity(before, codec)
    assert len({identity(after, codec) for codec in ("", *CODECS)}) == len(
        CODECS
    )  # neither f32 nor f32-input has files
    with pytest.raises(ValueError, match="tc9"):
        set_default_codec(copy, "tc9")


def row(codec: str, bits: float, boards: int, right: int, **others: object) -> Row:
    fields = {"model": "tiny", "identity": "x", "compression": 1.0, "split": "even", "lost": False, "images": 1000}
    fields |= {"all_images": 1000, "seed": 1, "agreeing": right, "seconds": 1.0}
    return Row(**{**fields, "codec": codec, "bits": bits, "boards": boards, "right": right, **others})  # type: ignore[arg-type]


TABLE = [
    row("", 0, 1, 700),
    row("f32", 8192, 2, 700),
    row("f32", 8192, 4, 700),
    row("tc64", 64, 2, 700),
    row("tc64", 64, 4, 695),
    row("tc64", 64, 4, 600, lost=True),
    row("tc64", 64, 4, 650, lost=True, anew=True),
    row("tc32", 32, 2, 700),
    row("tc32", 32, 4, 680),
]


def test_cheapest_codec_within_the_tolerance() -> None:
    assert cheapest(TABLE, 1.0) == "tc64"
    assert cheapest(TABLE, 3.0) == "tc32"
    assert cheapest(TABLE, -1.0) == "f32"


def test_table_shows_losses_and_marks_subsets() -> None:
    rows = [*TABLE, row("", 0, 1, 60, images=100), row("vq", 8, 2, 50, images=100)]
    lines = tables(rows, default="tc64")
    assert "| **tc64** | 64 | 1 | 70.00 (+0.00) | 69.50 (-0.50) | 60.00 (-10.00) | 65.00 (-5.00) |" in lines
    assert "| vq | 8 | 1 | 50.00 (-10.00)† | - | - | - |" in lines
    assert any(line.endswith("| 4, one lost | 4, one lost, anew if early |") for line in lines)
    assert any("subset of 100" in line for line in lines)


def test_card_tells_what_was_measured(folder: Path, model: Model, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    wanted = list(conditions(["tc12"], [1, 2], [Split.EVEN], lost=[2], single="f32", anew=[3]))
    rows = evaluate(model, archive, wanted, out=out, limit=0, seed=1)
    append_row(out, row("tc12", 12, 2, 999))  # of another model
    found = matching(read_rows(out), model.plan)
    assert list(found) == rows
    text = card(
        Facts(
            plan=model.plan,
            size_bytes=1_000_000,
            rows=found,
            config=TINY.config(),
            metrics={},
            training="Trained on noise.",
            costs=codec_costs(folder, model.plan),
            seeds=(tuple(rows), tuple(rows)),
            plot="../../docs/models/tiny.svg",
        )
    )
    whole = next(each for each in rows if not each.codec)
    lost = whole.accuracy - next(each for each in rows if each.boards == 2 and not each.lost).accuracy
    assert f"| tc12 | 12 | 2 | even | {lost:.2f} ± 0.00 |" in text
    assert "| tc12 | 12 | 3 | even, one lost, anew if early |" in text
    assert "--out runs/tiny.jsonl --anew 3" in text
    assert "| astra-g2 | block input | " in text
    assert f"Undivided: **{whole.accuracy:.2f} %** on all 60 test pictures" in text
    assert "Trained on noise." in text
    assert "| tc12 | 12 | 85.33 |" in text
    assert "![Accuracy against bits per token](../../docs/models/tiny.svg)" in text


def test_what_codecs_cost_in_accuracy_goes_into_the_manifest(folder: Path, tmp_path: Path) -> None:
    assert points_lost(TABLE) == {"f32": {2: 0.0, 4: 0.0}, "tc64": {2: 0.0, 4: 0.5}, "tc32": {2: 0.0, 4: 2.0}}
    assert points_lost([TABLE[0], row("tc8", 8, 4, 600), row("tc8", 8, 6, 650)]) == {"tc8": {4: 10.0, 6: 10.0}}
    assert points_lost(TABLE[1:]) == {}
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    before = read_plan(copy)
    set_points_lost(copy, {"f32": {4: 0.0}, "tc12": {4: 1.25}})
    set_points_lost(copy, {"tc12": {8: 1.5, 2: -0.5}})
    after = open_model(copy)
    assert {codec.name: codec.points_lost for codec in after.codecs if codec.points_lost} == {
        "tc12": ((2, -0.5), (8, 1.5))
    }
    assert all(identity(after, codec) == identity(before, codec) for codec in ("", *CODECS))


def test_the_command_records_what_was_measured_of_this_model(
    folder: Path, model: Model, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, out = tmp_path / "tiny", tmp_path / "rows.jsonl"
    shutil.copytree(folder, copy)
    monkeypatch.setattr("sys.argv", ["record", "--model", str(copy), "--rows", str(out)])
    append_row(out, row("tc12", 12, 2, 999))  # of another model
    with pytest.raises(BadInput, match="no row of several boards is of this model"):
        record()
    evaluate(
        model, archive, list(conditions(["tc12"], [2], [Split.EVEN], lost=[], single="f32")), out=out, limit=0, seed=1
    )
    assert run(record) == 0
    assert [codec.name for codec in open_model(copy).codecs if codec.points_lost] == ["tc12"]


def test_plot_is_small_and_repeatable(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tools.evaluate.plot import plot

    for name in ("a.svg", "b.svg"):
        plot(TABLE, tmp_path / name, title="tiny")
    text = (tmp_path / "a.svg").read_text()
    assert "bits per content token" in text
    assert len(text) < 40_000
    assert text == (tmp_path / "b.svg").read_text()


REFUSED = {
    "codec": (["--codecs", "zip"], 2, "no codec zip"),
    "boards": (["--boards", "99"], 2, "boards must be"),
    "split": (["--splits", "odd"], 2, "odd"),
    "data": (["--data", "nowhere"], 5, "holds no pictures"),
    "model": (["--model", "nowhere"], 4, "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_command_refuses_in_one_line(
    folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    options, code, text = REFUSED[case]
    out = archive.with_name("rows.jsonl")
    given = ["--model", str(folder), "--data", str(archive), "--out", str(out), *options]
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    assert run(main) == code
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1
    assert not out.exists()
