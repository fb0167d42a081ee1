"""Views of simulated boards: they become equal, notice who is gone, and never doubt a board without a reason."""

from random import Random

import pytest
from membership_network import MODEL, PACE, Members, address_of, pairs_once, peer_of

from peer.protocol.membership import Address, ControlReceived, LeaveRequested, Membership, SendControl, TimerDue
from peer.protocol.messages import Goodbye, Hello, Ping, Pong, Stranger
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, Status

SEEDS = 25
ALIVE, DEAD, LEFT = "alive", "dead", "left"


def members(seed: int, *, loss: float = 0.0) -> tuple[Members, Random]:
    random = Random(seed)
    boards = random.randint(2, 6)
    return Members(seed, boards, pairs_once(boards, random), loss=loss), random


def all_alive(network: Members) -> dict[int, str]:
    return dict.fromkeys(range(len(network.boards)), ALIVE)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_without_faults_views_become_equal_and_nobody_is_ever_doubted(seed: int) -> None:
    network, _ = members(seed)
    network.run_until(2.0)
    network.expect_everybody(all_alive(network))
    network.run_until(60.0)
    network.expect_everybody(all_alive(network))
    assert not network.ever_doubted, network.violation("a board was doubted")
    assert all(
        member.rtt_s is not None and member.rtt_s < 1
        for board in network.boards
        for member in board.machine.view().members.values()
        if member.peer != peer_of(board.index)
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_views_become_equal_after_heavy_loss(seed: int) -> None:
    network, _ = members(seed, loss=0.4)
    network.run_until(40.0)
    network.loss = 0.0
    network.run_until(60.0)
    network.expect_everybody(all_alive(network))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_crash_is_noticed_and_a_restart_rejoins(seed: int) -> None:
    network, random = members(seed)
    network.run_until(3.0)
    victim = random.randrange(len(network.boards))
    network.crash(victim)
    network.run_until(3.0 + PACE.dead_s + PACE.ping_s + 0.2)
    network.expect_everybody(all_alive(network) | {victim: DEAD})
    network.run_until(random.uniform(11.0, 60.0))
    network.restart(victim)
    network.run_until(network.now + PACE.hello_last_s + 1.0)
    network.expect_everybody(all_alive(network))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_restart_faster_than_any_suspicion_is_a_new_incarnation_everywhere(seed: int) -> None:
    network, random = members(seed)
    network.run_until(3.0)
    network.restart(random.randrange(len(network.boards)))
    network.run_until(12.0)
    network.expect_everybody(all_alive(network))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_goodbye_is_believed_at_once_and_a_later_start_rejoins(seed: int) -> None:
    network, random = members(seed)
    network.run_until(3.0)
    victim = random.randrange(len(network.boards))
    network.leave(victim)
    network.run_until(3.2)
    for board in network.boards:
        if board.index != victim:
            assert network.statuses(board.index)[victim] == LEFT
    network.run_until(20.0)
    network.expect_everybody(all_alive(network) | {victim: LEFT})
    network.restart(victim)
    network.run_until(20.0 + PACE.hello_last_s + 1.0)
    network.expect_everybody(all_alive(network))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_cut_is_noticed_and_heals(seed: int) -> None:
    network, random = members(seed)
    network.run_until(3.0)
    victim = random.randrange(len(network.boards))
    others = [i for i in range(len(network.boards)) if i != victim]
    network.cut = {(victim, i) for i in others} | {(i, victim) for i in others}
    network.run_until(11.0)
    for other in others:
        assert network.statuses(other)[victim] == DEAD
    network.cut.clear()
    network.run_until(11.0 + PACE.hello_last_s + 1.0)
    network.expect_everybody(all_alive(network))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_way_cuts_and_broken_links_heal(seed: int) -> None:
    network, random = members(seed)
    network.run_until(3.0)
    here, there = random.sample(range(len(network.boards)), 2)
    network.cut = {(here, there)}
    network.run_until(11.0)
    assert network.statuses(there)[here] == DEAD
    network.cut.clear()
    network.link_broke(here, there)
    network.run_until(20.0)
    network.expect_everybody(all_alive(network))


def test_a_broken_link_is_a_suspicion_until_the_board_is_heard_again() -> None:
    network = Members(1, 2, {(0, 1)})
    network.run_until(3.5)
    network.link_broke(0, 1)
    assert network.statuses(0)[1] == "suspect"
    network.run_until(3.6)
    assert network.statuses(0)[1] == ALIVE
    network.crash(1)
    network.link_broke(0, 1)
    network.run_until(3.6 + PACE.dead_s - PACE.suspect_s + PACE.ping_s)
    assert network.statuses(0)[1] == DEAD


def test_boards_of_another_version_are_listed_with_a_remedy_and_join_after_the_upgrade() -> None:
    network = Members(1, 2, {(0, 1), (1, 0)})
    network.boards[1].version = 2
    network.run_until(20.0)
    stranger = network.boards[0].machine.view().members[peer_of(1)]
    assert stranger.status is Status.INCOMPATIBLE
    assert "protocol 2; install the same release" in stranger.reason
    network.restart(1)
    network.run_until(30.0)
    network.expect_everybody(all_alive(network))


def test_boards_without_a_common_model_are_listed_and_never_taken_for_able() -> None:
    network = Members(1, 2, {(0, 1)})
    network.restart(1, models=frozenset({ModelId("77" * 32)}))
    network.run_until(5.0)
    network.expect_everybody({0: "incompatible", 1: "incompatible"})
    network.cut = {(0, 1), (1, 0)}
    network.run_until(15.0)
    network.expect_everybody({0: DEAD, 1: DEAD})
    network.cut.clear()
    network.run_until(25.0)
    network.expect_everybody({0: "incompatible", 1: "incompatible"})


# One machine, step by step.


def own(incarnation: int = 5) -> Member:
    return Member(
        peer=peer_of(0),
        name="b0",
        endpoint=Endpoint(host="", control_port=7411, data_port=7412),
        incarnation=Incarnation(incarnation),
        status=Status.ALIVE,
        models=frozenset({MODEL}),
    )


def machine(*seeds: Address) -> Membership:
    return Membership(me=own(), seeds=seeds, pace=PACE, now=0.0)


def hello(index: int, *, incarnation: int = 1, host: str = "", answer: bool = False) -> Hello:
    return Hello(
        sender=peer_of(index),
        incarnation=Incarnation(incarnation),
        name=f"b{index}",
        endpoint=Endpoint(host=host, control_port=7411, data_port=7412),
        models=(MODEL,),
        answer=answer,
    )


def receive(
    board: Membership, message: Hello | Ping | Pong | Goodbye | Stranger, now: float = 0.0
) -> list[SendControl]:
    effects = board.handle(ControlReceived(message=message, source=f"b{int(message.sender, 16) - 1}"), now)
    board.check()
    return [effect for effect in effects if isinstance(effect, SendControl)]


def greeted(board: Membership, now: float) -> set[str]:
    effects = board.handle(TimerDue(), now)
    return {e.to.host for e in effects if isinstance(e, SendControl) and isinstance(e.message, Hello)}


def test_a_greeting_is_answered_once_and_to_where_it_came_from() -> None:
    board = machine()
    (answer,) = receive(board, hello(1))
    assert answer.to == address_of(1)
    assert isinstance(answer.message, Hello)
    assert answer.message.answer
    assert receive(board, hello(1, answer=True)) == []
    (answer,) = receive(board, hello(2, host="10.0.0.9"))
    assert answer.to.host == "10.0.0.9"


def test_old_incarnations_are_dropped() -> None:
    board = machine()
    receive(board, hello(1, incarnation=3))
    assert receive(board, hello(1, incarnation=2)) == []
    receive(board, Goodbye(sender=peer_of(1), incarnation=Incarnation(2)))
    assert board.view().members[peer_of(1)].status is Status.ALIVE
    assert receive(board, Ping(sender=peer_of(1), incarnation=Incarnation(2), sequence=1, speed=0.0)) == []
    assert board.counters == {"old_incarnations": 1, "unknown_senders": 1}


def test_a_goodbye_holds_against_greetings_still_on_their_way() -> None:
    board = machine()
    receive(board, hello(1))
    receive(board, Goodbye(sender=peer_of(1), incarnation=Incarnation(1)))
    assert receive(board, hello(1)) == []
    assert board.view().members[peer_of(1)].status is Status.LEFT
    receive(board, hello(1, incarnation=2))
    assert board.view().members[peer_of(1)].status is Status.ALIVE


def test_a_seed_that_left_is_greeted_again() -> None:
    board = machine(address_of(1))
    assert greeted(board, 0.0) == {"b1"}
    receive(board, hello(1, answer=True), 0.1)
    assert greeted(board, 1.0) == set()
    receive(board, Goodbye(sender=peer_of(1), incarnation=Incarnation(1)), 2.0)
    assert greeted(board, 3.0) == {"b1"}


def test_hearing_oneself_silences_no_seed_that_might_be_another_board() -> None:
    board = machine(address_of(0), address_of(1))
    assert greeted(board, 0.0) == {"b0", "b1"}
    assert receive(board, hello(0, incarnation=5)) == []
    assert greeted(board, 1.0) == {"b0", "b1"}
    receive(board, hello(1, answer=True), 1.0)
    receive(board, hello(0, incarnation=5), 1.0)
    assert greeted(board, 9.0) == set()
    assert board.view().members.keys() == {peer_of(0), peer_of(1)}


def test_a_copy_of_this_board_is_counted() -> None:
    board = machine()
    assert receive(board, hello(0, incarnation=6)) == []
    assert board.counters["own_id_seen_elsewhere"] == 1


def test_a_pong_nobody_asked_for_measures_nothing() -> None:
    board = machine()
    receive(board, hello(1), 50.0)
    receive(board, Pong(sender=peer_of(1), incarnation=Incarnation(1), sequence=0), 50.0)
    assert board.view().members[peer_of(1)].rtt_s is None
    board.handle(TimerDue(), 50.0)
    for at in (50.25, 51.0):
        receive(board, Pong(sender=peer_of(1), incarnation=Incarnation(1), sequence=1), at)
    assert board.view().members[peer_of(1)].rtt_s == 0.25


def test_a_leaving_board_says_goodbye_and_then_nothing() -> None:
    board = machine(address_of(1), address_of(2))
    receive(board, hello(1))
    goodbyes = [e for e in board.handle(LeaveRequested(), 1.0) if isinstance(e, SendControl)]
    assert [type(e.message) for e in goodbyes] == [Goodbye]
    assert board.deadline() is None
    assert board.handle(TimerDue(), 9.0) == []
    assert receive(board, hello(1)) == []
    assert receive(board, hello(2)) == []
    assert receive(board, Ping(sender=peer_of(1), incarnation=Incarnation(1), sequence=1, speed=0.0)) == []


def test_lists_are_bounded_and_whoever_is_gone_makes_room() -> None:
    board = machine(address_of(999))
    for index in range(1, 400):
        receive(board, hello(index), 0.0)
    assert board.counters["members_refused"] == 399 - 256
    for step in range(300):
        receive(board, hello(1, host=f"10.0.{step // 250}.{step % 250}"), 0.0)
    assert len(board._dials) <= 1 + 256
    receive(board, Goodbye(sender=peer_of(7), incarnation=Incarnation(1)), 1.0)
    receive(board, hello(900), 2.0)
    known = board.view().members
    assert peer_of(900) in known
    assert peer_of(7) not in known
    receive(board, Stranger(sender=peer_of(901), version=2, name="x"), 2.0)
    assert peer_of(901) not in known
    board.handle(TimerDue(), 30.0)
    receive(board, Stranger(sender=peer_of(901), version=2, name="x"), 31.0)
    assert peer_of(901) in board.view().members
    for at in range(32, 40):
        board.handle(TimerDue(), float(at))
        board.check()
