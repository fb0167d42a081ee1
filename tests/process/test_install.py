"""install.sh in a root folder of its own: install, upgrade, roll-back, uninstall, and ends in the middle of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers.release import make_release, put_installed, put_systemctl, seal

pytestmark = pytest.mark.process
LIMIT_S = 120


class Root:
    """A root folder, and what systemd was told about it."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()
        self.built = built
        self._systemctl = put_systemctl(folder)

    def run(
        self, script: Path, *options: str, check: bool = True, path: str = "", environ: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        settings = {
            "PATH": f"{path}{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
            "ROOT": str(self.folder),
            "TOKENRING_SYSTEMCTL": str(self._systemctl),
            "TOKENRING_POLL_S": "0.05",
            **(environ or {}),
        }
        return subprocess.run(
            [script, "--root", self.folder, "--wait", "2", *options],
            env=settings,
            capture_output=True,
            text=True,
            check=check,
            timeout=LIMIT_S,
        )

    def install(self, script: Path) -> None:
        """Run install.sh where its version is unpacked already: pip, which is what takes time, has its own tests."""
        self.unpack(script)
        self.run(script)

    def unpack(self, script: Path) -> None:
        put_installed(self.built, script, self / "opt/tokenring")

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    @property
    def current(self) -> str:
        """The version that starts after a power cut: everything below /run is gone then."""
        name = (self / "opt/tokenring/current").readlink().name
        assert (self / f"opt/tokenring/{name}/release").is_file()
        assert (self / f"opt/tokenring/{name}/bin/peerd").is_file()
        return name

    @property
    def running(self) -> str:
        return (self / "systemctl/running").read_text().strip()

    def files(self) -> set[str]:
        """Everything but what the stand-in for systemctl keeps."""
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        return {path for path in found if not path.startswith("systemctl")}

    def join(self) -> None:
        """What peerctl join and systemd do."""
        (self / "var/lib/tokenring").mkdir(parents=True)
        (self / "var/lib/tokenring/token").write_text("tr1-...")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1.0 as install.sh unpacks it."""
    folder = tmp_path_factory.mktemp("built")
    root = Root(folder, folder)
    root.run(make_release(folder, "1.0"))
    return root / "opt/tokenring/1.0"


@pytest.fixture
def root(tmp_path: Path, built: Path) -> Root:
    return Root(tmp_path, built)


def test_install_upgrade_and_roll_back(root: Root, tmp_path: Path) -> None:
    first, second = make_release(tmp_path, "1.0"), make_release(tmp_path, "1.1")
    root.join()
    root.unpack(first)
    said = root.run(first).stdout
    assert "1.0 is installed" in said
    assert (root.current, root.running) == ("1.0", "1.0")
    assert 'listen = "0.0.0.0:7700"' in (root / "etc/tokenring/peerd.toml").read_text()
    # Where the scripts will run, nothing of the place where they were made is left.
    for script in ("bin/peerd", "bin/peerctl", "pyvenv.cfg"):
        assert str(root.folder) not in (root / f"opt/tokenring/1.0/{script}").read_text()
    assert (root / "opt/tokenring/1.0/bin/peerd").read_text().startswith("#!/opt/tokenring/1.0/bin/python")
    assert (root / "usr/local/bin/peerctl").readlink() == Path("/opt/tokenring/current/bin/peerctl")
    assert (root / "usr/local/share/man/man1/peerctl.1").readlink().name == "peerctl.1"
    shown = subprocess.run(
        [root / "opt/tokenring/current/bin/python", "-I", "-c", "import peer.node; peer.node.main()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "tokenring 1.0\n"

    (root / "etc/tokenring/peerd.toml").write_text("# mine\n")
    before = root.files()
    assert "already" in root.run(first).stdout
    assert root.files() == before

    root.unpack(second)
    said = root.run(second).stdout
    assert "upgraded from 1.0 to 1.1" in said
    assert (root.current, root.running) == ("1.1", "1.1")
    assert not (root / "run/systemd/system/peerd.service").exists()
    assert (root / "etc/tokenring/peerd.toml").read_text() == "# mine\n"
    assert "back from 1.1 to 1.0" in root.run(second, "--roll-back").stdout
    assert (root.current, root.running) == ("1.0", "1.0")


@pytest.mark.parametrize("behaviour", ["broken", "waiting"])
def test_a_version_that_does_not_get_ready_is_taken_back(root: Root, tmp_path: Path, behaviour: str) -> None:
    root.join()
    root.install(make_release(tmp_path, "1.0"))
    second = make_release(tmp_path, "1.1", behaviour)
    root.unpack(second)
    done = root.run(second, check=False)
    assert done.returncode == 1
    assert "1.1 was not ready within 2 s; going back to 1.0" in done.stderr
    assert (root.current, root.running) == ("1.0", "1.0")
    assert not (root / "run/systemd/system/peerd.service").exists()
    root.install(make_release(tmp_path, "1.2"))
    assert (root.current, root.running) == ("1.2", "1.2")
    assert not (root / "opt/tokenring/1.1").exists()


def test_a_board_that_waits_for_a_model_can_be_upgraded(root: Root, tmp_path: Path) -> None:
    root.join()
    root.install(make_release(tmp_path, "1.0", "waiting"))
    root.install(make_release(tmp_path, "1.1", "waiting"))
    assert (root.current, root.running) == ("1.1", "1.1")


def test_what_is_not_ours_is_left_alone(root: Root, tmp_path: Path) -> None:
    install = make_release(tmp_path, "1.0")
    theirs = {
        "usr/local/bin/peerctl": "their program",
        "usr/local/lib/systemd/system/peerd.service": "their unit",
        "opt/tokenring/notes": "their notes",
        "etc/hosts": "their hosts",
    }
    for name, text in theirs.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/local/share").mkdir()
    before = root.files()
    root.unpack(install)
    said = root.run(install).stdout
    assert "left alone: /usr/local/bin/peerctl is not ours" in said
    assert "left alone: /usr/local/lib/systemd/system/peerd.service is not ours" in said
    root.run(install, "--uninstall", "--purge")
    assert {name: (root / name).read_text() for name in theirs} == theirs
    assert root.files() == before


def test_uninstall_leaves_the_configuration_and_the_state_unless_told(root: Root, tmp_path: Path) -> None:
    root.join()
    install = make_release(tmp_path, "1.0")
    root.install(install)
    root.run(install, "--uninstall")
    left = {path for path in root.files() if not (root / path).is_dir()}
    assert left == {"etc/tokenring/peerd.toml", "var/lib/tokenring/token"}
    assert "--quiet disable --now peerd.service peerd-token.path" in (root / "systemctl/calls").read_text()
    root.install(install)
    assert root.current == "1.0"
    root.run(install, "--uninstall", "--purge")
    assert {path for path in root.files() if not (root / path).is_dir()} == set()


def test_a_dry_run_changes_nothing(root: Root, tmp_path: Path) -> None:
    first, second = make_release(tmp_path, "1.0"), make_release(tmp_path, "1.1")
    assert "would" in root.run(first, "--dry-run").stdout
    assert root.files() == set()
    root.join()
    root.install(first)
    before, calls = root.files(), (root / "systemctl/calls").read_text()
    for options in (("--dry-run",), ("--dry-run", "--uninstall", "--purge")):
        assert "would" in root.run(second, *options).stdout
        assert root.files() == before
    new = (root / "systemctl/calls").read_text().removeprefix(calls)
    assert {line.split()[0] for line in new.splitlines()} <= {"show"}


def test_a_damaged_release_is_refused(root: Root, tmp_path: Path) -> None:
    install = make_release(tmp_path, "1.0")
    (wheel,) = (install.parent / "wheels").iterdir()
    good = wheel.read_bytes()
    wheel.write_bytes(good + b"x")
    done = root.run(install, check=False)
    assert (done.returncode, root.files()) == (1, set())
    assert "damaged" in done.stderr
    # Sums that fit are not enough: what is installed has the hash in requirements.txt.
    seal(install.parent)
    done = root.run(install, check=False)
    assert done.returncode == 1
    assert not (root / "opt/tokenring/current").exists()
    assert not (root / "opt/tokenring/1.0").exists()
    (install.parent / "VERSION").write_text("1.0 riscv64 3.11\n")
    seal(install.parent)
    assert "this release is for riscv64" in root.run(install, check=False).stderr


# Stands before a program on PATH: counts its calls, and kills the script that calls it at the one that is asked for.
_SHIM = """#!/bin/sh
count=$(cat "$COUNTER" 2>/dev/null || echo 0)
count=$((count + 1))
echo $count >"$COUNTER"
[ $count -ne "$KILL_AT" ] || { kill -9 $PPID; sleep 1; exit 1; }
exec /usr/bin/env PATH="$REAL_PATH" "$(basename "$0")" "$@"
"""


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """A folder for the front of PATH: at call KILL_AT of a program in it, the script that calls is killed."""
    folder = tmp_path / "shims"
    folder.mkdir()
    for program in ("mv", "ln", "rm", "mkdir", "install", "sync", "cp"):
        (folder / program).write_text(_SHIM)
        (folder / program).chmod(0o755)
    return folder


def killed_at(root: Root, shims: Path, script: Path, point: int) -> int:
    """The exit code of a run that is killed at that call, if it makes so many."""
    counter = shims.parent / "counter"
    counter.unlink(missing_ok=True)
    environ = {"KILL_AT": str(point), "COUNTER": str(counter), "REAL_PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    return root.run(script, check=False, path=f"{shims}:", environ=environ).returncode


def test_an_upgrade_that_is_killed_anywhere_leaves_the_old_version_to_start(
    root: Root, tmp_path: Path, shims: Path
) -> None:
    root.join()
    root.install(make_release(tmp_path, "1.0"))
    second = make_release(tmp_path, "1.1")
    root.unpack(second)
    killed, point = 0, 0
    while True:
        point += 1
        code = killed_at(root, shims, second, point)
        # What would start after a power cut is whole, and the old one until the new one was seen to be ready.
        assert root.current == "1.0" or root.running == "1.1"
        if code == 0:
            break
        assert code == -9
        killed += 1
    assert killed > 10
    assert (root.current, root.running) == ("1.1", "1.1")
    kept = sorted(path.name for path in (root / "opt/tokenring").iterdir())
    assert kept == ["1.0", "1.1", "current", "links", "previous"]


def test_a_version_that_was_unpacked_half_way_is_made_anew(root: Root, tmp_path: Path, shims: Path) -> None:
    root.join()
    root.install(make_release(tmp_path, "1.0"))
    second = make_release(tmp_path, "1.1")
    (shims / "mv").unlink()
    (shims / "mkdir").unlink()
    assert killed_at(root, shims, second, 3) == -9  # when the wheels are there and the models are not
    assert (root.current, root.running) == ("1.0", "1.0")
    assert (root / "opt/tokenring/.new-1.1/bin/python").exists()
    assert not (root / "opt/tokenring/1.1").exists()
    root.run(second)
    assert (root.current, root.running) == ("1.1", "1.1")
    assert not (root / "opt/tokenring/.new-1.1").exists()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, to mount a full disk")
def test_a_full_disk_leaves_the_old_version(root: Root, tmp_path: Path) -> None:
    """First too few bytes, which is seen before anything is done; then a disk that turns out to be full half-way."""
    root.join()
    first, second = make_release(tmp_path, "1.0"), make_release(tmp_path, "1.1")
    opt = root / "opt"
    opt.mkdir()
    put_installed(root.built, first, tmp_path / "unpacked")
    script = f"""
set -eu
export ROOT={root.folder} TOKENRING_SYSTEMCTL={tmp_path}/systemctl
mount -t tmpfs -o size=64m none {opt}
mkdir {opt}/tokenring
cp -a {tmp_path}/unpacked/1.0 {opt}/tokenring/1.0
{first} --root {root.folder} --wait 2 >&2
mount -o remount,size=$(($(du -sk {opt} | cut -f1) + 2000))k {opt}
{second} --root {root.folder} --wait 2 >&2 && exit 1
readlink {opt}/tokenring/current; cat {root.folder}/systemctl/running; ls -A {opt}/tokenring
mount -o remount,size=64m,nr_inodes=$(($(find {opt} | wc -l) + 12)) {opt}
{second} --root {root.folder} --wait 2 >&2 && exit 1
readlink {opt}/tokenring/current; cat {root.folder}/systemctl/running; ls -A {opt}/tokenring
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0", "1.0", "1.0", "current", "links"] * 2, done.stderr
    assert "MB are needed below /opt" in done.stderr
    assert "No space left on device" in done.stderr
