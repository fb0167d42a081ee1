"""The plan of real boards: what they measured of themselves, what they would do, and what they did."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peer.control_client import ControlClient
from peer.local_ring import LocalBoards, LocalRing, local_ring
from peer.reports import InferQuery, PlanBoardReport, PlanQuery, PlanReport

pytestmark = pytest.mark.process
PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
BOARDS = 3


def until(reached: Callable[[PlanReport], bool], ring: LocalRing, limit_s: float = 120.0) -> PlanReport:
    """Ask for plans until one is as it should become."""
    started = time.monotonic()
    with ControlClient(ring.sockets[0], timeout_s=30) as client:
        while True:
            plan = client.plan(PlanQuery(model="vit-cifar10"))
            if reached(plan):
                return plan
            assert time.monotonic() - started < limit_s, plan
            time.sleep(0.1)


def others(plan: PlanReport, ring: LocalRing) -> list[PlanBoardReport]:
    """Boards but the asked one, which has no link to itself; they are listed in the order of the ring."""
    return [board for board in plan.boards if board.name != ring.names[0]]


def peerctl(ring: LocalRing, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peer.cli", *map(str, arguments), "--socket", str(ring.sockets[0])]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_boards_measure_themselves_and_their_links_and_tell_each_other(random_model: Path, tmp_path: Path) -> None:
    with local_ring(
        LocalBoards(count=BOARDS, threads=1, models=random_model, model="vit-cifar10"), timeout_s=90
    ) as ring:
        plan = until(
            lambda plan: (
                len(plan.boards) == BOARDS
                and all(board.measured for board in plan.boards)
                and all(board.rtt_ms is not None and board.link_mbit is not None for board in others(plan, ring))
            ),
            ring,
        )
        codecs = {row.codec for row in plan.settings if row.codec is not None}
        with ControlClient(ring.sockets[0], timeout_s=30) as client:
            models = {model.name: model for model in client.models()}
        assert codecs == {codec.name for codec in models["vit-cifar10"].codecs}
        assert {row.boards for row in plan.settings if row.codec == plan.default_codec} == {2, 3}
        assert all(row.predicted_ms > 0 and sum(row.tokens) == 64 for row in plan.settings)
        assert plan.choice in plan.settings
        assert plan.reason

        done = peerctl(ring, "plan", "--model", "vit-cifar10")
        assert done.returncode == 0, done.stderr
        assert "vit-cifar10: " in done.stdout
        assert "why: " in done.stdout

        done = peerctl(ring, "infer", PHOTO, "--model", "vit-cifar10", "--explain", "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["predicted_ms"] > 0
        assert report["explain"]["reason"]

        with ControlClient(ring.sockets[0], timeout_s=30) as client:
            (report,) = client.infer(
                InferQuery(inputs=("photo",), model="vit-cifar10", mode="sequence"), [PHOTO.read_bytes()]
            )
        assert len(report.boards) == BOARDS  # whatever the plan: a person has asked for it
        assert report.predicted_ms is not None


def test_a_folder_is_finished_although_a_board_of_it_is_killed(random_model: Path, tmp_path: Path) -> None:
    names = [f"{number:02}.png" for number in range(24)]
    for name in names:
        (tmp_path / name).write_bytes(PHOTO.read_bytes())
    boards = LocalBoards(count=BOARDS, threads=1, models=random_model, model="vit-cifar10")
    with local_ring(boards, timeout_s=90) as ring:
        until(lambda plan: all(board.measured for board in plan.boards), ring)
        command = [sys.executable, "-m", "peer.cli", "infer", tmp_path, "--json", "--explain"]
        command += ["--socket", ring.sockets[0]]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(6)]
            os.kill(ring.pids[1], signal.SIGKILL)
            rest = process.stdout.read()
        reports = [json.loads(line) for line in (*lines, *rest.splitlines())]
        assert process.returncode == 0
        assert [Path(report["input"]).name for report in reports] == names
        assert all(not report["degraded"] for report in reports)
        # Whether other boards got images is the planner's choice on this machine; that one whose board dies is done by
        # another is shown on the simulated network (tests/sim/test_requests_sim.py).
