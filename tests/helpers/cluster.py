"""Real daemons, one per board of a LAN of namespaces, and what the tests ask of them.

with lan(4) as boards, cluster(boards, models) as daemons:
    daemons.start(0, 1, 2)
    daemons.wait(lambda: daemons.rings(0, 1, 2) == 3, "one ring of three")
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peer.cluster_token import new_token, write_token
from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.reports import InferQuery, InferReport, MemberReport
from tests.helpers.lan import Lan

PORT = 7700
_ANSWER_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A change of what a board believes of another; `at` in seconds of this machine's monotonic clock."""

    at: float
    here: str
    about: str
    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.here} holds {self.about} {self.status} ({self.reason})"


class Daemons:
    """One daemon per board, each with a state folder of its own and one token for all unless told otherwise."""

    def __init__(self, boards: Lan, folder: Path, models: Path) -> None:
        self._boards = boards
        self._models = models
        self.folder = folder
        self.token_file = folder / "token"
        self.processes: dict[int, subprocess.Popen[str]] = {}
        write_token(self.token_file, new_token())

    def home(self, index: int) -> Path:
        """The state folder of a board's daemon."""
        home = self.folder / f"board-{index}"
        home.mkdir(exist_ok=True, mode=0o700)
        return home

    def start(
        self,
        *indices: int,
        options: tuple[object, ...] = (),
        listen: str = f"0.0.0.0:{PORT}",
        models: Path | None = None,
    ) -> None:
        """Start daemons, with models in a folder of their own where one is given; does not wait."""
        for index in indices:
            home = self.home(index)
            settings = {
                "--config": os.devnull,
                "--state-dir": home,
                "--socket": home / "sock",
                "--listen": listen,
                "--name": f"board-{index}",
                "--token-file": self.token_file,
                "--threads": 1,
                "--models": models or self._models,
            }
            arguments = [part for pair in settings.items() for part in pair]
            with (home / "log").open("a", encoding="utf-8") as log:
                self.processes[index] = self._boards[index].popen(
                    [sys.executable, "-m", "tests.helpers.hangable_peerd", *arguments, *options], stderr=log
                )

    def signal(self, index: int, number: int) -> None:
        if number == signal.SIGUSR1:
            os.kill(self.processes[index].pid, number)  # the daemon's own loop hangs, as a bug of it would make it
        else:
            os.killpg(self.processes[index].pid, number)  # what happens to a board happens to its compute as well

    def end(self, index: int, number: int) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.signal(index, number)
        process = self.processes.pop(index)
        code = process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
        return code

    def members(self, index: int) -> dict[str, MemberReport]:
        """What a board's daemon believes, by name; empty when it does not answer."""
        try:
            with ControlClient(self.home(index) / "sock", timeout_s=_ANSWER_S) as client:
                return {member.name: member for member in client.members()}
        except PeerError:
            return {}

    def ring(self, index: int) -> tuple[str, ...]:
        """The ring as a board's daemon sees it; empty when it cannot serve."""
        try:
            with ControlClient(self.home(index) / "sock", timeout_s=_ANSWER_S) as client:
                return client.ring().order if client.status().ready else ()
        except PeerError:
            return ()

    def one_ring(self, *indices: int) -> bool:
        """Whether these boards, and no others, see one and the same ring of themselves."""
        rings = {self.ring(index) for index in indices}
        return len(rings) == 1 and len(rings.pop()) == len(indices)

    def status(self, index: int, of: int) -> str:
        """What board `index` believes of board `of`; empty when it does not list it."""
        member = self.members(index).get(f"board-{of}")
        return member.status if member else ""

    def beliefs(self, index: int) -> list[Belief]:
        """Every change of what a board believed of another, oldest first."""
        told = []
        for line in (self.home(index) / "log").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("belief "):
                _, at, about, status, *reason = line.split(" ", 4)
                told.append(
                    Belief(
                        at=float(at), here=f"board-{index}", about=about, status=status, reason="".join(reason).strip()
                    )
                )
        return told

    def infer(self, index: int, image: bytes, **choices: object) -> InferReport:
        """Ask a board for a classification, shared by all of them unless told otherwise."""
        choices.setdefault("mode", "sequence")
        query = InferQuery(inputs=("picture",), **choices)  # type: ignore[arg-type]  # the caller names real fields
        with ControlClient(self.home(index) / "sock", timeout_s=60) as client:
            return client.infer(query, [image])[0]

    def wait(self, reached: Callable[[], bool], what: str, limit_s: float = 20.0) -> float:
        """Until a state is reached; the seconds it took. Raises AssertionError with every board's last words."""
        started = time.monotonic()
        while not reached():
            if time.monotonic() - started > limit_s:
                raise AssertionError(f"{what}: not within {limit_s:g} s\n{self.story()}")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def story(self) -> str:
        """What every board believes and said last, for a failure."""
        lines = []
        for index in self.processes:
            beliefs = {name: f"{m.status} {m.reason}".strip() for name, m in self.members(index).items()}
            log = (self.home(index) / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            lines.append(f"board-{index}: {beliefs}; log: {log}")
        return "\n".join(lines)

    def stop(self) -> None:
        """End every daemon that still runs."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
        self.processes.clear()


@contextmanager
def cluster(boards: Lan, models: Path) -> Iterator[Daemons]:
    """Daemons for the boards of a LAN; all of them are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="tr-") as folder:
        daemons = Daemons(boards, Path(folder), models)
        try:
            yield daemons
        finally:
            daemons.stop()
