"""The door's lock: changed any number of times, the old token opens nothing, and who waits at it goes on waiting."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zmq.utils import z85

from peer.local_ring import free_port
from peer.zmq_transport import ControlSockets, ZmqContext, new_key_pair

LIMIT_S = 10.0


@contextmanager
def board(port: int, token: bytes) -> Iterator[ControlSockets]:
    context = ZmqContext(new_key_pair())
    try:
        sockets = ControlSockets(context, "127.0.0.1", port, token)
        yield sockets
        sockets.close()
    finally:
        context.close()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.01)


async def test_a_lock_is_changed_while_somebody_waits_at_the_door() -> None:
    port, heard = free_port(), list[bytes]()
    token = os.urandom(32)
    with board(port, token) as house, board(free_port(), token) as guest:

        async def listen() -> None:
            while True:
                heard.append((await house.receive_at_door()).frames[0])

        listening = asyncio.create_task(listen())
        for round_ in range(5):
            word = b"%d" % round_
            assert guest.knock("127.0.0.1", port, [word])
            await until(lambda word=word: heard[-1:] == [word])
            token = os.urandom(32)
            house.change_lock(token)
            refused = house.refused()[0]
            assert guest.knock("127.0.0.1", port, [b"with the old token"])
            await until(lambda refused=refused: house.refused()[0] > refused)
            guest.change_lock(token)
        assert heard == [b"%d" % n for n in range(5)]
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])
        assert listening.cancelled()


async def test_messages_that_wait_are_counted_and_none_is_lost() -> None:
    port, token = free_port(), os.urandom(32)
    with board(port, token) as house, board(free_port(), token) as guest:
        house_keys, guest_keys = (sockets._context.board for sockets in (house, guest))
        assert house_keys is not None
        assert guest_keys is not None
        house.admit([guest_keys.public])
        heard: list[bytes] = []

        async def listen() -> None:
            while True:
                heard.append((await house.receive()).frames[0])

        def send(first: int, count: int) -> list[bytes]:
            words = [b"%d" % number for number in range(first, first + count)]
            for word in words:
                assert guest.send("127.0.0.1", port + 1, house_keys.public, [word])
            return words

        sent = send(0, 3)
        await until(lambda: house.unread() == 3)
        listening = asyncio.create_task(listen())
        await until(lambda: heard == sent)
        assert house.unread() == 0
        for _ in range(20):
            sent += send(len(sent), 2)
            # The look takes the descriptor's word that something came; the listener must wake all the same.
            while house.unread() < 2:
                time.sleep(0.001)  # noqa: ASYNC251 - the listener must not run meanwhile
            await until(lambda want=list(sent): heard == want)  # type: ignore[misc]
        assert heard == sent
        listening.cancel()
        await asyncio.wait([listening])


class Broken(frozenset[bytes]):
    """An allow-list that fails for one key."""

    def __contains__(self, key: object) -> bool:
        if key in self.bad:
            raise RuntimeError("damaged")
        return frozenset.__contains__(self, key)

    bad: tuple[bytes, ...] = ()


async def test_an_error_while_a_key_is_looked_up_refuses_that_board_and_lets_the_next_in() -> None:
    port, token = free_port(), os.urandom(32)
    with board(port, token) as house, board(free_port(), token) as unlucky, board(free_port(), token) as next_one:
        pairs = [sockets._context.board for sockets in (house, unlucky, next_one)]
        server, bad, good = (pair.public for pair in pairs if pair is not None)
        house.admit([bad, good])
        allowed = Broken(house._context.members._keys)
        allowed.bad = (z85.encode(bad),)
        house._context.members._keys = allowed
        unlucky.send("127.0.0.1", port + 1, server, [b"bad"])
        await until(lambda: house.refused()[1] > 0)
        assert house._context.healthy()
        next_one.send("127.0.0.1", port + 1, server, [b"good"])
        async with asyncio.timeout(1.0):
            assert (await house.receive()).frames == [b"good"]
        assert house.unread() == 0


async def test_a_frame_that_no_membership_message_fills_is_refused_before_it_is_read() -> None:
    port, token = free_port(), os.urandom(32)
    with board(port, token) as house, board(free_port(), token) as guest:
        heard: list[bytes] = []

        async def listen() -> None:
            while True:
                heard.append((await house.receive_at_door()).frames[0])

        listening = asyncio.create_task(listen())
        assert guest.knock("127.0.0.1", port, [b"small"])
        await until(lambda: heard == [b"small"])
        assert guest.knock("127.0.0.1", port, [bytes(1 << 20)])
        end = time.monotonic() + LIMIT_S
        while heard[-1] != b"again":  # the connection was cut, and what waited in it is gone
            assert time.monotonic() < end, "nothing came any more"
            guest.knock("127.0.0.1", port, [b"again"])
            await asyncio.sleep(0.05)
        assert {len(word) for word in heard} == {5}
        listening.cancel()
        await asyncio.wait([listening])
