"""What can be wrong with a board, in one line each, with one line on what to do: pure judgements over what was seen.

Every function takes facts that somebody else gathered and returns findings; it asks neither the clock nor the system.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from peer.protocol.types import Member, PeerId, Status
from peer.reports import FindingReport

_WORKING_BYTES = 96 << 20  # interpreter, libraries and the tensors of one request, beside the weights
_FEW_FILES = 256
_HOT_C = 80.0
_STUCK_S = 3.0


class Level(enum.Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is broken
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where nothing needs to be done."""

    topic: str
    level: Level
    what: str
    remedy: str = ""


def finding_report(finding: Finding) -> FindingReport:
    """The finding as it travels and is printed."""
    return FindingReport(topic=finding.topic, level=finding.level.value, what=finding.what, remedy=finding.remedy)


def ok(topic: str, what: str) -> Finding:
    return Finding(topic=topic, level=Level.OK, what=what)


def note(topic: str, what: str, remedy: str = "") -> Finding:
    return Finding(topic=topic, level=Level.NOTE, what=what, remedy=remedy)


def wrong(topic: str, what: str, remedy: str) -> Finding:
    return Finding(topic=topic, level=Level.WRONG, what=what, remedy=remedy)


# What the daemon knows of itself and of the others.


def boards(members: Collection[Member], me: PeerId) -> list[Finding]:
    """Each board that is not alive, and why; one line for those that are."""
    alive = [member for member in members if member.status is Status.ALIVE]
    found = [ok("boards", f"{len(alive)} alive, this one included")]
    if len(members) == 1:
        found = [
            note(
                "boards",
                "this board knows no other",
                "start another with the same token (peerctl token show), or name one with --seed HOST:PORT",
            )
        ]
    for member in sorted(members, key=lambda member: member.peer):
        if member.peer != me and member.status is not Status.ALIVE:
            found.append(_absent(member))
    names = [member.name for member in alive]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(note("boards", f"{names.count(name)} boards are called {name}", "give each its own with --name"))
    return found


def _absent(member: Member) -> Finding:
    who, why = f"{member.name} ({member.peer})", f": {member.reason}" if member.reason else ""
    match member.status:
        case Status.SUSPECT:
            return note(
                "boards", f"{who} is suspect{why}", "wait a few seconds; if it stays, look at its power and cable"
            )
        case Status.DEAD:
            place = f"{member.endpoint.host}:{member.endpoint.port}"
            return wrong(
                "boards",
                f"{who} is dead{why}",
                f"start peerd on it, or check its network at {place}; for good: peerctl forget {member.peer}",
            )
        case Status.LEFT:
            return note("boards", f"{who} has left{why}", f"start peerd on it, or: peerctl forget {member.peer}")
        case Status.INCOMPATIBLE:
            return wrong("boards", f"{who} cannot take part{why}", "install the same release and models on both boards")
        case Status.REFUSED:
            return note("boards", f"{who} is refused{why}", "nothing to do while it was meant")
        case Status.ALIVE:
            return ok("boards", f"{who} is alive")


def identity(*, seen_elsewhere: int, cloned: bool) -> list[Finding]:
    """Two boards under one identity: the commonest mistake with copied cards."""
    found = []
    if cloned:
        found.append(
            note(
                "identity",
                "the state folder came from another machine; this board made itself a new identity",
                "leave the state folder out of images that are copied to several cards",
            )
        )
    if seen_elsewhere:
        found.append(
            wrong(
                "identity",
                f"another board used this board's identity ({seen_elsewhere} greetings)",
                "one of the two has a copied state folder: stop it, delete identity.json there, start it again",
            )
        )
    return found or [ok("identity", "nobody else uses this board's identity")]


def door(*, refused: int, by_members: int, revoked: int, forged: int) -> list[Finding]:
    """Who was turned away; a stranger that keeps trying is counted each time."""
    found = []
    if refused:
        found.append(
            note(
                "door",
                f"{refused} handshakes were refused at the door",
                "a board of yours with another token (give it yours: peerctl token show), or a stranger: then nothing",
            )
        )
    if by_members:
        found.append(
            note(
                "door",
                f"{by_members} connections came with a key that is not admitted",
                "a board that was taken off the list still tries: stop it, or let it in with the present token",
            )
        )
    if revoked:
        found.append(note("door", f"a revoked board greeted {revoked} times", "stop it; it gets nothing from here"))
    if forged:
        found.append(
            wrong(
                "door",
                f"{forged} messages of members bore another board's name",
                "a member is broken or hostile: see which with peerctl members, then peerctl forget ID --revoke",
            )
        )
    return found or [ok("door", "nobody was turned away")]


def token(*, encrypted: bool, generation: int) -> Finding:
    """Whether this board has a cluster token, and how often that was rotated."""
    if not encrypted:
        return note(
            "token",
            "this daemon has no cluster token: it listens on loopback only and does not encrypt",
            "to use other boards: peerctl join TOKEN, then peerd --listen HOST:PORT",
        )
    return ok("token", f"the cluster has a token, rotated {generation} times")


def state_folder(*, place: str, writable: bool) -> Finding:
    if writable:
        return ok("state", f"{place} can be written")
    return wrong(
        "state", f"{place} cannot be written: id, boards and rotated tokens are lost", f"chown or remount {place}"
    )


def discovery(*, looks: bool, problem: str | None, strangers: int) -> list[Finding]:
    """mDNS, as the daemon has it."""
    if not looks:
        return [
            note(
                "discovery", "this daemon does not look for boards by mDNS", "beyond loopback, start without --no-mdns"
            )
        ]
    if problem is not None:
        return [
            wrong("discovery", f"mDNS does not work: {problem}", "until it does, name boards with --seed HOST:PORT")
        ]
    found = [ok("discovery", "this board announces itself and looks around by mDNS")]
    if strangers:
        what = f"{strangers} announcements of other clusters or releases were seen"
        found.append(
            note("discovery", what, "a board of yours among them needs this cluster's token: peerctl join TOKEN")
        )
    return found


class Answer(enum.Enum):
    """What became of a seed."""

    MEMBER = "member"
    PERHAPS = "perhaps"  # takes connections, and a member under another address has that port
    SILENT = "silent"  # takes connections, but did not answer our greetings
    CLOSED = "closed"
    UNREACHABLE = "unreachable"
    UNKNOWN_NAME = "unknown name"


def seed(place: str, answer: Answer) -> Finding:
    """One address that this board was told to greet."""
    match answer:
        case Answer.MEMBER:
            return ok("seeds", f"{place} is a member")
        case Answer.PERHAPS:
            return ok("seeds", f"{place} takes connections; it may be another address of a member")
        case Answer.SILENT:
            what = f"{place} takes connections but does not admit this board"
            return wrong(
                "seeds", what, "its token is another one: see peerctl token show there, then peerctl join TOKEN here"
            )
        case Answer.CLOSED:
            return wrong("seeds", f"nobody listens on {place}", "start peerd there with --listen, or correct the seed")
        case Answer.UNREACHABLE:
            return wrong(
                "seeds", f"{place} cannot be reached", "check its cable, address and firewall, or correct the seed"
            )
        case Answer.UNKNOWN_NAME:
            return wrong("seeds", f"the name in {place} is unknown here", "write the board's address instead")


def models(*, problem: str) -> Finding:
    """Whether the board has anything to compute with."""
    if problem:
        head, _, tail = problem.partition("; ")
        return wrong("models", head, tail or "fetch one from the others: peerctl models fetch NAME")
    return ok("models", "the default model is whole; peerctl models verify hashes it again")


def data_plane(*, stuck_s: float, counters: Mapping[str, int]) -> list[Finding]:
    """The thread that computes and moves tensors."""
    found = []
    if stuck_s > _STUCK_S:
        what = f"the worker has been in one step for {stuck_s:.0f} s"
        found.append(
            wrong("worker", what, "the board is overloaded or its storage hangs: see dmesg, then restart peerd")
        )
    for name, meaning, remedy in (
        ("frames_refused", "frames from other boards did not parse", "install the same release on all boards"),
        (
            "forged",
            "tensor messages came from a board that may not send them",
            "see peerctl members; forget --revoke it",
        ),
        ("refused_codes", "payloads of codes were refused", "check the models: peerctl models verify, on every board"),
    ):
        if counters.get(name):
            found.append(wrong("worker", f"{counters[name]} {meaning}", remedy))
    if counters.get("messages_not_sent"):
        what = f"{counters['messages_not_sent']} messages found no way to their board"
        found.append(note("worker", what, "boards that came and went, or a slow link: see peerctl members"))
    return found or [ok("worker", "no message of another board was refused")]


# What the machine shows, with or without a daemon.


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One network interface and one family of its addresses, and what became of the test packets there."""

    name: str
    up: bool
    multicast: bool  # the kernel's flag
    addresses: Sequence[str]
    version: int = 4  # of the Internet protocol
    problem: str | None = None  # why a packet could not be sent to a group
    returned: bool = False  # a packet sent to a group came back through the group
    answered: Collection[str] = ()  # other machines that answered an mDNS question, by unicast
    heard: Collection[str] = ()  # other machines whose answers came by multicast


def link(seen: Link, others: Collection[str] = ()) -> Finding:
    """One interface; `others`: addresses of living boards in its networks, which ought to answer."""
    name = seen.name
    if not seen.up:
        return note("network", f"{name} is down", f"if boards are behind it: ip link set {name} up")
    if not seen.addresses:
        return note("network", f"{name} has no address", "if boards are behind it, give it one or start a DHCP client")
    if not seen.multicast:
        remedy = f"ip link set {name} multicast on, or name boards with --seed"
        return wrong("network", f"multicast is switched off on {name}", remedy)
    groups = "ff00::/8" if seen.version == 6 else "224.0.0.0/4"
    where = f"{name} over IPv{seen.version}"
    if seen.problem is not None:
        route = (
            f"ip -6 route add {groups} dev {name} table local"
            if seen.version == 6
            else f"ip route add {groups} dev {name}"
        )
        remedy = f"a firewall or a missing route: {route}, or name boards with --seed"
        return wrong("network", f"{where} sends no multicast: {seen.problem}", remedy)
    if not seen.returned:
        remedy = f"a firewall drops it: allow UDP to {groups}, port 5353, or name boards with --seed"
        return wrong("network", f"{where} sends multicast but receives none", remedy)
    if seen.heard:
        return ok("network", f"{where}: multicast passes both ways, heard {_some(seen.heard)}")
    if seen.answered:
        remedy = "the switch or access point drops it (IGMP or MLD snooping, client isolation); name boards with --seed"
        return wrong(
            "network", f"{where}: {_some(seen.answered)} hears us, but its multicast does not come here", remedy
        )
    if others:
        remedy = "an access point or switch drops it, or mDNS is off there; they are found by seeds meanwhile"
        return note("network", f"{where}: {_some(others)} did not answer an mDNS question", remedy)
    addresses = ", ".join(seen.addresses)
    return ok("network", f"{where} ({addresses}) sends and receives multicast; no other board answered")


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port that a daemon on this machine needs."""

    number: int
    use: str  # door, control, data, models
    free: bool
    owner: str | None = None  # "name (pid)" of who listens there, when /proc tells
    ours: bool = False


def ports(seen: Sequence[Port], *, daemon: bool) -> list[Finding]:
    """Who listens where peerd listens or would."""
    found = []
    for port in seen:
        if port.ours:
            continue
        if not port.free:
            what = f"port {port.number} ({port.use}) is taken by {port.owner or 'another program'}"
            found.append(wrong("ports", what, "stop that program, or give --listen a port with three free ones above"))
        elif daemon:
            what = f"the daemon does not listen on its port {port.number} ({port.use})"
            found.append(wrong("ports", what, "restart peerd and read its first lines"))
    listed = ", ".join(str(port.number) for port in seen)
    return found or [ok("ports", f"{listed} are {'held by the daemon' if daemon else 'free'}")]


def avahi(*, running: bool, disallows_others: bool) -> Finding:
    """The system's own mDNS daemon; both can share port 5353."""
    if running and disallows_others:
        return wrong(
            "avahi",
            "avahi runs with disallow-other-stacks=yes: no other program may use mDNS",
            "set it to no in /etc/avahi/avahi-daemon.conf and restart avahi-daemon, or name boards with --seed",
        )
    return ok("avahi", "avahi runs and shares its port" if running else "avahi does not run; none is needed")


def token_file(*, place: str | None, problem: str | None) -> Finding:
    """The file that a daemon of this user reads its token from."""
    if problem is not None:
        head, _, tail = problem.partition("; ")
        return wrong("token file", head, tail or "write the token there again: peerctl join TOKEN")
    if place is None:
        return note(
            "token file", "there is none", "to make a cluster: peerctl token new; to enter one: peerctl join TOKEN"
        )
    return ok("token file", f"{place} holds a token and is its owner's alone")


def clock(*, year: int) -> Finding:
    if year < 2024:
        return note(
            "clock",
            f"this machine believes that it is {year}",
            "log lines carry wrong dates; nothing else depends on it",
        )
    return ok("clock", "plausible; nothing but log lines depends on it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes; None where the system sets no limit."""

    available: int
    limit: int | None  # of the memory cgroup
    used: int | None  # in that cgroup
    cgroup: int | None  # its version; None: there is no memory controller


def memory(seen: Memory, *, model_bytes: int | None, loaded: bool) -> list[Finding]:
    """Whether the model fits; `loaded`: the daemon holds it already, so what is free now is beside it."""
    found = []
    free = seen.available
    if seen.limit is not None and seen.used is not None:
        free = min(free, max(0, seen.limit - seen.used))
    need = _WORKING_BYTES // 4 if loaded else (model_bytes or 0) + _WORKING_BYTES
    if free < need:
        what = f"{_mib(free)} are free, {_mib(need)} are needed"
        found.append(wrong("memory", what, "take a smaller model, stop other programs, or raise MemoryMax of the unit"))
    else:
        found.append(ok("memory", f"{_mib(free)} are free" + (f", {_mib(need)} are needed" if model_bytes else "")))
    if seen.cgroup is None:
        remedy = "on a Raspberry Pi: cgroup_enable=memory cgroup_memory=1 in cmdline.txt"
        found.append(note("memory", "no memory cgroup: MemoryMax of the unit has no effect", remedy))
    return found


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"


def cpu(*, machine: str, features: Collection[str], cores: int) -> Finding:
    """Whether the instructions are there that make int8 and float32 fast."""
    wanted = {"aarch64": "asimddp", "x86_64": "avx2"}.get(machine)
    if wanted is not None and features and wanted not in features:
        return note(
            "cpu",
            f"{machine} without {wanted}: matrix products are slower",
            "the planner measures and shares accordingly",
        )
    if machine not in ("aarch64", "x86_64"):
        return note("cpu", f"{machine} is not tested", "aarch64 and x86_64 are; see README")
    return ok(
        "cpu", f"{machine} with {wanted}, {cores} cores to use" if features else f"{machine}, {cores} cores to use"
    )


def heat(*, hottest_c: float | None, throttled: Collection[str]) -> Finding:
    """Temperature, and what the kernel holds back because of it."""
    if throttled:
        what = f"the processor is held back: {_some(throttled)}"
        return wrong("heat", what, "cool the board, or give it a stronger power supply")
    if hottest_c is not None and hottest_c >= _HOT_C:
        return note("heat", f"{hottest_c:.0f} °C", "it will be held back soon: cool it")
    return ok("heat", "no sensor" if hottest_c is None else f"{hottest_c:.0f} °C, not held back")


def limits(*, files: int) -> Finding:
    if files < _FEW_FILES:
        return wrong(
            "limits", f"only {files} open files are allowed", "ulimit -n 1024, or LimitNOFILE=1024 in the unit"
        )
    return ok("limits", f"{files} open files are allowed")


def compute_library(*, problem: str | None) -> Finding:
    if problem is not None:
        remedy = "install it again in the environment of tokenring; on a 32-bit system take a 64-bit image"
        return wrong("onnxruntime", f"it cannot be loaded: {problem}", remedy)
    return ok("onnxruntime", "it can be loaded")


def no_daemon(problem: str) -> Finding:
    head, _, tail = problem.partition("; ")
    return wrong("daemon", head, tail or "start peerd")
