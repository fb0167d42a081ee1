"""The releases that the boot test installs: this tree's, the next one of the same code, and one that cannot start."""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tools.wheelhouse import Board, assemble, own_wheel, pack, version_here

_PYTHON = "3.11"  # of Debian 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """Archives, and the versions in them."""

    first: Path
    version: str
    next: Path
    next_version: str
    broken: Path
    broken_version: str


def make(arch: str, folder: Path) -> Releases:
    """Make the archives in `folder` as far as they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    version = version_here()
    first = folder / f"tokenring-{version}-{arch}.tar.gz"
    if not first.exists():
        with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
            release = Path(scratch) / f"tokenring-{version}-{arch}"
            assemble(Board(arch=arch, python=_PYTHON), version, release)
            pack(release, first)
    following, broken = f"{version}.post1", f"{version}.post2"
    return Releases(
        first=first,
        version=version,
        next=_again(first, following, arch, folder, broken=False),
        next_version=following,
        broken=_again(first, broken, arch, folder, broken=True),
        broken_version=broken,
    )


def _again(first: Path, version: str, arch: str, folder: Path, *, broken: bool) -> Path:
    """The same wheels under another version; `broken` ends the daemon as soon as it runs."""
    archive = folder / f"tokenring-{version}-{arch}.tar.gz"
    if archive.exists():
        return archive
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        with tarfile.open(first) as packed:
            packed.extractall(scratch, filter="data")
        (old,) = Path(scratch).iterdir()
        release = old.rename(Path(scratch) / f"tokenring-{version}-{arch}")
        (before,) = (release / "wheels").glob("tokenring-*.whl")
        before.unlink()
        wheel = own_wheel(release / "wheels", version)
        if broken:
            _spoil(wheel)
        lines = (release / "requirements.txt").read_text(encoding="ascii").splitlines()
        kept = [line for line in lines if not line.startswith("tokenring==")]
        own = f"tokenring=={version} --hash=sha256:{_digest(wheel)}"
        (release / "requirements.txt").write_text("\n".join([*kept, own, ""]), encoding="ascii")
        (release / "VERSION").write_text(f"{version} {arch} {_PYTHON}\n", encoding="ascii")
        (release / "SHA256SUMS").unlink()
        files = sorted(path for path in release.rglob("*") if path.is_file())
        sums = "".join(f"{_digest(path)}  {path.relative_to(release)}\n" for path in files)
        (release / "SHA256SUMS").write_text(sums, encoding="utf-8")
        pack(release, archive)
    return archive


def _spoil(wheel: Path) -> None:
    fresh = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "peer/daemon.py":
                data += b"\n\ndef run(config):\n    raise SystemExit('this release is broken on purpose')\n"
            new.writestr(name, data)
    shutil.move(fresh, wheel)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
