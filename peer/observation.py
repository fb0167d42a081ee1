"""What a board shows to whoever watches it: the metrics page, and the live figures of `peerctl top`.

Gathers facts from the parts of the daemon; changes nothing and decides nothing.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

from peer.compute_process import ComputeProcess
from peer.compute_words import Account
from peer.config import HostPort
from peer.control_plane import ControlPlane
from peer.errors import Cancelled, PeerError
from peer.metrics_page import Facts, Process, families
from peer.metrics_server import metrics_server
from peer.metrics_text import render
from peer.protocol.accounts import LinkTotals
from peer.protocol.profile import BoardProfile
from peer.protocol.types import Member, PeerId
from peer.protocol.wire import PROTOCOL_VERSION
from peer.reports import ActivityReport, BoardActivityReport
from peer.request_meter import RECENT_S, BoardCost, RequestMeter
from peer.sensors import Sensors, read_sensors

_log = logging.getLogger(__name__)
_SAMPLES = 11  # a second apart: rates are over the last ten


class Observation:
    """Owned by the event loop."""

    def __init__(
        self,
        *,
        version: str,
        control: ControlPlane,
        compute: ComputeProcess,
        meter: RequestMeter,
        models: Callable[[], int],
        not_ready: Callable[[], str | None],
        refused_handshakes: Callable[[], tuple[int, int]],
    ) -> None:
        self.refused_clients: Mapping[str, int] = {}
        self._version = version
        self._control = control
        self._compute = compute
        self._meter = meter
        self._models = models
        self._not_ready = not_ready
        self._refused_handshakes = refused_handshakes
        self._started_at = time.monotonic()
        self._links: deque[tuple[float, Mapping[PeerId, LinkTotals]]] = deque(maxlen=_SAMPLES)

    def sample(self, now: float) -> None:
        """Once a second: from what rates are made."""
        self._links.append((now, self._told().traffic))
        self._meter.keep(tuple(self._control.view().members))

    @contextlib.asynccontextmanager
    async def serve(self, place: HostPort | None) -> AsyncIterator[None]:
        """Serve the metrics while the block runs, where the configuration says so. Raises ConfigError."""
        if place is None:
            yield
            return
        async with metrics_server(place.host, place.port, self.page) as port:
            _log.info("metrics on http://%s/metrics", HostPort(host=place.host, port=port))
            yield

    @contextlib.contextmanager
    def failures_counted(self) -> Iterator[None]:
        """A request that ends with an error within the block is counted by the error's kind."""
        try:
            yield
        except PeerError as problem:
            self._meter.failure(problem.kind)
            raise
        except asyncio.CancelledError:
            self._meter.failure(Cancelled.kind)
            raise

    async def page(self) -> str:
        """The metrics as Prometheus reads them."""
        sensors, processes = await asyncio.to_thread(self._look)
        at_door, by_members = self._refused_handshakes()
        account = self._told()
        facts = Facts(
            version=self._version,
            protocol=PROTOCOL_VERSION,
            ready=self._not_ready() is None,
            uptime_s=time.monotonic() - self._started_at,
            models=self._models(),
            view=self._control.view(),
            speed=account.speed,
            meter=self._meter,
            load=account.load,
            shards=account.shards,
            links=account.traffic,
            restarts=self._compute.restarts,
            stuck_s=self._compute.stuck_s() if self._compute.up else 0.0,
            membership_events=self._control.counters + self._control.machine_counters,
            data_events=account.counters,
            refused_clients=self.refused_clients,
            refused_handshakes={"door": at_door, "members": by_members},
            processes=processes,
            sensors=sensors,
        )
        return render(families(facts))

    async def activity(self) -> ActivityReport:
        """The last minute of this board and of the boards it works with."""
        sensors = await asyncio.to_thread(read_sensors)
        now, view, account = time.monotonic(), self._control.view(), self._told()
        recent, me, meter = self._meter.recent(now), view.members[view.self_id], self._meter
        total = sum(cost.tokens for cost in recent.boards.values())
        members = sorted(view.members.values(), key=lambda member: (member.peer != me.peer, member.peer))
        return ActivityReport(
            id=me.peer,
            name=me.name,
            not_ready=self._not_ready(),
            window_s=RECENT_S,
            answered=meter.answered.total(),
            degraded=meter.degraded.total(),
            failed=meter.failed.total(),
            shards=account.shards.shards,
            answers_per_s=recent.answers_per_s,
            p50_ms=None if recent.p50_s is None else recent.p50_s * 1e3,
            p95_ms=None if recent.p95_s is None else recent.p95_s * 1e3,
            running=account.load.running,
            waiting=account.load.waiting,
            hottest_c=max(sensors.temperatures_c.values(), default=None),
            throttled=tuple(sensors.throttled),
            boards=tuple(self._board(member, recent.boards.get(member.peer), total) for member in members),
        )

    def _board(self, member: Member, cost: BoardCost | None, total: int) -> BoardActivityReport:
        sent, received = self._rates(member.peer)
        own = member.peer == self._control.view().self_id
        return BoardActivityReport(
            id=member.peer,
            name=member.name,
            status=member.status.value,
            rtt_ms=None if member.rtt_s is None else member.rtt_s * 1e3,
            speed=self._compute.speed if own else member.speed,
            share=cost.tokens / total if cost and total else 0.0,
            compute_ms=cost.compute_s / cost.answers * 1e3 if cost else None,
            wait_ms=cost.wait_s / cost.answers * 1e3 if cost else None,
            sent_bytes_per_s=0.0 if own else sent,
            received_bytes_per_s=0.0 if own else received,
        )

    def _told(self) -> Account:
        """The compute process's last account; an empty one before the first."""
        nothing = BoardProfile(rate=0.0, free_bytes=0, models=())
        return self._compute.account or Account(counters=Counter(), speed=None, profile=nothing, links={}, lessons={})

    def _rates(self, peer: PeerId) -> tuple[float, float]:
        """Bytes per second to and from a board, over the samples there are."""
        if len(self._links) < 2:
            return 0.0, 0.0
        (from_at, before), (to_at, after) = self._links[0], self._links[-1]
        old, new = before.get(peer, LinkTotals()), after.get(peer, LinkTotals())
        span_s = max(to_at - from_at, 1e-9)
        # A compute process that was started again counts from zero.
        return max(0, new.sent_bytes - old.sent_bytes) / span_s, max(
            0, new.received_bytes - old.received_bytes
        ) / span_s

    def _look(self) -> tuple[Sensors, Mapping[str, Process]]:
        """What only the system tells; asked in a thread of its own, as drivers may take their time."""
        pids = {"daemon": os.getpid(), "compute": self._compute.pid}
        seen = {name: process_of(pid) for name, pid in pids.items() if pid is not None}
        return read_sensors(), {name: process for name, process in seen.items() if process is not None}


def process_of(pid: int, root: Path = Path("/proc")) -> Process | None:
    """Memory and processor time of a process; None when it has just ended."""
    try:
        pages = int((root / str(pid) / "statm").read_text().split()[1])
        fields = (root / str(pid) / "stat").read_text().rpartition(")")[2].split()  # from the third field on
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None
    return Process(memory_bytes=pages * os.sysconf("SC_PAGESIZE"), cpu_s=ticks / os.sysconf("SC_CLK_TCK"))
