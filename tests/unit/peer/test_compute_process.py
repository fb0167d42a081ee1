"""The daemon's side of its compute process: started again when it dies, and a request that it dies of is given up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peer.compute_process import ComputeFailure, ComputeProcess
from peer.compute_words import Holdings, Setup
from peer.errors import Cancelled, RemoteStageError
from peer.protocol.effects import Deliver
from peer.protocol.events import CancelRequested, Mode, Submission, Submitted
from peer.protocol.requests import RequestLimits
from peer.protocol.types import Exchange, ModelId, PeerId, RequestId, View
from runtime.settings import SessionSettings

LIMIT_S = 30.0


def setup(host: str = "", port: int = 1) -> Setup:
    return Setup(
        host=host,
        port=port,
        keys=None,
        admitted=frozenset(),
        view=View(self_id=PeerId("11" * 8)),
        holdings=Holdings(folders={}, facts={}, usual=None),
        settings=SessionSettings(threads=1),
        limits=RequestLimits(),
    )


def submitted(request: int) -> Submitted:
    return Submitted(
        submission=Submission(
            request=RequestId(request),
            model=ModelId("22" * 32),
            codec="f32",
            exchange=Exchange.DIRECT,
            mode=Mode.AUTO,
            boards=None,
            shares=None,
            batch=1,
            deadline_at=0.0,
            rows=b"",
            file=None,
        )
    )


class Ends(dict[int, type]):
    """How each request ended."""

    def deliver(self, effect: Deliver) -> None:
        assert effect.request not in self, "a request ended twice"
        self[effect.request] = type(effect.result)


@asynccontextmanager
async def keeping(process: ComputeProcess) -> AsyncIterator[None]:
    task = asyncio.create_task(process.keep())
    yield
    await process.finish()
    await asyncio.wait([task], timeout=LIMIT_S)
    assert task.done()
    assert task.exception() is None


@asynccontextmanager
async def kept(ends: Ends, made: Setup | None = None) -> AsyncIterator[ComputeProcess]:
    process = ComputeProcess(
        setup=lambda: made or setup(),
        on_deliver=ends.deliver,
        on_lost=lambda _: None,
        program="tests.helpers.crashing_compute",
    )
    if made is None:
        await process.start()
    else:
        with pytest.raises(ComputeFailure, match="ended while it started"):
            await process.start()
        await process.start()
    async with keeping(process):
        yield process


async def true(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.001)


async def until(ends: Ends, *requests: int) -> None:
    await true(lambda: ends.keys() >= set(requests))


async def test_a_request_that_kills_two_processes_is_given_up_and_the_others_are_answered() -> None:
    ends = Ends()
    async with kept(ends) as process:
        process.submit(submitted(2))
        await until(ends, 2)
        process.submit(submitted(3))  # the process dies of it, twice
        process.submit(submitted(4))
        await until(ends, 3, 4)
        process.submit(submitted(6))
        await until(ends, 6)
        assert process.restarts == 2
    assert ends == {2: Cancelled, 3: RemoteStageError, 4: Cancelled, 6: Cancelled}


async def test_without_a_process_the_board_says_that_it_is_stuck_and_requests_wait() -> None:
    ends = Ends()
    async with kept(ends) as process:
        assert process.stuck_s() == 0.0
        process.submit(submitted(3))
        await true(lambda: not process.up)
        assert process.stuck_s() > 60
        process.submit(submitted(8))
        process.submit(submitted(10))
        process.submit(CancelRequested(request=RequestId(10)))
        await until(ends, 3, 8)
    assert 10 not in ends


async def test_that_it_went_and_is_back_is_told_at_once() -> None:
    ends, told = Ends(), list[bool]()
    process = ComputeProcess(
        setup=setup,
        on_deliver=ends.deliver,
        on_lost=lambda _: None,
        on_change=lambda: told.append(process.up),
        program="tests.helpers.crashing_compute",
    )
    await process.start()
    async with keeping(process):
        process.submit(submitted(3))
        await until(ends, 3)
        assert told == [True, False, True, False]  # of request 3 it dies twice; the third is still to come
        await true(lambda: process.up)
    assert told[4:] == [True, False]


async def test_a_process_that_dies_while_it_starts_is_one_line_at_first(tmp_path: Path) -> None:
    async with kept(Ends(), setup(host=str(tmp_path / "died"), port=13)) as process:
        assert process.up
