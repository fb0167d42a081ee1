"""One board's part of one attempt: every phase meets every event."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest
from protocol_cases import BLOCKS, FACTS, REQUEST, TOKENS, assign, codes, codes_length, names, peer

from peer.errors import LocalProtocolError
from peer.protocol.effects import Attend, Effect, Query, Send
from peer.protocol.events import CodesReady, ComputeFailed, ShardDone
from peer.protocol.messages import Codes, Failed, Feature
from peer.protocol.participant import Participant, Phase
from peer.protocol.types import AttemptKey, CodecFacts, Exchange, FailureReason, PeerId, Timing

KEY = AttemptKey(REQUEST, 1)
BOARDS, ME = 3, 1


def participant(boards: int = BOARDS, me: int = ME, exchange: Exchange = Exchange.DIRECT) -> Participant:
    return Participant(assign=assign(boards, exchange=exchange), me=me, facts=FACTS, now=0.0)


def ready(block: int, boards: int = BOARDS, me: int = ME) -> CodesReady:
    return CodesReady(key=KEY, block=block, body=bytes(codes_length(boards, me, block)))


def finished() -> ShardDone:
    return ShardDone(key=KEY, timing=Timing(compute_us=5), body=bytes(8))


def through(shard: Participant, blocks: int) -> Participant:
    """Run whole rounds."""
    for block in range(blocks):
        shard.codes_ready(ready(block), 0.0)
        shard.query_done(0.0)
        for origin in (0, 2):
            shard.codes(codes(BOARDS, origin, block), 0.0)
    return shard


def computing() -> Participant:
    return through(participant(), 1)


def querying() -> Participant:
    shard = computing()
    shard.codes_ready(ready(1), 0.0)
    return shard


def waiting() -> Participant:
    """The query is done, and one of two code messages is here."""
    shard = querying()
    shard.query_done(0.0)
    shard.codes(codes(BOARDS, 0, 1), 0.0)
    return shard


def last() -> Participant:
    return through(participant(), BLOCKS)


STATES: dict[str, Callable[[], Participant]] = {
    "computing": computing,
    "querying": querying,
    "waiting": waiting,
    "last": last,
}
EVENTS: dict[str, Callable[[Participant], list[Effect]]] = {
    "CodesReady": lambda p: p.codes_ready(ready(1), 1.0),
    "CodesReady of another block": lambda p: p.codes_ready(ready(2), 1.0),
    "QueryDone": lambda p: p.query_done(1.0),
    "ShardDone": lambda p: p.shard_done(finished()),
    "Codes of the block": lambda p: p.codes(codes(BOARDS, 2, 1), 1.0),
    "Codes again": lambda p: p.codes(codes(BOARDS, 0, 1), 1.0) and p.codes(codes(BOARDS, 0, 1), 1.0),
    "Codes one block ahead": lambda p: p.codes(codes(BOARDS, 2, 2), 1.0),
    "Codes of a block that is over": lambda p: p.codes(codes(BOARDS, 2, 0), 1.0),
    "Codes of another length": lambda p: p.codes(replace(codes(BOARDS, 2, 1), body=b"?"), 1.0),
    "ComputeFailed": lambda p: p.compute_failed(
        ComputeFailed(key=KEY, reason=FailureReason.STAGE_FAILED, blamed=(), detail="x")
    ),
    "a needed board lost": lambda p: p.peer_lost(peer(2), 1.0),
    "the coordinator lost": lambda p: p.peer_lost(peer(0), 1.0),
    "a stranger lost": lambda p: p.peer_lost(peer(9), 1.0),
    "timer, early": lambda p: p.timer(4.9),
    "timer, round": lambda p: p.timer(5.0),
    "timer, deadline": lambda p: p.timer(60.0),
    "abandoned": lambda p: p.abandon(),
}
REFUSED, NOTHING, END, FAIL = "refused", "-", "done: Forget", "done: Failed Forget"
TABLE: dict[str, tuple[str, str, str, str]] = {  # event: computing, querying, waiting, last
    "CodesReady": ("exchanging: Codes Codes Query", REFUSED, REFUSED, REFUSED),
    "CodesReady of another block": (REFUSED, REFUSED, REFUSED, REFUSED),
    "QueryDone": (REFUSED, NOTHING, NOTHING, REFUSED),
    "ShardDone": (REFUSED, REFUSED, REFUSED, "done: Feature Forget"),
    "Codes of the block": (NOTHING, NOTHING, "computing: Attend", NOTHING),
    "Codes again": (NOTHING, NOTHING, NOTHING, NOTHING),
    "Codes one block ahead": (NOTHING, NOTHING, NOTHING, NOTHING),
    "Codes of a block that is over": (NOTHING, NOTHING, NOTHING, NOTHING),
    "Codes of another length": (FAIL, FAIL, FAIL, NOTHING),
    "ComputeFailed": (FAIL, FAIL, FAIL, FAIL),
    "a needed board lost": (FAIL, FAIL, FAIL, NOTHING),
    "the coordinator lost": (END, END, END, END),
    "a stranger lost": (NOTHING, NOTHING, NOTHING, NOTHING),
    "timer, early": (NOTHING, NOTHING, NOTHING, NOTHING),
    "timer, round": (NOTHING, FAIL, FAIL, NOTHING),
    "timer, deadline": (END, END, END, END),
    "abandoned": (END, END, END, END),
}


def test_the_table_is_complete() -> None:
    assert TABLE.keys() == EVENTS.keys()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_phase_meets_every_event(state: str, event: str) -> None:
    shard = STATES[state]()
    before = shard.phase
    expected = TABLE[event][list(STATES).index(state)]
    if expected == REFUSED:
        with pytest.raises(LocalProtocolError):
            EVENTS[event](shard)
        assert shard.phase is before
        return
    effects = EVENTS[event](shard)
    shard.check()
    if expected == NOTHING:
        assert not effects
        assert shard.phase is before
    else:
        assert f"{shard.phase.value}: {' '.join(names(effects))}" == expected


def test_codes_that_cannot_be_are_counted_and_dropped() -> None:
    shard = querying()
    wrong = [
        codes(BOARDS, ME, 1),
        replace(codes(BOARDS, 0, 1), origin=9),
        codes(BOARDS, 0, 1, epoch=8),
        codes(BOARDS, 0, 0),
        replace(codes(BOARDS, 0, 2), block=3),
        replace(codes(BOARDS, 0, 2), block=65535),
    ]
    for message in wrong:
        assert shard.codes(message, 1.0) == []
    assert shard.refused == len(wrong)
    shard.codes(codes(BOARDS, 0, 1), 1.0)
    shard.codes(codes(BOARDS, 0, 1), 1.0)
    assert shard.refused == len(wrong) + 1


def test_a_duplicate_cannot_replace_the_first() -> None:
    shard = querying()
    shard.codes(codes(BOARDS, 0, 1), 1.0)
    shard.codes(replace(codes(BOARDS, 0, 1), body=bytes(codes_length(BOARDS, 0, 1))), 1.0)
    shard.codes(codes(BOARDS, 2, 1), 1.0)
    (attend,) = shard.query_done(2.0)
    assert isinstance(attend, Attend)
    assert attend.payloads[0].body == codes(BOARDS, 0, 1).body


def test_own_codes_go_out_before_the_local_work_starts() -> None:
    effects = participant().codes_ready(ready(0), 0.0)
    assert [type(effect) for effect in effects] == [Send, Send, Query]


def test_a_round_that_times_out_names_whose_codes_are_missing() -> None:
    shard = waiting()
    assert shard.deadline() == 5.0
    send = shard.timer(5.0)[0]
    assert isinstance(send, Send)
    assert send.to == peer(0)
    assert isinstance(send.message, Failed)
    assert (send.message.reason, send.message.missing) == (FailureReason.ROUND_TIMEOUT, (2,))


def test_a_board_that_is_slow_itself_accuses_nobody() -> None:
    shard = querying()
    for origin in (0, 2):
        assert shard.codes(codes(BOARDS, origin, 1), 0.1) == []
    assert shard.deadline() == 60.0
    assert shard.timer(10.0) == []
    assert names(shard.query_done(11.0)) == ["Attend"]


def test_a_shard_alone_exchanges_nothing() -> None:
    shard = participant(boards=1, me=0)
    for block in range(BLOCKS):
        assert names(shard.codes_ready(CodesReady(key=KEY, block=block, body=b""), 0.0)) == ["Query"]
        assert names(shard.query_done(0.0)) == ["Attend"]
    assert names(shard.shard_done(finished())) == ["Feature", "Forget"]


def test_silent_blocks_have_no_round() -> None:
    """Codes of block 0 and 2 travel; block 1 is done together with block 0."""
    bits = (64, 0, 80)
    facts = replace(FACTS, codecs={"plain": CodecFacts(name="plain", bits_per_token=bits)})
    shard = Participant(assign=assign(BOARDS), me=ME, facts=facts, now=0.0)
    for block in (0, 2):
        with pytest.raises(LocalProtocolError, match="came while block"):
            shard.codes_ready(ready(1), 0.0)
        assert names(shard.codes_ready(ready(block), 0.0)) == ["Codes", "Codes", "Query"]
        assert shard.query_done(0.0) == []
        assert shard.codes(replace(codes(BOARDS, 0, 1), body=b""), 0.0) == []  # nobody has anything to say before it
        assert shard.refused == 1 + block // 2
        if block == 0:
            assert shard.codes(codes(BOARDS, 0, 2), 0.0) == []  # one round ahead
        shard.check()
        arriving = [codes(BOARDS, origin, block) for origin in ((0, 2) if block == 0 else (2,))]
        effects = [effect for message in arriving for effect in shard.codes(message, 0.0)]
        assert names(effects) == ["Attend"]
    assert names(shard.shard_done(finished())) == ["Feature", "Forget"]


def test_the_feature_says_what_the_part_cost() -> None:
    shard = participant()
    for block in range(BLOCKS):
        shard.codes_ready(ready(block), float(block))
        shard.query_done(block + 0.25)
        for origin in (0, 2):
            shard.codes(codes(BOARDS, origin, block), block + 0.5)
    send = shard.shard_done(finished())[0]
    assert isinstance(send, Send)
    assert isinstance(send.message, Feature)
    assert send.message.timing == Timing(compute_us=5, wait_us=750_000)
    assert send.message.traffic.payload_bytes == 2 * sum(codes_length(BOARDS, ME, b) for b in range(BLOCKS))
    assert send.message.traffic.messages == 2 * BLOCKS


def delivered(boards: int, exchange: Exchange) -> tuple[list[list[tuple[int, bytes]]], int]:
    """What every board attends to, block after block; and how many messages that took."""
    shards = [participant(boards, me, exchange) for me in range(boards)]
    index = {peer(i): i for i in range(boards)}
    heard: list[list[tuple[int, bytes]]] = [[] for _ in range(boards)]
    flying: deque[tuple[PeerId, Codes]] = deque()
    messages = 0

    def perform(me: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=Codes() as message):
                    flying.append((to, message))
                case Query():
                    perform(me, shards[me].query_done(0.0))
                case Attend(payloads=payloads):
                    heard[me] += [(payload.origin, payload.body) for payload in payloads]
                    block = len(heard[me]) // max(1, boards - 1) if boards > 1 else BLOCKS
                    if block < BLOCKS:
                        start(me, block)

    def start(me: int, block: int) -> None:
        perform(me, shards[me].codes_ready(CodesReady(key=KEY, block=block, body=codes(boards, me, block).body), 0.0))

    for me in range(boards):
        start(me, 0)
    while flying:
        to, message = flying.popleft()
        messages += 1
        perform(index[to], shards[index[to]].codes(message, 0.0))
        shards[index[to]].check()
    return heard, messages


@pytest.mark.parametrize("boards", range(1, 9))
def test_direct_and_ring_deliver_the_same_codes_to_everybody(boards: int) -> None:
    assert boards <= TOKENS
    direct, direct_messages = delivered(boards, Exchange.DIRECT)
    ring, ring_messages = delivered(boards, Exchange.RING)
    assert direct == ring
    assert direct_messages == ring_messages == (boards - 1) * boards * BLOCKS
    for me, heard in enumerate(direct if boards > 1 else []):
        others = [origin for origin in range(boards) if origin != me]
        assert heard == [(o, codes(boards, o, block).body) for block in range(BLOCKS) for o in others]


def test_codes_in_a_ring_end_before_their_origin() -> None:
    shard = participant(4, 1, Exchange.RING)
    (onward,) = shard.codes(codes(4, 0, 0), 0.0)
    assert isinstance(onward, Send)
    assert (onward.to, onward.message) == (peer(2), codes(4, 0, 0))
    assert shard.codes(codes(4, 2, 0), 0.0) == []
    assert shard.phase is Phase.COMPUTING


@pytest.mark.parametrize(("block", "goes_on"), [(0, False), (1, True), (2, True)])
def test_a_board_that_is_lost_early_is_not_done_without_while_there_is_time(*, block: int, goes_on: bool) -> None:
    wanted = assign(BOARDS, degrade_from=1)
    shard = through(Participant(assign=wanted, me=ME, facts=FACTS, now=0.0), block)
    shard.codes_ready(ready(block), 0.0)
    shard.query_done(0.0)
    shard.codes(codes(BOARDS, 0, block), 0.0)
    effects = shard.peer_lost(peer(2), 0.0)
    assert names(effects) == (["Attend"] if goes_on else ["Failed", "Forget"]), effects


def test_a_board_that_is_lost_early_is_done_without_where_no_time_is_left() -> None:
    wanted = assign(BOARDS, degrade_ms=1_000_000, degrade_from=BLOCKS)
    shard = Participant(assign=wanted, me=ME, facts=FACTS, now=0.0)
    shard.codes_ready(ready(0), 0.0)
    shard.query_done(0.0)
    shard.codes(codes(BOARDS, 0, 0), 0.0)
    assert names(shard.peer_lost(peer(2), 0.0)) == ["Attend"]


def test_a_board_that_is_lost_after_the_deadline_is_not_done_without() -> None:
    wanted = assign(BOARDS, degrade_from=BLOCKS)
    shard = Participant(assign=wanted, me=ME, facts=FACTS, now=0.0)
    shard.codes_ready(ready(0), 0.0)
    shard.query_done(0.0)
    shard.codes(codes(BOARDS, 0, 0), 0.0)
    assert names(shard.peer_lost(peer(2), wanted.deadline_ms / 1000)) == ["Forget"]
    assert shard.phase is Phase.DONE
