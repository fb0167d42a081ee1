"""The same network, steered by hypothesis: any order of requests, faults and steps, then rest."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pretended_compute import submission
from request_network import Faults, Network

from peer.protocol.events import Mode
from peer.protocol.types import Exchange, RequestId

BOARDS = st.integers(0, 4)
EXAMPLES = int(os.environ.get("TOKENRING_SIM_EXAMPLES", "150"))  # make sim plays thousands


class Boards(RuleBasedStateMachine):
    """Five boards; what is left undone at the end is played out by `teardown`."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(0, 5, Faults())
        self.requests = 0

    @initialize(seed=st.integers(0, 1 << 16), reorder=st.booleans(), silent=st.sampled_from([0.0, 1.0]))
    def start(self, seed: int, reorder: bool, silent: float) -> None:
        self.network = Network(seed, 5, Faults(reorder=reorder, silent=silent))

    @rule(
        board=BOARDS,
        boards=st.sampled_from([None, 1, 2, 3, 5]),
        exchange=st.sampled_from(list(Exchange)),
        mode=st.sampled_from(list(Mode)),
        left_s=st.sampled_from([0.05, 3.0, 10.0]),
    )
    def ask(self, board: int, boards: int | None, exchange: Exchange, mode: Mode, left_s: float) -> None:
        self.requests += 1
        asked = submission(
            self.requests, deadline_at=self.network.now + left_s, boards=boards, exchange=exchange, mode=mode
        )
        self.network.submit(board, asked)

    @rule(steps=st.integers(1, 60))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.network.step()

    @rule(request=st.integers(1, 8))
    def cancel(self, request: int) -> None:
        self.network.cancel(RequestId(request))

    @rule(board=BOARDS, noticed_s=st.sampled_from([0.0, 0.3, 3.0]))
    def crash(self, board: int, noticed_s: float) -> None:
        self.network.crash(board, noticed_s=noticed_s)

    @rule(board=BOARDS)
    def restart(self, board: int) -> None:
        self.network.restart(board)

    @rule(here=BOARDS, there=BOARDS)
    def cut(self, here: int, there: int) -> None:
        self.network.faults.cut.add((here, there))

    @precondition(lambda self: self.network.faults.cut)
    @rule()
    def heal(self) -> None:
        self.network.faults.cut.clear()

    @rule(loss=st.sampled_from([0.0, 0.1]), duplicate=st.sampled_from([0.0, 0.5]), stage=st.sampled_from([0.0, 0.1]))
    def weather(self, loss: float, duplicate: float, stage: float) -> None:
        self.network.faults.loss, self.network.faults.duplicate, self.network.faults.stage = loss, duplicate, stage

    @invariant()
    def machines_are_sound(self) -> None:
        for board in self.network.boards:
            board.machine.check()

    def teardown(self) -> None:
        self.network.run()


TestBoards = Boards.TestCase
TestBoards.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
