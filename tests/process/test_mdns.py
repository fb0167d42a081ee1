"""Discovery with real multicast: boards in network namespaces on a bridge."""

import json
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from zeroconf import DNSOutgoing, DNSPointer, ServiceInfo  # type: ignore[attr-defined]  # offered, but not listed

from peer.service_record import SERVICE_TYPE, instance_name
from tests.helpers.lan import Board, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "-")]

PROBE = Path(__file__).parents[1] / "helpers" / "mdns_board.py"
PORT = 7700
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    kind: str
    at: float  # seconds since that board's start
    facts: dict[str, Any]  # Any: JSON


class Watched:
    """A board's discovery in a process of its own, and what it has said so far."""

    def __init__(self, board: Board, number: int, *options: str, port: int = PORT) -> None:
        self.id = f"{number:016x}"
        self.events: list[Event] = []
        self._unread: list[Event] = []
        self._asked_to_stop = False
        self._queue: queue.Queue[Event | None] = queue.Queue()
        arguments = [sys.executable, "-X", "dev", PROBE, self.id, port, *options]
        self.process = board.popen(arguments, stderr=subprocess.PIPE)
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            facts = json.loads(line)
            self._queue.put(Event(kind=facts.pop("event"), at=facts.pop("at"), facts=facts))
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def wait(self, wanted: Callable[[Event], bool], what: str, patience_s: float = PATIENCE_S) -> Event:
        """The first event that is `wanted` and that no earlier wait returned."""
        deadline = time.monotonic() + patience_s
        while True:
            for event in self._unread:
                if wanted(event):
                    self._unread.remove(event)
                    return event
            assert self._next(deadline), f"{self.id} did not see {what}; it saw {self.events}"

    def _next(self, deadline: float) -> bool:
        try:
            event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return False
        assert event is not None, f"{self.id} ended: {self.events}"
        self.events.append(event)
        self._unread.append(event)
        return True

    def wait_kind(self, kind: str) -> Event:
        return self.wait(lambda event: event.kind == kind, kind)

    def sees(self, other: "Watched", *, host: str | None = None, not_host: str | None = None) -> Event:
        """Wait for a sighting of `other` that names `host`, and does not name `not_host`."""

        def wanted(event: Event) -> bool:
            if event.kind != "sighting" or event.facts["peer"] != other.id:
                return False
            hosts = event.facts["hosts"]
            return (host is None or host in hosts) and not_host not in hosts

        return self.wait(wanted, f"{other.id} at {host}")

    def drain(self, seconds: float) -> list[Event]:
        """Everything that no wait returned, up to the end of the next seconds."""
        deadline = time.monotonic() + seconds
        while self._next(deadline):
            pass
        found, self._unread = self._unread, []
        return found

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def stop(self) -> Event:
        """Ask it to stop; its last words."""
        self._asked_to_stop = True
        self.process.terminate()
        return self.wait_kind("stopped")

    def close(self) -> str:
        """Stop it; whatever it wrote to standard error, which is nothing when all went well."""
        if not self.events:
            self.wait_kind("start")  # earlier it does not know yet what to do with a signal
        if not self._asked_to_stop:
            self.process.terminate()  # a second signal would meet an interpreter that is going down
        code = self.process.wait(10)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        errors = "".join(self._errors)
        assert code == 0, errors
        assert "Traceback" not in errors, errors
        assert "Warning" not in errors, errors
        return errors


@contextmanager
def watched(*boards: Watched) -> Iterator[None]:
    try:
        yield
    finally:
        errors = [board.close() for board in boards]
        print("\n".join(errors))


@contextmanager
def running(process: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def forger(board: Board) -> Iterator[Callable[[DNSOutgoing], None]]:
    """A sender of mDNS packets on a board."""
    with board.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(board.address))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("B", 255))

        def send(out: DNSOutgoing) -> None:
            for packet in out.packets():
                sender.sendto(packet, ("224.0.0.251", 5353))

        yield send


def claim(number: int, address: str, *, port: int = PORT) -> ServiceInfo:
    """The records of a board that does not exist."""
    text = f"id={number:016x}"
    pairs = ("v=3", text, f"tag={'00' * 8}", f"p={port}")
    name = instance_name(f"{number:016x}")  # type: ignore[arg-type]  # as somebody would forge it
    txt = b"".join(bytes([len(pair)]) + pair.encode() for pair in pairs)
    return ServiceInfo(SERVICE_TYPE, name, port=port, properties=txt, parsed_addresses=[address], server=name)


def answer(*infos: ServiceInfo, ttl: int | None = None) -> DNSOutgoing:
    out = DNSOutgoing(0x8400)
    for info in infos:
        records = (info.dns_pointer(ttl), info.dns_service(ttl), info.dns_text(ttl), *info.dns_addresses(ttl))
        for record in records:
            out.add_answer_at_time(record, 0)
    return out


def test_two_boards_see_each_other_and_a_third_sees_them_at_once() -> None:
    with lan(3) as boards:
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            assert one.sees(two).facts["hosts"] == ["10.77.1.2", "fd77:1::2"]
            assert two.sees(one).facts == {
                "peer": one.id,
                "tag": "00" * 8,
                "version": 3,
                "hosts": ["10.77.1.1", "fd77:1::1"],
                "port": PORT,
            }
            announced = one.wait_kind("announced")
            assert announced.facts["name"] == f"tokenring-{one.id}.{SERVICE_TYPE}"
            late = Watched(boards[2], 3)
            with watched(late):
                first = late.wait_kind("sighting")
                assert first.at < 1.0  # not delayed by the probes for its own name
                both = {first.facts["peer"], late.wait_kind("sighting").facts["peer"]}
                assert both == {one.id, two.id}
                one.sees(late)
                print(f"announced {announced.at} s, first sighting {first.at} s after start")


def test_a_lan_with_ipv6_only() -> None:
    with lan(2, ipv4=False) as boards:
        # The second board has no address but its link-local one.
        boards[1].run("ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            (host,) = one.sees(two).facts["hosts"]
            assert host.startswith("fe80::")
            assert host.partition("%")[2].isdecimal()  # the interface through which it can be dialled
            assert two.sees(one).facts["hosts"] == ["fd77:1::1"]
            family, kind, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_STREAM)[0]
            with boards[0].socket(family, kind) as dialled:
                dialled.settimeout(2)
                with pytest.raises(ConnectionRefusedError):  # somebody is there
                    dialled.connect(place)


def test_two_interfaces_and_the_allow_list() -> None:
    with lan(3, segments=2, ipv6=False) as boards:
        # The first board is on both networks, the others on one each.
        boards[1].interface(up=False, name="eth1")
        boards[2].interface(up=False, name="eth0")
        everywhere = Watched(boards[0], 1)
        left, right = Watched(boards[1], 2, "--interface", "eth0"), Watched(boards[2], 3, "--interface", "eth1")
        with watched(left, right):
            with watched(everywhere):
                # The address on their own network comes first.
                assert left.sees(everywhere).facts["hosts"] == ["10.77.1.1", "10.77.2.1"]
                assert right.sees(everywhere).facts["hosts"] == ["10.77.2.1", "10.77.1.1"]
                everywhere.sees(left, host="10.77.1.2")
                everywhere.sees(right, host="10.77.2.3")
            choosy = Watched(boards[0], 4, "--interface", "eth1")
            with watched(choosy):
                assert right.sees(choosy).facts["hosts"] == ["10.77.2.1"]
                choosy.sees(right)
                events = [*choosy.drain(1.0), *left.drain(0.2)]
                assert not [e for e in events if e.facts.get("peer") in {left.id, choosy.id}]


def test_only_the_addresses_it_listens_on_are_announced() -> None:
    with lan(2, ipv6=False) as boards:
        boards[0].ip("address add 10.77.1.200/24 dev eth0")
        one, two = Watched(boards[0], 1, "--host", "10.77.1.200"), Watched(boards[1], 2)
        with watched(one, two):
            assert two.sees(one).facts["hosts"] == ["10.77.1.200"]


def test_a_new_address_is_announced() -> None:
    with lan(2) as boards:
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            two.sees(one, host="10.77.1.1")
            one.sees(two)
            one.wait_kind("announced")
            boards[0].set_address("10.77.1.99")
            changed_at = time.monotonic()
            two.sees(one, host="10.77.1.99")
            seen_s = time.monotonic() - changed_at
            two.sees(one, host="10.77.1.99", not_host="10.77.1.1")
            assert one.sees(two).facts["hosts"] == ["10.77.1.2", "fd77:1::2"]  # it asked who is there anew
            print(f"new address seen after {seen_s:.2f} s")


def test_an_interface_that_goes_and_comes_back() -> None:
    with lan(2, ipv6=False) as boards:
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            two.sees(one)
            one.wait_kind("announced")
            boards[0].ip("address flush dev eth0")
            text = one.wait_kind("problem").facts["text"]
            assert "--seed" in text
            assert "\n" not in text
            boards[0].set_address("10.77.1.50")
            assert one.wait_kind("problem").facts["text"] == ""
            two.sees(one, host="10.77.1.50")


def test_20000_forged_names() -> None:
    with lan(3, ipv6=False) as boards, forger(boards[2]) as send:
        victim, friend = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(victim, friend):
            victim.sees(friend)
            victim.wait_kind("announced")
            before = victim.rss_bytes()
            for start in range(100, 20_100, 20):
                send(answer(*(claim(n, "10.77.1.3") for n in range(start, start + 20))))
                time.sleep(0.002)  # so that they arrive instead of filling a socket's buffer
            seen = {e.facts["peer"] for e in victim.drain(3.0) if e.kind == "sighting"}
            assert len(seen - {friend.id}) <= 64
            grown = victim.rss_bytes() - before
            assert grown < 32 << 20, grown
            print(f"{len(seen)} sightings, {grown / 2**20:.1f} MiB more")
            # Who was known before stays known, though the sights of new names are used up.
            boards[1].set_address("10.77.1.77")
            victim.sees(friend, host="10.77.1.77")
            assert victim.stop().facts["refused_names"] > 15_000  # the flood did arrive


def test_a_forged_goodbye_changes_nothing() -> None:
    with lan(3, ipv6=False) as boards, forger(boards[2]) as send:
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            one.sees(two)
            two.sees(one)
            one.wait_kind("announced")
            two.wait_kind("announced")
            for _ in range(3):
                send(answer(claim(2, boards[1].address), ttl=0))
                time.sleep(0.3)
            assert "problem" not in {event.kind for event in one.drain(2.0)}
            boards[1].set_address("10.77.1.88")
            one.sees(two, host="10.77.1.88")


def test_records_nobody_should_dial_are_dropped() -> None:
    with lan(2, ipv6=False) as boards, forger(boards[1]) as send:
        one = Watched(boards[0], 1)
        with watched(one):
            one.wait_kind("announced")
            for lie in (
                claim(1, "10.77.1.2"),  # its own id
                claim(2, "10.77.1.1"),  # its own address and port
                claim(3, "10.77.1.2", port=22),
                claim(4, "10.77.1.2", port=0),
                claim(5, "127.0.0.1"),
                claim(6, "224.0.0.1"),
            ):
                send(answer(lie))
            only_a_name = DNSOutgoing(0x8400)
            only_a_name.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, 1, 4500, f"tokenring-x.{SERVICE_TYPE}"), 0)
            send(only_a_name)
            send(answer(claim(7, "10.77.1.2")))
            seen = one.wait_kind("sighting")
            assert seen.facts["peer"] == f"{7:016x}"
            assert not [event for event in one.drain(1.0) if event.kind == "sighting"]


def test_the_port_is_taken_and_then_free() -> None:
    with lan(2, ipv6=False) as boards, boards[0].socket(socket.AF_INET, socket.SOCK_DGRAM) as selfish:
        selfish.bind(("", 5353))
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            text = one.wait_kind("problem").facts["text"]
            assert "UDP port 5353" in text
            assert "avahi: disallow-other-stacks=no" in text
            assert "--seed" in text
            selfish.close()
            assert one.wait_kind("problem").facts["text"] == ""
            one.sees(two)
            two.sees(one)


def test_no_network_at_all_and_no_such_interface() -> None:
    with lan(1, ipv6=False) as boards:
        lost = Watched(boards[0], 1, "--interface", "wlan7")
        boards[0].ip("address flush dev eth0")
        lonely = Watched(boards[0], 2)
        with watched(lost, lonely):
            assert "no interface named wlan7 has an address" in lost.wait_kind("problem").facts["text"]
            assert "no network interface has an address" in lonely.wait_kind("problem").facts["text"]


def test_an_interface_that_is_down_comes_up() -> None:
    with lan(2, ipv6=False) as boards:
        boards[0].interface(up=False)
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            text = one.wait_kind("problem").facts["text"]
            assert "no interface sends multicast (eth0:" in text
            boards[0].interface(up=True)
            one.sees(two)
            two.sees(one)


def test_multicast_that_the_switch_swallows() -> None:
    with lan(2, ipv6=False) as boards:
        boards.block_multicast()
        one, two = Watched(boards[0], 1), Watched(boards[1], 2)
        with watched(one, two):
            one.wait_kind("announced")
            assert {event.kind for event in one.drain(1.0)} == {"start"}
            boards.block_multicast(blocked=False)
            one.sees(two)
            two.sees(one)


def test_two_boards_with_one_id() -> None:
    with lan(3, ipv6=False) as boards:
        original = Watched(boards[0], 1)
        with watched(original):
            original.wait_kind("announced")
            clone, other = Watched(boards[1], 1), Watched(boards[2], 2)
            with watched(other):
                name = clone.wait_kind("announced").facts["name"]
                assert name.startswith(f"tokenring-{clone.id}-")
                other.sees(clone, host=boards[0].address)
                other.sees(clone, host=boards[1].address)
                assert "another machine announces this board's id" in clone.close()


@pytest.mark.skipif(which("avahi-daemon") is None, reason="needs avahi-daemon")
@pytest.mark.parametrize("shares", [True, False])
def test_avahi_runs_on_the_same_machine(shares: bool, tmp_path: Path) -> None:
    configuration = tmp_path / "avahi.conf"
    configuration.write_text(
        "[server]\nenable-dbus=no\nuse-ipv6=no\n" + f"disallow-other-stacks={'no' if shares else 'yes'}\n"
    )
    pids = tmp_path / "run"
    pids.mkdir()
    with lan(2, ipv6=False) as boards:
        Path("/run/avahi-daemon").mkdir(exist_ok=True)
        boards[0].mount(pids, "/run/avahi-daemon")
        arguments = ["avahi-daemon", "-f", configuration, "--no-chroot", "--no-drop-root", "--no-rlimits"]
        with running(boards[0].popen(arguments, stderr=subprocess.DEVNULL)):
            deadline = time.monotonic() + PATIENCE_S
            while ":14E9" not in boards[0].run("cat", "/proc/net/udp").stdout:  # port 5353
                assert time.monotonic() < deadline, "avahi did not start"
                time.sleep(0.05)
            one, two = Watched(boards[0], 1), Watched(boards[1], 2)
            with watched(one, two):
                if shares:
                    one.sees(two)
                    two.sees(one)
                else:
                    assert "avahi: disallow-other-stacks=no" in one.wait_kind("problem").facts["text"]
