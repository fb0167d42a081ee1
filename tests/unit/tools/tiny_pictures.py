"""Pictures that a tiny network can tell apart, as folders."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 40, 200), "green": (40, 200, 60), "red": (210, 30, 40)}


def write_pictures(folder: Path, *, per_class: int = 12, classes: int = 3, side: int = 32) -> Path:
    """`folder/CLASS/N.png`, noise around a colour of the class."""
    rng = np.random.default_rng(4)
    for name, colour in list(COLOURS.items())[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(rng.normal(colour, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
