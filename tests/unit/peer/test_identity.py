"""The identity file: one id for good, an incarnation that grows, and a board that starts whatever lies there."""

import logging
import os
from pathlib import Path

import pytest

from peer import identity
from peer.identity import next_identity
from peer.protocol.types import REFUTATION_BITS, peer_id

FILE = "identity.json"
KEY = b"ab" * 32


def test_the_id_stays_and_the_incarnation_grows(tmp_path: Path) -> None:
    first, second, third = (next_identity(tmp_path / "state") for _ in range(3))
    assert first.peer == second.peer == third.peer
    assert len(bytes.fromhex(first.peer)) == 8
    assert (first.incarnation, second.incarnation, third.incarnation) == tuple(n << REFUTATION_BITS for n in (1, 2, 3))


def test_two_boards_have_two_ids(tmp_path: Path) -> None:
    assert next_identity(tmp_path / "a").peer != next_identity(tmp_path / "b").peer


def test_a_state_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    next_identity(tmp_path / "var" / "state")
    assert (tmp_path / "var" / "state").stat().st_mode & 0o777 == 0o700


def test_nothing_but_the_whole_file_is_left_behind(tmp_path: Path) -> None:
    next_identity(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = next_identity(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    during = next_identity(tmp_path)
    monkeypatch.undo()
    after = next_identity(tmp_path)
    assert (after.peer, after.incarnation) == (before.peer, 2 << REFUTATION_BITS)
    # The run in between could not be noted down, so it must not have passed for the same board.
    assert during.peer != before.peer


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"secret": "%s"}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": "1"}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": true}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": 0}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": 1.5}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": 1e999}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": 9223372036854775808}' % KEY,
        b'{"secret": "%s", "machine": 3, "starts": 1}' % KEY,
        b'{"secret": "%s", "machine": "m", "starts": 1}' % KEY[2:],
        b'{"secret": "zz%s", "machine": "m", "starts": 1}' % KEY[2:],
        b'{"secret": 7, "machine": "m", "starts": 1}',
        b'{"secret": null, "machine": "m", "starts": 1}',
        b'{"secret": "' + b"0" * 8192 + b'", "machine": "m", "starts": 1}',
        b"[" * 4000,
    ],
)
def test_a_damaged_file_is_a_warning_and_a_new_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        taken = next_identity(tmp_path)
    (record,) = caplog.records
    assert "is damaged" in record.getMessage()
    assert taken.keys.secret != bytes.fromhex(KEY.decode())
    assert taken.incarnation == 1 << REFUTATION_BITS
    assert next_identity(tmp_path).peer == taken.peer


def test_the_id_is_the_fingerprint_of_the_key_and_the_file_is_for_the_owner_only(tmp_path: Path) -> None:
    taken = next_identity(tmp_path)
    assert taken.peer == peer_id(taken.keys.public)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert taken.keys.secret.hex() not in repr(taken)


def test_a_cloned_card_is_noticed_and_gets_a_key_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "machine-1", tmp_path / "machine-2"
    first.write_text("11111111111111111111111111111111\n")
    second.write_text("22222222222222222222222222222222\n")
    original = next_identity(tmp_path, first)
    again = next_identity(tmp_path, first)
    assert (again.peer, again.cloned) == (original.peer, False)
    clone = next_identity(tmp_path, second)
    assert clone.peer != original.peer
    assert clone.cloned
    assert "another machine" in caplog.text
    assert next_identity(tmp_path, second).peer == clone.peer
    assert "1111" not in (tmp_path / FILE).read_text()  # the machine-id itself is not passed on


def test_a_machine_without_an_id_keeps_its_key(tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.write_text("33333333333333333333333333333333\n")
    known = next_identity(tmp_path, machine)
    assert next_identity(tmp_path, tmp_path / "none").peer == known.peer
    assert next_identity(tmp_path, machine).peer == known.peer


def test_a_folder_that_cannot_be_written_serves_under_a_passing_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder should be: that stops root too, whom no mode stops."""
    (tmp_path / "state").write_text("")
    one, two = next_identity(tmp_path / "state"), next_identity(tmp_path / "state")
    assert one.peer != two.peer
    assert "cannot be written" in caplog.text


def test_a_read_only_folder_never_repeats_an_incarnation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = next_identity(tmp_path)

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(identity, "_write", read_only)
    runs = [next_identity(tmp_path) for _ in range(3)]
    assert len({run.peer for run in (before, *runs)}) == 4
