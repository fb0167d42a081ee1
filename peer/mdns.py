"""Discovery by mDNS: announces this board on the LAN and collects what others announce. The only zeroconf import.

It never tells that a board went away: one forged packet can say so, and a power cut never does. It does without
zeroconf's ServiceBrowser, whose list of names to refresh grows with every name that anybody invents.
"""

import asyncio
import errno
import logging
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

# zeroconf offers the three DNS classes to its users without listing them in `__all__`.
from zeroconf import (  # type: ignore[attr-defined]
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    Error,
    IPVersion,
    NonUniqueNameException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from peer.discovery import Announcement, DiscoveryUnavailable, Sighting
from peer.errors import BadFrame
from peer.interfaces import Interface, interfaces, multicast_problem, slept_s
from peer.service_record import (
    MAX_HOSTS,
    SERVICE_TYPE,
    ServiceRecord,
    build_txt,
    instance_name,
    parse_txt,
    peer_of_instance,
    usable_hosts,
)
from peer.sighting_gate import SightingGate

_log = logging.getLogger(__name__)
_PORT = 5353
_QUERY_FLAGS, _TYPE_PTR, _CLASS_IN = 0, 12, 1
_QUEUE = 256
_RESOLVING = 16
_RESOLVE_MS = 3000
# A record that a newer one replaces stays in the cache for a second more (RFC 6762 section 10.2).
_FLUSHED_S = 1.5
_CLASHES = 3
_NO_INTERFACE = "connect a network, or name another board with --seed"
_PORT_TAKEN = (
    f"another program keeps UDP port {_PORT} to itself; let it share the port (avahi: disallow-other-stacks=no), "
    "or name another board with --seed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MdnsPace:
    """How often things happen, seconds."""

    look_s: float = 2.0  # between two looks at the addresses of this machine
    retry_s: float = 5.0  # between two attempts while mDNS is unavailable
    first_query_s: float = 1.0  # after the first question; the time doubles with each
    last_query_s: float = 60.0
    sleep_s: float = 1.0  # a longer suspension asks everybody anew


class MdnsDiscovery:
    """A `Discovery` on the interfaces named in `allowed`, or on all of them. Opens its sockets in `run`."""

    def __init__(
        self,
        announcement: Announcement,
        *,
        allowed: Collection[str] = (),
        pace: MdnsPace | None = None,
        look: Callable[[Collection[str]], tuple[Interface, ...]] = interfaces,
        slept: Callable[[], float] = slept_s,
    ) -> None:
        self._announcement = announcement
        self._allowed = frozenset(allowed)
        self._pace = pace or MdnsPace()
        self._look = look
        self._slept = slept
        self._gate = SightingGate()
        self._queue: asyncio.Queue[Sighting] = asyncio.Queue(_QUEUE)
        self._problem: DiscoveryUnavailable | None = None
        self._session: _Session | None = None
        # zeroconf logs what its users cannot change, tracebacks included; this module says what matters.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)

    @property
    def problem(self) -> DiscoveryUnavailable | None:
        return self._problem

    @property
    def announced_as(self) -> str | None:
        return self._session.announced_as if self._session else None

    @property
    def refused_names(self) -> int:
        """How many names were refused because too many new ones came at once."""
        return self._gate.refused_names

    def announce(self, announcement: Announcement) -> None:
        self._announcement = announcement
        if self._session:
            self._session.announce(announcement)

    async def sightings(self) -> AsyncIterator[Sighting]:
        while True:
            yield await self._queue.get()

    async def run(self) -> None:
        while True:
            try:
                await self._serve()
            except DiscoveryUnavailable as problem:
                level = logging.DEBUG if self._problem else logging.WARNING
                self._problem = problem
                _log.log(level, "boards on this LAN are not looked for: %s", problem)
                await asyncio.sleep(self._pace.retry_s)

    async def _serve(self) -> None:
        """Announce and look until the sockets have to be opened anew."""
        seen = self._look(self._allowed)
        async with _opened(_usable(seen, self._allowed)) as zeroconf:
            self._session = _Session(zeroconf, self._announcement, self._gate, self._deliver, self._pace)
            self._session.interfaces = seen
            if self._problem:
                _log.info("boards on this LAN are looked for again")
                self._problem = None
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = self._session.start(tasks)
                    await self._watch(self._session, zeroconf)
                    for task in running:
                        task.cancel()
            except ExceptionGroup as group:
                raise _unavailable(group) from group
            finally:
                self._session.stop()
                self._session = None

    async def _watch(self, session: "_Session", zeroconf: AsyncZeroconf) -> None:
        """Follow addresses and suspensions; ends when an interface went and came back, or none is left."""
        slept = self._slept()
        while True:
            await asyncio.sleep(self._pace.look_s)
            before, slept_before = session.interfaces, slept
            session.interfaces, slept = self._look(self._allowed), self._slept()
            if session.interfaces != before:
                index = {interface.name: interface.index for interface in before}
                if any(index.get(now.name, now.index) != now.index for now in session.interfaces):
                    # Under the same name and address it is another interface, and its multicast groups are gone.
                    return
                choice = _choice(_usable(session.interfaces, self._allowed))
                await zeroconf.async_update_interfaces(choice, IPVersion.All)
                session.ask_again()
            elif len(zeroconf.zeroconf.engine.senders) < len(_choice(session.interfaces)):
                # An IPv6 address cannot be bound while the kernel looks for a duplicate of it.
                await zeroconf.async_update_interfaces(_choice(session.interfaces), IPVersion.All)
            if slept - slept_before > self._pace.sleep_s:
                session.ask_again()

    def _deliver(self, sighting: Sighting) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(sighting)


class _Session(RecordUpdateListener):
    """What happens between opening the sockets and closing them."""

    def __init__(
        self,
        zeroconf: AsyncZeroconf,
        announcement: Announcement,
        gate: SightingGate,
        deliver: Callable[[Sighting], None],
        pace: MdnsPace,
    ) -> None:
        self.interfaces: tuple[Interface, ...] = ()
        self.announced_as: str | None = None
        self._zeroconf = zeroconf
        self._zc: Zeroconf = zeroconf.zeroconf
        self._announcement = announcement
        self._gate = gate
        self._deliver = deliver
        self._pace = pace
        self._changed = asyncio.Event()
        self._ask = asyncio.Event()
        self._pointers: list[DNSPointer] = []
        self._touched: set[str] = set()
        self._resolving: set[str] = set()
        self._looked: set[str] = set()  # names to look at once more
        self._look_again: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        self._tasks = tasks
        self._zc.async_add_listener(self, None)
        return [
            tasks.create_task(self._register(), name="mdns-announce"),
            tasks.create_task(self._query(), name="mdns-query"),
        ]

    def stop(self) -> None:
        self._tasks = None
        if self._look_again:
            self._look_again.cancel()
        self._zc.async_remove_listener(self)

    def announce(self, announcement: Announcement) -> None:
        self._announcement = announcement
        self._changed.set()

    def ask_again(self) -> None:
        """This machine moved or slept: say where it is, and ask where everybody is."""
        self._gate.repeat()
        self._changed.set()
        self._ask.set()

    # Announcing

    async def _register(self) -> None:
        """Announce this board, and again whenever what there is to say changes."""
        name = await self._claim_name()
        self.announced_as = name
        while True:
            await self._changed.wait()
            self._changed.clear()
            await (await self._zeroconf.async_update_service(self._info(name)))

    async def _claim_name(self) -> str:
        """Probe for a free name (RFC 6762 section 8.1) and take it."""
        clashes = 0
        while True:
            # The plain name first: only a copied state folder, or somebody hostile, can hold it.
            name = instance_name(self._announcement.peer, secrets.token_hex(2) if clashes else "")
            try:
                self._changed.clear()
                announced = await self._zeroconf.async_register_service(self._info(name))
            except NonUniqueNameException:
                clashes += 1
                level = logging.WARNING if clashes == 1 else logging.DEBUG
                _log.log(level, "another machine announces this board's id; was its state folder or card copied?")
                if clashes % _CLASHES == 0:
                    await asyncio.sleep(self._pace.last_query_s)
            else:
                await announced
                return name

    def _info(self, name: str) -> ServiceInfo:
        said = self._announcement
        record = ServiceRecord(peer=said.peer, tag=said.tag, version=said.version, port=said.port)
        here = [address for interface in self.interfaces for address in interface.announced]
        chosen = [address for address in here if address in said.hosts] if said.hosts else here
        return ServiceInfo(
            SERVICE_TYPE,
            name,
            port=said.port,
            properties=build_txt(record),
            parsed_addresses=chosen[:MAX_HOSTS],
            server=name,
        )

    # Looking

    async def _query(self) -> None:
        """Ask who is there: soon and often at first, seldom later (RFC 6762 section 5.2)."""
        await asyncio.sleep(random.uniform(0.02, 0.12))  # so that boards powered on together do not ask in step
        pause, everybody = self._pace.first_query_s, True
        while True:
            self._send_query(everybody=everybody)
            try:
                async with asyncio.timeout(pause):
                    await self._ask.wait()
            except TimeoutError:
                pause, everybody = min(2 * pause, self._pace.last_query_s), False
            else:
                self._ask.clear()
                pause, everybody = self._pace.first_query_s, True

    def _send_query(self, *, everybody: bool) -> None:
        """Ask with multicast answers: a unicast one reaches only one of the programs that share the port."""
        out = DNSOutgoing(_QUERY_FLAGS)
        out.add_question(DNSQuestion(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN))
        now = current_time_millis()
        if not everybody:
            for known in self._zc.cache.get_all_by_details(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN):
                if not known.is_stale(now):
                    out.add_answer_at_time(known, now)
        self._zc.async_send(out)

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """zeroconf read a packet: note the names of our service in it. Called before the cache knows the records."""
        for update in records:
            record = update.new
            if record.is_expired(now):
                continue  # a goodbye, which anybody can forge
            if isinstance(record, DNSPointer):
                if record.key == SERVICE_TYPE:
                    self._pointers.append(record)
            elif self._gate.knows(record.key):
                self._touched.add(record.key)

    def async_update_records_complete(self) -> None:
        """The packet's records are in the cache now: look at the names noted."""
        now = time.monotonic()
        for pointer in self._pointers:
            name = pointer.alias.lower()
            peer = peer_of_instance(name)
            if peer == self._announcement.peer:
                continue
            if peer is not None and self._gate.admit_name(name, now):
                self._touched.add(name)
            else:
                self._forget(pointer)
        self._pointers.clear()
        touched, self._touched = self._touched, set()
        for name in touched:
            self._see(name, now)
        self._looked |= touched
        if self._looked and self._look_again is None:
            self._look_again = asyncio.get_running_loop().call_later(_FLUSHED_S, self._see_flushed)

    def _see_flushed(self) -> None:
        """What was replaced is gone now: an address that a board gave up is no longer among its hosts."""
        self._look_again = None
        looked, self._looked = self._looked, set()
        now = time.monotonic()
        for name in looked:
            self._see(name, now)

    def _forget(self, pointer: DNSPointer) -> None:
        """Drop a refused name from zeroconf's cache, so that it fills no memory and no list of known answers."""
        cache = self._zc.cache
        gone = [pointer, *cache.entries_with_name(pointer.alias)]
        cache.async_remove_records([record for record in gone if cache.get(record) is not None])

    def _see(self, name: str, now: float) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if info.load_from_cache(self._zc):
            self._report(name, info, now)
        elif self._tasks and len(self._resolving) < _RESOLVING and self._gate.may_ask(name, now):
            self._resolving.add(name)
            self._tasks.create_task(self._resolve(name, info), name=f"mdns-resolve-{name[:32]}")

    async def _resolve(self, name: str, info: AsyncServiceInfo) -> None:
        """Ask for what is missing of a name."""
        try:
            if await info.async_request(self._zc, _RESOLVE_MS):
                self._report(name, info, time.monotonic())
        finally:
            self._resolving.discard(name)

    def _report(self, name: str, info: ServiceInfo, now: float) -> None:
        try:
            record = parse_txt(info.text)
        except BadFrame as problem:
            _log.debug("%s: %s", name, problem)
            return
        if record.peer != peer_of_instance(name) or record.port != info.port:
            _log.debug("%s: its records contradict each other", name)
            return
        near = [address.network for interface in self.interfaces for address in interface.addresses]
        hosts = usable_hosts(info.parsed_scoped_addresses(), near)
        if record.port == self._announcement.port:
            # Bridges of containers have the same address on every machine: dialling it would reach this board.
            own = {str(address.ip) for interface in self.interfaces for address in interface.addresses}
            hosts = tuple(host for host in hosts if host.partition("%")[0] not in own)
        if not hosts:
            return
        sighting = Sighting(peer=record.peer, tag=record.tag, version=record.version, hosts=hosts, port=record.port)
        if self._gate.admit(name, sighting, now):
            self._deliver(sighting)


def _unavailable(group: ExceptionGroup[Exception]) -> Exception:
    """The one problem of sockets or zeroconf in a group of tasks, as DiscoveryUnavailable; others are the group's."""
    known, others = group.split((OSError, Error, DiscoveryUnavailable))
    if known is None or others is not None:
        return group
    problem: BaseException = known
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    if isinstance(problem, DiscoveryUnavailable):
        return problem
    return DiscoveryUnavailable(f"mDNS failed ({problem or type(problem).__name__}); it is tried again")


def _usable(seen: tuple[Interface, ...], allowed: Collection[str]) -> tuple[Interface, ...]:
    """The interfaces through which mDNS can be sent; DiscoveryUnavailable when there is none."""
    if not seen:
        named = f"no interface named {', '.join(sorted(allowed))}" if allowed else "no network interface"
        raise DiscoveryUnavailable(f"{named} has an address; {_NO_INTERFACE}")
    problems = {interface.name: multicast_problem(interface) for interface in seen}
    usable = tuple(interface for interface in seen if problems[interface.name] is None)
    if not usable:
        told = ", ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise DiscoveryUnavailable(f"no interface sends multicast ({told}); {_NO_INTERFACE}")
    return usable


def _choice(usable: tuple[Interface, ...]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """The interfaces as zeroconf wants them: one IPv4 address or one index each, since a group is joined once."""
    choice: list[str | int | tuple[tuple[str, int, int], int]] = []
    for interface in usable:
        choice += interface.ipv4[:1]
        if interface.has_ipv6:
            choice.append(interface.index)
    return choice


@asynccontextmanager
async def _opened(usable: tuple[Interface, ...]) -> AsyncIterator[AsyncZeroconf]:
    """zeroconf's sockets, open; DiscoveryUnavailable when they cannot be. Says goodbye when closing."""
    choice = _choice(usable)
    has_ipv6 = any(isinstance(entry, int) for entry in choice)
    try:
        _probe_port(socket.AF_INET6 if has_ipv6 else socket.AF_INET)
        # IPVersion.All listens on an IPv6 socket that takes IPv4 as well.
        zeroconf = AsyncZeroconf(interfaces=choice, ip_version=IPVersion.All if has_ipv6 else IPVersion.V4Only)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise DiscoveryUnavailable(_PORT_TAKEN) from problem
        raise DiscoveryUnavailable(f"mDNS cannot start ({problem.strerror}); {_NO_INTERFACE}") from problem
    except (RuntimeError, Error) as problem:
        raise DiscoveryUnavailable(f"mDNS cannot start ({problem}); it is tried again") from problem
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


def _probe_port(family: socket.AddressFamily) -> None:
    """OSError where the port cannot be shared; zeroconf would leave its socket open and log in its own words."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(("", _PORT))
