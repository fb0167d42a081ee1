"""Boots Debian machines under qemu, installs tokenring without internet, and breaks what can break.

    python -m tests.boot.run [--arch x86_64|aarch64] [--stages install,ring,faults,upgrade] [--out runs/boot-ARCH.json]

Processors are emulated (TCG, no KVM): every duration here is that of an emulated machine on this host, and none says
anything about boards. Stages, each of which can be run again alone from what the one before left in the cache:
install   one bare machine: the archive, install.sh, nothing else; its disk is kept
ring      two machines on one LAN: peerctl token, peerctl join, mDNS, one picture over both
faults    kill -9 of the daemon and of its compute process, a daemon that hangs, a reboot, a pulled plug
upgrade   the next release, and one that cannot start and is rolled back
The LAN is recorded: a packet to anybody else fails the run. Needs root and the packages in tests/boot/images.py.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.boot import images, releases
from tests.boot.boards import SLOW_S, UNIT, Installed, expect
from tests.boot.machine import BootFailure, Machine, in_own_network, lan, strangers

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
STAGES = ("install", "ring", "faults", "upgrade")


class Run:
    """One run on one architecture; `notes` is what is written down."""

    def __init__(self, arch: str, out: Path) -> None:
        self.arch = arch
        self.folder = images.cache() / arch / "run"
        self.installed = images.cache() / arch / "installed.img"
        self.releases = releases.make(arch, images.cache() / arch / "releases")
        self.notes: dict[str, object] = {}
        self._out = out
        if out.exists():
            self.notes = json.loads(out.read_text(encoding="utf-8"))
        self.notes["arch"] = arch
        self.notes["emulated"] = "qemu TCG, one processor and 1 GiB per machine; seconds of an emulated machine"

    def note(self, key: str, value: object) -> None:
        """Write a result down at once, and say it."""
        self.notes[key] = round(value, 1) if isinstance(value, float) else value
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps(self.notes, indent=1) + "\n", encoding="utf-8")
        print(f"{time.strftime('%H:%M:%S')} {key}: {self.notes[key]}", flush=True)

    def machine(self, number: int, image: Path | None) -> Machine:
        """A machine that is switched on, with a copy of `image` as its disk, or with the disk that it has."""
        machine = Machine(self.arch, number, self.folder)
        if image is not None:
            machine.make(image)
        shutil.copy(PHOTO, machine.shared / "photo.png")
        machine.start()
        return machine


def install(run: Run) -> None:
    """From a bare system to an enabled service."""
    machine = run.machine(1, images.cache() / run.arch / "root.img")
    try:
        run.note("install: seconds to a bare system that is up", machine.wait_up(SLOW_S))
        bare = machine.run("dpkg -l python3-venv python3-pip 2>/dev/null | grep -c ^ii", 300, check=False)
        expect(bare.out.strip() == "0", "the image is not bare: it has python3-venv or pip")
        archive = machine.put(run.releases.first)
        started = time.monotonic()
        machine.run(f"cd /var/tmp && tar xf {archive}", SLOW_S)
        said = machine.run("/var/tmp/tokenring-*/install.sh", SLOW_S).out
        run.note("install: seconds of tar and install.sh", time.monotonic() - started)
        expect(f"{run.releases.version} is installed" in said, f"install.sh said {said!r}")
        expect(machine.run("/var/tmp/tokenring-*/install.sh", SLOW_S).out.count("already") >= 1, "install.sh twice")
        states = machine.run(f"systemctl is-enabled {UNIT} peerd-token.path; systemctl is-active peerd-token.path", 300)
        expect(states.out.split() == ["enabled", "enabled", "active"], f"units: {states.out!r}")
        machine.run("rm -rf /var/tmp/tokenring-* /mnt/host/tokenring-*", SLOW_S)
        Installed(machine).scale()
        # Without a token it says so in one line, and does not try again and again.
        machine.run(f"systemctl start {UNIT}", SLOW_S, check=False)
        shown = Installed(machine).properties("ActiveState", "ExecMainStatus", "NRestarts")
        expect(shown == {"ActiveState": "failed", "ExecMainStatus": "8", "NRestarts": "0"}, f"without a token: {shown}")
        machine.run(f"systemctl reset-failed {UNIT}", 300)
        machine.shut_down(SLOW_S)
        machine.disk.rename(run.installed)
    finally:
        machine.cut_power()


def ring(run: Run, first: Installed, second: Installed) -> None:
    """Two commands make the cluster, one more brings a board in; one picture over both."""
    started = time.monotonic()
    for board in (first, second):
        board.wait(
            lambda board=board: board.properties("ActiveState")["ActiveState"] == "failed", "its daemon's first end"
        )
    first.machine.run("peerctl token new | peerctl join -", SLOW_S)
    token = first.machine.run("cat /var/lib/tokenring/token", SLOW_S).out.strip()
    second.machine.run(f"echo {token} | peerctl join -", SLOW_S)
    run.note("ring: seconds from join to an active daemon, first board", first.wait_active())
    second.wait_active()
    both = {"board-1", "board-2"}
    first.wait(lambda: first.alive() == both, "a ring of two")
    second.wait(lambda: second.alive() == both, "a ring of two")
    run.note("ring: seconds from the first join to a ring of two", time.monotonic() - started)
    seeds = second.machine.run("grep -h ^seeds /etc/tokenring/peerd.toml", 300).out.strip()
    expect(seeds == "seeds = []", f"they were to find each other by mDNS alone: {seeds}")
    together, alone = first.infer(2), first.infer(1)
    expect({board["name"] for board in together["boards"]} == both, f"boards of the answer: {together['boards']}")
    expect(together["top"][0]["label"] == alone["top"][0]["label"], f"{together['top']} and {alone['top']}")
    expect(second.infer(2)["top"][0]["label"] == together["top"][0]["label"], "the other board answers otherwise")
    run.note("ring: the picture over both boards", f"{together['top'][0]['label']}, {together['latency_ms']:.0f} ms")
    for board in (first, second):
        shown = board.properties("NRestarts", "MemoryCurrent", "TasksCurrent", "StatusText")
        expect(shown["NRestarts"] == "0", f"{board.machine.name} was restarted: {shown}")
        run.note(f"ring: unit of {board.machine.name}", shown)
    security = first.machine.run(f"systemd-analyze security --no-pager {UNIT} | tail -1", SLOW_S).out.strip()
    run.note("ring: systemd-analyze security", security)


def faults(run: Run, first: Installed, second: Installed) -> None:
    """What ends the second board's daemon, and that it comes back by itself."""
    both = {"board-1", "board-2"}

    def again(what: str) -> None:
        started = time.monotonic()
        second.wait_active()
        second.wait(lambda: second.alive() == both, f"a ring of two after {what}")
        first.wait(lambda: first.alive() == both, f"a ring of two after {what}, seen from the other board")
        run.note(f"faults: seconds to a ring of two after {what}", time.monotonic() - started)
        first.wait(lambda: first.answers_over(2), f"an answer over both boards after {what}")

    restarts = int(second.properties("NRestarts")["NRestarts"])
    second.machine.run("kill -9 $(pgrep -f peer.compute_main | head -1)", 300)
    second.wait(lambda: first.answers_over(2), "an answer over both after the compute process was killed")
    expect(
        int(second.properties("NRestarts")["NRestarts"]) == restarts, "the daemon went down with its compute process"
    )
    run.note("faults: kill -9 of the compute process", "the daemon stayed, both boards compute again")

    second.machine.run(f"systemctl kill --kill-who=main --signal=KILL {UNIT}", 300)
    second.wait(lambda: int(second.properties("NRestarts")["NRestarts"]) > restarts, "a restart")
    again("kill -9 of the daemon")

    restarts = int(second.properties("NRestarts")["NRestarts"])
    started = second.uptime_s()
    second.machine.run(f"systemctl kill --kill-who=main --signal=STOP {UNIT}", 300)
    second.wait(lambda: int(second.properties("NRestarts")["NRestarts"]) > restarts, "a restart by the watchdog")
    run.note("faults: seconds until a daemon that hangs was killed and started again", second.uptime_s() - started)
    said = second.machine.run(f"journalctl --unit {UNIT} --no-pager | grep -c 'Watchdog timeout'", 300).out.strip()
    expect(int(said) >= 1, "it was not the watchdog that ended it")
    again("a hang")

    second.machine.reboot(SLOW_S)
    again("a reboot")

    second.machine.cut_power()
    second.machine.start()
    second.machine.wait_up(SLOW_S)
    again("a pulled plug")


def upgrade(run: Run, first: Installed, second: Installed) -> None:
    """The next release takes over; one that cannot start does not."""
    both, kinds = {"board-1", "board-2"}, run.releases
    for archive, version, works in (
        (kinds.broken, kinds.broken_version, False),
        (kinds.next, kinds.next_version, True),
    ):
        place = second.machine.put(archive)
        second.machine.run(f"rm -rf /var/tmp/tokenring-* && cd /var/tmp && tar xf {place} && rm {place}", SLOW_S)
        started = time.monotonic()
        done = second.machine.run("/var/tmp/tokenring-*/install.sh --wait 900", 2 * SLOW_S, check=False)
        expect((done.code == 0) == works, f"install.sh of {version} ended with {done.code}: {done.out}{done.err}")
        run.note(f"upgrade: seconds of install.sh, {'next' if works else 'broken'} release", time.monotonic() - started)
        now = second.machine.run("readlink /opt/tokenring/current", 300).out.strip()
        expect(now == (version if works else kinds.version), f"the current version is {now}")
        second.wait_active()
        second.wait(lambda: second.alive() == both, "a ring of two after install.sh")
        first.wait(lambda: first.answers_over(2), "an answer over both boards after install.sh")
    said = second.machine.run("peerctl --version", SLOW_S).out
    expect(kinds.next_version in said, f"peerctl says {said}")
    run.note("upgrade: a broken release", "was rolled back; then the next one took over")
    second.machine.run("/opt/tokenring/current/libexec/install.sh --uninstall", SLOW_S)
    left = second.machine.run(
        "find / -xdev -name '*peerd*' -o -xdev -name '*tokenring*' | grep -v ^/var/tmp | sort", SLOW_S
    ).out
    run.note("upgrade: left after --uninstall", left.split())


def boards(run: Run, stages: list[str]) -> None:
    """The stages that need two machines."""
    kept = all((run.folder / f"board-{number}" / "disk.img").exists() for number in (1, 2))
    fresh = "ring" in stages or not kept
    machines = [run.machine(number, run.installed if fresh else None) for number in (1, 2)]
    try:
        for machine in machines:
            run.note(f"boards: seconds to a system that is up, {machine.name}", machine.wait_up(SLOW_S))
        first, second = (Installed(machine) for machine in machines)
        if "ring" not in stages:
            both = {"board-1", "board-2"}
            first.wait(lambda: first.alive() == both and first.answers_over(2), "a ring of two again")
        parts: dict[str, Callable[[Run, Installed, Installed], None]] = {
            "ring": ring,
            "faults": faults,
            "upgrade": upgrade,
        }
        for stage in stages:
            started = time.monotonic()
            parts[stage](run, first, second)
            run.note(f"{stage}: passed, seconds in all", time.monotonic() - started)
        for board in (first, second):
            run.note(f"boards: system calls that were refused on {board.machine.name}", board.refused_calls())
        lines = first.machine.run(f"journalctl --unit {UNIT} --boot --no-pager", SLOW_S).out.splitlines()
        run.note("boards: journal lines of the first board's unit in this boot", len(lines))
        for machine in machines:
            machine.shut_down(SLOW_S)
    finally:
        for machine in machines:
            machine.cut_power()


def main() -> int:
    """Parse the command line and run the stages; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), default="x86_64")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    stages = options.stages.split(",")
    if not set(stages) <= set(STAGES):
        parser.error(f"stages are {','.join(STAGES)}")
    images.make(options.arch)
    run = Run(options.arch, options.out or Path("runs") / f"boot-{options.arch}.json")
    in_own_network([sys.executable, "-m", "tests.boot.run", *sys.argv[1:]])
    run.folder.mkdir(exist_ok=True)
    capture = run.folder / "lan.pcap"
    try:
        with lan(capture):
            if "install" in stages:
                started = time.monotonic()
                install(run)
                run.note("install: passed, seconds in all", time.monotonic() - started)
            if stages != ["install"]:
                boards(run, [stage for stage in stages if stage != "install"])
        left = strangers(capture)
        run.note("packets that were not for the LAN", len(left))
        expect(not left, "the boards spoke to somebody else:\n" + "\n".join(left[:10]))
    except BootFailure as problem:
        run.note("failed", str(problem))
        return 1
    run.notes.pop("failed", None)
    run.note("passed", stages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
