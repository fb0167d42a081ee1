"""The compute process: tensor sockets, request machine and onnxruntime, apart from the daemon that started it.

What crashes here, runs out of memory or is killed takes no membership with it. The data plane's thread does all the
work; this module's own thread hands it what the daemon says, and ends the process when the daemon is gone.
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection

from peer import log_lines
from peer.compute_words import Account, Admitted, Down, Finish, Holdings, Lost, Measure, Ready, Setup, Unable, Up
from peer.data_plane import DataPlane
from peer.errors import PeerError
from peer.loaded_models import LoadedModels
from peer.protocol.events import ModelsChanged, TimerDue, ViewChanged
from peer.protocol.profile import BoardProfile
from peer.protocol.requests import Requests
from peer.protocol.spans import SpanLog
from peer.protocol.types import ModelFacts, ModelId
from peer.pulse import Pulse
from peer.worker import Worker
from peer.zmq_transport import DataSockets, ZmqContext
from runtime.errors import RuntimeFailure
from runtime.memory import GiveBack, free_bytes, keep_freed
from runtime.packed_rows import pack_rows

_log = logging.getLogger(__name__)
_ACCOUNT_S = 1.0
_QUIET_ACCOUNT_S = 5.0  # while nothing happens: one a second was a tenth of what standing by costs
_FINISH_S = 2.0


class Accounting:
    """When to tell the daemon what was counted and measured. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._told_at = -math.inf

    def due(self, *, stirred: bool, now: float) -> bool:
        """Whether to tell it now, which is then taken as done. `stirred`: whether it would be news."""
        wait_s = _ACCOUNT_S if stirred else _QUIET_ACCOUNT_S
        if now - self._told_at < wait_s:
            return False
        self._told_at = now
        return True


class _Daemon:
    """The way up; several threads use it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def tell(self, word: Up) -> None:
        with self._lock, contextlib.suppress(OSError):  # the daemon is gone, and this process will be at once
            self._connection.send(word)


class Compute:
    """One data plane, and the daemon's words for it."""

    def __init__(self, setup: Setup, daemon: _Daemon, pulse: Pulse) -> None:
        self._daemon = daemon
        self._usual: ModelId | None = setup.holdings.usual
        self._give_back = GiveBack()
        self._turns = self._told_turns = 0
        self._models = LoadedModels(setup.holdings.folders, setup.settings)
        self._zmq = ZmqContext(setup.keys)
        self._zmq.members.replace(setup.admitted)
        sockets = DataSockets(self._zmq, setup.host, setup.port)
        spans = SpanLog()
        self._facts = setup.holdings.facts
        self._worker = Worker(self._models, lambda: self._usual, self._model_facts, spans=spans)
        self._machine = Requests(view=setup.view, models=setup.holdings.facts, limits=setup.limits, pack=pack_rows)
        self._plane = DataPlane(
            sockets=sockets,
            machine=self._machine,
            compute=self._worker,
            encrypted=setup.keys is not None,
            pulse=pulse,
            spans=spans,
            on_deliver=daemon.tell,
            on_trace=daemon.tell,
            on_lost=lambda peer: daemon.tell(Lost(peer=peer)),
            on_crash=_die,
        )

    def _model_facts(self, model: ModelId) -> ModelFacts | None:
        return self._facts.get(model)

    def start(self) -> None:
        """Load what the first request will need, then serve. Raises RuntimeFailure."""
        if self._usual is not None:
            model = self._models[self._usual]
            model.codec(model.plan.default_codec)
        self._plane.submit(ViewChanged(view=self._machine.view))
        self._plane.start()

    def hear(self, word: Down) -> bool:
        """Follow a word of the daemon; False when it was the last."""
        match word:
            case Admitted(keys=keys):
                self._zmq.members.replace(keys)
            case Holdings():
                self._models.hold(word.folders)
                self._usual = self._usual or word.usual
                self._facts = word.facts
                self._plane.submit(ModelsChanged(models=word.facts))
            case Measure(model=model):
                self._worker.profiler.used(model)
                self._plane.submit(TimerDue())  # it may be asleep
            case Finish():
                return False
            case Setup():
                raise AssertionError("a compute process is set up once")
            case _ as event:
                self._plane.submit(event)
        return True

    def tidy(self) -> None:
        """Call about every second."""
        turns, self._turns = self._turns, self._plane.dispatched
        self._give_back.look(worked=self._turns != turns or not self._plane.idle, now=time.monotonic())

    @property
    def stirred(self) -> bool:
        """Whether an account would say more than the last one, apart from what time alone changes."""
        return self._plane.turns != self._told_turns or not self._plane.idle

    def account(self) -> Account:
        self._told_turns = self._plane.turns
        counters: Counter[str] = Counter(self._plane.counters)
        counters.update(self._plane.machine_counters)
        profile = BoardProfile(
            rate=self._machine.soundings.fastest, free_bytes=free_bytes(), models=self._worker.profiler.profiles
        )
        return Account(
            counters=counters,
            speed=self._worker.speedometer.speed(time.monotonic()),
            profile=profile,
            links=self._machine.soundings.links,
            lessons=self._machine.experience.lessons,
            load=self._plane.load,
            shards=self._plane.ledger.shards,
            traffic=self._plane.ledger.links(),
        )

    def finish(self) -> None:
        """Let shards under way end, then close; other boards are told by their links."""
        until = time.monotonic() + _FINISH_S
        while not self._plane.idle and time.monotonic() < until:
            time.sleep(0.01)
        self._plane.stop()
        self._plane.join(_FINISH_S)


def serve(connection: Connection, pulse: Pulse) -> int:
    """Until the daemon says so, or is gone; the exit code."""
    daemon = _Daemon(connection)
    setup = connection.recv()
    if not isinstance(setup, Setup):
        return 1
    try:
        compute = Compute(setup, daemon, pulse)
        compute.start()
    except (PeerError, RuntimeFailure) as problem:
        daemon.tell(Unable(problem=str(problem)))
        return 1
    daemon.tell(Ready())
    accounting, tidied_at = Accounting(), 0.0
    while True:
        try:
            if connection.poll(_ACCOUNT_S) and not compute.hear(connection.recv()):
                break
        except (EOFError, OSError):
            os._exit(0)  # the daemon is gone: nobody is left to compute for, and no step is worth finishing
        now = time.monotonic()
        if now - tidied_at >= _ACCOUNT_S:
            tidied_at = now
            compute.tidy()
        if accounting.due(stirred=compute.stirred, now=now):
            daemon.tell(compute.account())
    compute.finish()
    return 0


def _die(problem: BaseException) -> None:
    """The data plane's thread ended. Its process ends with it: the daemon starts another one."""
    _log.critical("the data plane ended: %s: %s", type(problem).__name__, problem, exc_info=problem)
    os._exit(1)


def main(connection: int, pulse: int) -> None:
    """Serve on two descriptors that the daemon handed down, then end the process."""
    log_lines.set_up(os.environ)
    keep_freed()
    code = serve(Connection(connection), Pulse(pulse))
    logging.shutdown()
    # Nothing waits for a socket of ours to close, and nothing of Python's is worth taking down in order.
    os._exit(code)
