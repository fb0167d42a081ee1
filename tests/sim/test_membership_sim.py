"""Boards of a simulated LAN: they find each other, notice who is gone, doubt nobody without a reason, and agree.

TOKENRING_SIM_SEEDS sets how many seeds every row gets (default 8; `make sim`: thousands). A seed that fails prints
itself and its story.
"""

import os
from random import Random

import pytest
from membership_board import OTHER_MODEL
from membership_network import Lan, Violation, Weather, started

from peer.protocol.control_events import ControlEffect, LinkBroke, RemovalRequested, TokenChanged
from peer.protocol.liveness import Liveness
from peer.protocol.messages import Rumour
from peer.protocol.suspicion import OwnSlowness
from peer.protocol.types import Lock, Status

SEEDS = int(os.environ.get("TOKENRING_SIM_SEEDS", "8"))
HOURS = float(os.environ.get("TOKENRING_SIM_HOURS", "0.1"))
TOKENS = [bytes([n]) * 32 for n in range(1, 9)]


def size(seed: int) -> int:
    return 2 + seed % 6


def took(lan: Lan, seconds: float | None, promise_s: float, what: str) -> float:
    lan.expect(seconds is not None and seconds <= promise_s, f"{what} took {seconds}, promised {promise_s} s")
    assert seconds is not None
    return seconds


def p95(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)]


def report(row: str, times: list[float]) -> None:
    ordered = sorted(times)
    print(f"{row}: p50 {ordered[len(ordered) // 2]:.2f} s, p95 {p95(times):.2f} s, worst {ordered[-1]:.2f} s")


def test_a_started_board_has_its_place_in_everyones_ring_within_two_seconds() -> None:
    times = []
    for seed in range(SEEDS):
        lan = started(seed, size(seed))
        victim = seed % size(seed)
        lan.leave(victim)
        lan.run_for(1.0)
        lan.start(victim)
        times.append(took(lan, lan.run_until(lan.one_ring, 10.0), 5.0, "the start"))
        lan.expect(lan.counters["refused_at_control"] == 0, "somebody spoke to a board that had not let it in")
    report("start to a place in everyone's ring", times)
    assert sorted(times)[len(times) // 2] <= 2.0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_seed_is_enough_without_multicast(seed: int) -> None:
    lan = Lan(seed, size(seed) + 2)
    lan.multicast = False
    boards = list(range(len(lan.boards)))
    for index in boards:
        lan.at(lan.random.uniform(0, 3), lambda i=index: lan.start(i, seeds=(max(0, i - 1),)))  # type: ignore[misc]
    lan.run_for(3.0)
    took(lan, lan.run_until(lan.one_ring, 15.0), 8.0, "joining")
    lan.expect(lan.counters["refused_at_control"] == 0, "somebody spoke to a board that had not let it in")


def test_twenty_boards_together_are_one_ring_within_fifteen_seconds() -> None:
    times = []
    for seed in range(max(1, SEEDS // 10)):
        lan = Lan(seed, 20, weather=Weather(loss=0.01), check_every=10)
        lan.start(*range(20))
        times.append(took(lan, lan.run_until(lan.one_ring, 20.0), 15.0, "twenty boards"))
        lan.run_for(20.0)
        lan.expect(lan.one_ring(), "the ring did not last")
    report("twenty boards together", times)


def crowd_that_settles(seed: int) -> tuple[float, float]:
    """Twenty boards that need 10 ms for every message start together; then half of them stand still for a while.

    In a ring that is left alone a third of their time goes into membership. Raises Violation unless they are one ring
    soon, both times, and doubt nobody afterwards; how soon, in seconds.
    """
    lan = Lan(seed, 20, weather=Weather(work_s=0.01, wake_s=0.02), check_every=100)
    lan.start(*range(20))
    gathered = took(lan, lan.run_until(lan.one_ring, 20.0), 15.0, "twenty slow boards")
    lan.run_for(5.0)
    for index in lan.random.sample(range(20), 10):
        lan.freeze(index, 3.0)
    lan.run_for(3.0)
    back = took(lan, lan.run_until(lan.one_ring, 20.0), 15.0, "the return of ten slow boards of twenty")
    lan.run_for(5.0)
    lan.counters.clear()
    lan.messages = 0
    lan.run_for(10.0)
    lan.expect(lan.one_ring() and not lan.counters, f"no peace: {lan.counters}")
    lan.expect(lan.messages / 20 / 10 <= 50.0, f"{lan.messages / 20 / 10} messages per board and second in peace")
    return gathered, back


def test_twenty_slow_boards_make_no_storm_of_accusations() -> None:
    times = [crowd_that_settles(seed) for seed in range(max(1, SEEDS // 20))]
    report("twenty slow boards together", [gathered for gathered, _ in times])
    report("ten slow boards of twenty that stood still", [back for _, back in times])


def test_without_lifeguards_care_the_storm_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above is about: boards that judge before they have read what came accuse each other for ever."""
    timer = Liveness.timer

    def judge_at_once(self: Liveness, now: float, *, late_s: float, unread: int) -> list[ControlEffect]:
        return timer(self, now, late_s=late_s, unread=0)

    def refute_unmoved(self: Liveness, rumour: Rumour) -> list[ControlEffect]:
        mine, self._slowness = self._slowness, OwnSlowness(ease_s=1.0)
        try:
            return refute(self, rumour)
        finally:
            self._slowness = mine

    refute = Liveness._refute
    monkeypatch.setattr(Liveness, "timer", judge_at_once)
    monkeypatch.setattr(Liveness, "_refute", refute_unmoved)
    monkeypatch.setattr("peer.protocol.liveness.MAX_CONFIRMATIONS", 1000)
    with pytest.raises(Violation):
        crowd_that_settles(0)


def test_a_crash_is_noticed_within_a_second_and_a_half() -> None:
    trusted, dead = [], []
    for seed in range(SEEDS):
        lan = started(seed, size(seed))
        victim = seed % size(seed)
        lan.crash(victim)
        trusted.append(took(lan, lan.run_until(lambda: lan.nobody_trusts(victim), 10.0), 1.5, "suspicion"))  # noqa: B023
        dead.append(trusted[-1] + took(lan, lan.run_until(lambda: lan.nobody_here(victim), 10.0), 5.0, "death"))  # noqa: B023
    report("crash: suspected", trusted)
    report("crash: dead", dead)
    assert p95(dead) <= 1.5


@pytest.mark.parametrize("way", ["power", "cable", "frozen"])
def test_silence_is_suspect_within_a_second_and_a_half_and_dead_within_five(way: str) -> None:
    trusted, dead = [], []
    for seed in range(SEEDS):
        lan = started(seed, size(seed))
        victim = seed % size(seed)
        match way:
            case "power":
                lan.crash(victim, silent=True)
            case "cable":
                lan.isolate(victim)
            case _:
                lan.freeze(victim, 60.0)
        others = [i for i in range(size(seed)) if i != victim]

        def all_hold(*wanted: Status, lan: Lan = lan, others: list[int] = others, victim: int = victim) -> bool:
            return all(lan.status(i, victim) in wanted for i in others)

        suspected = took(lan, lan.run_until(lambda: all_hold(Status.SUSPECT, Status.DEAD), 10.0), 2.0, "suspicion")
        trusted.append(suspected)
        dead.append(suspected + took(lan, lan.run_until(lambda: all_hold(Status.DEAD), 10.0), 5.0, "death"))
    report(f"{way}: suspected", trusted)
    report(f"{way}: dead", dead)
    assert p95(trusted) <= 1.5
    assert p95(dead) <= 5.0


@pytest.mark.parametrize("way", ["link", "frozen"])
def test_who_returns_is_back_in_everyones_ring_within_three_seconds(way: str) -> None:
    times = []
    for seed in range(SEEDS):
        lan = started(seed, size(seed))
        victim = seed % size(seed)
        away_s = Random(seed).choice([2.0, 6.0, 30.0, 55.0])
        if way == "frozen":
            lan.freeze(victim, away_s)
            lan.run_for(away_s)
        else:
            lan.isolate(victim)
            lan.run_for(away_s)
            lan.heal()
        times.append(took(lan, lan.run_until(lan.one_ring, 20.0), 5.0, "the return"))
    report(f"{way}: back after", times)
    assert p95(times) <= 3.0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_views_are_equal_ten_seconds_after_a_split_heals(seed: int) -> None:
    lan = started(seed, 2 + seed % 7)
    boards = range(len(lan.boards))
    group = set(lan.random.sample(boards, lan.random.randint(1, len(boards) - 1)))
    lan.split(group)
    lan.run_for(lan.random.choice([5.0, 20.0, 300.0]))
    if lan.now > 15.0:
        for side in (group, set(boards) - group):
            lan.expect(lan.one_ring(side), f"{side} is no ring of its own")
    lan.heal()
    took(lan, lan.run_until(lan.one_ring, 30.0), 10.0, "healing")
    lan.run_for(30.0)
    lan.expect(lan.one_ring(), "the ring did not last")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_cut_in_one_direction_is_bridged_by_the_others_without_flapping(seed: int) -> None:
    lan = started(seed, 3 + seed % 4)
    here, there = lan.random.sample(range(len(lan.boards)), 2)
    lan.cut = {(here, there)} if seed % 2 else {(here, there), (there, here)}
    lan.tell(f"cut {lan.cut}")
    lan.counters.clear()
    lan.run_for(60.0)
    lan.expect(lan.counters["dead_though_up"] == 0, "a board that others hear was declared dead")
    lan.expect(lan.one_ring(), "no ring with a cut between two boards")
    lan.heal()
    lan.run_for(5.0)
    lan.expect(lan.one_ring(), "no ring after the cut")


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("forgetful", [False, True])
def test_a_restart_is_another_start_everywhere_also_at_another_address(seed: int, *, forgetful: bool) -> None:
    lan = started(seed, size(seed))
    victim = seed % size(seed)
    for step in range(2):
        lan.crash(victim, silent=bool(seed % 2))
        lan.run_for(lan.random.choice([0.3, 1.3, 8.0]))
        lan.start(victim, forgetful=forgetful, host=f"new{step}" if seed % 3 else None)
        took(lan, lan.run_until(lan.one_ring, 20.0), 5.0, "the restart")
        lan.run_for(6.0)
        lan.expect(lan.one_ring(), "the ring did not last")
    members = [len(board.machine.view().members) for board in lan.boards]
    lan.expect(members == [len(lan.boards)] * len(lan.boards), f"a board is listed twice: {members}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_another_address_without_a_restart_and_without_multicast(seed: int) -> None:
    lan = started(seed, size(seed))
    lan.multicast = False
    lan.move(seed % size(seed), "elsewhere")
    lan.run_for(0.5)
    took(lan, lan.run_until(lan.one_ring, 20.0), 10.0, "the move")
    lan.run_for(10.0)
    lan.expect(lan.one_ring(), "the ring did not last")


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_busy_boards_are_not_declared_dead(loss: float) -> None:
    """Boards whose processes stand still for up to a second, again and again: suspected at times, dead never."""
    lan = started(int(loss * 100), 4, weather=Weather(loss=loss, wake_s=0.02), check_every=100)

    def stall() -> None:
        lan.freeze(lan.random.randrange(4), lan.random.uniform(0.05, 1.0))
        lan.at(lan.now + lan.random.expovariate(1 / 5.0), stall)

    lan.counters.clear()
    stall()
    lan.run_for(3600 * HOURS)
    lan.expect(lan.counters["dead_though_up"] <= 0.4 * HOURS * (loss > 0), "a board that was only busy was given up")
    print(f"{4 * HOURS:g} board-hours, loss {loss:g}: {dict(lan.counters)}")


def test_without_faults_nobody_is_ever_doubted() -> None:
    for seed in range(SEEDS):
        lan = started(seed, size(seed), check_every=10)
        lan.counters.clear()
        lan.run_for(60.0)
        lan.expect(not lan.counters, f"without a fault: {lan.counters}")


def test_a_flapping_link_is_dampened() -> None:
    for seed in range(max(2, SEEDS // 4)):
        lan = started(seed, 4)
        rebuilds = []

        def saw(here: int, there: int, status: Status, rebuilds: list[Status] = rebuilds) -> None:
            if (here, there) == (0, 3) and status is Status.ALIVE:
                rebuilds.append(status)

        lan.on_status = saw
        for _ in range(30):
            lan.isolate(3)
            lan.run_for(2.0)
            lan.heal()
            lan.run_for(2.0)
        lan.expect(len(rebuilds) <= 6, f"{len(rebuilds)} returns of a flapping board were believed")
        took(lan, lan.run_until(lan.one_ring, 60.0), 25.0, "trust")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_board_gets_the_new_token_also_of_two_at_once_and_after_being_away(seed: int) -> None:
    lan = Lan(seed, 2 + size(seed), weather=Weather(loss=0.05 * (seed % 2)))
    for board in lan.boards:
        board.lock = Lock(token=TOKENS[0], generation=0)
    lan.start(*range(len(lan.boards)))
    lan.expect(lan.run_until(lan.one_ring, 15.0) is not None, "no ring")
    lan.isolate(0)
    lan.run_for(lan.random.choice([0.2, 3.0, 20.0]))
    rotating = lan.random.sample(range(1, len(lan.boards)), min(2, len(lan.boards) - 1))
    for rotated, index in enumerate(rotating):
        lan.dispatch(lan.boards[index], TokenChanged(token=TOKENS[1 + rotated]))
    lan.run_for(5.0)
    lan.heal()
    lan.run_for(30.0)
    locks = {(board.lock.generation, board.lock.token) for board in lan.boards if board.lock}
    lan.expect(locks == {(1, TOKENS[len(rotating)])}, f"locks {locks}")
    lan.expect(lan.one_ring(), "the rotation broke the ring")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_revoked_board_is_out_everywhere_and_stays_out(seed: int) -> None:
    lan = Lan(seed, 1 + size(seed))
    for board in lan.boards:
        board.lock = Lock(token=TOKENS[0], generation=0)
    lan.start(*range(len(lan.boards)))
    lan.expect(lan.run_until(lan.one_ring, 15.0) is not None, "no ring")
    victim, witness = lan.random.sample(range(len(lan.boards)), 2)
    missed = next((i for i in range(len(lan.boards)) if i not in (victim, witness)), None)
    if missed is not None and seed % 2:
        lan.isolate(missed)
    lan.dispatch(lan.boards[witness], RemovalRequested(peer=lan.boards[victim].peer, revoked=True))
    lan.dispatch(lan.boards[witness], TokenChanged(token=TOKENS[1]))
    lan.run_for(8.0)
    rest = {board.index for board in lan.boards} - {victim}
    if seed % 4 == 3:
        # Who missed it comes back when all the others have forgotten what they did not write down.
        lan.start(*sorted(rest - {missed}))
        lan.run_for(5.0)
    lan.heal()
    lan.run_for(40.0)
    lan.start(victim, seeds=tuple(sorted(rest)))
    lan.run_for(10.0)
    for index in rest:
        lan.expect(lan.status(index, victim) is None, f"b{index} still lists the revoked board")
        lan.expect(lan.boards[victim].key not in lan.boards[index].admitted, f"b{index} admits the revoked key")
    lan.expect(lan.one_ring(rest), "the rest is no ring")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_forgotten_board_is_forgotten_everywhere_and_may_come_back(seed: int) -> None:
    lan = started(seed, 1 + size(seed))
    victim, witness = lan.random.sample(range(len(lan.boards)), 2)
    lan.crash(victim)
    lan.run_for(8.0)
    lan.dispatch(lan.boards[witness], RemovalRequested(peer=lan.boards[victim].peer, revoked=False))
    lan.run_for(30.0)
    for board in lan.here():
        lan.expect(lan.status(board.index, victim) is None, f"b{board.index} still lists the forgotten board")
    lan.start(victim)
    took(lan, lan.run_until(lan.one_ring, 15.0), 5.0, "coming back")


def test_other_versions_and_other_models_are_listed_and_never_form_a_ring() -> None:
    lan = Lan(5, 4)
    lan.boards[1].version = 2
    lan.boards[2].models = frozenset({OTHER_MODEL})
    lan.start(0, 1, 2, 3)
    lan.run_for(20.0)
    assert (lan.status(0, 1), lan.status(0, 2), lan.status(0, 3)) == ("incompatible", "incompatible", "alive")
    stranger = lan.boards[0].machine.view().members[lan.boards[1].peer]
    assert "install the same release" in stranger.reason
    lan.crash(1)
    lan.crash(2)
    lan.run_for(120.0)
    assert (lan.status(0, 1), lan.status(0, 2)) == ("dead", "dead")
    lan.boards[1].version = lan.boards[0].version
    lan.boards[2].models = lan.boards[0].models
    lan.start(1, 2)
    lan.run_for(5.0)
    assert lan.one_ring(), lan.violation("after the upgrade")


def test_a_board_whose_worker_is_stuck_is_given_up_until_it_works_again() -> None:
    for seed in range(SEEDS):
        lan = started(seed, size(seed))
        victim = seed % size(seed)
        lan.boards[victim].machine.stuck_s = 11.0
        took(lan, lan.run_until(lambda: lan.nobody_here(victim), 10.0), 6.0, "giving up a stuck board")  # noqa: B023
        lan.counters.clear()
        lan.run_for(30.0)
        lan.expect(lan.nobody_here(victim), "a stuck board came back")
        lan.boards[victim].machine.stuck_s = 0.0
        took(lan, lan.run_until(lan.one_ring, 10.0), 3.0, "the return of a stuck board")


def chaos(lan: Lan, *, rotating: bool) -> None:
    """One random misfortune, or the end of one.

    Where tokens are `rotating`, boards keep their lists and addresses: one that lost either and has an old token as
    well is a stranger.
    """
    random, boards = lan.random, range(len(lan.boards))
    index, other = random.choice(boards), random.choice(boards)
    match random.randrange(12):
        case 0:
            lan.crash(index, silent=random.random() < 0.5)
        case 1 | 2:
            forgetful, moved = random.random() < 0.2, random.random() < 0.5
            host = f"h{index}.{random.randrange(9)}" if moved and not rotating else None
            lan.start(index, forgetful=forgetful and not rotating, host=host)
        case 3:
            lan.freeze(index, random.choice([0.3, 1.0, 4.0, 15.0]))
        case 4:
            lan.isolate(index)
        case 5:
            lan.split(set(random.sample(boards, random.randint(1, len(boards)))))
        case 6 | 7:
            lan.heal()
        case 8:
            lan.cut.add((index, other))
        case 9:
            if lan.boards[index].up:
                lan.leave(index)
        case 10:
            if rotating:
                lan.dispatch(lan.boards[index], TokenChanged(token=random.choice(TOKENS)))
        case _:
            lan.dispatch(lan.boards[index], LinkBroke(peer=lan.boards[other].peer))


@pytest.mark.parametrize("seed", range(2 * SEEDS))
def test_after_any_misfortune_and_a_quiet_while_all_views_are_equal(seed: int) -> None:
    random = Random(seed)
    rough = Weather(tcp=False, loss=0.1, duplicate=0.1, delay_s=0.02, wake_s=0.05)
    weather = rough if seed % 3 == 0 else Weather(loss=random.choice([0.0, 0.05]), wake_s=random.choice([0.005, 0.1]))
    lan = Lan(seed, random.randint(2, 8), weather=weather)
    for board in lan.boards:
        board.lock = Lock(token=TOKENS[0], generation=0)
    lan.start(*range(len(lan.boards)))
    lan.expect(lan.run_until(lan.one_ring, 30.0) is not None, "no ring")
    for _ in range(25):
        chaos(lan, rotating=seed % 2 == 0)
        lan.run_for(random.choice([0.05, 0.5, 2.0, 8.0]))
    lan.heal()
    lan.tell("quiet")
    lan.weather.loss = lan.weather.duplicate = 0.0
    for board in lan.boards:
        if board.up and not board.away:
            lan.announce(board.index)
    took(lan, lan.run_until(lan.one_ring, 90.0, step_s=0.1), 60.0, "agreement")
    lan.run_for(40.0)
    lan.expect(lan.one_ring(), "the ring did not last")
    lan.expect(len({board.lock for board in lan.here()}) <= 1, "two tokens")
