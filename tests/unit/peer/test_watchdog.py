"""Signs of life come from progress, and systemd hears each thing once."""

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peer.sd_notify import SdNotify
from peer.watchdog import (
    LAG_BUDGET_S,
    SILENCE_BUDGET_S,
    START_BUDGET_S,
    STEP_BUDGET_S,
    Progress,
    Report,
    hindrance,
    watch,
)

WELL = Progress(boards=3, model="vit", not_ready=None, stopping=False, compute_up=True, step_s=0.0, silent_s=0.5)


class Supervisor:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Everything that came since the last call."""
        words = []
        while True:
            try:
                words.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return words

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[tuple[Supervisor, str]]:
    name = str(tmp_path / "notify")
    listener = Supervisor(name)
    yield listener, name
    listener.close()


def test_a_board_that_gets_on_deserves_a_sign_of_life() -> None:
    assert hindrance(WELL, lag_s=0.0) is None
    assert hindrance(replace(WELL, step_s=STEP_BUDGET_S), lag_s=LAG_BUDGET_S / 2) is None
    assert hindrance(replace(WELL, compute_up=False, step_s=3600.0, silent_s=START_BUDGET_S), lag_s=0.0) is None


@pytest.mark.parametrize(
    ("progress", "lag_s", "words"),
    [
        (WELL, LAG_BUDGET_S, "late"),
        (replace(WELL, step_s=STEP_BUDGET_S + 1), 0.0, "one step"),
        (replace(WELL, silent_s=SILENCE_BUDGET_S + 1), 0.0, "said nothing"),
        (replace(WELL, compute_up=False, silent_s=START_BUDGET_S + 1), 0.0, "not started"),
    ],
)
def test_a_board_that_hangs_does_not(progress: Progress, lag_s: float, words: str) -> None:
    assert words in (hindrance(progress, lag_s=lag_s) or "")


def test_systemd_hears_each_state_once(supervisor: tuple[Supervisor, str]) -> None:
    listener, name = supervisor
    report = Report(SdNotify(socket_name=name), patience_s=20.0)
    waiting = replace(WELL, boards=1, model=None, not_ready="no model;\nwait")
    for seen in (waiting, waiting):
        report.state(seen)
        report.beat(seen, lag_s=0.0)
    assert listener.heard() == [
        "STATUS=alone in its ring, no model: no model; wait",
        "EXTEND_TIMEOUT_USEC=20000000",
        "EXTEND_TIMEOUT_USEC=20000000",
    ]
    report.state(WELL)
    report.beat(WELL, lag_s=0.0)
    down = replace(WELL, not_ready="the compute process is starting again", compute_up=False)
    report.state(down)
    report.beat(down, lag_s=0.0)
    assert listener.heard() == [
        "STATUS=ring of 3 boards, vit: ready",
        "READY=1",
        "WATCHDOG=1",
        "STATUS=ring of 3 boards, vit: the compute process is starting again",
        "WATCHDOG=1",
    ]
    leaving = replace(WELL, not_ready="leaving the ring", stopping=True)
    report.state(leaving)
    report.state(leaving)
    assert listener.heard() == ["STATUS=ring of 3 boards, vit: leaving the ring", "STOPPING=1"]


def test_a_board_that_hangs_falls_silent_and_says_so_once(
    supervisor: tuple[Supervisor, str], caplog: pytest.LogCaptureFixture
) -> None:
    listener, name = supervisor
    report = Report(SdNotify(socket_name=name), patience_s=20.0)
    report.state(WELL)
    listener.heard()
    for _ in range(3):
        report.beat(replace(WELL, step_s=999.0), lag_s=0.0)
    assert listener.heard() == []
    assert [record.getMessage() for record in caplog.records] == [
        "no sign of life for systemd: the compute has been in one step for 999 s"
    ]
    report.beat(WELL, lag_s=0.0)
    assert listener.heard() == ["WATCHDOG=1"]


async def test_news_are_told_at_once_and_a_late_loop_feeds_nobody(supervisor: tuple[Supervisor, str]) -> None:
    listener, name = supervisor
    changed, now = asyncio.Event(), [replace(WELL, not_ready="starting")]
    watching = asyncio.create_task(watch(lambda: now[0], changed, SdNotify(socket_name=name, watchdog_s=1.0)))

    async def hears(word: str) -> list[str]:
        words: list[str] = []
        async with asyncio.timeout(10):
            while word not in words:
                await asyncio.sleep(0.01)
                words += listener.heard()
        return words

    await hears("EXTEND_TIMEOUT_USEC=1000000")
    now[0] = WELL
    changed.set()
    await hears("READY=1")
    await hears("WATCHDOG=1")
    time.sleep(LAG_BUDGET_S + 0.5)  # noqa: ASYNC251 - it is the loop that is to hang
    listener.heard()
    await asyncio.sleep(0)  # its turn, late
    await asyncio.sleep(0)
    assert "WATCHDOG=1" not in listener.heard()
    await hears("WATCHDOG=1")
    watching.cancel()


def test_what_systemd_says_is_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "7", "HOME": "/h"}
    assert SdNotify.taken_from(environ, pid=7) == SdNotify(socket_name="@abstract", watchdog_s=20.0)
    assert environ == {"HOME": "/h"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, SdNotify()),
        ({"NOTIFY_SOCKET": "relative"}, SdNotify()),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "8"}, SdNotify(socket_name="/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, SdNotify(socket_name="/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, SdNotify(socket_name="/run/n")),
        ({"WATCHDOG_USEC": "20000000"}, SdNotify()),
    ],
)
def test_odd_environments_mean_less_supervision(environ: dict[str, str], expected: SdNotify) -> None:
    assert SdNotify.taken_from(environ, pid=7) == expected


def test_an_abstract_socket_is_reached_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    name = f"@tokenring-test-{tmp_path.name}-{time.monotonic_ns()}"
    listener = Supervisor(name)
    SdNotify(socket_name=name).ready()
    assert listener.heard() == ["READY=1"]
    listener.close()
    SdNotify(socket_name=name).ready()
    SdNotify(socket_name=str(tmp_path / "nobody")).ready()
    SdNotify().ready()
