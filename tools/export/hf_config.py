"""config.json and preprocessor_config.json of a Hugging Face ViT -> shape, labels, image rule.

Keys that are missing have the library's defaults (transformers, ViTConfig and ViTImageProcessor).
"""

from collections.abc import Mapping
from typing import Any

from runtime.errors import one_line
from tools.export.failure import BadInput, NoSuchModel
from tools.export.manifest import ImageRule
from tools.export.weights import Activation, VitShape

Json = Mapping[str, Any]  # Any: the values of a JSON document
HALF = (0.5, 0.5, 0.5)
FAMILIES = ("vit", "deit")
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_python_tanh": Activation.GELU_TANH,
    "quick_gelu": Activation.QUICK_GELU,
    "relu": Activation.RELU,
}
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def check_family(config: Json) -> str:
    """The model family if it can be taken. Raises NoSuchModel for every other architecture."""
    family, names = config.get("model_type"), config.get("architectures") or []
    if family not in FAMILIES:
        what = one_line(family or (names[0] if isinstance(names, list) and names else "no model type"), 40)
        raise NoSuchModel(f"this is a checkpoint of another architecture ({what})", "only ViT and DeiT are taken")
    return str(family)


def read_shape(config: Json) -> VitShape:
    """Sizes of the network. Raises BadInput, or NoSuchModel for a variant that the stages do not reproduce."""
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise NoSuchModel(
            f"the activation {one_line(activation, 40)} is not supported", f"one of {', '.join(_ACTIVATIONS)} is"
        )
    if config.get("num_channels", 3) != 3:
        raise NoSuchModel("the network does not take colour pictures", "only 3 channels are taken")
    shape = VitShape(
        image=_side(config, "image_size", 224),
        patch=_side(config, "patch_size", 16),
        width=_count(config, "hidden_size", 768),
        heads=_count(config, "num_attention_heads", 12),
        blocks=_count(config, "num_hidden_layers", 12),
        mlp=_count(config, "intermediate_size", 3072),
        classes=len(read_labels(config)),
        eps=_number(config.get("layer_norm_eps", 1e-12), "layer_norm_eps"),
        activation=_ACTIVATIONS[activation],
    )
    if shape.image % shape.patch or shape.width % shape.heads:
        raise BadInput(
            f"config.json: {shape.image} pixels / {shape.patch}, or width {shape.width} / {shape.heads} heads",
            "both must divide without a rest",
        )
    return shape


def read_labels(config: Json) -> list[str]:
    """Names of the classes in the order of the logits."""
    table = config.get("id2label")
    if table is None:
        return [f"LABEL_{number}" for number in range(_count(config, "num_labels", 2))]
    if not isinstance(table, Mapping) or {str(key) for key in table} != {str(n) for n in range(len(table))}:
        raise BadInput("config.json: id2label does not number the classes 0, 1, 2, ...", "correct it")
    by_number = {int(key): one_line(value, 256) for key, value in table.items()}
    return [by_number[number] for number in range(len(by_number))]


def read_image_rule(config: Json, processor: Json, image: int) -> ImageRule:
    """How pictures are prepared; the processor's file wins over image_mean and image_std of config.json.

    A processor that squeezes pictures into a square without cropping (ViT's) becomes shorter side, then centred crop:
    the same for square pictures.
    """
    known = {**config, **processor}
    if not known.get("do_rescale", True) or abs(known.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise NoSuchModel("preprocessor_config.json does not scale pixels to 0..1", "only a factor of 1/255 is taken")
    normalised = known.get("do_normalize", True)
    mean = _three(known.get("image_mean", HALF), "image_mean") if normalised else (0.0, 0.0, 0.0)
    std = _three(known.get("image_std", HALF), "image_std") if normalised else (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise BadInput("preprocessor_config.json: image_std is not above zero", "correct it")
    crops = known.get("do_center_crop", "crop_size" in known)
    resize = _resize(known.get("size", image)) if crops and known.get("do_resize", True) else image
    resample = _RESAMPLING.get(known.get("resample", 2 if processor else 3), "bicubic")
    return ImageRule(resize=max(resize, image), mean=mean, std=std, interpolation=resample)


def _resize(size: object) -> int:
    """The shorter side from any of the forms that the library writes: 256, {"height": ...}, {"shortest_edge": ...}."""
    values = list(size.values()) if isinstance(size, Mapping) else [size]
    sides = [value for value in values if isinstance(value, int) and value > 0]
    if not sides:
        raise BadInput("preprocessor_config.json: the size is no number of pixels", "correct it")
    return min(sides)


def _side(config: Json, key: str, default: int) -> int:
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise NoSuchModel(
                f"config.json: {key} is {value[0]}x{value[1]}", "only square pictures and patches are taken"
            )
        value = value[0]
    return _count({key: value}, key, default)


def _count(config: Json, key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise BadInput(f"config.json: {key} is no positive number", "correct it")
    return value


def _number(value: object, key: str) -> float:
    if type(value) not in (int, float) or not 0 <= float(str(value)) < 1:
        raise BadInput(f"config.json: {key} is no number between 0 and 1", "correct it")
    return float(str(value))


def _three(value: object, key: str) -> tuple[float, float, float]:
    sequence = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    if len(sequence) != 3 or any(type(item) not in (int, float) for item in sequence):
        raise BadInput(f"{key} does not hold three numbers", "correct it")
    return float(sequence[0]), float(sequence[1]), float(sequence[2])
