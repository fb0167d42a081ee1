"""Requests while a board is killed, stopped, unplugged, leaves and joins: each ends once, rightly, by its deadline.

One seed of the rows that `python -m tests.faults.requests` repeats and times; here only the history is looked at.
"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.history import Client, History
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

ROOT = Path(__file__).parents[2]
PHOTO = (ROOT / "docs/photos/chelsea.png").read_bytes()
ALL = (0, 1, 2, 3)
ASKED, VICTIM = 0, 2
DEADLINE_S = 30.0
LIMIT_S = 60.0  # for states that a busy machine reaches late


@pytest.fixture(scope="module")
def boards() -> Iterator[Lan]:
    with lan(len(ALL)) as made:
        yield made


@pytest.fixture(scope="module")
def running(boards: Lan) -> Iterator[Daemons]:
    with cluster(boards, ROOT / "models_onnx") as daemons:
        yield daemons


@pytest.fixture
def daemons(running: Daemons) -> Daemons:
    """One ring of all boards, whatever the test before left."""
    running.start(*(index for index in ALL if index not in running.processes))
    running.wait(lambda: running.one_ring(*ALL), "one ring of all boards", LIMIT_S)
    return running


def hold(daemons: Daemons, fault: Callable[[], object], *, after_s: float, **choices: object) -> None:
    """Clients of two boards ask before, during and after a fault of a third; their history must hold."""
    whole = daemons.infer(ASKED, PHOTO, mode="single", logits=True)
    daemons.infer(ASKED, PHOTO, codec="f32")
    history = History()
    clients = [
        Client(daemons.home(index) / "sock", index, PHOTO, history, deadline_s=DEADLINE_S, **choices)
        for index in (ASKED, ASKED + 1)
    ]
    for client in clients:
        client.start()
    time.sleep(0.5)
    at = time.monotonic()
    fault()
    time.sleep(after_s)
    for client in clients:
        client.stop()
    degraded = bool(choices.get("allow_degraded"))
    assert not history.check(tuple(whole.logits or ()), degraded=degraded, errors=False)
    assert {request.began > at for request in history.requests} == {False, True}, (
        "all requests on one side of the fault"
    )


def test_requests_outlive_a_board_that_is_killed(daemons: Daemons) -> None:
    hold(daemons, lambda: daemons.end(VICTIM, signal.SIGKILL), after_s=1.5)


def test_requests_outlive_a_board_that_is_stopped_and_thaws(daemons: Daemons) -> None:
    def fault() -> None:
        daemons.signal(VICTIM, signal.SIGSTOP)
        time.sleep(3.0)
        daemons.signal(VICTIM, signal.SIGCONT)

    hold(daemons, fault, after_s=1.0)


def test_an_answer_without_the_tokens_of_an_unplugged_board_says_so(boards: Lan, daemons: Daemons) -> None:
    hold(daemons, lambda: boards.cable(VICTIM, plugged=False), after_s=2.0, allow_degraded=True)
    boards.cable(VICTIM, plugged=True)


def test_no_request_fails_when_boards_leave_and_join(daemons: Daemons) -> None:
    def fault() -> None:
        assert daemons.end(VICTIM, signal.SIGTERM) == 0
        daemons.start(VICTIM)

    hold(daemons, fault, after_s=2.0, pause_s=0.1)
