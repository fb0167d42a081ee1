"""The daemon's side of its compute process: starts it, hands events over, starts it again when it ends by itself.

Requests that were asked of this board and under way when the process ended are submitted once more, one after the
other and nothing beside them: the one that sees a process end again is the cause (a poison request) and is refused.
Requests of other boards are theirs to repeat.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import assert_never

from peer.compute_words import Account, Admitted, Down, Finish, Holdings, Lost, Measure, Ready, Setup, Unable, Up
from peer.errors import PeerError, RemoteStageError
from peer.protocol.effects import Deliver
from peer.protocol.events import CancelRequested, Submission, Submitted, ViewChanged
from peer.protocol.tracing import Collected, CollectSpans, OwnSpans
from peer.protocol.types import ModelId, PeerId, RequestId
from peer.pulse import Pulse

_log = logging.getLogger(__name__)
_POISON = 2  # processes that one request may see end
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 10.0
_STEADY_S = 60.0  # a process that lived so long starts the pauses anew
_END_S = 5.0
_DOWN_S = 3600.0  # what a board without its compute says of itself: it is stuck


class ComputeFailure(PeerError):
    """The compute process cannot start: nothing that starting it again would mend."""


class ComputeProcess:
    """Owned by the event loop, like its callbacks."""

    def __init__(
        self,
        *,
        setup: Callable[[], Setup],
        on_deliver: Callable[[Deliver], None],
        on_lost: Callable[[PeerId], None],
        on_trace: Callable[[OwnSpans | Collected], None] = lambda _: None,
        on_change: Callable[[], None] = lambda: None,
        program: str = "peer.compute_main",
    ) -> None:
        """`setup` describes the board as it is at each start; `program` is another module in tests only.

        `on_change`: `up` is not what it was.
        """
        self.account: Account | None = None  # the last one: what happened a second ago is in it
        self.restarts = 0
        self._setup = setup
        self._program = program
        self._on_deliver = on_deliver
        self._on_lost = on_lost
        self._on_trace = on_trace
        self._on_change = on_change
        self._under_way: dict[RequestId, tuple[Submission, int]] = {}  # and to how many processes it was given
        self._ended = False  # a process ended, and requests that it had are still to be tried
        self._tried: RequestId | None = None  # such a request, submitted alone
        self._pulse = Pulse()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()
        self._unable = ""
        self._finishing = False
        self._heard_at = time.monotonic()

    @property
    def up(self) -> bool:
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None and self.up else None

    @property
    def counters(self) -> Counter[str]:
        return Counter() if self.account is None else self.account.counters

    @property
    def speed(self) -> float | None:
        return None if self.account is None else self.account.speed

    def stuck_s(self) -> float:
        """How long the compute has been in one step; very long while there is no process."""
        return self._pulse.stuck_s() if self.up else _DOWN_S

    def silent_s(self) -> float:
        """Since the process said something, or was started."""
        return time.monotonic() - self._heard_at

    async def start(self) -> None:
        """Start the process and wait until it can serve. Raises ComputeFailure with the remedy."""
        if not await self._started():
            await self._reaped()
            raise ComputeFailure(self._unable or "the compute process ended while it started; see the lines above")

    async def keep(self) -> None:
        """Run for ever: start the process again whenever it ends. Raises ComputeFailure when it says that it cannot."""
        pause_s, since = _PAUSE_S, time.monotonic()
        while True:
            await self._gone.wait()
            code = await self._reaped()
            if self._finishing:
                return
            if self._unable:
                raise ComputeFailure(self._unable)
            pause_s = _PAUSE_S if time.monotonic() - since > _STEADY_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            self.restarts += 1
            _log.error("the compute process ended (%s); starting it again", _why(code))
            self._give_up_poison()
            self._ended = True
            await asyncio.sleep(pause_s)
            since = time.monotonic()
            self._tried = None
            if await self._started():
                self._go_on()

    async def _started(self) -> bool:
        """Start a process; whether it can serve. Otherwise it has ended, and `_unable` may say why."""
        self._spawn()
        ends = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._gone)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        return self.up

    def submit(self, event: Submitted | CancelRequested | ViewChanged) -> None:
        """Hand an event over. What comes while the process is down waits, or is part of the next one's setup."""
        if isinstance(event, Submitted):
            self._under_way[event.submission.request] = (event.submission, 0)
            self._go_on()
            return
        if isinstance(event, CancelRequested):
            _, given = self._under_way.get(event.request, (None, 0))
            if not self.up or not given:
                self._under_way.pop(event.request, None)  # no process knows of it
        self._send(event)

    def admit(self, keys: frozenset[bytes]) -> None:
        """Public keys that open the data socket from now on, and no others."""
        self._send(Admitted(keys=keys))

    def hold(self, holdings: Holdings) -> None:
        """The models of this board have changed."""
        self._send(holdings)

    def collect(self, wanted: CollectSpans) -> None:
        """Have the spans of a request collected; they come to `on_trace`."""
        self._send(wanted)

    def measure(self, model: ModelId) -> None:
        """Have a model measured that no request may have used yet."""
        self._send(Measure(model=model))

    async def finish(self) -> None:
        """Let what is under way end, then end the process."""
        self._finishing = True
        if self._process is None:
            return
        if self.up:
            self._send(Finish())
        else:
            self._process.kill()
        try:
            async with asyncio.timeout(_END_S):
                await self._gone.wait()
        except TimeoutError:
            self._process.kill()
            await self._gone.wait()
        await self._reaped()
        self._pulse.close()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._ready.clear()
        self._gone.clear()
        self._pulse.end()
        handed = (theirs.fileno(), self._pulse.descriptor)
        command = [sys.executable, "-m", self._program, *map(str, handed), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=handed)
        theirs.close()
        self._connection = Connection(ours.detach())
        self._heard_at = time.monotonic()
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._hear)
        self._connection.send(self._setup())

    def _send(self, word: Down) -> None:
        if not self.up or self._connection is None:
            return  # the next process is set up with the board as it is then, and gets the requests again
        try:
            self._connection.send(word)
        except OSError:
            return  # it has just ended; `keep` will notice

    def _hear(self) -> None:
        """What the process says, or its end."""
        assert self._connection is not None
        try:
            while self._connection.poll():
                self._take(self._connection.recv())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._ready.clear()
            self._gone.set()
            self._on_change()

    def _take(self, word: Up) -> None:
        self._heard_at = time.monotonic()
        match word:
            case Ready():
                self._ready.set()
                self._on_change()
            case Unable(problem=problem):
                self._unable = problem
            case Lost(peer=peer):
                self._on_lost(peer)
            case Account():
                self.account = word
            case OwnSpans() | Collected():
                self._on_trace(word)
            case Deliver(request=request):
                self._under_way.pop(request, None)
                self._on_deliver(word)
                if request == self._tried:
                    self._tried = None
                    self._go_on()
            case _ as never:
                assert_never(never)

    async def _reaped(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait)

    def _go_on(self) -> None:
        """Submit what waits: alone what has seen a process end, everything when there is no such request."""
        if not self.up or self._tried is not None:
            return
        given = [request for request, (_, times) in self._under_way.items() if times]
        self._tried = given[0] if self._ended and given else None
        self._ended = self._tried is not None
        for request, (submission, times) in list(self._under_way.items()):
            if request == self._tried or (self._tried is None and not times):
                self._under_way[request] = (submission, times + 1)
                self._send(Submitted(submission=submission))

    def _give_up_poison(self) -> None:
        for request, (_, given) in list(self._under_way.items()):
            if given >= _POISON:
                del self._under_way[request]
                number = f"{request:016x}"
                _log.error("request %s is refused: it ended the compute twice", number, extra={"request": number})
                error = RemoteStageError(
                    f"the compute process ended {given} times with this request under way; it is not tried again"
                )
                self._on_deliver(Deliver(request=request, result=error))


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in {int(known) for known in signal.Signals} else f"signal {-code}"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name
