"""Doctor's judgements: what is fine, what is worth a note, what is wrong, each with a remedy."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from peer import findings
from peer.findings import Answer, Finding, Level, Link, Memory, Port
from peer.protocol.types import Endpoint, Incarnation, Member, PeerId, Status, peer_id

MIB = 1 << 20
ETH = Link(name="eth0", up=True, multicast=True, addresses=("10.0.0.1",), returned=True)


def board(number: int, status: Status = Status.ALIVE, name: str | None = None) -> Member:
    key = bytes([number]) * 32
    return Member(
        peer=peer_id(key),
        name=name or f"board-{number}",
        endpoint=Endpoint(host=f"10.0.0.{number}", port=7700),
        public_key=key,
        incarnation=Incarnation(1),
        status=status,
        reason="because",
    )


ME = board(1)


def levels(found: Finding | Iterable[Finding]) -> list[str]:
    return [finding.level.value for finding in ([found] if isinstance(found, Finding) else found)]


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (Status.SUSPECT, "note"),
        (Status.DEAD, "wrong"),
        (Status.LEFT, "note"),
        (Status.INCOMPATIBLE, "wrong"),
        (Status.REFUSED, "note"),
    ],
)
def test_every_board_that_is_not_alive_is_named_with_the_reason(status: Status, level: str) -> None:
    found = findings.boards([ME, board(2), board(3, status)], ME.peer)
    assert levels(found) == ["ok", level]
    assert found[0].what.startswith("2 " if status is not Status.ALIVE else "3 ")
    assert "board-3" in found[1].what
    assert "because" in found[1].what
    assert found[1].remedy


def test_a_board_alone_and_boards_of_one_name_are_worth_a_note() -> None:
    assert levels(findings.boards([ME], ME.peer)) == ["note"]
    found = findings.boards([ME, board(2, name="pi"), board(3, name="pi")], ME.peer)
    assert levels(found) == ["ok", "note"]
    assert "called pi" in found[1].what


def test_identities() -> None:
    assert levels(findings.identity(seen_elsewhere=0, cloned=False)) == ["ok"]
    assert levels(findings.identity(seen_elsewhere=3, cloned=True)) == ["note", "wrong"]


def test_the_door() -> None:
    assert levels(findings.door(refused=0, by_members=0, revoked=0, forged=0)) == ["ok"]
    assert levels(findings.door(refused=1, by_members=1, revoked=1, forged=1)) == ["note", "note", "note", "wrong"]


def test_token_state_and_discovery() -> None:
    assert levels(findings.token(encrypted=True, generation=2)) == ["ok"]
    assert levels(findings.token(encrypted=False, generation=0)) == ["note"]
    assert levels(findings.state_folder(place="/x", writable=False)) == ["wrong"]
    assert levels(findings.discovery(looks=False, problem=None, strangers=0)) == ["note"]
    assert levels(findings.discovery(looks=True, problem="port 5353 is taken", strangers=0)) == ["wrong"]
    assert levels(findings.discovery(looks=True, problem=None, strangers=1)) == ["ok", "note"]


@pytest.mark.parametrize("answer", Answer)
def test_seeds(answer: Answer) -> None:
    found = findings.seed("10.0.0.9:7700", answer)
    assert (found.level is Level.OK) == (answer in (Answer.MEMBER, Answer.PERHAPS))
    assert "10.0.0.9:7700" in found.what
    assert (answer is Answer.SILENT) == ("token" in found.remedy)


def test_a_board_without_a_model() -> None:
    assert levels(findings.models(problem="")) == ["ok"]
    found = findings.models(problem="no usable model in /x; name another folder")
    assert (found.level, found.remedy) == (Level.WRONG, "name another folder")


def test_the_data_plane() -> None:
    assert levels(findings.data_plane(stuck_s=0.0, counters={})) == ["ok"]
    assert levels(findings.data_plane(stuck_s=9.0, counters={"forged": 1, "messages_not_sent": 2})) == [
        "wrong",
        "wrong",
        "note",
    ]


@pytest.mark.parametrize(
    ("seen", "others", "level", "word"),
    [
        (ETH, (), "ok", "sends and receives"),
        (ETH, ("10.0.0.2",), "note", "10.0.0.2 did not answer"),
        (replace(ETH, heard=("10.0.0.2",), answered=("10.0.0.2",)), ("10.0.0.2",), "ok", "both ways"),
        (replace(ETH, answered=("10.0.0.2",)), (), "wrong", "does not come here"),
        (replace(ETH, returned=False), (), "wrong", "receives none"),
        (replace(ETH, problem="network is unreachable"), (), "wrong", "unreachable"),
        (replace(ETH, multicast=False), (), "wrong", "switched off"),
        (replace(ETH, up=False), (), "note", "down"),
        (replace(ETH, addresses=()), (), "note", "no address"),
    ],
)
def test_interfaces(seen: Link, others: tuple[str, ...], level: str, word: str) -> None:
    found = findings.link(seen, others)
    assert (found.level.value, word in found.what) == (level, True), found


def test_ports() -> None:
    free = [Port(number=7700 + n, use=use, free=True) for n, use in enumerate(("door", "control", "data"))]
    assert levels(findings.ports(free, daemon=False)) == ["ok"]
    taken = [replace(free[0], free=False, owner="nginx (12)"), *free[1:]]
    found = findings.ports(taken, daemon=False)
    assert levels(found) == ["wrong"]
    assert "nginx (12)" in found[0].what
    held = [replace(port, free=False, ours=True) for port in free]
    assert levels(findings.ports(held, daemon=True)) == ["ok"]
    assert levels(findings.ports(free, daemon=True)) == ["wrong"] * 3


def test_memory_counts_the_tighter_of_machine_and_group() -> None:
    plenty = Memory(available=1000 * MIB, limit=None, used=None, cgroup=2)
    assert levels(findings.memory(plenty, model_bytes=100 * MIB, loaded=False)) == ["ok"]
    tight = Memory(available=1000 * MIB, limit=200 * MIB, used=50 * MIB, cgroup=1)
    assert levels(findings.memory(tight, model_bytes=100 * MIB, loaded=False)) == ["wrong"]
    assert levels(findings.memory(tight, model_bytes=100 * MIB, loaded=True)) == ["ok"]
    assert levels(findings.memory(replace(plenty, cgroup=None), model_bytes=None, loaded=False)) == ["ok", "note"]


def test_the_rest_of_the_machine() -> None:
    assert levels(findings.avahi(running=True, disallows_others=True)) == ["wrong"]
    assert levels(findings.avahi(running=True, disallows_others=False)) == ["ok"]
    assert levels(findings.avahi(running=False, disallows_others=True)) == ["ok"]
    assert levels(findings.token_file(place=None, problem=None)) == ["note"]
    everybody = findings.token_file(place="/x", problem="everybody may read /x; run: chmod 600 /x")
    assert (everybody.level, everybody.remedy) == (Level.WRONG, "run: chmod 600 /x")
    assert levels(findings.clock(year=1970)) == ["note"]
    assert levels(findings.clock(year=2026)) == ["ok"]
    assert levels(findings.cpu(machine="aarch64", features={"fp"}, cores=4)) == ["note"]
    assert levels(findings.cpu(machine="aarch64", features={"asimddp"}, cores=4)) == ["ok"]
    assert levels(findings.cpu(machine="x86_64", features={"avx2"}, cores=4)) == ["ok"]
    assert levels(findings.cpu(machine="riscv64", features=(), cores=4)) == ["note"]
    assert levels(findings.heat(hottest_c=85.0, throttled=())) == ["note"]
    assert levels(findings.heat(hottest_c=None, throttled=("policy0 at 600 of 1500 MHz",))) == ["wrong"]
    assert levels(findings.limits(files=64)) == ["wrong"]
    assert levels(findings.compute_library(problem="it ended with signal 4")) == ["wrong"]
    assert findings.no_daemon("no daemon answers; start peerd").remedy == "start peerd"


def test_what_is_wrong_has_a_remedy() -> None:
    nobody = PeerId("0" * 16)
    found = [
        *findings.boards([board(n, status) for n, status in enumerate(Status, start=1)], nobody),
        *findings.identity(seen_elsewhere=1, cloned=True),
        *findings.door(refused=1, by_members=1, revoked=1, forged=1),
        *findings.data_plane(stuck_s=9.0, counters={"frames_refused": 1, "refused_codes": 1, "forged": 1}),
        *(findings.seed("x", answer) for answer in Answer),
    ]
    assert all(finding.remedy for finding in found if finding.level is not Level.OK)
    assert all("\n" not in finding.what + finding.remedy for finding in found)


def test_each_family_of_addresses_has_its_own_remedy() -> None:
    """A switch that snoops MLD badly drops IPv6 alone."""
    six = replace(ETH, version=6, addresses=("fd00::1",))
    assert "IPv6" in findings.link(six).what
    assert "ff00::/8" in findings.link(replace(six, returned=False)).remedy
    assert "ip -6 route" in findings.link(replace(six, problem="no route")).remedy
    assert "MLD" in findings.link(replace(six, answered={"fd00::2"})).remedy
    assert findings.link(replace(six, heard={"fd00::2"})).level is Level.OK
