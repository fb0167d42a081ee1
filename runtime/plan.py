"""What a model is: its image format, token geometry, stages, codecs and files, as checked records.

Records only, standard library only: the daemon's protocol shell computes payload sizes from them without loading
numpy or onnxruntime. `runtime.manifest` builds them from a manifest's bytes; nothing else should construct them by hand
outside tests.

Letters used for shapes throughout the runtime: B batch, T content tokens of this board, R content tokens of all other
boards, D width, C labels, L blocks. The class token is row 0 of a board's tokens: tensors of own tokens have 1+T rows.
"""

from dataclasses import dataclass
from enum import Enum

FORMAT = 1  # the only manifest format this version reads


class DType(Enum):
    """Element types that cross a stage boundary; the values are numpy's names."""

    U8 = "uint8"
    I32 = "int32"
    I64 = "int64"
    F32 = "float32"


class Interpolation(Enum):
    """How a picture is scaled to the model's input size."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


class CodecKind(Enum):
    """How token codes are made; see `runtime.codec` for each payload's layout."""

    F32 = "f32"
    F16 = "f16"
    INT8 = "int8"
    INT4 = "int4"
    CODEBOOK = "codebook"
    TRANSFORM = "transform"


class Source(Enum):
    """Which tensor of a block is encoded, content tokens only."""

    KV = "kv"  # K then V, width 2D (ASTRA's language-model variant)
    INPUT = "input"  # the block's input, width D (ASTRA's image models, Voltage)
    NORMED = "normed"  # after the first LayerNorm, width D: decodes to K and V by exact look-up tables


class Yields(Enum):
    """What decoding returns: ready keys and values, or block inputs that `project.l` still has to turn into them."""

    KV = "kv"
    INPUT = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph; a dimension is a number, or a letter where it varies."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One ONNX graph of the model; `file` lies directly in the model folder."""

    name: str
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBound:
    """How far decoded values may be off: an exact bound for fixed codecs, a calibrated one for learned codecs."""

    kind: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """One codec of a model. Fields that a kind does not use are zero or empty."""

    name: str
    kind: CodecKind
    source: Source
    yields: Yields
    width: int  # of the source tensor: 2D for kv, D otherwise
    group: int = 0  # int8, int4: values that share one scale
    groups: int = 0  # codebook: indices per token
    codes: int = 0  # codebook: entries per codebook
    bits: tuple[tuple[int, ...], ...] = ()  # transform: [block][component]; a silent block has none
    encode: tuple[str, ...] = ()  # codebook, transform: graph file per block that is not silent
    decode: tuple[str, ...] = ()
    attend: tuple[str, ...] = ()  # transform that yields kv, optional: blocks that take its indices instead of K and V
    state: int = 0  # values per token that its graphs pass on from block to block; 0: every block is coded on its own
    start: str = ""  # with a state: graph file that turns places of tokens into the state before the first block
    absent: bool = False  # with a state: its graphs take an index that no bits can hold for codes that stayed out
    points_lost: tuple[tuple[int, float], ...] = ()  # accuracy: (boards, percentage points), by rising boards
    error: ErrorBound

    def index_bits(self, block: int) -> tuple[int, ...]:
        """Bits of each index of one token in `block`; empty for codecs that send values instead of indices."""
        if self.kind is CodecKind.CODEBOOK:
            return (max(1, (self.codes - 1).bit_length()),) * self.groups
        return self.bits[block] if self.kind is CodecKind.TRANSFORM else ()

    def absent_index(self, block: int) -> int:
        """What stands in every place for codes of `block` that stayed out."""
        return 1 << max(self.index_bits(block), default=0)

    def silent(self, block: int) -> bool:
        """Whether nobody sends anything before `block`: what was sent before foretells its keys and values."""
        return bool(self.bits) and not self.bits[block]

    def bits_per_token(self, block: int) -> int:
        """Payload bits that one content token costs in `block`, before padding to whole bytes."""
        match self.kind:
            case CodecKind.F32:
                return 32 * self.width
            case CodecKind.F16:
                return 16 * self.width
            case CodecKind.INT8:
                return 8 * self.width + 16 * (self.width // self.group)
            case CodecKind.INT4:
                return 4 * self.width + 16 * (self.width // self.group)
            case CodecKind.CODEBOOK | CodecKind.TRANSFORM:
                return sum(self.index_bits(block))

    def payload_bytes(self, block: int, tokens: int, batch: int) -> int:
        """Exact payload size of `tokens` content tokens of each of `batch` pictures; padding only at the very end."""
        return (batch * tokens * self.bits_per_token(block) + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """How a picture becomes pixels: shorter side scaled to `resize`, centre crop. The graphs hold `mean` and `std`."""

    height: int
    width: int
    resize: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The token grid and the Transformer's size. `row_bytes` = 3 patch², the pixels of one token."""

    tokens: int
    patch: int
    row_bytes: int
    width: int
    heads: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file of the folder with its SHA-256 (hex) and size."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the weights come from; free text for people."""

    weights: str
    command: str
    source: str
    tools: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """A checked manifest. `model_id` is the SHA-256 of the manifest's bytes, so it covers every file's digest too."""

    model_id: str
    name: str
    task: str
    labels: tuple[str, ...]
    provenance: Provenance
    image: ImageSpec
    geometry: Geometry
    stages: tuple[StageSpec, ...]
    codecs: tuple[CodecSpec, ...]
    default_codec: str
    files: tuple[FileSpec, ...]

    def stage(self, name: str) -> StageSpec | None:
        """The stage called `name`, if the model has it."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def codec(self, name: str) -> CodecSpec | None:
        """The codec called `name`, if the model has it."""
        return next((codec for codec in self.codecs if codec.name == name), None)

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files together: the upper bound for what one copy of the weights occupies."""
        return sum(file.size_bytes for file in self.files)
