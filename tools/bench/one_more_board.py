"""A daemon beside a local ring that was not there when the ring was made: empty state, one token, seeds."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer.local_ring import LocalRing, dies_with_parent, free_port
from peer.paths import SOCKET_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class OneMore:
    """The running daemon and its folder."""

    home: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.home / SOCKET_NAME

    @property
    def log(self) -> str:
        return (self.home / "stderr").read_text(encoding="utf-8", errors="replace")


def start(
    ring: LocalRing, home: Path, options: Sequence[object] = (), *, environ: Mapping[str, str] | None = None
) -> OneMore:
    """Start a daemon whose state is `home`, which need not be empty: it may have been there before."""
    models = home / "models"
    models.mkdir(exist_ok=True)
    (home / "peerd.toml").touch()
    command: list[object] = [sys.executable, "-m", "peer.cli_peerd", "--config", home / "peerd.toml"]
    command += ["--state-dir", home, "--models", models, "--socket", home / SOCKET_NAME, "--name", "fresh"]
    command += ["--listen", f"127.0.0.1:{free_port()}", "--token-file", ring.token_file, "--threads", 1, *options]
    for board in ring.boards:
        command += ["--seed", f"127.0.0.1:{board.port}"]
    with (home / "stderr").open("ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ,
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - as in local_ring
        )
    return OneMore(home=home, process=process)


@contextlib.contextmanager
def one_more(ring: LocalRing, home: Path, options: Sequence[object] = ()) -> Iterator[OneMore]:
    """A daemon that is gone when the block ends."""
    board = start(ring, home, options)
    try:
        yield board
    finally:
        board.process.terminate()
        try:
            board.process.wait(15)
        except subprocess.TimeoutExpired:
            board.process.kill()
            board.process.wait()
