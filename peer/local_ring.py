"""Several daemons on this machine, on loopback, with a throw-away token: started together, gone together.

Owns the processes and one temporary folder; both are gone when the `with` block ends, whatever happened in it. The
kernel ends the daemons should this process be killed before it could.
"""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from peer.cluster_token import new_token, write_token
from peer.control_client import ControlClient
from peer.errors import NotEnoughBoards, PeerError, Refused
from peer.paths import SOCKET_NAME, SOCKET_PATH_LIMIT_BYTES

_LOOPBACK = "127.0.0.1"
_POLL_S = 0.05
_ANSWER_S = 5.0
# Time for a daemon to say goodbye after SIGTERM.
_GOODBYE_S = 5.0
# Another program may take a free port between its choice and its use.
_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1
_LOWEST_PORT = 10_000
_PORTS_A_DAEMON = 4
_LOG_NAME = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBoards:
    """What to start."""

    count: int
    # Compute threads of each daemon.
    threads: int
    # The daemons' default model; None: theirs to choose.
    model: str | None = None
    # Their folder of models; None: the default one.
    models: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Board:
    name: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRing:
    """A running ring; `dead()` tells which boards have ended since."""

    folder: Path
    boards: tuple[_Board, ...]

    @property
    def token_file(self) -> Path:
        """The throw-away token that all boards hold."""
        return self.folder / "token"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """The control socket of each board."""
        return tuple(board.socket for board in self.boards)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each board, in the order of `sockets`."""
        return tuple(board.name for board in self.boards)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process of each board, in the order of `sockets`."""
        return tuple(board.process.pid for board in self.boards)

    def dead(self) -> dict[str, str]:
        """Name and last words of each board whose process has ended."""
        return {board.name: _last_words(board) for board in self.boards if board.process.poll() is not None}


@contextlib.contextmanager
def local_ring(
    wanted: LocalBoards, *, timeout_s: float, progress: Callable[[str], None] = lambda _: None
) -> Iterator[LocalRing]:
    """Start the boards, wait until each sees all of them, and end them with the block.

    Raises Refused with a daemon's last words when it does not start, NotEnoughBoards when the ring does not close
    within `timeout_s`.
    """
    until = time.monotonic() + timeout_s
    folder = Path(tempfile.mkdtemp(prefix="tokenring-", dir=_short_folder()))
    boards: list[_Board] = []
    try:
        write_token(folder / "token", new_token() + "\n")
        (folder / "peerd.toml").touch()
        ring = _start_until_closed(wanted, folder, boards, until, progress)
        yield ring
    finally:
        with _deaf_to_signals():
            _stop(boards)
            shutil.rmtree(folder, ignore_errors=True)


def _start_until_closed(
    wanted: LocalBoards, folder: Path, boards: list[_Board], until: float, progress: Callable[[str], None]
) -> LocalRing:
    """Start, and start again on other ports when one was taken; `boards` always holds what must be stopped."""
    for attempt in range(1, _ATTEMPTS + 1):
        ports = _free_ports(wanted.count)
        for number, port in enumerate(ports, start=1):
            boards.append(_start(wanted, folder, f"board-{number}", port, ports))
        ring = LocalRing(folder=folder, boards=tuple(boards))
        try:
            _wait(ring, until, progress)
        except Refused as exc:
            if attempt == _ATTEMPTS or "in use" not in str(exc):
                raise
            _stop(boards)
            boards.clear()
        else:
            return ring
    raise Refused("no free ports on this machine")


def _start(wanted: LocalBoards, folder: Path, name: str, port: int, ports: list[int]) -> _Board:
    home = folder / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    options = {
        # A person's own configuration, with the seeds of a real cluster, must not leak into a toy ring.
        "--config": folder / "peerd.toml",
        "--state-dir": home,
        "--socket": home / SOCKET_NAME,
        "--listen": f"{_LOOPBACK}:{port}",
        "--name": name,
        "--token-file": folder / "token",
        "--threads": wanted.threads,
        "--default-model": wanted.model,
        "--models": wanted.models,
    }
    command = [sys.executable, "-m", "peer.cli_peerd"]
    for option, value in options.items():
        command += [] if value is None else [option, str(value)]
    for other in ports:
        command += [] if other == port else ["--seed", f"{_LOOPBACK}:{other}"]
    with (home / _LOG_NAME).open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C belongs to this process, which says goodbye for all.
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - peerctl has no threads
        )
    return _Board(name=name, folder=home, port=port, process=process)


def dies_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that has the kernel send `number` to the child when this process ends (prctl(2))."""
    libc, parent = ctypes.CDLL(None), os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        # The parent may have ended before the arrangement was made.
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return arrange


def _wait(ring: LocalRing, until: float, progress: Callable[[str], None]) -> None:
    """Poll every board until it serves and sees all of them."""
    total, waiting = len(ring.boards), list(ring.boards)
    while waiting:
        for name, words in ring.dead().items():
            raise Refused(f"{name} did not start: {words}")
        if time.monotonic() > until:
            names = ", ".join(board.name for board in waiting)
            raise NotEnoughBoards(f"{names} did not see {total} boards in time; give more with --timeout")
        waiting = [board for board in waiting if not _sees(board, total)]
        _check_models(waiting, total)
        progress(f"{total - len(waiting)} of {total} boards see the whole ring")
        time.sleep(_POLL_S if waiting else 0)


def _check_models(waiting: list[_Board], total: int) -> None:
    """Boards that all have no model would wait for each other for ever. Raises Refused with their reason."""
    reasons = []
    for board in waiting if len(waiting) == total else ():
        with contextlib.suppress(PeerError), ControlClient(board.socket, timeout_s=_ANSWER_S) as client:
            status = client.status()
            if not status.models and status.not_ready is not None:
                reasons.append(status.not_ready)
    if reasons and len(reasons) == total:
        raise Refused(f"no board has a model: {reasons[0]}")


def _sees(board: _Board, total: int) -> bool:
    if not board.socket.exists():
        return False
    try:
        with ControlClient(board.socket, timeout_s=_ANSWER_S) as client:
            return client.status().ready and len(client.ring().order) == total
    except PeerError:
        return False


def _stop(boards: list[_Board]) -> None:
    """SIGTERM to all, and SIGKILL to those that stay."""
    until = time.monotonic() + _GOODBYE_S
    for board in boards:
        board.process.terminate()
    for board in boards:
        try:
            board.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            board.process.kill()
            board.process.wait()


def _last_words(board: _Board) -> str:
    """The last line that a daemon printed, or how it ended when it printed nothing."""
    with contextlib.suppress(OSError):
        lines = (board.folder / _LOG_NAME).read_text(encoding="utf-8", errors="replace").split("\n")
        for line in reversed(lines):
            if line.strip():
                return line.strip().removeprefix("peerd: ").removeprefix("ERROR: ")
    return f"it ended with {board.process.returncode} and said nothing"


def free_port() -> int:
    """A port for one more daemon on loopback, with the three above it."""
    return _free_ports(1)[0]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, each with the three above it free for a daemon's other listeners.

    Below the range from which the kernel gives outgoing connections theirs: a port out of that range can be gone again
    before the daemon listens on it.
    """
    chosen: list[int] = []
    below = _outgoing_from() - _PORTS_A_DAEMON
    candidates = range(_LOWEST_PORT, below if below > 2 * _LOWEST_PORT else 60_000)
    with contextlib.ExitStack() as held:
        while len(chosen) < count:
            port = random.choice(candidates)
            try:
                for listener in range(port, port + _PORTS_A_DAEMON):
                    held.enter_context(socket.socket()).bind((_LOOPBACK, listener))
            except (OSError, OverflowError):
                continue
            chosen.append(port)
    return chosen


def _outgoing_from() -> int:
    """The lowest port that Linux gives an outgoing connection."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def _short_folder() -> str | None:
    """The temporary folder, or /tmp where its path would leave a control socket no room."""
    longest = len(os.fsencode(tempfile.gettempdir())) + len(f"/tokenring-abcdefgh/board-1000/{SOCKET_NAME}")
    return "/tmp" if longest > SOCKET_PATH_LIMIT_BYTES else None


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Finish cleaning up even when asked twice to hurry."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
