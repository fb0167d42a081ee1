"""A LAN of membership machines in virtual time: doors, admission, connections that stall, boards that stop and start.

Two kinds of weather. `tcp`: what is lost comes late, in order, and holds up what follows, as between real boards; a
connection that is refused once stays dead until it is dialled anew. Otherwise datagrams: messages vanish, double and
overtake each other, which no real network does to us, and which the machine must survive all the same.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from membership_board import PORT, Board, Connection, Place

from peer.protocol import ring, wire
from peer.protocol.control_events import (
    Admit,
    AdoptToken,
    ControlEffect,
    ControlEvent,
    ControlReceived,
    KeepRevoked,
    Knock,
    LeaveRequested,
    LinkBroke,
    Publish,
    Redial,
    SendControl,
    Sighted,
    TimerDue,
)
from peer.protocol.liveness import Pace
from peer.protocol.membership import Membership
from peer.protocol.messages import ControlMessage, Hello
from peer.protocol.types import REFUTATION_BITS, Address, Endpoint, Incarnation, Member, PeerId, Status, View

QUEUE = 8  # messages waiting for one board
AT_ONCE = 64  # messages that a busy board reads before it looks at its timers again
_RTO_S, _RTO_MAX_S = 0.2, 3.0


class Violation(AssertionError):
    """An invariant does not hold; the message holds the seed and the story."""


@dataclass(slots=True, kw_only=True)
class Weather:
    """What the network does to messages; seconds and shares."""

    tcp: bool = True
    delay_s: float = 0.003  # mean one-way
    loss: float = 0.0
    duplicate: float = 0.0
    wake_s: float = 0.005  # how late a timer fires, at most
    work_s: float = 0.0  # what a board needs for every message that it reads or sends, one after the other


class Lan:
    """`boards` machines, not started yet. Everything random comes from `seed`."""

    def __init__(
        self, seed: int, boards: int, *, weather: Weather | None = None, pace: Pace | None = None, check_every: int = 1
    ) -> None:
        self.seed, self.random = seed, Random(seed)
        self.weather = weather or Weather()
        self.pace = pace or Pace()
        self.now = 0.0
        self.cut: set[tuple[int, int]] = set()
        self.story: deque[str] = deque(maxlen=120)
        self.counters: Counter[str] = Counter()
        self.boards = [Board(i) for i in range(boards)]
        self.on_status: Callable[[int, int, Status], None] | None = None
        self.multicast = True
        self.messages = 0  # counted where messages take a board's time
        self._check_every, self._steps = check_every, 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._index = {board.peer: board.index for board in self.boards}
        self._by_host: dict[str, Board] = {board.host: board for board in self.boards}
        self._newest: dict[tuple[int, int, PeerId], int] = {}

    # What a test does.

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_s, next(self._sequence), action))

    def run_for(self, duration_s: float) -> None:
        end = self.now + duration_s
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit_s: float, step_s: float = 0.02) -> float | None:
        """Time until `done`, looked at every `step_s`; None when it does not come within `limit_s`."""
        start = self.now
        while not done():
            if self.now - start >= limit_s:
                return None
            self.run_for(step_s)
        return self.now - start

    def start(self, *which: int, seeds: tuple[int, ...] = (), forgetful: bool = False, host: str | None = None) -> None:
        """Start boards, or start them again: with a higher boot, from their state folder unless `forgetful`."""
        for index in which:
            board = self.boards[index]
            if host is not None:
                self.move(index, host)
            self._stop(board)
            board.up, board.away = True, False
            board.starts += 1
            board.seeds = tuple(self.boards[i].door for i in seeds) or board.seeds
            self.tell(f"b{index} starts, boot {board.starts}, at {board.host}")
            me = Member(
                peer=board.peer,
                name=f"b{index}",
                endpoint=Endpoint(host="", port=PORT),
                public_key=board.key,
                incarnation=Incarnation(board.starts << REFUTATION_BITS),
                status=Status.ALIVE,
                models=board.models,
            )
            board.machine = Membership(
                me=me,
                seeds=board.seeds,
                remembered=() if forgetful else board.remembered,
                lock=board.lock,
                revoked=board.revoked,
                pace=self.pace,
                rng=Random(self.random.random()),
                now=self.now,
            )
            board.admitted = board.machine.admitted()
            board.view = board.machine.view()
            self._arm(board)
            if self.multicast:
                self.announce(index)

    def announce(self, index: int) -> None:
        """mDNS: the others hear of this board, and it of them, if no cut lies between."""
        for other in self.boards:
            if other.index != index and other.up:
                for a, b in ((index, other.index), (other.index, index)):
                    if (a, b) not in self.cut:
                        self.at(self.now + self.random.uniform(0.0, 0.3), lambda a=a, b=b: self.sight(b, a))  # type: ignore[misc]

    def sight(self, here: int, there: int) -> None:
        if self.boards[here].up:
            self.dispatch(self.boards[here], Sighted(address=self.boards[there].door))

    def move(self, index: int, host: str) -> None:
        """Another address: connections break, everything else goes on."""
        board = self.boards[index]
        self.tell(f"b{index} moves to {host}")
        self._by_host.pop(board.host, None)
        board.host = host
        self._by_host[host] = board
        board.connections.clear()

    def crash(self, index: int, *, silent: bool = False) -> None:
        """The process dies; its connections are closed by its kernel unless it went `silent` with its power."""
        board = self.boards[index]
        self.tell(f"b{index} {'loses power' if silent else 'crashes'}")
        self._stop(board)
        if not silent:
            self._reset(board)

    def leave(self, index: int) -> None:
        board = self.boards[index]
        self.tell(f"b{index} leaves")
        self.dispatch(board, LeaveRequested())
        board.away = True
        boot = board.starts
        self.at(self.now + 0.2, lambda: self._stop(board) if board.starts == boot else None)

    def freeze(self, index: int, duration_s: float) -> None:
        """SIGSTOP, a stall, a swap storm: nothing runs, everything waits, and then all of it is there at once."""
        board = self.boards[index]
        if not board.up:
            return
        self.tell(f"b{index} stands still for {duration_s:.2f} s")
        board.frozen_until = max(board.frozen_until, self.now + duration_s)
        boot, until = board.starts, board.frozen_until
        self.at(until, lambda: self._thaw(board, boot))
        if duration_s > 3.5:
            # ZeroMQ's heartbeats give up on it, at both ends.
            self.at(self.now + 3.5, lambda: self._reset(board) if board.frozen_until == until and board.up else None)

    def isolate(self, index: int) -> None:
        others = [board.index for board in self.boards if board.index != index]
        self.cut |= {(index, i) for i in others} | {(i, index) for i in others}
        self.tell(f"b{index} is cut off")

    def split(self, group: set[int]) -> None:
        rest = {board.index for board in self.boards} - group
        self.cut |= {(a, b) for a in group for b in rest} | {(b, a) for a in group for b in rest}
        self.tell(f"split {sorted(group)}")

    def heal(self) -> None:
        self.cut.clear()
        self.tell("healed")

    def tell(self, line: str) -> None:
        self.story.append(f"{self.now:9.3f} {line}")

    # What a test looks at.

    def here(self) -> list[Board]:
        return [board for board in self.boards if board.up and not board.away]

    def status(self, here: int, there: int) -> Status | None:
        view = self.boards[here].view
        member = view.members.get(self.boards[there].peer) if view else None
        return member.status if member else None

    def one_ring(self, among: set[int] | None = None) -> bool:
        """Whether all boards that are up (of `among`) hold exactly each other alive, in one ring of one epoch."""
        boards = [b for b in self.here() if among is None or b.index in among]
        wanted = ring.order([b.machine.view().members[b.peer] for b in boards])
        rings = set()
        for board in boards:
            alive = board.machine.view().alive()
            rings.add((ring.order(alive), ring.epoch(alive)))
        return not boards or (len(rings) == 1 and next(iter(rings))[0] == wanted)

    def nobody_here(self, index: int) -> bool:
        """Whether no other board counts `index` as a member any more."""
        gone = (Status.DEAD, Status.LEFT, None)
        return all(self.status(b.index, index) in gone for b in self.here() if b.index != index)

    def nobody_trusts(self, index: int) -> bool:
        return all(self.status(b.index, index) is not Status.ALIVE for b in self.here() if b.index != index)

    def violation(self, what: str) -> Violation:
        lines = [f"seed {self.seed}, t={self.now:.3f}: {what}", *self.story]
        for board in self.here():
            known = board.machine.view().members.values()
            seen = {self._index.get(m.peer, m.peer): f"{m.status.value}/{m.incarnation:x} {m.reason}" for m in known}
            lines.append(f"b{board.index} believes {seen} counters {dict(board.machine.counters)}")
        return Violation("\n".join(lines))

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            raise self.violation(what)

    # The works.

    def dispatch(self, board: Board, event: ControlEvent) -> None:
        if not board.up:
            return
        if self.now < board.frozen_until:
            board.inbox.append(event)
            return
        if self.now < board.busy_until:
            self._postpone(board, event)
            return
        if isinstance(event, TimerDue):
            event = TimerDue(unread=min(AT_ONCE, len(board.backlog)))
        effects = board.machine.handle(event, self.now)
        self._work(board, 1 + sum(isinstance(effect, SendControl | Knock) for effect in effects))
        self._steps += 1
        if self._steps % self._check_every == 0:
            try:
                board.machine.check()
            except (AssertionError, KeyError) as problem:
                raise self.violation(f"check of b{board.index} after {event}: {problem!r}") from problem
        self._perform(board, effects)
        self._arm(board)

    def _perform(self, board: Board, effects: list[ControlEffect]) -> None:
        for effect in effects:
            match effect:
                case SendControl(to=to, message=message):
                    self._send(board, to, message)
                case Knock(at=door, message=message):
                    self._knock(board, door, message)
                case Redial(member=member):
                    place = (member.endpoint.host, member.endpoint.control_port)
                    for known in [known for known in board.connections if known[:2] == place]:
                        del board.connections[known]
                case Admit(keys=keys):
                    board.admitted = keys
                case AdoptToken(lock=lock):
                    board.lock = lock
                case KeepRevoked(peers=peers):
                    board.revoked = peers
                case Publish(view=view):
                    self._published(board, view)

    def _postpone(self, board: Board, event: ControlEvent) -> None:
        """Nothing is dropped: between two boards the network holds thousands of such small messages."""
        if isinstance(event, TimerDue):
            board.backlog.insert(AT_ONCE, event)
        else:
            board.backlog.append(event)

    def _work(self, board: Board, messages: int) -> None:
        """A board that takes its time for what it reads and sends, and then goes on with what came meanwhile."""
        if not self.weather.work_s:
            return
        self.messages += messages
        board.busy_until = self.now + self.weather.work_s * messages
        boot = board.starts
        self.at(board.busy_until, lambda: self._next(board, boot))

    def _next(self, board: Board, boot: int) -> None:
        if board.up and board.starts == boot and board.backlog and self.now >= board.busy_until:
            self.dispatch(board, board.backlog.popleft())

    def _published(self, board: Board, view: View) -> None:
        old = board.view
        board.view = view
        board.remembered = tuple(
            replace(m, status=Status.DEAD, reason="from an earlier run", rtt_s=None, speed=None)
            for m in view.members.values()
            if m.peer != board.peer and any(m.public_key) and m.proven
        )
        for peer, member in view.members.items():
            before = old.members.get(peer) if old else None
            known = (board.index, board.starts, peer)
            if not member.proven:
                continue  # a greeting at the door, which anybody with the token could have made
            self.expect(member.incarnation >= self._newest.get(known, 0), f"b{board.index}: {peer} went back")
            self._newest[known] = member.incarnation
            if peer == board.peer or (before is not None and before.status is member.status):
                continue
            there = self._index[peer]
            self.tell(f"b{board.index} holds b{there} {member.status.value} ({member.reason})")
            if self.on_status is not None:
                self.on_status(board.index, there, member.status)
            if member.status is Status.DEAD and self.boards[there].up and not self.boards[there].away:
                self.counters["dead_though_up"] += 1
            if member.status is Status.SUSPECT and member.reason != "joining":
                self.counters["suspected"] += 1

    def _arm(self, board: Board) -> None:
        deadline = board.machine.deadline()
        if deadline is None or (board.timer_at is not None and board.timer_at <= deadline + self.weather.wake_s):
            return
        due_at = board.timer_at = max(self.now, deadline) + self.random.uniform(1e-5, self.weather.wake_s)
        self.at(due_at, lambda: self._timer(board, due_at))

    def _timer(self, board: Board, due_at: float) -> None:
        if board.timer_at != due_at or not board.up:
            return  # an earlier one took its place
        board.timer_at = None
        if self.now < board.frozen_until:
            return  # _thaw looks at it
        self.dispatch(board, TimerDue())

    def _thaw(self, board: Board, boot: int) -> None:
        if not board.up or board.starts != boot or self.now < board.frozen_until:
            return
        self.tell(f"b{board.index} goes on")
        waiting, board.inbox, board.timer_at = board.inbox, [], None
        if self.random.random() < 0.5:
            self.dispatch(board, TimerDue())
        for event in waiting:
            self.dispatch(board, event)
        self._arm(board)

    def _stop(self, board: Board) -> None:
        board.up = False
        board.timer_at, board.frozen_until = None, 0.0
        board.inbox.clear()
        board.backlog.clear()
        board.busy_until = 0.0
        board.connections.clear()

    def _reset(self, board: Board) -> None:
        """The others' connections to a board end, and the kernel tells them."""
        for other in self.boards:
            if other is board or not other.up or (board.index, other.index) in self.cut:
                continue
            status = self.status(other.index, board.index)
            if status in (Status.ALIVE, Status.SUSPECT):
                event = LinkBroke(peer=board.peer)
                self.at(self.now + self.random.uniform(0.001, 0.05), lambda o=other, e=event: self.dispatch(o, e))  # type: ignore[misc]
            for place in [place for place in other.connections if place[0] == board.host]:
                other.connections[place].open = False

    def _delay(self) -> float:
        return self.random.expovariate(1 / self.weather.delay_s)

    def _received(self, board: Board, target: Board, message: ControlMessage) -> ControlMessage:
        if isinstance(message, Hello) and board.version != target.version:
            return wire.decode(wire.encode(message, board.version + 1))  # type: ignore[return-value]
        return message

    def _understood(self, board: Board, target: Board, message: ControlMessage) -> bool:
        return board.version == target.version or isinstance(message, Hello)

    def _knock(self, board: Board, door: Address, message: ControlMessage) -> None:
        """Through the door: who holds the same token. A connection per greeting, as nothing depends on their order."""
        if self.random.random() < self.weather.loss and not self.weather.tcp:
            return
        target = self._by_host.get(door.host)
        if target is None or (board.index, target.index) in self.cut or (target.index, board.index) in self.cut:
            return
        source, boot = board.host, target.starts
        late_s = self._delay() * 4 + (_RTO_S if self.random.random() < self.weather.loss else 0.0)

        def arrive() -> None:
            same = (board.lock.token if board.lock else b"") == (target.lock.token if target.lock else b"")
            if not target.up or target.starts != boot or self._by_host.get(door.host) is not target:
                return
            if not same:
                self.counters["refused_at_door"] += 1
            elif self._understood(board, target, message):
                received = self._received(board, target, message)
                self.dispatch(target, ControlReceived(message=received, sender=None, source=source, door=True))

        self.at(self.now + late_s, arrive)

    def _send(self, board: Board, to: Member, message: ControlMessage) -> None:
        place = (to.endpoint.host, to.endpoint.control_port, to.public_key)
        connection = board.connections.setdefault(place, Connection())
        if not self.weather.tcp:
            if self.random.random() < self.weather.loss:
                return
            for _ in range(2 if self.random.random() < self.weather.duplicate else 1):
                self.at(self.now + self._delay(), lambda: self._arrive(board, place, connection, message))
            return
        if len(connection.waiting) < QUEUE * (8 if connection.open else 1) and not connection.refused:
            connection.waiting.append(message)
            self._transmit(board, place, connection)

    def _transmit(self, board: Board, place: Place, connection: Connection) -> None:
        """The oldest waiting message of a connection; a loss holds up all behind it."""
        if connection.busy or not connection.waiting:
            return
        connection.busy = True
        boot = board.starts
        target = self._by_host.get(place[0])
        here, there = board.index, -1 if target is None else target.index
        one_way, other_way = (here, there) in self.cut, (there, here) in self.cut
        blocked = one_way or (other_way and not connection.open)
        nobody = target is None or not target.up
        if blocked or nobody or self.random.random() < self.weather.loss:
            wait_s = min(_RTO_S * 2**connection.tries, _RTO_MAX_S)
            connection.tries += 1
            if wait_s >= _RTO_MAX_S or nobody:
                connection.open = False
            self.at(self.now + wait_s, lambda: self._again(board, boot, place, connection))
            return
        connection.tries = 0
        delay_s = self._delay() * (1 if connection.open else 5)

        def arrive() -> None:
            connection.busy = False
            if board.starts == boot and connection.waiting:
                self._arrive(board, place, connection, connection.waiting.popleft())
                self._transmit(board, place, connection)

        self.at(self.now + delay_s, arrive)

    def _again(self, board: Board, boot: int, place: Place, connection: Connection) -> None:
        connection.busy = False
        if board.up and board.starts == boot and board.connections.get(place) is connection:
            self._transmit(board, place, connection)

    def _arrive(self, board: Board, place: Place, connection: Connection, message: ControlMessage) -> None:
        target = self._by_host.get(place[0])
        if target is None or not target.up or target.key != place[2] or (board.index, target.index) in self.cut:
            return
        if not connection.open:
            if connection.refused or board.key not in target.admitted:
                connection.refused = True
                self.counters["refused_at_control"] += 1
                return
            connection.open = True
        if self._understood(board, target, message):
            received = self._received(board, target, message)
            event = ControlReceived(message=received, sender=board.peer, source=board.host, door=False)
            self.dispatch(target, event)


def started(
    seed: int, boards: int, *, weather: Weather | None = None, pace: Pace | None = None, check_every: int = 1
) -> Lan:
    """A LAN whose boards stand in one ring."""
    lan = Lan(seed, boards, weather=weather, pace=pace, check_every=check_every)
    lan.start(*range(boards))
    lan.expect(lan.run_until(lan.one_ring, 15.0) is not None, "no ring after the start")
    lan.run_for(lan.random.uniform(1.0, 3.0))
    return lan
