"""How long a board that hangs is missing from its ring.

    python -m tools.bench.hung_board [--boards 2] [--times 5] [--model NAME] [--json]

Real daemons on loopback, and one more whose supervisor stands in for systemd: it listens on a NOTIFY_SOCKET and takes
WatchdogSec and RestartSec from systemd/peerd.service. The board's daemon is stopped (SIGSTOP) at a moment by chance;
once it has given no sign of life for WatchdogSec it is killed, and started again RestartSec later. Seconds since the
stop until the kill, until the daemon says that it is ready again, and until another board answers a request with it.
How long Python takes to start is this machine's; a slower board adds what `start to READY` of
`tools.bench.standing_by` takes longer there.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from peer.control_client import ControlClient
from peer.local_ring import LocalBoards, LocalRing, local_ring
from tests.helpers.notify_socket import NotifySocket
from tools.bench.fresh_board import LIMIT_S, shares, status, until
from tools.bench.one_more_board import OneMore, start

UNIT = Path(__file__).parents[2] / "systemd/peerd.service"
TARGET_S = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One hang; seconds since the board stopped."""

    killed_s: float
    ready_s: float
    shares_s: float


class Supervisor:
    """What systemd does for the unit, as far as a hang is concerned."""

    def __init__(self, ring: LocalRing, home: Path) -> None:
        self._ring, self._home = ring, home
        self._watchdog_s, self._restart_s = (_seconds(key) for key in ("WatchdogSec", "RestartSec"))
        self._said = NotifySocket(home / "notify")
        self.board = self._start()
        self._wait_ready()

    def _start(self) -> OneMore:
        words = {"NOTIFY_SOCKET": str(self._home / "notify"), "WATCHDOG_USEC": str(round(self._watchdog_s * 1e6))}
        return start(self._ring, self._home, environ={**os.environ, **words})

    def _wait_ready(self) -> None:
        if not self._said.hears("READY=1", within_s=LIMIT_S):
            raise SystemExit(f"the board did not get ready in {LIMIT_S:g} s:\n{self.board.log}")

    def hang(self, after_s: float) -> Result:
        """Stop the board after that time, and bring it back as the unit says."""
        with ControlClient(self._ring.sockets[0], timeout_s=LIMIT_S) as client:
            me, total = status(self.board).id, len(self._ring.boards) + 1
            end = time.monotonic() + after_s
            fed_at = time.monotonic()
            while self._said.hears("WATCHDOG=1", within_s=end - time.monotonic()):
                fed_at = time.monotonic()
            self.board.process.send_signal(signal.SIGSTOP)
            stopped_at = time.monotonic()
            if self._said.hears("WATCHDOG=1", within_s=fed_at + self._watchdog_s - time.monotonic()):
                raise SystemExit("a stopped daemon gave a sign of life")
            self.end()
            killed_s = time.monotonic() - stopped_at
            time.sleep(self._restart_s)
            self.board = self._start()
            self._wait_ready()
            ready_s = time.monotonic() - stopped_at
            until("it takes a share again", lambda: shares(client, me, total))
            return Result(killed_s=killed_s, ready_s=ready_s, shares_s=time.monotonic() - stopped_at)

    def end(self) -> None:
        """Kill the board's daemon; its compute process ends with it."""
        self.board.process.kill()
        self.board.process.wait()


def _seconds(key: str) -> float:
    """A time of the unit file."""
    found = re.search(rf"^{key}=(\d+)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{UNIT} has no {key}")
    return float(found.group(1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=2, help="beside the one that hangs")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--model", default="vit-cifar10")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    chance = random.Random(1)
    wanted = LocalBoards(count=asked.boards, threads=1, model=asked.model)
    with local_ring(wanted, timeout_s=LIMIT_S) as ring, tempfile.TemporaryDirectory(prefix="tokenring-") as home:
        supervisor = Supervisor(ring, Path(home))
        try:
            results = [supervisor.hang(chance.uniform(6.0, 12.0)) for _ in range(asked.times)]
        finally:
            supervisor.end()
    if asked.json:
        print(json.dumps([asdict(result) for result in results]))
        return 0
    for name, words in (
        ("killed_s", "killed by its supervisor"),
        ("ready_s", "ready again"),
        ("shares_s", "another board's answer holds its share"),
    ):
        times = sorted(getattr(result, name) for result in results)
        print(f"{words:40} {statistics.median(times):6.2f} s   (of {len(times)}: {times[0]:.2f} to {times[-1]:.2f})")
    worst = max(result.shares_s for result in results)
    print(f"asked: back within {TARGET_S:g} s; worst {worst:.2f} s{'' if worst <= TARGET_S else '  missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
