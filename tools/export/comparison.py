"""Does a finished model folder answer like the checkpoint it was made from?

Three computations of the same pictures are compared: the undivided graph, uneven shards with the exact codec, and a
reference that shares no code with them: the `transformers` library where it is installed, else numpy.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.model import Model
from runtime.settings import SessionSettings
from tools.evaluate.boards import divided
from tools.export.calibration import U8
from tools.export.failure import CheckFailed, WrongUsage
from tools.export.hf_folder import Checkpoint
from tools.export.reference import Reference
from tools.export.weights import F32, Storage

# Of the largest logit. f32: rounding of deep networks stays below a tenth of it. int8: a sanity check; what it costs in
# accuracy has to be measured.
TOLERANCE = {Storage.F32: 5e-4, Storage.INT8: 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Largest differences of logits, relative to the largest logit."""

    reference: str  # what the undivided graph was compared with
    undivided: float
    divided: float  # shards against the undivided graph

    def __str__(self) -> str:
        return (
            f"logits differ from {self.reference} by {self.undivided:.1e} of the largest logit, "
            f"divided from undivided by {self.divided:.1e}"
        )


def choose_reference(name: str, folder: Path, checkpoint: Checkpoint) -> tuple[str, Callable[[U8], F32]]:
    """The reference called `name` (auto, transformers, numpy) as a function of patch rows. Raises WrongUsage."""
    there = importlib.util.find_spec("transformers") is not None and importlib.util.find_spec("torch") is not None
    if name == "transformers" and not there:
        raise WrongUsage("transformers is not installed", "pip install '.[import]', or choose --check numpy")
    if name == "numpy" or not there:
        image = checkpoint.image
        reference = Reference(checkpoint.tensors, checkpoint.shape, mean=image.mean, std=image.std)
        return "numpy", lambda rows: reference.forward(rows).logits
    return "transformers", lambda rows: _transformers_logits(folder, checkpoint, rows)


def compare(model_folder: Path, rows: U8, *, name: str, reference: Callable[[U8], F32], storage: Storage) -> Agreement:
    """Run all three on patch rows [n, tokens, row_bytes]. Raises CheckFailed beyond TOLERANCE."""
    model = Model.load(model_folder, SessionSettings(threads=1, prepack=False))
    whole, wanted = model.whole(rows), reference(rows)
    size = float(np.abs(wanted).max()) + 1e-6
    found = Agreement(
        reference=name,
        undivided=float(np.abs(whole - wanted).max()) / size,
        divided=float(np.abs(_divided(model, rows) - whole).max()) / size,
    )
    if not max(found.undivided, found.divided) <= TOLERANCE[storage]:  # so is NaN
        raise CheckFailed(f"the exported model does not answer like its source: {found}", "report the checkpoint")
    return found


def _divided(model: Model, rows: U8) -> F32:
    """Logits of up to three uneven shards with the exact codec."""
    tokens = model.plan.geometry.tokens
    cuts = sorted({0, tokens // 2, tokens - tokens // 5, tokens})
    return divided(model, "f32", rows, cuts)


def _transformers_logits(folder: Path, checkpoint: Checkpoint, rows: U8) -> F32:
    os.environ["HF_HUB_OFFLINE"] = "1"  # read at import: a folder is all that may be looked at
    import torch  # noqa: PLC0415 - both are an extra, and take seconds to load
    from transformers import AutoModelForImageClassification  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    shape, image = checkpoint.shape, checkpoint.image
    side = shape.image // shape.patch
    grid = rows.reshape(len(rows), side, side, shape.patch, shape.patch, 3).transpose(0, 5, 1, 3, 2, 4)
    pixels = grid.reshape(len(rows), 3, shape.image, shape.image).astype(np.float32) / 255
    pixels = (pixels - np.float32(image.mean)[:, None, None]) / np.float32(image.std)[:, None, None]
    network = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    network.float().eval()
    with torch.no_grad():
        logits: F32 = network(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    return logits
