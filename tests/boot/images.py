"""Debian 12 as a disk image, kernel and first ram disk for qemu, for x86_64 and aarch64.

    python -m tests.boot.images [x86_64] [aarch64]

Made by mmdebstrap, once; kept in $XDG_CACHE_HOME/tokenring-boot/ARCH/. Every
stage that is done is not done again. The arm64 tree takes ten minutes and more, as its programs run in software. Needs
root and the Debian packages in PACKAGES. The image holds no tokenring: that is installed in the running machine.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = [
    "mmdebstrap",
    "qemu-system-x86",
    "qemu-system-arm",
    "qemu-user-static",
    "e2fsprogs",
    "busybox-static",
    "cpio",
    "kmod",
    "iproute2",
    "tcpdump",
]
# What a Raspberry Pi class board has; tcpdump shows who the board speaks to.
_INCLUDE = "systemd,systemd-sysv,libpam-systemd,dbus,udev,kmod,iproute2,python3,procps,tcpdump"
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_FIRST_MODULES = ("virtio_pci", "virtio_blk", "ext4")  # to reach the root file system
_MODULES = ("virtio_net", "9p", "9pnet_virtio", "autofs4", "virtio_rng", "binfmt_misc", "virtio_console")
_SIZE = "2500M"

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /lib/$module || echo "module $module failed"; done
tries=0
until [ -b /dev/vda ] || [ $tries -gt 100 ]; do tries=$((tries + 1)); /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 -o rw /dev/vda /sysroot
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /sysroot/dev
exec /bin/busybox switch_root /sysroot /sbin/init
"""

# Carries out what the host puts into the shared folder, one script after the other.
_AGENT = """#!/bin/bash
cd /mnt/host || exit 1
exec >/dev/null 2>&1
echo "$(cut -d' ' -f1 /proc/uptime)" >"up.$(cat /proc/sys/kernel/random/boot_id)"
while true; do
    for job in *.sh; do
        [ -e "$job" ] || { sleep 0.2; continue; }
        name=${job%.sh}
        mv "$job" "$name.running"
        timeout 3600 bash "$name.running" >"$name.out.new" 2>"$name.err" </dev/null
        echo $? >"$name.rc.new"
        mv "$name.out.new" "$name.out"
        mv "$name.rc.new" "$name.rc"
    done
done
"""
_AGENT_UNIT = """[Unit]
Description=Carries out what the host asks for
After=network.target systemd-networkd.service
RequiresMountsFor=/mnt/host

[Service]
ExecStart=/usr/local/libexec/agent
Restart=always

[Install]
WantedBy=multi-user.target
"""
_NETWORK_UNIT = """[Unit]
Description=Name and address of this machine, from the kernel's command line
DefaultDependencies=no
Before=systemd-networkd.service network-pre.target
Wants=network-pre.target
After=systemd-remount-fs.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/libexec/place

[Install]
WantedBy=sysinit.target
"""
# Into /run: a second start of the same disk has a name and an address of its own.
_PLACE = """#!/bin/bash
for word in $(</proc/cmdline); do
    case $word in
    board.name=*) hostname "${word#*=}" ;;
    board.address=*)
        mkdir -p /run/systemd/network
        printf '[Match]\\nName=e*\\n[Network]\\nAddress=%s/24\\nLinkLocalAddressing=ipv6\\n' "${word#*=}" \\
            >/run/systemd/network/10-lan.network
        ;;
    esac
done
"""


def cache() -> Path:
    """Where images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenring-boot"


def make(arch: str) -> Path:
    """Make what is missing; the folder that holds `vmlinuz`, `initrd` and `root.img`."""
    folder = cache() / arch
    folder.mkdir(parents=True, exist_ok=True)
    for name, stage in (("tree", _tree), ("kernel", _kernel), ("image", _image)):
        done = folder / f".{name}"
        if done.exists():
            continue
        print(f"{arch}: {name}", flush=True)
        started = time.monotonic()
        stage(arch, folder)
        done.touch()
        print(f"{arch}: {name} took {time.monotonic() - started:.0f} s", flush=True)
    return folder


def _tree(arch: str, folder: Path) -> None:
    shutil.rmtree(folder / "tree", ignore_errors=True)
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={_INCLUDE}"]
    if arch != os.uname().machine:
        command = [sys.executable, "-m", "tests.boot.foreign", *command, "--skip=check/qemu"]
    _run(*command, f"--architectures={_DEBIAN[arch]}", "bookworm", folder / "tree", quiet=True)


def _kernel(arch: str, folder: Path) -> None:
    """The kernel, the modules that are needed, and a ram disk that mounts the root file system."""
    packages = folder / "packages"
    apt = _apt(arch, folder / "apt")
    _run("apt-get", *apt, "-qq", "update")
    depends = _out("apt-cache", *apt, "depends", f"linux-image-{_DEBIAN[arch]}")
    image = next(line.split()[1] for line in depends.splitlines() if "linux-image-" in line and "Depends" in line)
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    _run("apt-get", *apt, "-qq", "download", image, f"busybox-static:{_DEBIAN[arch]}", cwd=packages)
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in packages.glob("*.deb"):
        _run("dpkg", "-x", package, unpacked)
    modules = next((unpacked / "lib/modules").iterdir())
    _run("depmod", "-b", unpacked, modules.name)
    shutil.copy(next((unpacked / "boot").glob("vmlinuz-*")), folder / "vmlinuz")
    first = _with_dependencies(modules, _FIRST_MODULES)
    _ram_disk(folder, unpacked / "bin/busybox", first)
    kept = folder / "modules" / modules.name
    shutil.rmtree(folder / "modules", ignore_errors=True)
    for module in _with_dependencies(modules, (*_FIRST_MODULES, *_MODULES)):
        place = kept / module.relative_to(modules)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, place)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(modules / name, kept)
    shutil.rmtree(unpacked)


def _apt(arch: str, state: Path) -> list[str]:
    """Options for an apt of that architecture, apart from this machine's own."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    return [
        f"-oAPT::Architecture={_DEBIAN[arch]}",
        f"-oAPT::Architectures={_DEBIAN[arch]}",
        f"-oDir::State::lists={state}/lists",
        f"-oDir::State::status={state}/status",
        f"-oDir::Cache={state}/cache",
        "-oAPT::Sandbox::User=root",
    ]


def _with_dependencies(modules: Path, names: tuple[str, ...]) -> list[Path]:
    """The modules' files, each after what it needs (modules.dep names the needed ones last first)."""
    table: dict[str, tuple[str, list[str]]] = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, needed = line.partition(":")
        table[Path(path).name.partition(".")[0].replace("-", "_")] = (path, needed.split())
    builtin = (modules / "modules.builtin").read_text(encoding="ascii")

    def chain(name: str) -> Iterator[str]:
        if name not in table:
            if f"/{name}.ko" not in builtin and f"/{name.replace('_', '-')}.ko" not in builtin:
                raise SystemExit(f"the kernel has no module {name}")
            return
        path, needed = table[name]
        yield from reversed(needed)
        yield path

    # ext4 and virtio ask for these by name at run time, which modules.dep does not know.
    soft = [name for name in ("crc32c_generic", "crc32c_intel") if name in table]
    found = dict.fromkeys(path for name in (*soft, *names) for path in chain(name))
    return [modules / path for path in found]


def _ram_disk(folder: Path, busybox: Path, modules: list[Path]) -> None:
    root = folder / "initrd.d"
    shutil.rmtree(root, ignore_errors=True)
    for place in ("bin", "lib", "proc", "dev", "sysroot"):
        (root / place).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for module in modules:
        shutil.copy(module, root / "lib")
    (root / "modules").write_text(" ".join(module.name for module in modules), encoding="ascii")
    (root / "init").write_text(_INIT, encoding="ascii")
    (root / "init").chmod(0o755)
    _run("sh", "-c", f"cd {root} && find . | cpio --quiet -o -H newc | gzip -1 >{folder}/initrd")
    shutil.rmtree(root)


def _image(arch: str, folder: Path) -> None:
    """The tree, made to be steered from outside, as one file system."""
    tree = folder / "tree"
    shutil.rmtree(tree / "lib/modules", ignore_errors=True)
    shutil.copytree(folder / "modules", tree / "lib/modules")
    _run("depmod", "-b", tree, next((folder / "modules").iterdir()).name)
    for name in ("etc/machine-id", "etc/resolv.conf", "etc/hostname"):
        (tree / name).unlink(missing_ok=True)
        (tree / name).touch()
    (tree / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    # That it says 127.0.1.1 for the machine's own name is Debian's way, and not wanted here.
    _write(tree / "etc/hosts", "127.0.0.1 localhost\n")
    _write(tree / "etc/fstab", "host /mnt/host 9p trans=virtio,version=9p2000.L,msize=131072 0 0\n")
    _write(tree / "etc/modules-load.d/boot-test.conf", "9pnet_virtio\nvirtio_net\nvirtio_rng\n")
    (tree / "mnt/host").mkdir(exist_ok=True)
    _write(tree / "usr/local/libexec/agent", _AGENT, mode=0o755)
    _write(tree / "usr/local/libexec/place", _PLACE, mode=0o755)
    _write(tree / "etc/systemd/system/agent.service", _AGENT_UNIT)
    _write(tree / "etc/systemd/system/place.service", _NETWORK_UNIT)
    _write(tree / "etc/systemd/journald.conf.d/boot-test.conf", "[Journal]\nStorage=persistent\n")
    wants = tree / "etc/systemd/system"
    for target, unit in (
        ("multi-user.target.wants", "/etc/systemd/system/agent.service"),
        ("sysinit.target.wants", "/etc/systemd/system/place.service"),
        ("multi-user.target.wants", "/lib/systemd/system/systemd-networkd.service"),
    ):
        (wants / target).mkdir(exist_ok=True)
        link = wants / target / Path(unit).name
        link.unlink(missing_ok=True)
        link.symlink_to(unit)
    # A machine without a console to log in at, and without the network that Debian's boot waits for.
    for unit in (
        "getty@tty1.service",
        "systemd-networkd-wait-online.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
    ):
        (wants / unit).unlink(missing_ok=True)
        (wants / unit).symlink_to("/dev/null")
    (folder / "root.img").unlink(missing_ok=True)
    _run("mkfs.ext4", "-q", "-d", tree, "-L", "root", folder / "root.img", _SIZE)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    path.chmod(mode)


def _run(*command: object, cwd: Path | None = None, quiet: bool = False) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=quiet, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {done.returncode}\n{done.stderr or ''}")


def _out(*command: object) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Make the images that are asked for."""
    for arch in sys.argv[1:] or ["x86_64"]:
        if arch not in _DEBIAN:
            raise SystemExit(__doc__)
        print(make(arch))


if __name__ == "__main__":
    main()
