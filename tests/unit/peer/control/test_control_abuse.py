"""Fault row B14: whatever a client does to the control socket, it gets a typed error and the daemon stays well."""

import contextlib
import json
import os
import socket
import stat
import struct
import time
from pathlib import Path

import pytest
from fake_control_daemon import Daemon

from peer import control_server
from peer.control_client import ControlClient
from peer.control_socket import listen
from peer.errors import ConfigError, DeadlineExceeded, NoDaemon, PeerError, Refused
from peer.reports import InferQuery


def answer(connection: socket.socket) -> dict[str, object]:
    """One answer's header, or {} when the server hung up without a word."""
    prefix = connection.recv(4, socket.MSG_WAITALL)
    if not prefix:
        return {}
    header: dict[str, object] = json.loads(connection.recv(struct.unpack(">I", prefix)[0], socket.MSG_WAITALL))
    return header


def kind(header: dict[str, object]) -> object:
    error = header.get("error")
    return error.get("kind") if isinstance(error, dict) else None


def frame(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def assert_well(daemon: Daemon) -> None:
    with ControlClient(daemon.socket, timeout_s=10) as client:
        assert client.status().ready
        assert client.infer(InferQuery(inputs=("x",)), [b"image"])[0].input == "x"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (struct.pack(">I", 1 << 20), "frame-too-large"),
        (b"GET / HTTP/1.1\r\n\r\n", "frame-too-large"),
        (frame(b"not json"), "bad-frame"),
        (frame(b"[" * 65_000), "bad-frame"),
        (frame(b'{"op":"infer","blobs":[99999999999]}'), "frame-too-large"),
        (frame(b'{"op":"nonsense"}'), "bad-frame"),
        (frame(b"{}"), "bad-frame"),
        (frame(b'{"op":["x"]}'), "bad-frame"),
        (frame(b'{"op":"status","x":1}'), "bad-frame"),
        (frame(b'{"op":"verify"}'), "bad-frame"),
        (frame(b'{"op":"verify","model":7}'), "bad-frame"),
        (frame(b'{"op":"status","blobs":[1]}') + b"x", "bad-frame"),
        (frame(b'{"op":"infer","inputs":["a","b"],"blobs":[1]}') + b"x", "bad-frame"),
        (frame(b'{"op":"infer","inputs":[]}'), "bad-frame"),
        (frame(b'{"op":"infer","inputs":["a"],"boards":0,"blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"top":0,"blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"requests":0,"blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"requests":1001,"blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"requests":1' + b"0" * 400 + b',"blobs":[1]}') + b"x", "bad-frame"),
        (frame(b'{"op":"infer","inputs":["a"],"boards":-1' + b"0" * 400 + b',"blobs":[1]}') + b"x", "bad-frame"),
        (frame(b'{"op":"infer","inputs":["a"],"mode":"x","blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"exchange":"x","blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"deadline_s":0,"blobs":[1]}') + b"x", "refused"),
        (frame(b'{"op":"infer","inputs":["a"],"blobs":[8]}') + b"surprise", "internal"),
    ],
)
def test_what_is_no_request_gets_a_typed_error(daemon: Daemon, sent: bytes, expected: str) -> None:
    with daemon.connect() as connection:
        connection.sendall(sent)
        header = answer(connection)
    assert kind(header) == expected
    assert "secret" not in str(header)
    assert_well(daemon)


@pytest.mark.parametrize("sent", [b"", b"\x00", frame(b'{"op":"status"}')[:9]])
def test_a_client_that_leaves_in_mid_frame_is_forgotten(daemon: Daemon, sent: bytes) -> None:
    with daemon.connect() as connection:
        connection.sendall(sent)
    assert_well(daemon)


def test_a_slow_frame_meets_its_deadline(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "FRAME_DEADLINE_S", 0.1)
    with daemon.connect() as connection:
        connection.sendall(frame(b'{"op":"status"}')[:7])
        assert kind(answer(connection)) == "deadline"
        assert answer(connection) == {}
    assert_well(daemon)


def test_a_silent_connection_is_closed(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "IDLE_DEADLINE_S", 0.1)
    with daemon.connect() as connection:
        assert answer(connection) == {}


def test_a_client_that_takes_no_answers_is_dropped(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "FRAME_DEADLINE_S", 0.2)
    with daemon.connect() as connection:
        question = frame(b'{"op":"members"}') * 200_000
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(question)
            pytest.fail("the server read requests whose answers nobody takes")
    assert_well(daemon)


def test_of_200_idle_clients_the_oldest_make_room(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(200)]
        assert_well(daemon)
        assert kind(answer(clients[0])) == "busy"  # in place of an answer, should it ask after all
        assert answer(clients[0]) == {}
        clients[-1].sendall(frame(b'{"op":"status"}'))
        assert answer(clients[-1])["ok"] is True


def test_clients_over_the_limit_are_refused_while_all_others_work(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "MAX_CONNECTIONS", 2)
    question = frame(b'{"op":"infer","inputs":["a"],"blobs":[7]}') + b"forever"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(daemon.connect()).sendall(question)
            assert daemon.api.started.wait(10)
            daemon.api.started.clear()
        with daemon.connect() as third:
            assert kind(answer(third)) == "busy"
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(Refused):
            return assert_well(daemon)
    pytest.fail("the places of clients that left are not free again")


def test_images_over_the_waiting_budget_are_refused(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "MAX_WAITING_BYTES", 10)
    with ControlClient(daemon.socket, timeout_s=10) as client, pytest.raises(Refused, match="try again"):
        client.infer(InferQuery(inputs=("a",)), [b"x" * 100_000])
    assert_well(daemon)


def test_a_client_that_hangs_up_cancels_its_request(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        connection.sendall(frame(b'{"op":"infer","inputs":["a"],"blobs":[7]}') + b"forever")
        assert daemon.api.started.wait(10)
    assert daemon.api.cancelled.wait(10)
    assert_well(daemon)


def test_requests_sent_early_are_answered_in_order(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        connection.sendall(frame(b'{"op":"ring"}') + frame(b'{"op":"verify","model":"no"}') + frame(b'{"op":"status"}'))
        assert answer(connection)["order"]
        assert kind(answer(connection)) == "no-such-model"
        assert answer(connection)["ready"] is True


def test_a_client_gives_up_after_its_timeout(daemon: Daemon) -> None:
    with ControlClient(daemon.socket, timeout_s=0.2) as client:
        with pytest.raises(DeadlineExceeded, match="--timeout"):
            client.infer(InferQuery(inputs=("a",)), [b"forever"])
        assert daemon.api.cancelled.wait(10)
        assert client.status().ready, "the same client may ask again"


def test_only_owner_and_group_may_use_the_socket(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(daemon.socket.parent.stat().st_mode) == 0o700


def test_a_second_daemon_is_refused_and_the_first_keeps_its_socket(daemon: Daemon) -> None:
    with pytest.raises(ConfigError, match="another daemon answers"):
        listen(daemon.socket)
    assert_well(daemon)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen(path).close()
    assert path.exists()
    listen(path).close()


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        listen(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["missing", "file", "closed"])
def test_no_daemon_is_said_when_nobody_answers(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    listen(tmp_path / "closed").close()
    with ControlClient(tmp_path / path, timeout_s=5) as client, pytest.raises(NoDaemon, match="start peerd"):
        client.status()


def test_a_daemon_that_talks_nonsense_is_an_error_of_ours(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with far, ControlClient(tmp_path / "unused", timeout_s=5) as client:
        client._socket = near
        far.sendall(os.urandom(3) + b"\xff" * 100)
        with pytest.raises(PeerError):
            client.status()
