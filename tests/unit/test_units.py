"""The units and the program that spaces starts out."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import check_units

BACKOFF = check_units.UNITS / "peerd-backoff"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_what_is_wrong_with_a_unit_is_found(tmp_path: Path) -> None:
    check_units.lay_out(tmp_path, accelerator=False)
    assert check_units.complaints(tmp_path) == []
    safe = check_units.exposure(tmp_path, "peerd.service")
    assert safe <= check_units.MOST_EXPOSED
    unit = tmp_path / "etc/systemd/system/peerd.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=perhaps"))
    (complaint,) = check_units.complaints(tmp_path)
    assert "perhaps" in complaint
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "").replace("User=tokenring", ""))
    assert check_units.exposure(tmp_path, "peerd.service") > safe


class Starts:
    """A unit that starts again and again, on a clock of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        (folder / "bin/sleep").write_text(f'#!/bin/sh\necho "$1" >{folder}/slept\n')
        (folder / "bin/sleep").chmod(0o755)

    def start(self, at: int) -> int:
        """The pause before a start that is due at that second since the boot."""
        (self._folder / "uptime").write_text(f"{at}.37 12.00\n")
        self._run("before", {"PEERD_UPTIME": str(self._folder / "uptime")})
        return int((self._folder / "slept").read_text())

    def end(self, result: str) -> None:
        self._run("after", {"SERVICE_RESULT": result})

    def _run(self, word: str, environ: dict[str, str]) -> None:
        settings = {"RUNTIME_DIRECTORY": str(self._folder), "PATH": f"{self._folder}/bin:/usr/bin:/bin", **environ}
        subprocess.run([BACKOFF, word], env=settings, check=True, capture_output=True)


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path)


def test_a_crash_loop_backs_off_and_never_ends(starts: Starts) -> None:
    at, pauses = 100, []
    for _ in range(12):
        pauses.append(starts.start(at))
        at += pauses[-1] + 5  # it lived so long, the pause of the unit included
        starts.end("exit-code")
    assert pauses == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_a_daemon_that_lasted_or_was_stopped_starts_at_once(starts: Starts) -> None:
    assert [starts.start(at) for at in (10, 15, 20)] == [0, 0, 2]
    starts.end("watchdog")
    assert starts.start(22 + 300) == 0
    assert [starts.start(at) for at in (330, 340)] == [0, 2]
    starts.end("success")
    assert starts.start(345) == 0


@pytest.mark.parametrize("damage", ["", "x", "-3 2", "1", "99999999999999999999 1"])
def test_a_damaged_record_keeps_no_board_from_starting(starts: Starts, tmp_path: Path, damage: str) -> None:
    (tmp_path / "starts").write_text(damage)
    assert starts.start(50) in (0, 60)
