"""Types that many modules of the analysis share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
"""Column -> value, of one row of a table."""
Floats = NDArray[np.float64]

Trace = dict[str, Any]
"""A trace of a figure, or a part of one, as plotly's JSON has it."""
