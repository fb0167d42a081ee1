"""A network of membership machines in virtual time, with seeded loss, delay, cuts, crashes and restarts."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from peer.errors import RemoteProtocolError
from peer.protocol import wire
from peer.protocol.membership import (
    Address,
    ControlEvent,
    ControlReceived,
    LeaveRequested,
    LinkBroke,
    Membership,
    Pace,
    Publish,
    SendControl,
    TimerDue,
)
from peer.protocol.messages import ControlMessage
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

MODEL = ModelId("5a" * 32)
PACE = Pace()
TICK_S = 0.02


class Violation(AssertionError):
    """An invariant does not hold; the message holds the seed and the story."""


class Board:
    """One membership machine and what it has published."""

    def __init__(self, network: "Members", index: int, incarnation: int, models: frozenset[ModelId]) -> None:
        self.network, self.index, self.incarnation, self.models = network, index, incarnation, models
        self.up = True
        self.version = wire.PROTOCOL_VERSION
        self.seeds: tuple[Address, ...] = ()
        self.timer_at: float | None = None
        self.machine: Membership
        self.published: View | None = None

    def start(self, seeds: tuple[Address, ...]) -> None:
        self.seeds = seeds
        me = Member(
            peer=peer_of(self.index),
            name=f"b{self.index}",
            endpoint=Endpoint(host="", control_port=7411, data_port=7412),
            incarnation=Incarnation(self.incarnation),
            status=Status.ALIVE,
            models=self.models,
        )
        self.machine = Membership(me=me, seeds=seeds, pace=PACE, now=self.network.now)


class Members:
    """`links` says which board has which other ones as seeds."""

    def __init__(self, seed: int, boards: int, links: Iterable[tuple[int, int]], *, loss: float = 0.0) -> None:
        self.seed, self.random, self.loss = seed, Random(seed), loss
        self.now = 0.0
        self.cut: set[tuple[int, int]] = set()
        self.story: deque[str] = deque(maxlen=80)
        self.ever_doubted: set[tuple[int, int]] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._links = set(links)
        self._incarnations: dict[tuple[int, int, int], int] = {}
        self.boards = [Board(self, i, 1, frozenset({MODEL})) for i in range(boards)]
        for board in self.boards:
            self._start(board, self.random.uniform(0, 0.5))

    def _start(self, board: Board, delay_s: float = 0.0) -> None:
        board.start(tuple(address_of(to) for start, to in sorted(self._links) if start == board.index))
        self._arm(board, delay_s)

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_s, next(self._sequence), action))

    def run_until(self, at_s: float) -> None:
        while self._heap and self._heap[0][0] <= at_s:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = at_s

    def crash(self, index: int) -> None:
        self.story.append(f"{self.now:.3f} b{index} crashes")
        self.boards[index].up = False

    def leave(self, index: int) -> None:
        """A goodbye, a short while of draining, and the end."""
        board = self.boards[index]
        self.dispatch(board, LeaveRequested())
        self.at(self.now + 1.0, lambda: setattr(board, "up", False))

    def restart(self, index: int, *, models: frozenset[ModelId] | None = None) -> None:
        old = self.boards[index]
        self.story.append(f"{self.now:.3f} b{index} starts again")
        old.up = False
        self.boards[index] = Board(self, index, old.incarnation + 1, old.models if models is None else models)
        self._start(self.boards[index])

    def link_broke(self, here: int, there: int) -> None:
        self.dispatch(self.boards[here], LinkBroke(peer=peer_of(there)))

    def dispatch(self, board: Board, event: ControlEvent) -> None:
        effects = board.machine.handle(event, self.now)
        try:
            board.machine.check()
        except AssertionError as problem:
            raise self.violation(f"check of b{board.index}: {problem}") from problem
        for effect in effects:
            match effect:
                case SendControl(to=to, message=message):
                    self._send(board, to, message)
                case Publish(view=view):
                    board.published = view
                    self._look(board, view)
        self._arm(board)

    def _look(self, board: Board, view: View) -> None:
        for peer, member in view.members.items():
            there = int(peer, 16) - 1
            known = (board.index, board.incarnation, there)
            if member.incarnation < self._incarnations.get(known, 0):
                raise self.violation(f"b{board.index} went back to incarnation {member.incarnation} of b{there}")
            self._incarnations[known] = member.incarnation
            if member.status in (Status.SUSPECT, Status.DEAD):
                self.ever_doubted.add((board.index, there))
                self.story.append(f"{self.now:.3f} b{board.index} holds b{there} {member.status}: {member.reason}")

    def _arm(self, board: Board, delay_s: float = 0.0) -> None:
        deadline = board.machine.deadline()
        if deadline is None or (board.timer_at is not None and board.timer_at <= deadline + TICK_S):
            return
        due_at = board.timer_at = max(self.now, deadline) + delay_s + self.random.uniform(0.0001, TICK_S)
        self.at(due_at, lambda: self._timer(board, due_at))

    def _timer(self, board: Board, due_at: float) -> None:
        if board.timer_at != due_at:
            return  # an earlier one took its place
        board.timer_at = None
        if board.up:
            self.dispatch(board, TimerDue())

    def _send(self, board: Board, to: Address, message: ControlMessage) -> None:
        there = int(to.host[1:])
        if (board.index, there) in self.cut or self.random.random() < self.loss:
            return
        target = self.boards[there]
        try:
            same = board.version == target.version
            received = wire.decode(wire.encode(message, wire.PROTOCOL_VERSION if same else 2))
        except RemoteProtocolError:
            return
        delay_s = self.random.expovariate(1 / 0.005)
        self.at(self.now + delay_s, lambda: self._arrive(board.index, target, received))  # type: ignore[arg-type]

    def _arrive(self, source: int, target: Board, message: ControlMessage) -> None:
        if target.up:
            self.dispatch(target, ControlReceived(message=message, source=f"b{source}"))

    def violation(self, what: str) -> Violation:
        story = "\n".join(self.story)
        return Violation(f"seed {self.seed}, t={self.now:.3f}: {what}\n{story}")

    def statuses(self, here: int) -> dict[int, str]:
        """What one board believes of the others."""
        members = self.boards[here].machine.view().members
        return {int(p, 16) - 1: m.status.value for p, m in members.items() if int(p, 16) - 1 != here}

    def expect_everybody(self, expected: dict[int, str]) -> None:
        """All boards that are up believe `expected`, hold the newest incarnations and have published just that."""
        for board in self.boards:
            if not board.up:
                continue
            seen = self.statuses(board.index)
            wanted = {i: status for i, status in expected.items() if i != board.index}
            if seen != wanted:
                raise self.violation(f"b{board.index} believes {seen}, expected {wanted}")
            view = board.machine.view()
            for other in self.boards:
                known = view.members[peer_of(other.index)]
                if known.status is Status.ALIVE and known.incarnation != other.incarnation:
                    raise self.violation(f"b{board.index} knows an old incarnation of b{other.index}")
            if board.published is None or _facts(board.published) != _facts(view):
                raise self.violation(f"b{board.index} has not published what it believes")


def _facts(view: View) -> dict[PeerId, tuple[object, ...]]:
    return {peer: (m.status, m.incarnation, m.endpoint, m.models) for peer, m in view.members.items()}


def peer_of(index: int) -> PeerId:
    return PeerId(f"{index + 1:016x}")


def address_of(index: int) -> Address:
    return Address(host=f"b{index}", port=7411)


def pairs_once(boards: int, random: Random) -> set[tuple[int, int]]:
    """Every pair knows of each other in one direction at least; some in both, some boards have themselves as seed."""
    links = set()
    for a, b in itertools.combinations(range(boards), 2):
        links |= {random.choice([(a, b), (b, a)])} | ({(a, b), (b, a)} if random.random() < 0.3 else set())
    return links | {(i, i) for i in range(boards) if random.random() < 0.3}
