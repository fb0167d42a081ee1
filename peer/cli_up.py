"""`peerctl up`: a whole ring on this machine, for as long as a command runs or until Ctrl-C."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from peer.cli_output import printable, table
from peer.errors import ConfigError
from peer.local_ring import LocalBoards, LocalRing, dies_with_parent, local_ring

_READY_S = 30.0
# How long a command may take to end after it was told to.
_GOODBYE_S = 5.0
_WATCH_PERIOD_S = 0.5


class _ToldToEnd(BaseException):
    """SIGTERM or SIGHUP arrived; derived like KeyboardInterrupt, which stands for SIGINT."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False},
)
@click.option("--boards", type=click.IntRange(1, 64), required=True, help="How many daemons to start.")
@click.option("--model", help="Their default model.")
@click.option("--models", type=click.Path(path_type=Path), help="Their folder of models.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, help="Compute threads of each  [1].")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=_READY_S, help="Seconds for the ring to close  [30]."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def up(
    ctx: click.Context,
    *,
    boards: int,
    model: str | None,
    models: Path | None,
    threads: int,
    timeout: float,
    command: tuple[str, ...],
) -> None:
    """Start daemons on loopback, wait for the ring, and run COMMAND or stay until Ctrl-C.

    COMMAND finds the ring through TOKENRING_SOCKET and TOKENRING_TOKEN_FILE, and its exit code becomes that of
    `up`. Nothing is left behind.

    \b
    Examples:
      peerctl up --boards 4 -- peerctl infer photo.jpg --explain
      peerctl up --boards 2 --model vit-cifar10
      peerctl up --boards 3 -- sh
    """
    named = os.environ.get("TOKENRING_MODELS")
    wanted = LocalBoards(count=boards, threads=threads, model=model, models=models or (Path(named) if named else None))
    try:
        with _ends_on_signals(), local_ring(wanted, timeout_s=timeout, progress=_progress) as ring:
            _progress("")
            ctx.exit(_run(ring, command) if command else _stay(ring))
    except _ToldToEnd as exc:
        ctx.exit(exc.exit_code)


def _run(ring: LocalRing, command: tuple[str, ...]) -> int:
    """Run the command and return its exit code, as a shell would report it."""
    click.echo(f"peerctl: a ring of {len(ring.names)} on this machine: {', '.join(ring.names)}", err=True)
    try:
        # In this process's group: a terminal's Ctrl-C reaches the command itself.
        child = subprocess.Popen(
            command,
            env=_environment(ring),
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - peerctl has no threads
        )
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"cannot run {command[0]}: {reason}; check the command after --") from exc
    try:
        code = child.wait()
    except KeyboardInterrupt:
        code = _end(child, told=True)
    except _ToldToEnd:
        _end(child, told=False)
        raise
    return code if code >= 0 else 128 - code


def _end(child: subprocess.Popen[bytes], *, told: bool) -> int:
    """Wait for a command that was told to end, or tell it; SIGKILL when it stays."""
    if not told:
        child.terminate()
    try:
        return child.wait(_GOODBYE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _stay(ring: LocalRing) -> int:
    """Show the ring and how to reach it, then wait for Ctrl-C; boards that end are named once."""
    rows = [(name, str(pid), str(path)) for name, pid, path in zip(ring.names, ring.pids, ring.sockets, strict=True)]
    click.echo(table(("board", "pid", "socket"), rows))
    click.echo(f"\nexport TOKENRING_SOCKET={shlex.quote(str(ring.sockets[0]))}")
    others = ":".join(map(str, ring.sockets[1:]))
    click.echo(f"export TOKENRING_OTHER_SOCKETS={shlex.quote(others)}")
    click.echo(f"export TOKENRING_TOKEN_FILE={shlex.quote(str(ring.token_file))}")
    said: set[str] = set()
    with contextlib.suppress(KeyboardInterrupt):
        click.echo("peerctl: the ring is up; Ctrl-C ends it", err=True)
        while len(said) < len(ring.names):
            for name, words in ring.dead().items():
                if name not in said:
                    said.add(name)
                    click.echo(f"peerctl: {name} has ended: {printable(words)}", err=True)
            time.sleep(_WATCH_PERIOD_S)
    return 0


def _environment(ring: LocalRing) -> dict[str, str]:
    """The command's environment: the ring's places, and `peerctl` itself when the shell does not know it."""
    beside = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "TOKENRING_SOCKET": str(ring.sockets[0]),
        "TOKENRING_OTHER_SOCKETS": ":".join(map(str, ring.sockets[1:])),
        "TOKENRING_TOKEN_FILE": str(ring.token_file),
        "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{beside}",
    }


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


@contextlib.contextmanager
def _ends_on_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP unwind like an exception, so that every `finally` runs."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise _ToldToEnd(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
