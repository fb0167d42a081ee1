"""What a ring costs while nobody asks it anything, and how soon it is there.

    python -m tools.bench.standing_by [--boards 4] [--seconds 30] [--settle 3] [--starts 5] [--model M] [--json]

Starts real daemons on loopback and reads /proc: CPU time (user and system, all threads) and voluntary context switches
over the idle spell, proportional and private memory at its end, once as started and once after a request that used
every board; of a daemon and its compute process together. Then single daemons, from the start of the process to a
control socket that answers ready, and `peerctl --help`. Memory is held against the model's files plus 120 MB;
proportional memory shares a page among all that map it (the boards of this ring as well), private memory is what this
board alone holds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import LocalBoards, LocalRing, local_ring
from peer.reports import InferQuery

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
CPU_TARGET_PERCENT = 1.0
MEMORY_ROOM_MB = 120.0
HELP_TARGET_S = 0.3
START_TARGET_S = 2.0
SETTLE_S = 3.0
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One reading of /proc for one daemon."""

    at_s: float
    cpu_s: float
    switches: int  # voluntary context switches of all threads
    threads: int
    rss_mb: float
    private_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One daemon over an idle spell."""

    name: str
    cpu_percent: float  # of one core
    switches_per_s: float
    threads: int
    rss_mb: float
    private_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything measured; times in seconds."""

    model: str
    files_mb: float
    idle: tuple[Standing, ...]
    after_a_request: tuple[Standing, ...]
    ready_s: tuple[float, ...]
    help_s: tuple[float, ...]


def usage(pid: int) -> Usage:
    """Read what the kernel accounts to a daemon and its compute process, added up."""
    family = [pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    cpu_s = rss_mb = private_mb = 0.0
    switches = threads = 0
    for place in (Path(f"/proc/{member}") for member in family):
        fields = (place / "stat").read_text().rpartition(")")[2].split()  # from the third field, the state, on
        cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        tasks = list((place / "task").iterdir())
        threads += len(tasks)
        for task in tasks:
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
        rollup = {
            line.split(":")[0]: int(line.split()[1]) for line in (place / "smaps_rollup").read_text().splitlines()[1:]
        }
        rss_mb += rollup["Pss"] * 1024 / 1e6  # what both map is counted once
        private_mb += (rollup["Private_Clean"] + rollup["Private_Dirty"]) * 1024 / 1e6
    return Usage(
        at_s=time.monotonic(), cpu_s=cpu_s, switches=switches, threads=threads, rss_mb=rss_mb, private_mb=private_mb
    )


def stand_by(ring: LocalRing, seconds: float, settle_s: float) -> tuple[Standing, ...]:
    """Leave the ring alone for a while."""
    time.sleep(settle_s)
    before = [usage(pid) for pid in ring.pids]
    time.sleep(seconds)
    after = [usage(pid) for pid in ring.pids]
    return tuple(
        Standing(
            name=name,
            cpu_percent=100 * (b.cpu_s - a.cpu_s) / (b.at_s - a.at_s),
            switches_per_s=(b.switches - a.switches) / (b.at_s - a.at_s),
            threads=b.threads,
            rss_mb=b.rss_mb,
            private_mb=b.private_mb,
        )
        for name, a, b in zip(ring.names, before, after, strict=True)
    )


def ask(ring: LocalRing) -> None:
    """A divided request over every board, and an undivided one."""
    for mode, boards in (("sequence", len(ring.pids)), ("single", 1)):
        with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
            client.infer(InferQuery(inputs=("photo",), boards=boards, mode=mode), [PHOTO.read_bytes()])


def time_to_ready(model: str | None) -> float:
    """From the start of a daemon's process to a control socket that says ready."""
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        folder = Path(scratch)
        (folder / "peerd.toml").touch()
        command = [sys.executable, "-m", "peer.cli_peerd", "--config", str(folder / "peerd.toml")]
        command += ["--state-dir", scratch, "--socket", str(folder / "peerd.sock"), "--listen", "127.0.0.1:17790"]
        command += ["--threads", "1"] + ([] if model is None else ["--default-model", model])
        started = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            try:
                while not is_ready(folder / "peerd.sock"):
                    if daemon.poll() is not None or time.monotonic() > started + LIMIT_S:
                        raise SystemExit("the daemon did not become ready; run it by hand to see why")
                    time.sleep(0.005)
                return time.monotonic() - started
            finally:
                daemon.terminate()


def is_ready(socket: Path) -> bool:
    """Whether a daemon answers there and serves."""
    if not socket.exists():
        return False
    try:
        with ControlClient(socket, timeout_s=LIMIT_S) as client:
            return client.status().ready
    except PeerError:
        return False


def time_of_help() -> float:
    """One `peerctl --help`, the interpreter's start included."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "peer.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def measure(boards: LocalBoards, seconds: float, settle_s: float, starts: int) -> Result:
    with local_ring(boards, timeout_s=LIMIT_S) as ring:
        with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
            served = next(report for report in client.models() if report.default)
        idle = stand_by(ring, seconds, settle_s)
        ask(ring)
        asked = stand_by(ring, seconds, settle_s)
    return Result(
        model=served.name,
        files_mb=served.bytes / 1e6,
        idle=idle,
        after_a_request=asked,
        ready_s=tuple(time_to_ready(boards.model) for _ in range(starts)),
        help_s=tuple(time_of_help() for _ in range(2 * starts)),
    )


def show(result: Result) -> None:
    """A table with the target beside each figure."""
    memory_mb = result.files_mb + MEMORY_ROOM_MB
    print(f"model {result.model}, files {result.files_mb:.1f} MB, {len(result.idle)} boards on one machine")
    for title, boards in (("as started", result.idle), ("after a request over all boards", result.after_a_request)):
        print(f"\n{title}:")
        print(f"{'board':10}{'CPU %':>8}{'switches/s':>12}{'threads':>9}{'PSS MB':>9}{'private MB':>12}")
        for board in boards:
            print(
                f"{board.name:10}{board.cpu_percent:8.2f}{board.switches_per_s:12.1f}{board.threads:9}"
                f"{board.rss_mb:9.1f}{board.private_mb:12.1f}"
            )
    every = (*result.idle, *result.after_a_request)
    ready_s, help_s = statistics.median(result.ready_s), statistics.median(result.help_s)
    rows = (
        ("CPU of a core, worst board", max(board.cpu_percent for board in every), CPU_TARGET_PERCENT, "%"),
        ("proportional memory, worst board", max(board.rss_mb for board in every), memory_mb, "MB"),
        ("private memory, worst board", max(board.private_mb for board in every), memory_mb, "MB"),
        (f"start to READY, median of {len(result.ready_s)}", ready_s, START_TARGET_S, "s"),
        (f"peerctl --help, median of {len(result.help_s)}", help_s, HELP_TARGET_S, "s"),
    )
    print(f"\n{'figure':36}{'measured':>10}{'target':>10}")
    for name, measured, target, unit in rows:
        verdict = "" if measured <= target else "  missed"
        print(f"{name:36}{measured:10.2f}{target:10.2f} {unit}{verdict}")


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each idle spell")
    parser.add_argument(
        "--settle", type=float, default=SETTLE_S, help="pause before it: boards measure themselves at first"
    )
    parser.add_argument("--starts", type=int, default=5, help="daemons started one after the other")
    parser.add_argument("--model", help="default model of the boards")
    parser.add_argument("--models", type=Path, help="their folder of models")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    boards = LocalBoards(count=options.boards, threads=1, model=options.model, models=options.models)
    result = measure(boards, options.seconds, options.settle, options.starts)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        show(result)


if __name__ == "__main__":
    main()
