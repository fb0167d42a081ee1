"""Makes a Debian package of the archive of `tools.wheelhouse`: `apt install ./tokenring_VERSION_arm64.deb` on a board.

    python -m tools.deb --arch aarch64 [--python 3.11] [--out dist] [--archive FILE]

The package brings the unpacked archive to /usr/share/tokenring and has its install.sh do the rest, so that an upgrade
by apt is tried out and taken back like any other: then apt says that the package could not be configured, and the old
version goes on. Removing the package uninstalls and leaves configuration and state; purging removes those as well.
Built with dpkg-deb(1), the same bytes for the same archive; deb-postinst(5) and Debian Policy 6 for the scripts.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.wheelhouse import ARCHITECTURES, PYTHONS, ROOT, archive_of, version_here

_DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}
_PLACE = "usr/share/tokenring"
# dpkg sets DPKG_ROOT where it installs into another root without entering it: see --force-script-chrootless.
_SCRIPTS = {
    "postinst": """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
exec "$DPKG_ROOT/usr/share/tokenring/install.sh" ${DPKG_ROOT:+--root "$DPKG_ROOT"}
""",
    "prerm": """#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
exec "$DPKG_ROOT/usr/share/tokenring/install.sh" --uninstall ${DPKG_ROOT:+--root "$DPKG_ROOT"}
""",
    # The script that could purge went with the package.
    "postrm": """#!/bin/sh
set -e
[ "$1" = purge ] || exit 0
rm -rf "$DPKG_ROOT/etc/tokenring" "$DPKG_ROOT/var/lib/tokenring"
[ -n "$DPKG_ROOT" ] || ! id tokenring >/dev/null 2>&1 || userdel tokenring
""",
}


def control(version: str, arch: str, python: str, size_kib: int) -> str:
    """The package's description, deb-control(5)."""
    return f"""Package: tokenring
Version: {version}
Architecture: {_DEBIAN[arch]}
Maintainer: the tokenring project <tokenring@localhost>
Installed-Size: {size_kib}
Depends: python{python}, systemd
Section: net
Priority: optional
Description: one Transformer over several boards of a LAN
 A daemon (peerd) that finds the other boards by mDNS and computes its share
 of every request, and a command (peerctl) to ask them. After the installation
 a board needs a token: peerctl token new, or that of the first board.
"""


def build(archive: Path, out: Path) -> Path:
    """The package of one archive; CalledProcessError where dpkg-deb refuses."""
    with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="tar")
        (release,) = Path(scratch).iterdir()
        version, arch, python = (release / "VERSION").read_text(encoding="ascii").split()
        tree = Path(scratch) / "tree"
        place = tree / _PLACE
        place.parent.mkdir(parents=True)
        release.rename(place)
        size_kib = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) // 1024
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(control(version, arch, python, size_kib), encoding="utf-8")
        for name, script in _SCRIPTS.items():
            (tree / "DEBIAN" / name).write_text(script, encoding="ascii")
            (tree / "DEBIAN" / name).chmod(0o755)
        for folder in (path for path in tree.rglob("*") if path.is_dir()):
            folder.chmod(0o755)
        tree.chmod(0o755)
        suffix = "" if python == PYTHONS[0] else f"~python{python}"
        package = out / f"tokenring_{version}{suffix}_{_DEBIAN[arch]}.deb"
        # Wheels and models are compressed already; the time of the first day that archives can express.
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, package],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"},
        )
        return package


def main() -> None:
    """Parse the command line and make the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHITECTURES, default=os.uname().machine)
    parser.add_argument("--python", choices=PYTHONS, default=PYTHONS[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--archive", type=Path)
    options = parser.parse_args()
    archive = options.archive or archive_of(options.out, version_here(), options.arch, options.python)
    if not archive.is_file():
        sys.exit(f"{archive} is not there; make it first: make wheelhouse ARCH={options.arch}")
    package = build(archive, options.out)
    print(f"{package}  {package.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
