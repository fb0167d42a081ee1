"""`peer.compute_main` on an emulated board: what the data plane's thread does takes S times its processor time.

Counted is the processor time of the whole process, socket threads and encryption included. onnxruntime's steps are
slowed one by one, so that the product's own measurements see a slow board; the rest (numpy, Python, bytes in and out)
is caught up with before a message leaves. Listening needs no sleep: what comes is begun when the board is through.
"""

import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import numpy as np

from peer import data_plane, profiler, worker
from peer.compute_main import main
from peer.protocol.effects import Forget
from peer.zmq_transport import DataSockets
from runtime.images import decode_rows
from runtime.model import Model
from runtime.shard import Shard
from runtime.stage import Stage
from tools.testbed.plain_core import go_without_matrix_unit
from tools.testbed.slow_core import SlowCore

_R = TypeVar("_R")


def slow_down(core: SlowCore) -> None:
    """Put `core` around everything that the data plane's thread does."""
    place_stages()
    Stage.run = _step(core, Stage.run, stage_kind)  # type: ignore[method-assign]
    setattr(worker, "decode_rows", _step(core, decode_rows, lambda data, *_: ("decode", len(data))))  # noqa: B010
    setattr(profiler, "timed", core.timed)  # noqa: B010
    for name in ("embed", "encode", "query", "attend"):
        setattr(Shard, name, _part(core, getattr(Shard, name)))
    DataSockets.send = _send(core, DataSockets.send)  # type: ignore[method-assign]
    for name in ("wait", "receive"):
        setattr(DataSockets, name, _listen(core, getattr(DataSockets, name)))
    for name in ("load", "codec"):
        setattr(Model, name, _aside(core, getattr(Model, name)))
    run, forget = data_plane.DataPlane.run, worker.Worker.forget

    def slowed(plane: data_plane.DataPlane) -> None:
        core.slow_this_thread()
        run(plane)

    def told(board: worker.Worker, effect: Forget) -> None:
        forget(board, effect)
        core.tell()

    data_plane.DataPlane.run = slowed  # type: ignore[method-assign, assignment]
    worker.Worker.forget = told  # type: ignore[method-assign, assignment]


def _step(core: SlowCore, inner: Callable[..., _R], kind: Callable[..., Hashable]) -> Callable[..., _R]:
    def stepped(*arguments: object) -> _R:
        if not core.here:
            return inner(*arguments)
        with core.step(kind(*arguments)):
            return inner(*arguments)

    return stepped


def place_stages() -> None:
    """From here on a stage knows the folder of its model, which `stage_kind` asks for."""
    Stage.__init__ = _placed(Stage.__init__)  # type: ignore[method-assign]


def stage_kind(stage: Stage, *inputs: np.ndarray) -> Hashable:
    """The same graph in another block has the same work to do, unless its outputs are others (the last block's are).

    Of one model: weights of another type are another graph under the same name.
    """
    name = ".".join(part for part in stage.spec.name.split(".") if not part.isdecimal())
    return stage.__dict__["folder"].name, name, stage.spec.outputs, tuple(each.shape for each in inputs)


def _placed(inner: Callable[..., None]) -> Callable[..., None]:
    """A stage that knows the folder of its model."""

    def placed(stage: Stage, folder: Path, *arguments: object) -> None:
        inner(stage, folder, *arguments)
        stage.__dict__["folder"] = folder

    return placed


def _part(core: SlowCore, inner: Callable[..., _R]) -> Callable[..., _R]:
    """A part of a block: what is left of it after its steps is slowed at its end, so that its time is its own."""

    def parted(*arguments: object) -> _R:
        try:
            return inner(*arguments)
        finally:
            if core.here:
                core.catch_up()

    return parted


def _aside(core: SlowCore, inner: Callable[..., _R]) -> Callable[..., _R]:
    """Loading takes as long as it takes: it is no part of a request, and would only make one wait for its model."""

    def loaded(*arguments: object) -> _R:
        if not core.here:
            return inner(*arguments)
        core.catch_up()
        with core.aside():
            return inner(*arguments)

    return loaded


def _send(core: SlowCore, inner: Callable[..., bool]) -> Callable[..., bool]:
    def sent(*arguments: object) -> bool:
        core.show()
        return inner(*arguments)

    return sent


def _listen(core: SlowCore, inner: Callable[..., _R]) -> Callable[..., _R]:
    def listened(*arguments: object) -> _R:
        asked_at, spent_before_s = time.monotonic(), time.process_time()
        try:
            return inner(*arguments)
        finally:
            core.ledger.waited(
                asked_at=asked_at,
                now=time.monotonic(),
                spent_before_s=spent_before_s,
                spent_s=time.process_time(),
            )

    return listened


if __name__ == "__main__":
    go_without_matrix_unit()
    slow_down(SlowCore(float(os.environ["TESTBED_SLOWER"])))
    main()
