"""The network interfaces of this machine and their addresses, and how long it slept: the only module that asks."""

import ipaddress
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass

import ifaddr

_MDNS_IPV4 = ("224.0.0.251", 5353)
_MDNS_IPV6 = "ff02::fb"

Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface with at least one address; `index` is the kernel's, a new one for each time it appears."""

    name: str
    index: int
    addresses: tuple[Network, ...]  # with the length of their network's prefix, IPv4 first

    @property
    def ipv4(self) -> tuple[str, ...]:
        return tuple(str(a.ip) for a in self.addresses if isinstance(a, ipaddress.IPv4Interface))

    @property
    def has_ipv6(self) -> bool:
        return any(isinstance(a, ipaddress.IPv6Interface) for a in self.addresses)

    @property
    def announced(self) -> tuple[str, ...]:
        """The addresses that others should dial: link-local ones only where there is nothing else."""
        routed = [a for a in self.addresses if isinstance(a, ipaddress.IPv4Interface) or not a.is_link_local]
        return tuple(str(a.ip) for a in routed or self.addresses)


def interfaces(allowed: Collection[str] = ()) -> tuple[Interface, ...]:
    """Every interface but loopback that has an address, in order of index; only those named in `allowed` if any are."""
    found = []
    for adapter in ifaddr.get_adapters():
        if adapter.index is None or (allowed and adapter.name not in allowed):
            continue
        addresses = tuple(sorted((_address(ip) for ip in adapter.ips), key=lambda a: (a.version, int(a.ip))))
        if addresses and not any(address.is_loopback for address in addresses):
            found.append(Interface(name=adapter.name, index=adapter.index, addresses=addresses))
    return tuple(sorted(found, key=lambda interface: interface.index))


def multicast_problem(interface: Interface) -> str | None:
    """Why mDNS cannot be sent through the interface, in the kernel's words; None when it can. Sends nothing."""
    problem = None
    for family in (socket.AF_INET, socket.AF_INET6):
        if not (interface.ipv4 if family == socket.AF_INET else interface.has_ipv6):
            continue
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                # Connecting a datagram socket looks the route up and sends no packet.
                if family == socket.AF_INET:
                    source = socket.inet_aton(interface.ipv4[0])
                    probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, source)
                    probe.connect(_MDNS_IPV4)
                else:
                    probe.connect((_MDNS_IPV6, 5353, 0, interface.index))
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
        else:
            return None
    return problem or "no address"


def slept_s() -> float:
    """Seconds that this machine was suspended since it started, give or take the time between two clock readings."""
    # CLOCK_MONOTONIC stands still while the machine sleeps, CLOCK_BOOTTIME does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _address(ip: ifaddr.IP) -> Network:
    if isinstance(ip.ip, tuple):
        return ipaddress.IPv6Interface(f"{ip.ip[0].partition('%')[0]}/{ip.network_prefix}")
    return ipaddress.IPv4Interface(f"{ip.ip}/{ip.network_prefix}")
