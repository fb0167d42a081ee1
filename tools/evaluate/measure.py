"""Measures one row: all pictures of a test set under one condition, batch after batch."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from peer.protocol.time_left import early_blocks
from runtime.model import Model
from tools.evaluate.boards import Loss, divided
from tools.evaluate.rows import Condition, Row, Split, bits_per_token, identity
from tools.evaluate.test_set import I64, TestSet

BATCH = 25  # measured: larger batches leave the cache and are slower


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A model, what it is asked, and the undivided network's answers."""

    model: Model
    test: TestSet
    answers: I64  # [n]
    whole_s: float  # the time that took
    seed: int


def prepare(model: Model, test: TestSet, *, seed: int) -> Bench:
    """Ask the undivided network."""
    began_at = time.monotonic()
    batches = [test.rows[start : start + BATCH] for start in range(0, len(test.rows), BATCH)]
    answers = np.concatenate([model.whole(batch).argmax(axis=1) for batch in batches])
    return Bench(model=model, test=test, answers=answers, whole_s=time.monotonic() - began_at, seed=seed)


def measure(bench: Bench, condition: Condition, tick: Callable[[int], None] = lambda _: None) -> Row:
    """One row. Splits and losses are drawn per batch from (seed, boards, batch): the same ones for every codec.

    `tick` is told the number of pictures done.
    """
    began_at, test = time.monotonic(), bench.test
    answers = []
    for number, start in enumerate(range(0, len(test.rows), BATCH) if condition.codec else ()):
        cuts, loss = draw(condition, bench.model, (bench.seed, condition.boards, number))
        loss = at_a_round(bench.model, condition.codec, loss)
        if condition.anew:
            cuts, loss = again(bench.model, cuts, loss)
        logits = divided(bench.model, condition.codec, test.rows[start : start + BATCH], cuts, loss)
        answers.append(logits.argmax(axis=1))
        tick(min(start + BATCH, len(test.rows)))
    found = np.concatenate(answers) if answers else bench.answers
    plan = bench.model.plan
    spec = plan.codec(condition.codec)
    bits = bits_per_token(spec, plan.geometry.blocks) if spec is not None else 0.0
    return Row(
        model=plan.name,
        identity=identity(plan, condition.codec),
        codec=condition.codec,
        bits=round(bits, 3),
        compression=round(32 * plan.geometry.width / bits, 2) if bits else 0.0,
        boards=condition.boards,
        split=condition.split.value,
        lost=condition.lost,
        anew=condition.anew,
        images=len(test.labels),
        all_images=test.all_images,
        seed=bench.seed,
        right=int((found == test.labels).sum()),
        agreeing=int((found == bench.answers).sum()),
        seconds=round(time.monotonic() - began_at if condition.codec else bench.whole_s, 1),
    )


def at_a_round(model: Model, codec: str, loss: Loss | None) -> Loss | None:
    """A board that dies before a silent block is missed at the next round, if there is one."""
    spec, blocks = model.plan.codec(codec), model.plan.geometry.blocks
    if loss is None or spec is None:
        return loss
    block = next((block for block in range(loss.block, blocks) if not spec.silent(block)), None)
    return None if block is None else Loss(board=loss.board, block=block)


def again(model: Model, cuts: list[int], loss: Loss | None) -> tuple[list[int], Loss | None]:
    """What boards do that may do without a lost one: lost early, the others share all tokens and begin anew."""
    if loss is None or loss.block >= early_blocks(model.plan.geometry.blocks):
        return cuts, loss
    tokens, left = cuts[-1], len(cuts) - 2
    return [tokens * board // left for board in range(left + 1)], None


def draw(condition: Condition, model: Model, seed: tuple[int, int, int]) -> tuple[list[int], Loss | None]:
    """Cuts [boards + 1] and, where a board is to be lost, which one and from which block on."""
    tokens, boards = model.plan.geometry.tokens, condition.boards
    rng = np.random.default_rng(seed)
    inner = np.sort(rng.choice(np.arange(1, tokens), size=boards - 1, replace=False))
    loss = Loss(board=int(rng.integers(boards)), block=int(rng.integers(model.plan.geometry.blocks)))
    if condition.split is Split.EVEN:
        cuts = [tokens * board // boards for board in range(boards + 1)]
    else:
        cuts = [0, *(int(cut) for cut in inner), tokens]
    return cuts, loss if condition.lost else None
