"""Links are measured between requests: the way, and the width behind what a shaper lets pass at first."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from protocol_cases import changed, peer, view

from peer.protocol.effects import Send
from peer.protocol.messages import Echo, Sound
from peer.protocol.soundings import Soundings
from peer.protocol.types import Status

ME = peer(0)


@dataclass(slots=True)
class Pipe:
    """A link with a way of `way_s` there and back, a rate, and a bucket of bytes that pass at once."""

    way_s: float
    rate: float
    bucket: float
    left: float = 0.0
    at: float = 0.0

    def echo_at(self, size: int, now: float) -> float:
        self.left = min(self.bucket, self.left + (now - self.at) * self.rate)
        through = now + max(0.0, size - self.left) / self.rate
        self.left, self.at = max(0.0, self.left - size), through
        return through + self.way_s


def answer(effects: list[Send], *, busy: bool = False) -> Echo:
    (effect,) = effects
    assert isinstance(effect.message, Sound)
    return Echo(sender=effect.to, sequence=effect.message.sequence, busy=busy)


def sound(links: Soundings, pipe: Pipe, now: float) -> float:
    """Walk through the sounding that is due; the time when it ended."""
    effects = links.timer(ME, now)
    while effects:
        links.check()
        message = effects[0].message
        assert isinstance(message, Sound)
        now = pipe.echo_at(len(message.body), now)
        effects = links.echo(answer(effects), ME, now)
    return now


def due(links: Soundings) -> float:
    at = links.deadline()
    assert at is not None
    return at


@pytest.mark.parametrize("bucket", [0.0, 1600.0, 32_000.0, 65_536.0])
@pytest.mark.parametrize("mbit", [2, 10, 100, 1000])
def test_the_rate_is_found_behind_any_bucket(mbit: int, bucket: float) -> None:
    links, pipe = Soundings(300.0), Pipe(way_s=4e-4, rate=mbit * 125_000.0, bucket=bucket)
    links.see(view(2), 0.0)
    sound(links, pipe, due(links))
    link = links.links[peer(1)]
    assert link.rtt_s == pytest.approx(4e-4)
    assert link.rate == pytest.approx(mbit * 125_000.0, rel=0.05)
    assert links.fastest == link.rate


def test_a_narrow_link_is_not_kept_full_for_long() -> None:
    links, pipe = Soundings(300.0), Pipe(way_s=4e-4, rate=125_000.0, bucket=0.0)  # 1 Mbit/s
    links.see(view(2), 0.0)
    began = due(links)
    assert sound(links, pipe, began) - began < 1.5


def test_each_board_has_its_turn_and_is_looked_at_again_less_and_less_often() -> None:
    links, pipe = Soundings(300.0), Pipe(way_s=4e-4, rate=12.5e6, bucket=0.0)
    links.see(view(4), 0.0)
    now = 0.0
    for _ in range(3):
        now = sound(links, pipe, max(now, due(links)))
    assert links.links.keys() == {peer(1), peer(2), peer(3)}
    pauses = []
    for _ in range(24):
        began = max(now, due(links))
        pauses.append(began - now)
        now = sound(links, pipe, began)
    assert now > 300.0
    assert sum(pauses[-3:]) > 250.0


def test_a_link_that_requests_find_changed_is_measured_anew_and_what_was_known_is_forgotten() -> None:
    links, good = Soundings(300.0), Pipe(way_s=4e-4, rate=12.5e6, bucket=0.0)
    links.see(view(2), 0.0)
    now = 0.0
    for _ in range(4):
        now = sound(links, good, max(now, due(links)))
    bad = Pipe(way_s=0.1, rate=1.25e6, bucket=0.0, at=now)
    links.doubt([peer(1)], now + 1)  # just after a look nothing can have changed
    assert due(links) > now + 10
    links.doubt([peer(1), peer(9)], now + 10)
    assert due(links) == now + 10
    assert links.links[peer(1)].rtt_s == pytest.approx(4e-4)  # until there is something better
    now = sound(links, bad, now + 10)
    assert links.links[peer(1)].rtt_s == pytest.approx(0.1)
    assert links.links[peer(1)].rate == pytest.approx(1.25e6, rel=0.05)
    assert due(links) - now < 15


def test_doubts_that_were_unfounded_are_heard_less_and_less() -> None:
    links, pipe = Soundings(300.0), Pipe(way_s=4e-4, rate=12.5e6, bucket=0.0)
    links.see(view(2), 0.0)
    looks = [sound(links, pipe, due(links))]
    for second in range(5, 600):
        links.doubt([peer(1)], float(second))
        if due(links) <= second:
            looks.append(sound(links, pipe, float(second)))
    pauses = [after - before for before, after in pairwise(looks)]
    assert pauses[0] < 12
    assert pauses[-1] > 80
    assert len(pauses) < 12


def test_what_a_request_disturbs_or_a_busy_board_answers_is_not_believed() -> None:
    links = Soundings(300.0)
    links.see(view(2), 0.0)
    began = due(links)
    first = links.timer(ME, began)
    assert links.echo(answer(first, busy=True), ME, began + 1e-3) == []
    assert due(links) > began + 1
    again = links.timer(ME, due(links))
    links.stop(began + 6)
    assert links.echo(answer(again), ME, began + 6) == []  # too late: it belongs to nothing
    assert not links.links


def test_a_silent_board_is_given_up_and_asked_again_later() -> None:
    links = Soundings(300.0)
    links.see(view(2), 0.0)
    assert links.timer(ME, due(links))
    silent_at = due(links)
    assert links.timer(ME, silent_at) == []
    assert not links.running
    assert due(links) > silent_at + 1


def test_boards_that_are_gone_are_forgotten_and_switched_off_means_off() -> None:
    links, pipe = Soundings(300.0), Pipe(way_s=4e-4, rate=12.5e6, bucket=0.0)
    links.see(view(2), 0.0)
    sound(links, pipe, due(links))
    links.see(changed(view(2), 1, status=Status.DEAD), 1.0)
    assert not links.links
    assert links.deadline() is None
    off = Soundings(float("inf"))
    off.see(view(4), 0.0)
    assert off.deadline() is None


def test_an_answer_from_somebody_else_counts_for_nothing() -> None:
    links = Soundings(300.0)
    links.see(view(3), 0.0)
    now = due(links)
    asked = answer(links.timer(ME, now))
    other = peer(1) if asked.sender == peer(2) else peer(2)
    assert links.echo(replace(asked, sender=other), ME, now) == []
    assert links.echo(replace(asked, sequence=asked.sequence + 1), ME, now) == []
    assert links.running
