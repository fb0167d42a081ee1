"""What is refused before a board computes anything, and how a request that reached the data plane ends."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from peer.catalog import Catalog
from peer.errors import BadInput, DeadlineExceeded, NoSuchModel, Refused, RequestError
from peer.inference import Inference
from peer.protocol.effects import Deliver
from peer.protocol.events import CancelRequested, Event, Submitted
from peer.protocol.types import PeerId, View
from peer.reports import InferQuery
from peer.request_meter import RequestMeter
from tools.export.manifest import set_points_lost

PHOTO = (Path(__file__).parents[3] / "docs/photos/chelsea.png").read_bytes()
QUERY = InferQuery(inputs=("cat.png",))


class Board:
    """An Inference whose data plane only takes notes."""

    def __init__(self, models: Path) -> None:
        self.events: list[Event] = []
        self._noted = asyncio.Event()
        self.meter = RequestMeter(PeerId("00" * 8), now=0.0)
        self.inference = Inference(
            catalog=Catalog(models, None),
            submit=self._note,
            view=lambda: View(self_id=PeerId("00" * 8)),
            meter=self.meter,
        )

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._noted.set()

    async def submitted(self) -> Submitted:
        async with asyncio.timeout(10):
            await self._noted.wait()
        (event,) = self.events
        assert isinstance(event, Submitted)
        return event


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> Path:
    return tiny_folder.parent


@pytest.fixture
def board(models: Path) -> Board:
    return Board(models)


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        (replace(QUERY, exchange="carrier-pigeon"), Refused, "no exchange carrier-pigeon; choose direct or ring"),
        (replace(QUERY, mode="magic"), Refused, "no mode magic; choose auto, single or sequence"),
        (replace(QUERY, codec="nonsense"), Refused, "model tiny has no codec nonsense; it has f32, "),
        (replace(QUERY, codec="int8", within=1.0), Refused, "a codec and a loss of accuracy cannot be asked for both"),
        (replace(QUERY, within=1.0), Refused, "nobody has measured what the codecs of tiny cost in accuracy"),
        (replace(QUERY, within=float("nan")), Refused, "a loss of accuracy is a number of percentage points"),
        (replace(QUERY, model="nonsense"), NoSuchModel, "no model nonsense on this board; it has tiny"),
        (replace(QUERY, shares=(1.0, 0.0)), Refused, "positive number"),
        (replace(QUERY, shares=(1.0, float("inf"))), Refused, "positive number"),
        (replace(QUERY, shares=(1.0, float("nan"))), Refused, "positive number"),
    ],
)
async def test_a_wrong_choice_is_refused_by_name(
    board: Board, query: InferQuery, error: type[RequestError], words: str
) -> None:
    with pytest.raises(error) as caught:
        await board.inference.infer(query, [PHOTO])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert board.events == []


async def test_codecs_that_are_accurate_enough_go_to_the_planner(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    set_points_lost(tmp_path / "tiny", {"f32": {4: 0.0}, "int8": {4: 0.1}, "vq4x16": {2: 3.0}})
    board = Board(tmp_path)
    asking = asyncio.ensure_future(board.inference.infer(replace(QUERY, within=0.2), [PHOTO]))
    asked = (await board.submitted()).submission
    assert (asked.codec, asked.others, asked.within) == ("f32", ("int8",), 0.2)  # the model's default first
    asking.cancel()
    with pytest.raises(Refused, match=r"no codec of tiny is known to lose -1 points of accuracy or less; f32 loses 0"):
        await Board(tmp_path).inference.infer(replace(QUERY, within=-1.0), [PHOTO])


@pytest.mark.parametrize("data", [b"", b"no picture at all", PHOTO[:2000]], ids=["empty", "text", "cut"])
async def test_a_bad_picture_is_named(board: Board, data: bytes) -> None:
    query = replace(QUERY, inputs=("good.png", "bad.png"))
    with pytest.raises(BadInput, match=r"^bad\.png: "):
        await board.inference.infer(query, [PHOTO, data])
    assert board.events == []
    assert board.inference.busy == 0


@pytest.mark.parametrize("count", [0, 65])
async def test_a_batch_has_bounds(board: Board, count: int) -> None:
    with pytest.raises(BadInput, match=f"^{count} images"):
        await board.inference.infer(replace(QUERY, inputs=("x",) * count), [PHOTO] * count)


async def test_an_error_of_the_data_plane_is_the_answer(board: Board) -> None:
    task = asyncio.create_task(board.inference.infer(QUERY, [PHOTO]))
    submission = (await board.submitted()).submission
    assert board.inference.busy == 1
    late = DeadlineExceeded("the deadline passed; give more with --deadline")
    board.inference.delivered(Deliver(request=submission.request, result=late))
    board.inference.delivered(Deliver(request=submission.request, result=late))  # once too often harms nobody
    with pytest.raises(DeadlineExceeded):
        await task
    await board.inference.idle()


async def test_an_asker_who_goes_away_cancels_the_request(board: Board) -> None:
    task = asyncio.create_task(board.inference.infer(QUERY, [PHOTO]))
    request = (await board.submitted()).submission.request
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert board.events[1:] == [CancelRequested(request=request)]
    assert board.inference.busy == 0


async def test_what_is_submitted_is_what_was_asked(board: Board) -> None:
    query = replace(QUERY, exchange="ring", codec="int8", mode="sequence", boards=3, deadline_s=5.0)
    task = asyncio.create_task(board.inference.infer(query, [PHOTO]))
    submission = (await board.submitted()).submission
    task.cancel()
    assert (submission.codec, submission.boards, submission.batch) == ("int8", 3, 1)
    assert submission.exchange.name == "RING"
    assert submission.mode.value == "sequence"
    assert submission.file == PHOTO
    assert len(submission.rows) == 16 * 48  # tokens x bytes of a patch
