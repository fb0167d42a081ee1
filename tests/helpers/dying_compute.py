"""`peer.compute_main` whose whole board dies in a phase of a request that a test names.

The file DIE_DIR/PID, PID being the daemon's, holds `prepare`, `round K` (its own codes are out, those of the others are
here) or `gather` (its last block is done, its class token not sent). Daemon and compute are killed together.
"""

import os
import signal
from pathlib import Path
from typing import Never

from peer.compute_main import main
from peer.protocol.effects import Attend, Begin
from peer.protocol.events import Event, ShardDone
from peer.worker import Worker

_wish = Path(os.environ["DIE_DIR"]) / str(os.getppid())
_begin, _attend = Worker.begin, Worker.attend


def _told(phase: str) -> bool:
    return _wish.exists() and _wish.read_text() == phase


def _die() -> Never:
    _wish.rename(_wish.with_suffix(".done"))
    os.killpg(os.getpgid(0), signal.SIGKILL)
    raise AssertionError("a killed process went on")


def _begin_or_die(worker: Worker, effect: Begin) -> Event:
    if _told("prepare"):
        _die()
    return _begin(worker, effect)


def _attend_or_die(worker: Worker, effect: Attend) -> Event | None:
    work = worker._work.get(effect.key)
    if work is not None and _told(f"round {work.shard.block}"):
        _die()
    event = _attend(worker, effect)
    if isinstance(event, ShardDone) and _told("gather"):
        _die()
    return event


Worker.begin = _begin_or_die  # type: ignore[method-assign]
Worker.attend = _attend_or_die  # type: ignore[method-assign]
main()
