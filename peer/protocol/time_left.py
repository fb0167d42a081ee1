"""What the time left for one request still allows: a round, another run with others, or the asked board alone."""

import math

from peer.protocol.events import Submission
from peer.protocol.patience import LONGEST_ROUND_S, Patience
from peer.protocol.types import Exchange, ModelFacts

_ROUND_OF_REST = 0.25  # of the time left: no round waits longer, so that other attempts fit behind it
_RESCUE_OF_ALL = 0.2  # of the time for the request, or this many times what it takes alone, are kept for that
_RESCUE_OF_ALONE = 3.0
_EARLY_PART = 3  # the first of so many equal parts of the blocks: what it costs accuracy, the model cards tell


def early_blocks(blocks: int) -> int:
    """How many of a model's `blocks` come first enough to begin anew when a board is lost there."""
    return -(-blocks // _EARLY_PART)


class TimeLeft:
    """The deadline of one request, on the board that was asked. All times are local monotonic seconds."""

    def __init__(self, submission: Submission, facts: ModelFacts, patience: Patience) -> None:
        self._submission = submission
        self.codec = submission.codec  # the one that is used, once that is known
        self._facts = facts
        self._patience = patience
        self._alone_s: float | None = None  # what the undivided model takes here, as far as that was measured
        self.rescue_at = math.inf  # when the asked board goes on alone, or it would come too late

    def begin(self, speed: float | None, now: float) -> None:
        """Its turn has come. `speed`: of this board, tokens times blocks per second; None where nothing was measured.

        Where even the asked board alone would take too long, there is no moment to go on alone.
        """
        if speed:
            self._alone_s = self._facts.tokens * self._facts.blocks * self._submission.batch / speed
        all_s = self._submission.deadline_at - now
        spare_s = max(_RESCUE_OF_ALL * all_s, _RESCUE_OF_ALONE * (self._alone_s or 0.0))
        self.rescue_at = self._submission.deadline_at - spare_s if spare_s < all_s else math.inf

    def over(self, now: float) -> bool:
        return now >= self._submission.deadline_at

    def round_s(self, attempt: int, now: float) -> float:
        """How long a round of an attempt may take: who seems lost may only be slow, so each is more patient."""
        # Silent blocks make a round longer.
        blocks = self._facts.blocks / self._facts.codecs[self.codec].rounds
        patience_s = self._patience.round_s(self._submission.model) * 2.0 ** (attempt - 1)
        return min(blocks * LONGEST_ROUND_S, blocks * patience_s, _ROUND_OF_REST * (self._submission.deadline_at - now))

    def degrade_s(self) -> float:
        """With no more time left than this nothing that gives a whole answer would be in time."""
        wanted = self._submission
        if wanted.exchange is Exchange.RING:
            return 0.0
        return min(self._patience.rerun_s(wanted.model), self._rescue_s())

    @property
    def degrade_from(self) -> int:
        """The first block before which a board may be done without although there is time; after the last: none.

        Who is lost early has hardly said anything of its tokens, and little work is lost with it.
        """
        wanted = self._submission
        allowed = wanted.allow_degraded and wanted.exchange is not Exchange.RING
        return early_blocks(self._facts.blocks) if allowed else self._facts.blocks

    def to_degrade(self, now: float) -> bool:
        """Whether it is better to do without the tokens of boards that stay out than to begin anew."""
        left_s = self._submission.deadline_at - now
        return left_s > 0 and (left_s <= self.degrade_s() or self.degrade_from < self._facts.blocks)

    def only_alone(self, now: float) -> bool:
        """Whether another run with others would come too late, and the asked board alone would not."""
        left_s = self._submission.deadline_at - now
        return self._rescue_s() < left_s <= self._patience.rerun_s(self._submission.model)

    def _rescue_s(self) -> float:
        """With no more time left than this the asked board alone would come too late as well."""
        return math.inf if self._alone_s is None else _RESCUE_OF_ALONE * self._alone_s
