"""Whom `peerctl infer` asks when the daemon it asked is gone, and for how long."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_control_daemon import Daemon

from peer import cli_asking
from peer.cli_asking import Asking
from peer.errors import HungUp, NoDaemon
from peer.reports import InferQuery

QUERY = InferQuery(inputs=("a.jpg",), deadline_s=20.0)


@contextlib.contextmanager
def dying(path: Path, after: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """A daemon that takes a call, reads a little and hangs up; `after` is called then. Yields the calls so far."""
    calls: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    calls.append(len(calls))
                    connection.recv(10)
                    after()
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield calls
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_another_board_is_asked_when_one_dies_under_the_request(daemon: Daemon, tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    with (
        dying(tmp_path / "first"),
        Asking((tmp_path / "first", daemon.socket), timeout_s=10, say=lambda *line: said.append(line)) as asking,
    ):
        assert asking.infer(QUERY, [b"image"])[0].top[0].label == "cat"
        assert len(said) == 1
        assert said[0][0].startswith("the daemon hung up")
        assert said[0][1] == str(daemon.socket)
        # The next request goes straight to who answered.
        asking.infer(QUERY, [b"image"])
        assert len(said) == 1


def test_a_daemon_that_comes_back_is_asked_again(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def come_back() -> None:
        path.unlink()
        path.symlink_to(daemon.socket)

    with dying(path, come_back) as calls, Asking((path,), timeout_s=10, say=lambda *_: None) as asking:
        assert asking.infer(QUERY, [b"image"])[0].top[0].label == "cat"
        assert len(calls) == 1


def test_a_daemon_that_does_not_come_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_asking, "RETURN_S", 0.5)
    with dying(tmp_path / "only") as calls, Asking((tmp_path / "only",), timeout_s=10, say=lambda *_: None) as asking:
        with pytest.raises(HungUp):
            asking.infer(QUERY, [b"image"])
        assert 1 < len(calls) < 5  # a few times, never without an end


def test_where_nobody_was_there_nobody_is_waited_for(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    with Asking((tmp_path / "a", tmp_path / "b"), timeout_s=10, say=lambda *line: said.append(line)) as asking:
        with pytest.raises(NoDaemon, match="start peerd"):
            asking.infer(QUERY, [b"image"])
        assert len(said) == 1
