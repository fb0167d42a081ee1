"""Does multicast pass on one interface? Two questions to the network, answered within two seconds by the stdlib alone.

First a packet to a group of our own that only this machine listens to: the kernel loops it back, unless a firewall, a
missing route or the interface itself prevents it. Then an mDNS question for other boards (RFC 6762): an answer by
unicast (RFC 6762, section 6.7) shows that our multicast reaches others, one through the group that theirs reaches us.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

_GROUP_4, _GROUP_6 = (
    "239.255.77.77",
    "ff12::7474:7777",
)  # site-local and link-local scope, nobody else's (RFC 2365, 4291)
_MDNS_4, _MDNS_6, _MDNS_PORT = "224.0.0.251", "ff02::fb", 5353
_RETURN_PATIENCE_S = 0.5
_ANSWER_PATIENCE_S = 1.2
_POLL_S = 0.05
_PTR, _IN = 12, 1
_IFINDEX = struct.Struct("@I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What became of the packets; see `peer.findings.Link`."""

    problem: str | None = None
    returned: bool = False
    answered: Collection[str] = ()
    heard: Collection[str] = ()


def probe_4(address: str) -> Probe:
    """Test the interface that has this IPv4 address."""
    return _probe(lambda: _returns_4(address), lambda: _ask(_ipv4_ears(address), (_MDNS_4, _MDNS_PORT), {address}))


def probe_6(index: int, own: Collection[str]) -> Probe:
    """Test the interface of that kernel index over IPv6; `own` are its IPv6 addresses."""
    group = (_MDNS_6, _MDNS_PORT, 0, index)
    return _probe(lambda: _returns_6(index), lambda: _ask(_ipv6_ears(index), group, own))


def _probe(returns: Callable[[], bool], ask: Callable[[], tuple[set[str], set[str]]]) -> Probe:
    try:
        if not returns():
            return Probe()
        answered, heard = ask()
    except OSError as problem:
        return Probe(problem=(problem.strerror or str(problem)).lower())
    return Probe(returned=True, answered=answered, heard=heard)


def _returns_4(address: str) -> bool:
    with _datagrams(socket.AF_INET) as listener, _datagrams(socket.AF_INET) as sender:
        listener.bind(("", 0))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(_GROUP_4, address))
        _sends_from(sender, address)
        return _comes_back(sender, listener, (_GROUP_4, listener.getsockname()[1]))


def _returns_6(index: int) -> bool:
    with _datagrams(socket.AF_INET6) as listener, _datagrams(socket.AF_INET6) as sender:
        listener.bind(("", 0))
        group = socket.inet_pton(socket.AF_INET6, _GROUP_6) + _IFINDEX.pack(index)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        return _comes_back(sender, listener, (_GROUP_6, listener.getsockname()[1], 0, index))


def _datagrams(family: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.settimeout(_POLL_S)
    return opened


def _membership(group: str, address: str) -> bytes:
    return socket.inet_aton(group) + socket.inet_aton(address)


def _sends_from(sender: socket.socket, address: str) -> None:
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)


def _comes_back(
    sender: socket.socket, listener: socket.socket, group: tuple[str, int] | tuple[str, int, int, int]
) -> bool:
    """Whether a packet to the group arrives there; sent again and again, as one may be lost."""
    word = os.urandom(16)
    until = time.monotonic() + _RETURN_PATIENCE_S
    while time.monotonic() < until:
        sender.sendto(word, group)
        with contextlib.suppress(TimeoutError):
            if listener.recv(64) == word:
                return True
    return False


def _ipv4_ears(address: str) -> tuple[socket.socket, socket.socket | None]:
    """A socket with a port of its own, and one that shares the mDNS port (None when nobody shares it)."""
    alone, group = _datagrams(socket.AF_INET), _datagrams(socket.AF_INET)
    alone.bind((address, 0))
    _sends_from(alone, address)
    try:
        _share(group)
        group.bind((_MDNS_4, _MDNS_PORT))
        group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(_MDNS_4, address))
        _sends_from(group, address)
    except OSError:
        group.close()
        return alone, None
    return alone, group


def _ipv6_ears(index: int) -> tuple[socket.socket, socket.socket | None]:
    """As for IPv4."""
    alone, group = _datagrams(socket.AF_INET6), _datagrams(socket.AF_INET6)
    for sender in (alone, group):
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    alone.bind(("::", 0))
    try:
        _share(group)
        group.bind((_MDNS_6, _MDNS_PORT, 0, index))
        membership = socket.inet_pton(socket.AF_INET6, _MDNS_6) + _IFINDEX.pack(index)
        group.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    except OSError:
        group.close()
        return alone, None
    return alone, group


def _share(listener: socket.socket) -> None:
    """Let others have the same port."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _ask(
    ears: tuple[socket.socket, socket.socket | None],
    place: tuple[str, int] | tuple[str, int, int, int],
    own: Collection[str],
) -> tuple[set[str], set[str]]:
    """Ask the network for boards; addresses of other machines: answered to us alone, answered to the group."""
    alone, group = ears
    answered: set[str] = set()
    heard: set[str] = set()
    with contextlib.ExitStack() as opened:
        listeners = [(opened.enter_context(alone), answered)]  # from a port of its own: answers by unicast
        if group is not None:
            listeners.append((opened.enter_context(group), heard))
        question = _question("_tokenring._tcp.local.")
        for listener, _ in listeners:
            listener.sendto(question, place)
        until = time.monotonic() + _ANSWER_PATIENCE_S
        while time.monotonic() < until:
            for listener, found in listeners:
                with contextlib.suppress(TimeoutError):
                    data, source = listener.recvfrom(9000)
                    host = str(source[0]).partition("%")[0]
                    if source[1] == _MDNS_PORT and _is_answer(data) and host not in own:
                        found.add(host)
    return answered, heard


def _question(name: str) -> bytes:
    """A DNS message with one question of type PTR (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split("."))
    return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", _PTR, _IN)


def _is_answer(data: bytes) -> bool:
    """A DNS response that names our service; nothing more of it is read."""
    return len(data) > 12 and bool(data[2] & 0x80) and b"_tokenring" in data
