"""What soft merging methods share: a fixed number of outputs, each a weighted sum of tokens."""

from abc import abstractmethod

from torch import Tensor

from reduction.plan import Mix, Plan
from reduction.stage import Stage, StageSpec
from reduction.tokens import Tokens, at_least_float32, without_autocast


class SoftMerging(Stage):
    """Maps any number of tokens to as many outputs as the target at the host's own size."""

    family = "soft"
    patterns = ("groups",)
    shaped_by_count = True

    def __init__(self, spec: StageSpec) -> None:
        super().__init__(spec)
        self.num_outputs = spec.target(spec.num_patches)

    def prepare(self, x: Tensor) -> Tensor:
        """Return what is summed, and looked at for the weights, for tokens x [B, N, C]."""
        return x

    @abstractmethod
    def weights(self, x: Tensor) -> Tensor:
        """Return the weights [B, K, N] of the prepared tokens x [B, N, C]."""

    def before_block(self, tokens: Tokens) -> Plan:
        """Replace the tokens by weighted sums of them."""
        x = self.prepare(tokens.patches)
        return Mix(weights=self.weights(x), source=x)

    def acts(self, tokens: Tokens) -> bool:
        """Return True: the sums are not the tokens, however many there are."""
        return True

    def count(self, incoming: int) -> int:
        """Return the number of outputs, whatever comes in."""
        return self.num_outputs


def similarities(queries: Tensor, x: Tensor) -> Tensor:
    """Return the dot products [B, K, N] of queries [K, C] with tokens x [B, N, C].

    Out of autocast, at least float32: rounded to bfloat16, exponentials of them are off by tenths.
    """
    with without_autocast(x):
        return at_least_float32(queries) @ at_least_float32(x).mT
