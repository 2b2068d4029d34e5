"""What calibration knows of the inputs of a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.frozen import frozen

Floats = npt.NDArray[np.float32]


@frozen
class Statistics:
    """Second moments of the inputs of one matrix (n, k), or of one expert's.

    ``gram`` float32 (k, k): sum x_q x_q^T / tokens, x_q being what reaches the matrix when all before it is quantized.
    ``cross`` float32 (k, k): sum x_f x_q^T / tokens, x_f being what reaches it in the float model; None where only one
    stream was run. ``tokens``: how many were seen. ``output`` float32 (n, n): the second factor of a loss-aware
    Hessian, by rows of the matrix, or None.
    """

    gram: Floats
    cross: Floats | None
    tokens: int
    output: Floats | None = None
