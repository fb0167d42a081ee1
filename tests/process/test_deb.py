"""The Debian package, installed, upgraded, removed and purged by dpkg in a root folder of its own."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers.release import make_release, put_systemctl
from tools.deb import build

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not shutil.which("dpkg-deb") or os.geteuid() != 0, reason="needs root and dpkg"),
]
LIMIT_S = 180


class Board:
    """A root folder with a package database."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        database = self.root / "var/lib/dpkg"
        for place in (database / "info", database / "updates", database / "triggers", self.root / "var/log"):
            place.mkdir(parents=True)
        (database / "status").touch()
        (database / "available").touch()
        self._systemctl = put_systemctl(folder)

    def dpkg(self, *arguments: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
        # What the package depends on is this machine's; its scripts run here, with DPKG_ROOT.
        options = [f"--root={self.root}", "--force-script-chrootless", "--force-depends", "--force-not-root"]
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOT": str(self.root),
            "TOKENRING_SYSTEMCTL": str(self._systemctl),
            "TOKENRING_POLL_S": "0.05",
        }
        done = subprocess.run(
            ["dpkg", *options, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    @property
    def status(self) -> str:
        shown = self.dpkg("--status", "tokenring", check=False).stdout
        return next((line.split(": ", 1)[1] for line in shown.splitlines() if line.startswith("Status: ")), "")

    @property
    def current(self) -> str:
        return (self.root / "opt/tokenring/current").readlink().name


def archive_in(folder: Path, version: str) -> Path:
    return folder / f"tokenring-{version}.tar.gz"


def package(folder: Path, version: str, behaviour: str = "ready") -> Path:
    """A package of a small release, as tools.wheelhouse archives it."""
    release = make_release(folder, version, behaviour).parent
    archive = archive_in(folder, version)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(release, release.name)
    return build(archive, folder)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_package_is_installed_upgraded_removed_and_purged(board: Board, tmp_path: Path) -> None:
    first = package(tmp_path, "1.0")
    (tmp_path / "again").mkdir()
    assert first.read_bytes() == build(archive_in(tmp_path, "1.0"), tmp_path / "again").read_bytes()
    board.dpkg("--install", first)
    assert (board.status, board.current) == ("install ok installed", "1.0")
    assert (board.root / "usr/local/bin/peerctl").is_symlink()
    board.dpkg("--install", package(tmp_path, "1.1"))
    assert (board.status, board.current) == ("install ok installed", "1.1")
    board.dpkg("--remove", "tokenring")
    assert not (board.root / "opt/tokenring").exists()
    assert not (board.root / "usr/local/bin/peerctl").exists()
    assert (board.root / "etc/tokenring/peerd.toml").exists()
    board.dpkg("--purge", "tokenring")
    assert not (board.root / "etc/tokenring").exists()
    assert not (board.root / "usr/share/tokenring").exists()


def test_an_upgrade_that_does_not_get_ready_is_taken_back_and_dpkg_says_so(board: Board, tmp_path: Path) -> None:
    board.dpkg("--install", package(tmp_path, "1.0"))
    (board.root / "var/lib/tokenring").mkdir(parents=True)
    (board.root / "var/lib/tokenring/token").write_text("tr1-...")
    board.dpkg("--install", package(tmp_path, "1.1"))
    done = board.dpkg("--install", package(tmp_path, "1.2", "broken"), check=False)
    assert done.returncode != 0
    assert "1.1 goes on" in done.stderr
    assert (board.status, board.current) == ("install ok half-configured", "1.1")
    board.dpkg("--install", package(tmp_path, "1.3"))
    assert (board.status, board.current) == ("install ok installed", "1.3")
