"""External data: aligned, shared, and read from HF-named files."""

import itertools
from pathlib import Path

import onnx
import pytest

from tools.export.failure import WrongUsage
from tools.export.random_vit import TINY, random_tensors
from tools.export.tensor_file import ALIGNMENT_BYTES
from tools.export.vit import export_model


def regions(graph: Path) -> dict[str, tuple[str, int, int]]:
    """Name -> (file, offset, length) of a graph's external tensors."""
    found = {}
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            found[tensor.name] = (place["location"], int(place["offset"]), int(place["length"]))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "tiny"
    return export_model(random_tensors(TINY, seed=2), TINY, name="tiny", labels=list("abcde"), out=out)


def test_each_tensor_is_stored_once_and_aligned(model: Path) -> None:
    graphs = [regions(path) for path in sorted(model.glob("*.onnx"))]
    size = (model / "weights.bin").stat().st_size
    by_region: dict[tuple[int, int], str] = {}
    for found in graphs:
        for name, (location, offset, length) in found.items():
            assert location == "weights.bin"
            assert offset % ALIGNMENT_BYTES == 0
            assert offset + length <= size
            assert by_region.setdefault((offset, length), name) == name
    spans = sorted(by_region)
    assert all(start + length <= after for (start, length), (after, _) in itertools.pairwise(spans))


def test_whole_and_stages_share_every_weight(model: Path) -> None:
    whole = set(regions(model / "whole.onnx").values())
    stages = [path for path in model.glob("*.onnx") if path.name != "whole.onnx"]
    assert whole == set().union(*(regions(path).values() for path in stages))


def test_the_same_weights_make_the_same_bytes(model: Path, tmp_path: Path) -> None:
    again = export_model(random_tensors(TINY, seed=2), TINY, name="tiny", labels=list("abcde"), out=tmp_path / "again")
    assert (again / "manifest.json").read_bytes() == (model / "manifest.json").read_bytes()


def test_a_full_folder_is_not_overwritten(model: Path) -> None:
    with pytest.raises(WrongUsage, match="not empty"):
        export_model(random_tensors(TINY, seed=2), TINY, name="tiny", labels=list("abcde"), out=model)
