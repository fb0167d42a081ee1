"""What of a changed view is worth a line."""

import logging
from dataclasses import replace

from peer.news import known, news
from peer.protocol.types import Endpoint, Incarnation, Member, PeerId, Status

BOARD = Member(
    peer=PeerId("b" * 16),
    name="board-b",
    endpoint=Endpoint(host="10.0.0.2", port=7700),
    public_key=b"k" * 32,
    incarnation=Incarnation(1),
    status=Status.ALIVE,
)


def lines(*statuses: Status) -> list[tuple[int, str]]:
    """The lines of a board that goes through these states."""
    before: dict[PeerId, Status] = {}
    found = []
    for status in statuses:
        members = {BOARD.peer: replace(BOARD, status=status, reason="why" if status is not Status.ALIVE else "")}
        found += [(item.level, item.text) for item in news(before, members)]
        before = known(before, members)
    return found


def test_a_death_and_a_return_are_a_line_each() -> None:
    name = f"board-b ({BOARD.peer})"
    assert lines(Status.ALIVE, Status.SUSPECT, Status.DEAD, Status.DEAD, Status.ALIVE) == [
        (logging.WARNING, f"{name} is dead: why"),
        (logging.INFO, f"{name} is back"),
    ]


def test_what_mends_itself_or_was_asked_for_is_none() -> None:
    assert lines(Status.ALIVE, Status.SUSPECT, Status.ALIVE, Status.SUSPECT, Status.ALIVE) == []
    assert lines(Status.ALIVE, Status.LEFT, Status.ALIVE) == []


def test_a_board_that_cannot_take_part_is_one_and_an_old_death_is_not() -> None:
    assert [level for level, _ in lines(Status.INCOMPATIBLE, Status.ALIVE)] == [logging.WARNING, logging.INFO]
    assert [level for level, _ in lines(Status.DEAD)] == [logging.DEBUG]
    assert [level for level, _ in lines(Status.DEAD, Status.SUSPECT, Status.DEAD)] == [logging.DEBUG]
