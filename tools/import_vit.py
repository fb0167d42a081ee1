"""Turn a Hugging Face ViT folder into a model folder that boards can share, without training.

    python -m tools.import_vit FOLDER --out models_onnx/NAME --calibration PICTURES

FOLDER is what transformers' save_pretrained writes for a ViTForImageClassification (config.json, model.safetensors,
preprocessor_config.json), or what tools.train and tools.finetune leave behind; fine-tuned codecs in FOLDER/codecs are
exported with it. PICTURES (.npy u8 [n, H, W, 3], a folder, or a tar archive) are what codebooks and transform codes are
fitted on: training pictures, never test pictures. Without them the model gets the scalar codecs alone. The logits are
checked against transformers (pip install '.[import]'), or against numpy where that is not installed. The output
appears complete or not at all.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from runtime.fields import NAME
from tools.export.calibration import Calibration
from tools.export.codec_entry import PLAIN, UNFITTED
from tools.export.codecs import parse_name
from tools.export.comparison import choose_reference, compare
from tools.export.failure import WrongUsage, run
from tools.export.hf_folder import Checkpoint, read_folder
from tools.export.manifest import Provenance
from tools.export.pictures import calibration_rows
from tools.export.staging import refuse_occupied
from tools.export.tuned import read_tuned
from tools.export.vit import export_model
from tools.export.weights import Storage, VitShape

COMPARED_PICTURES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that decides the result."""

    folder: Path
    out: Path
    name: str
    calibration: Path | None
    pictures: int
    vectors: int
    codecs: tuple[str, ...] | None  # None: chosen by width
    default_codec: str | None  # None: int8, or else f32
    source: str
    check: str
    seed: int
    threads: int
    replace: bool
    most_megabytes: float
    storage: Storage


def default_codecs(shape: VitShape, *, calibrated: bool) -> tuple[str, ...]:
    """Scalar codecs; with calibration also transform codes at 76.8x, 153.6x and 614x, and ASTRA's G=1."""
    if not calibrated:
        return PLAIN
    rates = [max(4, round(32 * shape.width / ratio)) for ratio in (76.8, 153.6, 614.4)]
    return (*PLAIN, *dict.fromkeys(f"tc{bits}" for bits in rates), "astra-g1")


def import_vit(options: Options) -> None:
    """Read, fit, write, compare, publish; says what it does on stdout. Raises ToolFailure."""
    checkpoint = read_folder(options.folder)
    shape = checkpoint.shape
    tuned = read_tuned(options.folder, shape)
    names = options.codecs or default_codecs(shape, calibrated=options.calibration is not None)
    default = options.default_codec or ("int8" if "int8" in names else "f32")
    _check_names(names, {codec.name for codec in tuned}, default, options)
    refuse_occupied(options.out, replace=options.replace)
    reference_name, reference = choose_reference(options.check, options.folder, checkpoint)
    calibration = _calibration(options, checkpoint)
    if calibration is None:
        size = (COMPARED_PICTURES, shape.tokens, shape.row_bytes)
        compared = np.random.default_rng(options.seed).integers(0, 256, size, dtype=np.uint8)
    else:
        compared = calibration.rows[:COMPARED_PICTURES]
    export_model(
        checkpoint.tensors,
        shape,
        name=options.name,
        labels=checkpoint.labels,
        out=options.out,
        codecs=names,
        tuned=tuned,
        default_codec=default,
        image=checkpoint.image,
        calibration=calibration,
        provenance=Provenance(
            weights=f"{'trained' if checkpoint.trained_here else 'imported'}, {options.storage.value}",
            command="python -m tools.import_vit " + shlex.join(sys.argv[1:]),
            source=options.source,
            tools=f"python {sys.version.split()[0]}, numpy {np.__version__}, onnx {onnx.__version__}",
        ),
        replace=options.replace,
        check=lambda folder: print(
            compare(folder, compared, name=reference_name, reference=reference, storage=options.storage), flush=True
        ),
        storage=options.storage,
        say=lambda line: print(line, flush=True),
        most_bytes=round(options.most_megabytes * 1e6),
    )
    size_bytes = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size_bytes / 1e6:.1f} MB, codecs {', '.join([*names, *(codec.name for codec in tuned)])}")


def _check_names(names: tuple[str, ...], tuned: set[str], default: str, options: Options) -> None:
    """Everything that can be refused before any work. Raises WrongUsage."""
    if NAME.fullmatch(options.name) is None:
        raise WrongUsage(f"{options.name} is no name for a model", "use a-z 0-9 . _ - and --name")
    for name in names:
        if name not in UNFITTED:
            try:
                parse_name(name)
            except ValueError as exc:
                raise WrongUsage(str(exc), "correct --codecs") from exc
    if len(set(names)) != len(names) or tuned & set(names):
        raise WrongUsage("two codecs have the same name", "correct --codecs")
    if "f32" not in names:
        raise WrongUsage("the exact codec is missing, by which the model is checked", "add f32 to --codecs")
    if default not in {*names, *tuned}:
        raise WrongUsage(f"the default codec {default} is not exported", "correct --default-codec")
    if options.calibration is None and (tuned or set(names) - set(UNFITTED)):
        raise WrongUsage("learned codecs are fitted on pictures", "give --calibration PICTURES")


def _calibration(options: Options, checkpoint: Checkpoint) -> Calibration | None:
    if options.calibration is None:
        return None
    rows = calibration_rows(
        options.calibration, checkpoint.shape, checkpoint.image, count=options.pictures, seed=options.seed
    )
    print(f"{len(rows)} calibration pictures", flush=True)
    return Calibration(rows=rows, vectors=options.vectors, seed=options.seed, threads=options.threads)


def main() -> None:
    """Parse the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="name of the model; that of --out by default")
    parser.add_argument("--calibration", type=Path, metavar="PICTURES")
    parser.add_argument("--pictures", type=int, default=1000, help="calibration pictures, drawn by the seed")
    parser.add_argument("--vectors", type=int, default=40_000, help="token vectors per block used by a fit")
    parser.add_argument(
        "--codecs", help="comma-separated: f32 f16 int8 int4 f32-input vqGxK vqGxK-normed astra-gG tcBITS"
    )
    parser.add_argument("--weights", choices=[kind.value for kind in Storage], default="f32", help="of the blocks")
    parser.add_argument("--default-codec", help="int8, or else f32, by default")
    parser.add_argument("--source", default="", help="where weights and pictures come from, for the manifest")
    parser.add_argument("--check", choices=("auto", "transformers", "numpy"), default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--replace", action="store_true", help="an existing --out is replaced once the new one is whole"
    )
    parser.add_argument("--most-megabytes", type=float, default=0.0, help="refuse to publish a larger model")
    given = parser.parse_args()
    if min(given.pictures, given.vectors, given.threads) < 1:
        raise WrongUsage("a count is below 1", "correct --pictures, --vectors or --threads")
    import_vit(
        Options(
            folder=given.folder,
            out=given.out,
            name=given.name or given.out.resolve().name,
            calibration=given.calibration,
            pictures=given.pictures,
            vectors=given.vectors,
            codecs=tuple(given.codecs.split(",")) if given.codecs else None,
            default_codec=given.default_codec,
            source=given.source or given.folder.resolve().name,
            check=given.check,
            seed=given.seed,
            threads=given.threads,
            replace=given.replace,
            most_megabytes=given.most_megabytes,
            storage=Storage(given.weights),
        )
    )


if __name__ == "__main__":
    sys.exit(run(main))
