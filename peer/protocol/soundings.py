"""What the links to other boards are like: an empty message there and back for the way, growing ones for the width.

One board is sounded at a time, while nothing else is under way here, and again after minutes, or soon where requests
find that the link has changed. What is measured is what
a round meets: the sockets of the tensors, the threads that compute. A shaper lets a burst pass before it slows the
flow, so the width is read from the last two sizes, both long enough to have been slowed.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from peer.protocol.effects import Send
from peer.protocol.messages import Echo, Sound
from peer.protocol.outlook import Link
from peer.protocol.types import PeerId, Status, View

_EMPTY = 4  # messages without ballast; the shortest way counts
_FIRST_BYTES = 8 << 10
_MOST_BYTES = 512 << 10  # four milliseconds of a gigabit link; on what is faster a link is no hindrance
_TWICE_FROM = 32 << 10  # bytes: from there on each size is sent twice, and the shorter time counts
_LONG_S = 0.1  # beyond the empty way: so long that the link is what was measured,
_LONG_WAYS = 10.0  # and so many times the empty way
_FASTEST = 1.25e9  # bytes per second: beyond that what was measured is noise
_SILENT_S = 2.0
_RETRY_S = 5.0
_KEPT = 4
_SOON_S = 10.0  # until the second look; doubles up to the usual pause, as the first may have met a busy start
_OTHER = 2.0  # times as long or as wide: another link than before
_SPREAD_S = 3.0  # boards that meet do not all sound at once


@dataclass(slots=True)
class _Peer:
    due_at: float
    looks: int = 0
    looked_at: float = -math.inf
    doubted: bool = False  # what was measured before may tell nothing any more
    sure_s: float = _SOON_S  # for so long after a look no doubt counts; doubles with each that was unfounded
    ways: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))


@dataclass(slots=True)
class _Running:
    peer: PeerId
    sequence: int
    sent_at: float
    size: int = 0
    empty: int = 1
    again: bool = False  # this size is on its way for the second time
    took_s: float = math.inf  # with this size, the first time
    way_s: float = math.inf
    before: tuple[int, float] | None = None  # the size before this one, and what it took


class Soundings:
    """The links of one board. Part of the request machine."""

    def __init__(self, every_s: float) -> None:
        """`every_s`: seconds between two soundings of one board; infinite switches them off."""
        self._every_s = every_s
        self._peers: dict[PeerId, _Peer] = {}
        self._running: _Running | None = None
        self._sequence = 0
        self._links: Mapping[PeerId, Link] = {}

    @property
    def links(self) -> Mapping[PeerId, Link]:
        """What is known, by board; replaced, never changed, so that other threads may read it."""
        return self._links

    @property
    def running(self) -> bool:
        """Whether an answer is waited for, to the fraction of a millisecond."""
        return self._running is not None

    @property
    def fastest(self) -> float | None:
        """Bytes per second of the fastest link: what this board's own connection can do."""
        return max((link.rate for link in self._links.values() if link.rate), default=None)

    def deadline(self) -> float | None:
        """Local monotonic time of the next thing to do."""
        if self._running is not None:
            return self._running.sent_at + _SILENT_S
        due = min((peer.due_at for peer in self._peers.values()), default=math.inf)
        return due if due < math.inf else None

    def see(self, view: View, now: float) -> None:
        """Who is here now."""
        here = [m for m in view.members.values() if m.status is Status.ALIVE and m.peer != view.self_id]
        own = int(view.self_id, 16) if view.self_id else 0
        for member in here:
            if member.peer not in self._peers and self._every_s < math.inf:
                spread_s = (int(member.peer, 16) ^ own) % 1000 / 1000 * _SPREAD_S
                self._peers[member.peer] = _Peer(due_at=now + spread_s)
        gone = self._peers.keys() - {member.peer for member in here}
        for peer in gone:
            del self._peers[peer]
        if self._running is not None and self._running.peer in gone:
            self._running = None
        if gone:
            self._publish()

    def doubt(self, peers: Iterable[PeerId], now: float) -> None:
        """Requests found these links other than they were: look again soon, and forget what was seen if it is so."""
        for peer in peers:
            known = self._peers.get(peer)
            # On a busy machine much seems slow, and it is not the link.
            if known is not None and not known.doubted and now >= known.looked_at + known.sure_s:
                known.doubted, known.due_at = True, now

    def stop(self, now: float) -> None:
        """A request began here: what is being measured would tell of it, not of the link."""
        if self._running is not None:
            self._put_off(self._running.peer, now + _RETRY_S)

    def timer(self, me: PeerId, now: float) -> list[Send]:
        """Nothing is under way, and it is time: begin with the board that is due, give up one that is silent."""
        if self._running is not None and now >= self._running.sent_at + _SILENT_S:
            self._put_off(self._running.peer, now + _RETRY_S)
        if self._running is not None:
            return []
        due = min(self._peers, key=lambda peer: (self._peers[peer].due_at, peer), default=None)
        if due is None or now < self._peers[due].due_at:
            return []
        self._running = _Running(peer=due, sequence=self._next(), sent_at=now)
        return [self._send(me, self._running)]

    def echo(self, message: Echo, me: PeerId, now: float) -> list[Send]:
        """The answer: note what it took, and send the next one, or end."""
        run = self._running
        if run is None or message.sender != run.peer or message.sequence != run.sequence:
            return []
        if message.busy:
            self._put_off(run.peer, now + _RETRY_S)
            return []
        took_s = now - run.sent_at
        if not run.size:
            run.way_s = min(run.way_s, took_s)
            if run.empty < _EMPTY:
                run.empty += 1
            else:
                run.size = _FIRST_BYTES
        elif run.size >= _TWICE_FROM and not run.again:
            run.again, run.took_s = True, took_s
        else:
            took_s = min(took_s, run.took_s)
            if took_s - run.way_s > max(_LONG_S, _LONG_WAYS * run.way_s) or run.size >= _MOST_BYTES:
                self._finish(run, took_s, now)
                return []
            run.before = (run.size, took_s)
            run.size, run.again, run.took_s = 2 * run.size, False, math.inf
        run.sequence, run.sent_at = self._next(), now
        return [self._send(me, run)]

    def check(self) -> None:
        """Invariants, for tests."""
        assert self._running is None or self._running.peer in self._peers
        assert self._links.keys() <= self._peers.keys()

    def _finish(self, run: _Running, took_s: float, now: float) -> None:
        peer = self._peers[run.peer]
        size, before_s = run.before or (0, run.way_s)
        # Both ways carry an acknowledgement and wake somebody: what is left is the ballast's own time.
        longer_s = max(took_s - before_s, (run.size - size) / _FASTEST)
        rate = (run.size - size) / longer_s
        if peer.doubted:
            self._judge(peer, self._links.get(run.peer), Link(rtt_s=run.way_s, rate=rate))
        peer.doubted, peer.looked_at = False, now
        peer.ways.append(run.way_s)
        peer.rates.append(rate)
        peer.due_at = now + min(self._every_s, _SOON_S * 2**peer.looks)
        peer.looks = min(peer.looks + 1, 10)
        self._running = None
        self._publish()

    def _judge(self, peer: _Peer, before: Link | None, found: Link) -> None:
        """Whether a doubt was founded: then what was seen is forgotten, else the next doubt has to wait longer."""
        if before is not None and not _differ(before.rtt_s, found.rtt_s) and not _differ(before.rate, found.rate):
            peer.sure_s = min(2 * peer.sure_s, self._every_s)
            return
        peer.sure_s, peer.looks = _SOON_S, 0
        peer.ways.clear()
        peer.rates.clear()

    def _put_off(self, peer: PeerId, until: float) -> None:
        self._running = None
        self._peers[peer].due_at = until

    def _publish(self) -> None:
        self._links = {
            # What else boards do only makes a link seem worse than it is; the median outlives one odd measurement.
            name: Link(rtt_s=min(peer.ways), rate=sorted(peer.rates)[len(peer.rates) // 2])
            for name, peer in self._peers.items()
            if peer.ways
        }

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) % (1 << 32)
        return self._sequence

    def _send(self, me: PeerId, run: _Running) -> Send:
        return Send(to=run.peer, message=Sound(sender=me, sequence=run.sequence, body=bytes(run.size)))


def _differ(before: float | None, found: float | None) -> bool:
    return before is None or found is None or not 1 / _OTHER <= found / before <= _OTHER
