"""The models of a board: a bad one is refused alone, nothing usable is one line, and none is loaded too early."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from peer.catalog import Catalog
from peer.errors import CheckFailed, ConfigError, NoSuchModel
from peer.loaded_models import LoadedModels
from peer.protocol.types import ModelId
from peer.worker import Worker
from runtime.errors import ModelDigestMismatch
from runtime.model import Model
from runtime.settings import SessionSettings

ONE_THREAD = SessionSettings(threads=1)


def copy(tiny_folder: Path, to: Path, name: str) -> Path:
    """The tiny model under another name, and so with another id."""
    place = to / name
    shutil.copytree(tiny_folder, place)
    manifest = json.loads((place / "manifest.json").read_bytes())
    manifest["name"] = name
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def damage(place: Path) -> None:
    """One bit of the weights."""
    weights = place / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


@pytest.fixture
def models(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in ("beta", "alpha"):
        copy(tiny_folder, folder, name)
    return folder


def test_the_first_by_name_is_the_default_unless_another_is_named(models: Path) -> None:
    assert Catalog(models, None).plan(Catalog(models, None).default).name == "alpha"
    catalog = Catalog(models, "beta")
    assert catalog.plan(catalog.default).name == "beta"
    assert catalog.named(None) == catalog.default
    assert catalog.plan(catalog.named("alpha")).name == "alpha"


def test_a_refused_model_does_not_stop_the_others(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(models / "alpha")
    (models / "broken").mkdir()
    (models / "broken/manifest.json").write_text("{")
    (models / "no-model").mkdir()
    (models / "a-file").write_text("")
    with caplog.at_level(logging.WARNING):
        catalog = Catalog(models, None)
    assert [catalog.plan(model).name for model in catalog] == ["beta"]
    assert sorted(record.getMessage().split()[1] for record in caplog.records) == ["alpha", "broken"]
    with pytest.raises(NoSuchModel, match="no model alpha on this board; it has beta"):
        catalog.named("alpha")


def test_no_usable_model_is_one_line_that_says_why(models: Path) -> None:
    for place in models.iterdir():
        damage(place)
    catalog = Catalog(models, None)
    assert re.fullmatch(r"no usable model in .*weights\.bin.*--models", catalog.problem)
    assert catalog.default is None
    with pytest.raises(NoSuchModel, match="this board has no model yet"):
        catalog.named(None)


def test_a_board_without_models_is_a_board(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        catalog = Catalog(folder, None, fetched=tmp_path / "nowhere either")
        assert len(catalog) == 0
        assert catalog.facts() == {}
        assert "no folder with a manifest" in catalog.problem
    assert Catalog(tmp_path, "gamma").default is None
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read"):
        Catalog(tmp_path / "file", None)


def test_a_model_is_added_whole_or_not_at_all(models: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "nowhere", None)
    walk = iter(catalog)
    damage(models / "alpha")
    with pytest.raises(ModelDigestMismatch):
        catalog.add(models / "alpha")
    assert len(catalog) == 0
    model = catalog.add(models / "beta")
    assert list(walk) == []  # who was walking meanwhile sees what was there when it began
    assert list(catalog) == [model] == [catalog.default]
    assert catalog.place(model) == models / "beta"
    assert catalog.place(ModelId("00" * 32)) is None
    assert catalog.problem == ""
    assert catalog.named("beta") == model
    assert catalog[model].name == "beta"
    assert set(catalog.facts()) == {model}


def test_fetched_models_are_found_beside_a_folder_that_cannot_be_written(models: Path, tmp_path: Path) -> None:
    (models / "beta").rename(tmp_path / "beta")
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "beta").rename(state / "beta")
    catalog = Catalog(models, None, fetched=state)
    assert sorted(catalog.plan(model).name for model in catalog) == ["alpha", "beta"]
    assert len(Catalog(models, None, fetched=models)) == 1


def test_a_default_that_is_missing_or_refused_is_one_line(models: Path) -> None:
    with pytest.raises(ConfigError, match="default model gamma cannot be used: it is not there"):
        Catalog(models, "gamma")
    damage(models / "beta")
    with pytest.raises(ConfigError, match=r"default model beta cannot be used: .*weights\.bin"):
        Catalog(models, "beta")


def test_models_are_loaded_when_they_are_first_needed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = Model.load

    def noted(folder: Path, settings: SessionSettings) -> Model:
        loaded.append(folder.name)
        return load(folder, settings)

    monkeypatch.setattr(Model, "load", noted)
    catalog = Catalog(models, None)
    in_memory = LoadedModels({}, ONE_THREAD)
    in_memory.hold(catalog.folders())
    assert set(in_memory) == set(catalog)
    Worker(in_memory)
    assert loaded == []
    assert catalog.default is not None
    assert in_memory[catalog.default] is in_memory[catalog.default]
    assert loaded == ["alpha"]


def test_verify_notices_what_changed_since_the_start(models: Path, tiny_folder: Path) -> None:
    catalog = Catalog(models, None)
    alpha, beta = catalog.named("alpha"), catalog.named("beta")
    assert catalog.verify(alpha).model_id == alpha
    damage(models / "alpha")
    with pytest.raises(CheckFailed, match=r"weights\.bin"):
        catalog.verify(alpha)
    shutil.rmtree(models / "beta")
    shutil.copytree(tiny_folder, models / "beta")
    with pytest.raises(CheckFailed, match="was replaced on disk"):
        catalog.verify(beta)


def test_facts_are_what_the_protocol_needs(models: Path) -> None:
    catalog = Catalog(models, None)
    facts = catalog.facts()[catalog.default]
    plan = catalog.plan(catalog.default)
    assert ModelId(plan.model_id) == facts.model
    assert (facts.blocks, facts.tokens, facts.width) == (3, 16, 32)
    for codec in plan.codecs:
        for block in range(facts.blocks):
            exact = codec.payload_bytes(block, 5, 2)
            assert facts.codecs[codec.name].payload_bytes(block=block, tokens=5, batch=2) == exact
