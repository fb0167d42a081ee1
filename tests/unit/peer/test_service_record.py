"""The mDNS record: what we announce reads back, and nothing that anybody forges comes through unchecked."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peer.errors import BadFrame
from peer.protocol.types import PeerId
from peer.service_record import (
    LOWEST_PORT,
    MAX_HOSTS,
    MAX_TXT_BYTES,
    MAX_VALUE_BYTES,
    ServiceRecord,
    build_txt,
    instance_name,
    parse_txt,
    peer_of_instance,
    usable_hosts,
)

RECORD = ServiceRecord(peer=PeerId("0123456789abcdef"), tag="fedcba9876543210", version=3, port=7700)
hex16 = st.binary(min_size=8, max_size=8).map(bytes.hex)
records = st.builds(
    ServiceRecord,
    peer=hex16.map(PeerId),
    tag=hex16,
    version=st.integers(1, 0xFFFF),
    port=st.integers(LOWEST_PORT, 0xFFFF),
)


def strings(*pairs: bytes) -> bytes:
    return b"".join(bytes([len(pair)]) + pair for pair in pairs)


@given(records)
def test_what_is_announced_reads_back(record: ServiceRecord) -> None:
    assert parse_txt(build_txt(record)) == record


def test_the_bytes_of_version_1() -> None:
    assert build_txt(RECORD) == b"\x03v=3\x13id=0123456789abcdef\x14tag=fedcba9876543210\x06p=7700"


@given(st.binary(max_size=2 * MAX_TXT_BYTES))
def test_random_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(BadFrame):
        parse_txt(text)


@given(records, st.data())
def test_mutated_records_are_refused_or_within_bounds(record: ServiceRecord, data: st.DataObject) -> None:
    text = bytearray(build_txt(record))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = parse_txt(bytes(text))
    except BadFrame:
        return
    assert LOWEST_PORT <= read.port <= 0xFFFF
    assert 1 <= read.version <= 0xFFFF
    assert len(bytes.fromhex(read.peer)) == len(bytes.fromhex(read.tag)) == 8


@given(records, st.integers(0, 60))
def test_a_record_cut_short_is_refused(record: ServiceRecord, kept: int) -> None:
    text = build_txt(record)
    with pytest.raises(BadFrame):
        parse_txt(text[: min(kept, len(text) - 1)])


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("reserved port", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=22"]),
        ("port zero", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=0"]),
        ("port too large", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=65536"]),
        ("signed port", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=+7700"]),
        ("no port", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210"]),
        ("no value", [b"v=3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p"]),
        ("version zero", [b"v=0", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=7700"]),
        ("version not plain", [b"v=\xd9\xa3", b"id=0123456789abcdef", b"tag=fedcba9876543210", b"p=7700"]),
        ("long id", [b"v=3", b"id=0123456789abcdef00", b"tag=fedcba9876543210", b"p=7700"]),
        ("id in capitals", [b"v=3", b"id=0123456789ABCDEF", b"tag=fedcba9876543210", b"p=7700"]),
        ("id with a line end", [b"v=3", b"id=0123456789abcdef\n", b"tag=fedcba9876543210", b"p=7700"]),
        ("empty tag", [b"v=3", b"id=0123456789abcdef", b"tag=", b"p=7700"]),
        ("long value", [b"x=" + b"a" * (MAX_VALUE_BYTES + 1), *[b"v=3", b"id=0123456789abcdef", b"p=7700"]]),
    ],
)
def test_one_wrong_value_refuses_the_record(name: str, pairs: list[bytes]) -> None:
    with pytest.raises(BadFrame):
        parse_txt(strings(*pairs))


def test_a_newer_release_may_say_more() -> None:
    text = build_txt(RECORD) + strings(b"models=1a2b", b"raw=\xff\xfe", b"flag", b"")
    assert parse_txt(text) == RECORD


def test_the_first_of_two_equal_keys_counts_and_keys_ignore_case() -> None:
    assert parse_txt(build_txt(RECORD) + strings(b"P=9999", b"p=9999")).port == RECORD.port
    assert parse_txt(strings(b"P=8800") + build_txt(RECORD)).port == 8800


def test_a_record_over_the_limit_is_refused_whatever_it_says() -> None:
    padding = MAX_TXT_BYTES - len(build_txt(RECORD))
    fill = b"\x00" * padding
    assert parse_txt(build_txt(RECORD) + fill) == RECORD
    with pytest.raises(BadFrame, match="257 bytes"):
        parse_txt(build_txt(RECORD) + fill + b"\x00")


@given(hex16.map(PeerId), st.sampled_from(["", "00ff"]))
def test_the_name_holds_the_id(peer: PeerId, suffix: str) -> None:
    name = instance_name(peer, suffix)
    assert peer_of_instance(name) == peer
    assert peer_of_instance(name.upper()) == peer
    assert max(len(label) for label in name.split(".")) <= 63


@given(st.text(max_size=80))
@example("tokenring-0123456789abcdef")
@example("tokenring-0123456789abcdef._tokenring._tcp.local.\n")
@example("x.tokenring-0123456789abcdef._tokenring._tcp.local.")
@example("tokenring-0123456789abcdef-00ff0._tokenring._tcp.local.")
def test_other_names_hold_none(name: str) -> None:
    assert peer_of_instance(name) is None


NEAR = (ipaddress.ip_network("10.77.1.0/24"), ipaddress.ip_network("fd77:1::/64"))


def test_addresses_of_our_own_networks_come_first() -> None:
    hosts = ["fe80::1%2", "2001:db8::1", "fd77:1::9", "192.168.3.4", "10.77.1.9"]
    assert usable_hosts(hosts, NEAR) == ("10.77.1.9", "fd77:1::9", "192.168.3.4", "2001:db8::1", "fe80::1%2")


NOWHERE = "127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 255.255.255.255 224.0.0.251 :: ::1 ff02::fb fe80::1 2001:db8::1%2"
NO_ADDRESS = "::ffff:127.0.0.1 ::ffff:224.0.0.1 board.local 10.0.0.1:80 10.1 1e3 [::1]"


@pytest.mark.parametrize("host", ["", *NOWHERE.split(), *NO_ADDRESS.split()])
def test_nobody_is_sent_to_such_an_address(host: str) -> None:
    assert usable_hosts([host], NEAR) == ()


@given(st.lists(st.ip_addresses().map(str) | st.text(max_size=12), max_size=40))
def test_hosts_are_few_and_plain(hosts: list[str]) -> None:
    found = usable_hosts(hosts, NEAR)
    assert len(found) <= MAX_HOSTS
    assert len(set(found)) == len(found)
    for host in found:
        assert not ipaddress.ip_address(host).is_loopback
