"""Small releases for tests of install.sh, and a stand-in for systemctl that tells what such a release would do.

The release has the shape of tools/wheelhouse.py's and a wheel of a few lines in the place of the real ones. What its
daemon does when systemd starts it is written in `models/behaviour`: ready, broken or waiting.
"""

import base64
import ensurepip
import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

UNITS = Path(__file__).parents[2] / "systemd"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

# Which unit counts, and which version that starts, is found out as systemd would.
_SYSTEMCTL = """#!/bin/sh
PATH=/usr/bin:/bin
state=$ROOT/systemctl
mkdir -p "$state"
echo "$*" >>"$state/calls"
for word in "$@"; do last=$word; done
case "$*" in
*show*) for word in "$@"; do case $word in --property=*) cat "$state/${word#--property=}" 2>/dev/null ;; esac; done ;;
*restart*peerd.service | *start*peerd.service)
    unit=$ROOT/run/systemd/system/peerd.service
    [ -e "$unit" ] || unit=$ROOT/usr/local/lib/systemd/system/peerd.service
    version=$(sed -n 's|^ExecStart=/opt/tokenring/\\([^/]*\\)/.*|\\1|p' "$unit")
    [ "$version" != current ] || version=$(readlink "$ROOT/opt/tokenring/current")
    case $(cat "$ROOT/opt/tokenring/$version/models/behaviour") in
    ready) set -- active running 0 ;;
    broken) set -- activating auto-restart 5 ;;
    waiting) set -- activating start 0 ;;
    esac
    echo "$version" >"$state/running"
    echo "$1" >"$state/ActiveState"; echo "$2" >"$state/SubState"; echo "$3" >"$state/NRestarts" ;;
*disable*--now*) echo inactive >"$state/ActiveState"; rm -f "$state/running" ;;
esac
"""


def pip_wheel() -> Path:
    """The pip that this Python makes environments with."""
    bundled = Path(ensurepip.__file__).parent / "_bundled"
    for folder in (bundled, Path("/usr/share/python-wheels")):  # where Debian has it
        for wheel in sorted(folder.glob("pip-*.whl")):
            return wheel
    raise FileNotFoundError("no wheel of pip; install python3-venv")


def make_release(folder: Path, version: str, behaviour: str = "ready") -> Path:
    """A release in `folder`; the path of its install.sh."""
    release = folder / f"tokenring-{version}"
    (release / "wheels").mkdir(parents=True)
    (release / "systemd").mkdir()
    (release / "models").mkdir()
    for source in UNITS.iterdir():
        shutil.copy(source, release if source.name == "install.sh" else release / "systemd")
    shutil.copy(pip_wheel(), release)
    wheel = _wheel(release / "wheels", version)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (release / "requirements.txt").write_text(f"tokenring=={version} --hash=sha256:{digest}\n")
    (release / "VERSION").write_text(f"{version} {os.uname().machine} {PYTHON}\n")
    (release / "models/behaviour").write_text(behaviour)
    seal(release)
    return release / "install.sh"


def seal(release: Path) -> None:
    """Write the sums of what the release holds now."""
    files = sorted(path for path in release.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(release)}\n" for path in files)
    (release / "SHA256SUMS").write_text("".join(sums))


def put_installed(built: Path, script: Path, opt: Path) -> None:
    """Put the release of that install.sh into `opt` as it would unpack it; `built` is any version that it did."""
    release = script.parent
    version = (release / "VERSION").read_text().split()[0]
    place = opt / version
    shutil.copytree(built, place, symlinks=True)
    digest = hashlib.sha256((release / "SHA256SUMS").read_bytes()).hexdigest()
    (place / "release").write_text(f"{digest}\n")
    shutil.copy(release / "models/behaviour", place / "models")


def _wheel(folder: Path, version: str) -> Path:
    info = f"tokenring-{version}.dist-info"
    files = {
        "peer/__init__.py": "",
        "peer/node.py": f"def main():\n    print('tokenring {version}')\n",
        "runtime/__init__.py": "",
        "runtime/stage.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tokenring\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\npeerd = peer.node:main\npeerctl = peer.node:main\n",
        f"tokenring-{version}.data/data/share/man/man1/peerctl.1": ".TH PEERCTL 1\n",
    }
    record = "".join(f"{name},sha256={_record_hash(text)},{len(text)}\n" for name, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"tokenring-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def put_systemctl(folder: Path) -> Path:
    """The stand-in; it keeps what it is told below $ROOT/systemctl."""
    path = folder / "systemctl"
    path.write_text(_SYSTEMCTL)
    path.chmod(0o755)
    return path
