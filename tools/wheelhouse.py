"""Makes the archive that brings tokenring to a board without internet: wheels, models, units, install.sh.

    python -m tools.wheelhouse --arch aarch64 [--python 3.11] [--out dist] [--release-version V]
    python -m tools.wheelhouse --lock          renew the list of pinned releases and their hashes

Writes OUT/tokenring-VERSION-ARCH.tar.gz: a folder with install.sh, the wheels of everything that setup.cfg asks for,
each checked against the hash in tools/wheelhouse.lock, this project's own wheel, pip to install them with, the models,
and SHA256SUMS of it all. The same tree gives the same archive. `--python` is that of the boards (Debian 12: 3.11).
An archive for a machine like this one is tried out: installed into a folder of its own.
"""

import argparse
import configparser
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).with_name("wheelhouse.lock")
ARCHITECTURES = ("aarch64", "x86_64")
PYTHONS = ("3.11", "3.13")  # of Debian 12 and 13
# The C library that boards are promised to have at least: 2.28 (see the floor in docs/install.md).
_GLIBC = range(5, 29)
_OLD_TAGS = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_HEAD = "# Made by: python -m tools.wheelhouse --lock\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What a wheel has to fit."""

    arch: str
    python: str

    def options(self) -> list[str]:
        """pip's options for it; every older C library's tag has to be named."""
        abi = "cp" + self.python.replace(".", "")
        chosen = ["--only-binary", ":all:", "--python-version", self.python, "--implementation", "cp"]
        for kind in (abi, "abi3", "none"):
            chosen += ["--abi", kind]
        for minor in reversed(_GLIBC):
            for tag in (f"manylinux_2_{minor}", _OLD_TAGS.get(minor)):
                chosen += ["--platform", f"{tag}_{self.arch}"] if tag else []
        return chosen


def requirements() -> list[str]:
    """What a board needs, of setup.cfg, and pip."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return [*setup["options"]["install_requires"].split(), "pip"]


def version_here() -> str:
    """The version in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup["metadata"]["version"]


def archive_of(out: Path, version: str, arch: str, python: str) -> Path:
    """Where the archive for a kind of board lies."""
    suffix = "" if python == PYTHONS[0] else f"-python{python}"
    return out / f"tokenring-{version}-{arch}{suffix}.tar.gz"


def resolve(board: Board, wanted: Iterable[str]) -> dict[tuple[str, str], str]:
    """The hash of the wheel that pip would take, by name and version."""
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        report = Path(scratch) / "report.json"
        _pip(
            "install",
            "--dry-run",
            "--ignore-installed",
            "--target",
            scratch,
            "--report",
            report,
            *board.options(),
            *wanted,
        )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        (_normal(one["metadata"]["name"]), one["metadata"]["version"]): one["download_info"]["archive_info"]["hashes"][
            "sha256"
        ]
        for one in found
    }


def lock() -> None:
    """Write the present releases of everything, for every kind of board."""
    hashes: dict[tuple[str, str], set[str]] = {}
    pinned: list[str] = []
    for board in (Board(arch=arch, python=python) for python in PYTHONS for arch in ARCHITECTURES):
        found = resolve(board, pinned or requirements())
        pinned = [f"{name}=={version}" for name, version in found]
        for release, digest in found.items():
            hashes.setdefault(release, set()).add(digest)
    lines = [_HEAD]
    for (name, version), digests in sorted(hashes.items()):
        lines.append(
            f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests)) + "\n"
        )
    LOCK.write_text("".join(lines), encoding="utf-8")


def download(board: Board, folder: Path) -> None:
    """Fetch every wheel of the lock into `folder`; pip refuses one whose hash is not listed."""
    _pip("download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder, *board.options(), "-r", LOCK)


def own_wheel(folder: Path, version: str) -> Path:
    """Build this project's wheel, under another version than setup.cfg's if wanted, from a copy of the tree."""
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "peer", "runtime", "share"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, tree)
        text = (tree / "setup.cfg").read_text(encoding="utf-8")
        text = re.sub(r"^version = .*$", f"version = {version}", text, count=1, flags=re.MULTILINE)
        (tree / "setup.cfg").write_text(text, encoding="utf-8")
        _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, tree)
    return next(folder.glob("tokenring-*.whl"))


def assemble(board: Board, version: str, release: Path) -> None:
    """Fill the folder that becomes the archive."""
    wheels = release / "wheels"
    wheels.mkdir(parents=True)
    download(board, wheels)
    own_wheel(wheels, version)
    for pip_wheel in wheels.glob("pip-*.whl"):
        pip_wheel.rename(release / pip_wheel.name)  # installs the others, and is not installed
    lines = [f"{_release_of(wheel)} --hash=sha256:{_digest(wheel)}\n" for wheel in sorted(wheels.iterdir())]
    (release / "requirements.txt").write_text("".join(lines), encoding="ascii")
    (release / "VERSION").write_text(f"{version} {board.arch} {board.python}\n", encoding="ascii")
    (release / "systemd").mkdir()
    for source in (ROOT / "systemd").iterdir():
        shutil.copy(source, release if source.name == "install.sh" else release / "systemd")
    for model in (ROOT / "models_onnx").iterdir():
        if (model / "manifest.json").is_file():
            shutil.copytree(model, release / "models" / model.name)
    shutil.copy(ROOT / "LICENSE", release)
    files = sorted(path for path in release.rglob("*") if path.is_file())
    sums = "".join(f"{_digest(path)}  {path.relative_to(release)}\n" for path in files)
    (release / "SHA256SUMS").write_text(sums, encoding="utf-8")


def pack(release: Path, archive: Path) -> None:
    """One archive of the folder, the same bytes for the same content."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        member.mode = 0o755 if member.mode & 0o100 else 0o644
        return member

    fresh = archive.with_name(archive.name + ".new")
    with (
        fresh.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, 0) as packed,  # wheels are compressed already
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in [release, *sorted(release.rglob("*"))]:
            tar.add(path, path.relative_to(release.parent), recursive=False, filter=plain)
    fresh.replace(archive)


def try_out(archive: Path) -> None:
    """Install the archive into an empty root folder, without an index and without anything of this environment."""
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="tar")
        (release,) = Path(scratch).iterdir()
        root = Path(scratch) / "root"
        interpreter = Path(sys.executable).resolve().parent
        bare = ["env", "-i", f"PATH={interpreter}:/usr/sbin:/usr/bin:/sbin:/bin"]
        subprocess.run([*bare, release / "install.sh", "--root", root], check=True)
        python = root / "opt/tokenring/current/bin/python"
        subprocess.run([*bare, python, "-I", "-m", "peer.cli", "--version"], check=True, cwd=scratch)


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}  # the first day that a zip archive can express
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip {arguments[0]} failed:\n{done.stderr.strip()}")


def _release_of(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{_normal(name)}=={version}"


def _normal(name: str) -> str:
    """As PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Parse the command line and make the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHITECTURES, default=os.uname().machine)
    parser.add_argument("--python", choices=PYTHONS, default=PYTHONS[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--release-version", default=version_here())
    parser.add_argument("--lock", action="store_true")
    options = parser.parse_args()
    if options.lock:
        lock()
        print(f"wrote {LOCK.relative_to(ROOT)}")
        return
    name = f"tokenring-{options.release_version}-{options.arch}"
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        release = Path(scratch) / name
        assemble(Board(arch=options.arch, python=options.python), options.release_version, release)
        archive = archive_of(options.out, options.release_version, options.arch, options.python)
        pack(release, archive)
    if options.arch == os.uname().machine and options.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        try_out(archive)
    print(f"{archive}  {archive.stat().st_size / 1e6:.0f} MB  sha256 {_digest(archive)}")


if __name__ == "__main__":
    main()
