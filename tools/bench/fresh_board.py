"""How long a board without any model takes from its start to its first share of a request.

    python -m tools.bench.fresh_board [--boards 3] [--times 3] [--models FOLDER] [--model NAME] [--json]

Starts a ring of real daemons on loopback that hold the model, then one more with an empty state folder that knows
nothing but the token and one seed. Nobody tells it what to fetch. Times count from the start of its process: control
socket answers, everybody sees it, model fetched and loaded, first answer to a request (asked of another board) that
holds a share of the fresh one. On loopback the network costs nothing; the pace at which boards give parts away does.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import LocalBoards, LocalRing, local_ring
from peer.reports import FetchReport, InferQuery, StatusReport
from tools.bench.one_more_board import OneMore, one_more

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
LIMIT_S = 120.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One fresh board; seconds since its start, bytes over the network."""

    answers_s: float
    seen_s: float
    model_s: float
    share_s: float
    fetch_s: float
    model_bytes: int
    received_bytes: int
    holders: int


def until(what: str, holds: Callable[[], bool]) -> None:
    """Poll until it holds; an answer that fails meanwhile is no answer yet."""
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            if holds():
                return
        except PeerError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(POLL_S)


def measure(ring: LocalRing, model: str) -> Result:
    """Start one fresh board beside the ring, and end it."""
    total = len(ring.boards) + 1
    with tempfile.TemporaryDirectory(prefix="tokenring-") as home, one_more(ring, Path(home)) as fresh:
        started = time.monotonic()

        def since() -> float:
            return time.monotonic() - started

        until("the control socket answers", lambda: bool(status(fresh).id))
        answers_s = since()
        me = status(fresh).id
        with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
            until("everybody sees it", lambda: any(m.id == me and m.status == "alive" for m in client.members()))
            seen_s = since()
            until("it has the model", lambda: status(fresh).ready)
            model_s = since()
            until("it takes a share", lambda: shares(client, me, total))
            share_s = since()
        fetched = fetch_report(fresh, model)
    return Result(
        answers_s=answers_s,
        seen_s=seen_s,
        model_s=model_s,
        share_s=share_s,
        fetch_s=fetched.seconds,
        model_bytes=fetched.total_bytes,
        received_bytes=fetched.received_bytes,
        holders=fetched.boards,
    )


def status(board: OneMore) -> StatusReport:
    with ControlClient(board.socket, timeout_s=LIMIT_S) as client:
        return client.status()


def fetch_report(board: OneMore, model: str) -> FetchReport:
    with ControlClient(board.socket, timeout_s=LIMIT_S) as client:
        return client.fetch(model)


def shares(client: ControlClient, me: str, total: int) -> bool:
    """Ask for every board; whether the fresh one held a part of it."""
    (report,) = client.infer(InferQuery(inputs=("photo",), boards=total, mode="sequence"), [PHOTO.read_bytes()])
    return any(board.id == me for board in report.boards)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--model", default="vit-cifar10")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    wanted = LocalBoards(count=asked.boards, threads=1, model=asked.model, models=asked.models)
    with local_ring(wanted, timeout_s=LIMIT_S) as ring:
        results = [measure(ring, asked.model) for _ in range(asked.times)]
    if asked.json:
        print(json.dumps([asdict(result) for result in results]))
        return 0
    last = results[-1]
    print(f"{asked.model}, {last.model_bytes / 1e6:.1f} MB, from {last.holders} of {asked.boards} boards on loopback")
    for name, words in (
        ("answers_s", "its control socket answers"),
        ("seen_s", "the others see it alive"),
        ("model_s", "the model is fetched and loaded"),
        ("share_s", "first answer with a share of it"),
    ):
        times = sorted(getattr(result, name) for result in results)
        print(f"{words:34} {statistics.median(times):6.2f} s   (of {len(times)}: {times[0]:.2f} to {times[-1]:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
