"""The order in which the thread that owns sockets and compute takes what has come to it."""

from collections import Counter
from typing import Any, cast

from peer.data_plane import DataPlane
from peer.protocol import wire
from peer.protocol.effects import Effect, RunWhole
from peer.protocol.events import CancelRequested, Event, LogitsReady, MessageReceived
from peer.protocol.messages import Echo
from peer.protocol.types import ModelId, PeerId, RequestId, Timing, View
from peer.zmq_transport import Received

ME, OTHER = PeerId("aa" * 8), PeerId("bb" * 8)
RUN = RunWhole(request=RequestId(1), model=ModelId("00" * 32), batch=1, rows=b"")


class Wire:
    """Sockets to which messages come when the test says so; they end the thread when nothing comes any more."""

    def __init__(self) -> None:
        self.waiting: list[Received] = []
        self.plane: DataPlane | None = None
        self._silent = 0

    def wait(self, timeout_s: float | None) -> bool:
        return bool(self.waiting)

    def receive(self) -> Received | None:
        self._silent = 0 if self.waiting else self._silent + 1
        if self._silent > 5 and self.plane is not None:
            self.plane.stop()
        return self.waiting.pop(0) if self.waiting else None

    def broken(self) -> list[PeerId]:
        return []

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Machine:
    """Answers the first question with an undivided run, and notes what it is told, in order."""

    def __init__(self) -> None:
        self.view = View(self_id=ME)
        self.counters: Counter[str] = Counter()
        self.told: list[str] = []
        self.idle = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.told.append("answer" if isinstance(event, MessageReceived) else type(event).__name__)
        return [RUN] if self.told == ["CancelRequested"] else []

    def wants(self, effect: Effect) -> bool:
        return True

    def deadline(self) -> float | None:
        return None


class Compute:
    """While its one run lasts, two questions are asked and three answers come."""

    def __init__(self, wire_: Wire) -> None:
        self._wire = wire_
        self.plane: DataPlane | None = None

    def whole(self, effect: RunWhole) -> Event:
        assert self.plane is not None
        for number in range(3):
            frames = wire.encode(Echo(sender=OTHER, sequence=number, busy=False))
            self._wire.waiting.append(Received(frames=frames, sender=OTHER, source=""))
        self.plane.submit(CancelRequested(request=RequestId(2)))
        self.plane.submit(CancelRequested(request=RequestId(3)))
        return LogitsReady(request=effect.request, timing=Timing(), body=b"")

    def busy(self, now: float) -> bool:
        return False

    def idle(self, now: float) -> float:
        return 1.0


def test_after_a_run_the_answers_that_came_meanwhile_are_taken_before_the_questions() -> None:
    sockets, machine = Wire(), Machine()
    compute = Compute(sockets)
    crashed: list[BaseException] = []
    plane = DataPlane(
        sockets=cast("Any", sockets),
        machine=cast("Any", machine),
        compute=cast("Any", compute),
        encrypted=False,
        on_deliver=lambda _: None,
        on_lost=lambda _: None,
        on_crash=crashed.append,
    )
    compute.plane = sockets.plane = plane
    plane.submit(CancelRequested(request=RequestId(1)))
    plane.run()
    assert not crashed
    assert machine.told == ["CancelRequested", "LogitsReady", *3 * ["answer"], *2 * ["CancelRequested"]]
