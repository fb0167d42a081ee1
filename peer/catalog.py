"""The models of this board: found, verified, and added while the board serves. The compute process loads them."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from peer.errors import CheckFailed, ConfigError, NoSuchModel
from peer.protocol.types import CodecFacts, ModelFacts, ModelId
from runtime.errors import RuntimeFailure
from runtime.integrity import open_model
from runtime.plan import ModelPlan

_log = logging.getLogger(__name__)
MAX_MODELS = 64


class Catalog(Mapping[ModelId, ModelPlan]):
    """Verified models by id; safe from several threads.

    A board may have none: `default` is None then, and `problem` says why.
    """

    def __init__(self, folder: Path, default: str | None, *, fetched: Path | None = None) -> None:
        """Verify every model below `folder`, and below `fetched` where it is another folder and exists.

        Raises ConfigError when there are models and the one named as the default is not among them.
        """
        # Replaced as a whole and never changed: other threads walk through them.
        self._folders: dict[ModelId, Path] = {}
        self._plans: dict[ModelId, ModelPlan] = {}
        refusals: dict[str, str] = {}
        places = _candidates(folder)
        if fetched is not None and fetched != folder:
            places += _candidates(fetched)
        for place in places:
            try:
                plan = open_model(place)
            except RuntimeFailure as problem:
                refusals[place.name] = str(problem)
                _log.warning("model %s is refused: %s", place.name, problem)
                continue
            self._plans[ModelId(plan.model_id)] = plan
            self._folders[ModelId(plan.model_id)] = place
        self.problem = ""
        if not self._plans:
            why = next(iter(refusals.values()), "there is no folder with a manifest.json")
            self.problem = f"no usable model in {folder}: {why}; name another folder with --models"
        self.default = self._choose(default, refusals)

    def _choose(self, name: str | None, refusals: Mapping[str, str]) -> ModelId | None:
        if not self._plans:
            return None
        by_name = {plan.name: model for model, plan in self._plans.items()}
        if name is None:
            return by_name[min(by_name)]
        if name not in by_name:
            raise ConfigError(f"the default model {name} cannot be used: {refusals.get(name, 'it is not there')}")
        return by_name[name]

    def __iter__(self) -> Iterator[ModelId]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    def __getitem__(self, model: ModelId) -> ModelPlan:
        return self._plans[model]

    def plan(self, model: ModelId) -> ModelPlan:
        return self._plans[model]

    def place(self, model: ModelId) -> Path | None:
        """The folder of a model, or None where this board does not hold it."""
        return self._folders.get(model)

    def add(self, folder: Path) -> ModelId:
        """Verify a model that was put into `folder`, and hold it from now on. Raises RuntimeFailure."""
        plan = open_model(folder)
        name = ModelId(plan.model_id)
        self._folders = {**self._folders, name: folder}
        self._plans = {**self._plans, name: plan}
        self.default = self.default or name
        self.problem = ""
        return name

    def folders(self) -> dict[ModelId, Path]:
        """Where each model lies."""
        return dict(self._folders)

    def named(self, name: str | None) -> ModelId:
        """The id of a model by its name; None is the default. Raises NoSuchModel."""
        if self.default is None:
            raise NoSuchModel(
                "this board has no model yet; it gets one from the first board that does: see peerctl members, "
                "or peerctl models fetch NAME"
            )
        if name is None:
            return self.default
        for model, plan in self._plans.items():
            if plan.name == name:
                return model
        known = ", ".join(sorted(plan.name for plan in self._plans.values()))
        raise NoSuchModel(f"no model {name} on this board; it has {known}")

    def verify(self, model: ModelId) -> ModelPlan:
        """Hash the files again. Raises CheckFailed naming the first file that is wrong."""
        try:
            plan = open_model(self._folders[model])
        except RuntimeFailure as problem:
            raise CheckFailed(str(problem)) from problem
        if plan.model_id != model:
            raise CheckFailed(f"model {plan.name} was replaced on disk since the daemon started; restart it")
        return plan

    def facts_of(self, model: ModelId) -> ModelFacts:
        """What the protocol needs to know of one model."""
        return _facts(self._plans[model])

    def facts(self) -> dict[ModelId, ModelFacts]:
        """What the protocol needs to know of each model."""
        return {model: _facts(plan) for model, plan in self._plans.items()}


def _candidates(folder: Path) -> list[Path]:
    try:
        found = sorted(place for place in folder.iterdir() if (place / "manifest.json").exists())
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise ConfigError(f"the models folder {folder} cannot be read ({problem.strerror}); check --models") from None
    if len(found) > MAX_MODELS:
        _log.warning("%d models are in %s; the first %d are used", len(found), folder, MAX_MODELS)
    return found[:MAX_MODELS]


def _facts(plan: ModelPlan) -> ModelFacts:
    blocks = plan.geometry.blocks
    codecs = {
        codec.name: CodecFacts(
            name=codec.name,
            bits_per_token=tuple(codec.bits_per_token(block) for block in range(blocks)),
            points_lost=codec.points_lost,
            family=f"{codec.kind.value} {codec.source.value} {codec.state} {bool(codec.attend)}",
        )
        for codec in plan.codecs
    }
    return ModelFacts(
        model=ModelId(plan.model_id),
        name=plan.name,
        blocks=blocks,
        tokens=plan.geometry.tokens,
        row_bytes=plan.geometry.row_bytes,
        width=plan.geometry.width,
        default_codec=plan.default_codec,
        codecs=codecs,
        labels=len(plan.labels),
        size_bytes=plan.size_bytes,
    )
