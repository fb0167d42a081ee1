"""A verified model, loaded: the undivided network and the parts of a divided one.

Loading checks every digest, loads only what a request always needs, and runs each graph once: a model that loaded is
fast from its first request on. Codecs with graphs are loaded when first asked for.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.arrays import F32, U8, Array
from runtime.codec.base import Codec
from runtime.codec.build import build
from runtime.errors import PlanError, StageError
from runtime.integrity import FileMark, mark_files, open_model, read_plan
from runtime.memory import free_bytes
from runtime.plan import ModelPlan, StageSpec, Yields
from runtime.settings import SessionSettings
from runtime.stage import Stage, check_outputs

# Packed weights are a private copy of everything; as much again shall stay free for the rest of the board.
_PREPACK_ROOM = 3


class Model:
    """The graphs of one model. Thread-compatible: one thread at a time, whichever it is."""

    def __init__(
        self,
        folder: Path,
        plan: ModelPlan,
        marks: tuple[FileMark, ...],
        settings: SessionSettings,
        whole: SessionSettings | None = None,
    ) -> None:
        """For `load`, which verifies the folder first; `whole` are settings of the undivided network's own."""
        self.plan = plan
        self.settings = settings
        self._folder = folder
        self._marks = marks
        self._codecs: dict[str, Codec] = {}
        self._project: tuple[Stage, ...] = ()
        blocks = range(plan.geometry.blocks)
        self.embed = self._stage("embed")
        self.query = tuple(self._stage(f"query.{block}") for block in blocks)
        self.attend = tuple(self._stage(f"attend.{block}") for block in blocks)
        self._head = self._stage("head", threads=1)
        self._whole = self._open(self._spec("whole"), whole or settings)
        self._check_unchanged()

    @classmethod
    def load(cls, folder: Path, settings: SessionSettings) -> "Model":
        """Verify `folder`, load its graphs and run each once.

        Raises PlanError, ModelDigestMismatch or StageError. `settings.prepack` None becomes True when free memory
        exceeds three times the model's size, and then only for the divided network: a second packed copy for the
        undivided one would double the memory for a few percent of its speed. `model.settings` tells the choice.
        """
        marks = mark_files(folder, read_plan(folder))  # before the digests are checked, compared after loading
        plan = open_model(folder)
        whole = settings
        if settings.prepack is None:
            free = free_bytes()
            settings = replace(settings, prepack=free is None or free > _PREPACK_ROOM * plan.size_bytes)
            whole = replace(settings, prepack=False)
        model = cls(folder, plan, marks, settings, whole)
        model._warm_up()
        return model

    def codec(self, name: str) -> Codec:
        """The codec called `name`, loaded on the first call. Raises PlanError (unknown name) or StageError."""
        if name not in self._codecs:
            spec = self.plan.codec(name)
            if spec is None:
                known = ", ".join(codec.name for codec in self.plan.codecs)
                raise PlanError(f"model {self.plan.name} has no codec {name!r}", f"choose one of {known}")
            if spec.yields is Yields.INPUT and not self._project:
                self._project = tuple(self._stage(f"project.{i}") for i in range(self.plan.geometry.blocks))
            # One thread: these graphs are small, and a pool of threads for each would only idle.
            codec = build(spec, self.plan.geometry.width, lambda graph: self._open(graph, self._settings(1)))
            self._check_unchanged()
            self._warm_up_codec(codec)
            self._codecs[name] = codec
        return self._codecs[name]

    @property
    def loaded_codecs(self) -> frozenset[str]:
        """Codecs that were asked for so far."""
        return frozenset(self._codecs)

    def whole(self, rows: U8) -> F32:
        """All tokens of pictures, u8 [B, tokens, row_bytes], through the undivided network -> logits f32 [B, C]."""
        geometry = self.plan.geometry
        if rows.ndim != 3 or rows.shape[1:] != (geometry.tokens, geometry.row_bytes) or rows.dtype != np.uint8:
            raise StageError(
                "whole", f"cannot take {rows.dtype.name} rows of shape {rows.shape}", "decode the picture again"
            )
        return _f32(self._whole.run(rows)[0])

    def head(self, cls: F32) -> F32:
        """Class tokens f32 [B, D], averaged over boards (ASTRA, sec. 3.4) -> logits f32 [B, C]."""
        if cls.ndim != 2 or cls.shape[1] != self.plan.geometry.width or cls.dtype != np.float32:
            raise StageError("head", f"cannot take {cls.dtype.name} class tokens of shape {cls.shape}")
        return _f32(self._head.run(cls)[0])

    def project(self, values: F32, block: int) -> F32:
        """Decoded block inputs f32 [B, R, D] -> keys and values f32 [B, R, 2D], for codecs that yield inputs."""
        return _f32(self._project[block].run(values)[0])

    def _stage(self, name: str, threads: int | None = None) -> Stage:
        return self._open(self._spec(name), self._settings(threads))

    def _spec(self, name: str) -> StageSpec:
        spec = self.plan.stage(name)
        if spec is None:
            raise StageError(name, "the model does not have it", "export the model again")
        return spec

    def _settings(self, threads: int | None) -> SessionSettings:
        return self.settings if threads is None else replace(self.settings, threads=threads)

    def _open(self, spec: StageSpec, settings: SessionSettings) -> Stage:
        return Stage(self._folder, spec, settings)

    def _check_unchanged(self) -> None:
        # onnxruntime opened the same paths again after they were verified.
        if mark_files(self._folder, self.plan) != self._marks:
            raise PlanError(f"files of model {self.plan.name} changed while it was being loaded", "restart the daemon")

    def _warm_up(self) -> None:
        """One divided and one undivided pass: allocators, kernels and lazily read weights are ready afterwards."""
        geometry = self.plan.geometry
        own = (geometry.tokens + 1) // 2
        rows = np.zeros((1, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
        x, h, kv = self._try(self.embed, rows[:, :own], np.zeros(1, dtype=np.int64))
        for query, attend in zip(self.query, self.attend, strict=True):
            (q,) = self._try(query, h)
            remote = np.zeros((1, geometry.tokens - own, 2 * geometry.width), dtype=np.float32)
            outputs = self._try(attend, x, q, kv, remote)
            if len(outputs) == 3:
                x, h, kv = outputs
        self._try(self._head, outputs[0])
        self._try(self._whole, rows)

    def _warm_up_codec(self, codec: Codec) -> None:
        """One token through every block's encoder, decoder and projection."""
        values = np.zeros((1, 1, codec.spec.width), dtype=np.float32)
        for block in range(self.plan.geometry.blocks):
            decoded = codec.decode([(1, codec.encode(values, block))], block=block, batch=1)
            if codec.spec.yields is Yields.INPUT:
                decoded = self.project(decoded, block)
            if decoded.shape != (1, 1, 2 * self.plan.geometry.width) or not np.isfinite(decoded).all():
                raise StageError(f"{codec.spec.name}.decode.{block}", "does not return finite keys and values")

    @staticmethod
    def _try(stage: Stage, *inputs: Array) -> list[Array]:
        outputs = stage.run(*inputs)
        check_outputs(stage.spec, outputs)
        return outputs


def _f32(array: Array) -> F32:
    """Narrow a graph's output to the type that its checked specification promises; no copy."""
    return array.astype(np.float32, copy=False)
