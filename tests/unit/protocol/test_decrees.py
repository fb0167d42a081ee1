"""What a board hears that missed a decree: revocations before the token, and the newest always."""

import random

from peer.protocol.control_events import SendControl
from peer.protocol.decrees import Decrees
from peer.protocol.messages import Removed, TokenRotated
from peer.protocol.roster import Roster
from peer.protocol.speaker import Speaker
from peer.protocol.types import Endpoint, Incarnation, Lock, Member, PeerId, Status, peer_id


def board(number: int) -> Member:
    key = bytes([number]) * 32
    return Member(
        peer=peer_id(key),
        name=f"board-{number}",
        endpoint=Endpoint(host="10.0.0.1", port=7700),
        public_key=key,
        incarnation=Incarnation(1 << 16),
        status=Status.ALIVE,
    )


def test_the_token_comes_after_the_revocations() -> None:
    me, back = board(1), board(2)
    lock = Lock(token=b"n" * 32, generation=3)
    decrees = Decrees(lock=lock, speaker=Speaker(Roster(me, 0.0)), rng=random.Random(4))
    revoked = [PeerId(f"{n:016x}") for n in range(40)]
    for peer in revoked:
        assert decrees.revoke(peer)
    assert not decrees.revoke(revoked[0])
    said = [effect.message for effect in decrees.repeat(back) if isinstance(effect, SendControl)]
    assert isinstance(said[-1], TokenRotated)
    # Few enough for the short queue of a control connection.
    assert len(said) <= 5
    about = [message.about for message in said[:-1] if isinstance(message, Removed) and message.revoked]
    assert set(about) >= set(revoked[-2:])
    assert len(set(about)) == len(said) - 1
