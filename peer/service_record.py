"""What a board says of itself in mDNS, as bytes: the instance name and the TXT record (RFC 6763 section 6).

Everybody on the LAN can read it and anybody can forge it. It holds no secret, and nothing in it is believed: a
record only tells where to knock. Pure: no socket, no clock.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peer.errors import BadFrame
from peer.protocol.types import PEER_ID_BYTES, PeerId

SERVICE_TYPE = "_tokenring._tcp.local."
MAX_TXT_BYTES = 256
MAX_VALUE_BYTES = 64
MAX_HOSTS = 8
# The system's services live below; a forged record must not make a board knock at them.
LOWEST_PORT = 1024
_TAG_BYTES = 8
_ID = re.compile(rf"[0-9a-f]{{{2 * PEER_ID_BYTES}}}")
_TAG = re.compile(rf"[0-9a-f]{{{2 * _TAG_BYTES}}}")
_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
# The suffix tells two machines apart that claim the same id.
_INSTANCE = re.compile(rf"tokenring-(?P<id>{_ID.pattern})(-[0-9a-f]{{4}})?\.{re.escape(SERVICE_TYPE)}")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """The TXT record: which board of which cluster listens where."""

    peer: PeerId
    tag: str  # 16 hexadecimal digits, a hash of the cluster token that tells clusters apart and nothing else
    version: int  # protocol version, 1..65535
    port: int  # of the door, 1024..65535


def instance_name(peer: PeerId, suffix: str = "") -> str:
    """The full name of a board's service: it holds the id and never the host name, which several boards may share.

    `suffix` is 4 hexadecimal digits where somebody else answers to the plain name.
    """
    return f"tokenring-{peer}{'-' if suffix else ''}{suffix}.{SERVICE_TYPE}"


def peer_of_instance(name: str) -> PeerId | None:
    """The id in a service's name (DNS names ignore case), or None where the name is not one of ours."""
    match = _INSTANCE.fullmatch(name.lower())
    return PeerId(match["id"]) if match else None


def build_txt(record: ServiceRecord) -> bytes:
    """The TXT record's bytes: strings `key=value`, each after its length."""
    pairs = (f"v={record.version}", f"id={record.peer}", f"tag={record.tag}", f"p={record.port}")
    return b"".join(bytes([len(pair)]) + pair.encode("ascii") for pair in pairs)


def parse_txt(text: bytes) -> ServiceRecord:
    """Read a TXT record; BadFrame when it is too long, malformed or lacks a key. Unknown keys are ignored."""
    values = _strings(text)
    version, port = _number(values, "v"), _number(values, "p")
    if port < LOWEST_PORT:
        raise BadFrame(f"the service record names the reserved port {port}")
    peer, tag = _pattern(values, "id", _ID), _pattern(values, "tag", _TAG)
    return ServiceRecord(peer=PeerId(peer), tag=tag, version=version, port=port)


def usable_hosts(
    hosts: Iterable[str], near: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> tuple[str, ...]:
    """The addresses worth dialling, at most 8: those in the networks `near` first, then IPv4, IPv6, link-local IPv6.

    Left out are loopback, multicast, broadcast and unspecified addresses, what is none at all, and link-local IPv6
    without its interface (`fe80::1%2` is complete).
    """
    found: dict[IPAddress, str] = {}
    for host in hosts:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if _diallable(address):
            found[address] = str(address)
    order = sorted(found, key=lambda a: (not any(a in network for network in near), a.version, a.is_link_local, int(a)))
    return tuple(found[address] for address in order[:MAX_HOSTS])


def _diallable(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_link_local != (address.scope_id is not None):
            return False
    elif address == ipaddress.IPv4Address("255.255.255.255") or address.packed[0] == 0:
        return False
    return not (address.is_loopback or address.is_multicast or address.is_unspecified)


def _strings(text: bytes) -> dict[str, str]:
    if len(text) > MAX_TXT_BYTES:
        raise BadFrame(f"the service record has {len(text)} bytes")
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        end = at + 1 + text[at]
        if end > len(text):
            raise BadFrame("the service record is cut short")
        key, separator, value = text[at + 1 : end].partition(b"=")
        at = end
        if len(value) > MAX_VALUE_BYTES:
            raise BadFrame("a value of the service record is too long")
        if not separator:
            continue
        try:
            # The first of several equal keys counts, whatever its case (RFC 6763 section 6.4).
            values.setdefault(key.decode("ascii").lower(), value.decode("ascii"))
        except UnicodeDecodeError:
            continue  # a newer release's binary value; where one of ours is meant, the key is missing now
    return values


def _pattern(values: dict[str, str], key: str, pattern: re.Pattern[str]) -> str:
    value = values.get(key, "")
    if not pattern.fullmatch(value):
        raise BadFrame(f"the service record has no valid {key!r}")
    return value


def _number(values: dict[str, str], key: str) -> int:
    number = int(_pattern(values, key, _NUMBER))
    if number > 0xFFFF:
        raise BadFrame(f"the service record has no valid {key!r}")
    return number
