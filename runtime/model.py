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
from runtime.codec.indexed import IndexedCodec
from runtime.errors import PlanError, StageError
from runtime.integrity import FileMark, mark_files, open_model, read_plan
from runtime.memory import free_bytes
from runtime.plan import CodecSpec, DType, ModelPlan, StageSpec, TensorSpec, Yields
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
        self._own_attend: dict[str, tuple[Stage, ...]] = {}  # by codec
        self._attend: tuple[Stage, ...] = ()
        self._project: tuple[Stage, ...] = ()
        blocks = range(plan.geometry.blocks)
        self.embed = self._stage("embed")
        self.query = tuple(self._stage(f"query.{block}") for block in blocks)
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

    @property
    def attend(self) -> tuple[Stage, ...]:
        """The blocks that take others' keys and values; loaded when first asked for, as some codecs bring their own."""
        if not self._attend:
            self._attend = tuple(self._stage(f"attend.{block}") for block in range(self.plan.geometry.blocks))
            self._check_unchanged()
        return self._attend

    def own_attend(self, codec: Codec) -> tuple[Stage, ...]:
        """The blocks that take the indices of `codec`, which was loaded, as they travel; empty where it has none."""
        return self._own_attend.get(codec.spec.name, ())

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
            own = tuple(self._open(own_attend_stage(self.plan, spec, block), self.settings) for block in _blocks(spec))
            self._check_unchanged()
            self._warm_up_codec(codec, own)
            self._codecs[name], self._own_attend[name] = codec, own
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
        """One divided and one undivided pass: allocators, kernels and lazily read weights are ready afterwards.

        A default codec that brings blocks of its own runs them when it is loaded.
        """
        default = self.plan.codec(self.plan.default_codec)
        own_blocks = default is not None and bool(default.attend)
        geometry = self.plan.geometry
        own = (geometry.tokens + 1) // 2
        rows = np.zeros((1, geometry.tokens, geometry.row_bytes), dtype=np.uint8)
        x, h, kv = self._try(self.embed, rows[:, :own], np.zeros(1, dtype=np.int64))
        for block, query in enumerate(self.query):
            (q,) = self._try(query, h)
            if own_blocks:
                continue
            remote = np.zeros((1, geometry.tokens - own, 2 * geometry.width), dtype=np.float32)
            outputs = self._try(self.attend[block], x, q, kv, remote)
            if len(outputs) == 3:
                x, h, kv = outputs
        self._try(self._head, x[:, 0])
        self._try(self._whole, rows)

    def _warm_up_codec(self, codec: Codec, own: tuple[Stage, ...]) -> None:
        """One token through every block's encoder, decoder and projection, and through blocks of its own."""
        if codec.spec.start and isinstance(codec, IndexedCodec):
            places = self.plan.geometry.tokens
            state = codec.start(np.arange(places, dtype=np.int64), 1)
            if state is None or state.shape != (1, places, codec.spec.state) or not np.isfinite(state).all():
                raise StageError(f"{codec.spec.name}.start", "does not return a finite state for every place")
        values = np.zeros((1, 1, codec.spec.width), dtype=np.float32)
        for block in range(self.plan.geometry.blocks):
            decoded = codec.decode([(1, codec.encode(values, block))], block=block, batch=1)
            if codec.spec.yields is Yields.INPUT:
                decoded = self.project(decoded, block)
            if decoded.shape != (1, 1, 2 * self.plan.geometry.width) or not np.isfinite(decoded).all():
                raise StageError(f"{codec.spec.name}.decode.{block}", "does not return finite keys and values")
        x, h, kv = self.embed.run(np.zeros((1, 1, self.plan.geometry.row_bytes), np.uint8), np.zeros(1, dtype=np.int64))
        for block, stage in enumerate(own):
            others, remote = self.plan.geometry.tokens - 1, list[Array]()
            if not codec.spec.silent(block):
                remote.append(np.zeros((1, others, len(codec.spec.index_bits(block))), dtype=np.int32))
            if codec.spec.state:
                remote.append(np.zeros((1, others, codec.spec.state), dtype=np.float32))
            outputs = self._try(stage, x, self.query[block].run(h)[0], kv, *remote)
            if len(outputs) >= 3:
                x, h, kv = outputs[:3]

    @staticmethod
    def _try(stage: Stage, *inputs: Array) -> list[Array]:
        outputs = stage.run(*inputs)
        check_outputs(stage.spec, outputs)
        return outputs


def _blocks(spec: CodecSpec) -> range:
    return range(len(spec.attend))


def own_attend_stage(plan: ModelPlan, codec: CodecSpec, block: int) -> StageSpec:
    """What the graph of a codec's own block must be: like the model's, with indices where decoded values come in."""
    like = plan.stage(f"attend.{block}")
    if like is None:
        raise StageError(f"attend.{block}", "the model does not have it", "export the model again")
    indices = TensorSpec(name="indices", dtype=DType.I32, shape=("B", "R", len(codec.index_bits(block))))
    state, following = (TensorSpec(name=n, dtype=DType.F32, shape=("B", "R", codec.state)) for n in ("state", "next"))
    silent, last = codec.silent(block), block + 1 == plan.geometry.blocks
    return StageSpec(
        name=f"{codec.name}.attend.{block}",
        file=codec.attend[block],
        inputs=(*like.inputs[:-1], *(() if silent else (indices,)), *((state,) if codec.state else ())),
        outputs=(*like.outputs, *((following,) if codec.state and not silent and not last else ())),
    )


def _f32(array: Array) -> F32:
    """Narrow a graph's output to the type that its checked specification promises; no copy."""
    return array.astype(np.float32, copy=False)
