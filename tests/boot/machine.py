"""One emulated Debian machine on a virtual LAN, steered through a folder that it shares with this machine."""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.boot import images

BRIDGE, HOST_ADDRESS, PREFIX = "br0", "10.77.0.254", "10.77.0."
_QEMU = {
    "x86_64": ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max"],
    "aarch64": ["qemu-system-aarch64", "-machine", "virt,accel=tcg", "-cpu", "cortex-a72"],
}
_CONSOLE = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}


class BootFailure(Exception):
    """Something on the machines was not as it should be; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a script on a machine did."""

    code: int
    out: str
    err: str


class Machine:
    """A machine with a disk of its own; `run` works once it is up."""

    def __init__(self, arch: str, number: int, folder: Path) -> None:
        self.arch = arch
        self.number = number
        self.name = f"board-{number}"
        self.address = f"{PREFIX}{number}"
        self.shared = folder / self.name / "shared"
        self._folder = folder / self.name
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = 0
        self._starts = 0

    @property
    def disk(self) -> Path:
        return self._folder / "disk.img"

    @property
    def console(self) -> Path:
        """What the machine printed at its last start."""
        return self._folder / f"console-{self._starts}.log"

    def make(self, image: Path) -> None:
        """Give it a fresh disk, a copy of `image`, and an empty shared folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.shared.mkdir(parents=True)
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, self.disk], check=True)

    def start(self) -> None:
        """Switch it on."""
        self._starts += 1
        # An earlier run's answers, too: jobs are numbered from one again.
        for left in (*self.shared.glob("up.*"), *self.shared.glob("job-*")):
            left.unlink()
        here = images.cache() / self.arch
        tap = f"tap{self.number}"
        subprocess.run(["ip", "link", "del", tap], check=False, capture_output=True)
        subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
        subprocess.run(["ip", "link", "set", tap, "master", BRIDGE, "up"], check=True)
        words = [f"console={_CONSOLE[self.arch]}", "root=/dev/vda", "rw", "quiet", "systemd.show_status=0"]
        words += [f"board.name={self.name}", f"board.address={self.address}"]
        words += [f"systemd.machine_id={self.number:032x}", f"systemd.hostname={self.name}"]
        command = [*_QEMU[self.arch], "-smp", "1", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"]
        command += [
            "-serial",
            f"file:{self.console}",
            "-kernel",
            str(here / "vmlinuz"),
            "-initrd",
            str(here / "initrd"),
        ]
        command += ["-append", " ".join(words)]
        command += ["-drive", f"if=none,id=d0,file={self.disk},format=raw,cache=unsafe"]
        command += ["-device", "virtio-blk-pci,drive=d0", "-device", "virtio-rng-pci"]
        command += ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"]
        command += ["-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{self.number:02x},romfile="]
        command += ["-virtfs", f"local,path={self.shared},mount_tag=host,security_model=none"]
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one thread
            )

    def wait_up(self, timeout_s: float) -> float:
        """Wait until it takes scripts; the seconds that its own clock counted since its kernel began."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for sign in self.shared.glob("up.*"):
                with contextlib.suppress(ValueError):
                    return float(sign.read_text())
            if self._process is None or self._process.poll() is not None:
                raise BootFailure(f"{self.name} went off while it started; see {self.console}")
            time.sleep(0.2)
        raise BootFailure(f"{self.name} was not up in {timeout_s:.0f} s; see {self.console}")

    def run(self, script: str, timeout_s: float, *, check: bool = True) -> Outcome:
        """Run a script of bash as root; BootFailure when it takes too long or, with `check`, fails."""
        self._jobs += 1
        name = f"job-{self._starts:02}-{self._jobs:04}"
        fresh = self.shared / f"{name}.new"
        fresh.write_text(script)
        fresh.rename(self.shared / f"{name}.sh")
        result = self.shared / f"{name}.rc"
        until = time.monotonic() + timeout_s
        while not result.exists():
            if time.monotonic() > until:
                raise BootFailure(f"{self.name}: no end of {script.strip()[:200]!r} in {timeout_s:.0f} s")
            if self._process is None or self._process.poll() is not None:
                raise BootFailure(f"{self.name} went off during {script.strip()[:200]!r}")
            time.sleep(0.1)
        read = {end: (self.shared / f"{name}.{end}").read_text(errors="replace") for end in ("out", "err", "rc")}
        outcome = Outcome(code=int(read["rc"]), out=read["out"], err=read["err"])
        if check and outcome.code:
            raise BootFailure(f"{self.name}: {script.strip()[:200]!r} ended with {outcome.code}: {outcome.err[-2000:]}")
        return outcome

    def put(self, file: Path) -> str:
        """Copy a file into the shared folder; its path on the machine."""
        shutil.copy(file, self.shared)
        return shlex.quote(f"/mnt/host/{file.name}")

    def shut_down(self, timeout_s: float) -> None:
        """Power it off in order."""
        with contextlib.suppress(BootFailure):
            self.run("systemctl --no-block poweroff", timeout_s, check=False)
        self.wait_off(timeout_s)

    def reboot(self, timeout_s: float) -> None:
        """Start it again in order, and wait until it is up."""
        with contextlib.suppress(BootFailure):  # it may be off before it can say that it was asked
            self.run("systemctl --no-block reboot", timeout_s, check=False)
        self.wait_off(timeout_s)
        self.start()
        self.wait_up(timeout_s)

    def wait_off(self, timeout_s: float) -> None:
        """Until its process has ended by itself."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.cut_power()
            raise BootFailure(f"{self.name} did not go off in {timeout_s:.0f} s") from None

    def cut_power(self) -> None:
        """As pulling the plug."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    """A run that is killed leaves no machine behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def lan(capture: Path) -> Iterator[None]:
    """A bridge for the machines; everything on it is written to `capture`. Needs a network namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"], check=True)
    subprocess.run(["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE], check=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    log = capture.with_suffix(".log")
    with log.open("wb") as words:
        dump = subprocess.Popen(["tcpdump", "-Z", "root", "-i", BRIDGE, "-s", "128", "-U", "-w", capture], stderr=words)
    try:
        until = time.monotonic() + 10
        while "listening on" not in log.read_text(errors="replace"):
            if dump.poll() is not None or time.monotonic() > until:
                raise BootFailure(f"tcpdump does not run; see {log}")
            time.sleep(0.05)
        yield
    finally:
        dump.terminate()
        dump.wait()


def strangers(capture: Path) -> list[str]:
    """Packets of the capture that left the LAN, or wanted to: other addresses, and questions for names outside."""
    words = (
        f"ip and not (src net {PREFIX}0/24 and (dst net {PREFIX}0/24 or dst net 224.0.0.0/4)) and not src host 0.0.0.0"
        " or dst port 53"
    )
    shown = subprocess.run(["tcpdump", "-n", "-r", capture, words], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def in_own_network(arguments: list[str]) -> None:
    """Start this program again in a network namespace of its own, unless it is in one."""
    if os.environ.get("BOOT_TEST_NETWORK") != "own":
        os.environ["BOOT_TEST_NETWORK"] = "own"
        os.execvp("unshare", ["unshare", "--net", *arguments])
