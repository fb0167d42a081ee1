"""Looks at the machine for `peerctl doctor`: interfaces, multicast, ports, avahi, memory, processor, libraries.

Works without a daemon. Every probe has its own short deadline, and what cannot be seen is left out, never guessed.
"""

import contextlib
import fcntl
import ipaddress
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from peer import findings
from peer.cluster_token import read_token
from peer.errors import ConfigError
from peer.findings import Finding, Link, Memory, Port
from peer.interfaces import Interface, Network, interfaces
from peer.multicast import Probe, probe_4, probe_6
from peer.sensors import read_sensors

_IMPORT_PATIENCE_S = 4.0
_MULTICAST_PATIENCE_S = 4.0
_MULTICAST_FLAG, _UP_FLAG, _LOOPBACK_FLAG = 0x1000, 0x1, 0x8  # linux/if.h
_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_NO_LIMIT = 1 << 60  # what version 1 of memory cgroups says for "none"
_LISTEN = "0A"  # net/tcp_states.h
_MAX_READ = 1 << 20


def examine(
    *,
    host: str,
    port: int,
    daemon_pid: int | None,
    model_bytes: int | None,
    boards: Collection[str],
    allowed: Collection[str],
    token_place: Path | None,
) -> list[Finding]:
    """Everything about this machine, within five seconds; `boards` are addresses of living boards."""
    library: list[str | None] = []
    loading = threading.Thread(target=lambda: library.append(_library_problem()), daemon=True)
    loading.start()
    found = [findings.link(link, others) for link, others in links(allowed, boards)]
    found += findings.ports(ports(host, port, daemon_pid), daemon=daemon_pid is not None)
    found.append(_avahi())
    if token_place is not None:
        found.append(_token_file(token_place))
    found.append(findings.clock(year=time.gmtime().tm_year))
    seen = memory(Path("/"), daemon_pid)
    if seen is not None:
        found += findings.memory(seen, model_bytes=model_bytes, loaded=daemon_pid is not None)
    found.append(
        findings.cpu(machine=platform.machine(), features=_cpu_features(Path("/")), cores=len(os.sched_getaffinity(0)))
    )
    hottest, throttled = heat(Path("/"))
    found.append(findings.heat(hottest_c=hottest, throttled=throttled))
    found.append(findings.limits(files=_open_files(daemon_pid)))
    loading.join(_IMPORT_PATIENCE_S + 1)
    found.append(findings.compute_library(problem=library[0] if library else "no answer in time"))
    return found


def links(allowed: Collection[str], boards: Collection[str]) -> list[tuple[Link, Collection[str]]]:
    """Every interface but loopback, tested over each family of its addresses, and which of `boards` are beside it."""
    known = {interface.name: interface for interface in interfaces()}
    places = []
    for _, name in socket.if_nameindex():
        flags = _flags(name)
        hidden = name not in known and not flags & _UP_FLAG  # a device that nobody set up
        if not flags & _LOOPBACK_FLAG and not hidden and (not allowed or name in allowed):
            places.append((name, flags))
    outcomes: dict[tuple[str, int], Probe] = {}
    threads = []
    for name, flags in places:
        if name in known and flags & _UP_FLAG and flags & _MULTICAST_FLAG:
            for version, test in _tests(known[name]):

                def look(key: tuple[str, int] = (name, version), test: Callable[[], Probe] = test) -> None:
                    outcomes[key] = test()

                threads.append(threading.Thread(target=look, daemon=True))
    for thread in threads:
        thread.start()
    until = time.monotonic() + _MULTICAST_PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    found: list[tuple[Link, Collection[str]]] = []
    for name, flags in places:
        networks = known[name].addresses if name in known else ()
        for version in _versions(networks):
            outcome = outcomes.get((name, version), Probe(problem="no answer in time" if networks else None))
            here = [network for network in networks if network.version == version]
            addresses = [str(network.ip) for network in here]
            link = Link(
                name=name,
                up=bool(flags & _UP_FLAG),
                multicast=bool(flags & _MULTICAST_FLAG),
                addresses=addresses,
                version=version,
                problem=outcome.problem,
                returned=outcome.returned,
                answered=outcome.answered,
                heard=outcome.heard,
            )
            found.append((link, [board for board in boards if _within(board, here) and board not in addresses]))
            if not link.up or not link.multicast:
                break  # says the same of both families
    return found


def _versions(networks: Collection[Network]) -> list[int]:
    return sorted({int(network.version) for network in networks}) or [4]


def _tests(interface: Interface) -> Iterator[tuple[int, Callable[[], Probe]]]:
    """A test of multicast for each family of addresses that an interface has, with the family's version."""
    if interface.ipv4:
        yield 4, partial(probe_4, interface.ipv4[0])
    if interface.has_ipv6:
        own = {str(address.ip) for address in interface.addresses if address.version == 6}
        yield 6, partial(probe_6, interface.index, own)


def _flags(name: str) -> int:
    """The interface's flags (netdevice(7)); 0 where it has just gone. Not from /sys, which may show another network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", name.encode()[:15], 0)
        try:
            return int(struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1])
        except OSError:
            return 0


def _within(host: str, networks: Collection[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address.version == network.version and address in network.network for network in networks)


def ports(host: str, first: int, daemon_pid: int | None) -> list[Port]:
    """The door and the three ports above it: free, held by the daemon, or held by whom."""
    found = []
    for number, use in enumerate(("door", "control", "data", "models"), start=first):
        if not 0 < number < 65536:
            continue
        inodes = _listeners(number)
        owner = _owner(inodes)
        ours = daemon_pid is not None and owner is not None and daemon_pid in (owner[0], _parent(owner[0]))
        name = f"{owner[1]} ({owner[0]})" if owner else None
        # A daemon of another user cannot be named; that it listens is all there is to see.
        ours = ours or (daemon_pid is not None and owner is None and bool(inodes))
        found.append(Port(number=number, use=use, free=_can_bind(host, number), owner=name, ours=ours))
    return found


def _parent(pid: int) -> int | None:
    """Of a process: the compute's is the daemon."""
    lines = _lines(Path(f"/proc/{pid}/stat"))
    fields = lines[0].rpartition(")")[2].split() if lines else []
    return int(fields[1]) if len(fields) > 1 else None


def _can_bind(host: str, port: int) -> bool:
    wildcard = host in ("", "*", "0.0.0.0", "::")
    family = socket.AF_INET6 if ":" in host or host in ("", "*") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(("" if wildcard else host, port))
    except OSError as problem:
        return problem.errno not in (13, 98)  # EACCES, EADDRINUSE; an address that is not there takes no port
    return True


def _listeners(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port of any address."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _lines(Path(table))[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and fields[1].rpartition(":")[2] == f"{port:04X}":
                found.add(fields[9])
    return found


def _owner(inodes: Collection[str]) -> tuple[int, str] | None:
    """Process id and name of who holds one of the sockets, as far as this user may look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir() if wanted else ():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (folder / "fd").iterdir():
                if os.readlink(descriptor) in wanted:
                    return int(folder.name), (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return None


def _avahi() -> Finding:
    running = False
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _text(folder / "comm").strip() == "avahi-daemon":
            running = True
            break
    settings = [line.partition("#")[0].replace(" ", "") for line in _lines(Path("/etc/avahi/avahi-daemon.conf"))]
    return findings.avahi(running=running, disallows_others="disallow-other-stacks=yes" in settings)


def _token_file(place: Path) -> Finding:
    try:
        if not place.exists():
            return findings.token_file(place=None, problem=None)
        read_token(place)
    except (ConfigError, OSError) as problem:
        return findings.token_file(place=str(place), problem=str(problem))
    return findings.token_file(place=str(place), problem=None)


def memory(root: Path, pid: int | None) -> Memory | None:
    """What is free, and what the daemon's memory cgroup (or this process's) allows; None where /proc is silent."""
    available = None
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    if available is None:
        return None
    limit, used, version = None, None, None
    for line in _lines(root / f"proc/{pid or 'self'}/cgroup"):
        _, _, names = line.partition(":")
        controllers, _, path = names.partition(":")
        if not controllers and "memory" in _text(root / "sys/fs/cgroup/cgroup.controllers").split():
            folder, version = root / f"sys/fs/cgroup{path}", 2
            limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        elif "memory" in controllers.split(","):
            folder, version = root / f"sys/fs/cgroup/memory{path}", 1
            limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    return Memory(available=available, limit=limit if limit and limit < _NO_LIMIT else None, used=used, cgroup=version)


def _cpu_features(root: Path) -> Collection[str]:
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return value.split()
    return ()


def heat(root: Path) -> tuple[float | None, list[str]]:
    """The hottest sensor in °C, and the cooling devices and cores that are held back."""
    seen = read_sensors(root)
    return max(seen.temperatures_c.values(), default=None), seen.throttled


def _open_files(pid: int | None) -> int:
    for line in _lines(Path(f"/proc/{pid}/limits")) if pid else ():
        if line.startswith("Max open files"):
            value = line.split()[3]
            return int(value) if value.isdigit() else 1 << 20
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _library_problem() -> str | None:
    """Load the library in another process: it may end that one by an instruction that this processor lacks."""
    environment: Mapping[str, str] = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import onnxruntime"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_IMPORT_PATIENCE_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_IMPORT_PATIENCE_S:g} s"
    except OSError as problem:
        return str(problem)
    if done.returncode < 0:
        return f"it ended with signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_READ).decode("utf-8", "replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _number(path: Path, *, base: int = 10) -> int | None:
    """The number in a file; None when there is none (version 2 of memory cgroups writes "max")."""
    try:
        return int(_text(path).strip(), base)
    except ValueError:
        return None
