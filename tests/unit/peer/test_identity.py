"""The identity file: one id for good, an incarnation that grows, and a board that starts whatever lies there."""

import json
import logging
import os
from pathlib import Path

import pytest

from peer import identity
from peer.identity import next_identity

FILE = "identity.json"


def test_the_id_stays_and_the_incarnation_grows(tmp_path: Path) -> None:
    first, second, third = (next_identity(tmp_path / "state") for _ in range(3))
    assert first.peer == second.peer == third.peer
    assert len(bytes.fromhex(first.peer)) == 8
    assert (first.incarnation, second.incarnation, third.incarnation) == (1, 2, 3)


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
    assert (after.peer, after.incarnation) == (before.peer, 2)
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
        b'{"id": "0011223344556677"}',
        b'{"id": "0011223344556677", "incarnation": "1"}',
        b'{"id": "0011223344556677", "incarnation": true}',
        b'{"id": "0011223344556677", "incarnation": 0}',
        b'{"id": "0011223344556677", "incarnation": 1.5}',
        b'{"id": "0011223344556677", "incarnation": 1e999}',
        b'{"id": "0011223344556677", "incarnation": 9223372036854775808}',
        b'{"id": "00112233445566", "incarnation": 1}',
        b'{"id": "zz11223344556677", "incarnation": 1}',
        b'{"id": 7, "incarnation": 1}',
        b'{"id": null, "incarnation": 1}',
        b'{"id": "' + b"0" * 8192 + b'", "incarnation": 1}',
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
    assert taken.peer != "0011223344556677"
    assert taken.incarnation == 1
    assert next_identity(tmp_path).peer == taken.peer


@pytest.mark.parametrize("written", ["aabbccddeeff0011", "AABBCCDDEEFF0011", "aa bb cc dd ee ff 00 11"])
def test_an_id_has_one_spelling(tmp_path: Path, written: str) -> None:
    """Boards compare ids as texts."""
    (tmp_path / FILE).write_text(json.dumps({"id": written, "incarnation": 4}))
    taken = next_identity(tmp_path)
    assert (taken.peer, taken.incarnation) == ("aabbccddeeff0011", 5)


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
