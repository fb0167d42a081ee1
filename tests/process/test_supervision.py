"""What systemd hears of a real daemon, on a NOTIFY_SOCKET of the test's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peer.local_ring import free_port
from tests.helpers.notify_socket import NotifySocket

pytestmark = pytest.mark.process
LIMIT_S = 60.0
WATCHDOG_S = 2.0  # the daemon gives four signs of life in that time
SHIPPED = Path(__file__).parents[2] / "models_onnx"


class Supervised:
    """A daemon, and what it says to its supervisor."""

    def __init__(self, folder: Path, models: Path) -> None:
        self._said = NotifySocket(folder / "notify")
        settings = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
            "HANG_S": "4",
            "SILENCE_S": "8",  # longer than between two accounts of a compute process that has nothing to do
        }
        command = [sys.executable, "-m", "tests.helpers.hangable_peerd", "--config", os.devnull]
        command += ["--state-dir", str(folder), "--socket", str(folder / "sock"), "--models", str(models)]
        command += ["--listen", f"127.0.0.1:{free_port()}", "--threads", "1"]
        self.process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.DEVNULL)

    @property
    def compute(self) -> int:
        """The pid of its compute process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def hears(self, word: str, *, within_s: float = LIMIT_S) -> bool:
        """Whether the daemon says it in that time."""
        return self._said.hears(word, within_s=within_s)

    def falls_silent(self, *, within_s: float = LIMIT_S) -> bool:
        """Whether it stops giving signs of life: none for as long as systemd waits for one."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if not self.hears("WATCHDOG=1", within_s=WATCHDOG_S):
                return True
        return False

    def forget(self) -> None:
        """What has come so far."""
        self._said.forget()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._said.close()


@contextmanager
def supervised(folder: Path, models: Path) -> Iterator[Supervised]:
    daemon = Supervised(folder, models)
    try:
        yield daemon
    finally:
        daemon.close()


def test_signs_of_life_end_when_the_loop_hangs_or_the_compute_does(tmp_path: Path) -> None:
    with supervised(tmp_path, SHIPPED) as daemon:
        assert daemon.hears("READY=1")
        assert daemon.hears("WATCHDOG=1")

        daemon.process.send_signal(signal.SIGUSR1)
        assert daemon.falls_silent()
        assert daemon.hears("WATCHDOG=1")  # here it hung for a while only

        assert not daemon.falls_silent(within_s=8.0)  # a compute process without work is no reason
        os.kill(daemon.compute, signal.SIGSTOP)
        assert daemon.falls_silent()
        assert daemon.process.poll() is None
        os.kill(daemon.compute, signal.SIGCONT)
        assert daemon.hears("WATCHDOG=1")

        # Its end is something else: the daemon starts another one and goes on meanwhile.
        daemon.forget()
        os.kill(daemon.compute, signal.SIGKILL)
        assert daemon.hears("starting again")
        assert daemon.hears("ready")  # it may be back before the next sign of life
        assert daemon.hears("WATCHDOG=1")

        daemon.process.terminate()
        assert daemon.hears("STOPPING=1")
        assert daemon.process.wait(LIMIT_S) == 0


def test_a_board_that_waits_for_a_model_is_not_ready_and_not_given_up(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with supervised(tmp_path, tmp_path / "none") as daemon:
        assert daemon.hears("STATUS=alone in its ring, no model: no usable model")
        assert daemon.hears("EXTEND_TIMEOUT_USEC=2000000")
        assert daemon.hears("EXTEND_TIMEOUT_USEC=2000000")
        assert not daemon.hears("READY=1", within_s=1.0)
