"""Small files of the state folder: replaced as a whole, private, and what is damaged in them is left out."""

import os
from pathlib import Path

import pytest

from peer.protocol.types import PeerId
from peer.revocations import read_revoked, write_revoked
from peer.state_file import replace_private

IDS = (PeerId("0123456789abcdef"), PeerId("fedcba9876543210"))


def test_revocations_come_back_in_their_order(tmp_path: Path) -> None:
    assert read_revoked(tmp_path) == ()
    write_revoked(tmp_path, IDS)
    assert read_revoked(tmp_path) == IDS
    assert (tmp_path / "revoked.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ()), ("[", ()), ("{}", ()), ("[" * 100_000, ()), (f'["{IDS[0]}", 7, "short", "../../../../etc/x"]', IDS[:1])],
)
def test_a_damaged_list_of_revocations_costs_only_what_is_damaged(
    tmp_path: Path, text: str, kept: tuple[PeerId, ...]
) -> None:
    (tmp_path / "revoked.json").write_text(text)
    assert read_revoked(tmp_path) == kept


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_revoked(tmp_path, IDS[:1])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write_revoked(tmp_path, IDS)
    assert "cannot be written" in caplog.text
    assert read_revoked(tmp_path) == IDS[:1]
    assert [file.name for file in tmp_path.iterdir()] == ["revoked.json"]
    with pytest.raises(OSError, match="No space"):
        replace_private(tmp_path / "another", "text")
    assert not (tmp_path / "another").exists()
