"""Network namespaces for tests: a network of its own for some processes, and every packet of it for the test.

A namespace lives as long as its holder, a `cat` that waits for this process: when the block ends, or this process is
killed, the kernel kills whatever still runs inside and takes the interfaces away. Nothing gets a name on the machine.
"""

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_BYTES = 64 << 20
_HEADERS_BYTES = 160  # Ethernet, IP and TCP with all options
_SYN, _ACK = 0x02, 0x10
_IPV4, _IPV6 = 0x0800, 0x86DD
_ISOLATE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_isolate() -> bool:
    """Whether this process may make namespaces: root, outside a container that forbids it."""
    try:
        return subprocess.run([*_ISOLATE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The headers of one packet. Ports are 0 for anything but TCP and UDP."""

    interface: str
    outgoing: bool
    protocol: str  # "tcp", "udp", or what else it was
    source_port: int
    port: int
    syn: bool  # the first packet of a connection
    payload_bytes: int


class Namespace:
    """One network with its own loopback, processes and mounts."""

    def __init__(self, pid: int) -> None:
        self.pid = pid  # of its first process, as seen from outside

    def command(self, *arguments: object) -> list[str]:
        """The command line that runs `arguments` inside."""
        enter = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", f"--wd={os.getcwd()}")
        return [*enter, *map(str, arguments)]

    def run(
        self, *arguments: object, env: dict[str, str] | None = None, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside until it ends."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout_s, env=env
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done

    def ip(self, line: str) -> None:
        """Run ip(8) on this network; a process it names by number is one of the test's own world."""
        command = ["nsenter", "--target", str(self.pid), "--net", "ip", *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"ip {line}: {done.stderr}")

    def packet_socket(self) -> socket.socket:
        """A socket of this process that receives every packet inside."""
        made: list[socket.socket] = []

        def enter_and_make() -> None:
            # setns(2) moves one thread; the socket stays in the namespace, the thread ends with it.
            with open(f"/proc/{self.pid}/ns/net", "rb") as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))

        thread = threading.Thread(target=enter_and_make)
        thread.start()
        thread.join()
        made[0].setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        return made[0]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A new network whose only interface, loopback, is up."""
    with subprocess.Popen([*_ISOLATE, "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            holder.stdout.readline()
            (child,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
            made = Namespace(int(child))
            made.ip("link set lo up")
            yield made
        finally:
            holder.stdin.close()
            holder.wait(10)


class Sniffer:
    """Takes down every packet of a namespace from `with` on; `packets()` hands over what came so far."""

    def __init__(self, place: Namespace) -> None:
        self._socket = place.packet_socket()
        self._socket.settimeout(0.1)
        self._packets: list[Packet] = []
        self._ending = False
        self._thread = threading.Thread(target=self._take, name="sniffer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()

    def packets(self) -> list[Packet]:
        """Everything since the last call."""
        time.sleep(0.3)  # what was sent just now is still being taken down
        assert not self._dropped(), "the sniffer was too slow"
        taken, self._packets = self._packets, []
        return taken

    def _dropped(self) -> int:
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(dropped)

    def _take(self) -> None:
        buffer = bytearray(_HEADERS_BYTES)
        while not self._ending:
            try:
                size, (interface, protocol, kind, _, _) = self._socket.recvfrom_into(buffer)
            except TimeoutError:
                continue
            if size < 14:
                continue
            outgoing = kind == socket.PACKET_OUTGOING
            if interface == "lo" and outgoing:
                continue  # loopback shows every packet twice
            self._packets.append(_parse(interface, outgoing, protocol, bytes(buffer[14:size])))


def _parse(interface: str, outgoing: bool, protocol: int, data: bytes) -> Packet:
    """`data` starts with the IP header."""
    if protocol == _IPV4:
        header_bytes, kind = 4 * (data[0] & 15), data[9]
        body_bytes = int.from_bytes(data[2:4], "big") - header_bytes
    elif protocol == _IPV6:
        header_bytes, kind = 40, data[6]
        body_bytes = int.from_bytes(data[4:6], "big")
    else:
        return Packet(
            interface=interface,
            outgoing=outgoing,
            protocol=f"ethernet {protocol:#x}",
            source_port=0,
            port=0,
            syn=False,
            payload_bytes=0,
        )
    inner = data[header_bytes:]
    known = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(kind)
    tcp = known == "tcp"
    source_port, port = struct.unpack(">HH", inner[:4]) if known else (0, 0)
    return Packet(
        interface=interface,
        outgoing=outgoing,
        protocol=known or f"ip {kind}",
        source_port=source_port,
        port=port,
        syn=tcp and inner[13] & (_SYN | _ACK) == _SYN,
        payload_bytes=body_bytes - (4 * (inner[12] >> 4) if tcp else 8 if known else 0),
    )


def nameserver(place: Namespace, file: Path, address: str) -> None:
    """Processes inside ask `address` for names."""
    file.write_text(f"nameserver {address}\noptions timeout:1 attempts:1\n", encoding="ascii")
    place.run("mount", "--bind", file, Path("/etc/resolv.conf").resolve())


def lan(place: Namespace, interface: str, address: str, gateway: str) -> None:
    """An interface that swallows what is sent through it, with the default route behind it."""
    # One end of a cable whose other end nobody looks at; not every kernel has dummy interfaces.
    ends = (interface, f"{interface}-end")
    place.ip(f"link add {ends[0]} type veth peer name {ends[1]}")
    for end in ends:
        # The kernel's own announcements would be packets too; and without ARP they leave although nobody answers.
        place.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{end}/disable_ipv6")
        place.ip(f"link set {end} up arp off")
    place.ip(f"address add {address}/24 dev {interface}")
    place.ip(f"route add default via {gateway}")
