"""What the boards of one attempt are told: who holds which tokens, and each board's part of the input. No state."""

from peer.protocol.events import Submission
from peer.protocol.messages import Assign
from peer.protocol.types import MAX_BODY_BYTES, Epoch, InputKind, ModelFacts, PeerId, Shard

_LIMIT_MS = (1 << 32) - 1  # what a field of the message holds: 49 days


def too_large(submission: Submission, facts: ModelFacts, shards: tuple[Shard, ...]) -> str | None:
    """Why these shards cannot travel: a message over the limit would be refused by every board that gets it."""
    if len(shards) == 1:
        return None
    tokens = max(shard.tokens.count for shard in shards)
    codec = facts.codecs[submission.codec]
    for what, size in (
        (
            "codes",
            max(codec.payload_bytes(block=b, tokens=tokens, batch=submission.batch) for b in range(facts.blocks)),
        ),
        ("patch rows", tokens * facts.row_bytes * submission.batch),
        ("class tokens", 4 * submission.batch * facts.width),
    ):
        if size > MAX_BODY_BYTES:
            return f"one board's {what} would be {size} bytes, over the limit of {MAX_BODY_BYTES}; send fewer images"
    return None


def assignments(
    submission: Submission,
    facts: ModelFacts,
    shards: tuple[Shard, ...],
    *,
    self_id: PeerId,
    attempt: int,
    epoch: Epoch,
    round_s: float,
    degrade_s: float,
    now: float,
) -> list[Assign]:
    """One message per shard, in the order of the shards.

    `round_s`: how long a round may take; `degrade_s`: with no more time left, codes that stay out are done without.
    """
    coordinator = next(i for i, shard in enumerate(shards) if shard.peer == self_id)
    left_s = min(submission.deadline_at - now, _LIMIT_MS / 1000)
    messages = []
    for shard in shards:
        kind, body = _input(submission, facts, shard, own=shard.peer == self_id)
        messages.append(
            Assign(
                request=submission.request,
                attempt=attempt,
                epoch=epoch,
                model=submission.model,
                codec=submission.codec,
                exchange=submission.exchange,
                batch=submission.batch,
                coordinator=coordinator,
                shards=shards,
                deadline_ms=max(0, int(left_s * 1000)),
                round_ms=_milliseconds(round_s),
                degrade_ms=_milliseconds(degrade_s),
                input_kind=kind,
                body=body,
            )
        )
    return messages


def _milliseconds(seconds: float) -> int:
    return int(min(max(seconds, 0.0) * 1000, _LIMIT_MS))


def _input(submission: Submission, facts: ModelFacts, shard: Shard, *, own: bool) -> tuple[InputKind, bytes]:
    """The cheapest form of a board's part of the input: its patch rows, or the compressed file when smaller."""
    row, image = facts.row_bytes, facts.row_bytes * facts.tokens
    tokens, batch = shard.tokens, submission.batch
    if submission.file is not None and len(submission.file) < tokens.count * row * batch and not own:
        return InputKind.FILE, submission.file
    cuts = ((b * image + tokens.start * row, b * image + tokens.stop * row) for b in range(batch))
    return InputKind.ROWS, b"".join(submission.rows[start:stop] for start, stop in cuts)
