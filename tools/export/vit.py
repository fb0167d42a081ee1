"""Export a Vision Transformer (HF names) as a model folder that boards can share.

    python -m tools.export.vit --weights runs/vit-cifar10 --out models_onnx/vit-cifar10 --name vit-cifar10 \\
        --codecs f32,f16,int8,int4,tc128 --default-codec int8 --calibration runs/cache/cifar10-train-x.npy

The weights folder holds model.safetensors and config.json. Learned codecs (tc..., vq..., astra-...) are fitted on the
activations of the calibration images, u8 [n, H, W, 3]; training images, never test images.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from tools.export.calibration import Calibration
from tools.export.codecs import write_codecs
from tools.export.manifest import ImageRule, Provenance, write_manifest
from tools.export.reference import Reference
from tools.export.stages import stage_graphs
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, VitShape, arrange, read_safetensors, shape_from_config
from tools.export.whole import whole_graph
from tools.train.patches import patch_rows

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
    default_codec: str = "f32",
    image: ImageRule | None = None,
    calibration: Calibration | None = None,
    provenance: Provenance = RANDOM,
) -> Path:
    """Write the model folder `out` (it must not exist or be empty) and return it.

    Raises ValueError when a learned codec is asked for without calibration, or a name is no codec.
    """
    if len(labels) != shape.classes:
        raise ValueError(f"{len(labels)} labels for {shape.classes} classes")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty")
    image = image or ImageRule(resize=shape.image, mean=EVEN, std=EVEN)
    weights = arrange(tensors, shape, mean=image.mean, std=image.std)
    store = TensorFile(out / "weights.bin")
    graphs = [*stage_graphs(weights, store), whole_graph(weights, store)]
    store.close()
    for graph in graphs:
        graph.write(out)
    reference = Reference(tensors, shape, mean=image.mean, std=image.std)
    entries = write_codecs(out, names=codecs, weights=weights, reference=reference, calibration=calibration)
    write_manifest(
        out,
        name=name,
        labels=labels,
        shape=shape,
        image=image,
        provenance=provenance,
        stages=graphs,
        codecs=entries,
        default_codec=default_codec,
    )
    return out


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with model.safetensors and config.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--codecs", default="f32,f16,int8,int4,f32-input")
    parser.add_argument("--default-codec", default="f32")
    parser.add_argument("--calibration", type=Path, help=".npy of training images, u8 [n, H, W, 3]")
    parser.add_argument("--calibration-images", type=int, default=2000)
    parser.add_argument("--vectors", type=int, default=60_000, help="token vectors per block used by a fit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", default="CIFAR-10 (Krizhevsky 2009), training split")
    options = parser.parse_args()
    config = json.loads((options.weights / "config.json").read_text())
    shape = shape_from_config(config)
    calibration = None
    if options.calibration is not None:
        images = np.load(options.calibration, mmap_mode="r")
        picked = np.sort(np.random.default_rng(options.seed).permutation(len(images))[: options.calibration_images])
        rows = patch_rows(np.asarray(images[picked]), shape.patch)
        calibration = Calibration(rows=rows, vectors=options.vectors, seed=options.seed)
    mean, std = (tuple(config.get(key, EVEN)) for key in ("image_mean", "image_std"))
    export_model(
        read_safetensors(options.weights / "model.safetensors"),
        shape,
        name=options.name,
        labels=[config["id2label"][str(index)] for index in range(shape.classes)],
        out=options.out,
        codecs=options.codecs.split(","),
        default_codec=options.default_codec,
        image=ImageRule(resize=shape.image, mean=mean, std=std),
        calibration=calibration,
        provenance=Provenance(
            weights="trained",
            command="python -m tools.export.vit " + " ".join(sys.argv[1:]),
            source=options.source,
            tools=f"python {sys.version.split()[0]}, numpy {np.__version__}, onnx {onnx.__version__}",
        ),
    )
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
