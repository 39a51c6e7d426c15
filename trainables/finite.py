"""What ends an attempt at training: a number that is infinite or not a number."""

import math
from collections.abc import Mapping


class NonFiniteError(RuntimeError):
    """An optimiser step after which the weights cannot be trusted.

    Args:
        step: Optimiser steps done before it. Weights of any smaller number of steps are good;
            those of this number lead here.
        found: What the step found, by name: the terms of the loss, the gradients' norm.
    """

    def __init__(self, step: int, found: Mapping[str, float]) -> None:
        super().__init__(step, dict(found))  # What it takes to pickle it.
        self.step = step
        self.found = dict(found)

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in self.found.items())
        return f"not finite after {self.step} optimiser steps: {values}"


def require_finite(step: int, found: Mapping[str, float]) -> None:
    """Check the numbers that optimiser step `step`, counted from 0, has found.

    Raises:
        NonFiniteError: If one of them is infinite or not a number.
    """
    if not all(map(math.isfinite, found.values())):
        raise NonFiniteError(step, found)
