"""Life and death of members: SWIM's probes and rumours, Lifeguard's patience, and boards that come and go.

Part of the membership machine; the roster holds the members, this module decides about their status.
"""

from collections import Counter
from dataclasses import dataclass, field

from peer.protocol.control_events import ControlEffect, Redial, SendControl
from peer.protocol.messages import PingRequest, Pong, Rumour, Vouch
from peer.protocol.probing import Chance, ProbePace, Probing
from peer.protocol.roster import Roster
from peer.protocol.speaker import Speaker
from peer.protocol.suspicion import OwnSlowness, Suspicion
from peer.protocol.types import Incarnation, Member, PeerId, Status

MAX_HELPED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Timing of membership, seconds."""

    probe: ProbePace = field(default_factory=ProbePace)
    suspect_longest_s: float = 3.5
    suspect_shortest_s: float = 1.5
    broken_longest_s: float = 0.9  # the suspect's data link broke as well: a crash, most likely
    hello_first_s: float = 0.2  # to a silent door; doubles up to hello_last_s
    hello_last_s: float = 5.0
    regreet_s: float = 1.5  # to members that are dead
    late_s: float = 0.25  # a timer of our own that fires later than this says that we are slow
    stuck_s: float = 10.0  # a worker in one step for longer does not count as alive
    flap_window_s: float = 60.0
    flap_revivals: int = 3
    flap_hold_s: float = 15.0


class Liveness:
    """Probes, suspicions and revivals of one board."""

    def __init__(self, *, roster: Roster, speaker: Speaker, pace: Pace, rng: Chance, now: float) -> None:
        self.counters: Counter[str] = Counter()
        self._roster = roster
        self._say = speaker
        self._pace = pace
        self._probing = Probing(pace=pace.probe, rng=rng, now=now)
        self._slowness = OwnSlowness()
        self._suspicions: dict[PeerId, Suspicion] = {}
        self._broken: set[PeerId] = set()
        self._helped: dict[tuple[PeerId, int], PeerId] = {}
        self._regreet_at: dict[PeerId, float] = {}
        self._revivals: dict[PeerId, list[float]] = {}

    def deadline(self) -> float:
        """Local monotonic time of the next thing to do."""
        return min(
            [self._probing.deadline(), *(s.dead_at() for s in self._suspicions.values()), *self._regreet_at.values()]
        )

    def accused(self, peer: PeerId) -> bool:
        """Whether somebody suspects `peer`."""
        return peer in self._suspicions

    def greet_at(self, peer: PeerId, at: float) -> None:
        """Greet a member that is dead at that time."""
        self._regreet_at[peer] = at

    def forget(self, peer: PeerId) -> None:
        """Nothing is known of `peer` any more, good or bad."""
        self._suspicions.pop(peer, None)
        self._regreet_at.pop(peer, None)
        self._broken.discard(peer)

    def timer(self, now: float, *, late_s: float) -> list[ControlEffect]:
        """Probes, verdicts and greetings that are due; `late_s`: how late this timer fired."""
        if late_s > self._pace.late_s:
            self._slowness.late()
        effects = self._probe(now)
        for peer, suspicion in list(self._suspicions.items()):
            member = self._roster.get(peer)
            if member is not None and now >= suspicion.dead_at():
                silent_s = now - suspicion.since_at
                effects += self._died(member, f"silent for {silent_s:.1f} s after it was suspected", tell=True, now=now)
        for peer, at in list(self._regreet_at.items()):
            if now >= at:
                effects += self._regreet(peer, now)
        return effects

    def vouched(self, vouch: Vouch, now: float) -> None:
        """Another member has just heard `target`."""
        if self._probing.answered(vouch.target, vouch.sequence, now) is not None:
            self._slowness.punctual()

    def check(self) -> None:
        """Invariants, for tests."""
        statuses = {member.peer: member.status for member in self._roster.view().members.values()}
        assert all(statuses.get(peer) is Status.SUSPECT for peer in self._suspicions), self._suspicions
        assert len(self._helped) <= MAX_HELPED

    def pong(self, message: Pong, now: float) -> list[ControlEffect]:
        if message.stuck_ms > self._pace.stuck_s * 1000:
            self.counters["stuck_pongs"] += 1
            return []  # its loop answers, its worker does not: no proof that it can serve
        peer = message.sender
        rtt_s = self._probing.answered(peer, message.sequence, now)
        effects: list[ControlEffect] = []
        for (target, sequence), asker in list(self._helped.items()):
            if target == peer and sequence == message.sequence:
                del self._helped[target, sequence]
                effects += self._vouch(asker, target, sequence)
        if rtt_s is not None:
            self._slowness.punctual()
            self._roster.update(peer, rtt_s=rtt_s)
            self._broken.discard(peer)
            if peer in self._suspicions:
                del self._suspicions[peer]
                status, reason = self.revived(peer, now)
                self._roster.mark(peer, status, reason, now)
        return effects

    def ping_for(self, asker: Member, target: PeerId, sequence: int, now: float) -> list[ControlEffect]:
        """Somebody does not hear `target`; we try, and vouch if it answers."""
        member = self._roster.get(target)
        if member is None or member.status not in (Status.ALIVE, Status.SUSPECT) or len(self._helped) >= MAX_HELPED:
            return []
        # Others' sequences live in a space of their own, above our probes'.
        self._helped[target, sequence] = asker.peer
        return [SendControl(to=member, message=self._say.ping(sequence))]

    def _vouch(self, asker: PeerId, target: PeerId, sequence: int) -> list[ControlEffect]:
        member, me = self._roster.get(asker), self._roster.me
        if member is None:
            return []
        vouch = Vouch(sender=me.peer, incarnation=me.incarnation, target=target, sequence=sequence)
        return [SendControl(to=member, message=vouch)]

    def rumour(self, rumour: Rumour, now: float) -> list[ControlEffect]:
        """What another member believes of a third, merged by the roster's rule."""
        me = self._roster.me
        if rumour.about == me.peer:
            if rumour.status is Status.ALIVE or rumour.about_incarnation < me.incarnation:
                return []
            # We are not: a higher incarnation outranks the accusation everywhere.
            self.counters["refutations"] += 1
            self._roster.update(me.peer, incarnation=Incarnation(rumour.about_incarnation + 1))
            return self._say.tell_all(self._say.news(self._roster.me, Status.ALIVE))
        about = self._roster.get(rumour.about)
        if about is None or about.status in (Status.LEFT, Status.INCOMPATIBLE, Status.REFUSED):
            return []
        if rumour.status is Status.ALIVE:
            if rumour.about_incarnation > about.incarnation:
                self._roster.update(about.peer, incarnation=rumour.about_incarnation)
                if about.status is not Status.ALIVE and about.peer not in self._roster.joining:
                    self._suspicions.pop(about.peer, None)
                    self._regreet_at.pop(about.peer, None)
                    self._roster.mark(about.peer, *self.revived(about.peer, now), now)
            return []
        if rumour.about_incarnation < about.incarnation or about.status is Status.DEAD:
            return []
        if rumour.status is Status.DEAD:
            return self._died(about, f"dead, says {self._say.name(rumour.sender)}", tell=False, now=now)
        if about.status is Status.ALIVE:
            return self._suspect(about, f"suspected by {self._say.name(rumour.sender)}", rumour.sender, now)
        suspicion = self._suspicions.get(about.peer)
        if suspicion is not None:
            suspicion.accusers.add(rumour.sender)
        return []

    def _suspect(self, member: Member, reason: str, accuser: PeerId, now: float) -> list[ControlEffect]:
        longest_s = self._pace.broken_longest_s if member.peer in self._broken else self._pace.suspect_longest_s
        others = len(self._roster.others(Status.ALIVE)) - 1
        suspicion = Suspicion(
            incarnation=member.incarnation,
            since_at=now,
            longest_s=longest_s * self._slowness.stretch,
            shortest_s=min(longest_s, self._pace.suspect_shortest_s),
            expected=min(3, max(0, others)),
            accusers={accuser},
        )
        self._suspicions[member.peer] = suspicion
        self._roster.mark(member.peer, Status.SUSPECT, reason, now)
        if accuser != self._roster.me.peer:
            return []
        # The suspect hears of it too, so that it can refute.
        return self._say.tell_all(self._say.news(member, Status.SUSPECT))

    def _died(self, member: Member, reason: str, *, tell: bool, now: float) -> list[ControlEffect]:
        self.forget(member.peer)
        self._roster.mark(member.peer, Status.DEAD, reason, now)
        self._regreet_at[member.peer] = now + self._pace.regreet_s
        return self._say.tell_all(self._say.news(member, Status.DEAD)) if tell else []

    def revived(self, peer: PeerId, now: float) -> tuple[Status, str]:
        """Status of a member that is back; one that comes and goes has to stay for a while first."""
        member = self._roster.get(peer)
        times = [at for at in self._revivals.get(peer, []) if now - at < self._pace.flap_window_s]
        if member is not None and member.status is Status.DEAD:
            times.append(now)  # a suspicion that passed is no coming and going
        self._revivals[peer] = times
        if len(times) >= self._pace.flap_revivals:
            self.counters["flaps"] += 1
            self._regreet_at[peer] = now + self._pace.flap_hold_s
            return Status.SUSPECT, f"comes and goes; trusted again after {self._pace.flap_hold_s:g} s without a break"
        return self._roster.standing(member.models if member else frozenset())

    def link_broke(self, peer: PeerId, now: float) -> list[ControlEffect]:
        member = self._roster.get(peer)
        if member is None or member.status is not Status.ALIVE:
            return []
        self._broken.add(peer)
        sequence = self._probing.start(peer, stretch=self._slowness.stretch, now=now, urgent=True)
        return [Redial(member=member), SendControl(to=member, message=self._say.ping(sequence))]

    def _probe(self, now: float) -> list[ControlEffect]:
        targets = [m.peer for m in self._roster.others(Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)]
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
        for peer in due.silent:
            effects += self._silent(peer, now)
        return effects

    def _silent(self, peer: PeerId, now: float) -> list[ControlEffect]:
        """A probe ended without anybody's word."""
        member = self._roster.get(peer)
        if member is None:
            return []
        if member.status is Status.INCOMPATIBLE or peer in self._roster.joining:
            self._roster.joining.discard(peer)
            return self._died(member, "does not answer", tell=False, now=now)
        if member.status is not Status.ALIVE:
            return []
        reason = "its data link broke and it does not answer" if peer in self._broken else "does not answer"
        return [Redial(member=member), *self._suspect(member, reason, self._roster.me.peer, now)]

    def _regreet(self, peer: PeerId, now: float) -> list[ControlEffect]:
        """Who is dead may be back any moment; who was held for flapping is let in when it stayed."""
        member = self._roster.get(peer)
        del self._regreet_at[peer]
        if member is None:
            return []
        if member.status is Status.SUSPECT and peer not in self._suspicions and peer not in self._roster.joining:
            status, reason = self._roster.standing(member.models)
            self._roster.mark(peer, status, reason, now)
            return []
        if member.status is not Status.DEAD:
            return []
        self._regreet_at[peer] = now + self._pace.regreet_s
        return self.greet(member)

    def greet(self, member: Member) -> list[ControlEffect]:
        """Hello over a fresh connection, under our own keys: a token that was rotated meanwhile does not matter."""
        return [Redial(member=member), SendControl(to=member, message=self._say.hello(answer=False))]
