"""N emulated boards: a network namespace each, links of a given rate, daemons whose work takes S times as long.

with boards(Bed(slower=(8, 8), models=folder)) as bed:
    bed.rate(100)
    report, took_s = bed.ask(InferQuery(inputs=("x",), boards=2), image)
"""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peer.cluster_token import new_token, write_token
from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.protocol.forecast import NARROW
from peer.reports import InferQuery, InferReport, PlanQuery
from tests.helpers.lan import Lan, lan

PORT = 7700
_START_S = 120.0
_ANSWER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """What is emulated."""

    slower: tuple[float, ...]  # one factor per board
    models: Path
    default_model: str = ""
    options: tuple[str, ...] = ("--prepack", "on", "--threads", "1")
    environment: Mapping[str, str] = field(default_factory=dict)


class Boards:
    """The boards, running. Board 0 is asked."""

    def __init__(self, bed: Bed, network: Lan, folder: Path) -> None:
        self.bed = bed
        self.lan = network
        self.folder = folder
        self.told = folder / "told"
        self._processes: list[subprocess.Popen[str]] = []
        self._rates: dict[int, float] = {}
        write_token(folder / "token", new_token())

    def socket(self, index: int = 0) -> Path:
        """The control socket of a board's daemon."""
        return self.folder / f"board-{index}" / "sock"

    def start(self) -> None:
        """Start every daemon, and wait until each sees all of them. Raises AssertionError with their last words."""
        own = self.bed.environment.get("TESTBED_CORES") == "own"
        for index, slower in enumerate(self.bed.slower):
            home = self.folder / f"board-{index}"
            home.mkdir(mode=0o700)
            arguments: list[object] = [sys.executable, "-m", "tools.testbed.slow_peerd"]
            arguments += ["--config", os.devnull, "--state-dir", home, "--socket", home / "sock", "--no-mdns"]
            arguments += ["--listen", f"0.0.0.0:{PORT}", "--name", f"board-{index}", "--models", self.bed.models]
            arguments += ["--token-file", self.folder / "token", *self.bed.options]
            if self.bed.default_model:
                arguments += ["--default-model", self.bed.default_model]
            if index:
                arguments += ["--seed", f"{self.lan[0].address}:{PORT}"]
            environment = {
                **os.environ,
                **self.bed.environment,
                "TESTBED_SLOWER": str(slower),
                "TESTBED_CORE": str(self.folder / (f"core-{index}" if own else "core")),
                "TESTBED_TOLD": str(self.told),
            }
            with (home / "log").open("a", encoding="utf-8") as log:
                self._processes.append(self.lan[index].popen(arguments, env=environment, stderr=log))
        self._wait(lambda: all(self._sees_all(index) for index in range(len(self.bed.slower))))

    def rate(self, *mbit: float) -> None:
        """Megabits per second of every board's link each way: one for all, or one per board."""
        for index in range(len(self.bed.slower)):
            wanted = mbit[index] if len(mbit) > 1 else mbit[0]
            if self._rates.get(index) != wanted:
                self.lan.shape(index, wanted)
                self._rates[index] = wanted

    def ask(self, query: InferQuery, *images: bytes, index: int = 0) -> tuple[InferReport, float]:
        """One request of a client on the board; the report and the seconds it took. Raises PeerError."""
        began_at = time.perf_counter()
        with ControlClient(self.socket(index), timeout_s=_ANSWER_S) as client:
            report = client.infer(query, images)[0]
        return report, time.perf_counter() - began_at

    def order(self, index: int = 0) -> tuple[str, ...]:
        """The boards' names in the order of the ring, which is that of shares."""
        with ControlClient(self.socket(index), timeout_s=5) as client:
            ring = client.ring()
            return tuple(ring.names[peer] for peer in ring.order)

    def rtt_ms(self) -> float:
        """A round trip between two boards and back as the daemons' own probes see it; 0 where there is only one."""
        with ControlClient(self.socket(), timeout_s=5) as client:
            return min((m.rtt_ms for m in client.members() if m.rtt_ms), default=0.0)

    def knows_links(self, mbit: float, index: int = 0) -> bool:
        """Whether the board takes its links for narrow where they are, and only there: inputs are packed for those."""
        narrow = 8e-6 * NARROW
        with ControlClient(self.socket(index), timeout_s=5) as client:
            links = {board.name: board.link_mbit or math.inf for board in client.plan(PlanQuery()).boards}
        own = links.pop(f"board-{index}")
        return all((min(link, own) <= narrow) == (mbit <= narrow) for link in links.values())

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()

    def _sees_all(self, index: int) -> bool:
        try:
            with ControlClient(self.socket(index), timeout_s=5) as client:
                members = client.members()
                ready = len(client.ring().order) == len(self.bed.slower) and client.status().ready
                # Its own speed among them: a board that has not measured itself yet would do so between requests.
                return ready and all(member.speed is not None for member in members)
        except PeerError:
            return False

    def _wait(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_S
        while not reached():
            if time.monotonic() > until or any(process.poll() is not None for process in self._processes):
                logs = [(self.folder / f"board-{i}" / "log").read_text()[-400:] for i in range(len(self.bed.slower))]
                raise AssertionError("the boards do not come together:\n" + "\n".join(logs))
            time.sleep(0.1)


@contextlib.contextmanager
def boards(bed: Bed) -> Iterator[Boards]:
    """Boards that are gone when the block ends. Needs root."""
    with lan(len(bed.slower), ipv6=False) as network, tempfile.TemporaryDirectory(prefix="testbed-") as folder:
        made = Boards(bed, network, Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()
