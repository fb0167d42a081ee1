"""The promise everything stands on: however many boards, however they share the tokens, one answer.

Real daemons on loopback against two references that share no code with the staged graphs: the undivided ONNX graph
run by onnxruntime alone, and a numpy forward pass straight from the weights.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

from peer.control_client import ControlClient
from peer.local_ring import LocalRing
from peer.reports import InferQuery, InferReport
from runtime.model import Model
from runtime.settings import SessionSettings
from runtime.shard import Shard
from tests.process.conftest import CODECS, SHAPE, SHIPPED
from tools.export.random_vit import random_tensors
from tools.export.reference import Reference
from tools.export.vit import EVEN

pytestmark = pytest.mark.process

UNEVEN = {
    1: (1.0,),
    2: (5.0, 1.0),
    3: (1.0, 4.0, 2.0),
    4: (1.0, 1.0, 2.0, 4.0),
    5: (1.0, 9.0, 1.0, 3.0, 2.0),
    6: (2.0, 1.0, 1.0, 5.0, 3.0, 1.0),
    7: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
    8: (30.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.001),
}


def patch_rows(files: list[bytes]) -> npt.NDArray[np.uint8]:
    """The pixels of pictures of the model's size, cut into patches by plain loops."""
    side = SHAPE.image // SHAPE.patch
    out = np.empty((len(files), SHAPE.tokens, SHAPE.row_bytes), dtype=np.uint8)
    for number, data in enumerate(files):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for token in range(SHAPE.tokens):
            top, left = SHAPE.patch * (token // side), SHAPE.patch * (token % side)
            patch = pixels[top : top + SHAPE.patch, left : left + SHAPE.patch]
            out[number, token] = patch.reshape(-1)
    return out


@pytest.fixture(scope="module")
def undivided(random_model: Path, pictures: list[bytes]) -> npt.NDArray[np.float32]:
    """Logits f32 [8, classes] of the separately exported whole graph, without any code of the runtime."""
    session = onnxruntime.InferenceSession(random_model / "random" / "whole.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"rows": patch_rows(pictures)})
    return np.asarray(logits, dtype=np.float32)


def ask(ring: LocalRing, query: InferQuery, images: list[bytes], board: int = 0) -> tuple[InferReport, ...]:
    with ControlClient(ring.sockets[board], timeout_s=60) as client:
        return client.infer(query, images)


def logits(reports: tuple[InferReport, ...]) -> npt.NDArray[np.float32]:
    return np.array([report.logits for report in reports], dtype=np.float32)


def query(images: list[bytes], **choices: object) -> InferQuery:
    names = tuple(f"picture-{i}" for i in range(len(images)))
    return InferQuery(inputs=names, logits=True, mode="sequence", deadline_s=60.0, **choices)  # type: ignore[arg-type]


def test_the_undivided_graph_agrees_with_numpy(pictures: list[bytes], undivided: npt.NDArray[np.float32]) -> None:
    reference = Reference(random_tensors(SHAPE, seed=7), SHAPE, mean=EVEN, std=EVEN)
    assert np.abs(reference.forward(patch_rows(pictures)).logits - undivided).max() < 1e-4
    assert np.ptp(undivided) > 0.5  # logits that are all alike would agree with anything


@pytest.mark.parametrize("exchange", ["direct", "ring"])
@pytest.mark.parametrize("boards", range(1, 9))
def test_any_number_of_boards_gives_the_undivided_answer(
    ring_of_eight: LocalRing, pictures: list[bytes], undivided: npt.NDArray[np.float32], boards: int, exchange: str
) -> None:
    for shares in (None, UNEVEN[boards]):
        for images in (pictures[:1], pictures):
            for codec, tolerance in (("f32", 1e-4), ("f16", 1e-2)):
                asked = query(images, boards=boards, exchange=exchange, codec=codec, shares=shares)
                reports = ask(ring_of_eight, asked, images)
                error = np.abs(logits(reports) - undivided[: len(images)]).max()
                assert error <= tolerance, (shares, len(images), codec, error)
                held = [board.tokens for board in reports[0].boards]
                assert len(held) == boards
                assert [stop for _, stop in held] == [*[start for start, _ in held][1:], SHAPE.tokens]


@pytest.mark.parametrize("boards", [2, 3, 8])
def test_the_trained_model_that_ships_answers_alike_on_any_number_of_boards(
    ring_of_eight: LocalRing, random_model: Path, pictures: list[bytes], boards: int
) -> None:
    session = onnxruntime.InferenceSession(random_model / SHIPPED.name / "whole.onnx")
    (expected,) = session.run(None, {"rows": patch_rows(pictures)})
    asked = query(pictures, model=SHIPPED.name, boards=boards, codec="f32", shares=UNEVEN[boards])
    assert np.abs(logits(ask(ring_of_eight, asked, pictures)) - expected).max() <= 1e-4
    assert np.ptp(expected, axis=0).max() > 0.5  # logits that are all alike would agree with anything


def emulated(model: Model, codec: str, rows: npt.NDArray[np.uint8], boards: int) -> npt.NDArray[np.float32]:
    """The same shards in one process, without sockets, daemons or protocol."""
    step = SHAPE.tokens // boards
    shards = [Shard(model, model.codec(codec)) for _ in range(boards)]
    for i, shard in enumerate(shards):
        shard.embed(rows[:, i * step : (i + 1) * step], i * step)
    while not shards[0].done:
        payloads = [(step, bytes(shard.encode())) for shard in shards]
        for i, shard in enumerate(shards):
            shard.attend(payloads[:i] + payloads[i + 1 :])
    cls = np.mean([shard.cls for shard in shards], axis=0, dtype=np.float32)
    return np.asarray(model.head(cls))


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_what_its_shards_give_in_one_process(
    ring_of_eight: LocalRing,
    random_model: Path,
    pictures: list[bytes],
    undivided: npt.NDArray[np.float32],
    codec: str,
) -> None:
    even = (1.0,) * 4  # what speeds say of boards that share two cores changes from one request to the next
    reports = ask(ring_of_eight, query(pictures, boards=4, codec=codec, shares=even), pictures)
    model = Model.load(random_model / "random", SessionSettings(threads=1))
    assert np.abs(logits(reports) - emulated(model, codec, patch_rows(pictures), 4)).max() <= 1e-4
    error = np.abs(logits(reports) - undivided).max()
    if codec in ("f32", "f32-input"):
        assert error <= 1e-4
    else:
        assert error > 1e-6  # a codec that changed nothing was not used


@pytest.mark.parametrize("exchange", ["direct", "ring"])
def test_silent_blocks_cost_no_round(ring_of_eight: LocalRing, pictures: list[bytes], exchange: str) -> None:
    reports = [
        ask(ring_of_eight, query(pictures[:1], boards=4, codec=codec, exchange=exchange), pictures[:1])[0]
        for codec in ("ptc32", "ptc32x2")
    ]
    assert [report.rounds for report in reports] == [SHAPE.blocks, -(-SHAPE.blocks // 2)]
    assert reports[1].wire_bytes < reports[0].wire_bytes  # as many bits, fewer headers


def test_any_board_can_be_asked(
    ring_of_eight: LocalRing, pictures: list[bytes], undivided: npt.NDArray[np.float32]
) -> None:
    for board in range(8):
        reports = ask(ring_of_eight, query(pictures[:1], boards=3, codec="f32"), pictures[:1], board)
        assert np.abs(logits(reports) - undivided[:1]).max() <= 1e-4


def test_bytes_are_counted_exactly(ring_of_eight: LocalRing, pictures: list[bytes]) -> None:
    """Payload = rounds x senders x receivers x packed shard; the same for both schedules."""
    for exchange in ("direct", "ring"):
        (report,) = ask(ring_of_eight, query(pictures[:1], boards=4, codec="int8", exchange=exchange), pictures[:1])
        shard_bytes = 16 * (2 * SHAPE.width + 2 * 2)  # int8 values, and one float16 scale for K and one for V
        assert report.rounds == SHAPE.blocks
        assert report.payload_bytes == SHAPE.blocks * 4 * 3 * shard_bytes
        messages = SHAPE.blocks * 4 * 3 + 3 + 3
        assert report.payload_bytes < report.wire_bytes
        features = 3 * 4 * SHAPE.width
        assert report.wire_bytes <= report.payload_bytes + features + report.input_bytes + 150 * messages
