"""The baseline: no reduction at all."""

from reduction.stage import Stage


class Unreduced(Stage):
    """Leaves everything as it is; its trace has the CLS features at the same blocks."""

    family = "baseline"
    citation = "Touvron et al., Training data-efficient image transformers, ICML 2021"
    patterns = ()
    fixed_budget = False

    def count(self, incoming: int) -> int:
        """Return `incoming`."""
        return incoming
