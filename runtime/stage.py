"""One ONNX graph, loaded and ready to run: the only module that touches onnxruntime.

It decides threads, spinning and weight packing, checks that a graph is what the manifest says, and turns every failure
of the library into a StageError. It never decides what runs when.
"""

import os
from collections.abc import Sequence
from pathlib import Path

# onnxruntime reports home from a plain import unless told otherwise: before the import, not after it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from runtime.arrays import Array
from runtime.errors import StageError, one_line
from runtime.plan import DType, StageSpec, TensorSpec
from runtime.settings import SessionSettings

_SILENT = 4  # onnxruntime's FATAL: its messages reach people through StageError, never through stderr
# Bias and Gelu in one operator are slower than both in turn (onnxruntime 1.32, x86): a block of ViT-Base takes 4 %
# more (`python -m tools.bench.weight_storage`). The results are the same.
_SLOWER = ["BiasGeluFusion"]
_ELEMENT = {
    DType.U8: "tensor(uint8)",
    DType.I32: "tensor(int32)",
    DType.I64: "tensor(int64)",
    DType.F32: "tensor(float)",
}


class Stage:
    """A loaded graph. `run` is thread-compatible: one thread at a time."""

    def __init__(self, folder: Path, spec: StageSpec, settings: SessionSettings) -> None:
        """Load `spec.file` from `folder`, whose content must have been verified. Raises StageError."""
        self.spec = spec
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._inputs = [tensor.name for tensor in spec.inputs]
        onnxruntime.set_default_logger_severity(_SILENT)
        try:
            session = onnxruntime.InferenceSession(
                str(folder / spec.file),
                sess_options=_options(settings),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_SLOWER,
                enable_fallback=0,  # the fallback prints to stdout and would only load the same provider again
            )
        except Exception as exc:  # the library raises undocumented types, UnicodeDecodeError among them
            raise StageError(spec.name, f"cannot be loaded ({one_line(exc, 160)})") from exc
        _check_tensors(spec.name, "input", spec.inputs, session.get_inputs())
        _check_tensors(spec.name, "output", spec.outputs, session.get_outputs())
        self._run = session.run

    def run(self, *inputs: Array) -> list[Array]:
        """Run the graph on `inputs`, in the order of `spec.inputs`; outputs come in the order of `spec.outputs`.

        C-contiguous inputs are read in place. Raises StageError.
        """
        try:
            outputs: list[Array] = self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
        except Exception as exc:  # as above; memory and shape errors all arrive as different types
            raise StageError(self.spec.name, f"failed while running ({one_line(exc, 160)})") from exc
        return outputs


def check_outputs(spec: StageSpec, outputs: Sequence[Array]) -> None:
    """Refuse (StageError) results whose type, rank or fixed sizes differ from `spec`, or that hold NaN or infinity."""
    for tensor, array in zip(spec.outputs, outputs, strict=True):
        fixed = all(type(want) is str or want == have for want, have in zip(tensor.shape, array.shape, strict=False))
        if array.dtype.name != tensor.dtype.value or array.ndim != len(tensor.shape) or not fixed:
            raise StageError(spec.name, f"its output {tensor.name} has type {array.dtype.name} and shape {array.shape}")
        if not np.isfinite(array).all():
            raise StageError(spec.name, f"its output {tensor.name} is not finite", "export the model again")


def _options(settings: SessionSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads  # 0 would pin threads, and print errors under a cpuset
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    # Both plan for fixed shapes, but token counts vary: without them ViT-Base is as fast and 75 MiB smaller (measured).
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if settings.prepack else "1")
    return options


def _check_tensors(stage: str, what: str, specs: tuple[TensorSpec, ...], found: Sequence[onnxruntime.NodeArg]) -> None:
    """The graph's own declaration must agree with the manifest: names, element types, ranks and fixed sizes."""
    by_name = {node.name: node for node in found}
    if set(by_name) != {spec.name for spec in specs}:
        names = ", ".join(sorted(map(str, by_name)))
        raise StageError(
            stage, f"the graph has the {what}s {names}, the manifest says {', '.join(s.name for s in specs)}"
        )
    for spec in specs:
        node = by_name[spec.name]
        if node.type != _ELEMENT[spec.dtype]:
            raise StageError(stage, f"the graph's {what} {spec.name} is a {node.type}, not {spec.dtype.value}")
        if len(node.shape) != len(spec.shape):
            raise StageError(stage, f"the graph's {what} {spec.name} has {len(node.shape)} dimensions")
        for have, want in zip(node.shape, spec.shape, strict=True):
            if type(have) is int and type(want) is int and have != want:
                raise StageError(stage, f"the graph's {what} {spec.name} has a dimension {have} instead of {want}")
