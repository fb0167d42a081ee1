"""Pictures cut into patch rows: the layout in which a model takes its tokens."""

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


def patch_rows(images: U8, patch: int) -> U8:
    """Images [n, H, W, 3] -> patch rows [n, tokens, patch*patch*3]: raster order, bytes in (row, column, channel)."""
    n, height, width, channels = images.shape
    grid = images.reshape(n, height // patch, patch, width // patch, patch, channels)
    return np.ascontiguousarray(grid.transpose(0, 1, 3, 2, 4, 5)).reshape(n, -1, patch * patch * channels)
