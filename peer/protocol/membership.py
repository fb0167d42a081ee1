"""Who is here: SWIM with Lifeguard's patience, admission through the door, and a view every board derives alike.

Pure: `handle(event, now) -> effects`; randomness is injected. A board is listed after its own Hello, through the door
(it holds the cluster token) or, when it was admitted before, under its own key. The door proves no identity: a board is
alive after a word under its own key, and of one that was heard under it a Hello at the door is no more than a hint.
What others say about a board is merged by the rule in `roster`. Life and death of a member:

    joining       any message under its key                                    -> alive
    alive         no Pong, and nobody vouches for it                           -> suspect, told to everybody
    suspect       its refutation with a higher incarnation, its Pong to us     -> alive
    suspect       Lifeguard's patience is over                                 -> dead, told to everybody
    dead          its own Hello, its refutation                                -> alive
    any           Goodbye of its current incarnation                           -> left
    any           Hello of another protocol version, or without common model   -> incompatible
    any           a person removes it                                          -> not listed, or refused for good
"""

from collections import Counter
from dataclasses import replace
from typing import assert_never

from peer.protocol.control_events import (
    Admit,
    ControlEffect,
    ControlEvent,
    ControlReceived,
    KeepRevoked,
    Knock,
    LeaveRequested,
    LinkBroke,
    ModelsHeld,
    ProfileMeasured,
    Publish,
    Redial,
    RemovalRequested,
    SendControl,
    Sighted,
    TimerDue,
    TokenChanged,
)
from peer.protocol.decrees import Decrees
from peer.protocol.dials import Dials
from peer.protocol.liveness import Liveness, Pace
from peer.protocol.messages import (
    ControlMessage,
    Goodbye,
    Hello,
    Peers,
    Ping,
    PingRequest,
    Pong,
    Profile,
    Removed,
    Rumour,
    Stranger,
    TokenRotated,
    Vouch,
)
from peer.protocol.probing import Chance
from peer.protocol.roster import Roster, oldest_gone
from peer.protocol.speaker import Speaker
from peer.protocol.types import Address, Lock, Member, ModelId, PeerId, Status, View, boot

_HERE = (Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)


class Membership:
    """The membership machine of one board."""

    def __init__(
        self,
        *,
        me: Member,
        seeds: tuple[Address, ...],
        remembered: tuple[Member, ...] = (),
        lock: Lock | None = None,
        revoked: tuple[PeerId, ...] = (),
        pace: Pace,
        rng: Chance,
        now: float,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.stuck_s = 0.0  # how long this board's own worker has been in its current step; the shell keeps it fresh
        self._pace = pace
        self._rng = rng
        self._roster = Roster(me, now)
        self._say = Speaker(self._roster)
        self._live = Liveness(
            roster=self._roster, speaker=self._say, pace=pace, rng=rng, counters=self.counters, now=now
        )
        self._decrees = Decrees(lock=lock, revoked=revoked, speaker=self._say, rng=rng)
        self._left = False
        self._gained = False  # models since the start: a Hello that told of them may have been lost
        self._sync_at = now + pace.sync_s * rng.uniform(0.5, 1.0)
        own = Address(host=me.endpoint.host, port=me.endpoint.port)
        self._dials = Dials(own=own, seeds=seeds, first_s=pace.hello_first_s, last_s=pace.hello_last_s, now=now)
        for member in remembered:
            if not self._decrees.is_revoked(member.peer) and self._roster.remember(member, now):
                self._live.wake_at(member.peer, now)
        self._published = self._roster.revision

    def view(self) -> View:
        return self._roster.view()

    def admitted(self) -> frozenset[bytes]:
        """Public keys that may talk to this board."""
        return self._roster.keys()

    def set_speed(self, speed: float) -> None:
        """What this board measured of itself; travels with its pings."""
        self._roster.update(self._roster.me.peer, speed=speed)

    def deadline(self) -> float | None:
        """Local monotonic time at which a TimerDue is wanted; None after leaving."""
        if self._left:
            return None
        greet_at = self._dials.deadline()
        live_at = min(self._live.deadline(), self._sync_at)
        return live_at if greet_at is None else min(live_at, greet_at)

    def handle(self, event: ControlEvent, now: float) -> list[ControlEffect]:
        """The one mutating entry."""
        if self._left:
            return []  # whatever is said now could bring this board back
        keys = self._roster.key_revision
        effects = self._effects(event, now)
        if self._stuck:
            # Who does no work does not say that it is here; it still answers, and says why.
            effects = [e for e in effects if not (isinstance(e, SendControl | Knock) and isinstance(e.message, Hello))]
        if self._roster.key_revision != keys:
            # Before anything is sent: whoever answers must find the door of the control socket open.
            effects.insert(0, Admit(keys=self._roster.keys()))
        if self._roster.revision != self._published:  # this board's own speed may have changed between events
            self._published = self._roster.revision
            effects.append(Publish(view=self.view()))
        return effects

    def check(self) -> None:
        """Invariants, for tests."""
        self._roster.check()
        self._live.check()
        self._dials.check()
        self._decrees.check()

    @property
    def _stuck(self) -> bool:
        return self.stuck_s > self._pace.stuck_s

    def _effects(self, event: ControlEvent, now: float) -> list[ControlEffect]:
        match event:
            case ControlReceived():
                return self._received(event, now)
            case Sighted(address=address):
                self._dials.hint(address, now)
                return []
            case LinkBroke(peer=peer):
                return self._live.link_broke(peer, now)
            case TimerDue(unread=unread):
                return self._timer(unread, now)
            case LeaveRequested():
                return self._leave()
            case RemovalRequested():
                return self._remove(event.peer, revoked=event.revoked, asked_by=None, now=now)
            case TokenChanged(token=token):
                return self._decrees.change_token(token)
            case ModelsHeld(models=models):
                return self._hold(models, now)
            case ProfileMeasured(profile=profile):
                self._roster.update(self._roster.me.peer, profile=profile)
                told = self._say.profile()
                return [] if told is None else self._say.tell_all(told)
            case _ as never:
                assert_never(never)

    def _hold(self, models: frozenset[ModelId], now: float) -> list[ControlEffect]:
        """This board serves other models from now on: who fits together with it may have changed."""
        self._gained = True
        self._roster.update(self._roster.me.peer, models=models)
        for member in self._roster.others(Status.ALIVE, Status.INCOMPATIBLE):
            if member.peer not in self._roster.strangers:
                self._roster.mark(member.peer, *self._roster.standing(member.models), now)
        hello = self._say.hello(answer=False)
        # Who has not let us in yet knows us by what we said at its door.
        knocks: list[ControlEffect] = [
            Knock(at=Address(host=member.endpoint.host, port=member.endpoint.port), message=hello)
            for member in self._roster.others(Status.SUSPECT)
            if member.peer in self._roster.joining
        ]
        return knocks + self._say.tell_all(hello)

    def _received(self, event: ControlReceived, now: float) -> list[ControlEffect]:
        message, me = event.message, self._roster.me
        if message.sender == me.peer:
            if isinstance(message, Hello) and boot(message.incarnation) != boot(me.incarnation):
                self.counters["own_id_seen_elsewhere"] += 1
            return []
        introduces = isinstance(message, Hello | Stranger)
        if (event.door and not introduces) or (event.sender is not None and event.sender != message.sender):
            self.counters["forged"] += 1
            return []
        if self._decrees.is_revoked(message.sender):
            self.counters["revoked_boards"] += 1  # over a connection that was made before
            return []
        if isinstance(message, Stranger):
            return self._stranger(message, door=event.door, now=now)
        if isinstance(message, Hello):
            return self._hello(message, event, now)
        member = self._roster.get(message.sender)
        if member is None or boot(message.incarnation) != boot(member.incarnation):
            self.counters["unknown_senders"] += 1
            # Somebody whose key is admitted and whom we do not know as it is now: let it introduce itself.
            return [] if member is None else self._live.greet(member, now)
        # Its own word, under its own key: perhaps a refutation that we missed.
        effects = self._live.renewed(member, message.incarnation, member.peer, now)
        effects += self._joined(member, now)
        return effects + self._known(message, self._roster.get(member.peer) or member, now)

    def _known(self, message: ControlMessage, member: Member, now: float) -> list[ControlEffect]:
        """A message of a member in its current incarnation."""
        match message:
            case Ping():
                return self._ping(message, member)
            case Pong():
                return self._live.pong(message, now)
            case PingRequest(target=target, sequence=sequence):
                return self._live.ping_for(member, target, sequence, now)
            case Vouch():
                return self._live.vouched(message, now)
            case Rumour():
                return self._live.rumour(message, now, stuck=self._stuck)
            case Goodbye():
                self._live.forget(member.peer)
                self._roster.joining.discard(member.peer)
                self._dials.released(member.peer, now)
                self._roster.mark(member.peer, Status.LEFT, "said goodbye", now)
            case Peers(addresses=addresses):
                for address in addresses:
                    self._dials.hint(address, now)
            case TokenRotated():
                return self._decrees.token_news(message)
            case Removed(about=about, revoked=revoked):
                return self._remove(about, revoked=revoked, asked_by=member.peer, now=now)
            case Profile(profile=profile):
                self._roster.update(member.peer, profile=profile)
            case Hello() | Stranger():
                raise AssertionError("introductions are read before the sender is known")
            case _ as never:
                assert_never(never)
        return []

    def _hello(self, hello: Hello, event: ControlReceived, now: float) -> list[ControlEffect]:
        peer, known = hello.sender, self._roster.get(hello.sender)
        refusal = self._refusal(hello, known)
        if refusal is not None:
            self.counters[refusal] += 1
            return []
        if event.door and known is not None and known.proven:
            return self._hinted(hello, event.source, known, now)
        again = known is not None and boot(known.incarnation) == boot(hello.incarnation)
        here = again and known is not None and known.status in _HERE and peer not in self._roster.strangers
        met = here and peer not in self._roster.joining
        self._make_room(peer, now)
        if event.door:
            if not here:
                self._live.forget(peer)
                self._live.wake_at(peer, now + self._pace.joining_s)
            self._roster.joining.add(peer)
            self._roster.enter(hello, event.source, Status.SUSPECT, "joining", proven=False, now=now)
        else:
            self._enter(hello, event.source, known if again else None, now)
        member = self._roster.update(peer)  # as it is now
        self._dials.answered(Address(host=member.endpoint.host, port=member.endpoint.port), peer, now)
        effects: list[ControlEffect] = []
        if not met and (hello.answer or not event.door):
            # It has let us in. It may have refused us before it knew us, and such a connection stays refused.
            effects.append(Redial(member=member))
        if not hello.answer:
            effects.append(self._answer(member, door=event.door))
        elif event.door:
            # Under our own key: the proof that it waits for, and its answer will be the one that we do.
            effects.append(SendControl(to=member, message=self._say.hello(answer=False)))
        return effects if event.door or met else effects + self._welcome(member)

    def _hinted(self, hello: Hello, source: str, known: Member, now: float) -> list[ControlEffect]:
        """Somebody at the door gives the name of a board that we know. It has to say so under its own key."""
        claimed = replace(known, endpoint=replace(hello.endpoint, host=hello.endpoint.host or source))
        effects = [] if hello.answer else [self._answer(claimed, door=True)]
        again = boot(hello.incarnation) == boot(known.incarnation) and claimed.endpoint == known.endpoint
        if again and known.status in _HERE and known.peer not in self._roster.strangers:
            self._dials.answered(Address(host=known.endpoint.host, port=known.endpoint.port), known.peer, now)
            return effects
        return effects + self._live.greet(claimed, now)

    def _refusal(self, hello: Hello, known: Member | None) -> str | None:
        """Why a Hello is not taken: the name of a counter; None when it is."""
        again = known is not None and boot(known.incarnation) == boot(hello.incarnation)
        # A start that was only claimed at the door, in somebody's name, must not keep out the board itself.
        if known is not None and (known.proven or again) and hello.incarnation < known.incarnation:
            return "old_incarnations"
        if known is not None and known.status is Status.LEFT and again:
            return "old_incarnations"
        return None if self._roster.room_for(hello.sender) else "members_refused"

    def _make_room(self, peer: PeerId, now: float) -> None:
        oldest = None if self._roster.get(peer) is not None else oldest_gone(self._roster)
        if oldest is not None:
            self._drop(oldest, now)

    def _drop(self, peer: PeerId, now: float) -> None:
        self._live.drop(peer)
        self._dials.released(peer, now)
        self._roster.drop(peer)

    def _enter(self, hello: Hello, source: str, known: Member | None, now: float) -> None:
        """Write down a board that said under its own key that it is here; `known`: its record of the same start."""
        peer = hello.sender
        doubted = known is not None and known.status in (Status.DEAD, Status.SUSPECT)
        if known is not None and doubted and peer not in self._roster.joining:
            self._roster.enter(hello, source, known.status, known.reason, proven=True, now=now)
            self._roster.mark(peer, *self._live.revived(peer, now), now)
            return
        self._roster.joining.discard(peer)
        self._live.forget(peer)
        self._roster.enter(hello, source, *self._roster.standing(frozenset(hello.models)), proven=True, now=now)

    def _welcome(self, member: Member) -> list[ControlEffect]:
        """What somebody who has just come needs: a first ping, the other boards' doors, what was decreed meanwhile."""
        return [SendControl(to=member, message=self._say.ping(0)), *self._news_for(member)]

    def _news_for(self, member: Member) -> list[ControlEffect]:
        peers = self._say.peers(but=member.peer)
        told = [message for message in (peers, self._say.profile()) if message is not None]
        news: list[ControlEffect] = [SendControl(to=member, message=message) for message in told]
        return news + self._decrees.repeat(member)

    def _joined(self, member: Member, now: float) -> list[ControlEffect]:
        """The first message under its own key: it has let us in, both directions work."""
        if not member.proven:
            member = self._roster.update(member.peer, proven=True)
        if member.peer not in self._roster.joining:
            return []
        self._roster.joining.discard(member.peer)
        self._live.forget(member.peer)
        self._roster.mark(member.peer, *self._roster.standing(member.models), now)
        return self._welcome(member)

    def _ping(self, message: Ping, member: Member) -> list[ControlEffect]:
        if message.speed:
            member = self._roster.update(member.peer, speed=message.speed)
        me = self._roster.me
        stuck_ms = min(int(self.stuck_s * 1000), (1 << 32) - 1)
        pong = Pong(sender=me.peer, incarnation=me.incarnation, sequence=message.sequence, stuck_ms=stuck_ms)
        return [SendControl(to=member, message=pong), *self._live.accused(member)]

    def _timer(self, unread: int, now: float) -> list[ControlEffect]:
        due_at = self.deadline()
        late_s = 0.0 if due_at is None else now - due_at
        hello = self._say.hello(answer=False)
        knocks: list[ControlEffect] = [Knock(at=door, message=hello) for door in self._dials.due(now)]
        effects = knocks + self._live.timer(now, late_s=late_s, unread=unread)
        if now >= self._sync_at:
            self._sync_at = now + self._pace.sync_s * self._rng.uniform(0.8, 1.2)
            listeners = {m.peer: m for m in self._roster.listeners()}
            for peer in self._rng.sample(list(listeners), min(1, len(listeners))):
                effects += self._news_for(listeners[peer])
                if self._gained:
                    effects.append(SendControl(to=listeners[peer], message=self._say.hello(answer=True)))
        return effects

    def _leave(self) -> list[ControlEffect]:
        me = self._roster.me
        goodbye = Goodbye(sender=me.peer, incarnation=me.incarnation)
        self._left = True
        return self._say.tell_all(goodbye)

    def _remove(self, peer: PeerId, *, revoked: bool, asked_by: PeerId | None, now: float) -> list[ControlEffect]:
        if peer == self._roster.me.peer:
            return []
        news = self._decrees.revoke(peer) if revoked else False
        member = self._roster.get(peer)
        if not revoked and asked_by is not None and member is not None and member.status in _HERE:
            return []  # it came back meanwhile, and nobody wants its key refused
        if member is not None:
            self._drop(peer, now)
        effects: list[ControlEffect] = [KeepRevoked(peers=self._decrees.revoked())] if news else []
        if asked_by is None or news:
            # Passed on by whoever hears it first: a revocation that one board missed would be none.
            effects += self._say.tell_all(self._say.removed(peer, revoked=revoked), but=asked_by)
        return effects

    def _stranger(self, message: Stranger, *, door: bool, now: float) -> list[ControlEffect]:
        peer, known = message.sender, self._roster.get(message.sender)
        if door and known is not None and known.status in (Status.ALIVE, Status.SUSPECT):
            self.counters["forged"] += 1  # the door proves no identity, and this board is known to be otherwise
            return []
        if not self._roster.room_for(peer):
            self.counters["members_refused"] += 1
            return []
        self._make_room(peer, now)
        self._live.forget(peer)
        self._dials.released(peer, now)
        self._roster.enter_stranger(message, now)
        self._live.wake_at(peer, now + self._pace.stranger_s)
        return []

    def _answer(self, member: Member, *, door: bool) -> ControlEffect:
        hello = self._say.hello(answer=True)
        if door:
            return Knock(at=Address(host=member.endpoint.host, port=member.endpoint.port), message=hello)
        return SendControl(to=member, message=hello)
