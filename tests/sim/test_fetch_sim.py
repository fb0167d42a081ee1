"""A model reaches a fresh board through loss, kills, and dead, silent and hostile holders; nothing wrong gets in."""

from collections import Counter
from random import Random

import pytest
from fetch_network import Content, FetchNetwork, Holder

from peer.protocol.bulk_messages import CHUNK_BYTES

SEEDS = 60
LIES = ("short", "offset", "file", "model", "size", "request", "bytes", "refusal")


def content(random: Random) -> Content:
    sizes = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, random.randrange(1, 9 * CHUNK_BYTES), 17)
    return Content.random(sizes, random)


def network(seed: int, boards: int = 3, *, loss: float = 0.0) -> tuple[FetchNetwork, Random]:
    random = Random(seed)
    model = content(random)
    return FetchNetwork(seed, model, [Holder(content=model) for _ in range(boards)], loss=loss), random


@pytest.mark.parametrize("seed", range(SEEDS))
def test_without_faults_every_byte_comes_once_and_from_everybody(seed: int) -> None:
    lan, _ = network(seed)
    lan.run()
    lan.expect_installed()
    progress = lan.machine.progress()
    manifest = len(lan.content.files[0])
    assert progress.received_bytes == progress.total_bytes + manifest == progress.done_bytes + manifest
    assert progress.boards == 3
    assert max(holder.served for holder in lan.holders) - min(holder.served for holder in lan.holders) <= 4


@pytest.mark.parametrize("seed", range(SEEDS))
def test_loss_delay_and_duplicates_only_take_time(seed: int) -> None:
    lan, _ = network(seed, 1 + seed % 4, loss=0.15)
    lan.run(600.0)
    lan.expect_installed()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_holders_that_die_or_fall_silent_are_done_without(seed: int) -> None:
    lan, random = network(seed, 4)
    for index in random.sample(range(4), 3):
        lan.run(until_bytes=random.randrange(1, 6 * CHUNK_BYTES))
        if random.random() < 0.5:
            lan.change(index, alive=False)
        else:
            lan.holders[index].mute = True
    lan.run()
    lan.expect_installed()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_honest_board_among_hostile_ones_is_enough(seed: int) -> None:
    lan, random = network(seed, 4)
    for index in random.sample(range(4), 3):
        lan.holders[index].lies = Counter({random.choice(LIES): random.choice((5, 30, 100))})
    lan.run()
    lan.expect_installed()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_damaged_copy_cannot_poison(seed: int) -> None:
    lan, random = network(seed, 3)
    bad = random.randrange(3)
    file = random.choice((2, 3, 4, 5, 6))
    lan.holders[bad].content = lan.content.damaged(file)
    lan.run()
    lan.expect_installed()


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_board_asks_only_for_what_it_lacks(seed: int) -> None:
    lan, random = network(seed, 2)
    lan.run(until_bytes=random.randrange(1, 6 * CHUNK_BYTES))
    kept = sum(map(len, lan.disk.values()))
    lan.restart()
    lan.run()
    lan.expect_installed()
    progress = lan.machine.progress()
    assert progress.resumed_bytes == kept
    assert progress.received_bytes == progress.total_bytes - kept


@pytest.mark.parametrize("seed", range(20))
def test_parts_that_rotted_while_the_board_was_off_are_fetched_anew(seed: int) -> None:
    lan, _ = network(seed, 2)
    lan.run(until_bytes=4 * CHUNK_BYTES)
    place = max(lan.disk, key=lambda place: len(lan.disk[place]))
    lan.disk[place] = bytes(len(lan.disk[place]))
    lan.restart()
    lan.run()
    lan.expect_installed()
    assert lan.machine.counters["damaged_files"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_when_every_copy_is_damaged_it_ends_and_says_why(seed: int) -> None:
    lan, _ = network(seed, 3)
    for holder in lan.holders:
        holder.content = lan.content.damaged(4)
    lan.run()
    assert not lan.installed
    assert lan.reason.startswith("no board has an intact copy")
    assert "holder-1 has a damaged copy" in lan.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_forged_manifest_is_never_parsed(seed: int) -> None:
    """`Prepare` asserts the hash in the network; a liar is not asked again."""
    lan, random = network(seed, 3)
    honest = random.randrange(3)
    for index, holder in enumerate(lan.holders):
        if index != honest:
            holder.content = lan.content.damaged(0)
    lan.run()
    lan.expect_installed()
    assert lan.machine.counters["wrong_manifests"] <= 2


def test_nobody_left_ends_after_a_while_and_a_holder_that_comes_back_is_taken() -> None:
    lan, _ = network(1, 1)
    lan.run(until_bytes=2 * CHUNK_BYTES)
    lan.change(0, alive=False)
    lan.run(30.0)
    assert not lan.machine.over
    lan.change(0, alive=True, incarnation=2)
    lan.run()
    lan.expect_installed()

    lan, _ = network(2, 2)
    lan.run(until_bytes=2 * CHUNK_BYTES)
    lan.change(0, alive=False)
    lan.change(1, alive=False)
    lan.run(100.0)
    assert lan.reason.startswith("nothing of model")
    assert "no board that holds it is alive" in lan.reason
