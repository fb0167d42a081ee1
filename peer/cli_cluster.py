"""`peerctl token`, `join`, `leave` and `forget`: who belongs to the cluster."""

import os
import sys
import time
from pathlib import Path

import click

from peer.cli_output import Asked, count, say_json, shared_options
from peer.cluster_token import new_token, parse_token, read_token, replace_token, write_token
from peer.errors import ConfigError, DeadlineExceeded, NoDaemon, NotAdmitted, Refused
from peer.reports import ForgetQuery, JoinQuery, RotationReport, TokenReport

_HELP = {"help_option_names": ["-h", "--help"]}
_POLL_S = 0.05


@click.command(context_settings=_HELP)
@click.argument("action", type=click.Choice(["new", "show", "rotate"]))
@click.option("--file", type=click.Path(path_type=Path), help="new: write it to a file for its owner's eyes only.")
@click.option("--token-file", type=click.Path(path_type=Path), help="show: the token in this file.")
@shared_options
def token(
    *,
    action: str,
    file: Path | None,
    token_file: Path | None,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """The cluster's token: make a new one, show the present one, rotate it.

    Whoever holds the token can join. `rotate` gives a new one to every board of the ring at once, and to those
    that are away when they come back; the old one lets nobody in any more.

    \b
    Examples:
      peerctl token new --file token
      peerctl token show
      peerctl token rotate
    """
    if file is not None and action != "new":
        raise click.UsageError("--file belongs to token new")
    if token_file is not None and action != "show":
        raise click.UsageError("--token-file belongs to token show")
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout)
    if action == "rotate":
        with asked.client() as client:
            _say_told(client.rotate(), "the cluster has a new token", as_json=as_json)
        return
    if action == "new":
        report = TokenReport(token=new_token(), generation=0)
        if file is not None:
            _write_new(file, report.token)
            click.echo(f"peerctl: wrote {file}; give it to each board with --token-file", err=True)
            return
    else:
        report = _present(asked, token_file)
    if as_json:
        say_json(report)
    else:
        click.echo(report.token)


def _write_new(path: Path, text: str) -> None:
    try:
        write_token(path, text)
    except FileExistsError as exc:
        raise Refused(f"{path} exists; a token that is in use is changed with peerctl token rotate") from exc
    except OSError as exc:
        raise Refused(f"cannot write {path}: {exc.strerror}; name another with --file") from exc


def _present(asked: Asked, token_file: Path | None) -> TokenReport:
    """The token in the file that was named; else the daemon's; else the one that a daemon would start with."""
    from peer.cluster_lock import read_lock
    from peer.cluster_token import format_token
    from peer.config import Settings, load

    if token_file is not None:
        return TokenReport(token=format_token(read_token(token_file)), generation=0)
    try:
        with asked.client() as client:
            return client.token()
    except NoDaemon:
        if asked.socket is not None:
            raise
    lock = read_lock(load(flags=Settings(), environ=os.environ))
    if lock is None:
        raise NotAdmitted("there is no cluster token here; make one with peerctl token new, or run peerctl join TOKEN")
    return TokenReport(token=format_token(lock.token), generation=lock.generation)


@click.command(context_settings=_HELP)
@click.argument("token_text", metavar="TOKEN")
@click.option("--everybody", is_flag=True, help="Take the other boards of this ring along.")
@shared_options
def join(*, token_text: str, everybody: bool, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """Enter the cluster that TOKEN belongs to.

    A running daemon takes the token at once and looks for the cluster's boards. Without one, the token is kept
    for the next start of peerd. `-` reads the token from standard input, so that no list of processes shows it.

    \b
    Examples:
      peerctl join tr1-k5w2...
      ssh board-1 peerctl token show | peerctl join -
    """
    text = (sys.stdin.readline(4096) if token_text == "-" else token_text).strip()
    try:
        parse_token(text)
    except ConfigError as exc:
        raise click.UsageError(str(exc)) from exc
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout)
    try:
        with asked.client() as client:
            report = client.join(JoinQuery(token=text, everybody=everybody))
    except NoDaemon:
        if socket is not None:
            raise
    else:
        _say_told(report, "this board has the token and looks for the others", as_json=as_json)
        return
    path = _keep(text)
    if as_json:
        say_json(RotationReport(generation=0, told=0))
    else:
        click.echo(f"kept in {path}; peerd uses it from its next start (with --listen HOST:PORT to reach other boards)")


def _keep(text: str) -> Path:
    """Write the token to where a daemon of this user looks for it first."""
    from peer.config import token_place

    path = token_place(os.environ, uid=os.geteuid())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_token(path, text)
        if os.geteuid() == 0:
            # For a service that does not run as root: its folder says as whom it runs.
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as exc:
        raise Refused(f"cannot write {path}: {exc.strerror}; run as the user that peerd runs as") from exc
    return path


@click.command(context_settings=_HELP)
@shared_options
def leave(*, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """Let the daemon finish what is under way, say goodbye to the others, and end.

    The others list the board as left, not as dead. It stays out until peerd is started again.

    \b
    Examples:
      peerctl leave
      peerctl leave --timeout 60
    """
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout)
    until = time.monotonic() + (timeout or 30.0)
    with asked.client() as client:
        status = client.status()
        client.leave()
    # The process is what counts: its socket goes before the last goodbye is on its way.
    while _runs(status.pid):
        if time.monotonic() > until:
            raise DeadlineExceeded("the daemon still finishes its requests; give it more with --timeout")
        time.sleep(_POLL_S)
    if as_json:
        say_json({"id": status.id, "name": status.name})
    else:
        click.echo(f"{status.name} has left the ring")


def _runs(pid: int) -> bool:
    """Whether the process is there and has not ended; a zombie waits for its parent only."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except (OSError, IndexError):
        return False


@click.command(context_settings=_HELP)
@click.argument("board", metavar="ID")
@click.option("--revoke", is_flag=True, help="Shut a living board out for good, and rotate the token.")
@shared_options
def forget(*, board: str, revoke: bool, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """Take a board off the list of every board. ID is an id, its beginning, or a name.

    A board that still lives is refused unless --revoke is given: then its key opens nothing any more, and the
    cluster gets a new token that it does not have.

    \b
    Examples:
      peerctl forget 3f2a
      peerctl forget board-4 --revoke
    """
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:
        report = client.forget(ForgetQuery(id=board, revoke=revoke))
    done = "is shut out, and the cluster has a new token" if revoke else "is off the list"
    _say_told(report, f"{', '.join(report.forgotten)} {done}", as_json=as_json)


def _say_told(report: RotationReport, done: str, *, as_json: bool) -> None:
    if as_json:
        say_json(report)
    else:
        click.echo(f"{done}; {count(report.told, 'other board')} told")
