"""Array types of the runtime; shapes stand in a comment or docstring where an array is made."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
U8: TypeAlias = npt.NDArray[np.uint8]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = F32 | U8 | I32 | I64
