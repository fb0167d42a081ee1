"""A board that serves other models than before: the others hear of it, and who fits together is decided anew."""

import random

from peer.protocol.control_events import ControlReceived, Knock, ModelsHeld, Publish, SendControl, TimerDue
from peer.protocol.liveness import Pace
from peer.protocol.membership import Membership
from peer.protocol.messages import Hello
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, peer_id

KEYS = [bytes([n]) * 32 for n in range(1, 4)]
A, B, C = map(peer_id, KEYS)
MODEL, OTHER = ModelId("aa" * 32), ModelId("bb" * 32)


def board(number: int, *models: ModelId) -> Membership:
    me = Member(
        peer=peer_id(KEYS[number]),
        name=f"board-{number}",
        endpoint=Endpoint(host=f"10.0.0.{number + 1}", port=7700),
        public_key=KEYS[number],
        incarnation=Incarnation(1 << 16),
        status=Status.ALIVE,
        models=frozenset(models),
    )
    return Membership(me=me, seeds=(), pace=Pace(), rng=random.Random(1), now=0.0)


def hello(number: int, *models: ModelId, answer: bool = False) -> Hello:
    return Hello(
        sender=peer_id(KEYS[number]),
        public_key=KEYS[number],
        incarnation=Incarnation(1 << 16),
        name=f"board-{number}",
        endpoint=Endpoint(host=f"10.0.0.{number + 1}", port=7700),
        models=models,
        answer=answer,
    )


def hear(machine: Membership, message: Hello, *, door: bool = False, now: float = 1.0) -> list[object]:
    sender = None if door else message.sender
    effects = machine.handle(ControlReceived(message=message, sender=sender, source="", door=door), now)
    machine.check()
    return list(effects)


def standing(machine: Membership, peer: PeerId) -> tuple[Status, frozenset[ModelId]]:
    member = machine.view().members[peer]
    return member.status, member.models


def test_everybody_hears_of_a_model_that_came() -> None:
    machine = board(0)
    hear(machine, hello(1, MODEL, answer=True))
    hear(machine, hello(2, MODEL), door=True)  # joining: it has not let us in yet
    effects = machine.handle(ModelsHeld(models=frozenset({MODEL})), 2.0)
    machine.check()
    told = [e for e in effects if isinstance(e, SendControl | Knock)]
    assert [e.to.peer for e in told if isinstance(e, SendControl)] == [B]
    assert [e.at.host for e in told if isinstance(e, Knock)] == ["10.0.0.3"]
    assert all(isinstance(e.message, Hello) and e.message.models == (MODEL,) for e in told)
    assert isinstance(effects[-1], Publish)
    assert machine.view().members[A].models == {MODEL}


def test_a_lost_hello_is_made_good() -> None:
    machine = board(0)
    hear(machine, hello(1, MODEL, answer=True))
    machine.handle(ModelsHeld(models=frozenset({MODEL})), 2.0)
    later: list[Hello] = []
    now = 2.0
    while now < 2.0 + 2 * Pace().sync_s:
        now = machine.deadline() or now
        hear(machine, hello(1, MODEL, answer=True), now=now)  # keeps it alive
        effects = machine.handle(TimerDue(), now)
        later += [e.message for e in effects if isinstance(e, SendControl) and isinstance(e.message, Hello)]
    assert later
    assert all(message.models == (MODEL,) for message in later)


def test_a_hello_of_the_same_run_with_other_models_is_taken() -> None:
    machine = board(0, MODEL)
    hear(machine, hello(1, answer=True))
    assert standing(machine, B) == (Status.ALIVE, frozenset())
    effects = hear(machine, hello(1, MODEL))
    assert standing(machine, B) == (Status.ALIVE, frozenset({MODEL}))
    assert isinstance(effects[-1], Publish)
    hear(machine, hello(1, OTHER))
    assert standing(machine, B)[0] is Status.INCOMPATIBLE
    hear(machine, hello(1, OTHER, MODEL))
    assert standing(machine, B)[0] is Status.ALIVE


def test_own_models_decide_who_is_compatible() -> None:
    machine = board(0)
    hear(machine, hello(1, MODEL, answer=True))
    hear(machine, hello(2, OTHER, answer=True))
    machine.handle(ModelsHeld(models=frozenset({MODEL})), 2.0)
    machine.check()
    assert standing(machine, B)[0] is Status.ALIVE
    assert standing(machine, C)[0] is Status.INCOMPATIBLE
    machine.handle(ModelsHeld(models=frozenset({MODEL, OTHER})), 3.0)
    machine.check()
    assert standing(machine, C)[0] is Status.ALIVE
