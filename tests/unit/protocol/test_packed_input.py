"""In what form a board's part of the input travels over a narrow link."""

from dataclasses import replace
from itertools import pairwise

from protocol_cases import FACTS, ROW_BYTES, TOKENS, peer, submission, view

from peer.protocol.assignment import assignments
from peer.protocol.experience import Experience
from peer.protocol.forecast import NARROW, Load
from peer.protocol.messages import Assign
from peer.protocol.outlook import Link, Outlook
from peer.protocol.types import Epoch, InputKind, PeerId, Shard, TokenRange


def test_rows_are_packed_for_boards_behind_a_narrow_link() -> None:
    """Board 1's rows shrink, those of board 2 would grow; nothing travels to board 0, which is the asked one."""
    asked, cuts = submission(boards=3), pairwise((0, 5, 9, TOKENS))
    shards = tuple(
        Shard(peer=peer(i), tokens=TokenRange(start=start, stop=stop)) for i, (start, stop) in enumerate(cuts)
    )

    def pack(rows: bytes, row_bytes: int) -> bytes:
        assert row_bytes == ROW_BYTES
        return rows[:7] if rows == plain[1].body else rows + b"longer"

    def told(narrow: frozenset[PeerId], file: bytes | None = None) -> list[Assign]:
        return assignments(
            replace(asked, file=file),
            FACTS,
            shards,
            self_id=peer(0),
            attempt=1,
            epoch=Epoch(1),
            round_s=1.0,
            degrade_s=0.0,
            degrade_from=6,
            now=0.0,
            pack=pack,
            narrow=narrow,
        )

    def forms(messages: list[Assign]) -> list[tuple[InputKind, bytes]]:
        return [(message.input_kind, message.body) for message in messages]

    plain = told(frozenset())
    rows = [(InputKind.ROWS, message.body) for message in plain]
    packed, file = (InputKind.PACKED, plain[1].body[:7]), (InputKind.FILE, b"tiny")
    every = frozenset(map(peer, range(3)))
    assert forms(plain) == rows
    assert forms(told(every)) == [rows[0], packed, rows[2]]
    assert forms(told(frozenset({peer(2)}))) == rows
    assert forms(told(every, b"tiny")) == [rows[0], file, file]
    assert forms(told(every, bytes(10))) == [rows[0], packed, (InputKind.FILE, bytes(10))]
    assert forms(told(frozenset({peer(2)}), b"tiny")) == [rows[0], rows[1], file]  # no other board decodes it again


def test_a_forecast_knows_in_what_form_the_input_travels() -> None:
    rows = TOKENS * ROW_BYTES
    load = Load(facts=FACTS, codec=FACTS.default_codec, batch=1, file_bytes=10)
    assert load.input_bytes(TOKENS, NARROW + 1) == rows
    assert load.input_bytes(TOKENS, NARROW) == 10
    assert replace(load, file_bytes=None).input_bytes(TOKENS, NARROW) < rows


def test_a_link_is_narrow_below_30_mbit_s() -> None:
    links: dict[PeerId, Link] = {}
    outlook = Outlook(Experience(), lambda: links)
    known = view(3)
    assert not outlook.narrow(known, peer(1))  # not measured: 100 Mbit/s are assumed
    links[peer(1)], links[peer(2)] = Link(rtt_s=0.001, rate=1.25e6), Link(rtt_s=0.001, rate=1.25e7)
    assert outlook.narrow(known, peer(1))
    assert not outlook.narrow(known, peer(2))
