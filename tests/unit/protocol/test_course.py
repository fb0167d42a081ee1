"""From a view and what boards told of themselves to how a request is run."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from planner_cases import VIT, load, times
from planner_cases import boards as boards_of
from protocol_cases import member, peer, submission

from peer.errors import NotEnoughBoards
from peer.protocol.course import Course, course, wish_of
from peer.protocol.effects import Send
from peer.protocol.events import MessageReceived, Mode, Submission, Submitted
from peer.protocol.experience import Case, Experience
from peer.protocol.forecast import mean_block_s, quoted_tokens
from peer.protocol.messages import Assign, DataMessage, Errand
from peer.protocol.outlook import Bustle, Link, Outlook, Situation, working_bytes
from peer.protocol.planner import Way, sequence
from peer.protocol.profile import BoardProfile
from peer.protocol.requests import RequestLimits, Requests
from peer.protocol.types import CodecFacts, Epoch, Exchange, InputKind, Member, PeerId, RequestId, View

ASKED = submission(mode=Mode.AUTO, codec="tc53", model=VIT.model)
LINKS = {peer(i): Link(2e-4, 12.5e6) for i in range(1, 8)}


def board(index: int, block_s: float | None = 0.25, *, slower: float = 1.0, free: int | None = None) -> Member:
    """A board that has measured itself, unless `block_s` is None."""
    if block_s is None:
        return member(index, model=VIT.model)
    stages = times(block_s)
    quiet = quoted_tokens(VIT) / mean_block_s(stages, VIT, quoted_tokens(VIT))
    profile = BoardProfile(rate=12.5e6, free_bytes=free, models=(stages,))
    return replace(member(index, model=VIT.model), profile=profile, speed=quiet / slower)


def view(*boards: Member) -> View:
    return View(self_id=peer(0), members={board.peer: board for board in boards})


def situation(known: View, asked: Submission = ASKED, bustle: Bustle | None = None) -> Situation:
    return Situation(view=known, facts=VIT, wish=wish_of(asked), bustle=bustle or Bustle(), now=0.0)


def taken(
    known: View,
    asked: Submission = ASKED,
    *,
    bustle: Bustle | None = None,
    outlook: Outlook | None = None,
    links: Mapping[PeerId, Link] = LINKS,
) -> Course:
    found = course(asked, situation(known, asked, bustle), outlook or Outlook(Experience(), lambda: links))
    assert isinstance(found, Course)
    assert sum(found.counts) == VIT.tokens
    assert len(found.counts) == len(found.boards)
    return found


def test_four_boards_share_what_pays_to_be_shared() -> None:
    found = taken(view(*(board(i) for i in range(4))))
    assert (found.way, len(found.boards)) == (Way.SEQUENCE, 4)
    assert found.predicted_s is not None
    assert found.predicted_s < 1.2
    assert "4 boards are predicted to take" in found.reason


def test_the_first_of_many_is_run_as_one_of_many() -> None:
    boards = view(*(board(i) for i in range(4)))
    found = taken(boards, replace(ASKED, requests=16))
    assert found.way in (Way.SINGLE, Way.ELSEWHERE)
    assert found.reason.startswith("16 requests at once: ")
    assert taken(boards, replace(ASKED, requests=1)).way is Way.SEQUENCE
    more = taken(boards, replace(ASKED, requests=2), bustle=Bustle(requests=9))
    assert more.reason.startswith("9 requests at once: ")


def test_a_board_that_knows_nothing_of_itself_works_alone_and_says_so() -> None:
    found = taken(view(board(0, None), board(1)))
    assert found.way is Way.SINGLE
    assert found.predicted_s is None
    assert "measured nothing yet" in found.reason


def test_a_board_that_has_not_told_its_times_is_taken_to_be_like_the_asked_one() -> None:
    found = taken(view(board(0), board(1, None)))
    assert found.way is Way.SEQUENCE
    assert "assumed" in found.reason


def test_what_a_person_fixed_is_kept() -> None:
    boards = view(*(board(i) for i in range(4)))
    assert taken(boards, replace(ASKED, boards=3)).boards == (peer(0), peer(1), peer(2))
    assert taken(boards, replace(ASKED, boards=1)).way is Way.SINGLE
    assert taken(boards, replace(ASKED, mode=Mode.SINGLE)).way is Way.SINGLE
    assert taken(boards, replace(ASKED, shares=(1.0, 1.0, 1.0, 4.0))).counts == (28, 28, 28, 112)
    tiny = view(*(board(i, 1e-5) for i in range(4)))
    assert taken(tiny).way is Way.SINGLE
    everybody = taken(tiny, replace(ASKED, mode=Mode.SEQUENCE))
    assert (everybody.way, len(everybody.boards)) == (Way.SEQUENCE, 4)
    assert everybody.predicted_s is not None
    assert everybody.reason == "every board that is alive and holds the model, even shares"
    problem = course(replace(ASKED, boards=5), situation(boards), Outlook(Experience(), dict))
    assert isinstance(problem, NotEnoughBoards)


SPARSE = replace(
    VIT,
    codecs={
        "tc53": CodecFacts(name="tc53", bits_per_token=(53,) * 12, points_lost=((4, 0.3), (8, 0.6))),
        "f32": CodecFacts(name="f32", bits_per_token=(49_152,) * 12, points_lost=((4, 0.0), (8, 0.0))),
        "ptc53x2": CodecFacts(
            name="ptc53x2", bits_per_token=(106, 0) * 6, points_lost=((2, 0.9), (4, 1.6)), family="predictive"
        ),
        "unmeasured": CodecFacts(name="unmeasured", bits_per_token=(1,) * 12),
    },
)


@pytest.mark.parametrize(
    ("points", "codecs"),
    [(-1.0, ()), (0.0, ("f32",)), (0.5, ("tc53", "f32")), (2.0, ("tc53", "ptc53x2", "f32"))],
)
def test_codecs_that_are_accurate_enough(points: float, codecs: tuple[str, ...]) -> None:
    assert SPARSE.within(points) == codecs


def board_that_timed(index: int, *codecs: int) -> Member:
    """A board that has measured these codecs of `SPARSE` besides the first two."""
    found = board(index)
    assert found.profile is not None
    stages = found.profile.models[0]
    more = (replace(stages.codecs[0], codec=codec) for codec in codecs)
    return replace(found, profile=replace(found.profile, models=(replace(stages, codecs=(*stages.codecs, *more)),)))


def with_others(
    others: tuple[str, ...], within: float, *, boards: int | None = None, timed: tuple[int, ...] = (2,), batch: int = 1
) -> Course:
    """A request that several codecs would do for, on four boards far apart with narrow links."""
    rows = bytes(batch * VIT.tokens * VIT.row_bytes)
    asked = replace(ASKED, boards=boards, others=others, within=within, batch=batch, rows=rows)
    known = view(*(board_that_timed(i, *timed) for i in range(4)))
    at = replace(situation(known, asked), facts=SPARSE)
    links = {peer(i): Link(0.05, 1.25e6) for i in range(1, 4)}
    found = course(asked, at, Outlook(Experience(), lambda: links))
    assert isinstance(found, Course)
    assert found.way is Way.SEQUENCE
    assert found.option is not None
    assert found.option.codec == found.codec
    assert ("of 2 codecs" in found.reason or "of 3 codecs" in found.reason) == (
        boards is None and len(others) > (2 not in timed)
    )
    return found


@pytest.mark.parametrize("boards", [None, 3])
def test_the_fastest_codec_that_would_do_is_taken(boards: int | None) -> None:
    assert with_others(("ptc53x2", "f32"), 2.0, boards=boards).codec == "ptc53x2"  # far: fewer rounds
    assert with_others(("f32",), 2.0, boards=boards).codec == "tc53"  # narrow: few bits
    assert with_others((), 2.0, boards=boards).codec == "tc53"  # no other codec would do


def test_a_codec_that_no_board_has_measured_is_not_preferred() -> None:
    assert with_others(("ptc53x2",), 2.0, timed=()).codec == "tc53"


def test_the_default_ones_times_stand_in_for_a_codec_of_its_family_with_fewer_rounds() -> None:
    kin = {name: replace(codec, family="") for name, codec in SPARSE.codecs.items()}
    option = sequence(
        boards_of([0.25] * 4), (49,) * 4, load("ptc53x2", facts=replace(SPARSE, codecs=kin)), Exchange.DIRECT, peer(0)
    )
    assert option.timed
    # One of as many rounds has work of its own.
    kin["ptc53x2"] = replace(kin["ptc53x2"], bits_per_token=(53,) * 12)
    option = sequence(
        boards_of([0.25] * 4), (49,) * 4, load("ptc53x2", facts=replace(SPARSE, codecs=kin)), Exchange.DIRECT, peer(0)
    )
    assert not option.timed


def test_a_codec_loses_more_on_more_boards() -> None:
    four, three = with_others(("ptc53x2",), 1.6), with_others(("ptc53x2",), 1.6, boards=3)
    assert (four.codec, len(four.boards), three.codec) == ("ptc53x2", 4, "ptc53x2")
    assert with_others(("ptc53x2",), 1.5, boards=4).codec == "tc53"
    assert with_others(("ptc53x2",), 1.5, boards=2).codec == "ptc53x2"
    assert (few := with_others(("ptc53x2",), 1.5)).codec == "tc53", few.reason
    assert len(few.boards) == 4


@pytest.mark.parametrize("block_s", [0.25, None])
def test_no_codec_that_loses_as_little_is_an_error_that_says_so(block_s: float | None) -> None:
    asked = replace(ASKED, boards=3, within=0.1)
    at = replace(situation(view(*(board(i, block_s) for i in range(4))), asked), facts=SPARSE)
    problem = course(asked, at, Outlook(Experience(), lambda: LINKS))
    assert str(problem) == "no codec that loses 0.1 points or less on 3 boards can be used; allow more"


def test_codes_too_large_to_travel_are_no_choice() -> None:
    fast = {peer(i): Link(1e-5, 1.25e9) for i in range(1, 4)}
    asked = replace(ASKED, batch=64, rows=bytes(64 * VIT.tokens * VIT.row_bytes), others=("f32",), within=2.0, boards=2)
    at = replace(situation(view(board(0), board(1)), asked), facts=SPARSE)
    found = course(asked, at, Outlook(Experience(), lambda: fast))
    assert isinstance(found, Course)
    assert found.codec == "tc53"


def test_a_codec_that_would_do_must_be_one_of_the_models() -> None:
    asked = replace(ASKED, others=("nonsense",))
    problem = course(asked, situation(view(board(0)), asked), Outlook(Experience(), dict))
    assert str(problem) == "model vit has no codec nonsense"


def test_a_board_that_takes_longer_than_it_measured_gets_less() -> None:
    quick = taken(view(board(0), board(1)))
    throttled = taken(view(board(0), board(1, slower=3.0)))
    assert throttled.counts[1] < quick.counts[1] / 2
    assert throttled.predicted_s is not None
    assert quick.predicted_s is not None
    assert throttled.predicted_s > quick.predicted_s


@pytest.mark.parametrize("batch", [1, 16])
def test_a_board_without_the_memory_is_not_asked(batch: int) -> None:
    needed = working_bytes(VIT, batch)
    asked = replace(ASKED, batch=batch, rows=bytes(batch * VIT.tokens * VIT.row_bytes))
    poor = taken(view(board(0), board(1), board(2, free=needed - 1)), asked)
    assert peer(2) not in poor.boards
    assert "without board2: has" in poor.reason
    assert peer(2) in taken(view(board(0), board(1), board(2, free=needed)), asked).boards
    # Who would have to load the model first needs the room for it, too.
    other = replace(board(2), profile=BoardProfile(free_bytes=needed + VIT.size_bytes - 1))
    assert peer(2) not in taken(view(board(0), board(1), other), asked).boards


def test_a_board_that_was_silent_just_before_is_not_waited_for() -> None:
    boards = view(*(board(i) for i in range(3)))
    found = taken(boards, bustle=Bustle(absent=frozenset({peer(1)})))
    assert found.boards == (peer(0), peer(2))
    assert "without board1: was silent" in found.reason


def test_ways_are_worked_out_once_for_a_view_and_a_size_of_input() -> None:
    links = dict(LINKS)
    outlook, boards = Outlook(Experience(), lambda: links), view(*(board(i) for i in range(4)))
    first = outlook.ways(situation(boards))
    assert outlook.ways(situation(boards)) is first
    assert outlook.ways(situation(boards, replace(ASKED, file=bytes(1000)))) is not first
    assert outlook.ways(situation(boards, replace(ASKED, codec="f32"))) is not first
    assert outlook.ways(situation(boards)) is first
    assert outlook.ways(situation(view(*(board(i) for i in range(4))))) is not first
    again = outlook.ways(situation(boards))
    links = {**links, peer(1): Link(1.0, 1e3)}
    assert outlook.ways(situation(boards)) is not again


def test_experience_moves_the_choice_and_the_prediction() -> None:
    outlook, boards = Outlook(Experience(), lambda: LINKS), view(*(board(i) for i in range(2)))
    before = taken(boards, outlook=outlook)
    assert before.way is Way.SEQUENCE
    assert before.option is not None
    for at in range(10):
        outlook.experience.learn(Case(VIT.model, "", 1), predicted_s=1.0, measured_s=1.0, now=at / 100)
        outlook.experience.learn(Case(VIT.model, "tc53", 2), predicted_s=1.0, measured_s=3.0, now=at / 100)
    assert taken(boards, outlook=outlook).way is Way.SINGLE


@pytest.mark.parametrize(("times_over", "doubted"), [(1.0, False), (1.5, False), (5.0, True), (0.1, True)])
def test_a_link_is_doubted_once_when_requests_wait_far_longer_or_shorter_than_foreseen(
    times_over: float, doubted: bool
) -> None:
    slow = {other: Link(0.1, 12.5e6) for other in LINKS}
    outlook, boards = Outlook(Experience(), lambda: slow), view(*(board(i) for i in range(3)))
    option = taken(boards, replace(ASKED, mode=Mode.SEQUENCE), outlook=outlook).option
    assert option is not None
    foreseen_s = option.forecast.latency_s - option.forecast.busy_s
    outlook.travelled(option, times_over * foreseen_s, peer(0))
    assert outlook.take_doubted() == (frozenset({peer(1), peer(2)}) if doubted else frozenset())
    assert outlook.take_doubted() == frozenset()


def test_both_exchanges_can_be_asked_for() -> None:
    boards = view(*(board(i) for i in range(4)))
    ring = taken(boards, replace(ASKED, mode=Mode.SEQUENCE, exchange=Exchange.RING))
    direct = taken(boards, replace(ASKED, mode=Mode.SEQUENCE))
    assert ring.predicted_s is not None
    assert direct.predicted_s is not None
    assert ring.predicted_s > direct.predicted_s


def test_what_others_have_asked_of_a_board_counts_when_it_is_asked_itself() -> None:
    """Four boards that are asked at once and share every picture would all work on all four."""
    known = view(*(board(i) for i in range(4)))
    limits = RequestLimits()

    def first_message(errands: int) -> type[DataMessage]:
        machine = Requests(view=known, models={VIT.model: VIT}, limits=limits)
        for number in range(errands):
            errand = Errand(
                request=RequestId(number),
                attempt=1,
                epoch=Epoch(0),
                asker=peer(1),
                model=VIT.model,
                batch=1,
                deadline_ms=30_000,
                input_kind=InputKind.ROWS,
                body=bytes(VIT.tokens * VIT.row_bytes),
            )
            machine.handle(MessageReceived(message=errand, sender=peer(1)), 0.0)
        asked = submission(request=RequestId(99), mode=Mode.AUTO, codec="tc53", model=VIT.model)
        effects = machine.handle(Submitted(submission=asked), 0.0)
        return next(type(effect.message) for effect in effects if isinstance(effect, Send))

    assert first_message(errands=0) is Assign
    assert first_message(errands=4) is Errand
