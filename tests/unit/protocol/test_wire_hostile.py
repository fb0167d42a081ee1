"""Whatever bytes come: a message, or RemoteProtocolError; and never more memory than an honest message takes.

TOKENRING_FUZZ sets how many frames are tried (`make fuzz`: a million).
"""

import os
import struct
import tracemalloc
from random import Random

import msgpack
import pytest
from protocol_cases import KEY, SAMPLES

from peer.errors import BadFrame, FrameTooLarge, RemoteProtocolError
from peer.protocol import wire
from peer.protocol.fields import MAX_HEADER_BYTES
from peer.protocol.types import peer_id

FRAMES = int(os.environ.get("TOKENRING_FUZZ", "100000"))
MIB = 1 << 20
RECORDED = [wire.encode(message) for message in SAMPLES.values()]
INTERESTING = [
    0x00,
    0x7F,
    0x80,
    0x90,
    0x91,
    0xA0,
    0xC0,
    0xC1,
    0xC4,
    0xC7,
    0xCA,
    0xCB,
    0xCF,
    0xD3,
    0xD4,
    0xDC,
    0xDD,
    0xDF,
    0xFF,
]


def mutated(random: Random) -> list[bytes]:
    """A recorded frame with a few bytes changed, cut out, doubled or exchanged with another frame's."""
    frame = bytearray(random.choice(RECORDED)[0])
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(frame)) if frame else 0
        match random.randrange(6):
            case 0 if frame:
                frame[at] ^= 1 << random.randrange(8)
            case 1 if frame:
                frame[at] = random.choice(INTERESTING)
            case 2:
                frame = frame[:at]
            case 3:
                frame[at:at] = random.randbytes(random.randint(1, 9))
            case 4:
                frame[at:] = random.choice(RECORDED)[0][at:]
            case 5:
                frame[at:at] = msgpack.packb(_value(random))
    return [bytes(frame)]


def built(random: Random) -> list[bytes]:
    """Well-formed msgpack with the right version and kind, and fields of any type."""
    kind = random.choice(RECORDED)[0][2]
    fields = [wire.PROTOCOL_VERSION, kind, *(_value(random) for _ in range(random.randint(0, 13)))]
    frames = [bytes(msgpack.packb(fields))]
    return frames if random.random() < 0.8 else [*frames, random.randbytes(random.randint(0, 9))]


def noise(random: Random) -> list[bytes]:
    start = bytes([random.choice([0x90 + random.randrange(16), random.randrange(256)])])
    return [start + random.randbytes(random.randint(0, 60)) for _ in range(random.choice([1, 1, 1, 2, 3]))]


def _value(random: Random) -> object:
    return random.choice(
        [
            0,
            1,
            -1,
            True,
            None,
            1.5,
            float("nan"),
            float("inf"),
            (1 << 64) - 1,
            -(1 << 63),
            random.getrandbits(random.choice([8, 16, 32, 64])),
            "",
            "text",
            "two\nlines",
            "\u202e\u200b",
            b"",
            random.randbytes(8),
            random.randbytes(32),
            random.randbytes(16),
            [],
            [1],
            {},
            {1: 2},
            msgpack.ExtType(5, b""),
            msgpack.ExtType(5, b"data"),
        ]
    )


def test_only_the_one_error_escapes() -> None:
    random = Random(20)
    ends = {"message": 0, "refused": 0}
    for number in range(FRAMES):
        frames = (mutated, mutated, built, noise)[number % 4](random)
        try:
            message = wire.decode(frames)
        except RemoteProtocolError:
            ends["refused"] += 1
        except BaseException as problem:
            raise AssertionError(f"{type(problem).__name__} escaped from frame {number}: {frames}") from problem
        else:
            ends["message"] += 1
            if type(message).__name__ != "Stranger":
                assert wire.decode(wire.encode(message)) == message
    assert min(ends.values()) > FRAMES // 100, ends  # both sides of the border are walked


def _array(fields: list[object]) -> bytes:
    return bytes(msgpack.packb(fields))


def _codes(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "version": 1,
        "kind": 17,
        "request": 1,
        "attempt": 1,
        "epoch": 1,
        "block": 1,
        "origin": 1,
        "body": b"",
    }
    return _array([*(fields | changes).values()])


def _hello(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "version": 1,
        "kind": 1,
        "sender": bytes.fromhex(peer_id(KEY)),
        "name": "b",
        "key": KEY,
        "incarnation": 1,
        "host": "h",
        "port": 7411,
        "models": b"",
        "answer": False,
    }
    return _array([*(fields | changes).values()])


BOMBS = {
    "1 MiB of empty arrays": b"\xdd" + struct.pack(">I", MIB) + b"\x90" * MIB,
    "64 KiB of empty arrays": b"\xdd" + struct.pack(">I", 65_530) + b"\x90" * 65_530,
    "64 KiB of empty arrays behind a message": b"\x98\x01\x11\xdd" + struct.pack(">I", 65_500) + b"\x90" * 65_500,
    "64 KiB of empty maps": b"\x98\x01\x11\xdd" + struct.pack(">I", 65_500) + b"\x80" * 65_500,
    "depth 100000": b"\x91" * 100_000,
    "depth 60000": b"\x91" * 60_000,
    "depth 60000 behind a message": b"\x98\x01\x11" + b"\x91" * 60_000,
    "2^32 elements": b"\xdd\xff\xff\xff\xff",
    "2^32 elements in a field": b"\x98\x01\x11\xdd\xff\xff\xff\xff",
    "2^32 pairs in a field": b"\x98\x01\x11\xdf\xff\xff\xff\xff",
    "2^32 bytes": b"\x98\x01\x11\xc6\xff\xff\xff\xff",
    "2^32 characters": b"\x98\x01\x11\xdb\xff\xff\xff\xff",
    "2^32 of an extension": b"\x98\x01\x11\xc9\xff\xff\xff\xff\x05",
}
REFUSED = {
    "an extension": b"\x98\x01\x11\xc7\x00\x05" + b"\x01" * 5,
    "a timestamp": b"\x98\x01\x11\xd6\xff" + bytes(4) + b"\x01" * 5,
    "a map": b"\x82\x01\x11\x01\x11",
    "duplicate keys": b"\x98\x01\x11\x82\x01\x01\x01\x02" + b"\x01" * 5,
    "NaN": _array([1, 2, bytes(8), 1, 1, float("nan")]),
    "infinity": _array([1, 2, bytes(8), 1, 1, float("inf")]),
    "a negative speed": _array([1, 2, bytes(8), 1, 1, -1.0]),
    "a whole number as speed": _array([1, 2, bytes(8), 1, 1, 5]),
    "invalid UTF-8": _hello().replace(b"\xa1b", b"\xa1\xff"),
    "a lone surrogate": _hello().replace(b"\xa1b", b"\xa3\xed\xa0\x80"),
    "a name over two lines": _hello(name="two\nlines"),
    "a name that turns the text": _hello(name="\u202egnp"),
    "a name with a zero": _hello(name="a\x00b"),
    "a long name": _hello(name="n" * 65),
    "bytes as name": _hello(name=b"b"),
    "text as sender": _hello(sender="12345678"),
    "a short sender": _hello(sender=bytes(7)),
    "port 0": _hello(port=0),
    "a port without room above": _hello(port=65_533),
    "another board's key": _hello(key=bytes(32)),
    "a short key": _hello(key=KEY[:31]),
    "an address without a host": _array([1, 8, bytes(8), 1, b"\x1c\xf3\x00"]),
    "an address at port 0": _array([1, 8, bytes(8), 1, b"\x00\x00\x01h"]),
    "an address cut short": _array([1, 8, bytes(8), 1, b"\x1c\xf3\x05h"]),
    "an address of odd characters": _array([1, 8, bytes(8), 1, b"\x1c\xf3\x01\n"]),
    "too many addresses": _array([1, 8, bytes(8), 1, b"\x1c\xf3\x01h" * 65]),
    "a rumour of leaving": _array([1, 7, bytes(8), 1, bytes(8), 1, 3]),
    "a short token": _array([1, 9, bytes(8), 1, 1, bytes(31)]),
    "half a model": _hello(models=bytes(31)),
    "too many models": _hello(models=bytes(32 * 65)),
    "1 as flag": _hello(answer=1),
    "true as version": _codes(version=True),
    "a float as version": _codes(version=1.0),
    "a float as kind": _codes(kind=17.0),
    "a negative version": _codes(version=-1),
    "an unknown kind": _codes(kind=99),
    "true as attempt": _codes(attempt=True),
    "attempt 256": _codes(attempt=256),
    "a negative request": _codes(request=-1),
    "an epoch over 32 bits": _codes(epoch=1 << 32),
    "block 65536": _codes(block=65_536),
    "origin 1024": _codes(origin=1024),
    "text as body": _codes(body="text"),
    "a length without its frame": _codes(body=5),
    "nothing as body": _codes(body=None),
    "a field too many": _array([1, 17, 1, 1, 1, 1, 1, b"", 0]),
    "a field too few": _array([1, 17, 1, 1, 1, 1, 1]),
    "bytes behind the message": _codes() + b"\x00",
    "a message cut short": _codes()[:-1],
}


@pytest.mark.parametrize("name", [*BOMBS, *REFUSED])
def test_hostile_frames_are_refused_without_being_built(name: str) -> None:
    frame = (BOMBS | REFUSED)[name]
    tracemalloc.start()
    try:
        with pytest.raises((BadFrame, FrameTooLarge)):
            wire.decode([frame])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 2 * MIB


def test_without_the_guards_a_bomb_is_built() -> None:
    """What the limits are for; if this fails, the measurement above proves nothing."""
    tracemalloc.start()
    try:
        built_bomb = msgpack.unpackb(BOMBS["1 MiB of empty arrays"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(built_bomb) == MIB
    assert peak > 16 * MIB
    assert msgpack.unpackb(REFUSED["true as version"])[0] == wire.PROTOCOL_VERSION
    duplicates = msgpack.unpackb(b"\x82\x01\x01\x01\x02", strict_map_key=False)
    assert duplicates == {1: 2}


def test_hosts_may_be_unknown_and_names_foreign() -> None:
    wire.decode([_hello(host="")])
    wire.decode([_hello(name="Küche 火")])


@pytest.mark.parametrize(
    "shards", [b"", bytes(15), struct.pack(">8sII", b"a" * 8, 1, 2), struct.pack(">8sII", b"a" * 8, 0, 0)]
)
def test_shards_cover_from_the_first_token_without_gaps(shards: bytes) -> None:
    fields = [1, 16, 1, 1, 1, bytes(32), "c", 0, 1, 0, shards, 1, 0, bytes(10), b""]
    good = struct.pack(">8sII8sII", b"a" * 8, 0, 3, b"b" * 8, 3, 5)
    wire.decode([_array([*fields[:10], good, *fields[11:]])])
    twice = struct.pack(">8sII8sII", b"a" * 8, 0, 3, b"a" * 8, 3, 5)
    gap = struct.pack(">8sII8sII", b"a" * 8, 0, 3, b"b" * 8, 4, 5)
    for wrong in (shards, twice, gap, good + b"x"):
        with pytest.raises(BadFrame):
            wire.decode([_array([*fields[:10], wrong, *fields[11:]])])
    for at, value in ((7, 2), (8, 0), (8, 65), (9, 2), (11, -1), (12, 3), (13, bytes(7)), (13, 0)):
        changed = [*fields[:10], good, *fields[11:]]
        changed[at] = value
        with pytest.raises(BadFrame):
            wire.decode([_array(changed)])


def test_the_limit_of_a_header_is_exact() -> None:
    room = MAX_HEADER_BYTES - len(_codes(body=bytes(40_000))) + 40_000
    wire.decode([_codes(body=bytes(room))])
    with pytest.raises(FrameTooLarge):
        wire.decode([_codes(body=bytes(room + 1))])
