"""PatchMerger: learnt queries gather the tokens they resemble."""

import torch
from torch import Tensor, nn

from reduction.methods.soft import SoftMerging, similarities
from reduction.stage import Count, HostBlock, StageSpec


class PatchMerger(SoftMerging):
    """Replaces the tokens by weighted sums of the normalised ones, one for each query."""

    citation = "Renggli et al., Learning to Merge Tokens in Vision Transformers, 2022"

    def __init__(self, spec: StageSpec, *, scaled: bool = False) -> None:
        """Set up the stage; `scaled` divides similarities by the square root of the channels."""
        super().__init__(spec)
        self.norm = nn.LayerNorm(spec.dim)
        self.queries = nn.Parameter(torch.randn(self.num_outputs, spec.dim))
        self.scale = spec.dim**-0.5 if scaled else 1.0

    def prepare(self, x: Tensor) -> Tensor:
        """Normalise the tokens."""
        return self.norm(x)

    def weights(self, x: Tensor) -> Tensor:
        """Return the softmax over the tokens of the queries' similarities."""
        return similarities(self.scale * self.queries, x).softmax(dim=-1)

    def no_weight_decay(self) -> set[str]:
        """Name the queries."""
        return {"queries"}

    def macs(self, incoming: Count, left: Count, block: HostBlock) -> Count:
        """Return the cost of the similarities and of the sums."""
        return 2 * incoming * left * self.spec.dim
