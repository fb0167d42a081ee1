"""A dataclass of parameters as command line flags."""

import argparse
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import torch

Parameters = TypeVar("Parameters")


def add_flags(parser: argparse.ArgumentParser, kind: type[Any]) -> None:  # Any: a dataclass
    """One flag per field, with the field's default; tuples are written with commas."""
    for field in fields(kind):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            element = type(default[0])
            parser.add_argument(flag, type=partial(_parts, element), default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)


def _parts(element: type[Any], text: str) -> tuple[Any, ...]:  # Any: the element type of a field
    return tuple(element(part) for part in text.split(","))


def from_flags(kind: type[Parameters], options: argparse.Namespace) -> Parameters:
    """The dataclass from parsed flags."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
