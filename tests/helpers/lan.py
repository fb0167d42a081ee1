"""A LAN of network namespaces: every board has its own network, host name and mounts, joined by a bridge.

    with lan(3) as boards:
        daemon = boards[0].popen([sys.executable, "-m", "peer.cli_peerd", ...])   # its pid is the daemon's own
        boards[0].address                     # "10.77.1.1"
        boards[0].set_address("10.77.1.99")   # what a DHCP server does
        boards.block_multicast()              # an access point that isolates its clients

Nothing gets a name on the machine, so any number of LANs stand side by side. Everything goes when the block ends:
what still runs in a namespace is killed, and the kernel takes the interfaces away. It also goes when this process is
killed, since the holder of each namespace then kills what is left inside.
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, overload

_CLONE_NEWNET = 0x40000000
_BPF_RANDOM = (1 << 32) - 0x1000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_TC_ACT_OK, _TC_ACT_SHOT = 0, 2
_FULL_FRAME_BYTES = 1600  # of an Ethernet with an MTU of 1500
# How late the kernel's timers may be on a busy machine; the faster the link, the more frames wait for each of them.
_TIMER_S, _FAST_TIMER_S, _FAST_MBIT = 2.5e-4, 1e-3, 500
_UNSHARE = ("unshare", "--net", "--mount", "--uts")
# Waits for the end of its input, that is of this process, and then kills whatever shares its network.
_HOLDER = """
echo "$0" > /proc/sys/kernel/hostname
echo
read -r forever
here=$(readlink /proc/self/ns/net)
for process in /proc/[0-9]*; do
    [ "${process#/proc/}" = $$ ] || [ "$(readlink "$process/ns/net")" != "$here" ] || kill -9 "${process#/proc/}"
done 2> /dev/null
"""


@cache
def why_no_lan() -> str:
    """Why this process cannot make a LAN, for the reason of a skipped test; empty when it can."""
    try:
        done = subprocess.run(
            [*_UNSHARE, "ip", "link", "add", "bridge0", "type", "bridge"], capture_output=True, text=True, check=False
        )
    except OSError as problem:
        return f"needs unshare and ip: {problem}"
    return "" if done.returncode == 0 else f"needs root, network namespaces and bridges: {done.stderr.strip()}"


class Namespace:
    """One network with its own mounts and host name; it lives as long as its holder."""

    def __init__(self, name: str) -> None:
        self.name = name
        # A session of its own: Ctrl-C goes to the tests, and they take the namespaces down in order.
        self._holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _HOLDER, name], stdin=-1, stdout=-1, start_new_session=True
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self.pid = self._holder.pid
        self.inode = _network_of(self.pid)

    def close(self) -> None:
        """Let the namespace go; whoever still runs inside keeps it, so `kill_inside` comes first."""
        self._holder.kill()
        self._holder.communicate()

    def command(self, arguments: Iterable[object]) -> list[str]:
        """The command line that runs `arguments` inside, in this process's folder."""
        enter = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", f"--wd={os.getcwd()}")
        return [*enter, *map(str, arguments)]

    def popen(
        self, arguments: Iterable[object], *, env: dict[str, str] | None = None, stderr: int | IO[str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a process inside; its pid is its own, and its group's, so that signals reach it and its children.

        Standard output is a pipe of text.
        """
        return subprocess.Popen(
            self.command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=-1,
            stderr=stderr,
            text=True,
            env=env,
            start_new_session=True,
        )

    def run(
        self, *arguments: object, text: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside until it ends, with `text` on its standard input."""
        done = subprocess.run(
            self.command(arguments), input=text, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
        return done

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` inside, in one process."""
        self.run("ip", "-batch", "-", text="\n".join(lines) + "\n")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this process that belongs to the namespace."""
        made: list[socket.socket] = []

        def enter_and_make() -> None:
            # setns(2) moves one thread; the socket stays in the namespace, the thread ends with it.
            with open(f"/proc/{self.pid}/ns/net", "rb") as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(family, kind, protocol))

        thread = threading.Thread(target=enter_and_make)
        thread.start()
        thread.join()
        return made[0]

    def mount(self, source: Path, target: str) -> None:
        """Put the file or folder `source` in the place of `target`, for the processes inside only."""
        self.run("mount", "--bind", source, Path(target).resolve())


class Board(Namespace):
    """A machine on the LAN: `eth0` is on the first segment, `eth1` on the second, and so on."""

    def __init__(self, index: int, *, ipv4: bool, ipv6: bool) -> None:
        super().__init__(f"board{index}")
        self.index = index
        self.address = f"10.77.1.{index + 1}" if ipv4 else f"fd77:1::{index + 1:x}"  # of eth0
        self._ipv4 = ipv4
        self._ipv6 = ipv6

    def plug_in(self, segments: int) -> None:
        """Give the interfaces their addresses and bring them up."""
        switch = "disable_ipv6" if not self._ipv6 else "accept_dad"
        value = int(not self._ipv6)
        # Without duplicate address detection an IPv6 address can be used at once.
        text = "".join(f"echo {value} > /proc/sys/net/ipv6/conf/eth{n}/{switch}\n" for n in range(segments))
        self.run("sh", "-s", text=text, check=self._ipv6)  # where the kernel lacks IPv6 there is nothing to disable
        lines = ["link set lo up"]
        for n in range(segments):
            if self._ipv4:
                lines.append(f"address add 10.77.{n + 1}.{self.index + 1}/24 dev eth{n}")
            if self._ipv6:
                lines.append(f"address add fd77:{n + 1}::{self.index + 1:x}/64 dev eth{n} nodad")
            lines.append(f"link set eth{n} up")
        self.ip(*lines)

    def set_address(self, address: str, interface: str = "eth0") -> None:
        """Replace the addresses of one family on an interface, as a new DHCP lease does."""
        family, length = ("-6", 64) if ":" in address else ("-4", 24)
        self.run("ip", family, "address", "flush", "dev", interface, "scope", "global")
        self.ip(f"address add {address}/{length} dev {interface}" + (" nodad" if ":" in address else ""))
        if interface == "eth0":
            self.address = address

    def interface(self, *, up: bool, name: str = "eth0") -> None:
        """Take an interface of the board down, or up again. Its IPv6 addresses stay away."""
        self.ip(f"link set {name} {'up' if up else 'down'}")


class Lan(Sequence[Board]):
    """The boards, and the switch between them."""

    def __init__(self, boards: list[Board], switch: Namespace, segments: int) -> None:
        self._boards = boards
        self._switch = switch
        self._segments = segments

    @overload
    def __getitem__(self, index: int) -> Board: ...
    @overload
    def __getitem__(self, index: slice) -> list[Board]: ...
    def __getitem__(self, index: int | slice) -> Board | list[Board]:
        return self._boards[index]

    def __len__(self) -> int:
        return len(self._boards)

    def cable(self, index: int, *, plugged: bool, segment: int = 0) -> None:
        """Pull the cable of a board out of the switch, or put it back: no carrier, and all addresses stay."""
        self._switch.ip(f"link set {_port(index, segment)} {'up' if plugged else 'down'}")

    def block_multicast(self, *, blocked: bool = True) -> None:
        """Pass no multicast packet on, or pass them again. Broadcasts pass, so IPv4 works on and IPv6 does not."""
        state = "off" if blocked else "on"
        self._switch.ip(*(f"link set {port} type bridge_slave mcast_flood {state}" for port in self._ports()))

    def lose(self, share: float) -> None:
        """Drop this share of all packets, of each board on its way into the switch; 0 passes all of them again."""
        # Classic BPF, since few kernels hold netem: ld #rand; jge #share, pass, drop; pass: ret OK; drop: ret SHOT
        program = f"4,32 0 0 {_BPF_RANDOM},53 0 1 {int(share * (1 << 32))},6 0 0 {_TC_ACT_OK},6 0 0 {_TC_ACT_SHOT}"
        for port in self._ports():
            self._switch.run("tc", "qdisc", "del", "dev", port, "clsact", check=False)
            if share:
                self._switch.run("tc", "qdisc", "add", "dev", port, "clsact")
                self._switch.run("tc", "filter", "add", "dev", port, "ingress", "bpf", "da", "bytecode", program)

    def rate(self, mbit: float) -> None:
        """Let every cable carry this many megabits per second each way, and queue a second of it; 0 lifts the limit."""
        buckets = f"root tbf rate {mbit * 1e6:.0f}bit burst 16kb latency 1s".split()
        for board in self._boards:
            for segment in range(self._segments):
                for place, end in ((board, f"eth{segment}"), (self._switch, _port(board.index, segment))):
                    place.run("tc", "qdisc", "del", "dev", end, "root", check=False)
                    if mbit:
                        place.run("tc", "qdisc", "add", "dev", end, *buckets)

    def shape(self, index: int, mbit: float) -> None:
        """Let a board's cables carry this rate each way as a real one does: what is sent is spaced, frame by frame.

        A bucket holds one full frame, or what passes while the kernel's timers are late where that is more.
        """
        bytes_per_s = mbit * 1e6 / 8
        bucket = max(_FULL_FRAME_BYTES, int(bytes_per_s * (_FAST_TIMER_S if mbit > _FAST_MBIT else _TIMER_S)))
        words = f"root tbf rate {mbit * 1e6:.0f}bit burst {bucket} limit {max(2 * bucket, int(bytes_per_s))}".split()
        for segment in range(self._segments):
            for place, end in ((self._boards[index], f"eth{segment}"), (self._switch, _port(index, segment))):
                place.run("tc", "qdisc", "replace", "dev", end, *words)

    def split(self, *groups: Iterable[int]) -> None:
        """Boards hear only boards of their own group; `heal` joins them again."""
        for number, group in enumerate(map(tuple, groups)):
            for segment in range(self._segments):
                bridge = f"split{number}-{segment}"
                self._switch.run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0", check=False)
                ports = (_port(index, segment) for index in group)
                self._switch.ip(f"link set {bridge} up", *(f"link set {port} master {bridge}" for port in ports))

    def heal(self) -> None:
        """Undo `split`."""
        self._switch.ip(
            *(f"link set {_port(b.index, s)} master segment{s}" for b in self._boards for s in range(self._segments))
        )

    def _ports(self) -> Iterator[str]:
        return (_port(board.index, segment) for board in self._boards for segment in range(self._segments))


@contextmanager
def lan(
    count: int,
    *,
    segments: int = 1,
    ipv4: bool = True,
    ipv6: bool = True,
    join: Callable[[Namespace, Sequence[Board]], None] | None = None,
) -> Iterator[Lan]:
    """`count` boards on `segments` separate networks, 10.77.SEGMENT.BOARD and fd77:SEGMENT::BOARD, counted from 1.

    `join` gives the boards their interfaces, instead of cables to the kernel's bridges in the namespace it is given.
    """
    with ExitStack() as stack:
        switch = Namespace("switch")
        stack.callback(switch.close)
        boards: list[Board] = []
        stack.callback(_take_down, boards)
        for index in range(count):
            boards.append(Board(index, ipv4=ipv4, ipv6=ipv6))
        if join is None:
            _cables(switch, boards, segments)
        else:
            join(switch, boards)
        for board in boards:
            board.plug_in(segments)
        yield Lan(boards, switch, segments)


def _cables(switch: Namespace, boards: Sequence[Board], segments: int) -> None:
    """A bridge for every segment, and a cable to it from each board."""
    for segment in range(segments):
        bridge = f"segment{segment}"
        # A new bridge must not wait for queriers, nor learn who listens: it passes everything on at once.
        switch.ip(
            f"link add {bridge} type bridge mcast_snooping 0",
            f"link set {bridge} up",
            *(
                line
                for board in boards
                for port in [_port(board.index, segment)]
                for line in (
                    f"link add {port} type veth peer name eth{segment} netns {board.pid}",
                    f"link set {port} master {bridge} up",
                )
            ),
        )


def _port(board: int, segment: int) -> str:
    return f"port{board}-{segment}"


def _network_of(process: int | str) -> str:
    return os.readlink(f"/proc/{process}/ns/net")


def _take_down(boards: list[Board]) -> None:
    """Kill what runs inside, then let the namespaces go."""
    networks = {board.inode for board in boards}
    holders = {board.pid for board in boards}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) not in holders:
            try:
                if _network_of(entry) in networks:
                    os.kill(int(entry), signal.SIGKILL)
            except OSError:
                continue  # it ended by itself
    for board in boards:
        board.close()
