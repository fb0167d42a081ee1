"""A Vision Transformer (HF names) as a model folder that boards can share: the one place that puts the parts together.

`python -m tools.import_vit` is the command.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.export.calibration import Calibration
from tools.export.codecs import Tuned, write_codecs
from tools.export.failure import CheckFailed
from tools.export.manifest import ImageRule, Provenance, write_manifest
from tools.export.stages import stage_graphs
from tools.export.staging import staged
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, Storage, VitShape, arrange
from tools.export.whole import whole_graph

EVEN = (0.5, 0.5, 0.5)
RANDOM = Provenance(weights="random", command="tools.export.random_vit", source="seeded generator", tools="numpy")


def export_model(
    tensors: Mapping[str, F32],
    shape: VitShape,
    *,
    name: str,
    labels: Sequence[str],
    out: Path,
    codecs: Sequence[str] = ("f32", "f16", "int8", "int4", "f32-input"),
    tuned: Sequence[Tuned] = (),
    default_codec: str = "f32",
    image: ImageRule | None = None,
    calibration: Calibration | None = None,
    provenance: Provenance = RANDOM,
    replace: bool = False,
    check: Callable[[Path], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    most_bytes: int = 0,
    storage: Storage = Storage.F32,
) -> Path:
    """Write the model folder `out` (it must not exist or be empty, unless `replace`) and return it.

    Nothing is left behind unless everything was written, is at most `most_bytes` large (0: any size), and `check`,
    called on the finished but not yet published folder, did not raise. Raises WrongUsage for an occupied `out`,
    CheckFailed for the size, ValueError when a learned codec is asked for without calibration or a name is no codec.
    """
    if len(labels) != shape.classes:
        raise ValueError(f"{len(labels)} labels for {shape.classes} classes")
    image = image or ImageRule(resize=shape.image, mean=EVEN, std=EVEN)
    weights = arrange(tensors, shape, mean=image.mean, std=image.std, storage=storage)
    with staged(out, replace=replace) as folder:
        with contextlib.closing(TensorFile(folder / "weights.bin")) as store:
            stages = stage_graphs(weights, store)
            graphs = [*stages, whole_graph(weights, store)]
        for graph in graphs:
            graph.write(folder)
        entries = write_codecs(
            folder,
            names=codecs,
            tuned=tuned,
            weights=weights,
            stages=stages,
            network=store,
            calibration=calibration,
            say=say,
        )
        write_manifest(
            folder,
            name=name,
            labels=labels,
            shape=shape,
            image=image,
            provenance=provenance,
            stages=graphs,
            codecs=entries,
            default_codec=default_codec,
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        if 0 < most_bytes < size:
            raise CheckFailed(f"the model takes {size / 1e6:.1f} MB, more than {most_bytes / 1e6:g}", "drop codecs")
        check(folder)
    return out
