"""Which codecs a request may use: the one that was named, the model's default, or all that are accurate enough."""

import math

from peer.errors import Refused
from peer.protocol.types import ModelFacts


def wanted_codecs(facts: ModelFacts, name: str | None, within: float | None) -> tuple[str, ...]:
    """At least one, of which the planner takes the fastest. Raises Refused with what there is instead."""
    if name is not None and within is not None:
        raise Refused("a codec and a loss of accuracy cannot be asked for both; leave one of them out")
    if within is None:
        chosen = name or facts.default_codec
        if chosen not in facts.codecs:
            raise Refused(f"model {facts.name} has no codec {chosen}; it has {', '.join(facts.codecs)}")
        return (chosen,)
    if not math.isfinite(within):
        raise Refused("a loss of accuracy is a number of percentage points")
    found = facts.within(within)
    if found:
        return found
    known = sorted((c.points_lost[0][1], c.name) for c in facts.codecs.values() if c.points_lost)
    if not known:
        raise Refused(f"nobody has measured what the codecs of {facts.name} cost in accuracy; name a codec instead")
    least, best = known[0]
    raise Refused(
        f"no codec of {facts.name} is known to lose {within:g} points of accuracy or less; {best} loses {least:g}"
    )
