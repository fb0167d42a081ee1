"""State files after a power cut, a bad card or a kill at any moment: read without an exception, never as "no token"."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from peer.acquaintances import Acquaintances
from peer.cluster_lock import read_lock, write_lock
from peer.cluster_token import new_token, parse_token, read_token, replace_token
from peer.config import HostPort, PeerdConfig, Settings, load
from peer.errors import ConfigError, NotAdmitted
from peer.identity import next_identity
from peer.protocol.types import Endpoint, Incarnation, Lock, Member, PeerId, Status, peer_id
from peer.revocations import read_revoked, write_revoked

IDS = tuple(PeerId(f"{number:016x}") for number in (0x0123456789ABCDEF, 0xFEDCBA9876543210, 0xABCDEF))
KILLS = 100


def damaged(data: bytes, seed: int) -> Iterator[bytes]:
    """The file cut at every byte, with every byte changed, and with its end full of zeros as lost blocks are."""
    random = Random(seed)
    for at in range(len(data)):
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ random.randrange(1, 256)]) + data[at + 1 :]
        yield data[:at] + bytes(len(data) - at)


def member(number: int) -> Member:
    key = bytes([number]) * 32
    return Member(
        peer=peer_id(key),
        name=f"board-{number}",
        endpoint=Endpoint(host=f"10.0.0.{number}", port=7700),
        public_key=key,
        incarnation=Incarnation(number << 32),
        status=Status.ALIVE,
        proven=True,
    )


@pytest.fixture
def config(tmp_path: Path) -> PeerdConfig:
    """A daemon for the LAN, with a token of its own in its state folder."""
    replace_token(tmp_path / "token", new_token())
    flags = Settings(state_dir=tmp_path, listen=HostPort(host="0.0.0.0", port=7700), models=tmp_path)
    return load(flags=flags, environ={}, config_file=Path(os.devnull))


def test_a_damaged_identity_is_the_old_one_or_a_new_one(tmp_path: Path) -> None:
    old = next_identity(tmp_path)
    file = tmp_path / "identity.json"
    whole = file.read_bytes()
    for data in damaged(whole, 1):
        file.write_bytes(data)
        taken = next_identity(tmp_path)
        assert len(taken.keys.secret) == len(taken.keys.public) == 32
        assert taken.incarnation > 0
        if len(data) < len(whole):  # a cut one can never pass for the old
            assert taken.peer != old.peer


def test_damaged_memories_of_boards_are_left_out(tmp_path: Path) -> None:
    known = [member(number) for number in (1, 2, 3)]
    Acquaintances(tmp_path).write(known)
    file = tmp_path / "peers.json"
    whole = file.read_bytes()
    assert [m.peer for m in Acquaintances(tmp_path).read()] == [m.peer for m in known]
    for data in damaged(whole, 2):
        file.write_bytes(data)
        found = Acquaintances(tmp_path).read()
        assert all(m.peer == peer_id(m.public_key) and m.status is Status.DEAD for m in found)
        assert len(data) == len(whole) or not found


def test_a_damaged_rotated_token_leaves_the_given_one(config: PeerdConfig) -> None:
    given = read_token(config.state_dir / "token")
    rotated = Lock(token=os.urandom(32), generation=3)
    write_lock(config, rotated)
    file = config.state_dir / "token.rotated"
    whole = file.read_bytes()
    assert read_lock(config) == rotated
    for data in damaged(whole, 3):
        file.write_bytes(data)
        lock = read_lock(config)
        assert lock is not None
        assert len(lock.token) == 32
        assert len(data) == len(whole) or lock == Lock(token=given, generation=0)


def test_a_damaged_token_stops_the_daemon_and_never_opens_its_door(config: PeerdConfig) -> None:
    file = config.state_dir / "token"
    whole = file.read_bytes()
    given = read_token(file)
    for data in damaged(whole, 4):
        file.write_bytes(data)
        again = load(
            flags=Settings(state_dir=config.state_dir, listen=config.listen, models=config.state_dir),
            environ={},
            config_file=Path(os.devnull),
        )
        try:
            lock = read_lock(again)
        except ConfigError:
            continue
        assert lock is not None, "without a token anybody would be let in"
        assert len(lock.token) == 32
        assert len(data) == len(whole) or lock.token == given  # all that may be missing is the end of the line


def test_a_lost_token_stops_a_daemon_on_the_lan(config: PeerdConfig) -> None:
    (config.state_dir / "token").unlink()
    with pytest.raises(NotAdmitted, match="needs a cluster token"):
        read_lock(replace(config, token_file=None))


def test_of_a_damaged_list_of_revocations_what_is_whole_still_counts(tmp_path: Path) -> None:
    write_revoked(tmp_path, IDS)
    file = tmp_path / "revoked.json"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at])
        assert read_revoked(tmp_path) == tuple(i for i in IDS if f'"{i}"' in whole[:at].decode())
    for data in damaged(whole, 5):
        file.write_bytes(data)
        assert sum(i in IDS for i in read_revoked(tmp_path)) >= sum(f'"{i}"'.encode() in data for i in IDS)


def endless(write: Callable[[int], None]) -> int:
    """A process that writes and writes; its id."""
    child = os.fork()
    if child:
        return child
    try:
        logging.disable()
        for number in range(1, 1 << 30):
            write(number)
    finally:
        os._exit(1)


def test_a_kill_while_everything_is_written_leaves_whole_files(
    config: PeerdConfig, caplog: pytest.LogCaptureFixture
) -> None:
    state = config.state_dir
    acquaintances = Acquaintances(state)
    given = next_identity(state).peer
    tokens = [new_token(), new_token()]

    def write(number: int) -> None:
        assert next_identity(state).peer == given
        acquaintances.write([member(1 + number % 200), member(1 + (number + 7) % 200)])
        write_revoked(state, IDS[: 1 + number % 3])
        write_lock(config, Lock(token=number.to_bytes(32, "big"), generation=number))
        replace_token(state / "other-token", tokens[number % 2])

    write(1)
    random = Random(6)
    for _ in range(KILLS):
        child = endless(write)
        time.sleep(random.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        identity, lock = next_identity(state), read_lock(config)
        assert identity.peer == given
        assert lock is not None
        assert lock.token == lock.generation.to_bytes(32, "big")
        assert len(Acquaintances(state).read()) == 2
        assert read_revoked(state) in (IDS[:1], IDS[:2], IDS[:3])
        assert read_token(state / "other-token") in map(parse_token, tokens)
    assert not caplog.records, "something was called damaged"
    assert json.loads((state / "identity.json").read_text())["starts"] > KILLS
