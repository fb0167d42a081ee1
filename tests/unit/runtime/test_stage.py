"""Graphs that do not load, do not match their description or fail while running: always a StageError, never a print."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.errors import StageError
from runtime.plan import DType, StageSpec, TensorSpec
from runtime.settings import SessionSettings
from runtime.stage import Stage, check_outputs

SETTINGS = SessionSettings(threads=1)


def tensor(name: str, *shape: int | str, dtype: DType = DType.F32) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


ADD = StageSpec(
    name="add",
    file="add.onnx",
    inputs=(tensor("left", "B", 4), tensor("right", "B", 4)),
    outputs=(tensor("sum", "B", 4), tensor("difference", "B", 4)),
)


def write_add(
    folder: Path, *, rank: int = 2, width: int = 4, kind: int = TensorProto.FLOAT, left: str = "left"
) -> Path:
    shape = ["B", *[width] * (rank - 1)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name in (left, "right", "sum", "difference")]
    nodes = [
        helper.make_node("Add", [left, "right"], ["sum"]),
        helper.make_node("Sub", [left, "right"], ["difference"]),
    ]
    graph = helper.make_graph(nodes, "add", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "add.onnx")
    return folder


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 3, 4), dtype=np.float32)
    return left, right


@pytest.mark.parametrize("settings", [SETTINGS, SessionSettings(threads=2, spinning=True, prepack=True)])
def test_inputs_and_outputs_keep_the_order_of_the_description(tmp_path: Path, settings: SessionSettings) -> None:
    left, right = pair()
    total, difference = Stage(write_add(tmp_path), ADD, settings).run(left, right)
    np.testing.assert_array_equal(total, left + right)
    np.testing.assert_array_equal(difference, left - right)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"left": "other"}, "other"),
        ({"kind": TensorProto.DOUBLE}, "float32"),
        ({"rank": 3}, "3 dimensions"),
        ({"width": 5}, "5"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path, wrong: dict, named: str) -> None:
    with pytest.raises(StageError, match=named) as caught:
        Stage(write_add(tmp_path, **wrong), ADD, SETTINGS)
    assert caught.value.stage == "add"


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x0a\xff\xff\xff\xff\x0f", bytes(1000), b"\xff" * 1000])
def test_bytes_that_are_no_graph_are_refused_silently(
    tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "add.onnx").write_bytes(data)
    with pytest.raises(StageError) as caught:
        Stage(tmp_path, ADD, SETTINGS)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_damaged_graphs_load_or_are_refused_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = (write_add(tmp_path) / "add.onnx").read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.integers(0, 256)
        (tmp_path / "add.onnx").write_bytes(data)
        try:
            stage = Stage(tmp_path, ADD, SETTINGS)
            check_outputs(ADD, stage.run(*pair()))
        except StageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some damage is harmless
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_and_external_data_outside_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError):
        Stage(tmp_path, ADD, SETTINGS)
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    weight = helper.make_tensor("right", TensorProto.FLOAT, [4], bytes(16), raw=True)
    onnx.external_data_helper.set_external_data(weight, location="../secret.bin", offset=0, length=16)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in ("left", "sum")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["left", "right"], ["sum"])], "g", ports[:1], ports[1:], initializer=[weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (inside / "add.onnx").write_bytes(model.SerializeToString())
    spec = StageSpec(name="add", file="add.onnx", inputs=ADD.inputs[:1], outputs=ADD.outputs[:1])
    with pytest.raises(StageError, match="cannot be loaded"):
        Stage(inside, spec, SETTINGS)


def test_a_run_with_wrong_inputs_is_a_stage_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(write_add(tmp_path), ADD, SETTINGS)
    left, right = pair()
    for inputs in ((left,), (left, right[:, :3]), (left, right.astype(np.float64)), (left, right[0]), (left, left[:2])):
        with pytest.raises(StageError) as caught:
            stage.run(*inputs)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_outputs_that_are_not_what_was_promised_are_refused() -> None:
    good = np.zeros((2, 4), dtype=np.float32)
    check_outputs(ADD, [good, good])
    nan = good.copy()
    nan[1, 2] = np.nan
    for bad in (good.astype(np.float64), good[:, :3], good[0], nan):
        with pytest.raises(StageError):
            check_outputs(ADD, [good, bad])
