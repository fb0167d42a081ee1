"""What happens to the compute process happens to nothing else: the daemon stays a member, and its requests end."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.control_client import ControlClient
from peer.local_ring import LocalBoards, LocalRing, local_ring
from peer.reports import InferQuery, InferReport

pytestmark = pytest.mark.process

MODELS = Path(__file__).parents[2] / "models_onnx"
PHOTO = (Path(__file__).parents[2] / "docs/photos/chelsea.png").read_bytes()
LIMIT_S = 30.0


@pytest.fixture
def ring() -> Iterator[LocalRing]:
    with local_ring(LocalBoards(count=3, threads=1, models=MODELS), timeout_s=60) as running:
        yield running


def compute_of(ring: LocalRing, board: int) -> int:
    """The pid of a board's compute process."""
    pid = ring.pids[board]
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def ask(ring: LocalRing, board: int = 0, **choices: object) -> InferReport:
    with ControlClient(ring.sockets[board], timeout_s=60) as client:
        choices.setdefault("mode", "sequence")
        query = InferQuery(inputs=("picture",), deadline_s=20.0, **choices)  # type: ignore[arg-type]  # real fields
        return client.infer(query, [PHOTO])[0]


def ready(ring: LocalRing, board: int) -> bool:
    with ControlClient(ring.sockets[board], timeout_s=5) as client:
        return client.status().ready


def wait(reached: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_compute_process_that_dies_is_replaced_and_its_board_stays_a_member(ring: LocalRing, number: int) -> None:
    assert len(ask(ring).boards) == 3
    with ControlClient(ring.sockets[0], timeout_s=5) as client:
        before = {member.id: member.incarnation >> 16 for member in client.members()}
    died = compute_of(ring, 1)
    os.kill(died, number)
    assert ask(ring).top  # the others answer at once, with or without it
    wait(lambda: ready(ring, 1), "the board computes again")
    assert compute_of(ring, 1) != died
    wait(lambda: len(ask(ring).boards) == 3, "the board takes shares again")
    with ControlClient(ring.sockets[0], timeout_s=5) as client:
        assert {member.id: member.incarnation >> 16 for member in client.members()} == before  # nobody restarted


def test_a_request_under_way_on_the_asked_board_is_computed_again(ring: LocalRing) -> None:
    ask(ring)
    os.kill(compute_of(ring, 0), signal.SIGSTOP)
    answers: list[InferReport] = []
    asking = threading.Thread(target=lambda: answers.append(ask(ring, mode="single")))
    asking.start()
    time.sleep(0.3)
    os.kill(compute_of(ring, 0), signal.SIGKILL)
    asking.join(LIMIT_S)
    assert len(answers) == 1
    assert answers[0].top
