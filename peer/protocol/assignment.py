"""What the boards of one attempt are told: who holds which tokens, and each board's part of the input. No state."""

from collections.abc import Callable

from peer.protocol.events import Submission
from peer.protocol.messages import Assign, Errand
from peer.protocol.types import MAX_BODY_BYTES, Epoch, InputKind, ModelFacts, PeerId, Shard, TokenRange

Pack = Callable[[bytes, int], bytes]  # (patch rows, bytes of one) -> the same in fewer bytes, without loss

_LIMIT_MS = (1 << 32) - 1  # what a field of the message holds: 49 days


def too_large(
    submission: Submission, facts: ModelFacts, shards: tuple[Shard, ...], *, entrusted: bool = False
) -> str | None:
    """Why these shards cannot travel: a message over the limit would be refused by every board that gets it.

    `entrusted`: the one shard is another board's, and its answer comes back.
    """
    if len(shards) == 1 and not entrusted:
        return None
    tokens = max(shard.tokens.count for shard in shards)
    sizes = {"patch rows": tokens * facts.row_bytes * submission.batch}
    if entrusted:
        sizes["answers"] = 4 * submission.batch * facts.labels
    else:
        codec = facts.codecs[submission.codec]
        rounds = (codec.payload_bytes(block=b, tokens=tokens, batch=submission.batch) for b in range(facts.blocks))
        sizes["codes"] = max(rounds)
        sizes["class tokens"] = 4 * submission.batch * facts.width
    for what, size in sizes.items():
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
    degrade_from: int,
    now: float,
    pack: Pack | None = None,
    narrow: frozenset[PeerId] = frozenset(),
) -> list[Assign]:
    """One message per shard, in the order of the shards.

    `narrow`: boards with a slow way to them, for whose part of the input the smallest form is looked for, `pack` too.

    `round_s`: how long a round may take; `degrade_s`: with no more time left, codes that stay out are done without,
    and so they are from the block `degrade_from` on.
    """
    coordinator = next(i for i, shard in enumerate(shards) if shard.peer == self_id)
    left_s = min(submission.deadline_at - now, _LIMIT_MS / 1000)
    messages = []
    for shard in shards:
        small = shard.peer in narrow and shard.peer != self_id
        kind, body = _input(submission, facts, shard, small=small, pack=pack)
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
                degrade_from=degrade_from,
                input_kind=kind,
                body=body,
            )
        )
    return messages


def errand(
    submission: Submission,
    facts: ModelFacts,
    *,
    asker: PeerId,
    attempt: int,
    epoch: Epoch,
    now: float,
    narrow: bool,
    pack: Pack | None = None,
) -> Errand:
    """The message that hands the whole request to another board; `narrow`: over a slow way."""
    everything = Shard(peer=asker, tokens=TokenRange(start=0, stop=facts.tokens))
    kind, body = _input(submission, facts, everything, small=narrow, pack=pack)
    return Errand(
        request=submission.request,
        attempt=attempt,
        epoch=epoch,
        asker=asker,
        model=submission.model,
        batch=submission.batch,
        deadline_ms=_milliseconds(submission.deadline_at - now),
        input_kind=kind,
        body=body,
    )


def _milliseconds(seconds: float) -> int:
    return int(min(max(seconds, 0.0) * 1000, _LIMIT_MS))


def _input(
    submission: Submission, facts: ModelFacts, shard: Shard, *, small: bool, pack: Pack | None
) -> tuple[InputKind, bytes]:
    """A board's part of the input: its patch rows, or, where it shall be `small`, the smallest of three forms.

    These are the rows, packed or not, and the compressed file. The asked board has decoded it already, so that sending
    the file everywhere would have every board do that once more, at a Raspberry Pi's speed for longer than rows take
    over a link that is not narrow.
    """
    row, image = facts.row_bytes, facts.row_bytes * facts.tokens
    tokens, batch = shard.tokens, submission.batch
    cuts = ((b * image + tokens.start * row, b * image + tokens.stop * row) for b in range(batch))
    kind, body = InputKind.ROWS, b"".join(submission.rows[start:stop] for start, stop in cuts)
    if not small:
        return kind, body
    if pack is not None and len(packed := pack(body, row)) < len(body):
        kind, body = InputKind.PACKED, packed
    if submission.file is not None and len(submission.file) < len(body):
        return InputKind.FILE, submission.file
    return kind, body
