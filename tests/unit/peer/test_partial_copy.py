"""A half model on the disk: whatever ended the last run, what is whole is kept, and nothing else passes for it."""

import errno
import os
from pathlib import Path
from random import Random

import pytest

from peer.errors import NotFetched
from peer.model_parts import read_part
from peer.partial_copy import PartialCopy, kept_manifest, target_of
from peer.protocol.bulk_messages import CHUNK_BYTES, MANIFEST, FetchChunk, FetchRefusal, FetchRequest
from peer.protocol.types import ModelId, PeerId
from runtime.integrity import open_model, read_plan
from runtime.plan import ModelPlan

ME = PeerId("00" * 8)
Part = tuple[int, int, bytes]


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> ModelPlan:
    return read_plan(tiny_folder)


@pytest.fixture(scope="module")
def manifest(tiny_folder: Path) -> bytes:
    return (tiny_folder / "manifest.json").read_bytes()


@pytest.fixture(scope="module")
def parts(tiny_folder: Path, plan: ModelPlan) -> list[Part]:
    found = []
    for number, file in enumerate(plan.files, start=1):
        data = (tiny_folder / file.name).read_bytes()
        for chunk in range(-(-len(data) // CHUNK_BYTES)):
            found.append((number, chunk, data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]))
    return found


def test_whole_parts_become_a_model_that_verifies(
    tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part]
) -> None:
    copy = PartialCopy(tmp_path, manifest, plan)
    assert copy.have() == frozenset()
    for file, chunk, data in parts:
        copy.write(file, chunk, data)
    assert all(copy.right(number) for number in range(1, len(plan.files) + 1))
    assert kept_manifest(tmp_path, plan.model_id) == manifest
    place = copy.install()
    assert place == tmp_path / plan.name
    assert open_model(place).model_id == plan.model_id
    assert os.listdir(tmp_path) == [plan.name]


def test_a_taken_name_is_left_alone(tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part]) -> None:
    (tmp_path / plan.name).mkdir()
    (tmp_path / f"{plan.name}-{plan.model_id[:12]}").symlink_to(tmp_path / "nowhere")
    copy = PartialCopy(tmp_path, manifest, plan)
    for file, chunk, data in parts:
        copy.write(file, chunk, data)
    assert copy.install().name == f"{plan.name}-{plan.model_id[:12]}-2"


@pytest.mark.parametrize("seed", range(30))
def test_a_power_cut_at_any_byte_costs_only_what_was_not_whole(
    tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part], seed: int
) -> None:
    """The journal and the files are cut and filled with zeros at random, as a disk that lost its cache leaves them."""
    random = Random(seed)
    copy = PartialCopy(tmp_path, manifest, plan)
    copy.have()
    written = random.sample(parts, random.randrange(1, len(parts)))
    for file, chunk, data in written:
        copy.write(file, chunk, data)
    copy.close()
    folder = tmp_path / f".partial-{plan.model_id}"
    journal = folder / "journal"
    for victim in random.sample([journal, *(p for p in (folder / "model").iterdir() if p.stat().st_size)], 3):
        content = victim.read_bytes()
        at = random.randrange(len(content) + 1)
        zeros = bytes(random.choice((0, len(content) - at)))
        victim.write_bytes(content[:at] + zeros)
    again = PartialCopy(tmp_path, manifest, plan)
    have = again.have()
    assert have <= {(file, chunk) for file, chunk, _ in written}
    for file, chunk, data in parts:
        if (file, chunk) not in have:
            again.write(file, chunk, data)
    assert all(again.right(number) for number in range(1, len(plan.files) + 1))
    assert open_model(again.install()).model_id == plan.model_id


def test_a_journal_cut_or_changed_at_every_byte_never_claims_more_than_is_there(
    tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part]
) -> None:
    random = Random(7)
    copy = PartialCopy(tmp_path, manifest, plan)
    for file, chunk, data in parts[:4]:
        copy.write(file, chunk, data)
    written = [(file, chunk) for file, chunk, _ in parts[:4]]
    journal = tmp_path / f".partial-{plan.model_id}" / "journal"
    whole = journal.read_bytes()
    record = len(whole) // len(written)
    for at in range(len(whole)):
        journal.write_bytes(whole[:at])
        assert copy.have() == frozenset(written[: at // record])
        journal.write_bytes(whole[:at] + bytes([whole[at] ^ random.randrange(1, 256)]) + whole[at + 1 :])
        assert copy.have() == frozenset(written) - {written[at // record]}


def test_nothing_is_lost_by_a_kill(tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part]) -> None:
    copy = PartialCopy(tmp_path, manifest, plan)
    for file, chunk, data in parts[:5]:
        copy.write(file, chunk, data)
    again = PartialCopy(tmp_path, manifest, plan)  # nobody closed the first one
    assert again.have() == {(file, chunk) for file, chunk, _ in parts[:5]}
    again.drop(parts[0][0])
    assert not again.right(parts[0][0])
    assert not {place for place in PartialCopy(tmp_path, manifest, plan).have() if place[0] == parts[0][0]}


def test_a_wrong_file_is_not_right(tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part]) -> None:
    copy = PartialCopy(tmp_path, manifest, plan)
    file, _, data = parts[0]
    assert not copy.right(file)
    copy.write(file, 0, bytes(len(data)))
    assert not copy.right(file)
    copy.write(file, 0, data + b"\0")
    assert not copy.right(file)


def test_one_half_copy_at_a_time(tmp_path: Path, plan: ModelPlan, manifest: bytes) -> None:
    other = tmp_path / ".partial-other"
    (other / "model").mkdir(parents=True)
    PartialCopy(tmp_path, manifest, plan)
    assert not other.exists()


def test_a_disk_without_room_is_one_line(
    tmp_path: Path, plan: ModelPlan, manifest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((real.f_bsize, real.f_frsize, real.f_blocks, 9, 9, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(NotFetched, match=r"needs . MB, .* has 0 MB free.*make room") as caught:
        PartialCopy(tmp_path, manifest, plan)
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up_meanwhile_is_one_line(
    tmp_path: Path, plan: ModelPlan, manifest: bytes, parts: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    copy = PartialCopy(tmp_path, manifest, plan)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NotFetched, match=r"cannot be written to .*No space left on device\); make room there"):
        copy.write(*parts[0])
    monkeypatch.undo()
    assert copy.have() == frozenset()


def test_where_models_go(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert target_of(models, tmp_path / "state") == tmp_path / "state/models"
    models.mkdir()
    assert target_of(models, tmp_path / "state") == models


def request(file: int, offset: int, length: int = CHUNK_BYTES) -> FetchRequest:
    return FetchRequest(sender=ME, request=1, model=ModelId("ab" * 32), file=file, offset=offset, length=length)


def test_parts_are_read_as_the_plan_says(tiny_folder: Path, plan: ModelPlan, manifest: bytes) -> None:
    first = read_part(tiny_folder, plan, request(MANIFEST, 3, 5), me=ME)
    assert isinstance(first, FetchChunk)
    assert (first.body, first.size) == (manifest[3:8], len(manifest))
    for wrong in (request(len(plan.files) + 1, 0), request(1, plan.files[0].size_bytes)):
        assert read_part(tiny_folder, plan, wrong, me=ME) is FetchRefusal.NO_SUCH_PART


@pytest.mark.parametrize("kind", ["missing", "longer", "link", "pipe", "folder"])
def test_what_is_not_the_verified_file_is_not_given(
    tmp_path: Path, tiny_folder: Path, plan: ModelPlan, kind: str
) -> None:
    victim = tmp_path / plan.files[0].name
    match kind:
        case "longer":
            victim.write_bytes((tiny_folder / plan.files[0].name).read_bytes() + b"!")
        case "link":
            victim.symlink_to(tiny_folder / plan.files[0].name)
        case "pipe":
            os.mkfifo(victim)
        case "folder":
            victim.mkdir()
    assert read_part(tmp_path, plan, request(1, 0), me=ME) is FetchRefusal.UNREADABLE
