"""Models in memory, loaded when they are first needed. Only the compute process has them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from peer.protocol.types import ModelId
from runtime.model import Model
from runtime.settings import SessionSettings


class LoadedModels(Mapping[ModelId, Model]):
    """By id. One thread uses it. A lookup may load, and raises RuntimeFailure where that fails."""

    def __init__(self, folders: Mapping[ModelId, Path], settings: SessionSettings) -> None:
        self._folders = dict(folders)
        self._settings = settings
        self._loaded: dict[ModelId, Model] = {}

    def hold(self, folders: Mapping[ModelId, Path]) -> None:
        """These are all models from now on."""
        self._folders = dict(folders)

    def __getitem__(self, model: ModelId) -> Model:
        if model not in self._loaded:
            self._loaded[model] = Model.load(self._folders[model], self._settings)
        return self._loaded[model]

    def __iter__(self) -> Iterator[ModelId]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)
