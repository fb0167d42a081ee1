"""Log records: how they reach the journal, and how many of them."""

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer import log_lines
from peer.journal import JournalHandler, PrefixFormatter, encode, goes_to_journal, priority
from peer.log_lines import LINES, SPELL_S, BudgetFilter, LineBudget


def record(text: str, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("peer.test", level, __file__, 1, text, (), None)
    vars(made).update(extra)
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.setblocking(False)
        yield listener


def test_a_record_reaches_the_journal_with_its_fields(journal: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler(logging.NullHandler(), str(tmp_path / "journal"))
    handler.handle(record("slow link", peer="abc", request=7))
    assert journal.recv(4096) == (
        b"MESSAGE=slow link\nPRIORITY=4\nSYSLOG_IDENTIFIER=peerd\nLOGGER=peer.test\nPEER_ID=abc\nREQUEST_ID=7\n"
    )
    handler.close()


def test_values_with_line_breaks_cannot_forge_fields() -> None:
    text = "one\nPRIORITY=0"
    assert encode({"MESSAGE": text}) == b"MESSAGE\n" + struct.pack("<Q", len(text)) + text.encode() + b"\n"


def test_a_journal_that_does_not_take_it_loses_nothing(tmp_path: Path) -> None:
    kept: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        handler = JournalHandler(Kept(), str(tmp_path / "journal"))
    handler.handle(record("gone"))
    assert kept == ["gone"]
    handler.close()
    with pytest.raises(OSError, match="No such file"):
        JournalHandler(Kept(), str(tmp_path / "nobody"))


def test_without_the_journal_each_line_bears_its_priority() -> None:
    assert PrefixFormatter().format(record("one\ntwo", logging.ERROR)) == "<3>one\n<3>two"
    assert [priority(level) for level in (logging.CRITICAL, logging.INFO, logging.DEBUG)] == [2, 6, 7]


def test_only_what_lands_in_the_journal_is_written_for_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        assert goes_to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, file)
        assert not goes_to_journal({"JOURNAL_STREAM": "8:1"}, file)
        assert not goes_to_journal({}, file)


def test_a_terminal_gets_plain_lines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
    log_lines.set_up({})
    logging.getLogger("peer.test").warning("look")
    assert capfd.readouterr().err == "peerd: WARNING: look\n"
    sys.stderr.close()


def test_one_peer_gets_so_many_lines_a_minute() -> None:
    budget = LineBudget()
    passed = [budget.take("a", 0.0)[0] for _ in range(LINES + 30)]
    assert passed == [True] * LINES + [False] * 30
    assert budget.take("b", 1.0) == (True, 0)
    assert budget.take("a", SPELL_S - 0.1) == (False, 0)
    assert budget.take("a", SPELL_S) == (True, 31)
    assert budget.take("a", SPELL_S + 1) == (True, 0)


def test_strangers_cannot_fill_the_memory_of_the_budget() -> None:
    budget = LineBudget()
    for number in range(10_000):
        budget.take(str(number), float(number))
    assert len(budget._spells) <= 256


def test_what_was_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(log_lines.time, "monotonic", lambda: now[0])
    limit = BudgetFilter()
    assert [limit.filter(record("x", peer="a")) for _ in range(LINES + 2)].count(True) == LINES
    now[0] = SPELL_S
    last = record("%s again", peer="a")
    last.args = ("x",)
    assert limit.filter(last)
    assert last.getMessage() == "x again (2 lines like this were left out before)"
