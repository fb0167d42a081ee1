"""`peer.compute_main` on an emulated board: what the data plane's thread does takes S times its processor time.

Counted is the processor time of the whole process, socket threads and encryption included. A shard's parts, and
elsewhere onnxruntime's steps, are slowed one by one, so that the product's own measurements see a slow board; the rest
(Python, bytes in and out) is caught up with before a message leaves. Listening needs no sleep: what comes is begun when
the board is through.
"""

import os
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from peer import data_plane, profiler, worker
from peer.compute_main import main
from peer.protocol.effects import Forget
from peer.zmq_transport import DataSockets
from runtime.images import decode_rows
from runtime.model import Model
from runtime.shard import Shard
from runtime.stage import Stage
from tools.testbed.kinds import PARTS, part_kind, place_stages, stage_kind
from tools.testbed.plain_core import go_without_matrix_unit
from tools.testbed.slow_core import SlowCore

_R = TypeVar("_R")


def slow_down(core: SlowCore) -> None:
    """Put `core` around everything that the data plane's thread does."""
    place_stages()
    Stage.run = _step(core, Stage.run, stage_kind)  # type: ignore[method-assign]
    setattr(worker, "decode_rows", _step(core, decode_rows, lambda data, *_: ("decode", len(data))))  # noqa: B010
    setattr(profiler, "timed", core.timed)  # noqa: B010
    for name in PARTS:
        setattr(Shard, name, _part(core, name))
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
        if not core.here or core.in_step:
            return inner(*arguments)
        with core.step(kind(*arguments)):
            return inner(*arguments)

    return stepped


def _part(core: SlowCore, name: str) -> Callable[..., object]:
    """A part of a request, slowed as a whole; what of it decoding took is told as the slower board's."""
    inner = getattr(Shard, name)

    def parted(shard: Shard, *arguments: object) -> object:
        if not core.here or core.in_step:
            return inner(shard, *arguments)
        decoded_s = shard.decode_s
        with core.step(part_kind(name, shard, *arguments)):
            result = inner(shard, *arguments)
            shard.decode_s += (core.ledger.slower - 1) * (shard.decode_s - decoded_s)
        return result

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
