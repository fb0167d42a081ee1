"""Everything the runtime raises on purpose.

    RuntimeFailure
    ├── PlanError             the manifest, or the folder it describes, is not what format 1 allows
    ├── ModelDigestMismatch   a file's content is not what the manifest promises
    ├── CodecError            a payload, or the values to encode, break the codec's contract
    ├── StageError            a graph cannot be loaded, does not fit its description, or fails while running
    └── ImageError            bytes that are not a usable picture

Each carries its data as attributes and prints as one line: what happened, then what to do about it.
"""


def one_line(text: object, limit: int = 300) -> str:
    """`text` without control characters and at most `limit` long: fit for a log line or a terminal."""
    flat = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * limit])
    flat = " ".join(flat.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


class RuntimeFailure(Exception):
    """Base of all runtime errors. `cause` says what happened, `remedy` what to do; `str()` joins both in one line."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = one_line(cause)
        self.remedy = one_line(remedy)

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}"


class PlanError(RuntimeFailure):
    """A manifest or model folder that format 1 does not allow."""


class ModelDigestMismatch(RuntimeFailure):
    """`file` does not have the size or SHA-256 that the manifest gives. `expected` and `found` hold both, as text."""

    def __init__(self, file: str, expected: str, found: str) -> None:
        super().__init__(
            f"{file} is damaged: the manifest says {expected}, the file has {found}",
            "copy the model folder again from a board that verifies it",
        )
        self.args = (file, expected, found)
        self.file, self.expected, self.found = file, expected, found


class CodecError(RuntimeFailure):
    """A payload or a tensor that breaks the contract of codec `codec`; `reason` says how."""

    def __init__(
        self, codec: str, reason: str, remedy: str = "check that all boards run the same model and tokenring"
    ) -> None:
        super().__init__(f"codec {codec}: {reason}", remedy)
        self.args = (codec, reason, remedy)
        self.codec, self.reason = codec, one_line(reason)


class StageError(RuntimeFailure):
    """Graph `stage` could not be loaded, is not what the manifest describes, or failed while running."""

    def __init__(self, stage: str, reason: str, remedy: str = "verify the model with `peerctl models verify`") -> None:
        super().__init__(f"stage {stage}: {reason}", remedy)
        self.args = (stage, reason, remedy)
        self.stage, self.reason = stage, one_line(reason)


class ImageError(RuntimeFailure):
    """The given bytes are not a picture that can be classified."""
