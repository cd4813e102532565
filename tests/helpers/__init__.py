"""What tests of several areas share."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sps

KEY = {"library_key": "library_id"}


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)
