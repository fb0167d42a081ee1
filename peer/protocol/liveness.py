"""Life and death of members: SWIM's probes and rumours, Lifeguard's patience, and boards that come and go.

Part of the membership machine; the roster holds the members, this module decides about their status.
"""

from collections import Counter
from dataclasses import dataclass, field

from peer.protocol.control_events import ControlEffect, Knock, Redial, SendControl
from peer.protocol.helping import Helping
from peer.protocol.messages import PingRequest, Pong, Rumour, Vouch
from peer.protocol.probing import Chance, ProbePace, Probing
from peer.protocol.roster import MAX_MEMBERS, Roster
from peer.protocol.speaker import Speaker
from peer.protocol.suspicion import OwnSlowness, Suspicion
from peer.protocol.types import REFUTATION_BITS, Address, Incarnation, Member, PeerId, Status, boot

MAX_CONFIRMATIONS = 3
_MAX_REFUTATIONS = (1 << REFUTATION_BITS) - 1
_HERE = (Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Timing of membership, seconds."""

    probe: ProbePace = field(default_factory=ProbePace)
    suspect_longest_s: float = 3.5
    suspect_shortest_s: float = 2.5  # with the probe a second longer: a pause of three seconds is no death
    broken_longest_s: float = 0.9  # the suspect's data link broke as well: a crash, most likely
    hello_first_s: float = 0.2  # to a silent door; doubles up to hello_last_s
    hello_last_s: float = 5.0
    joining_s: float = 5.0  # for a board that knocked to let us in as well
    regreet_s: float = 1.5  # to members that are dead
    regreet_late_s: float = 10.0  # to those that are dead for longer than regreet_until_s
    regreet_until_s: float = 60.0
    sync_s: float = 10.0  # to one member at random: what it may have missed
    stranger_s: float = 60.0  # a board of another version that was not heard for so long is gone
    late_s: float = 0.25  # a timer of our own that fires later than this says that we are slow
    behind: int = 8  # so do more messages than these that we have not got round to reading
    stuck_s: float = 10.0  # a worker in one step for longer does not count as alive
    outage_s: float = 1.0  # a suspicion shorter than this is no coming and going
    flap_window_s: float = 60.0
    flap_revivals: int = 3
    flap_hold_s: float = 15.0


class Liveness:
    """Probes, suspicions and revivals of one board."""

    def __init__(
        self, *, roster: Roster, speaker: Speaker, pace: Pace, rng: Chance, counters: Counter[str], now: float
    ) -> None:
        self._counters = counters
        self._roster = roster
        self._say = speaker
        self._pace = pace
        self._probing = Probing(pace=pace.probe, rng=rng, now=now)
        self._helping = Helping(patience_s=2 * pace.probe.verdict_s)
        self._looked_at = now
        self._slowness = OwnSlowness(ease_s=pace.probe.period_s)
        self._suspicions: dict[PeerId, Suspicion] = {}
        self._broken: set[PeerId] = set()
        self._wake_at: dict[PeerId, float] = {}  # a dead member is greeted, a joining or a flapping one is judged
        self._greeted_at: dict[PeerId, float] = {}
        self._revivals: dict[PeerId, list[float]] = {}
        self._held_until: dict[PeerId, float] = {}  # comes and goes: not trusted before

    def deadline(self) -> float:
        """Local monotonic time of the next thing to do."""
        times = [self._probing.deadline(), *(s.dead_at() for s in self._suspicions.values())]
        return min([*times, *self._wake_at.values()])

    def wake_at(self, peer: PeerId, at: float) -> None:
        """Look again at a member that is dead, joining or a stranger at that time."""
        self._wake_at[peer] = at

    def forget(self, peer: PeerId) -> None:
        """Nothing is known of `peer` any more, good or bad; only that it came and went is remembered."""
        self._suspicions.pop(peer, None)
        self._wake_at.pop(peer, None)
        self._broken.discard(peer)

    def drop(self, peer: PeerId) -> None:
        """`peer` is not listed any more."""
        self.forget(peer)
        self._greeted_at.pop(peer, None)
        self._revivals.pop(peer, None)
        self._held_until.pop(peer, None)

    def timer(self, now: float, *, late_s: float, unread: int) -> list[ControlEffect]:
        """Probes, verdicts and greetings that are due; `late_s`: how late this timer fired."""
        behind = unread > self._pace.behind
        if behind:
            self._counters["behind"] += 1
            late_s = max(late_s, now - self._looked_at)
        self._looked_at = now
        if behind or late_s > self._pace.late_s:
            # We slept, or have not read what was said. What we did not hear meanwhile says nothing about the others.
            # A busy ring that judges all the same accuses, refutes and confirms itself into more work, without an end.
            self._slowness.late()
            self._probing.restart(now, stretch=self._slowness.stretch)
            for suspicion in self._suspicions.values():
                suspicion.since_at += late_s
        effects = self._probe(now)
        for peer, suspicion in list(self._suspicions.items()):
            member = self._roster.get(peer)
            if member is not None and now >= suspicion.dead_at():
                silent_s = now - suspicion.since_at
                effects += self._died(member, f"silent for {silent_s:.1f} s after it was suspected", tell=True, now=now)
        for peer, at in list(self._wake_at.items()):
            if now >= at:
                effects += self._woken(peer, now)
        return effects

    def ping_for(self, asker: Member, target: PeerId, sequence: int, now: float) -> list[ControlEffect]:
        """Somebody does not hear `target`; we try, and vouch if it answers."""
        member = self._roster.get(target)
        if member is None or member.status not in _HERE or target == asker.peer:
            return []
        own = self._helping.begin(asker.peer, target, sequence, now)
        return [] if own is None else self._say.to(target, self._say.ping(own))

    def vouched(self, vouch: Vouch, now: float) -> list[ControlEffect]:
        """Another member has just heard `target`: it is alive, and our own connection to it is not."""
        target = self._roster.get(vouch.target)
        if target is None or self._probing.answered(vouch.target, vouch.sequence, now) is None:
            return []
        self._slowness.punctual(now)
        return self.greet(target, now)

    def pong(self, message: Pong, now: float) -> list[ControlEffect]:
        peer, me = message.sender, self._roster.me
        if message.stuck_ms > self._pace.stuck_s * 1000:
            self._counters["stuck_pongs"] += 1
            return []  # its loop answers, its worker does not: no proof that it can serve
        asked = self._helping.answered(peer, message.sequence)
        if asked is not None:
            asker, sequence = asked
            vouch = Vouch(sender=me.peer, incarnation=me.incarnation, target=peer, sequence=sequence)
            return self._say.to(asker, vouch)
        rtt_s = self._probing.answered(peer, message.sequence, now)
        if rtt_s is not None:
            self._slowness.punctual(now)
            self._roster.update(peer, rtt_s=rtt_s)
            self._broken.discard(peer)
            if peer in self._suspicions:
                self._roster.mark(peer, *self.revived(peer, now), now)
        return []

    def accused(self, member: Member) -> list[ControlEffect]:
        """Somebody says something who is suspect or dead here: it is to know, so that it can refute."""
        if member.peer not in self._suspicions and member.status is not Status.DEAD:
            return []
        return self._say.to(member.peer, self._say.news(member, member.status))

    def rumour(self, rumour: Rumour, now: float, *, stuck: bool) -> list[ControlEffect]:
        """What another member believes of a third, merged by the roster's rule."""
        if rumour.about == self._roster.me.peer:
            return [] if stuck else self._refute(rumour)
        about = self._roster.get(rumour.about)
        if about is None or about.status not in (*_HERE, Status.DEAD):
            return []
        if rumour.about in self._roster.joining or rumour.about in self._roster.strangers:
            return []
        if boot(rumour.about_incarnation) != boot(about.incarnation):
            return []
        if rumour.about_incarnation < about.incarnation:
            newer = about.status is Status.ALIVE and rumour.status is not Status.ALIVE
            return self._say.to(rumour.sender, self._say.news(about, Status.ALIVE)) if newer else []
        if rumour.status is Status.ALIVE:
            return self.renewed(about, rumour.about_incarnation, rumour.sender, now)
        teller = self._roster.get(rumour.sender)
        if about.status is Status.DEAD or teller is None or teller.status is not Status.ALIVE:
            return []  # who is doubted itself was cut off or asleep: its accusations are old, or about itself
        if rumour.about_incarnation > about.incarnation:
            about = self._roster.update(about.peer, incarnation=rumour.about_incarnation)
        name = self._say.name(rumour.sender)
        if rumour.status is Status.DEAD:
            return self._died(about, f"dead, says {name}", tell=False, now=now)
        suspicion = self._suspicions.get(about.peer)
        if suspicion is None:
            return self._suspect(about, f"suspected by {name}", rumour.sender, now)
        suspicion.accusers.add(rumour.sender)
        return []

    def renewed(self, member: Member, incarnation: Incarnation, teller: PeerId, now: float) -> list[ControlEffect]:
        """`member` refuted what was said about it: a higher incarnation of the same start."""
        if incarnation <= member.incarnation:
            return []
        suspicion = self._suspicions.get(member.peer)
        member = self._roster.update(member.peer, incarnation=incarnation)
        if member.peer in self._roster.joining or member.status not in (Status.SUSPECT, Status.DEAD):
            return []
        self._roster.mark(member.peer, *self.revived(member.peer, now), now)
        if suspicion is None or teller != member.peer:
            return []
        # Who accused it may not hear it: that is why it was accused.
        news = self._say.news(member, Status.ALIVE)
        accusers = sorted(suspicion.accusers - {self._roster.me.peer, member.peer})
        return [effect for accuser in accusers for effect in self._say.to(accuser, news)]

    def revived(self, peer: PeerId, now: float) -> tuple[Status, str]:
        """Status of a member that is back; one that comes and goes has to stay for a while first."""
        member, pace = self._roster.get(peer), self._pace
        suspicion = self._suspicions.get(peer)
        times = [at for at in self._revivals.pop(peer, []) if now - at < pace.flap_window_s]
        dead = member is not None and member.status is Status.DEAD
        if dead or (suspicion is not None and now - suspicion.since_at >= pace.outage_s):
            times.append(now)
        if times:
            self._revivals[peer] = times[-pace.flap_revivals :]
        until = self._held_until.pop(peer, now)
        self.forget(peer)
        # A board that is slow itself cannot tell who comes and goes.
        if len(times) >= pace.flap_revivals and times[-1] == now and self._slowness.stretch == 1.0:
            self._counters["flaps"] += 1
            until = now + pace.flap_hold_s
        elif until > now and suspicion is not None:
            until = now + pace.flap_hold_s  # not without a break
        if until > now:
            self._wake_at[peer] = self._held_until[peer] = until
            return Status.SUSPECT, f"comes and goes; trusted again after {pace.flap_hold_s:g} s without a break"
        return self._roster.standing(member.models if member else frozenset())

    def link_broke(self, peer: PeerId, now: float) -> list[ControlEffect]:
        """The data plane lost its connection: ask at once, and wait less for the answer."""
        member = self._roster.get(peer)
        if member is None or member not in self._roster.listeners():
            return []
        self._broken.add(peer)
        suspicion = self._suspicions.get(peer)
        if suspicion is not None:
            suspicion.hurry(self._pace.broken_longest_s * self._slowness.stretch)
        sequence = self._probing.start(peer, stretch=self._slowness.stretch, now=now, urgent=True)
        return [Redial(member=member), SendControl(to=member, message=self._say.ping(sequence))]

    def greet(self, member: Member, now: float) -> list[ControlEffect]:
        """Hello over a fresh connection, under our own keys: a token that was rotated meanwhile does not matter."""
        greeted_at = self._greeted_at.get(member.peer)
        if greeted_at is not None and now - greeted_at < self._pace.hello_first_s:
            return []
        self._greeted_at[member.peer] = now
        return [Redial(member=member), SendControl(to=member, message=self._say.hello(answer=False))]

    def check(self) -> None:
        """Invariants, for tests."""
        members = self._roster.view().members
        for peer in self._suspicions:
            assert members[peer].status is Status.SUSPECT, f"{peer} is suspected and {members[peer].status}"
            assert peer not in self._roster.joining
        for peer, member in members.items():
            waits = peer in self._suspicions or peer in self._wake_at
            assert member.status is not Status.SUSPECT or waits, f"{peer} is suspect for ever"
            greeted = peer in self._wake_at or peer in self._roster.strangers
            assert member.status is not Status.DEAD or greeted, f"{peer} is dead and never greeted"
        assert len(self._probing) <= MAX_MEMBERS
        known = (self._wake_at, self._greeted_at, self._revivals, self._held_until, self._broken)
        assert all(peer in members for table in known for peer in table), known
        self._helping.check()

    def _refute(self, rumour: Rumour) -> list[ControlEffect]:
        me = self._roster.me
        if rumour.status is Status.ALIVE or rumour.about_incarnation < me.incarnation:
            return []
        if boot(rumour.about_incarnation) != boot(me.incarnation):
            self._counters["own_id_seen_elsewhere"] += 1
            return []
        if rumour.about_incarnation & _MAX_REFUTATIONS == _MAX_REFUTATIONS:
            return []  # one more would be another start; nobody honest comes here
        # A higher incarnation outranks the accusation everywhere.
        self._counters["refutations"] += 1
        self._slowness.late()  # accused and alive: somebody waited for us in vain
        self._roster.update(me.peer, incarnation=Incarnation(rumour.about_incarnation + 1))
        news = self._say.news(self._roster.me, Status.ALIVE)
        effects = self._say.tell_all(news)
        accuser = self._roster.get(rumour.sender)
        if accuser is not None and accuser not in self._roster.listeners():
            effects += self._say.to(rumour.sender, news)
        return effects

    def _suspect(self, member: Member, reason: str, accuser: PeerId, now: float) -> list[ControlEffect]:
        self._wake_at.pop(member.peer, None)
        longest_s = self._pace.broken_longest_s if member.peer in self._broken else self._pace.suspect_longest_s
        others = [m for m in self._roster.others(Status.ALIVE) if m.peer != member.peer]
        # Of the others, the accuser cannot confirm itself; where it is another board, this one can.
        suspicion = Suspicion(
            since_at=now,
            longest_s=longest_s * self._slowness.stretch,
            shortest_s=min(longest_s, self._pace.suspect_shortest_s),
            expected=min(MAX_CONFIRMATIONS, len(others)),
            accusers={accuser},
        )
        self._suspicions[member.peer] = suspicion
        self._roster.mark(member.peer, Status.SUSPECT, reason, now)
        if accuser != self._roster.me.peer:
            return []
        # The suspect hears of it too, so that it can refute.
        return self._say.tell_all(self._say.news(member, Status.SUSPECT))

    def _died(self, member: Member, reason: str, *, tell: bool, now: float) -> list[ControlEffect]:
        effects: list[ControlEffect] = []
        if tell:
            # The dead one hears of it too, and may be alive after all. Not other suspects: where we are the one who is
            # cut off, what waits for them is old when it arrives.
            news = self._say.news(member, Status.DEAD)
            for peer in [*(m.peer for m in self._roster.others(Status.ALIVE)), member.peer]:
                effects += self._say.to(peer, news)
        self.forget(member.peer)
        self._roster.mark(member.peer, Status.DEAD, reason, now)
        if member.peer not in self._roster.strangers:
            self._wake_at[member.peer] = now + self._pace.regreet_s
        return effects

    def _probe(self, now: float) -> list[ControlEffect]:
        targets = [m.peer for m in self._roster.listeners()]
        helpers = [m.peer for m in self._roster.others(Status.ALIVE)]
        due = self._probing.due(targets, helpers, stretch=self._slowness.stretch, now=now)
        me = self._roster.me
        effects: list[ControlEffect] = []
        for peer, sequence in due.ping:
            effects += self._say.to(peer, self._say.ping(sequence))
        for helper, target, sequence in due.ask:
            ask = PingRequest(sender=me.peer, incarnation=me.incarnation, target=target, sequence=sequence)
            effects += self._say.to(helper, ask)
        if len(due.silent) > 1:
            self._slowness.late()  # several at once: more likely it is us
        # Nobody answers at all: we are cut off, and what we then say of the others is stale once it arrives.
        alone = len(due.silent) > 1 and set(due.silent) >= set(targets)
        for peer in due.silent:
            effects += self._silent(peer, now, tell=not alone)
        return effects

    def _silent(self, peer: PeerId, now: float, *, tell: bool) -> list[ControlEffect]:
        """A probe ended without anybody's word."""
        member, me = self._roster.get(peer), self._roster.me
        if member is None:
            return []
        suspicion = self._suspicions.get(peer)
        if suspicion is None:
            # A fresh connection costs both ends a key exchange, which boards short of time have not got to spare: at
            # first only an introduction is sent. Who stays silent is dialled anew.
            effects: list[ControlEffect] = [SendControl(to=member, message=self._say.hello(answer=False))]
            reason = "its data link broke and it does not answer" if peer in self._broken else "does not answer"
            accusations = self._suspect(member, reason, me.peer, now)
            return effects + accusations if tell else effects
        effects = self.greet(member, now)
        if me.peer not in suspicion.accusers:
            enough = len(suspicion.accusers) > MAX_CONFIRMATIONS
            suspicion.accusers.add(me.peer)
            if not enough:
                # More would shorten nobody's wait, and of a large ring every board would tell every other.
                effects += self._say.tell_all(self._say.news(member, Status.SUSPECT))
        return effects

    def _woken(self, peer: PeerId, now: float) -> list[ControlEffect]:
        """Who is dead may be back any moment; who was held for flapping is let in when it stayed."""
        member, pace = self._roster.get(peer), self._pace
        del self._wake_at[peer]
        if member is None:
            return []
        if peer in self._roster.joining:
            self._roster.joining.discard(peer)
            return self._died(member, "knocked here, but does not answer at its own door", tell=False, now=now)
        if peer in self._roster.strangers:
            self._roster.mark(peer, Status.DEAD, f"not heard for {pace.stranger_s:g} s; {member.reason}", now)
            return []
        if member.status is Status.SUSPECT:
            self._held_until.pop(peer, None)
            self._roster.mark(peer, *self._roster.standing(member.models), now)
            return []
        if member.status is not Status.DEAD:
            return []
        early = now - member.since_s < pace.regreet_until_s
        self._wake_at[peer] = now + (pace.regreet_s if early else pace.regreet_late_s)
        # Its door as well: it may have lost its list of boards and know nobody's key.
        door = Address(host=member.endpoint.host, port=member.endpoint.port)
        return [*self.greet(member, now), Knock(at=door, message=self._say.hello(answer=False))]
