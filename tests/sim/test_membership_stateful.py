"""The same LAN, steered by hypothesis: any order of misfortunes, then quiet, then one ring."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from membership_network import Lan, Weather

from peer.protocol.control_events import LinkBroke, RemovalRequested, Sighted, TokenChanged
from peer.protocol.types import Address, Lock, Status

BOARDS = 4
INDEX = st.integers(0, BOARDS - 1)
TOKEN = bytes(32)
EXAMPLES = int(os.environ.get("TOKENRING_SIM_EXAMPLES", "60"))  # make sim plays thousands


class Boards(RuleBasedStateMachine):
    """Four boards; `teardown` heals what is broken and waits for agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.lan = Lan(0, BOARDS)
        self.rotating = False

    @initialize(seed=st.integers(0, 1 << 16), tcp=st.booleans(), rotating=st.booleans())
    def start_all(self, *, seed: int, tcp: bool, rotating: bool) -> None:
        self.lan = Lan(seed, BOARDS, weather=Weather(tcp=tcp))
        self.rotating = rotating
        for board in self.lan.boards:
            board.lock = Lock(token=TOKEN, generation=0)
        self.lan.start(*range(BOARDS))
        self.lan.expect(self.lan.run_until(self.lan.one_ring, 10.0) is not None, "no ring")

    @rule(for_s=st.sampled_from([0.001, 0.1, 0.7, 2.0, 6.0]))
    def go_on(self, for_s: float) -> None:
        self.lan.run_for(for_s)

    @rule(index=INDEX, forgetful=st.booleans(), moved=st.integers(0, 3))
    def start(self, *, index: int, forgetful: bool, moved: int) -> None:
        # A board that lost its list or its address while the token was rotated is a stranger, and stays out.
        host = f"h{index}.{moved}" if moved and not self.rotating else None
        self.lan.start(index, forgetful=forgetful and not self.rotating, host=host)

    @rule(index=INDEX, silent=st.booleans())
    def crash(self, *, index: int, silent: bool) -> None:
        self.lan.crash(index, silent=silent)

    @rule(index=INDEX)
    def leave(self, index: int) -> None:
        if self.lan.boards[index].up:
            self.lan.leave(index)

    @rule(index=INDEX, for_s=st.sampled_from([0.2, 0.9, 4.0, 20.0]))
    def freeze(self, index: int, for_s: float) -> None:
        self.lan.freeze(index, for_s)

    @rule(here=INDEX, there=INDEX, both=st.booleans())
    def cut(self, *, here: int, there: int, both: bool) -> None:
        self.lan.cut |= {(here, there), (there, here)} if both else {(here, there)}
        self.lan.tell(f"cut {sorted(self.lan.cut)}")

    @rule()
    def heal(self) -> None:
        self.lan.heal()

    @rule(index=INDEX, token=st.integers(1, 3))
    def rotate(self, index: int, token: int) -> None:
        if self.rotating:
            self.lan.dispatch(self.lan.boards[index], TokenChanged(token=bytes([token]) * 32))

    @rule(index=INDEX, other=INDEX)
    def forget(self, index: int, other: int) -> None:
        # Nobody knows a forgotten board's key: one that was away while the token was rotated stays out (see below).
        if not self.lan.boards[other].up and not self.rotating:
            removal = RemovalRequested(peer=self.lan.boards[other].peer, revoked=False)
            self.lan.dispatch(self.lan.boards[index], removal)

    @rule(index=INDEX, other=INDEX)
    def link_broke(self, index: int, other: int) -> None:
        self.lan.dispatch(self.lan.boards[index], LinkBroke(peer=self.lan.boards[other].peer))

    @rule(index=INDEX, port=st.sampled_from([0, 22, 7411, 40_000]))
    def hint(self, index: int, port: int) -> None:
        self.lan.dispatch(self.lan.boards[index], Sighted(address=Address(host="nobody", port=port)))

    @invariant()
    def nobody_believes_in_a_later_start_than_there_was(self) -> None:
        for board in self.lan.here():
            for peer, member in board.machine.view().members.items():
                real = next(b for b in self.lan.boards if b.peer == peer)
                self.lan.expect(member.incarnation >> 16 <= real.starts, f"b{board.index} believes {member}")
                self.lan.expect(member.status is not Status.REFUSED, "nobody is refused")

    def teardown(self) -> None:
        self.lan.heal()
        for board in self.lan.here():
            self.lan.announce(board.index)
        agreed = self.lan.run_until(self.lan.one_ring, 60.0, step_s=0.1)
        self.lan.expect(agreed is not None, "no agreement after a quiet minute")
        self.lan.run_for(25.0)
        self.lan.expect(self.lan.one_ring(), "the ring did not last")


TestBoards = Boards.TestCase
TestBoards.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_board_that_is_forgotten_while_the_token_is_rotated_needs_the_new_one() -> None:
    lan = Lan(0, BOARDS)
    for board in lan.boards:
        board.lock = Lock(token=TOKEN, generation=0)
    lan.start(*range(BOARDS))
    lan.expect(lan.run_until(lan.one_ring, 10.0) is not None, "no ring")
    lan.leave(2)
    lan.dispatch(lan.boards[0], TokenChanged(token=bytes([1]) * 32))
    lan.run_for(0.7)
    lan.dispatch(lan.boards[0], RemovalRequested(peer=lan.boards[2].peer, revoked=False))
    lan.start(2)
    lan.heal()
    lan.run_for(60.0)
    alone = lan.boards[2]
    assert lan.one_ring({0, 1, 3})
    assert [m.peer for m in alone.machine.view().alive()] == [alone.peer]
    lan.crash(2, silent=False)
    alone.lock = lan.boards[0].lock
    lan.start(2)
    assert lan.run_until(lan.one_ring, 60.0) is not None
